"""A plan to a folder with a trained checkpoint: ``run.json``, ``last.pt``, ``metrics.jsonl`` and ``model.pt``.

``run.json`` is the plan, ``last.pt`` the state after the last finished epoch (enough to go on to the bit),
``metrics.jsonl`` one line per finished epoch, ``model.pt`` the checkpoint that ``avsnn-convert`` takes, written at
the end. Each is replaced at once, so a run that was killed at any moment can be resumed.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from avsnn.archive import replace_file
from avsnn.errors import CheckpointError, InputError
from avsnn.train import checkpoints
from avsnn.train.data import avdigits, sources
from avsnn.train.loop import Options, Row, Samples, Trainer
from avsnn.train.metrics import Evaluation, evaluate
from avsnn.train.models.config import build_config, plain
from avsnn.train.models.table import find_model, make_config
from avsnn.train.proportion import Proportion

DATA = ("avdigits",)
CALIBRATION_PAIRS = 64
TEST_SEED = 2
PLAN, STATE, METRICS, MODEL = "run.json", "last.pt", "metrics.jsonl", "model.pt"
_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to train on what, complete: the same plan gives the same network on the same machine.

    Attributes:
        model: a name in `avsnn.train.models.table.MODELS`.
        preset: one of its presets.
        values: configuration values in place of the preset's.
        data: ``"avdigits"``.
        pairs: training pairs.
        val_pairs: pairs to watch, of the validation split.
        threads: of torch; another number may change the last bits.
        options: of the training loop.
    """

    model: str = "scmrl"
    preset: str = "tiny"
    values: dict[str, Any] = field(default_factory=dict)
    data: str = "avdigits"
    pairs: int = 16_000
    val_pairs: int = 1_000
    threads: int = 1
    options: Options = field(default_factory=Options)

    def __post_init__(self) -> None:
        if self.data not in DATA:
            raise InputError("unknown data set", where="data", found=repr(self.data), limit=", ".join(DATA))
        for name in ("pairs", "val_pairs", "threads"):
            if getattr(self, name) < 1:
                raise InputError("is too small", where=name, found=getattr(self, name), limit=1)

    def command(self) -> str:
        """Return the command line that this plan stands for."""
        words = ["avsnn-train", self.model, "--data", self.data, "--preset", self.preset]
        for name, value in {**asdict(self.options), "pairs": self.pairs, "val_pairs": self.val_pairs}.items():
            words += [f"--{name.replace('_', '-')}", f"{value:g}" if isinstance(value, float) else str(value)]
        for name, value in self.values.items():
            words.append(f"{name}={','.join(map(str, value)) if isinstance(value, (list, tuple)) else value}")
        return " ".join(words)


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """The end of a run: its checkpoint, its metrics by epoch, and its accuracy on validation pairs."""

    checkpoint: Path
    rows: list[Row]
    val: Proportion


Count = Callable[[int, int], None]
"""Called with (done, total)."""


def draw(count: int, *, split: str, seed: int | None, names: tuple[str, ...], progress: Count | None = None) -> Samples:
    """Return ``count`` pairs of avdigits as tensors, only the inputs called ``names``."""
    pairs = avdigits.make(count, split=split, seed=seed, progress=progress)
    inputs = {name: torch.from_numpy(value) for name, value in pairs.inputs().items() if name in names}
    return Samples(inputs=inputs, labels=torch.from_numpy(pairs.label))


def begin(plan: Plan, out: Path) -> None:
    """Make the folder ``out`` for a run of ``plan``.

    Raises:
        InputError: it already holds a run or cannot be made, or the plan is impossible.
    """
    if (out / PLAN).exists():
        raise InputError("already holds a run", where=str(out), remedy="pass --resume, or another --out")
    make_config(plan.model, plan.preset, plan.values)  # a mistake must show before the folder is made
    if plan.options.batch > plan.pairs:
        raise InputError("is larger than the training set", where="batch", found=plan.options.batch, limit=plan.pairs)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder ({error.strerror})", where=str(out)) from None
    text = json.dumps({"format": _FORMAT, **plain(plan)}, indent=1, sort_keys=True)
    replace_file(out / PLAN, text.encode() + b"\n")


