"""Find the first place where two bundles, stages or back ends differ, with what each computed there.

A and B are each a bundle, BUNDLE:STAGE (traced, folded, quantised, scheduled) or BUNDLE@BACKEND (cpu, reference, lava).
Both run on the same inputs. Integers are compared exactly, with every state; floats to 1e-9; floats against integers by
their spikes. Exit code 0: equal (and not silent); 1: they differ; 2: any other error.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from avsnn.cli.inputs import (
    EMBEDDED,
    TARGETS,
    Labelled,
    as_values,
    check_count,
    check_samples,
    labelled,
    load_npz,
    steps_of,
)
from avsnn.convert.accuracy import batches
from avsnn.convert.ir.node import Array
from avsnn.deploy.diff import Comparison, Difference, Side, compare, record
from avsnn.deploy.operands import Operands
from avsnn.deploy.repro import INPUTS, write_repro

ROWS = (
    ("spike", "spike"),
    ("u", "u"),
    ("v", "v after reset"),
    ("v_before", "v one step before"),
    ("potential", "v against threshold"),
    ("threshold", "threshold"),
    ("bias", "bias"),
    ("arrived", "synaptic input"),
    ("answer", "answer"),
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("a", metavar="A", help="BUNDLE, BUNDLE:STAGE or BUNDLE@BACKEND")
    parser.add_argument("b", metavar="B", help="the same")
    parser.add_argument("--input", metavar="FILE.npz", help="inputs by name, or avdigits (default: generated inputs)")
    parser.add_argument("--samples", type=int, default=8, help="only the first N (default 8)")
    parser.add_argument(
        "--repro", metavar="DIR", help="write the differing layer alone, with its inputs, as two bundles"
    )
    parser.add_argument("--timeout", type=float, default=600.0, metavar="S", help="seconds that Lava may take")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.epilog = (
        "examples:\n"
        "  avsnn diff build/demo build/other --input avdigits\n"
        "  avsnn diff build/demo:folded build/demo:quantised --samples 32\n"
        "  avsnn diff build/demo@cpu build/demo@lava --repro build/repro"
    )


def run(args: argparse.Namespace) -> int:
    """Compare and show."""
    check_count("--samples", args.samples)
    check_count("--timeout", args.timeout)
    a, b = Side.parse(args.a), Side.parse(args.b)
    inputs, name = _inputs(args, a, b)
    found, first, second = compare(a, b, inputs, timeout_s=args.timeout)
    result: dict[str, Any] = {"a": args.a, "b": args.b, "inputs": name, **record(found)}
    if args.repro and found.difference is not None:
        folder, again = write_repro(args.repro, a, b, inputs, (first, second), found.difference, timeout_s=args.timeout)
        command = f"avsnn diff {_again(a, folder / 'a')} {_again(b, folder / 'b')} --input {folder / INPUTS}"
        result["repro"] = {"folder": str(folder), "command": command, "samples": again.samples}
    if args.json:
        print(json.dumps(result, indent=1, sort_keys=True))
    else:
        _show(args, found, name, result)
    return 0 if found.difference is None else 1


def _again(side: Side, folder: Path) -> str:
    """The same stage and back end of another bundle."""
    return f"{folder}@{side.backend}" if side.stage == "scheduled" else f"{folder}:{side.stage}"


def _inputs(args: argparse.Namespace, a: Side, b: Side) -> tuple[dict[str, Array], str]:
    """Inputs that both sides take, cut to the samples wanted, and their name."""
    scheduled = a.bundle.graph("scheduled")
    if args.input is None:
        made = Labelled.generated(scheduled, args.samples)
        inputs, name = dict(made.inputs), made.name
    elif args.input in EMBEDDED:
        known = labelled(args.input, steps=steps_of(scheduled))
        assert known is not None
        inputs, name = dict(known.inputs), known.name
    else:
        inputs, name = as_values(load_npz(args.input), steps_of(scheduled)), args.input
        for target in TARGETS:
            inputs.pop(target, None)
    check_samples(a.graph, inputs, None, name)
    check_samples(b.graph, inputs, None, f"{name}, for {args.b}")
    part, _ = next(batches(scheduled, inputs, np.arange(args.samples), args.samples))
    return part, name


def _show(args: argparse.Namespace, found: Comparison, name: str, result: dict[str, Any]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 120)
    counted = f"{found.spikes:,} spikes and {found.states:,} states of {len(found.populations)} populations"
    on = f"on {found.samples} samples of {name}"
    for side, only in ((args.a, found.only_a), (args.b, found.only_b)):
        if only:
            print(f"only in {side}: {', '.join(only)}")
    if found.difference is None:
        print(f"equal: {counted} {on}, and every answer")
        if found.silent:
            print(f"silent, so nothing is known of them: {', '.join(found.silent)}")
        return
    d = found.difference
    where = "" if d.step is None else f"step {d.step}, "
    print(f"{d.node}: first difference ({d.what}) at {where}sample {d.sample}, neuron {d.neuron}, {on}")
    print(f"{d.values[0]:,} of {d.values[1]:,} values of {d.node} differ; everything before it is equal")
    console.print(_table(args, d))
    for line in _reading(d):
        print(line)
    if "repro" in result:
        print(f"repro: {result['repro']['command']}")


def _table(args: argparse.Namespace, d: Difference) -> Table:
    table = Table("", args.a, args.b, box=None, header_style="")
    for key, label in ROWS:
        one, two = getattr(d.a, key), getattr(d.b, key)
        if one is not None or two is not None:
            table.add_row(label, _text(one), _text(two), style="bold" if one != two else "")
    for name in dict.fromkeys([*d.a.delivered, *d.b.delivered]):
        one, two = d.a.delivered.get(name), d.b.delivered.get(name)
        table.add_row(f"  from {name}", _text(one), _text(two), style="bold" if one != two else "")
    return table


def _text(value: float | bool | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool | np.bool_):
        return "1" if value else "0"
    return f"{value:,}" if isinstance(value, int) else f"{value:.12g}"


def _reading(d: Difference) -> list[str]:
    """What the numbers say, in words."""
    lines = []
    for name, operands in (("A", d.a), ("B", d.b)):
        late = _out_of_time(operands)
        if late is not None:
            due = f"the spikes of this step make {late:,}"
            lines.append(f"in {name} {operands.arrived:,} arrived where {due}: a delay or reset is wrong")
    return lines


def _out_of_time(operands: Operands) -> int | None:
    """What should have arrived, if that is not what did (integers only)."""
    if not isinstance(operands.arrived, int):
        return None
    due = sum(int(x) for x in operands.delivered.values())
    return due if due != operands.arrived else None
