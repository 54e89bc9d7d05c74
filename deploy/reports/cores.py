"""What a conversion recorded of cores (`avsnn.convert.passes.map_cores.Mapping` as JSON) to shares and tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

USED = {
    "neurons": "neurons",
    "synapse_bits": "synaptic memory",
    "memory_bits": "memory",
    "axons_in": "input axons",
    "axons_out": "output axons",
}
"""Field of a core: what it is in a report."""


def utilisation(mapping: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Share of each limit that cores use, the mean and the most of all cores; only limits that are known."""
    shares = {
        field: [core[field] / mapping["limits"][field] for core in mapping["cores"]]
        for field in USED
        if mapping["limits"].get(field)
    }
    return {
        field: {"mean": round(sum(of) / len(of), 4), "most": round(max(of), 4)} for field, of in shares.items() if of
    }


def in_words(mapping: Mapping[str, Any]) -> str:
    """``21 cores on 1 chip; neurons 61 % of a core (at most 100 %), ...``."""
    chips, used = mapping["chips"], utilisation(mapping)
    shares = [f"{USED[k]} {100 * s['mean']:.0f} % of a core (most {100 * s['most']:.0f} %)" for k, s in used.items()]
    return f"{len(mapping['cores'])} cores on {chips} chip{'s' if chips > 1 else ''}; {', '.join(shares)}"


def beside_in_words(mapping: Mapping[str, Any]) -> list[str]:
    """What cores make besides neurons, messages with hosts, and what is on no core; each a line, if there is any."""
    made = []
    for row in mapping.get("products", ()):
        beside = f" beside {row['beside']}" if row["beside"] != row["product"] else ""
        made.append(f"{row['product']}{beside} ({row['held_bits']:,} bits held)")
    lines = [f"products of activity on these cores, by a demand that is assumed: {', '.join(made)}"] if made else []
    for host in mapping.get("hosts", ()):
        back = f"sends {host['messages']:,} messages back, {host['arriving']:,} to single cores"
        lines.append(f"{host['host']}: the host reads {host['sums']:,} sums and {back}")
    return [*lines, *([f"on no core: {', '.join(mapping['elsewhere'])}"] if mapping.get("elsewhere") else [])]


def cores_table(report: Mapping[str, Any]) -> RenderableType | None:
    """Cores of each population, how full they are, what was not checked, hops; None where no cores were asked for."""
    mapping = report.get("mapping")  # reports of older bundles have none
    if not mapping:
        return None
    if "refused" in mapping:
        return Text(f"Cores: does not fit. {mapping['refused']}", style="yellow")
    table = Table(title="Cores", title_justify="left", box=None, pad_edge=False)
    for k, column in enumerate(
        ("population", "cores", *(f"{name}{', bits' if 'bits' in key else ''}, most" for key, name in USED.items()))
    ):
        table.add_column(column, justify="left" if k == 0 else "right", overflow="fold")
    for name in dict.fromkeys(core["population"] for core in mapping["cores"]):
        cores = [core for core in mapping["cores"] if core["population"] == name]
        table.add_row(name, str(len(cores)), *(most(cores, field, mapping["limits"].get(field)) for field in USED))
    lines = [in_words(mapping)]
    if (place := mapping.get("placement")) is not None:
        saved = f"row by row {place['row_major_hops']:,}, tile by tile {place['packed_hops']:,}"
        lines.append(f"{place['messages']:,} messages between cores make {place['hops']:,} hops ({saved})")
    lines += busiest_in_words(report)
    lines += beside_in_words(mapping)
    lines += [f"not checked, as nothing is published: {', '.join(mapping['not_checked'])}"]
    return Group(table, Text("\n".join(lines)))


WORK = {"sop_stored": "SOP", "updates": "updates", "messages_in": "messages in", "messages_out": "messages out"}
"""Count of a core: what it is in a report."""


def busiest_in_words(report: Mapping[str, Any]) -> list[str]:
    """What a core of the target does per sample, the mean and the most; nothing in reports of older bundles."""
    found = report.get("core_counts", {}).get(report["meta"]["target"])
    if not found:
        return []
    spread, samples = found["spread"], found["samples"]
    each = (
        f"{name} {spread[key]['mean'] / samples:,.0f}, most {spread[key]['most'] / samples:,.0f} on "
        f"{spread[key]['core'].split(' (')[0]}"
        for key, name in WORK.items()
    )
    return [f"a core does per sample, mean and most: {'; '.join(each)}"]


def most(cores: list[Mapping[str, Any]], field: str, limit: int | None) -> str:
    """The largest number that one of these cores holds, and its share of the limit where that is known."""
    number = max(core[field] for core in cores)
    return f"{number:,}" if not limit else f"{number:,} ({100 * number / limit:.0f} %)"
