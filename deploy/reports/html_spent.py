"""The section of the page on energy and time: every profile, what each sum holds, and what stands beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from avsnn.deploy.reports.charts import WORDS, Row, intervals
from avsnn.deploy.reports.comparators import LOADS, SHORT
from avsnn.deploy.reports.element import Markup
from avsnn.deploy.reports.energy import BANNER
from avsnn.deploy.reports.html_table import folded, paragraph, sentence, table
from avsnn.deploy.reports.interval import format_energy
from avsnn.deploy.reports.render_energy import NO, TIMES, holds, mapped_lines, paper_lines, time_row, widest
from avsnn.deploy.reports.svg import WIDTH, decades, room

READ = (
    "A dot is the likely value, the line around it runs from the lowest to the highest that the sources of the "
    "constants allow. Profiles differ in what their constants hold (scope), so that two dots compare only where the "
    "table says the same of both."
)
SCOPES = {
    "per_term": "each kind of event by itself",
    "incremental": "what one more operation takes",
    "all_dynamic": "all dynamic energy",
    "all_in": "all energy, static too",
}
"""Scope of a profile: what its price of an operation holds."""
WORDS_OF_TERMS = (
    "sop: synaptic operations; dynamic: products of activity (attention); update: neurons, step by step; spike: "
    "sending one; route: messages on their way; memory: reading weights and states; sync: waiting for each other at "
    "the end of a step; host: what an ordinary processor computes beside the chip; static: power that flows anyway."
)


def energy_text(interval: Mapping[str, float], samples: int = 1) -> tuple[str, str, str]:
    """Value, lower and upper end, the ends rounded outward."""
    ends = (("value", "nearest"), ("lo", "down"), ("hi", "up"))
    value, lo, hi = (format_energy(interval[end] / samples, rounding=way) for end, way in ends)
    return value, lo, hi


def main_profile(report: Mapping[str, Any]) -> str | None:
    """The target, or the first profile that has a price; None where none has."""
    priced = [name for name, row in report["energy"].items() if row["dynamic_pj_per_sample"] is not None]
    target: str = report["meta"]["target"]
    return target if target in priced else next(iter(priced), None)


def energy(report: Mapping[str, Any]) -> list[Markup]:
    """All priced profiles on one scale, what each holds and leaves out; time and static energy; terms of the sums."""
    found = report["energy"]
    if not found:
        return [paragraph("No profile was asked for.")]
    priced = {name: row for name, row in found.items() if row["dynamic_pj_per_sample"] is not None}
    silent = ", ".join(name for name in found if name not in priced)
    parts = [paragraph(f"Dynamic energy per sample. Each figure is an {BANNER}. {READ}"), *_chart(priced)]
    parts += [paragraph(f"Not priced, as no energy of an operation is published: {silent}.")] if silent else []
    parts += _profiles(priced) if priced else []
    parts += map(sentence, paper_lines(report))
    return [*parts, *_time(report), *_beside(report), *_terms(priced), *_unpriced(report)]


def _chart(priced: Mapping[str, Mapping[str, Any]]) -> list[Markup]:
    cannot = {name for name, row in priced.items() if holds(row).get("verdict") == NO}
    rows = [
        _dot(name, row["dynamic_pj_per_sample"], "same" if name in cannot else "s0") for name, row in priced.items()
    ]
    rows = [row for row in rows if row.values[1] > 0]
    if not rows:
        return []
    note = "A hollow dot: this chip cannot hold the network as it is; what its operations would cost there."
    drawn = _scale(f"Energy per sample on each profile: {BANNER}", rows)
    return [drawn, *([paragraph(note)] if cannot else [])]


def _profiles(priced: Mapping[str, Mapping[str, Any]]) -> list[Markup]:
    """What each sum is, and then what it is a sum of."""
    rows, held = [], []
    for name, row in priced.items():
        value, lo, hi = energy_text(row["dynamic_pj_per_sample"])
        fits = holds(row).get("text", "not counted")
        rows.append((name, fits, value, f"{lo} to {hi}", row["evidence"], widest(row)))
        inside = ", ".join(row["inside"]) or "nothing else"
        without = ", ".join(dict.fromkeys(item["term"] for item in row["unpriced"])) or "nothing"
        held.append((name, row["title"], SCOPES.get(row["scope"], row["scope"]), inside, without))
    columns = ("profile", "holds the network", "dynamic", "interval", "evidence", "most of the interval is from")
    scopes = ("profile", "what it is", "scope of its prices", "they hold also", "without a price")
    return [
        table("Dynamic energy per sample on each profile", columns, rows, numbers=(2, 3)),
        folded("What these sums hold and leave out", paragraph(WORDS_OF_TERMS), table("Scopes", scopes, held)),
    ]


def _time(report: Mapping[str, Any]) -> list[Markup]:
    """Time, answers per second, static energy: never part of the sums above."""
    rows = [time_row(name, row) for name, row in report["energy"].items() if row["latency"] is not None]
    if not rows:
        return [paragraph("No profile publishes times, so no latency and no static energy is known.")]
    lines = [paragraph(f"{line}.") for line in mapped_lines(report)]
    note = (
        "Static energy (power times time) is never added to the sums above. A time is a lower bound unless it says "
        "otherwise: what has no published time takes none."
    )
    shown = table("Time and static energy per sample", TIMES, rows, numbers=(1, 3, 4, 5, 6, 7))
    return [shown, *lines, paragraph(note)]


def _beside(report: Mapping[str, Any]) -> list[Markup]:
    """Ordinary processors doing the same without spikes; reports of older bundles have none."""
    found = report.get("comparators")
    if not found:
        return []
    drawn, rows, name = [], [], main_profile(report)
    if name is not None:
        drawn.append(_dot(f"{name}, with spikes", report["energy"][name]["dynamic_pj_per_sample"], "s0"))
    for device, what in found["devices"].items():
        for row in what["rows"]:
            label, shown = f"{device}, {LOADS[row['load']]}, {SHORT[row['price']]}", ("not published", "")
            if row["pj_per_sample"] is not None:
                value, lo, hi = energy_text(row["pj_per_sample"])
                shown = value, f"{lo} to {hi}"
                drawn.append(_dot(label, row["pj_per_sample"], "s1"))
            rows.append((device, LOADS[row["load"]], row["power"], *shown, row["evidence"] or "", row["note"]))
    macs, columns = found["macs_per_sample"], ("device", "network", "power", "energy", "interval", "evidence", "note")
    note = (
        f"Dense: {macs['dense']:,} multiply-accumulates, all steps. Twin: the same layers as an ordinary quantised "
        f"network, run once, {macs['twin']:,}; {found['note']}. Static power is in these figures where the table says "
        "so, and never in that of spikes: they stand beside each other, no more."
    )
    title = "The same without spikes, on ordinary processors, per sample"
    drawn, fold = [row for row in drawn if row.values[1] > 0], f"{len(rows):,} figures and what they rest on"
    chart = [_scale(title, drawn)] if drawn else []
    return [*chart, paragraph(note), table("Ordinary processors", columns, rows, numbers=(3, 4), fold=fold)]


def _dot(label: str, interval: Mapping[str, float], kind: str) -> Row:
    value, lo, hi = energy_text(interval)
    values, text = (interval["lo"], interval["value"], interval["hi"]), f"{value}, {lo} to {hi}"
    return Row(label=label, values=values, texts=(text,), kind=kind)


def _scale(title: str, rows: Sequence[Row]) -> Markup:
    """Intervals of energies on one logarithmic axis."""
    ends = [value for row in rows for value in row.values if value > 0]
    left, unit = room([row.label for row in rows]), "energy per sample, logarithmic"
    return intervals(title, rows, decades(ends, unit, left=left, right=WIDTH - WORDS, show=format_energy))


def _terms(priced: Mapping[str, Mapping[str, Any]]) -> list[Markup]:
    """The sums term by term."""
    terms = []
    for name, row in priced.items():
        for term in row["terms"]:
            value, lo, hi = energy_text(term["energy"], row["samples"])
            count = f"{term['count'] / row['samples']:,.0f}"
            terms.append((name, term["name"], count, value, f"{lo} to {hi}", term["evidence"]))
    columns = ("profile", "term", "per sample", "energy", "interval", "evidence")
    fold = f"{len(terms):,} terms of these sums"
    return [table("Terms of each sum, per sample", columns, terms, numbers=(2, 3, 4), fold=fold)] if terms else []


def _unpriced(report: Mapping[str, Any]) -> list[Markup]:
    """Why terms have no price; none of them is taken as zero."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, row in report["energy"].items():
        for item in row["unpriced"]:
            found.setdefault((item["term"], item["reason"]), []).append(name)
    rows = [(*why, ", ".join(names)) for why, names in sorted(found.items())]
    columns, fold = ("term", "because", "profiles"), f"{len(rows):,} reasons why terms have no price"
    return [table("What has no price, and on which profiles", columns, rows, fold=fold)] if found else []
