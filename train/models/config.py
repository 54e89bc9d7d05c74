"""Values by name, from a file or the command line, to a checked frozen configuration and back to plain JSON.

A configuration is a frozen dataclass whose fields are numbers, strings, booleans, and tuples of these; the types in
its annotations decide how a text is read.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from avsnn.errors import InputError

C = TypeVar("C")


def build_config(kind: type[C], values: Mapping[str, Any]) -> C:
    """Return ``kind(**values)`` after checking that every name exists and every value has its type.

    Raises:
        InputError: an unknown name (the nearest valid one is given) or a value of another type.
    """
    types = get_type_hints(kind)
    for name in values:
        if name not in types:
            raise unknown_name(name, types, where=kind.__name__)
    return kind(**{name: _fit(value, types[name], f"{kind.__name__}.{name}") for name, value in values.items()})


def parse_overrides(kind: type[Any], pairs: Sequence[str]) -> dict[str, Any]:
    """Return the values that texts such as ``dim=64`` or ``modalities=image,audio`` give to fields of ``kind``.

    Raises:
        InputError: no ``=``, an unknown name, or a text that is no value of the field's type.
    """
    types, values = get_type_hints(kind), {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise InputError("is not of the form key=value", where=pair)
        if name not in types:
            raise unknown_name(name, types, where=pair)
        values[name] = _parse(text, types[name], where=pair)
    return values


def plain(config: Any) -> dict[str, Any]:
    """Return the fields of ``config`` as JSON knows them (tuples become lists)."""
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return values


def unknown_name(name: str, known: Mapping[str, Any], *, where: str) -> InputError:
    """Return the error for ``name``, with the nearest of ``known`` as remedy."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    remedy = f"did you mean {near[0]}?" if near else ""
    return InputError("unknown name", where=where, found=repr(name), limit=", ".join(known), remedy=remedy)


def _fit(value: Any, kind: Any, where: str) -> Any:
    """Return ``value`` as ``kind``, where a list may stand for a tuple and an integer for a float."""
    if get_origin(kind) is tuple:
        if not isinstance(value, (list, tuple)):
            raise InputError("is not a list", where=where, found=repr(value))
        return tuple(_fit(item, get_args(kind)[0], where) for item in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise InputError(f"is not of type {kind.__name__}", where=where, found=repr(value))
    return value


def _parse(text: str, kind: Any, *, where: str) -> Any:
    if get_origin(kind) is tuple:
        return tuple(_parse(item, get_args(kind)[0], where=where) for item in text.split(",") if item)
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise InputError("is not a truth value", where=where, found=repr(text), limit="true or false")
        return text.lower() == "true"
    try:
        return kind(text)
    except ValueError:
        raise InputError(f"is not of type {kind.__name__}", where=where, found=repr(text)) from None
