"""A module and training samples to a trained module, epoch by epoch, each one resumable to the bit.

AdamW with weight decay on matrices only, one learning-rate cycle over the whole run (Smith & Topin, 2017), and
cross-entropy with label smoothing. Everything that is random follows from the seed and the epoch, so that a run that
was killed and resumed ends, on one machine and with one number of threads, with the bits of one that was not.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from avsnn.archive import replace_file
from avsnn.errors import CheckpointError, InputError
from avsnn.train.metrics import evaluate

Row = dict[str, Any]
"""One epoch's metrics, JSON values."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to train.

    Attributes:
        epochs: passes over the training samples.
        batch: samples per update; what is left over at the end of an epoch is dropped.
        lr: highest learning rate of the cycle.
        weight_decay: of AdamW, on parameters of two and more dimensions.
        label_smoothing: of the cross-entropy.
        shift: each training sample is moved by up to so many pixels (bands, frames) per axis.
        seed: of initial weights, order and shifts.
    """

    epochs: int = 12
    batch: int = 32
    lr: float = 1e-2
    weight_decay: float = 1e-2
    label_smoothing: float = 0.1
    shift: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, lowest in (("epochs", 1), ("batch", 2), ("shift", 0), ("seed", 0), ("weight_decay", 0)):
            if getattr(self, name) < lowest:
                raise InputError("is too small", where=name, found=getattr(self, name), limit=lowest)
        if not self.lr > 0:
            raise InputError("must be positive", where="lr", found=self.lr)
        if not 0 <= self.label_smoothing < 1:
            raise InputError("is not a share", where="label_smoothing", found=self.label_smoothing, limit="0 to 1")


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """Inputs (n, *shape) by parameter name of ``forward``, and labels (n,)."""

    inputs: Mapping[str, Tensor]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


class Trainer:
    """The state of a run: module, optimiser, schedule, finished epochs and their metrics.

    Args:
        module: trained in place.
        train: samples to learn from.
        val: samples to watch, never to learn from.
        options: how.

    Raises:
        InputError: fewer training samples than one batch.
    """

    def __init__(self, module: nn.Module, train: Samples, val: Samples, options: Options) -> None:
        self.module, self.train, self.val, self.options = module, train, val, options
        self.rows: list[Row] = []
        self._updates = len(train) // options.batch
        if not self._updates:
            raise InputError("is larger than the training set", where="batch", found=options.batch, limit=len(train))
        matrices = [p for p in module.parameters() if p.ndim > 1]
        vectors = [p for p in module.parameters() if p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": options.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self._optimiser = torch.optim.AdamW(groups, lr=options.lr)
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimiser, max_lr=options.lr, total_steps=options.epochs * self._updates
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
        rng = torch.Generator().manual_seed(self.options.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.train), generator=rng)
        loss_sum, correct, batch = 0.0, 0, self.options.batch
        self.module.train()
        for update in range(self._updates):
            loss, hits = self._update(order[update * batch : (update + 1) * batch], rng)
            loss_sum, correct = loss_sum + loss, correct + hits
            if on_batch is not None:
                on_batch(update + 1, self._updates)
        seen = evaluate(self.module, self.val.inputs, self.val.labels)
        row: Row = {
            "epoch": epoch + 1,
            "loss": loss_sum / self._updates,
            "train_accuracy": correct / (self._updates * batch),
            "val_loss": seen.loss,
            "val_accuracy": seen.accuracy.value,
            "rates": seen.rates,
            "lr": float(self._optimiser.param_groups[0]["lr"]),
            "seconds": round(time.perf_counter() - began, 3),
        }
        self.rows.append(row)
        return row

    def _update(self, chosen: Tensor, rng: torch.Generator) -> tuple[float, int]:
        """One step of the optimiser; returns loss and hits of the batch."""
        labels = self.train.labels[chosen]
        inputs = {name: _shifted(x[chosen], self.options.shift, rng) for name, x in self.train.inputs.items()}
        scores = self.module(**inputs)
        loss = functional.cross_entropy(scores, labels, label_smoothing=self.options.label_smoothing)
        if not torch.isfinite(loss):
            raise InputError("the loss is no longer finite", where="training", found=loss.item(), remedy="lower lr")
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        self._schedule.step()
        return loss.item(), int((scores.argmax(1) == labels).sum())

    def save_state(self, path: Path) -> None:
        """Write everything needed to go on after the last finished epoch, at once or not at all."""
        state = {
            "module": self.module.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "schedule": self._schedule.state_dict(),
            "rows": self.rows,
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
            self.rows = list(state["rows"])
        except Exception as error:  # torch raises many kinds on damage; all mean the same to the user
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"cannot resume ({reason})", where=str(path), remedy="start a new run") from error


def _shifted(x: Tensor, most: int, rng: torch.Generator) -> Tensor:
    """Return ``x`` (B, C, H, W) with every sample moved by -most..most pixels per axis, edges repeated."""
    if not most:
        return x
    height, width = x.shape[-2:]
    moves = torch.randint(-most, most + 1, (2, len(x), 1), generator=rng)
    rows = (torch.arange(height) + moves[0]).clamp_(0, height - 1)
    columns = (torch.arange(width) + moves[1]).clamp_(0, width - 1)
    sample = torch.arange(len(x))[:, None, None]
    return x.movedim(1, -1)[sample, rows[:, :, None], columns[:, None, :]].movedim(-1, 1).contiguous()
