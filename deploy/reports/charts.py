"""Numbers to charts: bars, intervals, a curve, a histogram, a timeline and a map of cores.

Every mark has a title with its full name and value; every chart has an axis with a unit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from avsnn.deploy.reports import svg
from avsnn.deploy.reports.element import Markup, element

WORDS = 170  # right of an interval: it reads longer than a number
ROW, BAR = 22, 13
LEVELS = 10
COLUMNS, CELL = 16, 30
MOST = 20  # bars of a chart


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a chart: a label, its values and how they read; ``kind`` is the class of a dot."""

    label: str
    values: tuple[float, ...]
    texts: tuple[str, ...]
    kind: str = "s0"


@dataclass(frozen=True, kw_only=True)
class Spot:
    """A point of a curve: where it is along the axis, (lo, value, hi) upward, its label and how it reads."""

    label: str
    at: float
    values: tuple[float, float, float]
    text: str


def largest(rows: Sequence[Row], show: Callable[[float], str]) -> list[Row]:
    """The rows with the largest values in their order, and in words alone what the others have together.

    A bar of that sum would be longer than all others.
    """
    if len(rows) <= MOST:
        return list(rows)
    kept = sorted(sorted(range(len(rows)), key=lambda k: -max(rows[k].values))[: MOST - 1])
    others = [row for k, row in enumerate(rows) if k not in set(kept)]
    sums = tuple(map(sum, zip(*(row.values for row in others), strict=True)))
    texts = tuple(f"{show(total)} (not drawn)" for total in sums)
    rest = Row(label=f"{len(others):,} others together", values=(0.0,) * len(sums), texts=texts)
    return [*(rows[k] for k in kept), rest]


def _spoken(rows: Sequence[Row]) -> str:
    """The chart for those who do not see it."""
    return "; ".join(f"{row.label}: {', '.join(row.texts)}" for row in rows)


def bars(title: str, rows: Sequence[Row], series: Sequence[str], unit: str) -> Markup:
    """Horizontal bars, one per value of a row, from 0."""
    most, left = max((v for row in rows for v in row.values), default=0.0), svg.room([row.label for row in rows])
    axis = svg.linear(most, unit, left=left)
    tall, y, marks = BAR * len(series) + ROW - BAR, float(svg.TOP), list[Markup]()
    if len(series) > 1:
        marks, y = [svg.legend(series, axis.left)], y + ROW
    for row in rows:
        marks.append(svg.label(row.label, axis.left, y + (tall - ROW + BAR) / 2 + 4))
        for k, (value, text) in enumerate(zip(row.values, row.texts, strict=True)):
            top = y + k * BAR
            shape = {"x": axis.left, "y": top + 1.0, "width": axis.at(value) - axis.left, "height": float(BAR - 2)}
            name = f"{row.label}: {text} {series[k]}"
            marks.append(element("rect", shape | {"class": f"mark s{k}"}, element("title", {}, name)))
            marks.append(svg.text(axis.at(value) + 5, top + 10.5, text, "value"))
        y += tall
    return svg.chart(title, axis, y, marks, about=_spoken(rows))


def intervals(title: str, rows: Sequence[Row], axis: svg.Axis) -> Markup:
    """A dot and the interval around it per row; ``values`` of a row are (lo, value, hi)."""
    marks, y = list[Markup](), svg.TOP + ROW / 2
    for row in rows:
        low, value, high = (axis.at(v) for v in row.values)
        marks.append(svg.label(row.label, axis.left, y + 4))
        marks += [svg.line(low, y, high, y, "whisker"), svg.line(low, y - 5, low, y + 5, "whisker")]
        marks.append(svg.line(high, y - 5, high, y + 5, "whisker"))
        name = element("title", {}, f"{row.label}: {row.texts[0]}")
        marks.append(element("circle", {"cx": value, "cy": y, "r": 5, "class": f"mark {row.kind}"}, name))
        marks.append(svg.text(axis.right + 14, y + 4, row.texts[0], "value"))
        y += ROW + 6
    return svg.chart(title, axis, y - ROW / 2 + 4, marks, about=_spoken(rows))


