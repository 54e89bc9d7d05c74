"""Checks of a parsed TOML table: known keys, right types, known words. Errors say file and key."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Mapping
from dataclasses import MISSING
from typing import Any, NoReturn

from avsnn.errors import ProfileError

NULL = "null"  # TOML has no null: this string says "exists, not published"


class TableChecks:
    """Checks on behalf of one file; every failure is a `ProfileError` whose place is ``file: key``."""

    def __init__(self, file: str) -> None:
        self.file = file

    def keys(self, where: str, table: Any, known: Mapping[str, bool]) -> None:
        """Refuse unknown keys, naming the nearest valid one, and missing ones."""
        if not isinstance(table, dict):
            self.fail(where, "a table is needed", repr(table))
        prefix = f"{where}." if where else ""
        for key in table:
            if key not in known:
                near = difflib.get_close_matches(key, known, 1, 0.5)
                remedy = f"did you mean {near[0]!r}?" if near else ""
                self.fail(f"{prefix}{key}", "unknown key", limit=", ".join(sorted(known)), remedy=remedy)
        for key, required in known.items():
            if required and key not in table:
                self.fail(f"{prefix}{key}", "missing")

    def record(self, where: str, table: Any, kind: Any, names: str) -> dict[str, Any]:
        """Return the table's values for these fields of ``kind``, checked against the annotations."""
        fields = {name: kind.__dataclass_fields__[name] for name in names.split()}
        required = {
            name: field.default is MISSING and field.default_factory is MISSING for name, field in fields.items()
        }
        self.keys(where, table, required)
        values = {name: None if value == NULL else value for name, value in table.items()}
        for name, value in values.items():
            annotation = str(fields[name].type)
            if not _matches(value, annotation):
                self.fail(f"{where}.{name}", "wrong type", repr(value), annotation)
        return values

    def many(self, key: str, table: dict[str, Any]) -> list[Any]:
        """Return the array of tables at ``key``, empty if it is missing."""
        entries = table.get(key, [])
        if not isinstance(entries, list):
            self.fail(key, f"an array of tables is needed, [[{key}]]", entries)
        return list(entries)

    def number(self, where: str, value: Any) -> float:
        """Return a finite number as a float."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            self.fail(where, "a finite number is needed", repr(value))
        return float(value)

    def one_of(self, where: str, value: Any, known: Collection[str]) -> None:
        """Refuse a word that is not in ``known``."""
        if value not in known:
            self.fail(where, "unknown value", repr(value), ", ".join(known))

    def fail(self, key: str, what: str, found: object = None, limit: object = None, *, remedy: str = "") -> NoReturn:
        """Raise, naming file and key."""
        raise ProfileError(what, where=f"{self.file}: {key}", found=found, limit=limit, remedy=remedy)


def _matches(value: object, annotation: str) -> bool:
    """Whether a TOML value is of the type that a dataclass field is annotated with."""
    match value:
        case None:
            return "None" in annotation
        case bool():
            return annotation == "bool"
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
