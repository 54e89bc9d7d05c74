"""Show the report of a bundle: accuracy, proofs, spikes, operations, energy, capabilities."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

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
    report = _read(folder / "report.json")
    if args.json:
        print(json.dumps(report, indent=1, sort_keys=True))
        return 0
    render_report(report, _read(folder / "timing.json"), Console(width=None if sys.stdout.isatty() else 140))
    return 0


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # timing.json is not under the manifest
        raise InputError(f"cannot be read ({error})", where=str(path), remedy="convert again") from None
    return dict(value)
