"""Texts and attributes to HTML and SVG; whatever is not `Markup` already is escaped, so names can do nothing.

Texts for terminals and tables lose their control characters (`readable`).
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from typing import Any

VOID = ("meta",)  # elements that have no end
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)  # control characters, those that turn the direction of text, and halves of pairs: no file may hold them


class Markup(str):
    """HTML that was built here."""

    __slots__ = ()


def element(name: str, attributes: Mapping[str, object], *children: str) -> Markup:
    """One element; children that are not `Markup` are text. Attributes that are None are left out.

    >>> element("p", {"class": "a"}, "1 < 2")
    '<p class="a">1 &lt; 2</p>'
    """
    start = "".join(f' {key}="{_value(value)}"' for key, value in attributes.items() if value is not None)
    if name in VOID:
        return Markup(f"<{name}{start}>")
    return Markup(f"<{name}{start}>{joined(*children)}</{name}>")


def joined(*children: str) -> Markup:
    """Several pieces one after the other."""
    return Markup("".join(child if isinstance(child, Markup) else escaped(child) for child in children))


def escaped(text: str) -> Markup:
    """Text as it stands; characters that nobody can see, and that can mislead, become a mark."""
    return Markup(html.escape(_UNSEEN.sub("\ufffd", text), quote=True))


def readable(value: Any) -> Any:
    """A JSON value whose texts, names of keys too, hold no character that a terminal or spreadsheet would act on."""
    match value:
        case str():
            return _UNSEEN.sub("\ufffd", value)
        case Mapping():
            return {readable(key): readable(part) for key, part in value.items()}
        case list() | tuple():
            return [readable(part) for part in value]
    return value


def _value(value: object) -> str:
    return escaped(f"{value:.1f}" if isinstance(value, float) else str(value))
