"""List, describe and generate the embedded data sets, and read pairs of your own."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from avsnn.errors import InputError

_EXAMPLE = """example:
  avsnn data list
  avsnn data info avdigits
  avsnn data make avdigits --count 2000 --split test --out test.npz
  avsnn data make sloclas-sim rooms=unseen --count 500 --split test --out unseen.npz
  avsnn data make pairs root=my/pairs image_mode=rgb --split all --out mine.npz
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
        help="generate or read samples into an npz file",
        description="Write inputs and targets (see: avsnn data info NAME) to an npz file that avsnn-run reads. "
        "The same options give the same numbers everywhere.",
        epilog="example: avsnn data make avdigits level=easy --count 2000 --split test --out test.npz",
    )
    for verb in (info, make):
        verb.add_argument("name", metavar="NAME", help="data set, see: avsnn data list")
    make.add_argument("values", nargs="*", metavar="key=value", help="options, see: avsnn data info NAME")
    make.add_argument("--count", type=int, metavar="N", help="number of samples; for pairs of your own default: all")
    make.add_argument("--split", default="train", metavar="S", help="train, val or test (default: train)")
    make.add_argument("--seed", type=int, metavar="K", help="default: 0 for train, 1 for val, 2 for test")
    make.add_argument("--level", metavar="L", help="easy, mid, harder or hard; the same as level=L")
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
    from avsnn.train.data.catalogue import CATALOGUE, summarise

    if args.json:
        _print_json([summarise(entry) for entry in CATALOGUE.values()])
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "inputs", "classes", "counts", "licence")
    for entry in CATALOGUE.values():
        counts = ", ".join(f"{key}: {value}" for key, value in entry.counts.items())
        table.add_row(entry.name, ", ".join(entry.modalities), str(entry.classes or "yours"), counts, entry.licence)
    Console().print(table)
    return 0


def _info(args: argparse.Namespace) -> int:
    from avsnn.train.data.catalogue import describe, find

    facts = describe(find(args.name))
    if args.json:
        _print_json(facts)
        return 0
    print(f"{facts['name']}: {facts['summary']}\n{facts['classes'] or 'your'} classes, licence: {facts['licence']}")
    print("\narrays")
    for name, array in facts["arrays"].items():
        shape = ", ".join(str(size) for size in array["shape"])
        print(f"  {name}: ({shape}) {array['dtype']}, {array['meaning']}")
    print("\noptions")
    for name, option in facts["options"].items():
        default = option["default"]
        print(f"  {name}={','.join(default) if isinstance(default, tuple) else default}  {option['meaning']}")
    print("\nsplits")
    for name, split in facts.get("splits", {}).items():
        voices = ", ".join(split["voices"])
        print(f"  {name}: {split['images']} images, {split['words']} words by {voices}; default seed {split['seed']}")
    print(f"  {facts['split_rule']}")
    if "levels" in facts:
        print("\nlevels: " + ", ".join(facts["levels"]))
    if frozen := facts.get("frozen"):
        print(f"\nfrozen set {frozen['name']}: {frozen['count']} test pairs\n  sha256 {frozen['sha256']}")
    if facts["credits"]:
        print("\ncredits\n  " + "\n  ".join(facts["credits"]))
    return 0


def _make(args: argparse.Namespace) -> int:
    from avsnn.train.data import cache, catalogue
    from avsnn.train.data.dataset import Dataset, saved

    texts = [*args.values, *([f"level={args.level}"] if args.level is not None else [])]
    values = catalogue.parse(args.name, texts)
    _check_target(args.out, args.force)
    with _Progress("making samples") as progress:
        data = catalogue.make(
            args.name,
            args.count,
            split=args.split,
            seed=args.seed,
            values=values,
            progress=progress.show,
            use_cache=False,
        )
    arrays = saved(data)
    try:
        cache.write_atomically(args.out, arrays, compress=True)
    except OSError as error:
        raise InputError(
            "cannot write", where=str(args.out), found=error.strerror, remedy="choose another --out"
        ) from error
    digest = cache.digest(arrays)
    notes = data.notes if isinstance(data, Dataset) else ()
    if args.json:
        facts = {"name": args.name, "out": str(args.out), "count": len(data), "sha256": digest}
        _print_json({**facts, "classes": data.labels, "notes": notes})
    else:
        print(f"{args.out}: {len(data)} samples of {len(data.labels)} classes\nsha256 {digest}")
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
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
