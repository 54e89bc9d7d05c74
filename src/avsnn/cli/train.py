"""Train a network, go on with a run that was stopped, or measure a checkpoint on test pairs."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from avsnn.errors import InputError
from avsnn.train import runs
from avsnn.train.loop import Options, Row
from avsnn.train.models.config import parse_overrides
from avsnn.train.models.table import find_model

INTERRUPTED = 130
_EPILOG = """examples:
  avsnn-train scmrl --data avdigits --preset tiny --epochs 12 --out runs/tiny
  avsnn-train scmrl --preset tiny modalities=image --out runs/image
  avsnn-train --resume --out runs/tiny
  avsnn-train --evaluate runs/tiny/model.pt --pairs 2000
"""
_HELP = {
    "epochs": "passes over the training pairs",
    "batch": "pairs per update",
    "lr": "highest learning rate of the cycle",
    "weight_decay": "of AdamW, on matrices",
    "label_smoothing": "of the cross-entropy",
    "shift": "move each training input by up to this many pixels",
    "seed": "of weights and order, or with --evaluate of the test pairs (default 2 there)",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.epilog = _EPILOG
    parser.add_argument("model", nargs="?", help="scmrl")
    parser.add_argument("values", nargs="*", metavar="key=value", help="configuration in place of the preset's")
    parser.add_argument("--data", help="avdigits (default)")
    parser.add_argument("--preset", help="of the model (default tiny)")
    parser.add_argument("--pairs", type=int, help="training pairs (default 16000), or test pairs (default 2000)")
    parser.add_argument("--val-pairs", type=int, help="validation pairs (default 1000)")
    for option in fields(Options):
        kind = float if isinstance(option.default, float) else int
        text = f"{_HELP[option.name]} (default {option.default})"
        parser.add_argument(f"--{option.name.replace('_', '-')}", type=kind, help=text)
    parser.add_argument("--threads", type=int, help="of torch (default 1)")
    parser.add_argument("--out", type=Path, help="folder of the run")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--resume", action="store_true", help="go on with the run in --out")
    mode.add_argument("--evaluate", type=Path, metavar="FILE", help="measure a checkpoint on test pairs instead")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    _take_values_anywhere(parser)


def _take_values_anywhere(parser: argparse.ArgumentParser) -> None:
    """Let ``key=value`` stand after options too, where argparse by itself sees unknown arguments."""
    parse = parser.parse_known_args

    def parse_known_args(args: Any = None, namespace: Any = None) -> tuple[argparse.Namespace, list[str]]:
        found, rest = parse(args, namespace)
        found.values = [*found.values, *(word for word in rest if _is_value(word))]
        return found, [word for word in rest if not _is_value(word)]

    parser.parse_known_args = parse_known_args  # type: ignore[method-assign, assignment]


def _is_value(word: str) -> bool:
    return "=" in word and not word.startswith("-")


def run(args: argparse.Namespace) -> int:
    """Train, resume or evaluate; returns the exit code."""
    try:
        return _evaluate(args) if args.evaluate else _train(args)
    except KeyboardInterrupt:
        message = "interrupted"
        if args.out is not None and (args.out / runs.PLAN).exists():
            message += f"; go on with: avsnn-train --resume --out {args.out}"
        print(message, file=sys.stderr)
        return INTERRUPTED


def _evaluate(args: argparse.Namespace) -> int:
    used = ("evaluate", "pairs", "seed", "threads", "json")
    extra = [name for name in vars(args) if name in _known(args) and name not in used]
    if extra:
        raise InputError("has no meaning with --evaluate", where=", ".join(extra))
    pairs = 2000 if args.pairs is None else args.pairs
    seed = runs.TEST_SEED if args.seed is None else args.seed
    seen = runs.measure(args.evaluate, pairs=pairs, seed=seed, threads=args.threads or 1)
    if args.json:
        result = {
            "file": str(args.evaluate),
            "split": "test",
            "seed": seed,
            **seen.accuracy.record(),
            "rates": seen.rates,
        }
        print(json.dumps(result))
    else:
        print(f"accuracy {seen.accuracy} on avdigits test pairs, seed {seed}")
        for name, rate in seen.rates.items():
            print(f"  {100 * rate:6.2f} % of steps  {name}")
    return 0


def _train(args: argparse.Namespace) -> int:
    if args.out is None:
        raise InputError("is missing", where="--out", remedy="say where the run goes, for example --out runs/tiny")
    if args.resume:
        plan = runs.recall(args.out)
        _check_same(plan, args)
    else:
        plan = _plan(args)
        runs.begin(plan, args.out)
    with _Display(plan) as display:
        outcome = runs.execute(plan, args.out, on_epoch=display.epoch, on_batch=display.batch, on_pair=display.pair)
    if args.json:
        rates = outcome.rows[-1]["rates"]
        result = {"checkpoint": str(outcome.checkpoint), "command": plan.command(), "val": outcome.val.record()}
        print(json.dumps({**result, "rates": rates}))
    else:
        print(f"{outcome.checkpoint}: validation accuracy {outcome.val}")
    return 0


def _known(args: argparse.Namespace) -> dict[str, Any]:
    """The values of the options of this command that were given, by name."""
    names = ["model", "values", "out", "resume", *_plan_options(), *(option.name for option in fields(Options))]
    values = {name: getattr(args, name) for name in names}
    return {name: value for name, value in values.items() if value or (value == 0 and value is not False)}


def _plan_options() -> list[str]:
    return [part.name for part in fields(runs.Plan) if part.name not in ("model", "values", "options")]


def _plan(args: argparse.Namespace) -> runs.Plan:
    if args.model is None:
        raise InputError("is missing", where="model", remedy="name one, for example: avsnn-train scmrl --out runs/tiny")
    given = _known(args)
    values = parse_overrides(find_model(args.model).config, args.values)
    options = Options(**{part.name: given[part.name] for part in fields(Options) if part.name in given})
    rest = {name: given[name] for name in _plan_options() if name in given}
    return runs.Plan(model=args.model, values=values, options=options, **rest)


def _check_same(plan: runs.Plan, args: argparse.Namespace) -> None:
    """Refuse options that contradict the run to resume."""
    for name, value in _known(args).items():
        if name in ("out", "resume"):
            continue
        kept = getattr(plan.options if hasattr(plan.options, name) else plan, name)
        if name == "values":
            value = json.loads(json.dumps(parse_overrides(find_model(plan.model).config, value)))
            kept = {key: kept.get(key, MISSING) for key in value}
        if value != kept:
            raise InputError("differs from the run", where=name, found=value, limit=kept, remedy="start a new run")


class _Display:
    """One line per epoch on stderr, and a bar within the epoch on a terminal."""

    def __init__(self, plan: runs.Plan) -> None:
        console = Console(stderr=True)
        self._epochs = plan.options.epochs
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task("")

    def __enter__(self) -> _Display:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def batch(self, done: int, total: int) -> None:
        """Move the bar of the epoch."""
        self._progress.update(self._task, completed=done, total=total, description="updates")

    def pair(self, done: int, total: int) -> None:
        """Move the bar of the data."""
        self._progress.update(self._task, completed=done, total=total, description="drawing pairs")

    def epoch(self, row: Row) -> None:
        """Print the epoch's line."""
        lowest = min(row["rates"], key=row["rates"].__getitem__)
        self._progress.console.print(
            f"epoch {row['epoch']}/{self._epochs}: loss {row['loss']:.4f}, train {row['train_accuracy']:.4f}, "
            f"val {row['val_accuracy']:.4f}, least active {lowest} {100 * row['rates'][lowest]:.2f} %, "
            f"{row['seconds']:.1f} s",
            highlight=False,
            soft_wrap=True,
        )
