"""Reports of several bundles to one table side by side, and a report to rows of layers (CSV)."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from avsnn.deploy.fit import DOES_NOT
from avsnn.deploy.reports.element import readable
from avsnn.deploy.reports.energy import BANNER
from avsnn.deploy.reports.interval import Interval, format_interval, format_time

FORMULA = tuple("=+-@|%\uff1d\uff0b\uff0d\uff20")  # wide forms too: a spreadsheet computes what starts so
LAYERS = (
    "bundle",
    "kind",
    "name",
    "source",
    "targets",
    "role",
    "samples",
    "neurons",
    "spikes",
    "updates",
    "driven",
    "events",
    "sop_stored",
    "sop_nonzero",
    "sop_graded",
    "weights",
    "connections",
    "connections_nonzero",
    "ands",
    "accs",
    "muls",
    "dense_macs",
    "macs",
)
"""Columns of the layer table; counts are whole numbers over all samples, an empty cell was not counted."""
KINDS = {"synapses": "connection", "populations": "population", "products": "product", "hosts": "host"}


def summary(report: Mapping[str, Any]) -> dict[str, Any]:
    """What bundles are compared by; means are per sample, what is not known is None or absent."""
    meta, counts, mapping = report["meta"], report["counts"], report.get("mapping") or {}
    total, samples, checks = counts["total"], counts["samples"], [*report["proofs"], *report["executions"]]
    accuracy = report["accuracy"]
    return {
        "name": meta["name"],
        "target": meta["target"],
        "weight_bits": meta["weight_bits"],
        "accuracy": {name: row["accuracy"] for name, row in accuracy["stages"].items()} if accuracy else {},
        "accuracy_interval95": {n: row["interval95"] for n, row in accuracy["stages"].items()} if accuracy else {},
        "accuracy_data": f"{accuracy['samples']} samples of {accuracy['data']}" if accuracy else None,
        "counted_on": sorted({f"{row['samples']} samples of {row['data']}" for row in report["executions"]}),
        "compared": sum(row["compared"] for row in checks),
        "mismatches": sum(row["mismatches"] for row in checks),
        "neurons": total["neurons"],
        "weights": sum(row["weights"] for row in counts["synapses"]),
        **{f"{name}_per_sample": total[name] / samples for name in ("spikes", "sop_stored", "sop_nonzero")},
        "latency_steps": report["latency_steps"],
        "steps": counts["steps"],
        "cores": len(mapping["cores"]) if "cores" in mapping else None,
        "chips": mapping.get("chips"),
        "refused": mapping.get("refused"),
        "energy_pj_per_sample": {name: row["dynamic_pj_per_sample"] for name, row in report["energy"].items()},
        "time": (report["energy"].get(meta["target"]) or {}).get("latency"),
        "cannot_hold": sorted(
            name for name, row in report["energy"].items() if (row.get("holds") or {}).get("verdict") == DOES_NOT
        ),
    }


def compare_table(summaries: Mapping[str, Mapping[str, Any]]) -> RenderableType:
    """One column per bundle; a note where they were not measured on the same samples."""
    summaries = readable(summaries)
    table = Table(title="Bundles side by side", title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    for name in summaries:
        table.add_column(Text(name), justify="right", overflow="fold")
    found = list(summaries.values())
    for label, texts in _rows(found):
        table.add_row(Text(label), *(Text(text) for text in texts))
    notes = [Text(f"Energy is an {BANNER}.")]
    for what, key in (("Accuracies", "accuracy_data"), ("Counts", "counted_on")):
        if any(row[key] != found[0][key] for row in found):
            notes.append(Text(f"{what} are of different samples: compare them with care.", style="yellow"))
    return Group(table, *notes)


def _rows(found: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    rows = [(name.replace("_", " "), [str(row[name]) for row in found]) for name in ("name", "target", "weight_bits")]
    for stage in dict.fromkeys(stage for row in found for stage in row["accuracy"]):
        rows.append((f"accuracy, {stage}", [_accuracy(row, stage) for row in found]))
    for name in ("compared", "mismatches", "neurons", "weights"):
        rows.append((name if name != "compared" else "values compared", [f"{row[name]:,}" for row in found]))
    for name, label in (("spikes", "spikes"), ("sop_stored", "SOP stored"), ("sop_nonzero", "SOP non-zero")):
        rows.append((f"{label} per sample", [f"{row[f'{name}_per_sample']:,.0f}" for row in found]))
    rows.append(("steps to the first answer", [f"{row['latency_steps']:,}" for row in found]))
    rows.append(("steps between answers", [f"{row['steps']:,}" for row in found]))
    rows.append(("time per sample on the target", [_time(row) for row in found]))
    rows.append(("cores", [_cores(row) for row in found]))
    for profile in dict.fromkeys(profile for row in found for profile in row["energy_pj_per_sample"]):
        rows.append((f"energy per sample, {profile}", [_energy(row, profile) for row in found]))
    return rows


def _accuracy(row: Mapping[str, Any], stage: str) -> str:
    if stage not in row["accuracy"]:
        return "not measured"
    low, high = (100 * edge for edge in row["accuracy_interval95"][stage])
    return f"{100 * row['accuracy'][stage]:.1f} % ({low:.1f} to {high:.1f})"


def _cores(row: Mapping[str, Any]) -> str:
    if row["cores"] is None:
        return "does not fit" if row["refused"] else "not asked"
    return f"{row['cores']:,} on {row['chips']:,} chip{'s' if row['chips'] > 1 else ''}"


def _time(row: Mapping[str, Any]) -> str:
    time = row["time"]
    if time is None:
        return "not known"
    return f"{'>= ' if time['mode'] == 'lower bound' else ''}{format_time(time['seconds_per_sample']['value'] * 1e9)}"


def _energy(row: Mapping[str, Any], profile: str) -> str:
    if profile not in row["energy_pj_per_sample"]:
        return "not asked"
    found = row["energy_pj_per_sample"][profile]
    shown = "not priced" if found is None else format_interval(Interval(**found))
    return f"cannot hold it; {shown}" if profile in row["cannot_hold"] else shown


def layers_csv(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """The layer table of some reports: a row per connection, population, product and part of the host."""
    out = io.StringIO()
    writer = csv.DictWriter(out, LAYERS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for bundle, report in reports.items():
        counts = report["counts"]
        for field, kind in KINDS.items():
            for row in counts.get(field, ()):
                cells = {"bundle": bundle, "kind": kind, "samples": counts["samples"], **row}
                cells["targets"] = " ".join(row.get("targets", ()))
                writer.writerow({name: _cell(value) for name, value in cells.items()})
    return out.getvalue()


def _cell(value: object) -> object:
    """A cell as it is; a quote before what a spreadsheet would take for a formula."""
    if not isinstance(value, str):
        return value
    return f"'{readable(value)}" if value.lstrip().startswith(FORMULA) else readable(value)
