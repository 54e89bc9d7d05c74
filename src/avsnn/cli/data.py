"""List, describe and generate the embedded data sets."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from avsnn.errors import InputError

_EXAMPLE = """example:
  avsnn data list
  avsnn data info avdigits
  avsnn data make avdigits --count 2000 --split test --out test.npz
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verbs and their options."""
    parser.epilog = _EXAMPLE
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    listing = verbs.add_parser("list", help="one line per data set", epilog="example: avsnn data list")
    info = verbs.add_parser(
        "info",
        help="shapes, ranges, splits, credits and hash of one data set",
        epilog="example: avsnn data info avdigits --json",
    )
    make = verbs.add_parser(
        "make",
        help="generate pairs into an npz file",
        description="Write the arrays image, audio (uint8) and label (int64) to an npz file. "
        "The same options give the same integers everywhere.",
        epilog="example: avsnn data make avdigits --count 2000 --split test --out test.npz",
    )
    for verb in (info, make):
        verb.add_argument("name", metavar="NAME", help="data set, see: avsnn data list")
    make.add_argument("--count", type=int, required=True, metavar="N", help="number of pairs")
    make.add_argument("--split", default="train", metavar="S", help="train, val or test (default: train)")
    make.add_argument("--seed", type=int, metavar="K", help="default: 0 for train, 1 for val, 2 for test")
    make.add_argument("--level", default="mid", metavar="L", help="easy, mid, harder or hard (default: mid)")
    make.add_argument("--out", type=Path, required=True, metavar="FILE", help="npz file to write")
    make.add_argument("--force", action="store_true", help="replace an existing file")
    for verb in (listing, info, make):
        verb.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Do what the verb says; return the exit code."""
    match args.verb:
        case "list":
            return _list(args)
        case "info":
            return _info(args)
        case "make":
            return _make(args)
        case _:
            raise InputError("unknown verb", where="avsnn data", found=args.verb, limit="list, info, make")


def _list(args: argparse.Namespace) -> int:
    from avsnn.train.data.catalogue import CATALOGUE

    if args.json:
        _print_json([asdict(entry) for entry in CATALOGUE.values()])
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "modalities", "classes", "counts", "licence")
    for entry in CATALOGUE.values():
        counts = ", ".join(f"{key}: {value}" for key, value in entry.counts.items())
        table.add_row(entry.name, ", ".join(entry.modalities), str(entry.classes), counts, entry.licence)
    Console().print(table)
    return 0


def _info(args: argparse.Namespace) -> int:
    from avsnn.train.data.catalogue import describe, find

    facts = describe(find(args.name))
    if args.json:
        _print_json(facts)
        return 0
    print(f"{facts['name']}: {facts['summary']}\n{facts['classes']} classes, licence: {facts['licence']}")
    print("\narrays")
    for name, array in facts["arrays"].items():
        shape = ", ".join(str(size) for size in array["shape"])
        print(f"  {name}: ({shape}) {array['dtype']}, {array['meaning']}")
    print("\nsplits")
    for name, split in facts["splits"].items():
        voices = ", ".join(split["voices"])
        print(f"  {name}: {split['images']} images, {split['words']} words by {voices}; default seed {split['seed']}")
    print(f"  {facts['split_rule']}")
    print("\nlevels: " + ", ".join(facts["levels"]))
    frozen = facts["frozen"]
    print(f"\nfrozen set {frozen['name']}: {frozen['count']} test pairs\n  sha256 {frozen['sha256']}")
    print("\ncredits\n  " + "\n  ".join(facts["credits"]))
    return 0


def _make(args: argparse.Namespace) -> int:
    from avsnn.train.data import avdigits, cache
    from avsnn.train.data.catalogue import find

    find(args.name)
    _check_target(args.out, args.force)
    with _Progress("making pairs") as progress:
        pairs = avdigits.make(
            args.count, split=args.split, seed=args.seed, level=args.level, progress=progress.show, use_cache=False
        )
    try:
        cache.write_atomically(args.out, pairs.arrays(), compress=True)
    except OSError as error:
        raise InputError(
            "cannot write", where=str(args.out), found=error.strerror, remedy="choose another --out"
        ) from error
    digest = cache.digest(pairs.arrays())
    if args.json:
        _print_json({"name": args.name, "out": str(args.out), "count": len(pairs), "sha256": digest})
    else:
        print(f"{args.out}: {len(pairs)} pairs\nsha256 {digest}")
    return 0


def _check_target(out: Path, force: bool) -> None:
    """Refuse before the work, not after it."""
    where = str(out)
    if out.is_dir():
        raise InputError("is a directory", where=where, remedy="name a file in it with --out")
    if out.exists() and not force:
        raise InputError("file exists", where=where, remedy="choose another --out, or replace it with --force")
    if not out.parent.is_dir():
        raise InputError("its directory does not exist", where=where, remedy="make the directory first")
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise InputError("its directory cannot be written", where=where, remedy="choose another --out")


class _Progress:
    """A bar on standard error while it is a terminal, else nothing."""

    def __init__(self, title: str) -> None:
        from rich.console import Console
        from rich.progress import Progress

        self._bar = Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
        self._task = self._bar.add_task(title, total=None)

    def __enter__(self) -> _Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, done: int, total: int) -> None:
        self._bar.update(self._task, completed=done, total=total)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))
