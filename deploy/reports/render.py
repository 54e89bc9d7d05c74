"""The report as tables for a terminal; works from ``report.json`` alone, so an old bundle renders the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from avsnn.deploy.reports.energy import BANNER

MILLION = 1_000_000


def render_report(report: Mapping[str, Any], timing: Mapping[str, float], console: Console) -> None:
    """Print all sections."""
    meta = report["meta"]
    console.print(Text(f"{meta['name']} for {meta['target']}, {meta['weight_bits']}-bit weights", style="bold"))
    parts = (_accuracy, _proofs, _populations, _operations, _energy, _capability)
    for part in parts:
        console.print()
        console.print(part(report))
    if timing:
        console.print()
        console.print(_timing(timing))


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for k, column in enumerate(columns):
        table.add_column(column, justify="left" if k == 0 else "right", overflow="fold")
    return table


def _accuracy(report: Mapping[str, Any]) -> RenderableType:
    accuracy = report["accuracy"]
    if not accuracy:
        return Text("Accuracy: not measured (no labelled samples)")
    title = f"Accuracy on {accuracy['samples']} samples of {accuracy['data']}"
    table = _table(title, "stage", "accuracy", "95 % interval", f"against {accuracy['against']} (paired)")
    for name, row in accuracy["stages"].items():
        difference = accuracy["differences"].get(name)
        paired = "" if difference is None else f"{100 * difference['difference']:+.1f} points"
        if difference is not None:
            low, high = difference["interval95"]
            paired += f" [{100 * low:+.1f}, {100 * high:+.1f}]"
        low, high = row["interval95"]
        table.add_row(name, f"{row['accuracy']:.3f}", f"{low:.3f} to {high:.3f}", paired)
    return table


def _proofs(report: Mapping[str, Any]) -> RenderableType:
    table = _table("Proofs", "what", "data", "samples", "values compared", "mismatches", "ties", "mistakes noticed")
    for row in [*report["proofs"], *report["executions"]]:
        table.add_row(
            row["name"],
            row["data"],
            str(row["samples"]),
            f"{row['compared']:,}",
            str(row["mismatches"]),
            str(row.get("ties", 0)),
            f"{len(row['controls_noticed'])} of {len(row['controls_noticed'])}",
        )
    integers = Text(
        f"{report['integers_checked']:,} integers within half a step of their real value; "
        f"{report['tie_windows_checked']:,} windows full of ties equal to exact fractions"
    )
    return Group(table, integers)


def _populations(report: Mapping[str, Any]) -> RenderableType:
    table = _table("Populations", "name", "neurons", "spike rate", "compared", "mismatches", "v used", "offset")
    for row in report["populations"]:
        table.add_row(
            row["name"],
            f"{row['neurons']:,}",
            f"{100 * row['rate']:.2f} %" if row["rate"] else "silent",
            f"{sum(row['compared'].values()):,}",
            str(row["mismatches"]),
            "saturated" if row["v_max"] >= row["state_limit"] else f"{100 * row['v_max'] / row['state_limit']:.1f} %",
            str(row["offset"]),
        )
    delays = report["delays"]
    relays = sum(d["relays"] for d in delays)
    note = (
        f"{len(delays)} paths delayed to meet longer ones ({relays} relay populations); "
        f"first answer after {report['latency_steps']} steps, then one every window"
    )
    return Group(table, Text(note))


def _operations(report: Mapping[str, Any]) -> RenderableType:
    counts = report["counts"]
    samples = counts["samples"]
    title = f"Operations per sample (mean of {samples})"
    table = _table(title, "connection", "events", "SOP stored", "SOP non-zero", "connections")
    for row in counts["synapses"]:
        table.add_row(
            row["name"],
            f"{row['events'] / samples:,.0f}",
            f"{row['sop_stored'] / samples:,.0f}",
            f"{row['sop_nonzero'] / samples:,.0f}",
            f"{row['connections']:,}",
        )
    total, spread = counts["total"], counts["sop_per_sample"]
    table.add_section()
    table.add_row(
        "total",
        f"{total['events'] / samples:,.0f}",
        f"{total['sop_stored'] / samples:,.0f}",
        f"{total['sop_nonzero'] / samples:,.0f}",
        "",
    )
    lines = [
        f"SOP stored per sample: {spread['min']:,} to {spread['max']:,}, median {spread['median']:,}",
        f"neuron updates per sample: {total['neuron_updates'] / samples:,.0f}, "
        f"of which driven {(total['driven'] or 0) / samples:,.0f}; neurons {total['neurons']:,}",
        f"on the host, once per sample: {total['host_macs'] / samples:,.0f} multiply-accumulates (first layers)",
    ]
    return Group(table, Text("\n".join(lines)))


def _energy(report: Mapping[str, Any]) -> RenderableType:
    table = _table(f"Energy per sample: {BANNER}", "profile", "dynamic", "interval", "evidence", "scope", "unpriced")
    for name, row in report["energy"].items():
        per_sample = row["dynamic_pj_per_sample"]
        value, interval = "not priced", ""
        if per_sample is not None:
            value = _joules(per_sample["value"])
            interval = f"{_joules(per_sample['lo'])} to {_joules(per_sample['hi'])}"
        unpriced = ", ".join(dict.fromkeys(item["term"] for item in row["unpriced"])) or "nothing"
        table.add_row(name, value, interval, row["evidence"] or "", row["scope"], unpriced)
    return table


def _joules(pj: float) -> str:
    for unit, size in (("mJ", 1e9), ("uJ", 1e6), ("nJ", 1e3)):
        if pj >= size:
            return f"{_two_digits(pj / size)} {unit}"
    return f"{_two_digits(pj)} pJ"


def _two_digits(value: float) -> str:
    return f"{float(f'{value:.2g}'):g}"


def _capability(report: Mapping[str, Any]) -> RenderableType:
    answers = ", ".join(f"{count} {answer}" for answer, count in report["capabilities"]["by_answer"].items())
    special = [c for c in report["capabilities"]["nodes"] if c["answer"] not in ("native",)]
    lines = [f"  {c['node']}: {c['kind']} on {c['answer']}" for c in special]
    return Text("\n".join([f"Capabilities: {answers}", *lines]))


def _timing(timing: Mapping[str, float]) -> RenderableType:
    longest = sorted(timing.items(), key=lambda item: -item[1])[:6]
    total = sum(timing.values())
    return Text(f"Time: {total:.0f} s; " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in longest))
