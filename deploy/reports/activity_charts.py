"""Activity over time to charts: a raster of single spikes, and a map of how many neurons fire in each step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from avsnn.deploy.reports import svg
from avsnn.deploy.reports.charts import LEVELS, shades
from avsnn.deploy.reports.element import Markup, element

LINE = 4.5  # height of a neuron
GAP = 7.0  # between populations
WIDEST = 46.0  # a step of a map; short windows need not fill the page
STROKE = (1.5, 7.0)  # thinnest and thickest mark of a spike
HIGH = 17.0  # of a row of the map


def raster(title: str, rows: Sequence[Mapping[str, Any]], samples: int, steps: int) -> Markup:
    """A mark per spike: time to the right, sampled neurons of each population below each other.

    Args:
        title: of the figure.
        rows: ``name``, ``spikes``: a text of 0 and 1 per neuron, ``samples * steps`` long.
        samples: one after the other.
        steps: of each.
    """
    left, columns = svg.room([row["name"] for row in rows]), samples * steps
    unit = f"sample, {steps} step{'s' * (steps != 1)} each" if samples > 1 else "step"
    axis = svg.Axis(low=0.0, high=float(columns), ticks=(), title=unit, left=left)
    wide = axis.at(1.0) - axis.at(0.0)
    stroke = min(max(0.6 * wide, STROKE[0]), STROKE[1])
    marks, y = list[Markup](), float(svg.TOP)
    for row in rows:
        high = LINE * len(row["spikes"])
        marks.append(svg.label(row["name"], left, y + high / 2 + 4))
        band = {"x": left, "y": y, "width": axis.right - left, "height": high, "class": "band"}
        fired = sum(text.count("1") for text in row["spikes"])
        said = f"{row['name']}: {fired:,} spikes of {len(row['spikes'])} neurons in {columns} steps"
        path = "".join(
            f"M{left + (k + 0.5) * wide:.1f} {y + LINE * n + 0.5:.1f}v{LINE - 1:.1f}"
            for n, text in enumerate(row["spikes"])
            for k, spike in enumerate(text)
            if spike == "1"
        )
        drawn = {"d": path or f"M{left:.1f} {y:.1f}", "class": "mark spike", "stroke-width": stroke}
        marks += [element("rect", band, element("title", {}, said)), element("path", drawn, element("title", {}, said))]
        y += high + GAP
    about = "Rows are neurons, grouped by population; a mark is a spike. The table of populations has their rates."
    foot = _foot(axis, y, samples, steps) if samples > 1 else _foot(axis, y, steps, 1)
    return svg.figure(title, y + svg.FOOT, [*marks, *foot], about=about)


def heat(title: str, rows: Sequence[tuple[str, Sequence[float]]], unit: str) -> Markup:
    """A row per population and a square per step, darker the more of its neurons fire; values are percent."""
    steps = max((len(values) for _, values in rows), default=0)
    most = max((value for _, values in rows for value in values), default=0.0)
    left = svg.room([name for name, _ in rows])
    right = min(svg.WIDTH - svg.RIGHT, left + WIDEST * steps)
    axis = svg.Axis(low=0.0, high=float(max(steps, 1)), ticks=(), title="step", left=left, right=right)
    marks, top = [shades(left, "0 %", f"{most:.3g} % {unit}")], svg.TOP + 26.0
    for k, (name, values) in enumerate(rows):
        y = top + HIGH * k
        marks.append(svg.label(name, left, y + 12))
        for step, value in enumerate(values):
            shade = min(LEVELS - 1, int(LEVELS * value / most)) if most else 0
            said = element("title", {}, f"{name}, step {step + 1}: {value:.3g} % {unit}")
            shape = {"x": axis.at(step), "y": y, "width": axis.at(step + 1) - axis.at(step) - 1, "height": HIGH - 1}
            marks.append(element("rect", shape | {"class": f"mark l{shade}"}, said))
    bottom = top + HIGH * len(rows)
    about = "Rows are populations in the order of the network, columns are steps of a window."
    return svg.figure(title, bottom + svg.FOOT, [*marks, *_foot(axis, bottom, steps, 1)], about=about)


def _foot(axis: svg.Axis, bottom: float, number: int, width: int) -> list[Markup]:
    """Numbers from 1, each below the middle of its ``width`` columns, no more than there is room for; the title."""
    every = max(1, int(svg.round_step(number / 16)))
    marks = [svg.text((axis.left + axis.right) / 2, bottom + 35, axis.title, "tick middle")]
    for k in range(number):
        if k == 0 or (k + 1) % every == 0:
            marks.append(svg.text(axis.at((k + 0.5) * width), bottom + 16, f"{k + 1}", "tick middle"))
        marks += [svg.line(axis.at(k * width), svg.TOP, axis.at(k * width), bottom, "grid")] if width > 1 and k else []
    return marks