def curve(spots: Sequence[Spot], across: svg.Axis, up: svg.Axis) -> tuple[float, list[Markup]]:
    """Points with intervals, joined by a line; height and marks, for a figure or a file of its own."""
    marks = [*svg.upright(across, up.right, up.left), *svg.level(up, across.left, across.right)]
    path = " ".join(f"{across.at(spot.at):.1f},{up.at(spot.values[1]):.1f}" for spot in spots)
    marks.append(element("polyline", {"points": path, "class": "curve"}))
    for spot in spots:
        x, (low, value, high) = across.at(spot.at), map(up.at, spot.values)
        marks.append(svg.line(x, low, x, high, "whisker"))
        name = element("title", {}, f"{spot.label}: {spot.text}")
        marks.append(element("circle", {"cx": x, "cy": value, "r": 5, "class": "mark s0"}, name))
        marks.append(svg.text(x, high - 6, spot.label, "value middle"))
    return up.left + svg.FOOT, marks


def histogram(title: str, values: Sequence[float], unit: str, of: str) -> Markup:
    """How many values lie in each of some equally wide bins from 0; ``of`` names what is counted."""
    axis = svg.linear(max(values, default=0.0), unit, left=90.0)
    bins = 2 * (len(axis.ticks) - 1)
    width = axis.high / bins
    found = [0] * bins
    for value in values:
        found[min(int(value / width), bins - 1)] += 1
    height, most, marks = 150.0, max(found) or 1, list[Markup]()
    for k, number in enumerate(found):
        left, right = axis.at(k * width) + 1, axis.at((k + 1) * width) - 1
        top = svg.TOP + 14 + height * (1 - number / most)
        name = element("title", {}, f"{k * width:.3g} to {(k + 1) * width:.3g} {unit}: {number} {of}")
        shape = {"x": left, "y": top, "width": right - left, "height": svg.TOP + 14 + height - top}
        marks.append(element("rect", shape | {"class": "mark s0"}, name))
        marks.append(svg.text((left + right) / 2, top - 4, str(number) if number else "", "value middle"))
    marks.append(svg.text(axis.left - 8, svg.TOP + 18, of, "label"))
    return svg.chart(title, axis, svg.TOP + 14 + height, marks)


def timeline(title: str, rows: Sequence[tuple[str, int, int, int]], steps: int) -> Markup:
    """When each part works in the first window; rows are (label, first step, steps of work, steps its input waits)."""
    left = svg.room([label for label, *_ in rows])
    axis = svg.linear(float(max(steps, 1)), "steps of the chip", left=left)
    marks, y = [svg.legend(("works", "a shorter path waits"), axis.left)], float(svg.TOP + ROW)
    for label, start, length, waits in rows:
        marks.append(svg.label(label, axis.left, y + BAR - 2))
        for first, last, kind, what in ((start - waits, start, "s1", "waits"), (start, start + length, "s0", "works")):
            shape = {"x": axis.at(first), "y": y, "width": axis.at(last) - axis.at(first), "height": float(BAR)}
            name = element("title", {}, f"{label}: {what} from step {first} to {last}")
            marks += [element("rect", shape | {"class": f"mark {kind}"}, name)] if last > first else []
        y += ROW
    about = "; ".join(f"{label} from step {start} to {start + length}" for label, start, length, _ in rows)
    return svg.chart(title, axis, y, marks, about=about)


def grid(title: str, cells: Sequence[tuple[str, str, float]]) -> Markup:
    """Numbered squares coloured by a share from 0 to 1; cells are (number, what it holds, share)."""
    left = 10.0
    marks, top = [shades(left + 44, "0 %", "100 %")], svg.TOP + 28.0
    for k, (number, name, share) in enumerate(cells):
        level = min(LEVELS - 1, int(share * LEVELS))
        x, y = left + CELL * (k % COLUMNS) * 1.5, top + CELL * (k // COLUMNS)
        shape = {"x": x, "y": y, "width": CELL * 1.5 - 3, "height": CELL - 3.0}
        marks.append(element("rect", shape | {"class": f"mark l{level}"}, element("title", {}, name)))
        marks.append(svg.text(x + CELL * 0.75 - 1.5, y + 18, number, f"middle t{level}"))
    return svg.figure(title, top + CELL * -(-len(cells) // COLUMNS), marks)


def shades(left: float, least: str, most: str) -> Markup:
    """What colours from pale to full stand for."""
    parts = [svg.text(left - 6, svg.TOP + 11.0, least, "label")]
    for k in range(LEVELS):
        shape = {"x": left + 18.0 * k, "y": float(svg.TOP), "width": 18.0, "height": 14.0, "class": f"l{k}"}
        parts.append(element("rect", shape))
    return element("g", {}, *parts, svg.text(left + 6 + 18.0 * LEVELS, svg.TOP + 11.0, most, ""))
