"""The report as tables for a terminal; works from ``report.json`` alone, so an old bundle renders the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from avsnn.deploy.reports.comparators import comparators_table
from avsnn.deploy.reports.cores import cores_table
from avsnn.deploy.reports.dense_lines import dense_lines
from avsnn.deploy.reports.element import readable
from avsnn.deploy.reports.modality import COLUMNS as MODALITY
from avsnn.deploy.reports.modality import modality_rows
from avsnn.deploy.reports.overflow import overflow_lines
from avsnn.deploy.reports.render_energy import energy_table, time_table

KIB_BITS = 8192


def render_report(report: Mapping[str, Any], timing: Mapping[str, float], console: Console) -> None:
    """Print all sections."""
    report = readable(report)
    meta = report["meta"]
    console.print(Text(f"{meta['name']} for {meta['target']}, {meta['weight_bits']}-bit weights", style="bold"))
    parts = (
        _accuracy,
        _proofs,
        _populations,
        cores_table,
        _operations,
        _products,
        _modalities,
        energy_table,
        time_table,
        comparators_table,
        _capability,
        _warnings,
    )
    for part in parts:
        shown = part(report)
        if shown is not None:
            console.print()
            console.print(shown)
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
            noticed(row),
        )
    windows, differing = report["tie_windows_checked"], report.get("tie_windows_differing", 0)
    same = f"compared with exact fractions, {differing:,} differ" if differing else "equal to exact fractions"
    before = ", before they were fine-tuned" if report.get("finetuned") else ""
    rows = report.get("rows_balanced", 0)  # reports of older bundles have none
    before = (f" (a whole one in {rows:,} rows of weights, which so sum to exactly 0)" if rows else "") + before
    integers = Text(
        f"{report['integers_checked']:,} integers within half a step of their real value{before}; "
        f"{windows:,} windows full of ties {same}"
    )
    return Group(
        table, integers, *(Text(line) for line in finetuned(report)), *(Text(line) for line in overflow_lines(report))
    )


def noticed(row: Mapping[str, Any]) -> str:
    """How many planted mistakes were noticed of those that could change anything; older bundles do not say."""
    planted, idle = row.get("controls_planted", "?"), len(row.get("controls_idle", ()))
    return (
        f"{len(row['controls_noticed'])} of {planted - idle}, {idle} idle"
        if idle
        else f"{len(row['controls_noticed'])} of {planted}"
    )


def finetuned(report: Mapping[str, Any]) -> list[str]:
    """How the integers were trained; nothing where they were not, or in older reports."""
    found = report.get("finetuned")
    if not found:
        return []
    options, last = found["options"], found["epochs"][-1]
    budget = "" if options["sop_budget"] == 1 else f", {100 * options['sop_budget']:g} % of synaptic operations allowed"
    where = found["samples"].get("name") or found["samples"].get("file")
    return [
        f"fine-tuned on {found['samples']['train']:,} samples of {where}, {options['epochs']} epochs{budget}: "
        f"{100 * last['val_accuracy']:.1f} % right on {found['samples']['val']:,} others"
    ]


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
    return Group(table, Text("\n".join([note, *non_causal(report), *left_out(report), *lowered(report)])))


def non_causal(report: Mapping[str, Any]) -> list[str]:
    """How much of the first answer's wait is for the end of windows; nothing where no node waits for one."""
    first = report.get("first_answer", {"windows": 0})  # reports of older bundles have none
    steps = first["windows"] * report["counts"]["steps"]
    line = f"non-causal: {first['windows']} windows ({steps} of these steps wait for the end of a window)"
    return [line] if first["windows"] else []


