"""List everything in a network that keeps it from a target, or might, with its place in your code.

MODEL is a checkpoint of avsnn-train, or package.module:function that returns a module; that needs example inputs. The
module is followed, then folds, integers, schedule and the target's abilities are tried, without proofs: seconds.
"neurons" and "operations" are the shares of the network between the populations around the place.
Exit code 0: it converts (risky entries are warnings); 2: something is unsupported, or another error.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from avsnn.cli.inputs import as_values, check_count, load_npz
from avsnn.convert.check import UNSUPPORTED, Checked, Traced, check, of_graph
from avsnn.convert.ir.fixed_nodes import Product, Received
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array
from avsnn.convert.passes.map_cores import map_cores
from avsnn.convert.risks import Risk
from avsnn.deploy.capability import REFUSED, REMEDIES, answers, wide_messages
from avsnn.errors import CapabilityError, InputError, TraceError
from avsnn.hw_profiles.profile import Profile, load_profile

SAMPLES = 4  # generated where shapes alone are given
PIXEL = 1 / 255


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("model", metavar="MODEL", help="checkpoint (.pt), or package.module:function")
    parser.add_argument("--target", default="loihi2", help="hardware profile: a name or a .toml file (default loihi2)")
    parser.add_argument("--calibration", metavar="FILE.npz", help="training inputs by name: silence is looked for, too")
    parser.add_argument(
        "--input", action="append", default=[], metavar="NAME=SHAPE", help="random input, e.g. image=1,28,28"
    )
    parser.add_argument(
        "--sequence",
        action="append",
        default=[],
        metavar="NAME[=STEPS]",
        help="input whose first axis is time; with fewer steps than --timesteps if its window is shorter",
    )
    parser.add_argument("--timesteps", type=int, help="steps of a window, where the module does not say")
    parser.add_argument("--weights", metavar="FILE", help="state dict for the module, as torch.save writes it")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.epilog = (
        "examples:\n"
        "  avsnn check examples/models/avdigits-tiny.pt\n"
        "  avsnn check mynets.resnet:make --input image=3,32,32 --timesteps 8\n"
        "  avsnn check mynets.events:make --calibration events.npz --sequence events --json"
    )


def run(args: argparse.Namespace) -> int:
    """Check and show."""
    check_count("--timesteps", args.timesteps)
    profile = load_profile(args.target)
    if ":" in args.model and not Path(args.model).exists():
        traced, data = _module(args)
    else:
        traced, data = _checkpoint(args)
    done = check(
        traced, profile, data, representative=bool(args.calibration) or not args.input, capabilities=_abilities
    )
    if args.json:
        print(json.dumps(done.record(), indent=1, sort_keys=True))
    else:
        _show(done)
    return 0 if done.convertible else 2


def _abilities(graph: Graph, profile: Profile) -> Iterator[Risk]:
    """What the target does with each node: refusals; microcode and a host between populations are only risky."""
    for each in answers(graph, profile):
        why = f" ({each.reason})" if each.reason else ""
        if each.answer == REFUSED:
            reason, suggestion = f"{each.kind}: {profile.id} refuses it{why}", REMEDIES.get(each.kind, "")
            yield Risk(node=each.node, reason=reason, suggestion=suggestion, surely=True)
        elif each.answer == "microcode":
            reason = f"{each.kind}: no stock process of {profile.id} does it; it needs microcode"
            yield Risk(node=each.node, reason=reason + why)
        elif each.answer == "host" and isinstance(graph[each.node], Product):
            sums = isinstance(graph[each.node], Received)
            what, back = ("sums", "messages") if sums else ("spikes", "a current")
            reason = f"{each.kind}: {profile.id} sends {what} to the host and waits for {back} from it"
            yield Risk(node=each.node, reason=reason + why, suggestion=REMEDIES.get(each.kind, ""))
    for error in wide_messages(graph, profile):
        reason = f"{error.what}, found {error.found}, limit {error.limit}"
        yield Risk(node=error.where, reason=reason, suggestion=error.remedy, surely=True)
    if profile.limits.cores_per_chip is not None:
        try:
            map_cores(graph, profile)
        except CapabilityError as error:
            reason = f"{error.what}, found {error.found}, limit {error.limit}: it converts, but fits no core"
            yield Risk(node=error.where.split(" (")[0], reason=reason, suggestion=error.remedy)


def _checkpoint(args: argparse.Namespace) -> tuple[Traced, dict[str, Array]]:
    from avsnn.convert.sources import graph_of
    from avsnn.train.checkpoints import load
    from avsnn.train.models.table import MODELS

    for option in ("input", "sequence", "timesteps", "weights"):
        if getattr(args, option):
            raise InputError("a checkpoint has its own", where=f"--{option}", remedy="leave it out")
    checkpoint = load(args.model)
    data = _calibration(args.calibration) if args.calibration else checkpoint.calibration
    if checkpoint.name not in MODELS:  # a network of the user's own comes with its graph, but without its code
        return of_graph(graph_of(checkpoint), checkpoint.name), data
    steps = next((int(s["timesteps"]) for s in checkpoint.input_spec.values() if "timesteps" in s), None)
    return _follow(checkpoint.build(), checkpoint.name, checkpoint.calibration, checkpoint.input_spec, steps), data


def _module(args: argparse.Namespace) -> tuple[Traced, dict[str, Array]]:
    from avsnn.train.user_modules import load_module, make_module

    module = load_module(args.model, args.weights) if args.weights else make_module(args.model, where="MODEL")
    sequences = dict(_sequence(text, args.timesteps) for text in args.sequence)
    data = _calibration(args.calibration) if args.calibration else _random(args, sequences)
    if unknown := sorted(set(sequences) - set(data)):
        raise InputError("no such input", where="--sequence", found=", ".join(unknown), limit=", ".join(data))
    spec: dict[str, dict[str, Any]] = {n: {"coding": "sequence" if n in sequences else "direct"} for n in data}
    for name, x in data.items():  # the range that training data fills
        low, high = float(min(0, np.floor(x.min()))), float(max(1, np.ceil(x.max())))
        whole = bool((x == np.rint(x)).all())
        spec[name] |= {"low": low, "high": high, "step": 1.0 if whole else PIXEL}
    return _follow(module, args.model, data, spec, args.timesteps), data


def _follow(module: Any, name: str, data: Any, spec: Any, timesteps: int | None) -> Traced:
    from avsnn.convert.tracer import survey
    from avsnn.convert.unruled import unruled

    try:
        found = survey(module, data, input_spec=spec, timesteps=timesteps)
    except TraceError as error:
        return Traced(name=name, graph=None, refusal=error, problems=unruled(module, data))
    return Traced(
        name=name,
        graph=found.graph,
        nodes=found.nodes,
        problems=found.problems,
        refusal=found.refusal,
        lines=found.lines,
        timesteps=found.timesteps,
    )


def _calibration(file: str) -> dict[str, Array]:
    arrays = as_values(load_npz(file))
    arrays.pop("label", None)
    if not arrays or any(x.ndim < 2 or x.size == 0 for x in arrays.values()):
        raise InputError("holds no samples", where=file, limit="(batch, ...) or (time, batch, ...)")
    return arrays


def _sequence(text: str, timesteps: int | None) -> tuple[str, int | None]:
    """Name and steps of NAME or NAME=STEPS."""
    name, given, steps = text.partition("=")
    if given and not (steps.isdecimal() and int(steps)):
        raise InputError("not of the form NAME=STEPS", where="--sequence", found=text, remedy="as in sound=4")
    return name, int(steps) if given else timesteps


def _random(args: argparse.Namespace, sequences: Mapping[str, int | None]) -> dict[str, Array]:
    """Random inputs of the shapes given, on the grid of pixels; events where they are sequences."""
    if not args.input:
        remedy = "pass --calibration FILE.npz, or --input NAME=SHAPE for each parameter of forward"
        raise InputError("a module needs example inputs", where=args.model, remedy=remedy)
    rng = np.random.default_rng(0)
    made: dict[str, Array] = {}
    for text in args.input:
        name, _, sizes = text.partition("=")
        try:
            shape = tuple(int(size) for size in sizes.replace("x", ",").split(","))
        except ValueError:
            shape = ()
        if not name or not shape or min(shape) < 1:
            raise InputError("not of the form NAME=SHAPE", where="--input", found=text, remedy="as in image=1,28,28")
        if name in sequences:
            steps = sequences[name]
            if steps is None:
                raise InputError("a sequence needs its steps", where=f"--sequence {name}", remedy="pass --timesteps T")
            made[name] = rng.integers(0, 2, size=(steps, SAMPLES, *shape)).astype(np.float64)
        else:
            made[name] = rng.integers(0, 256, size=(SAMPLES, *shape)) * PIXEL
    return made


def _show(done: Checked) -> None:
    console = Console(width=None if sys.stdout.isatty() else 140)
    if done.entries:
        table = Table("", show_lines=True)
        for title in ("where", "why", "what to do"):
            table.add_column(title, overflow="fold")
        table.add_column("neurons")
        table.add_column("operations")
        for entry in done.entries:
            place = f"{entry.where}\n{entry.line}" if entry.line else entry.where
            style = "red" if entry.severity == UNSUPPORTED else "yellow"
            table.add_row(
                f"[{style}]{entry.severity}[/{style}]\n{entry.stage}",
                _plain(place),
                _plain(entry.reason),
                _plain(entry.suggestion),
                _share(entry.neurons),
                _share(entry.operations),
            )
        console.print(table)
    bad = sum(entry.severity == UNSUPPORTED for entry in done.entries)
    risky = len(done.entries) - bad
    verdict = f"{bad} unsupported" if bad else "converts"
    size = f"{done.nodes} operations, {done.populations} populations"
    print(f"{done.name} for {done.target}: {verdict}, {risky} risky ({size}; got through: {done.reached or 'nothing'})")


def _plain(text: str) -> str:
    """Square brackets are the user's, not colours."""
    return text.replace("[", r"\[")


def _share(value: float) -> str:
    return f"{100 * value:.1f} %" if value else "-"
