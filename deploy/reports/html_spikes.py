"""The section of the page that shows spikes: how often populations and neurons fire, when, and a few neurons singly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from avsnn.deploy.reports.activity_charts import heat, raster
from avsnn.deploy.reports.charts import Row, bars, histogram, largest
from avsnn.deploy.reports.element import Markup
from avsnn.deploy.reports.html_table import paragraph, table
from avsnn.deploy.reports.sampled import evenly

HISTOGRAM = "Firing rates"
DRAWN = 60  # populations in a chart of steps; more are slow to draw and hard to read


def activity(report: Mapping[str, Any]) -> list[Markup]:
    """How often populations and neurons fire, when, and how much of their range they use."""
    found = report["populations"]
    if not found:
        return [paragraph("The network has no neurons on the chip.")]
    spikes = {row["name"]: row["spikes"] for row in report["counts"]["populations"]}
    samples = report["counts"]["samples"]
    means = {row["name"]: spikes[row["name"]] / samples for row in found}
    sent = [Row(label=name, values=(mean,), texts=(f"{mean:,.0f}",)) for name, mean in means.items()]
    shown = largest(sent, "{:,.0f}".format)
    return [
        *_rates(report),
        *_steps(report),
        *_raster(report),
        bars(f"Spikes per sample, mean of {samples:,}", shown, ("spikes",), "spikes per sample"),
        _populations(report, means),
    ]


def _populations(report: Mapping[str, Any], means: Mapping[str, float]) -> Markup:
    rows = []
    for row in report["populations"]:
        used = "saturated" if row["v_max"] >= row["state_limit"] else f"{100 * row['v_max'] / row['state_limit']:.1f} %"
        rate = f"{100 * row['rate']:.2f} %" if row["rate"] else "silent"
        rates = row.get("neurons_by_rate")  # reports of older bundles have none
        ends = ("not counted",) * 2 if rates is None else (f"{rates[0]:,}", f"{rates[-1]:,}")
        sent, compared = f"{means[row['name']]:,.0f}", f"{sum(row['compared'].values()):,}"
        rows.append((row["name"], row["role"], f"{row['neurons']:,}", rate, *ends, sent, used, compared))
    columns = (
        "population", "role", "neurons", "spike rate", "never fire", "in every step", "spikes per sample", "v used",
        "compared",
    )  # fmt: skip
    return table("Populations", columns, rows, numbers=range(2, len(columns)))


def _rates(report: Mapping[str, Any]) -> list[Markup]:
    """How many neurons fire how often; reports of older bundles know whole populations alone."""
    mine = [row for row in report["populations"] if row["role"] == "neuron"] or report["populations"]
    if "rate_edges_percent" not in report:
        rates = [100 * row["rate"] for row in report["populations"]]
        return [histogram(f"{HISTOGRAM} of the populations", rates, "% of steps with a spike", "populations")]
    edges = [0, *report["rate_edges_percent"]]
    names = ["never", *(f"{low} to {high} % of steps" for low, high in pairwise(edges))]
    names[1] = f"up to {edges[1]} % of steps"
    names += [f"more than {edges[-1]} %", "in every step"]
    found = [sum(row["neurons_by_rate"][k] for row in mine) for k in range(len(names))]
    total = sum(found)
    rows = [
        Row(label=name, values=(float(n),), texts=(f"{n:,} ({100 * n / total:.1f} %)",))
        for name, n in zip(names, found, strict=True)
    ]
    of = f"{HISTOGRAM} of {total:,} neurons on {report['counts']['samples']:,} samples"
    few = f"{found[0]:,} neurons ({100 * found[0] / total:.1f} %) never fired, {found[-1]:,} in every step."
    return [paragraph(few), bars(of, rows, ("neurons",), "neurons")]


def _steps(report: Mapping[str, Any]) -> list[Markup]:
    """Which share of a population fires in each step."""
    rows = [row for row in report["populations"] if row.get("spikes_by_step")]  # reports of older bundles have none
    if not rows:
        return []
    samples, rate = report["counts"]["samples"], list[tuple[str, Sequence[float]]]()
    for k in evenly(len(rows), DRAWN):
        times = rows[k]["neurons"] * samples
        rate.append((rows[k]["name"], [100 * spikes / times for spikes in rows[k]["spikes_by_step"]]))
    notes = [f"{len(rate)} of {len(rows)} populations are drawn, evenly spaced."] if len(rate) < len(rows) else []
    longest = max(len(row["spikes_by_step"]) for row in rows)
    if longest < max(row["steps"] for row in rows):
        notes.append(f"Only the first {longest} steps are drawn.")
    title = f"Rate over time: share of neurons that fire in each step, mean of {samples:,} samples"
    return [heat(title, rate, "of its neurons"), *map(paragraph, notes)]


def _raster(report: Mapping[str, Any]) -> list[Markup]:
    """Spikes of a few neurons, and which ones they are."""
    found = report.get("raster")  # reports of older bundles have none
    if not found or not found["populations"]:
        return []
    first = "the first sample" if found["samples"] == 1 else f"the first {found['samples']:,} samples"
    most = max(len(row["neurons"]) for row in found["populations"])
    which = f"Up to {most} neurons of a population, evenly spaced over it and not chosen by how active they are"
    if len(found["populations"]) < found["of_populations"]:
        which += f"; {len(found['populations'])} of {found['of_populations']} populations, likewise evenly spaced"
    which += ". Relays, which repeat others, are left out. Time is logical: what belongs to one step of the network "
    which += "stands below each other, though on the chip later layers run later (see Pipeline)."
    drawn = raster(f"Single spikes in {first}", found["populations"], found["samples"], found["steps"])
    return [drawn, paragraph(which)]
