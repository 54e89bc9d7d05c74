"""An optimiser and a name to the learning rate of each update.

With e the epochs done so far, fractions included, E all of them, W those of the warm-up, and top, low, first the rates:

=============  =====================================================================================================
``onecycle``   up to top in the first 30 % of the run, then down to nothing; momentum the other way (Smith & Topin)
``cosine``     ``first + (top - first) e / W`` while e < W, then ``low + (top - low) (1 + cos(pi e / E)) / 2``
``multistep``  ``top / 10`` per milestone passed, after the same warm-up
``constant``   top, after the same warm-up
=============  =====================================================================================================

``cosine`` does not begin anew after the warm-up, as in timm, which S-CMRL's reference code trains with.
"""

from __future__ import annotations

import math

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

SCHEDULES = ("onecycle", "cosine", "multistep", "constant")
_STEP = 0.1


def learning_rate(
    name: str,
    epoch: float,
    *,
    epochs: int,
    lr: float,
    warmup: float = 0.0,
    warmup_lr: float = 0.0,
    lr_min: float = 0.0,
    milestones: tuple[int, ...] = (),
) -> float:
    """Return the rate at ``epoch`` (whole and fraction) of every schedule but ``onecycle``.

    >>> learning_rate("multistep", 4.5, epochs=10, lr=1.0, milestones=(2, 4, 6))
    0.010000000000000002
    """
    if epoch < warmup:
        return warmup_lr + (lr - warmup_lr) * epoch / warmup
    if name == "cosine":
        return lr_min + (lr - lr_min) * (1 + math.cos(math.pi * epoch / epochs)) / 2
    passed = sum(epoch >= milestone for milestone in milestones) if name == "multistep" else 0
    return lr * _STEP**passed


def make_schedule(
    name: str,
    optimiser: torch.optim.Optimizer,
    *,
    updates: int,
    epochs: int,
    lr: float,
    warmup: float = 0.0,
    warmup_lr: float = 0.0,
    lr_min: float = 0.0,
    milestones: tuple[int, ...] = (),
) -> LRScheduler:
    """Return the schedule called ``name``, stepped after each of the ``updates`` of an epoch."""
    if name == "onecycle":
        return OneCycleLR(optimiser, max_lr=lr, total_steps=epochs * updates)

    def factor(update: int) -> float:
        rate = learning_rate(
            name,
            update / updates,
            epochs=epochs,
            lr=lr,
            warmup=warmup,
            warmup_lr=warmup_lr,
            lr_min=lr_min,
            milestones=milestones,
        )
        return rate / lr

    return LambdaLR(optimiser, factor)
