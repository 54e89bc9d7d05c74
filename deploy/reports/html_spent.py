"""The section of the page on energy: every profile, what each sum holds, and what stands beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from avsnn.deploy.reports.charts import WORDS, Row, intervals
from avsnn.deploy.reports.element import Markup
from avsnn.deploy.reports.energy import BANNER
from avsnn.deploy.reports.html_table import folded, paragraph, table
from avsnn.deploy.reports.interval import format_energy
from avsnn.deploy.reports.svg import WIDTH, decades


def energy_text(interval: Mapping[str, float], samples: int = 1) -> tuple[str, str, str]:
    """Value, lower and upper end, the ends rounded outward."""
    ends = (("value", "nearest"), ("lo", "down"), ("hi", "up"))
    value, lo, hi = (format_energy(interval[end] / samples, rounding=way) for end, way in ends)
    return value, lo, hi


def energy(report: Mapping[str, Any]) -> list[Markup]:
    """All profiles on one scale, what each holds and leaves out, and the terms of each sum."""
    if not report["energy"]:
        return [paragraph("No profile was asked for.")]
    charted, rows, terms = [], [], []
    for name, row in report["energy"].items():
        per_sample, shown = row["dynamic_pj_per_sample"], ("not priced", "")
        if per_sample is not None:
            value, lo, hi = energy_text(per_sample)
            shown = value, f"{lo} to {hi}"
            ends = (per_sample["lo"], per_sample["value"], per_sample["hi"])
            charted += (
                [Row(label=name, values=ends, texts=(f"{value}, {lo} to {hi}",))] if per_sample["value"] > 0 else []
            )
        without = ", ".join(dict.fromkeys(item["term"] for item in row["unpriced"])) or "nothing"
        held = ", ".join(row["inside"]) or "nothing"
        rows.append((f"{name}: {row['title']}", *shown, row["evidence"] or "", row["scope"], held, without))
        for term in row["terms"]:
            value, lo, hi = energy_text(term["energy"], row["samples"])
            count = f"{term['count'] / row['samples']:,.0f}"
            terms.append((name, term["name"], count, value, f"{lo} to {hi}", term["evidence"]))
    columns = ("profile", "dynamic", "interval", "evidence", "scope", "inside other constants", "unpriced")
    parts = [paragraph(f"Dynamic energy per sample. Each figure is an {BANNER}. Scopes differ, so read the table.")]
    parts += [_chart(charted)] if charted else []
    parts += [table("Dynamic energy per sample on each profile", columns, rows, numbers=(1, 2))]
    kept = ("profile", "term", "per sample", "energy", "interval", "evidence")
    listed = table("Terms of each sum, per sample", kept, terms, numbers=(2, 3, 4))
    parts += [folded(f"{len(terms):,} terms of these sums", listed)] if terms else []
    return [*parts, *_unpriced(report), *_beside(report)]


def _unpriced(report: Mapping[str, Any]) -> list[Markup]:
    """Why terms have no price; none of them is taken as zero."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, row in report["energy"].items():
        for item in row["unpriced"]:
            found.setdefault((item["term"], item["reason"]), []).append(name)
    rows = [(*why, ", ".join(names)) for why, names in sorted(found.items())]
    shown = table("What has no price, and on which profiles", ("term", "because", "profiles"), rows)
    return [folded(f"{len(rows):,} reasons why terms have no price", shown)] if found else []


def _chart(rows: list[Row]) -> Markup:
    ends = [value for row in rows for value in row.values if value > 0]
    axis = decades(ends, "dynamic energy per sample, logarithmic", left=120.0, right=WIDTH - WORDS, show=format_energy)
    return intervals(f"Energy per sample on each profile: {BANNER}", rows, axis)


def _beside(report: Mapping[str, Any]) -> list[Markup]:
    """Static energy, time between samples and the figure of the literature, which are never added to the sum."""
    rows = []
    for name, row in report["energy"].items():
        for share in row["static"]:
            value, lo, hi = energy_text(share["energy"], row["samples"])
            bound = "at least " if share["lower_bound"] else ""
            rows.append((name, f"static, {share['name']}", f"{bound}{value}", f"{lo} to {hi}", share["evidence"]))
        if (time := row["latency"]) is not None:
            value, lo, hi = (f"{1e3 * time['seconds_per_sample'][end]:.2g} ms" for end in ("value", "lo", "hi"))
            rows.append((name, f"time per sample ({time['mode']})", value, f"{lo} to {hi}", time["evidence"]))
        if (convention := row["literature"]) is not None:
            paper = format_energy(convention["energy_pj"] / row["samples"])
            rows.append((name, convention["name"], paper, "", "convention"))
    if not rows:
        return []
    note = paragraph("Beside that, never part of the sums above:")
    return [
        note,
        table("Beside the sums", ("profile", "what", "per sample", "interval", "evidence"), rows, numbers=(2, 3)),
    ]
