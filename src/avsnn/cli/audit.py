"""Checks a published table of operations and energies for numbers that contradict each other.

The table is a CSV file with one row per network; every column is optional, and a cell may be empty. Numbers are taken
as rounded to their printed digits. Exit code 1 if anything contradicts.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from rich.console import Console
from rich.markup import escape

from avsnn.deploy.audit import COLUMNS, TEXTS, audit

_EXAMPLE = """\
example: a file table.csv that holds

  network,macs [M],rate,energy [uJ],e_ac [pJ]
  ours,18.39,0.1366,0.309,0.9

  avsnn audit table.csv
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("table", metavar="FILE.csv", help="the table, with a header line")
    parser.add_argument("--json", action="store_true", help="plain JSON on standard output")
    columns = [f"  {name:<12} {text}" for name, text in TEXTS.items()]
    for name, (units, text) in COLUMNS.items():
        known = ", ".join(f"[{unit}]" for unit in units if unit)
        columns.append(f"  {name:<12} {text}{'; ' + known if known else ''}")
    parser.epilog = "columns:\n" + "\n".join(columns) + "\n\n" + _EXAMPLE


def run(args: argparse.Namespace) -> int:
    """Print what contradicts."""
    checked, found = audit(args.table)
    wrong = sum(finding.kind == "error" for finding in found)
    if args.json:
        print(json.dumps({"checked": checked, "findings": [asdict(finding) for finding in found]}, indent=2))
    else:
        console = Console(soft_wrap=True, highlight=False)
        for finding in found:
            colour = "red" if finding.kind == "error" else "yellow"
            place = escape(f"{finding.row}: {finding.check}: {finding.text}")
            console.print(f"[{colour}]{finding.kind}[/{colour}] {place}")
        console.print(f"{checked} relations between printed numbers checked, {wrong} contradict")
    return 1 if wrong else 0
