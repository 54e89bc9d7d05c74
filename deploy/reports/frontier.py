"""Networks trained for fewer and fewer operations to a table and a plot: what accuracy each budget leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from avsnn.deploy.reports import svg
from avsnn.deploy.reports.charts import Spot, curve
from avsnn.deploy.reports.interval import Interval, format_interval
from avsnn.train.proportion import PairedDifference, Proportion

HEIGHT = 340.0  # of a plot


@dataclass(frozen=True, kw_only=True)
class Point:
    """One network.

    Attributes:
        budget: share of the first network's operations that it was trained for.
        accuracy: on labelled samples.
        difference: to the float network on the same samples.
        operations: stored synaptic operations per sample.
        by_source: those that the spikes of each population are, by its name.
        energy_pj: (lowest, likely, highest) dynamic energy per sample, None where it has no price.
    """

    budget: float
    accuracy: Proportion
    difference: PairedDifference
    operations: float
    by_source: Mapping[str, float]
    energy_pj: tuple[float, float, float] | None

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            "budget": self.budget,
            "accuracy": self.accuracy.record(),
            "difference": self.difference.record(),
            "operations_per_sample": round(self.operations, 3),
            "operations_by_source": {name: round(value, 3) for name, value in self.by_source.items()},
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
    spots = []
    for point in points:
        low, high = point.accuracy.interval()
        text = f"{point.accuracy.value:.3f} ({low:.3f} to {high:.3f}) at {point.operations:,.0f} operations"
        values = (low, point.accuracy.value, high)
        spots.append(Spot(label=f"{100 * point.budget:.0f} %", at=point.operations, values=values, text=text))
    most = max(point.operations for point in points)
    least, best = min(spot.values[0] for spot in spots), max(spot.values[2] for spot in spots)
    across = svg.linear(most, "synaptic operations per sample", left=70.0)
    up = svg.linear(best, "accuracy, with 95 % intervals", left=HEIGHT, right=30.0, least=least)
    return svg.standalone(title, *curve(spots, across, up))
