"""The section of the page on cores: where each lies, how full it is, what it did in the compared run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from avsnn.deploy.reports.charts import grid
from avsnn.deploy.reports.core_map import Cell, Tiles, core_map
from avsnn.deploy.reports.cores import USED, beside_in_words, in_words, most
from avsnn.deploy.reports.element import Markup
from avsnn.deploy.reports.html_table import paragraph, table

DRAWN = 4096  # cores on the map; a page of more is slow to open
DONE = {
    "sop_stored": "synaptic operations",
    "sop_nonzero": "synaptic operations, weights that are not 0",
    "updates": "neuron updates",
    "spikes": "spikes",
    "messages_in": "messages received",
    "messages_out": "messages sent",
}
"""Count of a core: what it is in a report."""


def cores(report: Mapping[str, Any]) -> list[Markup]:
    """Maps of the cores, a row per population, and the busiest of them."""
    mapping = report.get("mapping")  # reports of older bundles have none
    if not mapping:
        return [paragraph("No cores were asked for.")]
    if "refused" in mapping:
        return [paragraph(f"Does not fit. {mapping['refused']}")]
    lines = [f"{in_words(mapping)}."]
    if (place := mapping.get("placement")) is not None:
        lines.append(
            f"{place['messages']:,} messages between cores make {place['hops']:,} hops on the calibration samples."
        )
    lines += [f"{line[0].upper()}{line[1:]}." for line in beside_in_words(mapping)]
    lines.append(f"Not checked, as nothing is published: {', '.join(mapping['not_checked']) or 'nothing'}.")
    left = len(mapping["cores"]) - DRAWN
    lines += [f"The map shows the first {DRAWN:,} cores; {left:,} are not drawn."] if left > 0 else []
    counted = report.get("core_counts", {}).get(report["meta"]["target"])  # older reports know no places and no work
    maps = _plain_map(mapping) if counted is None else _maps(mapping, counted)
    return [*maps, *map(paragraph, lines), _populations(mapping), *(_busiest(counted) if counted else [])]


def _populations(mapping: Mapping[str, Any]) -> Markup:
    rows = []
    for name in dict.fromkeys(core["population"] for core in mapping["cores"]):
        mine = [core for core in mapping["cores"] if core["population"] == name]
        numbers = [str(core["core"]) for core in mine]
        which = numbers[0] if len(mine) == 1 else f"{numbers[0]} to {numbers[-1]}"
        used = (most(mine, field, mapping["limits"].get(field)) for field in USED)
        rows.append((name, f"{len(mine):,}", which, *used))
    bits = {field: ", bits" if field.endswith("_bits") else "" for field in USED}
    columns = ("population", "cores", "numbers", *(f"most {name}{bits[field]}" for field, name in USED.items()))
    return table("Cores by population", columns, rows, numbers=range(1, len(columns)))


def _maps(mapping: Mapping[str, Any], counted: Mapping[str, Any]) -> list[Markup]:
    """The same chips three times: how full cores are, what they compute, what they send and receive."""
    rows, samples = counted["cores"][:DRAWN], counted["samples"]
    tiles = _tiles(counted)
    full = {core["core"]: _fullest(core, mapping["limits"]) for core in mapping["cores"]}

    def drawn(title: str, unit: str, value: Callable[[Mapping[str, Any]], float]) -> Markup:
        values = [value(row) / samples for row in rows]
        top = max(values, default=0.0)
        cells = [
            _cell(row, f"{v:,.0f} {unit} per sample", v / top if top else 0.0)
            for row, v in zip(rows, values, strict=True)
        ]
        return core_map(title, cells, tiles, f"{top:,.0f} {unit} per sample")

    filled = [_cell(row, full[row["core"]][1], full[row["core"]][0]) for row in rows]
    return [
        core_map("Cores by the fullest of their limits", filled, tiles, "100 %, full"),
        drawn("Cores by work: synaptic operations", "operations", lambda row: row["sop_stored"]),
        drawn(
            "Cores by traffic: messages in and out", "messages", lambda row: row["messages_in"] + row["messages_out"]
        ),
    ]


def _traffic(row: Mapping[str, Any]) -> float:
    return float(row["messages_in"] + row["messages_out"])


def _tiles(counted: Mapping[str, Any]) -> Tiles:
    """The mesh of the chip, or as much of it as is used where the report does not say."""
    if (mesh := counted.get("mesh")) is not None:
        return Tiles(x=mesh["tiles_x"], y=mesh["tiles_y"], cores=mesh["cores_per_tile"])
    rows = counted["cores"]
    found: dict[tuple[int, int, int], int] = {}
    for row in rows:
        place = row["chip"], row["x"], row["y"]
        found[place] = found.get(place, 0) + 1
    return Tiles(x=1 + max(row["x"] for row in rows), y=1 + max(row["y"] for row in rows), cores=max(found.values()))


def _cell(row: Mapping[str, Any], said: str, share: float) -> Cell:
    name = f"core {row['core']}: {row['population']}, {said}"
    return Cell(core=row["core"], chip=row["chip"], x=row["x"], y=row["y"], name=name, share=share)


def _fullest(core: Mapping[str, Any], limits: Mapping[str, int]) -> tuple[float, str]:
    """The largest share of a limit that is known, and how it reads."""
    shares = {USED[f]: core[f] / limits[f] for f in USED if limits.get(f)}
    fullest = max(shares, key=shares.__getitem__, default="")
    return (shares[fullest], f"{100 * shares[fullest]:.0f} % of {fullest}") if shares else (0.0, "no limit is known")


def _plain_map(mapping: Mapping[str, Any]) -> list[Markup]:
    """Cores in order, where nobody wrote down their places."""
    cells = []
    for core in mapping["cores"][:DRAWN]:
        share, said = _fullest(core, mapping["limits"])
        cells.append((str(core["core"]), f"core {core['core']}: {core['population']}, {said}", share))
    return [grid("Cores in the order of the network, by the fullest of their limits", cells)]


def _busiest(counted: Mapping[str, Any]) -> list[Markup]:
    """Of each count the mean and the most of a core, per sample; what went between tiles; all cores one by one."""
    samples = counted["samples"]
    rows = [
        (DONE[name], f"{row['mean'] / samples:,.0f}", f"{row['most'] / samples:,.0f}", row["core"])
        for name, row in counted["spread"].items()
        if name in DONE
    ]
    parts = [table("Work of a core per sample", ("what", "mean", "most", "on"), rows, numbers=(1, 2))]
    if (routes := counted.get("routes")) is not None:
        hops = (routes["hops_x"] + routes["hops_y"]) / samples
        parts.append(
            paragraph(
                f"Per sample, messages pass {hops:,.0f} links between tiles and {routes['crossings'] / samples:,.0f} "
                f"times from chip to chip. The busiest link leads {routes['busiest']} and carries "
                f"{routes['load'] / samples:,.0f} of them."
            )
        )
    return [*parts, _each(counted["cores"], samples)]


def _each(rows: Sequence[Mapping[str, Any]], samples: int) -> Markup:
    cells = [
        (
            str(row["core"]),
            row["population"],
            f"{row['chip']}",
            f"({row['x']}, {row['y']})",
            *(f"{row[name] / samples:,.0f}" for name in DONE),
        )
        for row in rows
    ]
    columns = ("core", "population", "chip", "tile", *DONE.values())
    numbers = (0, *range(2, len(columns)))
    return table("Cores, means per sample", columns, cells, numbers=numbers, fold=f"{len(rows):,} cores one by one")
