"""What a report says of energy, time and static power, as tables for a terminal; a missing key is "not counted"."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from avsnn.deploy.reports.energy import BANNER
from avsnn.deploy.reports.interval import format_energy, format_time

NO = "does not fit"
NS, PJ = 1e9, 1e12  # in a second, in a joule
COLUMNS = ("profile", "dynamic", "interval", "evidence", "scope", "widest")
TIMES = ("profile", "time per sample", "set by", "answers/s", "first answer", "static", "its cores", "energy x delay")


def energy_table(report: Mapping[str, Any]) -> RenderableType:
    """Chips that hold the network, or may; then those that cannot, with the reason; then notes on both."""
    priced = {name: row for name, row in report["energy"].items() if row["dynamic_pj_per_sample"] is not None}
    cannot = {name: row for name, row in priced.items() if holds(row).get("verdict") == NO}
    table = _table(f"Energy per sample: {BANNER}", (*COLUMNS, "unpriced"), right=(1, 2, 5))
    for name in (name for name in priced if name not in cannot):
        unpriced = ", ".join(dict.fromkeys(item["term"] for item in priced[name]["unpriced"]))
        table.add_row(*_energy_row(name, priced[name]), unpriced or "nothing")
    notes = [Text(line) for line in _notes(report)]
    if not cannot:
        return Group(table, *notes)
    title = "Chips that cannot hold the network as it is, and what its operations would cost there"
    others = _table(title, (*COLUMNS, "cannot hold it"), right=(1, 2, 5))
    for name, row in cannot.items():
        others.add_row(*_energy_row(name, row), holds(row).get("brief", ""))
    return Group(table, Text(""), others, *notes)


def _table(title: str, columns: tuple[str, ...], *, right: tuple[int, ...]) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for k, column in enumerate(columns):
        table.add_column(column, justify="right" if k in right else "left", overflow="fold")
    return table


def holds(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Whether a profile holds the network, as `avsnn.deploy.reports.holding.Holding` says it."""
    found: Mapping[str, Any] = row.get("holds") or {}  # reports of older bundles have none
    return found


def _energy_row(name: str, row: Mapping[str, Any]) -> Iterator[str]:
    per_sample = row["dynamic_pj_per_sample"]
    yield name
    yield format_energy(per_sample["value"])
    low, high = format_energy(per_sample["lo"], rounding="down"), format_energy(per_sample["hi"], rounding="up")
    yield f"{low} to {high}"
    yield row["evidence"] or ""
    yield row["scope"]
    yield widest(row)


def widest(row: Mapping[str, Any]) -> str:
    """The constant that most of the interval's width comes from, and its share of it."""
    found = row.get("sensitivity")  # reports of older bundles have none
    return "" if not found else f"{found['constant'].removeprefix('energy_pj.')} {100 * found['share']:.0f} %"


def _notes(report: Mapping[str, Any]) -> list[str]:
    silent = [name for name, row in report["energy"].items() if row["dynamic_pj_per_sample"] is None]
    lines, notes = [], dict[str, list[str]]()
    for name, row in report["energy"].items():
        first = len(holds(row).get("reasons", ())) > 0 and holds(row).get("verdict") == NO
        for note in row["warnings"][first:] if name not in silent else ():  # the table has said the first
            notes.setdefault(note, []).append(name)
    if silent:
        lines.append(f"  not priced, as no energy of an operation is published: {', '.join(silent)}")
    lines += [f"  {', '.join(names)}: {note}" for note, names in notes.items()]
    return [*lines, *(f"  {line}" for line in paper_lines(report))]


def paper_lines(report: Mapping[str, Any]) -> list[str]:
    """The figure that papers print; nothing in reports of older bundles."""
    found = report.get("literature")
    if not found:
        return []
    rated = f"{format_energy(found['rate_flops_pj_per_sample'])} by rate x FLOPs"
    return [f"{found['name']}: {format_energy(found['pj_per_sample'])}, {rated}; an estimate of no chip"]


def time_table(report: Mapping[str, Any]) -> RenderableType | None:
    """What is known of time, and of what costs energy as long as it lasts; None where no profile knows."""
    rows = [time_row(name, row) for name, row in report["energy"].items() if row["latency"] is not None]
    if not rows:
        return None
    table = _table("Time and static energy per sample", TIMES, right=(1, 3, 4, 5, 6, 7))
    for cells in rows:
        table.add_row(*cells)
    target = report.get("meta", {}).get("target")  # lines of other chips are on the page
    only = {name: row for name, row in report["energy"].items() if target in (None, name)}
    return Group(table, *(Text(f"  {line}") for line in mapped_lines({"energy": only})))


def mapped_lines(report: Mapping[str, Any]) -> list[str]:
    """What the bound of a mapping does not say: how samples differ, what other mappings could do."""
    lines = []
    for name, row in report["energy"].items():
        time = row["latency"] or {}
        even, spread = time.get("even_seconds_per_sample"), time.get("seconds_by_sample")
        if even is not None:  # reports of older bundles have none
            ends = [_ns(each) for each in spread or ()]
            differ = f" ({ends[0]} for the sample with the fewest operations, {ends[-1]} with the most)" if ends else ""
            differ = differ if len(set(ends)) > 1 else ""
            lines.append(f"{name}: bound of this mapping{differ}; on as many chips none beats {_ns(even)}")
    return lines


def _ns(interval: Mapping[str, float]) -> str:
    return format_time(interval["value"] * NS)


def time_row(name: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    """Cells under `TIMES`."""
    time, pace = row["latency"], row.get("pace") or {}
    bound = time["mode"] == "lower bound"
    least, most = (">= ", "<= ") if bound else ("", "")
    rate, first = pace.get("answers_per_second"), pace.get("first_answer_s")
    static = {share.get("kind", k): share for k, share in enumerate(row["static"])}
    product = (row.get("energy_delay") or [None])[-1]
    return (
        name,
        least + format_time(time["seconds_per_sample"]["value"] * NS),
        time.get("sets") or time["mode"],
        "not counted" if rate is None else most + _number(rate["value"]),
        "not counted" if first is None else least + format_time(first["value"] * NS),
        _static(static.get("chips", static.get(0)), row["samples"], named=True),
        _static(static.get("cores", static.get(1)), row["samples"]),
        "not counted" if product is None else _product(product),
    )


def _number(value: float) -> str:
    """Two digits, without an exponent."""
    rounded = float(f"{value:.2g}")
    return f"{rounded:,.0f}" if rounded >= 10 else f"{rounded:g}"


def _static(share: Mapping[str, Any] | None, samples: int, *, named: bool = False) -> str:
    if share is None:
        return "not priced"
    name = share["name"].removeprefix("at least ").replace(" whole", "")
    shown = f"{'>= ' if share['lower_bound'] else ''}{format_energy(share['energy']['value'] / samples)}"
    return f"{shown} ({name})" if named else shown


def _product(found: Mapping[str, Any]) -> str:
    bound = ">= " if found["lower_bound"] else ""
    return f"{bound}{format_energy(found['joule_seconds']['value'] * PJ)} s"
