"""A quantised network to the same network with trained integers, proved to be what ran: what `convert` calls.

`Retraining` trains once, or down a ladder of budgets of synaptic operations, each rung from where the one above ended.
Every rung has a folder with its state after the last finished epoch, so that a run that was stopped can go on.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from avsnn.convert.finetune_data import Samples, graph_teacher, module_teacher
from avsnn.convert.finetune_loop import STATE, Options, Problem, Row, Tuner
from avsnn.convert.finetune_proof import compare
from avsnn.convert.finetune_start import Start, describe, start
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array
from avsnn.convert.passes.quantise import Scale
from avsnn.convert.tuning import Tuned, Untuned
from avsnn.errors import InputError

COMPARED = 8  # samples of each kind on which the trained network is compared with its integers


@dataclass(frozen=True, kw_only=True, eq=False)
class Rung:
    """A network of one budget."""

    budget: float
    graph: Graph


@dataclass(kw_only=True, eq=False)
class Retraining:
    """Fine-tuning as `avsnn.convert.pipeline.convert` calls it, once.

    Attributes:
        train: samples to learn from.
        val: samples to watch.
        classes: outputs that are scores of classes; those behind them are directions.
        options: how.
        folder: for the state of the run; made if it is not there.
        resume: go on with what the folder holds; else it must hold nothing.
        ladder: budgets to train for before the one of the options, largest first.
        source: what the record says about the samples.
        on_epoch: called with each new epoch's metrics.
        on_batch: called with (updates done, updates of the epoch).
        rungs: filled by the call, the network of each budget, the last one deployed.
    """

    train: Samples
    val: Samples
    classes: int
    options: Options
    folder: Path
    resume: bool = False
    ladder: tuple[float, ...] = ()
    source: Mapping[str, Any] = field(default_factory=dict)
    on_epoch: Callable[[Row], None] = lambda _row: None
    on_batch: Callable[[int, int], None] | None = None
    rungs: list[Rung] = field(default_factory=list)

    def __call__(self, untuned: Untuned) -> Tuned:
        """Train, prove, describe.

        Raises:
            InputError: the folder holds another run, or a budget that is above the one before.
            CheckpointError: the state of a run that cannot be read.
            VerifyError: what was trained is not what is deployed.
        """
        problem = self._problem(untuned)
        budgets = (*self.ladder, self.options.sop_budget)
        if list(budgets) != sorted(budgets, reverse=True):
            raise InputError("budgets must fall", where="fine-tuning", found=budgets)
        rows, whole = list[Row](), None
        tuner: Tuner | None = None
        for budget in budgets:
            above = tuner
            tuner = Tuner(problem, replace(self.options, sop_budget=budget), whole=whole)
            self._train(tuner, above)
            whole = whole or tuner.before["operations"]
            rows += [{"budget": budget, **row} for row in tuner.rows]
            graph = tuner.net.integers()
            self.rungs.append(Rung(budget=budget, graph=graph))
        assert tuner is not None
        checks = tuple(compare(tuner.net, _few(graph, x), kind) for kind, x in untuned.data.items())
        record = {
            "options": {name: value for name, value in asdict(self.options).items() if name != "device"},
            "samples": {**self.source, "train": len(self.train), "val": len(self.val)},
            "start": describe(problem.begun),
            "before": tuner.before if len(budgets) == 1 else {"operations": whole},
            "epochs": [{name: value for name, value in row.items() if name != "seconds"} for row in rows],
        }
        return Tuned(graph=graph, scales=moved_scales(problem.begun, graph), checks=checks, record=record)

    def _problem(self, untuned: Untuned) -> Problem:
        module = untuned.module
        teacher = graph_teacher(untuned.folded) if module is None else module_teacher(copy.deepcopy(module).float())
        return Problem(
            begun=begin(untuned),
            target=untuned.target,
            classes=self.classes,
            train=self.train,
            val=self.val,
            teacher=teacher,
        )

    def _train(self, tuner: Tuner, above: Tuner | None) -> None:
        folder = self.folder / f"budget-{tuner.options.sop_budget:g}"
        there = (folder / STATE).exists()
        if there and not self.resume:
            raise InputError("already holds a run", where=str(folder), remedy="pass --resume, or remove it")
        folder.mkdir(parents=True, exist_ok=True)
        if there:
            tuner.load_state(folder)
        elif above is not None:
            tuner.net.load_state_dict(above.net.state_dict())
        while not tuner.finished:
            row = tuner.run_epoch(self.on_batch)
            tuner.save_state(folder)
            self.on_epoch({"budget": tuner.options.sop_budget, **row})


def begin(untuned: Untuned) -> Start:
    """Return where training starts on the target of ``untuned``."""
    formats = untuned.profile.formats
    granularity = "population" if formats is None else formats.threshold_granularity
    return start(untuned.folded, untuned.quantised, untuned.scales, untuned.target, granularity=granularity)


def moved_scales(begun: Start, graph: Graph) -> tuple[Scale, ...]:
    """Return the scales of populations whose thresholds may have moved: the real one stays ``(h + tie) / S``."""
    found = []
    for scale in begun.scales:
        before, after = (getattr(each[scale.population], "threshold_mant", 0) for each in (begun.graph, graph))
        moved = 1.0 if np.ndim(before) else (after + scale.tie) / (before + scale.tie) if before != after else 1.0
        found.append(replace(scale, scale=scale.scale * moved))
    return tuple(found)


def _few(graph: Graph, inputs: Mapping[str, Array]) -> dict[str, Array]:
    coding = {node.name: getattr(node, "coding", "direct") for node in graph if not node.inputs}
    return {name: x[:COMPARED] if coding[name] == "direct" else x[:, :COMPARED] for name, x in inputs.items()}
