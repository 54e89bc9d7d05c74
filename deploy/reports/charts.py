"""Numbers to charts in SVG: bars, intervals, a histogram, a timeline and a map of cores.

Colours come from classes (see ``report.css``), so that a chart is readable on light, dark and paper. Every mark has a
title with its full name and value; every chart has an axis with a unit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from avsnn.deploy.reports.element import Markup, element

WIDTH, RIGHT, TOP, FOOT = 880, 110, 10, 44
WORDS = 170  # right of an interval: it reads longer than a number
ROW, BAR = 22, 13
LETTER = 6.4  # width of a letter in labels
LONGEST = 46  # letters of a label; the title of a mark has all
TICKS = 5
FINE = 3  # decades of a logarithmic axis that have room for ticks at 2 and 5
LEVELS = 10
COLUMNS, CELL = 16, 30


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Values to places between ``left`` and ``right``, with ticks (value, label); ``title`` names the unit."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    title: str
    log: bool = False
    left: float = 0.0
    right: float = WIDTH - RIGHT

    def at(self, value: float) -> float:
        """The place of a value; what is too small for the axis lies at its start."""
        if self.log:
            share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.left + (self.right - self.left) * share


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a chart: a label, its values and how they read."""

    label: str
    values: tuple[float, ...]
    texts: tuple[str, ...]


def linear(most: float, title: str, *, left: float, right: float = WIDTH - RIGHT) -> Axis:
    """An axis from 0 to at least ``most``, with round ticks."""
    step = round_step(most / TICKS)
    number = max(1, math.ceil(most / step - 1e-9))
    ticks = tuple((k * step, f"{k * step:,.10g}") for k in range(number + 1))
    return Axis(low=0.0, high=number * step, ticks=ticks, title=title, left=left, right=right)


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


def bars(title: str, rows: Sequence[Row], series: Sequence[str], unit: str) -> Markup:
    """Horizontal bars, one per value of a row, from 0."""
    axis = linear(max((v for row in rows for v in row.values), default=0.0), unit, left=_room(rows))
    tall, y, marks = BAR * len(series) + ROW - BAR, float(TOP), list[Markup]()
    if len(series) > 1:
        marks, y = [_legend(series, axis.left)], y + ROW
    for row in rows:
        marks.append(_label(row.label, axis.left, y + (tall - ROW + BAR) / 2 + 4))
        for k, (value, text) in enumerate(zip(row.values, row.texts, strict=True)):
            top = y + k * BAR
            shape = {"x": axis.left, "y": top + 1.0, "width": axis.at(value) - axis.left, "height": float(BAR - 2)}
            name = f"{row.label}: {text} {series[k]}"
            marks.append(element("rect", shape | {"class": f"mark s{k}"}, element("title", {}, name)))
            marks.append(_text(axis.at(value) + 5, top + 10.5, text, "value"))
        y += tall
    return _chart(title, axis, y, marks)


def intervals(title: str, rows: Sequence[Row], axis: Axis) -> Markup:
    """A dot and the interval around it per row; ``values`` of a row are (lo, value, hi)."""
    marks, y = list[Markup](), TOP + ROW / 2
    for row in rows:
        low, value, high = (axis.at(v) for v in row.values)
        marks.append(_label(row.label, axis.left, y + 4))
        marks += [_line(low, y, high, y, "whisker"), _line(low, y - 5, low, y + 5, "whisker")]
        marks.append(_line(high, y - 5, high, y + 5, "whisker"))
        name = element("title", {}, f"{row.label}: {row.texts[0]}")
        marks.append(element("circle", {"cx": value, "cy": y, "r": 5, "class": "mark s0"}, name))
        marks.append(_text(axis.right + 14, y + 4, row.texts[0], "value"))
        y += ROW + 6
    return _chart(title, axis, y - ROW / 2 + 4, marks)


def histogram(title: str, values: Sequence[float], unit: str, of: str) -> Markup:
    """How many values lie in each of some equally wide bins from 0; ``of`` names what is counted."""
    axis = linear(max(values, default=0.0), unit, left=90.0)
    bins = 2 * (len(axis.ticks) - 1)
    width = axis.high / bins
    found = [0] * bins
    for value in values:
        found[min(int(value / width), bins - 1)] += 1
    height, most, marks = 150.0, max(found) or 1, list[Markup]()
    for k, number in enumerate(found):
        left, right = axis.at(k * width) + 1, axis.at((k + 1) * width) - 1
        top = TOP + 14 + height * (1 - number / most)
        name = element("title", {}, f"{k * width:.3g} to {(k + 1) * width:.3g} {unit}: {number} {of}")
        shape = {"x": left, "y": top, "width": right - left, "height": TOP + 14 + height - top}
        marks.append(element("rect", shape | {"class": "mark s0"}, name))
        marks.append(_text((left + right) / 2, top - 4, str(number) if number else "", "value middle"))
    marks.append(_text(axis.left - 8, TOP + 18, of, "label"))
    return _chart(title, axis, TOP + 14 + height, marks)


