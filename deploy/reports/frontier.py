"""Networks trained for fewer and fewer operations to a table and a plot: what accuracy each budget leaves.

A plot is an SVG written here: one curve with intervals needs no plotting library.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

from avsnn.deploy.reports.interval import Interval, format_interval
from avsnn.train.proportion import PairedDifference, Proportion

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 400, 70, 20, 40, 60
TICKS = 5


@dataclass(frozen=True, kw_only=True)
class Point:
    """One network.

    Attributes:
        budget: share of the first network's operations that it was trained for.
        accuracy: on labelled samples.
        difference: to the float network on the same samples.
        operations: stored synaptic operations per sample.
        energy_pj: (lowest, likely, highest) dynamic energy per sample, None where it has no price.
    """

    budget: float
    accuracy: Proportion
    difference: PairedDifference
    operations: float
    energy_pj: tuple[float, float, float] | None

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            "budget": self.budget,
            "accuracy": self.accuracy.record(),
            "difference": self.difference.record(),
            "operations_per_sample": round(self.operations, 3),
            "energy_pj_per_sample": None if self.energy_pj is None else [round(edge, 3) for edge in self.energy_pj],
        }


def table(points: Sequence[Point], *, data: str, profile: str) -> str:
    """Return the points as a table in Markdown."""
    lines = [
        f"Accuracy on {points[0].accuracy.count} samples of {data}; energy on {profile} is an estimate from declared",
        "constants, not a measurement. Differences are to the float network on the same samples, with 95 % intervals.",
        "",
        "| budget | SOP per sample | accuracy | difference (paired, points) | energy per sample |",
        "| --- | --- | --- | --- | --- |",
    ]
    for point in points:
        low, high = (100 * edge for edge in point.difference.interval())
        energy = "not priced"
        if point.energy_pj is not None:
            lowest, likely, highest = point.energy_pj
            energy = format_interval(Interval(value=likely, lo=lowest, hi=highest))
        lines.append(
            f"| {100 * point.budget:.0f} % | {point.operations:,.0f} | {point.accuracy.value:.3f} | "
            f"{100 * point.difference.value:+.1f} [{low:+.1f}, {high:+.1f}] | {energy} |"
        )
    return "\n".join(lines) + "\n"


def plot(points: Sequence[Point], *, title: str) -> str:
    """Return the points as an SVG: operations per sample against accuracy with its 95 % interval."""
    intervals = [point.accuracy.interval() for point in points]
    most = max(point.operations for point in points) * 1.05
    low, high = min(edge for edge, _ in intervals), max(edge for _, edge in intervals)
    low, high = low - 0.05 * (high - low), high + 0.05 * (high - low)

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * value / most

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low)

    parts = [_text(WIDTH / 2, 24, title, size=15), _text(WIDTH / 2, HEIGHT - 12, "synaptic operations per sample")]
    parts.append(_text(16, HEIGHT / 2, "accuracy", turned=True))
    for k in range(TICKS + 1):
        at, up = most * k / TICKS, low + (high - low) * k / TICKS
        parts.append(_line(x(at), y(low), x(at), y(high), "#ddd") + _text(x(at), y(low) + 18, f"{at:,.0f}"))
        parts.append(_line(x(0), y(up), x(most), y(up), "#ddd") + _text(x(0) - 28, y(up) + 4, f"{up:.3f}"))
    places = [(x(point.operations), y(point.accuracy.value)) for point in points]
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
    parts.append(f'<polyline points="{path}" fill="none" stroke="#246" stroke-width="2"/>')
    for point, (bottom, top), (a, b) in zip(points, intervals, places, strict=True):
        parts.append(_line(a, y(bottom), a, y(top), "#246"))
        parts.append(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="4" fill="#246"/>')
        parts.append(_text(a, y(top) - 6, f"{100 * point.budget:.0f} %"))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>", ""])


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _text(x: float, y: float, words: str, *, size: int = 12, turned: bool = False) -> str:
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
    place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="middle"'
    return f"<text {place}{turn}>{escape(words)}</text>"
