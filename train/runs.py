"""A plan to a folder with trained checkpoints, and a checkpoint to how good it is on test samples.

Beside ``run.json``, the plan, the folder holds ``last.pt``, the state after the last finished epoch (enough to go on
to the bit), ``metrics.jsonl``, one line per finished epoch, and at the end two checkpoints that ``avsnn-convert``
takes: ``model.pt`` after the last epoch, and ``model-best.pt`` after the epoch that did best on validation samples.
Each file is replaced at once, so a run that was killed at any moment can be resumed.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from avsnn.archive import replace_file
from avsnn.errors import CheckpointError, InputError
from avsnn.train import checkpoints
from avsnn.train.data import catalogue
from avsnn.train.data.dataset import Data
from avsnn.train.loop import Row, Trainer
from avsnn.train.metrics import Evaluation, evaluate
from avsnn.train.models.config import plain
from avsnn.train.plans import Count, Plan
from avsnn.train.proportion import Proportion
from avsnn.train.samples import answers, batch_of, input_names

CALIBRATION_PAIRS = 64
TEST_SEED = 2
STATE, METRICS, MODEL, BEST = "last.pt", "metrics.jsonl", "model.pt", "model-best.pt"


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """The end of a run: its checkpoints, metrics by epoch, and how good the last network is on validation samples."""

    checkpoint: Path
    best: Path
    rows: list[Row]
    val: Proportion


def execute(
    plan: Plan,
    out: Path,
    *,
    on_epoch: Callable[[Row], None] | None = None,
    on_batch: Count | None = None,
    on_pair: Count | None = None,
) -> Outcome:
    """Train to the end, from the last finished epoch if ``out`` has one, and write the checkpoints.

    Args:
        plan: as given to `avsnn.train.plans.begin`.
        out: the folder that it made.
        on_epoch: called with each new epoch's metrics.
        on_batch: called with (updates done, updates of the epoch).
        on_pair: called with (samples drawn, samples to draw) before training.

    Raises:
        InputError: an impossible configuration, or a loss that is no longer finite.
        CheckpointError: the saved state cannot be read.
    """
    with _threads(plan.threads):
        module, device = plan.network(), plan.chosen_device()
        train, val = plan.draw(plan.pairs, split="train", progress=on_pair), plan.draw(plan.val_pairs, split="val")
        _check_fit(plan, module, train)
        trainer = Trainer(module, train, val, plan.options, loss=plan.make_loss(), device=device)
        if (out / STATE).exists():
            trainer.load_state(out / STATE)
        _write_metrics(out, trainer.rows)
        while not trainer.finished:
            row = trainer.run_epoch(on_batch)
            trainer.save_state(out / STATE)
            _write_metrics(out, trainer.rows)
            if on_epoch is not None:
                on_epoch(row)
        last = {name: value.clone() for name, value in module.state_dict().items()}
        module.load_state_dict(trainer.best["module"])
        _finish(out / BEST, plan, trainer, epoch=trainer.best["epoch"])
        module.load_state_dict(last)
        seen = _finish(out / MODEL, plan, trainer, epoch=len(trainer.rows))
    return Outcome(checkpoint=out / MODEL, best=out / BEST, rows=trainer.rows, val=seen.score)


def _check_fit(plan: Plan, module: nn.Module, train: Data) -> None:
    """Refuse a network that cannot take the samples, before anything is trained."""
    sample = batch_of(train[:2], input_names(module))
    was_training = module.training
    try:
        with torch.no_grad():
            outputs = answers(module.eval(), sample.inputs)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"the network cannot take these inputs ({reason})", where=f"data {plan.data}") from None
    module.train(was_training)
    classes, given = len(train.labels), outputs["scores"].shape[1]
    if given < classes:
        what = "the network has fewer answers than the data set has classes"
        raise InputError(what, where=f"data {plan.data}", found=given, limit=classes)


def _finish(path: Path, plan: Plan, trainer: Trainer, *, epoch: int) -> Evaluation:
    """Measure the trainer's module as it is, and write it."""
    seen = evaluate(trainer.module, trainer.val, loss=trainer.loss, device=trainer.device)
    record = {**describe(plan, seen), "epoch": epoch, "device": trainer.device.type}
    calibration, names = trainer.train[:CALIBRATION_PAIRS], input_names(trainer.module)
    values, spec = calibration.inputs(), calibration.input_spec()
    checkpoints.save(
        path,
        trainer.module.eval(),
        example_inputs={name: checkpoints.first(values[name], spec[name], 2) for name in names},
        name=plan.model,
        config=plain(getattr(trainer.module, "config", plan.config())),  # what took in files no longer names them
        input_spec={name: spec[name] for name in names},
        labels=calibration.labels,
        training=record,
        calibration={name: values[name] for name in names},
    )
    return seen


def describe(plan: Plan, seen: Evaluation) -> dict[str, Any]:
    """Return the training record of a checkpoint: how it was made and how well it does on validation samples."""
    record: dict[str, Any] = {
        "command": plan.command(),
        "data": {
            "name": plan.data,
            "values": plan.data_values,
            "version": catalogue.find(plan.data).version,
            "pairs": plan.pairs,
            "val_pairs": plan.val_pairs,
        },
        "options": asdict(plan.options),
        "loss": repr(plan.make_loss()),
        "val": seen.accuracy.record(),
        "rates": {name: round(rate, 6) for name, rate in seen.rates.items()},
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("avsnn", "numpy", "scipy", "torch")},
        },
    }
    return record if seen.localisation is None else {**record, "val_localisation": seen.localisation.record()}


def measure(
    path: Path, *, pairs: int, seed: int = TEST_SEED, threads: int = 1, data: str | None = None, split: str = "test"
) -> Evaluation:
    """Return how well the checkpoint at ``path`` does on ``pairs`` freshly drawn samples.

    Args:
        path: the checkpoint.
        pairs: how many samples.
        seed: of the samples.
        threads: of torch.
        data: the data set; the one that the checkpoint was trained on if None.
        split: of the data set.

    Raises:
        CheckpointError: it cannot be read.
        InputError: the data set lacks an input that the network takes.
    """
    checkpoint = checkpoints.load(path)
    known = checkpoint.training.get("data", {})
    name = data or known.get("name", "avdigits")
    values = known.get("values", {}) if name == known.get("name") else {}
    with _threads(threads):
        samples = Plan(data=name, data_values=values).draw(pairs, split=split, seed=seed)
        unknown = set(checkpoint.input_spec) - set(samples.coding)
        if unknown:
            raise CheckpointError(f"takes inputs that {name} lacks", where=str(path), found=", ".join(sorted(unknown)))
        return evaluate(checkpoint.build(), samples)


def amend(path: Path, target: Path, changes: Mapping[str, Any]) -> Path:
    """Write the checkpoint at ``path`` to ``target`` with ``changes`` in its training record; weights stay."""
    old = checkpoints.load(path)
    return checkpoints.save(
        target,
        old.build(),
        example_inputs={
            name: checkpoints.first(value, old.input_spec[name], 2) for name, value in old.calibration.items()
        },
        name=old.name,
        config=old.config,
        input_spec=old.input_spec,
        labels=old.labels,
        training={**old.training, **changes},
        calibration=old.calibration,
    )


def _write_metrics(out: Path, rows: list[Row]) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    replace_file(out / METRICS, lines.encode())


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
