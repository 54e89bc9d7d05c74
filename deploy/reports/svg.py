"""Places, lines and words to one SVG: the only writer of pictures, for pages and for files that stand alone.

Colours come from classes (see ``report.css``), so that a picture is readable on light, dark and paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from types import MappingProxyType

from avsnn.deploy.reports.element import Markup, element

WIDTH, RIGHT, TOP, FOOT = 880, 110, 10, 44
LETTER = 6.4  # width of a letter in labels
LONGEST = 46  # letters of a label; the title of a mark has all
TICKS = 5
FINE = 3  # decades of a logarithmic axis that have room for ticks at 2 and 5
HEAD = 34.0  # height of the title of a picture that stands alone


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Values to places from ``left`` to ``right``, with ticks (value, label); ``title`` names the unit.

    A vertical axis has its first place below: ``left`` is then larger than ``right``.
    """

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    title: str
    log: bool = False
    left: float = 0.0
    right: float = WIDTH - RIGHT

    def at(self, value: float) -> float:
        """The place of a value; what is too small for a logarithmic axis lies at its start."""
        if self.log:
            share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.left + (self.right - self.left) * share


def linear(most: float, title: str, *, left: float, right: float = WIDTH - RIGHT, least: float = 0.0) -> Axis:
    """An axis from ``least`` or below to at least ``most``, with round ticks."""
    step = round_step((most - least) / TICKS)
    first, last = math.floor(least / step + 1e-9), math.ceil(most / step - 1e-9)
    last = max(last, first + 1)
    ticks = tuple((k * step, f"{k * step:,.10g}") for k in range(first, last + 1))
    return Axis(low=first * step, high=last * step, ticks=ticks, title=title, left=left, right=right)


def decades(values: Sequence[float], title: str, *, left: float, right: float, show: Callable[[float], str]) -> Axis:
    """A logarithmic axis around positive values: from a 1, 2 or 5 to another, or whole decades where there are many."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    factors = (1, 2, 5) if high - low <= FINE else (1,)
    places = [factor * 10.0**k for k in range(low - 1, high + 2) for factor in factors]  # logarithms round
    first = max(k for k, place in enumerate(places) if place <= min(values))
    last = next(k for k, place in enumerate(places) if k > first and place >= max(values))
    ticks = tuple((place, show(place)) for place in places[first : last + 1 : 1 + (last - first) // 10])
    return Axis(low=places[first], high=places[last], ticks=ticks, title=title, log=True, left=left, right=right)


def round_step(least: float) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that is at least this much; 1 where there is nothing."""
    if least <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least * (1 - 1e-9))


def chart(title: str, axis: Axis, bottom: float, marks: Sequence[Markup], *, about: str = "") -> Markup:
    """Marks over the grid and the labels of a horizontal axis, as a figure."""
    return figure(title, bottom + FOOT, [*upright(axis, TOP, bottom), *marks], about=about)


def upright(axis: Axis, top: float, bottom: float) -> list[Markup]:
    """Lines, labels and title of a horizontal axis below ``bottom``."""
    lines = [line(axis.at(value), top, axis.at(value), bottom, "grid") for value, _ in axis.ticks]
    words = [text(axis.at(value), bottom + 16, label, "tick middle") for value, label in axis.ticks]
    return [*lines, *words, text((axis.left + axis.right) / 2, bottom + 35, axis.title, "tick middle")]


def level(axis: Axis, left: float, right: float) -> list[Markup]:
    """Lines and labels of a vertical axis to the left of ``left``; its title stands above."""
    lines = [line(left, axis.at(value), right, axis.at(value), "grid") for value, _ in axis.ticks]
    words = [text(left - 8, axis.at(value) + 4, label, "tick label") for value, label in axis.ticks]
    return [*lines, *words, text(left, min(axis.left, axis.right) - 8, axis.title, "tick")]


def figure(title: str, height: float, marks: Sequence[Markup], *, about: str = "") -> Markup:
    """A picture under its title, for a page; ``about`` says what it shows to those who do not see it."""
    drawn = element("div", {"class": "scroll"}, picture(title, height, marks, about=about))
    return element("figure", {}, element("figcaption", {}, title), drawn)


def picture(
    title: str,
    height: float,
    marks: Sequence[Markup],
    *,
    about: str = "",
    more: Mapping[str, object] = MappingProxyType({}),
) -> Markup:
    """The SVG itself, with more attributes where it needs them."""
    box: dict[str, object] = {
        "viewBox": f"0 0 {WIDTH} {height:.0f}",
        "preserveAspectRatio": "xMinYMin",
        "role": "img",
        "aria-label": title,
    }
    named = [element("title", {}, title), *([element("desc", {}, about)] if about else [])]
    return element("svg", {**more, **box}, *named, *marks)


def standalone(title: str, height: float, marks: Sequence[Markup]) -> str:
    """A file of its own: the same picture with its title, its style and a background."""
    size = {"xmlns": "http://www.w3.org/2000/svg", "width": WIDTH, "height": f"{height + HEAD:.0f}"}
    paper = element("rect", {"width": "100%", "height": "100%", "class": "paper"})
    moved = element("g", {"transform": f"translate(0 {HEAD:.0f})"}, *marks)
    parts = [element("style", {}, style()), paper, text(WIDTH / 2, 24.0, title, "heading middle"), moved]
    return picture(title, height + HEAD, parts, more=size) + "\n"


def style() -> Markup:
    """The style sheet of pages and pictures."""
    return Markup(resources.files("avsnn.deploy.reports").joinpath("report.css").read_text(encoding="utf-8"))


def room(names: Sequence[str]) -> float:
    """Width of labels."""
    return 20 + LETTER * min(LONGEST, max(map(len, names), default=0))


def label(name: str, left: float, y: float) -> Markup:
    """A name that ends at ``left``; a long one is cut in the middle, its title has all of it."""
    short = name if len(name) <= LONGEST else f"{name[: LONGEST // 2 - 1]}\u2026{name[-LONGEST // 2 :]}"
    return text(left - 8, y, short, "label", title=name)


def legend(series: Sequence[str], left: float) -> Markup:
    """What colours stand for."""
    parts, x = list[Markup](), left
    for k, name in enumerate(series):
        parts.append(element("rect", {"x": x, "y": float(TOP), "width": 11.0, "height": 11.0, "class": f"s{k}"}))
        parts.append(text(x + 16, TOP + 10.0, name, "tick"))
        x += 40 + 5.8 * len(name)
    return element("g", {}, *parts)


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    """A line of a class."""
    return element("line", {"x1": x1, "y1": float(y1), "x2": x2, "y2": float(y2), "class": kind})


def text(x: float, y: float, words: str, kind: str, *, title: str | None = None) -> Markup:
    """Words at a place."""
    more = () if title is None else (element("title", {}, title),)
    return element("text", {"x": x, "y": y, "class": kind or None}, words, *more)