def left_out(report: Mapping[str, Any]) -> list[str]:
    """What can never fire, whatever the input, and what nothing reads any more; nothing where all is of use."""
    lines = []
    for row in report.get("left_out", []):  # reports of older bundles have none
        what = "left out" if row["left_out"] else "kept, as what reads it has no form without it"
        why = "nothing that can fire reads it"
        if row["membrane"] is not None:
            why = f"it can never fire: its membrane reaches {row['membrane']:.3g} at most, of {row['threshold']:.3g}"
        lines.append(f"{row['population']} ({row['neurons']:,} neurons) {what}: {why}")
    return lines


def lowered(report: Mapping[str, Any]) -> list[str]:
    """Which products of activity became stock neurons, and what keeps the others from it; nothing if nobody asked."""
    rows = report.get("attention", [])  # reports of older bundles have none
    stock = [row for row in rows if row["runs_on"] == "stock"]
    lines = [f"products in stock neurons: {len(stock)}, of {sum(row['neurons'] for row in stock):,} coincidences"]
    lines += [f"  {row['product']} runs on its own process: {row['reason']}" for row in rows if row not in stock]
    return lines if rows else []


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
        f"SOP stored per sample: {_range(spread)}" + _graded(counts),
        f"{_spikes(counts)}neuron updates per sample: {total['neuron_updates'] / samples:,.0f}, "
        f"of which driven {(total['driven'] or 0) / samples:,.0f}; neurons {total['neurons']:,}",
        f"on the host, once per sample: {_host_macs(counts, False) / samples:,.0f} multiply-accumulates (first layers)"
        + _norms(counts),
        *_answers(counts),
        *_weights(report),
        *dense_lines(report),
    ]
    return Group(table, Text("\n".join(lines)))


def _weights(report: Mapping[str, Any]) -> list[str]:
    """What is stored, in groups that share an exponent; reports of older bundles do not tell."""
    rows, bits = report["counts"]["synapses"], report["meta"]["weight_bits"]
    groups, weights = sum(len(row.get("groups", ())) for row in rows), sum(row["weights"] for row in rows)
    memory = f"{weights * bits / 8192:,.1f} KiB at {bits} bits"
    return [f"{weights:,} weights in {groups} synapse groups of one exponent each, {memory}"] if groups else []


def _host_macs(counts: Mapping[str, Any], stepwise: bool) -> int:
    return sum(row["macs"] for row in counts["hosts"] if bool(row.get("answers")) is stepwise)


def _answers(counts: Mapping[str, Any]) -> list[str]:
    """What the host computes in every step, while the chip waits; nothing where no network does."""
    rows, samples = [row for row in counts["hosts"] if row.get("answers")], counts["samples"]
    if not rows:
        return []
    answers, messages, roots, divisions = (
        sum(row[name] for row in rows) / samples for name in ("answers", "messages", "roots", "divisions")
    )
    names = ", ".join(row["name"] for row in rows)
    return [
        f"on the host, in every step ({names}): {answers:,.0f} round trips per sample, "
        f"{messages:,.0f} numbers each way, {_host_macs(counts, True) / samples:,.0f} multiply-accumulates, "
        f"{roots:,.0f} square roots, {divisions:,.0f} divisions; no time below includes the wait"
    ]


def _norms(counts: Mapping[str, Any]) -> str:
    """What scaling counts to length 1 takes on top; nothing where no network does."""
    rows = [row for row in counts["hosts"] if not row.get("answers")]
    roots, divisions = (sum(row.get(name, 0) for row in rows) for name in ("roots", "divisions"))
    each = f"{roots / counts['samples']:,.0f} square roots, {divisions / counts['samples']:,.0f} divisions"
    return f"; counts scaled to length 1: {each}" if roots else ""


def _graded(counts: Mapping[str, Any]) -> str:
    """How much of the operations carries a payload; nothing where all are spikes."""
    total, samples = counts["total"], counts["samples"]
    if not total["sop_graded"]:
        return ""
    bits = f", {total['payload_bits'] / samples:,.0f} bits of payload" if "payload_bits" in total else ""
    spread = counts.get("sop_graded_per_sample")  # reports of older bundles have none
    among = "" if spread is None else f" ({_range(spread)})"
    return f"; graded, on average: {total['sop_graded'] / samples:,.0f}{among}{bits}"


