"""Checks of a parsed TOML table: known keys, right types, known words, right units. Every problem says file and key."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import MISSING
from typing import Any, NoReturn

from avsnn.errors import ProfileError
from avsnn.hw_profiles.toml_file import TomlFile

NULL = "null"  # TOML has no null: this string says "exists, not published"
LARGEST = 1e15  # so that sums of counts times constants stay finite; no chip has a number like that
SHOWN = 80  # characters of a user's key or text that a message repeats
UNITS = {
    "energy": ("fJ", "pJ", "nJ", "uJ", "mJ", "J"),
    "power": ("nW", "uW", "mW", "W", "kW"),
    "time": ("ps", "ns", "us", "ms", "s"),
    "voltage": ("mV", "V"),
    "rate": ("Hz", "kHz", "MHz", "GHz"),
    "size": ("bit", "bits", "byte", "bytes", "kB", "KiB", "MB", "MiB"),
}
"""Quantity to the units that end a key, in small letters there; which one a profile uses, its keys say."""
QUANTITY = {unit.lower(): quantity for quantity, units in UNITS.items() for unit in units}
PRINTED = {unit.lower(): unit for units in UNITS.values() for unit in units}


class AbandonedError(Exception):
    """A part of the file could not be read; why is among the problems."""


class TableChecks:
    """Checks on behalf of one file, which collect `problems`: `ProfileError` whose place is ``file:line: key``.

    A check that fails abandons the entry that it stands in (`part`), so that what follows is checked, too.
    """

    def __init__(self, name: str, file: TomlFile) -> None:
        self.name, self.file = name, file
        self.problems: list[tuple[int, ProfileError]] = []  # with its line, 0 if it has none

    @contextmanager
    def part(self) -> Iterator[None]:
        """What is abandoned in here goes no further."""
        with suppress(AbandonedError):
            yield

    def keys(self, where: str, table: Any, known: Mapping[str, bool], *, unit: str = "") -> None:
        """Refuse unknown keys, naming the nearest valid one, and missing ones.

        ``unit``: that of every number in this table, whose keys therefore carry none.
        """
        if not isinstance(table, dict):
            self.fail(where, "a table is needed", table)
        prefix = f"{where}." if where else ""
        meant = set()
        for key in table:
            if key not in known:
                right = _in_unit(key, known)
                if right or (unit and (_unit(key) or key in ("unit", "units"))):
                    self.unit_slip(f"{prefix}{key}", key, right, unit)
                    meant.add(right)
                    continue
                near = difflib.get_close_matches(key[:SHOWN], known, 1, 0.5)
                meant |= set(near)
                remedy = f"did you mean {near[0]!r}?" if near else ""
                self.problem(f"{prefix}{key}", "unknown key", limit=", ".join(sorted(known)), remedy=remedy)
        missing = [key for key, required in known.items() if required and key not in table]
        for key in missing:
            if key not in meant:  # else the same mistake has been named
                self.problem(f"{prefix}{key}", "missing")
        if missing:
            raise AbandonedError

    def unit_slip(self, where: str, key: str, right: str, unit: str) -> None:
        """A key that carries a unit where none, or another one, belongs."""
        must, found = _unit(right) or unit, _unit(key)
        name = right or key.rpartition("_")[0]
        if unit and found and QUANTITY[found] != QUANTITY[unit]:
            remedy = f"no {QUANTITY[found]} stands in this table"
        else:
            remedy = f"convert the number and name it {name!r}" if name else "convert the number and leave this out"
        what = f"a unit slip, it must be in {PRINTED[must]}" if must else "a unit slip, it has no unit in its name"
        self.problem(where, what, remedy=remedy)

    def record(self, where: str, table: Any, kind: Any, names: str) -> dict[str, Any]:
        """Return the table's values for these fields of ``kind``, checked against the annotations."""
        fields = {name: kind.__dataclass_fields__[name] for name in names.split()}
        required = {
            name: field.default is MISSING and field.default_factory is MISSING for name, field in fields.items()
        }
        self.keys(where, table, required)
        values = {name: None if value == NULL else value for name, value in table.items() if name in fields}
        wrong = [name for name, value in values.items() if not _matches(value, str(fields[name].type))]
        for name in wrong:
            self.problem(f"{where}.{name}", "wrong type", table[name], fields[name].type)
        if wrong:
            raise AbandonedError
        return values

    def many(self, key: str, table: dict[str, Any]) -> list[Any]:
        """Return the array of tables at ``key``, empty if it is missing."""
        entries = table.get(key, [])
        if not isinstance(entries, list):
            self.fail(key, f"an array of tables is needed, [[{key}]]", entries)
        return list(entries)

    def number(self, where: str, value: Any) -> float:
        """Return a finite number as a float."""
        if isinstance(value, str) and value.strip().lower() in ("", "none", "nan", "n/a", "na", "unknown", "?", "-"):
            self.fail(where, "a finite number is needed", value, remedy=f'what is not published is "{NULL}"')
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
            self.fail(where, "a finite number is needed", value, f"{LARGEST:g}")
        return float(value)

    def one_of(self, where: str, value: Any, known: Collection[str]) -> None:
        """Refuse a word that is not in ``known``."""
        if not isinstance(value, str) or value not in known:
            self.fail(where, "unknown value", value, ", ".join(known))

    def text(self, where: str, value: Any) -> None:
        """Refuse texts that a terminal would not just print."""
        texts = value if isinstance(value, list) else [value]
        if any(isinstance(each, str) and not each.isprintable() for each in texts):
            self.problem(where, "a text holds characters that cannot be printed", value)

    def problem(self, key: str, what: str, found: object = None, limit: object = None, *, remedy: str = "") -> None:
        """Note what is wrong, with file, line and key."""
        line = self.file.line(key)
        where = f"{self.name}: {_shown(key)}" if line is None else f"{self.name}:{line}: {_shown(key)}"
        error = ProfileError(what, where=where, found=_found(found), limit=limit, remedy=remedy)
        self.problems.append((line or 0, error))

    def fail(self, key: str, what: str, found: object = None, limit: object = None, *, remedy: str = "") -> NoReturn:
        """Note what is wrong, and read no more of this part."""
        self.problem(key, what, found, limit, remedy=remedy)
        raise AbandonedError


