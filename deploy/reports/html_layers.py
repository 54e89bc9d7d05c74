"""Sections of the page that say what is computed when: operations of every layer, the pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from avsnn.deploy.reports.charts import Row, bars, largest, timeline
from avsnn.deploy.reports.dense_lines import dense_lines
from avsnn.deploy.reports.element import Markup
from avsnn.deploy.reports.energy import BANNER
from avsnn.deploy.reports.html_spent import main_profile
from avsnn.deploy.reports.html_table import paragraph, sentence, table
from avsnn.deploy.reports.interval import format_energy, unit_of
from avsnn.deploy.reports.modality import COLUMNS as MODALITY
from avsnn.deploy.reports.modality import modality_rows
from avsnn.deploy.reports.render import lowered, non_causal
from avsnn.deploy.reports.sampled import evenly

KIB_BITS = 8192
DRAWN = 60  # populations in the timeline


def layers(report: Mapping[str, Any]) -> list[Markup]:
    """Operations and weights of every connection, of products of activity, and of the host."""
    counts, bits = report["counts"], report["meta"]["weight_bits"]
    samples, rows, sops, memory = counts["samples"], [], [], []
    for row in counts["synapses"]:
        means = [row[name] / samples for name in ("sop_stored", "sop_nonzero")]
        shown = [f"{mean:,.0f}" for mean in means]
        kept = row["weights"] * bits / KIB_BITS
        sops.append(Row(label=row["name"], values=tuple(means), texts=tuple(shown)))
        memory.append(Row(label=row["name"], values=(kept,), texts=(f"{kept:,.1f} KiB",)))
        sizes = (row["connections"], row["weights"])
        rows.append((row["name"], f"{row['events'] / samples:,.0f}", *shown, *(f"{size:,}" for size in sizes)))
    total, spread = counts["total"], counts["sop_per_sample"]
    sums = [f"{total[name] / samples:,.0f}" for name in ("events", "sop_stored", "sop_nonzero")]
    sizes = tuple(sum(row[name] for row in counts["synapses"]) for name in ("connections", "weights"))
    rows.append(("total", *sums, *(f"{size:,}" for size in sizes)))
    columns = ("connection", "events", "SOP stored", "SOP non-zero", "connections", "weights")
    series = ("over all stored connections", "over weights that are not 0")
    return [
        paragraph(
            f"Synaptic operations (SOP) are counted from spikes, exactly: {total['sop_stored'] / samples:,.0f} per "
            f"sample, the mean of {samples:,}; smallest sample {spread['min']:,}, median {spread['median']:,}, largest "
            f"{spread['max']:,}."
        ),
        bars("Synaptic operations per sample", largest(sops, "{:,.0f}".format), series, "operations per sample"),
        bars(f"Weights at {bits} bits", largest(memory, "{:,.1f} KiB".format), ("of weights",), "KiB"),
        table("Connections, means per sample", columns, rows, numbers=(1, 2, 3, 4, 5), total=True),
        *_energy(report),
        *_dense(report),
        *_apart(report),
        *_modalities(report),
    ]


def _energy(report: Mapping[str, Any]) -> list[Markup]:
    """What the operations of each connection and the updates of each population are likely to take on one chip."""
    name = main_profile(report)
    if name is None:
        return []
    priced, counts = report["energy"][name], report["counts"]
    terms, rows = {term["term"]: term for term in priced["terms"]}, list[tuple[str, float]]()
    for term, of, keys in (("sop", "synapses", ("sop_stored", "sop_nonzero")), ("update", "populations", ("updates",))):
        total = {key: sum(row[key] for row in counts[of]) for key in keys}
        key = next((key for key in keys if term in terms and total[key] == terms[term]["count"] > 0), None)
        if key is not None:  # else it has no price, or one that is not by connection
            each = terms[term]["energy"]["value"] / total[key] / counts["samples"]
            rows += [(row["name"], each * row[key]) for row in counts[of]]
    if not rows:
        return []
    unit, size = unit_of(max(energy for _, energy in rows))
    shown = [Row(label=label, values=(e / size,), texts=(format_energy(e),)) for label, e in rows]
    title = f"Likely energy per sample on {name}, of synaptic operations and of neuron updates"
    shown = largest(shown, lambda value: format_energy(value * size))
    return [bars(title, shown, ("likely",), f"{unit} per sample; {BANNER}")]


def _dense(report: Mapping[str, Any]) -> list[Markup]:
    """What the network takes beside networks that skip no zero; reports of older bundles do not say."""
    lines, counts = dense_lines(report), report["counts"]
    if not lines:
        return []
    found = (
        ("this network, stored connections", counts["total"]["sop_stored"] / counts["samples"]),
        ("this network, weights that are not 0", counts["total"]["sop_nonzero"] / counts["samples"]),
        ("its quantised ANN twin, run once", report["twin"]["macs"]),
        ("itself in dense order, all steps", report["dense"]["macs_per_sample"]),
    )
    rows = [Row(label=label, values=(float(n),), texts=(f"{n:,.0f}",)) for label, n in found]
    unit = "synaptic operations, or multiply-accumulates of dense networks, per sample"
    return [bars("Operations beside those of dense networks", rows, ("",), unit), *map(sentence, lines)]


def _apart(report: Mapping[str, Any]) -> list[Markup]:
    """What is no synaptic operation: updates of neurons, products of activity, work of the host."""
    counts = report["counts"]
    samples, total = counts["samples"], counts["total"]
    updates, driven = total["neuron_updates"] / samples, total["driven"]
    known = "not counted" if driven is None else f"{driven / samples:,.0f}"
    host = f"On the host: {total['host_macs'] / samples:,.0f} multiply-accumulates per sample."
    parts = [paragraph(f"Neuron updates per sample: {updates:,.0f}, of which driven by a message: {known}. {host}")]
    if counts.get("products"):
        rows = []
        for row in counts["products"]:
            numbers = (row.get("ands"), row.get("accs"), row.get("muls"), row["dense_macs"])
            means = ("not counted" if number is None else f"{number / samples:,.0f}" for number in numbers)
            rows.append((row["name"], *means))
        columns = ("product of activity", "AND", "additions", "multiplications", "dense order")
        parts.append(table("Products of activity, means per sample", columns, rows, numbers=(1, 2, 3, 4)))
    return parts


def _modalities(report: Mapping[str, Any]) -> list[Markup]:
    """What each input, and what their fusion causes; nothing where there is one input."""
    rows, samples = modality_rows(report), report["counts"]["samples"]
    if not rows:
        return []
    title, means = "Parts by the inputs that reach them", list[Row]()
    for row in report["by_modality"]:
        mean = row["sop_stored"] / samples
        means.append(Row(label=row["part"], values=(mean,), texts=(f"{mean:,.0f}",)))
    return [
        bars(f"{title}: synaptic operations", means, ("operations",), "operations per sample"),
        table(f"{title}, means per sample", MODALITY, rows, numbers=range(1, len(MODALITY))),
    ]


def pipeline(report: Mapping[str, Any]) -> list[Markup]:
    """When each population works on the first sample, and which paths wait for longer ones."""
    waits: dict[str, int] = {}
    targets = {row["name"]: row["targets"] for row in report["counts"]["synapses"]}
    for delay in report["delays"]:
        for target in targets.get(delay["synapse"], ()):
            waits[target] = max(waits.get(target, 0), delay["delay"])
    ends, window = report["latency_steps"], report["counts"]["steps"]
    works = [(row["name"], row["offset"], row.get("steps", window)) for row in report["populations"]]  # older: no steps
    works += [(name, ends - window, window) for name in waits if name not in {row[0] for row in works}]
    shown = [works[k] for k in evenly(len(works), DRAWN)]
    rows = [(name, start, steps, min(waits.get(name, 0), start)) for name, start, steps in shown]
    some = [f"{len(rows)} of {len(works)} are drawn, evenly spaced."] if len(rows) < len(works) else []
    parts = [
        paragraph(
            f"The first answer comes after {ends:,} steps, then one every {window:,}. "
            f"{len(report['delays']):,} paths are delayed to meet longer ones."
        ),
        *map(sentence, non_causal(report)),
        *map(paragraph, [*lowered(report), *some]),
        timeline("Steps in which each population works on the first sample", rows, ends),
    ]
    if report["delays"]:
        rows_of = [(d["synapse"], f"{d['delay']:,}", f"{d['relays']:,}") for d in report["delays"]]
        columns = ("path", "delay in steps", "relay populations")
        parts.append(table("Delayed paths", columns, rows_of, numbers=(1, 2)))
    return parts