def recall(out: Path) -> Plan:
    """Return the plan of the run in ``out``.

    Raises:
        InputError: there is no run, or its plan cannot be read.
    """
    path = out / PLAN
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values.pop("format") != _FORMAT:
            raise ValueError("another format")
        return Plan(**{**values, "options": build_config(Options, values["options"])})
    except FileNotFoundError:
        raise InputError("there is no run to resume", where=str(out)) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"cannot read the plan ({error})", where=str(path)) from None


def execute(
    plan: Plan,
    out: Path,
    *,
    on_epoch: Callable[[Row], None] | None = None,
    on_batch: Count | None = None,
    on_pair: Count | None = None,
) -> Outcome:
    """Train to the end, from the last finished epoch if ``out`` has one, and write the checkpoint.

    Args:
        plan: as given to `begin`.
        out: the folder that `begin` made.
        on_epoch: called with each new epoch's metrics.
        on_batch: called with (updates done, updates of the epoch).
        on_pair: called with (pairs drawn, pairs to draw) before training.

    Raises:
        InputError: an impossible configuration, or a loss that is no longer finite.
        CheckpointError: the saved state cannot be read.
    """
    with _threads(plan.threads):
        config = make_config(plan.model, plan.preset, plan.values)
        torch.manual_seed(plan.options.seed)
        module = find_model(plan.model).build(config)
        train = draw(plan.pairs, split="train", seed=None, names=config.modalities, progress=on_pair)
        val = draw(plan.val_pairs, split="val", seed=None, names=config.modalities)
        trainer = Trainer(module, train, val, plan.options)
        if (out / STATE).exists():
            trainer.load_state(out / STATE)
        _write_metrics(out, trainer.rows)
        while not trainer.finished:
            row = trainer.run_epoch(on_batch)
            trainer.save_state(out / STATE)
            _write_metrics(out, trainer.rows)
            if on_epoch is not None:
                on_epoch(row)
        seen = evaluate(module, val.inputs, val.labels)
        record = describe(plan, seen)
        _save(out / MODEL, module, plan, config, train, record)
    return Outcome(checkpoint=out / MODEL, rows=trainer.rows, val=seen.accuracy)


def describe(plan: Plan, seen: Evaluation) -> dict[str, Any]:
    """Return the training record of a checkpoint: how it was made and how well it does on validation pairs."""
    return {
        "command": plan.command(),
        "data": {"name": plan.data, "asset": avdigits.ASSET_VERSION, "pairs": plan.pairs, "val_pairs": plan.val_pairs},
        "options": asdict(plan.options),
        "val": seen.accuracy.record(),
        "rates": {name: round(rate, 6) for name, rate in seen.rates.items()},
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("avsnn", "numpy", "scipy", "torch")},
        },
    }


def measure(path: Path, *, pairs: int, seed: int = TEST_SEED, threads: int = 1) -> Evaluation:
    """Return how well the checkpoint at ``path`` does on ``pairs`` freshly drawn test pairs of avdigits.

    Raises:
        CheckpointError: it cannot be read, or takes other inputs than avdigits has.
    """
    checkpoint = checkpoints.load(path)
    unknown = set(checkpoint.input_spec) - {"image", "audio"}
    if unknown:
        raise CheckpointError("takes inputs that avdigits lacks", where=str(path), found=", ".join(sorted(unknown)))
    with _threads(threads):
        samples = draw(pairs, split="test", seed=seed, names=tuple(checkpoint.input_spec))
        return evaluate(checkpoint.build(), samples.inputs, samples.labels)


def amend(path: Path, target: Path, changes: Mapping[str, Any]) -> Path:
    """Write the checkpoint at ``path`` to ``target`` with ``changes`` in its training record; weights stay."""
    old = checkpoints.load(path)
    return checkpoints.save(
        target,
        old.build(),
        example_inputs={name: value[:2] for name, value in old.calibration.items()},
        name=old.name,
        config=old.config,
        input_spec=old.input_spec,
        labels=old.labels,
        training={**old.training, **changes},
        calibration=old.calibration,
    )


def _save(path: Path, module: torch.nn.Module, plan: Plan, config: Any, train: Samples, record: dict[str, Any]) -> None:
    calibration = {name: value[:CALIBRATION_PAIRS].numpy() for name, value in train.inputs.items()}
    checkpoints.save(
        path,
        module.eval(),
        example_inputs={name: value[:2] for name, value in calibration.items()},
        name=plan.model,
        config=plain(config),
        labels=[str(digit) for digit in range(sources.CLASSES)],
        training=record,
        calibration=calibration,
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