def _unit(key: str) -> str:
    """The unit that a key ends with, if it does.

    >>> _unit("energy_nj"), _unit("sop"), _unit("pj")
    ('nj', '', 'pj')
    """
    last = key.rpartition("_")[2].lower()
    return last if last in QUANTITY else ""


def _in_unit(key: str, known: Mapping[str, bool]) -> str:
    """The known key that says the same in another unit, or without one.

    >>> _in_unit("energy_nj", {"energy_pj": True}), _in_unit("value_nj", {"value": True}), _in_unit("a", {"b": True})
    ('energy_pj', 'value', '')
    """
    unit, base = _unit(key), key.rpartition("_")[0]
    if not unit or not base:
        return ""
    same = (other for other in known if other.rpartition("_")[0] == base and _unit(other))
    return next(same, base if base in known else "")


def _shown(text: str) -> str:
    """A key of the user's, short and without what a terminal would act on."""
    short = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
    return short if short.isprintable() else ascii(short)


def _found(value: object) -> object:
    """Anything of the user's, as a message may repeat it; numbers stay numbers."""
    if value is None or (isinstance(value, int | float) and abs(value) <= LARGEST):
        return value
    try:
        return _shown(repr(value))
    except ValueError:  # an integer of more digits than Python prints
        return "a number of thousands of digits"


def _matches(value: object, annotation: str) -> bool:
    """Whether a TOML value is of the type that a dataclass field is annotated with."""
    match value:
        case None:
            return "None" in annotation
        case bool():
            return annotation == "bool"
        case int() | float() if not abs(value) <= LARGEST:
            return False
        case int():
            return annotation.split(" ")[0] in ("int", "float")
        case float():
            return annotation.split(" ")[0] == "float" and math.isfinite(value)
        case str():
            return annotation.split(" ")[0] == "str"
        case list():
            return "[str" in annotation and all(isinstance(item, str) for item in value)
        case _:
            return False
