"""Sections of the page that say what the network takes: energy on every profile, cores and how full they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from avsnn.deploy.reports.charts import WORDS, Row, grid, intervals
from avsnn.deploy.reports.cores import USED, in_words, most
from avsnn.deploy.reports.element import Markup
from avsnn.deploy.reports.energy import BANNER
from avsnn.deploy.reports.html_table import folded, paragraph, table
from avsnn.deploy.reports.interval import format_energy
from avsnn.deploy.reports.svg import WIDTH, decades

DRAWN = 4096  # cores on the map; a page of more is slow to open


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


def cores(report: Mapping[str, Any]) -> list[Markup]:
    """A map of the cores and a row per population."""
    mapping = report.get("mapping")  # reports of older bundles have none
    if not mapping:
        return [paragraph("No cores were asked for.")]
    if "refused" in mapping:
        return [paragraph(f"Does not fit. {mapping['refused']}")]
    rows = []
    for name in dict.fromkeys(core["population"] for core in mapping["cores"]):
        mine = [core for core in mapping["cores"] if core["population"] == name]
        rows.append((name, str(len(mine)), *(most(mine, field, mapping["limits"].get(field)) for field in USED)))
    columns = ("population", "cores", *(f"most {name}{_unit(field)}" for field, name in USED.items()))
    lines = [f"{in_words(mapping)}."]
    if (place := mapping.get("placement")) is not None:
        lines.append(
            f"{place['messages']:,} messages between cores make {place['hops']:,} hops on the compared samples."
        )
    lines.append(f"Not checked, as nothing is published: {', '.join(mapping['not_checked']) or 'nothing'}.")
    left = len(mapping["cores"]) - DRAWN
    lines += [f"The map shows the first {DRAWN:,} cores; {left:,} are not drawn."] if left > 0 else []
    chart = grid("Cores in the order of the network, by the fullest of their limits", _cells(mapping))
    return [chart, *map(paragraph, lines), table("Cores by population", columns, rows, numbers=range(1, len(columns)))]


def _unit(field: str) -> str:
    return ", bits" if field.endswith("_bits") else ""


def _cells(mapping: Mapping[str, Any]) -> list[tuple[str, str, float]]:
    """Number, name and load of each core: the largest share of a limit that is known."""
    cells = []
    for core in mapping["cores"][:DRAWN]:
        shares = {USED[f]: core[f] / mapping["limits"][f] for f in USED if mapping["limits"].get(f)}
        fullest = max(shares, key=shares.__getitem__, default="")
        load = f", {100 * shares[fullest]:.0f} % of {fullest}" if shares else ""
        cells.append((str(core["core"]), f"core {core['core']}: {core['population']}{load}", shares.get(fullest, 0.0)))
    return cells
