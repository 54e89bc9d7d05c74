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
from avsnn.train import plans, runs, tensorboard
from avsnn.train.data import catalogue
from avsnn.train.loop import Options, Row
from avsnn.train.losses import LOSSES, parse_loss
from avsnn.train.metrics import Evaluation
from avsnn.train.models.config import parse_overrides
from avsnn.train.models.table import MODELS, find_model, make_config

INTERRUPTED = 130
_EPILOG = """examples:
  avsnn-train scmrl --data avdigits --preset tiny --epochs 12 --out runs/tiny
  avsnn-train scmrl --preset tiny modalities=image loss.label_smoothing=0 data.level=hard --out runs/image
  avsnn-train --resume --out runs/tiny
  avsnn-train --evaluate runs/tiny/model.pt --pairs 2000
"""
_HELP = {
    "epochs": "passes over the training samples",
    "batch": "samples per update",
    "lr": "highest learning rate of the schedule",
    "optimiser": "adamw or adam",
    "weight_decay": "on matrices",
    "schedule": "onecycle, cosine, multistep or constant",
    "warmup": "epochs that the rate rises for, onecycle aside",
    "warmup_lr": "rate at the start of the warm-up",
    "lr_min": "rate at the end of cosine",
    "milestones": "epochs after which multistep divides the rate by ten, as in 150,275",
    "shift": "move each training picture by up to this many pixels",
    "rate_target": "spikes per neuron and step to hold populations near",
    "rate_weight": "of the distance from that rate in the loss, 0 for none",
    "amp": "bfloat16 where that is safe, on a GPU",
    "seed": "of weights and order, or with --evaluate of the test samples (default 2 there)",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.epilog = _EPILOG
    parser.add_argument("model", nargs="?", help=", ".join(MODELS))
    values = "configuration in place of the preset's; loss.key=value and data.key=value for those"
    parser.add_argument("values", nargs="*", metavar="key=value", help=values)
    parser.add_argument("--data", help=f"{', '.join(catalogue.CATALOGUE)} (default avdigits)")
    parser.add_argument("--preset", help="of the model (default tiny)")
    parser.add_argument("--loss", help=f"{', '.join(LOSSES)} (default: the model's own)")
    parser.add_argument("--pairs", type=int, help="training samples (default 16000), or test samples (default 2000)")
    parser.add_argument("--val-pairs", type=int, help="validation samples (default 1000)")
    for option in fields(Options):
        text = f"{_HELP[option.name]} (default {option.default if option.default != () else 'none'})"
        parser.add_argument(f"--{option.name.replace('_', '-')}", help=text, **_kind(option.default))
    parser.add_argument("--label-smoothing", type=float, help="the same as loss.label_smoothing=")
    parser.add_argument("--threads", type=int, help="of torch (default 1)")
    parser.add_argument("--device", help="auto, cpu or cuda (default auto: a GPU if there is one)")
    parser.add_argument("--tensorboard", action="store_true", help="write events for TensorBoard into the folder too")
    parser.add_argument("--out", type=Path, help="folder of the run")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--resume", action="store_true", help="go on with the run in --out")
    mode.add_argument("--evaluate", type=Path, metavar="FILE", help="measure a checkpoint on test samples instead")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    _take_values_anywhere(parser)


def _kind(default: object) -> dict[str, Any]:
    """How argparse reads an option with this default."""
    if isinstance(default, bool):
        return {"action": argparse.BooleanOptionalAction, "default": None}
    return {"type": _whole_numbers if isinstance(default, tuple) else type(default)}


def _whole_numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split(",") if word)


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
    if args.label_smoothing is not None:
        args.values = [*args.values, f"loss.label_smoothing={args.label_smoothing!r}"]
    try:
        return _evaluate(args) if args.evaluate else _train(args)
    except KeyboardInterrupt:
        message = "interrupted"
        if args.out is not None and (args.out / plans.PLAN).exists():
            message += f"; go on with: avsnn-train --resume --out {args.out}"
        print(message, file=sys.stderr)
        return INTERRUPTED


def _evaluate(args: argparse.Namespace) -> int:
    used = ("evaluate", "pairs", "seed", "threads", "json", "data")
    extra = [name for name in _known(args) if name not in used]
    if extra:
        raise InputError("has no meaning with --evaluate", where=", ".join(extra))
    pairs = 2000 if args.pairs is None else args.pairs
    seed = runs.TEST_SEED if args.seed is None else args.seed
    seen = runs.measure(args.evaluate, pairs=pairs, seed=seed, threads=args.threads or 1, data=args.data)
    if args.json:
        result = {
            "file": str(args.evaluate),
            "split": "test",
            "seed": seed,
            **seen.accuracy.record(),
            "rates": seen.rates,
            "confusion": seen.confusion.record(),
        }
        place = seen.localisation
        print(json.dumps(result if place is None else {**result, "localisation": place.record()}))
    else:
        _print_evaluation(seen, seed)
    return 0


def _print_evaluation(seen: Evaluation, seed: int) -> None:
    print(f"accuracy {seen.accuracy} on test samples, seed {seed}")
    place = seen.localisation
    if place is not None:
        print(f"direction within {place.eta_deg:g} degrees {place.within}")
        print(f"class and direction {place.joint}")
        print(f"mean error {place.mae_deg:.2f} degrees round the circle, {place.mae_plain_deg:.2f} plain")
    for name, rate in seen.rates.items():
        print(f"  {100 * rate:6.2f} % of steps  {name}")


