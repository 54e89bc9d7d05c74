"""Turns a TOML file, which may be hostile, into its table and the line that each key stands on."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from avsnn.errors import ProfileError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_BYTES = 1 << 18  # the largest profile that is shipped takes 9 KB
MAX_DEPTH = 16
MAX_DOTS = 200  # in a line: the parser takes quadratic time for a key of many parts
MAX_BRACKETS = 2000  # each may open a level, and a parser may answer too many by a crash
_LONGEST = 50  # lines of one value, beyond which no lines are known: finding its end is quadratic in them


@dataclass(frozen=True, kw_only=True)
class TomlFile:
    """``table`` as parsed, ``raw`` the bytes."""

    table: dict[str, Any]
    raw: bytes

    @cached_property
    def lines(self) -> Mapping[str, int]:
        """Dotted key to line, from 1; entries of arrays count from 0: ``source[1].id``."""
        return _lines(self.raw.decode("utf-8"))

    def line(self, key: str) -> int | None:
        r"""The line of a dotted key, or of the nearest table above it; None if none of them is in the file.

        >>> TomlFile(table={}, raw=b"[chip]\nid = 3").line("chip.id.x[0]")
        2
        """
        while key and key not in self.lines:
            key = key[: max(key.rfind("."), key.rfind("["), 0)]
        return self.lines.get(key)


def read_toml(path: Path) -> TomlFile:
    """Read one file.

    Raises:
        ProfileError: no regular file, larger than `MAX_BYTES`, not UTF-8, not TOML, or made to be slow; the place
            is ``file:line``.
    """
    raw = _bytes(path)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        where = f"{path}:{raw[: error.start].count(10) + 1}"
        found = f"byte 0x{raw[error.start]:02x}"
        raise ProfileError("not UTF-8, so not a TOML file", where=where, found=found) from None
    if (dots := max(line.count(".") for line in text.split("\n"))) > MAX_DOTS:
        raise ProfileError("too many dots in a line", where=str(path), found=dots, limit=MAX_DOTS)
    if (brackets := text.count("[") + text.count("{")) > MAX_BRACKETS:
        raise ProfileError("too many brackets", where=str(path), found=brackets, limit=MAX_BRACKETS)
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        at = re.search(r"at line (\d+)", str(error))
        raise ProfileError("not a TOML file", where=f"{path}:{at[1]}" if at else str(path), found=error) from None
    except RecursionError:
        raise ProfileError("nested too deep", where=str(path), limit=MAX_DEPTH) from None
    except ValueError:  # more digits than Python turns into a number
        raise ProfileError(
            "not a TOML file that can be read: a number of thousands of digits", where=str(path)
        ) from None
    if _depth(table) > MAX_DEPTH:
        raise ProfileError("nested too deep", where=str(path), limit=MAX_DEPTH)
    return TomlFile(table=table, raw=raw)


def _bytes(path: Path) -> bytes:
    """All of a regular file; a pipe or a device would not end."""
    raw = None
    try:
        if path.is_file() or not path.exists():
            with path.open("rb") as file:
                raw = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        found = getattr(error, "strerror", None) or error
        raise ProfileError("cannot read profile", where=str(path), found=found) from None
    if raw is None:
        raise ProfileError("not a file", where=str(path), remedy="name a .toml file")
    if len(raw) > MAX_BYTES:
        raise ProfileError("too large for a profile", where=str(path), limit=f"{MAX_BYTES} bytes")
    return raw


def _depth(table: Any) -> int:
    """How deep dictionaries and lists are nested, without recursion."""
    level, depth = [table], 0
    while level:
        depth += 1
        inner = [each.values() if isinstance(each, dict) else each for each in level]
        level = [item for each in inner for item in each if isinstance(item, dict | list)]
    return depth


def _lines(text: str) -> dict[str, int]:
    found: dict[str, int] = {}
    entries: dict[str, int] = {}  # arrays of tables: how many entries so far
    prefix = ""
    for line, table, is_header in _statements(text):
        if is_header:
            prefix = _opened(table, entries)
            found.update({key: line for key in _parents(prefix) if key not in found})
        else:
            found.update({key: line for key in _keys(table, prefix) if key not in found})
    return found


def _statements(text: str) -> Iterator[tuple[int, dict[str, Any], bool]]:
    """Line, what it says by itself, and whether it is a header: every statement of TOML is a document of its own."""
    start, held = 1, ""
    for number, line in enumerate(text.split("\n"), start=1):
        if not held:
            start = number
        elif number - start > _LONGEST:
            return
        held += line + "\n"
        try:
            table = tomllib.loads(held)
        except (ValueError, RecursionError):  # not the end of the statement
            continue
        if table:
            yield start, table, held.lstrip().startswith("[")
        held = ""


def _opened(table: dict[str, Any], entries: dict[str, int]) -> str:
    """The dotted key of the table that a header opens."""
    key = ""
    while table:
        (name, inner), *_ = table.items()
        key = f"{key}.{name}" if key else name
        if isinstance(inner, list):
            entries[key] = entries.get(key, -1) + 1
            inner = inner[0]
        if key in entries:
            key = f"{key}[{entries[key]}]"
        table = inner
    return key


def _parents(key: str) -> Iterator[str]:
    """The key and every table that it stands in."""
    for end in re.finditer(r"\.|\[|$", key):
        if end.start():
            yield key[: end.start()]


def _keys(value: Any, prefix: str) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            key = f"{prefix}.{name}" if prefix else name
            yield key
            yield from _keys(inner, key)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _keys(inner, f"{prefix}[{i}]")