def timeline(title: str, rows: Sequence[tuple[str, int, int, int]], steps: int) -> Markup:
    """When each part works in the first window; rows are (label, first step, steps of work, steps its input waits)."""
    names = [Row(label=label, values=(), texts=()) for label, *_ in rows]
    axis = linear(float(max(steps, 1)), "steps of the chip", left=_room(names))
    marks, y = [_legend(("works", "a shorter path waits"), axis.left)], float(TOP + ROW)
    for label, start, length, waits in rows:
        marks.append(_label(label, axis.left, y + BAR - 2))
        for first, last, kind, what in ((start - waits, start, "s1", "waits"), (start, start + length, "s0", "works")):
            shape = {"x": axis.at(first), "y": y, "width": axis.at(last) - axis.at(first), "height": float(BAR)}
            name = element("title", {}, f"{label}: {what} from step {first} to {last}")
            marks += [element("rect", shape | {"class": f"mark {kind}"}, name)] if last > first else []
        y += ROW
    return _chart(title, axis, y, marks)


def grid(title: str, cells: Sequence[tuple[str, str, float]]) -> Markup:
    """Numbered squares coloured by a share from 0 to 1; cells are (number, what it holds, share)."""
    marks, left = list[Markup](), 10.0
    for k in range(LEVELS):
        shape = {"x": left + 44 + 18.0 * k, "y": float(TOP), "width": 18.0, "height": 14.0}
        marks.append(element("rect", shape | {"class": f"l{k}"}))
    marks += [_text(left + 38, TOP + 11.0, "0 %", "label"), _text(left + 50 + 18.0 * LEVELS, TOP + 11.0, "100 %", "")]
    top = TOP + 28.0
    for k, (number, name, share) in enumerate(cells):
        level = min(LEVELS - 1, int(share * LEVELS))
        x, y = left + CELL * (k % COLUMNS) * 1.5, top + CELL * (k // COLUMNS)
        shape = {"x": x, "y": y, "width": CELL * 1.5 - 3, "height": CELL - 3.0}
        marks.append(element("rect", shape | {"class": f"mark l{level}"}, element("title", {}, name)))
        marks.append(_text(x + CELL * 0.75 - 1.5, y + 18, number, f"middle t{level}"))
    return _svg(title, top + CELL * -(-len(cells) // COLUMNS), marks)


def _chart(title: str, axis: Axis, bottom: float, marks: Sequence[Markup]) -> Markup:
    """Marks over the grid and the labels of a horizontal axis."""
    lines = [_line(axis.at(value), TOP, axis.at(value), bottom, "grid") for value, _ in axis.ticks]
    words = [_text(axis.at(value), bottom + 16, label, "tick middle") for value, label in axis.ticks]
    words.append(_text((axis.left + axis.right) / 2, bottom + 35, axis.title, "tick middle"))
    return _svg(title, bottom + FOOT, [*lines, *marks, *words])


def _svg(title: str, height: float, marks: Sequence[Markup]) -> Markup:
    box = {
        "viewBox": f"0 0 {WIDTH} {height:.0f}",
        "preserveAspectRatio": "xMinYMin",
        "role": "img",
        "aria-label": title,
    }
    drawn = element("div", {"class": "scroll"}, element("svg", box, element("title", {}, title), *marks))
    return element("figure", {}, element("figcaption", {}, title), drawn)


def _room(rows: Sequence[Row]) -> float:
    """Width of the labels."""
    return 20 + LETTER * min(LONGEST, max((len(row.label) for row in rows), default=0))


def _label(name: str, left: float, y: float) -> Markup:
    short = name if len(name) <= LONGEST else f"{name[: LONGEST // 2 - 1]}\u2026{name[-LONGEST // 2 :]}"
    return _text(left - 8, y, short, "label", title=name)


def _legend(series: Sequence[str], left: float) -> Markup:
    parts, x = list[Markup](), left
    for k, name in enumerate(series):
        parts.append(element("rect", {"x": x, "y": float(TOP), "width": 11.0, "height": 11.0, "class": f"s{k}"}))
        parts.append(_text(x + 16, TOP + 10.0, name, "tick"))
        x += 40 + 5.8 * len(name)
    return element("g", {}, *parts)


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return element("line", {"x1": x1, "y1": float(y1), "x2": x2, "y2": float(y2), "class": kind})


def _text(x: float, y: float, words: str, kind: str, *, title: str | None = None) -> Markup:
    more = () if title is None else (element("title", {}, title),)
    return element("text", {"x": x, "y": y, "class": kind or None}, words, *more)