def _train(args: argparse.Namespace) -> int:
    if args.out is None:
        raise InputError("is missing", where="--out", remedy="say where the run goes, for example --out runs/tiny")
    if args.resume:
        plan = plans.recall(args.out)
        _check_same(plan, args)
    else:
        plan = _plan(args)
        plans.begin(plan, args.out)
    watch = [tensorboard.writer(args.out / "tensorboard")] if args.tensorboard else []
    with _Display(plan) as display:

        def on_epoch(row: Row) -> None:
            for show in (display.epoch, *watch):
                show(row)

        outcome = runs.execute(plan, args.out, on_epoch=on_epoch, on_batch=display.batch, on_pair=display.pair)
    if args.json:
        last = outcome.rows[-1]
        files = {"checkpoint": str(outcome.checkpoint), "best": str(outcome.best)}
        result = {**files, "command": plan.command(), "val": outcome.val.record()}
        print(json.dumps({**result, "rates": last["rates"], "dead": last["dead"]}))
    else:
        print(f"{outcome.checkpoint}: validation {outcome.val}; best epoch in {outcome.best}")
    return 0


def _known(args: argparse.Namespace) -> dict[str, Any]:
    """The values of the options of this command that were given, by name."""
    names = ["model", "values", "out", "resume", *_plan_options(), *(option.name for option in fields(Options))]
    values = {name: getattr(args, name) for name in names}
    return {name: value for name, value in values.items() if value or (value in (0, False, ()) and name != "resume")}


def _plan_options() -> list[str]:
    apart = ("model", "values", "data_values", "loss_values", "options")
    return [part.name for part in fields(plans.Plan) if part.name not in apart]


def _plan(args: argparse.Namespace) -> plans.Plan:
    if args.model is None:
        raise InputError("is missing", where="model", remedy="name one, for example: avsnn-train scmrl --out runs/tiny")
    given = _known(args)
    options = Options(**{part.name: given[part.name] for part in fields(Options) if part.name in given})
    rest = {name: given[name] for name in _plan_options() if name in given}
    values = _values(args.values, args.model, args.preset or "tiny", args.loss or "", args.data or "avdigits")
    return plans.Plan(model=args.model, options=options, **values, **rest)


def _values(texts: list[str], model: str, preset: str, loss: str, data: str) -> dict[str, Any]:
    """``key=value`` texts as values of the network, the loss and the data set."""
    own = [text for text in texts if not text.startswith(("loss.", "data."))]
    for text in own:
        name = text.partition("=")[0]
        if name in _HELP and name not in {part.name for part in fields(find_model(model).config)}:
            option = name.replace("_", "-")
            raise InputError("is an option", where=text, remedy=f"pass --{option} {text.partition('=')[2]}")
    values = parse_overrides(find_model(model).config, own)
    of_loss = [text.removeprefix("loss.") for text in texts if text.startswith("loss.")]
    chosen = loss or find_model(model).loss_of(make_config(model, preset, values))
    of_data = [text.removeprefix("data.") for text in texts if text.startswith("data.")]
    return {
        "values": values,
        "loss_values": parse_loss(chosen, of_loss) if of_loss else {},
        "data_values": catalogue.parse(data, of_data),
    }


def _check_same(plan: plans.Plan, args: argparse.Namespace) -> None:
    """Refuse options that contradict the run to resume."""
    for name, value in _known(args).items():
        if name in ("out", "resume", "values"):
            continue
        kept = getattr(plan.options if hasattr(plan.options, name) else plan, name)
        if value != kept:
            raise InputError("differs from the run", where=name, found=value, limit=kept, remedy="start a new run")
    for name, given in _values(args.values, plan.model, plan.preset, plan.loss, plan.data).items():
        for key, value in json.loads(json.dumps(given)).items():
            kept = getattr(plan, name).get(key, MISSING)
            if value != kept:
                limit = None if kept is MISSING else kept
                raise InputError("differs from the run", where=key, found=value, limit=limit, remedy="start a new run")


class _Display:
    """One line per epoch on stderr, and a bar within the epoch on a terminal."""

    def __init__(self, plan: plans.Plan) -> None:
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
        place = f", direction {row['val_mae_deg']:.2f} degrees off" if "val_mae_deg" in row else ""
        self._progress.console.print(
            f"epoch {row['epoch']}/{self._epochs}: loss {row['loss']:.4f}, train {row['train_accuracy']:.4f}, "
            f"val {row['val_accuracy']:.4f}{place}{_activity(row)}, {row['seconds']:.1f} s",
            highlight=False,
            soft_wrap=True,
        )


def _activity(row: Row) -> str:
    """Which populations are as good as silent, or which is nearest to it."""
    rates = row["rates"]
    if row["dead"]:
        return ", nearly silent: " + ", ".join(f"{name} {100 * rates[name]:.3f} %" for name in row["dead"])
    if not rates:
        return ""
    lowest = min(rates, key=rates.__getitem__)
    return f", least active {lowest} {100 * rates[lowest]:.2f} %"
