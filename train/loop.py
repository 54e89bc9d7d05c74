"""A module and training samples to a trained module, epoch by epoch, each one resumable to the bit.

Adam with weight decay on matrices only, a schedule of the learning rate, any loss of `avsnn.train.losses`. Everything
that is random follows from the seed and the epoch, so that a run that was killed and resumed ends, on one machine and
with one number of threads, with the bits of one that was not.
"""

from __future__ import annotations

import copy
import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from avsnn.archive import replace_file
from avsnn.errors import CheckpointError, InputError
from avsnn.train.data.dataset import Data
from avsnn.train.losses import CrossEntropy, Loss
from avsnn.train.metrics import Evaluation, evaluate
from avsnn.train.models.config import unknown_name
from avsnn.train.rates import RatePenalty, dead
from avsnn.train.samples import Batch, answers, batch_of, input_names, lay_out
from avsnn.train.schedules import SCHEDULES, make_schedule

Row = dict[str, Any]
"""One epoch's metrics, JSON values."""

OPTIMISERS: dict[str, type[torch.optim.Optimizer]] = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to train.

    Attributes:
        epochs: passes over the training samples.
        batch: samples per update; what is left over at the end of an epoch is dropped.
        lr: highest learning rate of the schedule.
        optimiser: ``"adamw"``, or ``"adam"``, where the decay is part of the gradient.
        weight_decay: on parameters of two and more dimensions.
        schedule: of the learning rate, a name in `avsnn.train.schedules.SCHEDULES`.
        warmup: epochs that the rate rises for; ``onecycle`` has its own.
        warmup_lr: where it begins.
        lr_min: where ``cosine`` ends.
        milestones: epochs after which ``multistep`` divides the rate by ten.
        shift: each training picture is moved by up to so many pixels (bands, frames) per axis.
        rate_target: spikes per neuron and step that every population is held near.
        rate_weight: of the mean squared distance from that rate, added to the loss; 0 is off.
        amp: compute in bfloat16 where that is safe; on a GPU only.
        seed: of initial weights, order, shifts and dropout.
    """

    epochs: int = 12
    batch: int = 32
    lr: float = 1e-2
    optimiser: str = "adamw"
    weight_decay: float = 1e-2
    schedule: str = "onecycle"
    warmup: float = 0.0
    warmup_lr: float = 1e-6
    lr_min: float = 0.0
    milestones: tuple[int, ...] = ()
    shift: int = 0
    rate_target: float = 0.1
    rate_weight: float = 0.0
    amp: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        lowest = {"epochs": 1, "batch": 2, "shift": 0, "seed": 0, "weight_decay": 0, "rate_weight": 0, "lr_min": 0}
        for name, least in {**lowest, "warmup": 0, "warmup_lr": 0}.items():
            if not getattr(self, name) >= least:
                raise InputError("is too small", where=name, found=getattr(self, name), limit=least)
        for name, known in (("optimiser", OPTIMISERS), ("schedule", dict.fromkeys(SCHEDULES))):
            if getattr(self, name) not in known:
                raise unknown_name(getattr(self, name), known, where=name)
        if not self.lr > 0:
            raise InputError("must be positive", where="lr", found=self.lr)
        if self.warmup and self.schedule == "onecycle":
            raise InputError("has its own warm-up", where="schedule onecycle", found=f"warmup {self.warmup:g}")
        if not 0 <= self.rate_target <= 1:
            raise InputError("is not a rate", where="rate_target", found=self.rate_target, limit="0 to 1")


class Trainer:
    """The state of a run: module, optimiser, schedule, finished epochs, their metrics, and the best module so far.

    Args:
        module: trained in place, and moved to ``device``.
        train: samples to learn from.
        val: samples to watch, never to learn from.
        options: how.
        loss: cross-entropy if None.
        device: where to compute.

    Raises:
        InputError: fewer training samples than one batch.
    """

    def __init__(
        self,
        module: nn.Module,
        train: Data,
        val: Data,
        options: Options,
        *,
        loss: Loss | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.module, self.train, self.val, self.options = lay_out(module.to(device)), train, val, options
        self.loss, self.device = CrossEntropy() if loss is None else loss, torch.device(device)
        self.rows: list[Row] = []
        self.best: dict[str, Any] = {}
        self._names, self._updates = input_names(module), len(train) // options.batch
        if not self._updates:
            raise InputError("is larger than the training set", where="batch", found=options.batch, limit=len(train))
        matrices = [p for p in module.parameters() if p.ndim > 1]
        vectors = [p for p in module.parameters() if p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": options.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self._optimiser = OPTIMISERS[options.optimiser](groups, lr=options.lr)  # type: ignore[call-arg]
        self._schedule = make_schedule(
            options.schedule,
            self._optimiser,
            updates=self._updates,
            epochs=options.epochs,
            lr=options.lr,
            warmup=options.warmup,
            warmup_lr=options.warmup_lr,
            lr_min=options.lr_min,
            milestones=options.milestones,
        )

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return len(self.rows) >= self.options.epochs

    def run_epoch(self, on_batch: Callable[[int, int], None] | None = None) -> Row:
        """Do one epoch and return its metrics.

        Args:
            on_batch: called with (updates done, updates of the epoch).

        Raises:
            InputError: the loss is no longer finite.
        """
        began, epoch = time.perf_counter(), len(self.rows)
        seed = self.options.seed * 1_000_003 + epoch
        torch.manual_seed(seed)  # of dropout
        rng = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self.train), generator=rng)
        loss_sum, correct, batch = 0.0, 0, self.options.batch
        self.module.train()
        for update in range(self._updates):
            loss, hits = self._update(order[update * batch : (update + 1) * batch], rng)
            loss_sum, correct = loss_sum + loss, correct + hits
            if on_batch is not None:
                on_batch(update + 1, self._updates)
        seen = evaluate(self.module, self.val, loss=self.loss, device=self.device)
        row: Row = {
            "epoch": epoch + 1,
            "loss": loss_sum / self._updates,
            "train_accuracy": correct / (self._updates * batch),
            **_described(seen),
            "lr": float(self._optimiser.param_groups[0]["lr"]),
            "seconds": round(time.perf_counter() - began, 3),
        }
        self.rows.append(row)
        standing = [seen.score.value, -seen.loss]  # of two equal scores the lower loss is better
        if not self.best or standing > self.best["standing"]:
            self.best = {"epoch": epoch + 1, "standing": standing, "module": copy.deepcopy(self.module.state_dict())}
        return row

    def _update(self, chosen: Tensor, rng: torch.Generator) -> tuple[float, int]:
        """One step of the optimiser; returns loss and hits of the batch."""
        batch = batch_of(self.train[chosen.numpy()], self._names)
        inputs = {name: shifted(x, self.options.shift, rng).to(self.device) for name, x in batch.inputs.items()}
        targets = {name: x.to(self.device) for name, x in batch.targets.items()}
        loss, hits = self._judge(Batch(inputs=inputs, targets=targets))
        if not torch.isfinite(loss):
            raise InputError("the loss is no longer finite", where="training", found=loss.item(), remedy="lower lr")
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        self._schedule.step()
        return loss.item(), hits

    def _judge(self, batch: Batch) -> tuple[Tensor, int]:
        """Loss and hits of a batch; the loss itself is computed in float32 whatever the module is."""
        wide = torch.autocast("cuda", torch.bfloat16, enabled=self.options.amp and self.device.type == "cuda")
        if not self.options.rate_weight:
            with wide:
                outputs = answers(self.module, batch.inputs)
            penalty: Tensor | float = 0.0
        else:
            with wide, RatePenalty(self.module, self.options.rate_target) as rates:
                outputs = answers(self.module, batch.inputs)
            penalty = self.options.rate_weight * rates.value()
        outputs = {name: x.float() for name, x in outputs.items()}
        hits = int((outputs["scores"].argmax(1) == batch.targets["label"]).sum())
        return self.loss(outputs, batch.targets) + penalty, hits

    def save_state(self, path: Path) -> None:
        """Write everything needed to go on after the last finished epoch, at once or not at all."""
        state = {
            "module": self.module.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "schedule": self._schedule.state_dict(),
            "rows": self.rows,
            "best": self.best,
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        replace_file(path, buffer.getvalue())

    def load_state(self, path: Path) -> None:
        """Go on from what `save_state` wrote; only tensors and plain values are read.

        Raises:
            CheckpointError: missing, damaged, or of another model.
        """
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            self.module.load_state_dict(state["module"])
            self._optimiser.load_state_dict(state["optimiser"])
            self._schedule.load_state_dict(state["schedule"])
            self.rows, self.best = list(state["rows"]), dict(state["best"])
        except Exception as error:  # torch raises many kinds on damage; all mean the same to the user
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"cannot resume ({reason})", where=str(path), remedy="start a new run") from error


def _described(seen: Evaluation) -> Row:
    """The part of a row that validation gives."""
    place = seen.localisation
    where = {} if place is None else {"val_mae_deg": place.mae_deg, "val_doa_accuracy": place.within.value}
    joint = {} if place is None else {"val_joint": place.joint.value}
    known: Row = {"val_loss": seen.loss, "val_accuracy": seen.accuracy.value, **where, **joint}
    return {**known, "rates": seen.rates, "dead": dead(seen.rates)}


def shifted(x: Tensor, most: int, rng: torch.Generator) -> Tensor:
    """Return ``x`` ((T,) B, C, H, W) with every sample moved by -most..most pixels per axis, edges repeated.

    Raises:
        InputError: something other than pictures is to be moved.
    """
    if not most:
        return x
    if x.ndim not in (4, 5):
        raise InputError("moves pictures, (B, C, H, W) or (T, B, C, H, W)", where="shift", found=tuple(x.shape))
    samples = x if x.ndim == 4 else x.movedim(0, 1).flatten(1, 2)  # all steps of a sample move together
    height, width = x.shape[-2:]
    moves = torch.randint(-most, most + 1, (2, len(samples), 1), generator=rng)
    rows = (torch.arange(height) + moves[0]).clamp_(0, height - 1)
    columns = (torch.arange(width) + moves[1]).clamp_(0, width - 1)
    which = torch.arange(len(samples))[:, None, None]
    moved = samples.movedim(1, -1)[which, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)
    return moved.contiguous() if x.ndim == 4 else moved.reshape(x.movedim(0, 1).shape).movedim(1, 0).contiguous()