def _spikes(counts: Mapping[str, Any]) -> str:
    """How much populations fire; nothing in reports of older bundles."""
    return f"spikes per sample: {_range(counts['spikes_per_sample'])}; " if "spikes_per_sample" in counts else ""


def _range(spread: Mapping[str, int]) -> str:
    return f"{spread['min']:,} to {spread['max']:,}, median {spread['median']:,}"


def _products(report: Mapping[str, Any]) -> RenderableType | None:
    """Spikes times spikes, apart from the synaptic operations; nothing where a network has none."""
    counts = report["counts"]
    if not counts.get("products"):
        return None
    columns = ("AND", "additions", "multiplications", "dense order", "payload", "held")
    table = _table(f"Products of activity per sample (mean of {counts['samples']})", "product", *columns)
    for row in counts["products"]:
        found = (row.get("ands"), row.get("accs"), row.get("muls"), row["dense_macs"])
        held = _bits(row["replay_bits"] + row["delay_bits"])
        bits = f"{row['payload_bits'] or 1} bits"
        table.add_row(row["name"], *(_mean(value, counts["samples"]) for value in found), bits, held)
    total = counts["total"]
    found = (total.get("dynamic_and"), total.get("dynamic_acc"), total.get("dynamic_mul"), total["dense_macs"])
    table.add_section()
    means = (_mean(value, counts["samples"]) for value in found)
    table.add_row("total", *means, "", _bits(total["replay_bits"] + total["delay_bits"]))
    lines = [
        f"held: {_bits(total['replay_bits'])} of windows to replay, {_bits(total['delay_bits'])} of delayed spikes"
    ]
    return Group(table, Text("\n".join(lines)))


def _modalities(report: Mapping[str, Any]) -> RenderableType | None:
    """What each input, and what their fusion causes; nothing where there is one input, or in older reports."""
    rows = modality_rows(report)
    if not rows:
        return None
    table = _table(
        f"Parts by the inputs that reach them, per sample (mean of {report['counts']['samples']})", *MODALITY
    )
    for row in rows:
        table.add_row(*row)
    return table


def _mean(value: int | None, samples: int) -> str:
    return "not counted" if value is None else f"{value / samples:,.0f}"


def _bits(bits: int) -> str:
    return f"{bits:,} bits" if bits < KIB_BITS else f"{bits / KIB_BITS:,.1f} KiB"


def _capability(report: Mapping[str, Any]) -> RenderableType:
    answers = ", ".join(f"{count} {answer}" for answer, count in report["capabilities"]["by_answer"].items())
    special: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for need in report["capabilities"]["nodes"]:
        if need["answer"] != "native":
            special.setdefault((need["kind"], need["answer"]), []).append(need)
    lines = []
    for (kind, answer), found in special.items():
        reason = found[0].get("reason")  # reports of older bundles have none
        lines.append(f"  {kind} on {answer}: {', '.join(need['node'] for need in found)}")
        lines[-1] += f" ({reason})" if reason else ""
    microcode = sum(answer == "microcode" for _, answer in special)
    if microcode:
        lines.append(f"  {microcode} kinds run in Lava, but need neuron programs of their own on silicon")
    return Text("\n".join([f"Capabilities: {answers}", *lines]))


def _warnings(report: Mapping[str, Any]) -> RenderableType | None:
    found = report.get("warnings")  # reports of older bundles have none
    return Text("\n".join(["Warnings", *(f"  {note}" for note in found)])) if found else None


def _timing(timing: Mapping[str, float]) -> RenderableType:
    longest = sorted(timing.items(), key=lambda item: -item[1])[:6]
    total = sum(timing.values())
    return Text(f"Time: {total:.0f} s; " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in longest))
