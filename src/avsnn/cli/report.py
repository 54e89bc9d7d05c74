"""Show the report of a bundle: accuracy, proofs, spikes, operations, energy, capabilities; or compare bundles.

Nothing is run again: all of it is read from the bundles.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from avsnn.convert.bundle import Bundle
from avsnn.deploy.reports.compare import compare_table, layers_csv, summary
from avsnn.deploy.reports.html import page_of
from avsnn.deploy.reports.render import render_report
from avsnn.errors import InputError


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("bundles", nargs="+", metavar="DIR", help="folder that avsnn-convert wrote; several: compare")
    parser.add_argument("--json", action="store_true", help="print the report, or what is compared, as JSON")
    parser.add_argument("--html", metavar="FILE", help="write the page report.html of one bundle again")
    parser.add_argument("--csv", metavar="FILE", help="write operations and spikes of every layer")
    parser.add_argument("--force", action="store_true", help="replace FILE if it is there")
    parser.epilog = (
        "examples:\n"
        "  avsnn-report build/demo\n"
        "  avsnn-report build/demo build/net4 --csv layers.csv\n"
        "  avsnn-report build/demo --html demo.html"
    )


def run(args: argparse.Namespace) -> int:
    """Read, print, write."""
    folders = [Path(name) for name in args.bundles]
    if args.html and len(folders) > 1:
        raise InputError("a page shows one bundle", where="--html", found=len(folders), remedy="name one")
    names = [_name(name) for name in args.bundles]
    if len(set(names)) < len(names):
        raise InputError("the same bundle twice", where="avsnn-report", found=", ".join(names))
    if args.html and args.csv and Path(args.html).resolve() == Path(args.csv).resolve():
        raise InputError("the same file as --html", where="--csv", found=args.csv, remedy="name another file")
    for name in (args.html, args.csv):
        _check_place(name, folders, force=args.force)
    reports = {name: _report(folder) for name, folder in zip(names, folders, strict=True)}
    if args.html:
        _write(Path(args.html), page_of(folders[0]))
    if args.csv:
        _write(Path(args.csv), layers_csv(reports))
    _show(args, reports, folders)
    return 0


def _show(args: argparse.Namespace, reports: dict[str, dict[str, Any]], folders: Sequence[Path]) -> None:
    found = {name: summary(report) for name, report in reports.items()} if len(reports) > 1 else None
    if args.json:
        print(json.dumps(found or next(iter(reports.values())), indent=1, sort_keys=True))
        return
    console = Console(width=None if sys.stdout.isatty() else 140)
    if found is not None:
        console.print(compare_table(found))
    else:
        render_report(next(iter(reports.values())), _read(folders[0] / "timing.json"), console)
    for name in (args.html, args.csv):
        if name:
            console.print(f"\nWritten: {name}", soft_wrap=True, markup=False)


def _name(bundle: str) -> str:
    return os.path.normpath(bundle)


def _report(folder: Path) -> dict[str, Any]:
    Bundle.load(folder)  # checks every file against the manifest
    if not (folder / "report.json").is_file():
        raise InputError("bundle has no report", where=str(folder), remedy="avsnn-convert writes one")
    return _read(folder / "report.json")


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # timing.json is not under the manifest
        raise InputError(f"cannot be read ({error})", where=str(path), remedy="convert again") from None
    return dict(value)


def _check_place(name: str | None, folders: Sequence[Path], *, force: bool) -> None:
    """Refuse what must not be replaced, before any work."""
    if name is None:
        return
    path = Path(name)
    if any(path.resolve().is_relative_to(folder.resolve()) for folder in folders):
        raise InputError("lies in the bundle, whose files are sealed", where=name, remedy="name a file outside")
    if path.is_dir() or (path.exists() and not force):
        remedy = "name another file" if path.is_dir() else "name another file, or --force to replace it"
        raise InputError("exists already", where=name, remedy=remedy)


def _write(path: Path, text: str) -> None:
    """The whole file or none of it."""
    partial = path.with_name(f".{path.name}.partial-{secrets.token_hex(4)}")
    try:
        partial.write_text(text, encoding="utf-8", newline="")
        partial.replace(path)
    except OSError as error:
        raise InputError(f"cannot be written ({error.strerror or error})", where=str(path)) from None
    finally:
        with contextlib.suppress(OSError):  # there is none, or nowhere it could be
            partial.unlink()
