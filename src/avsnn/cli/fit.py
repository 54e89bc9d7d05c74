"""Does a network fit a chip? Cores, chips and how full they are, for every profile; or what does not fit, and a remedy.

MODEL is a checkpoint or a bundle. A checkpoint is quantised for --target, without proofs: seconds. The same integers
are then cut over the cores of every profile; where its numbers are intervals, so is the number of cores. What a maker
has not published is not checked, and named.
Exit code 0: it fits at least one chip; 2: none, or another error.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from avsnn.cli.inputs import check_count
from avsnn.convert.bundle import Bundle
from avsnn.convert.ir.graph import Graph
from avsnn.deploy.fit import FITS, NO_CORES, Fit, fit
from avsnn.deploy.reports.cores import USED, beside_in_words, utilisation
from avsnn.errors import InputError
from avsnn.hw_profiles.profile import load_profile, profile_names


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("model", metavar="MODEL", help="checkpoint (.pt), or the folder of a bundle")
    parser.add_argument("--target", help="profile that a checkpoint is quantised for (default loihi2)")
    parser.add_argument("--weight-bits", type=int, help="fewer than the target stores")
    parser.add_argument("--profiles", metavar="NAMES", help="names or .toml files, comma separated (default: all)")
    parser.add_argument("--chips", type=int, metavar="N", help="as many as there are (default: any number)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.epilog = (
        "examples:\n"
        "  avsnn fit examples/models/avdigits-tiny.pt\n"
        "  avsnn fit build/demo --profiles loihi2,my_chip.toml --chips 1 --json"
    )


def run(args: argparse.Namespace) -> int:
    """Judge and show."""
    check_count("--chips", args.chips)
    names = profile_names() if args.profiles is None else [name for name in args.profiles.split(",") if name]
    profiles = [each for each in map(load_profile, names) if args.profiles is not None or not each.only_compares]
    if not profiles:
        raise InputError("no profile", where="--profiles", limit=", ".join(profile_names()))
    graph = _graph(args)
    found = [fit(graph, profile, chips=args.chips) for profile in profiles]
    if args.json:
        print(json.dumps([each.to_json() for each in found], indent=1, sort_keys=True))
    else:
        _show(found, args.model)
    judged = [each.verdict for each in found if each.verdict != NO_CORES]
    return 0 if FITS in judged or not judged else 2


def _graph(args: argparse.Namespace) -> Graph:
    if Path(args.model).is_dir():
        for option, value in (("--target", args.target), ("--weight-bits", args.weight_bits)):
            if value is not None:
                raise InputError("a bundle has its integers", where=option, remedy="leave it out")
        return Bundle.load(args.model).graph("scheduled")
    from avsnn.convert.unproved import scheduled_integers
    from avsnn.train.checkpoints import load

    profile = load_profile(args.target or "loihi2")
    return scheduled_integers(load(args.model), profile, weight_bits=args.weight_bits)


def _show(found: list[Fit], model: str) -> None:
    console = Console(width=None if sys.stdout.isatty() else 140)
    table = Table(title=f"Does {model} fit?", title_justify="left", box=None, pad_edge=False)
    for name in ("profile", "verdict", "cores", "chips", "how full a core is (mean, most)"):
        table.add_column(name, justify="right" if name in ("cores", "chips") else "left", overflow="fold")
    for each in found:
        chips = "-" if each.mapping is None else str(each.mapping.chips)
        table.add_row(each.profile, each.verdict, _cores(each), chips, _full(each))
    console.print(table)
    for each in found:
        if each.refusal is not None:
            console.print(f"{each.profile}: {each.refusal}", soft_wrap=True, markup=False, highlight=False)
        if each.not_checked:
            known = ", ".join(each.not_checked)
            console.print(f"{each.profile}: not checked: {known}", soft_wrap=True, markup=False, highlight=False)
        for line in () if each.mapping is None else beside_in_words(asdict(each.mapping)):
            console.print(f"{each.profile}: {line}", soft_wrap=True, markup=False, highlight=False)


def _cores(each: Fit) -> str:
    """How many, and how many if every number of the profile is as bad as its interval allows."""
    if each.mapping is None:
        return "-"
    least = len(each.mapping.cores)
    if each.most_cores is None:
        return f"{least}, perhaps none"
    return str(least) if each.most_cores == least else f"{least} to {each.most_cores}"


def _full(each: Fit) -> str:
    if each.mapping is None:
        return "-"
    shares = utilisation({"cores": [vars(core) for core in each.mapping.cores], "limits": each.mapping.limits})
    return ", ".join(f"{USED[k]} {100 * s['mean']:.0f} %, {100 * s['most']:.0f} %" for k, s in shares.items())
