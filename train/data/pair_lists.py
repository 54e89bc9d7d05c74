"""A folder, or a manifest in CSV or JSON, becomes a checked list of pairs: which image, which sound, which class.

Folder: ``ROOT/CLASS/name.png`` beside ``ROOT/CLASS/name.wav``; if ROOT has folders ``train``, ``val`` or ``test``, the
class folders lie in those. CSV: columns ``image``, ``audio``, ``label``, and ``split`` if wanted. JSON: a list of
objects with these keys, or ``{"classes": [names], "pairs": [objects]}``. Paths are relative to the manifest.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from avsnn.errors import InputError
from avsnn.train.data.media import IMAGE_SUFFIXES, SOUND_SUFFIXES

SPLITS = ("train", "val", "test")
_SHARES = (("train", 0.7), ("val", 0.8), ("test", 1.0))
_KEYS = ("image", "audio", "label", "split")
_MOST_CLASSES = 10_000

Row = tuple[str, Mapping[str, Any]]
"""Where a pair is listed, and what is written there."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One image and one sound.

    Args:
        where: for messages: the path, or the line of a manifest.
        image: path.
        audio: path.
        label: number of the class.
        split: one of `SPLITS`.
    """

    where: str
    image: Path
    audio: Path
    label: int
    split: str


@dataclass(frozen=True, kw_only=True)
class PairList:
    """All pairs in a fixed order, the names of the classes, and what was passed over."""

    pairs: tuple[Pair, ...]
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()


def listed(root: Path, classes: Sequence[str]) -> PairList:
    """List the pairs of a folder or a manifest.

    Args:
        root: the folder, or a file that ends in ``.csv`` or ``.json``.
        classes: names of the classes in the order of their numbers; empty: the names found, in alphabetical order.

    Raises:
        InputError: nothing there, a file without partner, an unknown label, a manifest that is none.
    """
    if root.is_dir():
        return _from_folder(root, tuple(classes))
    if not root.exists():
        raise InputError("no such folder or file", where=str(root), remedy="give root=FOLDER, or a .csv, .json or .npz")
    match root.suffix.lower():
        case ".csv":
            return _from_rows(root, _csv_rows(root), tuple(classes))
        case ".json":
            named, rows = _json_rows(root)
            return _from_rows(root, rows, tuple(classes) or named)
        case suffix:
            raise InputError("unknown kind of list", where=str(root), found=suffix, limit="folder, .csv, .json, .npz")


def split_of(key: str) -> str:
    """Where a pair belongs that says nothing itself: 70 % train, 10 % val, 20 % test by the hash of its name.

    Other pairs do not matter, so adding files moves none.
    """
    share = int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()[:4], "big") / 2**32
    return next(split for split, end in _SHARES if share < end)


def class_numbers(
    labels: Sequence[Any], places: Sequence[str], classes: tuple[str, ...]
) -> tuple[list[int], tuple[str, ...]]:
    """Numbers and names of the classes that `labels` mean: whole numbers by themselves, other texts by name.

    Raises:
        InputError: a number out of range, or a name that is not in `classes`.
    """
    texts = [str(label).strip() for label in labels]
    if all(_is_whole(text) for text in texts):
        numbers = [int(text) for text in texts]
        most = len(classes) if classes else _MOST_CLASSES
        for number, where in zip(numbers, places, strict=True):
            if not 0 <= number < most:
                raise InputError("label out of range", where=where, found=number, limit=f"0 to {most - 1}")
        return numbers, classes or tuple(str(k) for k in range(max(numbers, default=-1) + 1))
    names = classes or tuple(sorted(set(texts)))
    for text, where in zip(texts, places, strict=True):
        if text not in names or not text:
            near = difflib.get_close_matches(text, names, n=1)
            remedy = f"did you mean {near[0]}?" if near and text else "name it in classes"
            raise InputError("unknown class", where=where, found=repr(text), limit=", ".join(names), remedy=remedy)
    return [names.index(text) for text in texts], names


def _is_whole(text: str) -> bool:
    return text.removeprefix("-").isdecimal()


def _from_folder(root: Path, classes: tuple[str, ...]) -> PairList:
    parts = [root / name for name in SPLITS if (root / name).is_dir()]
    found: list[tuple[str, Pair]] = []
    passed: list[Path] = []
    names: set[str] = set()
    for part in parts or [root]:
        for folder in _class_folders(part):
            names.add(folder.name)
            pairs, others = _partners(folder)
            passed += others
            for image, audio in pairs:
                split = part.name if parts else split_of(f"{folder.name}/{image.stem}")
                found.append((folder.name, Pair(where=str(image), image=image, audio=audio, label=0, split=split)))
    for name in sorted(names):
        if classes and name not in classes:
            raise InputError(
                "folder of no class", where=str(root), found=name, limit=", ".join(classes), remedy="name it in classes"
            )
    known = classes or tuple(sorted(names))
    pairs_out = tuple(replace(pair, label=known.index(name)) for name, pair in found)
    notes = (f"{len(passed)} files are neither image nor sound (first: {passed[0]})",) if passed else ()
    return PairList(pairs=pairs_out, classes=known, notes=notes)


def _class_folders(part: Path) -> list[Path]:
    inside = sorted(p for p in part.iterdir() if not p.name.startswith("."))
    folders = [p for p in inside if p.is_dir()]
    loose = [p for p in inside if p.suffix.lower() in (*IMAGE_SUFFIXES, *SOUND_SUFFIXES)]
    if not inside:
        raise InputError("folder is empty", where=str(part), remedy="put one folder per class into it")
    if loose or not folders:
        found = loose[0].name if loose else ", ".join(p.name for p in inside[:3])
        raise InputError(
            "only folders, one per class, are expected", where=str(part), found=found, remedy="or list pairs in a CSV"
        )
    return folders


def _partners(folder: Path) -> tuple[list[tuple[Path, Path]], list[Path]]:
    """Image and sound of each name in a class folder, and files that are neither."""
    kinds: dict[str, dict[str, list[Path]]] = {"image": defaultdict(list), "sound": defaultdict(list)}
    others = []
    for path in sorted(p for p in folder.iterdir() if not p.name.startswith(".")):
        suffix = path.suffix.lower()
        if suffix in IMAGE_SUFFIXES:
            kinds["image"][path.stem].append(path)
        elif suffix in SOUND_SUFFIXES:
            kinds["sound"][path.stem].append(path)
        else:
            others.append(path)
    for kind, other in (("image", "sound"), ("sound", "image")):
        for stem, paths in kinds[kind].items():
            if len(paths) > 1:
                raise InputError(f"two {kind}s of one name", where=str(paths[1]), found=f"{paths[0].name} as well")
            if stem not in kinds[other]:
                raise InputError(
                    f"{kind} without partner",
                    where=str(paths[0]),
                    limit=f"{stem}{' or '.join(IMAGE_SUFFIXES[:2] if other == 'image' else SOUND_SUFFIXES[:1])}",
                    remedy=f"add the {other} beside it, or remove this one",
                )
    if not kinds["image"]:
        raise InputError("class folder has no pairs", where=str(folder), remedy="add pairs, or remove the folder")
    return [(paths[0], kinds["sound"][stem][0]) for stem, paths in kinds["image"].items()], others


def _csv_rows(path: Path) -> list[Row]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows: list[Row] = [(f"{path}:{reader.line_num}", row) for row in reader]
            names = reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"manifest cannot be read ({error})", where=str(path)) from None
    if lacking := [key for key in _KEYS[:3] if key not in names]:
        raise InputError(
            f"no column {', '.join(lacking)}",
            where=str(path),
            found=", ".join(names) or "nothing",
            limit=", ".join(_KEYS),
        )
    return rows


def _json_rows(path: Path) -> tuple[tuple[str, ...], list[Row]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"manifest cannot be read ({error})", where=str(path)) from None
    classes: Any = []
    if isinstance(content, dict):
        classes, content = content.get("classes", []), content.get("pairs")
    if not isinstance(content, list) or not isinstance(classes, list):
        raise InputError('manifest must be a list, or {"classes": [...], "pairs": [...]}', where=str(path))
    rows: list[Row] = []
    for k, row in enumerate(content):
        if not isinstance(row, dict):
            raise InputError("pair is no object", where=f"{path}: pair {k}", found=type(row).__name__)
        rows.append((f"{path}: pair {k}", row))
    return tuple(str(name) for name in classes), rows


def _from_rows(path: Path, rows: list[Row], classes: tuple[str, ...]) -> PairList:
    if not rows:
        raise InputError("manifest lists no pair", where=str(path))
    for where, row in rows:
        for key in _KEYS[:3]:
            if row.get(key) in (None, "") or isinstance(row[key], (dict, list, bool, float)):
                raise InputError(f"pair has no {key}", where=where, found=repr(row.get(key)))
    numbers, names = class_numbers([row["label"] for _, row in rows], [where for where, _ in rows], classes)
    pairs = []
    for (where, row), number in zip(rows, numbers, strict=True):
        image, audio = (path.parent / str(row[key]) for key in ("image", "audio"))
        for file, kind in ((image, "image"), (audio, "sound")):
            if not file.is_file():
                raise InputError(f"no such {kind} file", where=where, found=str(file))
        split = str(row.get("split") or split_of(f"{row['image']}"))
        if split not in SPLITS:
            raise InputError("unknown split", where=where, found=split, limit=", ".join(SPLITS))
        pairs.append(Pair(where=where, image=image, audio=audio, label=number, split=split))
    return PairList(pairs=tuple(pairs), classes=names)
