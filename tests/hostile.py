"""A report in which everything that a network or its data can name is an attack."""

from __future__ import annotations

from typing import Any

EVIL = "</script><img src=x onerror=alert(1)>"
KEYED = ("stages", "differences", "energy", "by_answer", "compared", "margins")  # objects that names are the keys of


def poisoned(value: Any, key: str = "", evil: str = EVIL) -> Any:
    """The same report, in which every text begins like an attack."""
    match value:
        case dict():
            names = (f"{evil}{name}" if key in KEYED and "value" not in value else name for name in value)
            return dict(zip(names, (poisoned(part, name, evil) for name, part in value.items()), strict=True))
        case list():
            return [poisoned(part, "", evil) for part in value]
        case str():
            return evil + value
    return value
