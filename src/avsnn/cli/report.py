"""Show the report of a bundle: accuracy, proofs, spikes, operations, energy, capabilities."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console

from avsnn.convert.bundle import Bundle
from avsnn.deploy.reports.render import render_report
from avsnn.errors import InputError


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("bundle", help="folder that avsnn-convert wrote")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.epilog = "example: avsnn-report build/demo"


def run(args: argparse.Namespace) -> int:
    """Read and print."""
    folder = Path(args.bundle)
    Bundle.load(folder)  # checks every file against the manifest
    if not (folder / "report.json").is_file():
        raise InputError("bundle has no report", where=args.bundle, remedy="avsnn-convert writes one")
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    if args.json:
        print(json.dumps(report, indent=1, sort_keys=True))
        return 0
    timing = json.loads((folder / "timing.json").read_text(encoding="utf-8"))
    render_report(report, timing, Console(width=None if sys.stdout.isatty() else 140))
    return 0
