"""A quantised graph and labelled samples to the same graph with trained integers, epoch by epoch, each resumable.

The integers themselves are trained: forward, `avsnn.convert.finetune_graph.IntegerNet` computes what the deployed
network will, bit for bit; backward, rounding is passed over and spikes have a surrogate's slope. The real network is
the teacher. Everything random follows from the seed and the epoch, so a run that was stopped ends, on one machine, with
the bits of one that was not.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from avsnn.archive import replace_file
from avsnn.convert.finetune_data import Samples, Teacher, batch_axes, blended, taught
from avsnn.convert.finetune_graph import IntegerNet, tensors
from avsnn.convert.finetune_loss import TunedLoss, best_temperature
from avsnn.convert.finetune_operations import fanouts
from avsnn.convert.finetune_start import Start
from avsnn.convert.ir.fixed_interpreter import to_integers
from avsnn.convert.ir.node import Array
from avsnn.convert.passes.integer_formats import Target
from avsnn.errors import CheckpointError, InputError
from avsnn.train.metrics import right_answers
from avsnn.train.schedules import learning_rate

Row = dict[str, Any]
STATE, METRICS = "last.pt", "metrics.jsonl"
EVALUATED_AT_ONCE = 100
RAMP = 0.5  # of the run, until a budget of operations is asked for in full
PRESSURE = 4.0  # of the loss per budget that is exceeded once more


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to fine-tune.

    Attributes:
        epochs: passes over the samples.
        batch: samples per update; what is left over at the end of an epoch is dropped.
        lr: highest learning rate, in units of each layer's largest weight and of each threshold.
        teacher: share of the real network's answers in the loss; the labels have the rest.
        surrogate: slope of a spike, a name in `avsnn.train.surrogates.SURROGATES`.
        sop_budget: synaptic operations per sample that are allowed, as a share of those at the start; 1 is no limit.
        device: ``"cpu"`` or ``"cuda"``.
        seed: of the order of samples.
    """

    epochs: int = 4
    batch: int = 32
    lr: float = 1e-3
    teacher: float = 1.0
    surrogate: str = "atan"
    sop_budget: float = 1.0
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise InputError("is too small", where=name, found=getattr(self, name), limit=least)
        if not self.lr > 0:
            raise InputError("must be positive", where="lr", found=self.lr)
        for name in ("teacher", "sop_budget"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError("is not a share", where=name, found=getattr(self, name), limit="0 to 1")
        if not self.sop_budget:
            raise InputError("a network without operations answers nothing", where="sop_budget", found=0)
        if self.device == "cuda" and not torch.cuda.is_available():
            raise InputError("torch sees no GPU", where="device", found="cuda", remedy="use the cpu")


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """What is fine-tuned on what.

    Attributes:
        begun: where it starts.
        target: formats.
        classes: outputs that are scores of classes.
        train: samples to learn from.
        val: samples to watch.
        teacher: the real network.
    """

    begun: Start
    target: Target
    classes: int
    train: Samples
    val: Samples
    teacher: Teacher

    @cached_property
    def taught(self) -> Array:
        """What the real network answers to the samples to learn from, (N, K)."""
        return taught(self.teacher, self.train)


class Tuner:
    """The state of a run: integers in training, optimiser, finished epochs and their metrics.

    Args:
        problem: what is trained on what.
        options: how.
        whole: operations per sample that a budget is a share of; those at the start if None.

    Raises:
        InputError: fewer samples than one batch.
    """

    def __init__(self, problem: Problem, options: Options, *, whole: float | None = None) -> None:
        self.problem, self.options, self.whole = problem, options, whole
        begun = problem.begun
        shifts = {scale.population: scale.shift for scale in begun.scales}
        net = IntegerNet(
            begun.graph,
            problem.target,
            starts=begun.mantissas,
            shifts=shifts,
            surrogate=options.surrogate,
            rates=options.sop_budget < 1,
        )
        self.net = net.to(options.device)
        self.rows: list[Row] = []
        self._updates = len(problem.train) // options.batch
        if not self._updates:
            what, limit = "is larger than the training set", len(problem.train)
            raise InputError(what, where="batch", found=options.batch, limit=limit)
        trained = [p for p in self.net.parameters() if p.requires_grad]
        self._optimiser = torch.optim.Adam(trained, lr=options.lr)
        self._answer = begun.graph.outputs[0]
        readout = begun.graph[self._answer]
        self._scale = float(readout.scale)  # type: ignore[attr-defined]
        self._fanouts = fanouts(self.net)
        self._loss: TunedLoss | None = None
        self.before: Row = {}

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return len(self.rows) >= self.options.epochs

    def prepare(self) -> None:
        """Ask the teacher about all samples, and measure the start on the validation samples."""
        problem = self.problem
        label = problem.train.targets(np.arange(len(problem.train)))["label"]
        temperature = best_temperature(problem.taught[:, : problem.classes], label)
        self._loss = TunedLoss(classes=problem.classes, temperature=temperature, teacher=self.options.teacher)
        if not self.before:
            real = taught(problem.teacher, problem.val)
            goals = problem.val.targets(np.arange(len(problem.val)))
            right = right_answers(real, problem.classes, goals["label"], goals.get("azimuth"))
            self.before = {"teacher_accuracy": float(right.mean()), **self.measure(), "temperature": temperature}

    def measure(self) -> Row:
        """Return accuracy and synaptic operations per sample on the validation samples."""
        scores, operations, count = [], 0.0, len(self.problem.val)
        with torch.no_grad():
            for begin in range(0, count, EVALUATED_AT_ONCE):
                chosen = np.arange(begin, min(begin + EVALUATED_AT_ONCE, count))
                found = self.net(self._integers(self.problem.val.values(chosen)), operations=self._fanouts)
                operations += float(found.operations) * len(chosen)
                scores.append(found.raw[self._answer].cpu().numpy() * self._scale)
        goals = self.problem.val.targets(np.arange(count))
        right = right_answers(np.concatenate(scores), self.problem.classes, goals["label"], goals.get("azimuth"))
        return {"val_accuracy": float(right.mean()), "operations": operations / count}

    def run_epoch(self, on_batch: Callable[[int, int], None] | None = None) -> Row:
        """Do one epoch and return its metrics.

        Raises:
            InputError: the loss is no longer finite.
        """
        if self._loss is None:
            self.prepare()
        began, epoch, options = time.perf_counter(), len(self.rows), self.options
        rng = np.random.default_rng([options.seed, epoch])
        order, loss = rng.permutation(len(self.problem.train)), 0.0
        for update in range(self._updates):
            chosen = order[update * options.batch : (update + 1) * options.batch]
            loss += self._update(chosen, epoch + update / self._updates, rng)
            if on_batch is not None:
                on_batch(update + 1, self._updates)
        row = {"epoch": epoch + 1, "loss": loss / self._updates, **self.measure()}
        self.rows.append({**row, "seconds": round(time.perf_counter() - began, 3)})
        return self.rows[-1]

    def _update(self, chosen: Array, epoch: float, rng: np.random.Generator) -> float:
        assert self._loss is not None
        options = self.options
        limited = options.sop_budget < 1
        values, said, told = self.problem.train.values(chosen), self.problem.taught[chosen], len(chosen)
        if limited:
            told = len(chosen) - len(chosen) // 2
            values, said = self._half_blended(values, said, told, rng)
        fanouts = self._fanouts if limited else None
        found = self.net(self._integers(values), operations=fanouts, counted=told)
        answers = (found.raw[self._answer] * self._scale).float()
        goals = {
            name: torch.from_numpy(x).to(answers.device)
            for name, x in self.problem.train.targets(chosen[:told]).items()
        }
        loss = self._loss(answers, torch.from_numpy(said).to(answers), goals)
        if limited:
            loss = loss + self._pressure(found.operations, epoch)
        if not torch.isfinite(loss):
            raise InputError("the loss is no longer finite", where="fine-tuning", found=loss.item(), remedy="lower lr")
        for group in self._optimiser.param_groups:
            group["lr"] = learning_rate("cosine", epoch, epochs=options.epochs, lr=options.lr, warmup=0.1)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        self.net.project()
        return loss.item()

    def _pressure(self, operations: Tensor | float, epoch: float) -> Tensor:
        """What operations above the budget cost; the budget shrinks to its final size in the first part of a run."""
        assert isinstance(operations, Tensor)
        done = min(1.0, epoch / (RAMP * self.options.epochs))
        whole = self.whole or self.before["operations"]
        began = self.before["operations"] / whole
        budget = (began + done * (self.options.sop_budget - began)) * whole
        return PRESSURE * torch.relu(operations / budget - 1)

    def _half_blended(
        self, values: dict[str, Array], said: Array, told: int, rng: np.random.Generator
    ) -> tuple[dict[str, Array], Array]:
        """Inputs and the teacher's answers, from ``told`` on of blends: a sparse network must not fit samples alone."""
        axes = batch_axes(self.problem.begun.graph)
        blends = blended(values, told, axes, rng)
        kept = {name: np.take(x, np.arange(told), axis=axes[name]) for name, x in values.items()}
        both = {name: np.concatenate([x, blends[name]], axis=axes[name]) for name, x in kept.items()}
        return both, np.concatenate([said[:told], self.problem.teacher(blends).astype(np.float32)])

    def _integers(self, values: Mapping[str, Array]) -> dict[str, Tensor]:
        graph = self.problem.begun.graph
        return tensors(graph, to_integers(graph, values), self.options.device)

    def save_state(self, folder: Path) -> None:
        """Write everything needed to go on after the last finished epoch, at once or not at all."""
        state = {
            "net": self.net.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "rows": self.rows,
            "before": self.before,
            "options": asdict(self.options),
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        replace_file(folder / STATE, buffer.getvalue())
        lines = "".join(json.dumps(row) + "\n" for row in self.rows)
        replace_file(folder / METRICS, lines.encode())

    def load_state(self, folder: Path) -> None:
        """Go on from what `save_state` wrote; only tensors and plain values are read.

        Raises:
            CheckpointError: missing, damaged, of another network, or of a run with other options.
        """
        where = str(folder / STATE)
        try:
            state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
            options = {**state["options"], "device": self.options.device}
            if options != asdict(self.options):
                odd = ", ".join(name for name, value in asdict(self.options).items() if options.get(name) != value)
                raise CheckpointError("another run was stopped here", where=where, found=f"other {odd}")
            self.net.load_state_dict(state["net"])
            self.net.project()
            self._optimiser.load_state_dict(state["optimiser"])
            self.rows, self.before = list(state["rows"]), dict(state["before"])
        except CheckpointError:
            raise
        except Exception as error:  # torch raises many kinds on damage; all mean the same to the user
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"cannot resume ({reason})", where=where, remedy="start a new run") from error
