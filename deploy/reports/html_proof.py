"""Sections of the page that say how right the network is: accuracy, exactness, overflow, what runs where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from avsnn.deploy.reports.charts import WORDS, Row, intervals
from avsnn.deploy.reports.element import Markup
from avsnn.deploy.reports.html_table import paragraph, table
from avsnn.deploy.reports.overflow import overflow_lines
from avsnn.deploy.reports.render import finetuned, noticed
from avsnn.deploy.reports.svg import WIDTH, linear, room

SAME = (
    ("traced", "float", ("traced = ", "changes nothing")),
    ("scheduled", "quantised", ("scheduled = ",)),
    ("mapped on cores", "quantised", ("mapped = ",)),
    ("CPU simulator", "quantised", ("CPU simulator = ",)),
    ("Lava", "quantised", ("Lava = ",)),
)
"""Stages and back ends that were compared value by value: with which measured stage, and words of those comparisons."""


def accuracy(report: Mapping[str, Any]) -> list[Markup]:
    """Every stage with its interval and the paired difference to the first; what was compared has the same."""
    found = report["accuracy"]
    if not found:
        return [paragraph("Not measured: there were no labelled samples.")]
    shown, rows = [], []
    for stage in found["stages"]:
        shown.append(_dot(stage, found["stages"][stage]))
        rows.append(_measured(found, stage))
        for label, source, words in SAME:
            checks = [row for row in _comparisons(report) if any(word in row["name"] for word in words)]
            if source == stage and checks:
                row, at = found["stages"][stage], 0 if label == "traced" else len(rows)  # traced comes before folded
                shown.insert(at, _dot(label, row, same=stage))
                rows.insert(at, (label, _percent(row), _ends(row), "", _why(stage, checks)))
    columns = ("stage", "accuracy", "95 % interval", f"against {found['against']}, paired", "how it is known")
    title = f"Accuracy on {found['samples']:,} samples of {found['data']}, with 95 % intervals"
    low, high = min(row.values[0] for row in shown), max(row.values[2] for row in shown)
    axis = linear(high, "% right", left=room([row.label for row in shown]), right=WIDTH - WORDS, least=low)
    return [
        intervals(title, shown, axis),
        table("Accuracy by stage", columns, rows, numbers=(1, 2, 3)),
        *map(paragraph, finetuned(report)),
    ]


def _comparisons(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [*report["proofs"], *report["executions"]]


def _measured(found: Mapping[str, Any], stage: str) -> tuple[str, ...]:
    row, difference = found["stages"][stage], found["differences"].get(stage)
    paired = "" if difference is None else f"{100 * difference['difference']:+.1f} points"
    if difference is not None:
        paired += " [{:+.1f}, {:+.1f}]".format(*(100 * edge for edge in difference["interval95"]))
    return (stage, _percent(row), _ends(row), paired, f"measured: {row['correct']:,} of {row['count']:,} right")


def _percent(row: Mapping[str, Any]) -> str:
    return f"{100 * row['accuracy']:.1f} %"


def _dot(label: str, row: Mapping[str, Any], *, same: str = "") -> Row:
    """A measured accuracy, or a hollow dot for what is the ``same``."""
    low, high = (100 * edge for edge in row["interval95"])
    text = f"{_percent(row)}, as {same}" if same else f"{_percent(row)}, {_ends(row)}"
    return Row(label=label, values=(low, 100 * row["accuracy"], high), texts=(text,), kind="same" if same else "s0")


def _ends(row: Mapping[str, Any]) -> str:
    low, high = (100 * edge for edge in row["interval95"])
    return f"{low:.1f} to {high:.1f} %"


def _why(stage: str, checks: Sequence[Mapping[str, Any]]) -> str:
    """What was compared, so that a reader sees on how much the claim rests."""
    compared, differ, ties = (sum(row.get(name, 0) for row in checks) for name in ("compared", "mismatches", "ties"))
    same = f"as {stage}" if not differ else f"not quite as {stage}"
    return f"{same}: {differ:,} of {compared:,} compared values differ" + (f", {ties:,} ties aside" if ties else "")


def exactness(report: Mapping[str, Any]) -> list[Markup]:
    """What was compared with what, how much of it differed, and whether planted mistakes were noticed."""
    found = _comparisons(report)
    each = [_compared([row]) for row in found]
    claims = dict.fromkeys(row["name"] for row in found)
    rows = [_compared([row for row in found if row["name"] == name]) for name in claims]
    columns = ("what", "data", "samples", "values compared", "mismatches", "ties", "mistakes noticed")
    windows, differing = report["tie_windows_checked"], report.get("tie_windows_differing", 0)
    how = f"{differing:,} of them differ" if differing else "all are equal"
    return [
        paragraph(
            "Each step of the conversion was run before and after, and every value compared. A comparison counts only "
            "if it also notices mistakes that were planted on purpose; an idle mistake changes nothing on this data."
        ),
        table("Comparisons", columns, rows, numbers=(2, 3, 4, 5, 6)),
        table("Each comparison", columns, each, numbers=(2, 3, 4, 5, 6), fold="The same for each kind of data"),
        paragraph(
            f"{report['integers_checked']:,} integers lie within half a step of their real value. {windows:,} windows "
            f"full of ties were compared with exact fractions: {how}."
        ),
    ]


def _compared(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Comparisons of one claim on all kinds of data, as one row."""
    sums = (sum(row.get(name, 0) for row in rows) for name in ("samples", "compared", "mismatches", "ties"))
    seen = ", ".join(dict.fromkeys(row["data"] for row in rows))
    mistakes = [noticed(row) for row in rows]
    if len(rows) > 1 and all("controls_planted" in row for row in rows):  # older bundles do not say
        together = {
            key: [name for row in rows for name in row.get(key, ())] for key in ("controls_noticed", "controls_idle")
        }
        mistakes = [noticed({**together, "controls_planted": sum(row["controls_planted"] for row in rows)})]
    return (rows[0]["name"], seen, *(f"{number:,}" for number in sums), "; ".join(mistakes))


def certificate(report: Mapping[str, Any]) -> list[Markup]:
    """For each node, whether any input at all can overflow its integers."""
    found = report.get("certificate", [])  # reports of older bundles have none
    if not found:
        return [paragraph("This bundle has no certificate.")]
    rows = []
    for row in found:
        what, margin = min(row["margins"].items(), key=lambda item: (item[1]["bits"], item[0]))
        seen = "" if margin["seen_bits"] is None else f"{margin['seen_bits']:,}"
        numbers = (f"{margin['bound']:,}", f"{margin['limit']:,}", f"{margin['bits']:,}", seen)
        rows.append((row["name"], row["kind"], row["verdict"], what, *numbers))
    columns = ("node", "kind", "verdict", "closest", "bound", "limit", "bits to spare", "on data")
    caption, fold = "The closest that each node comes to its limit", f"{len(rows):,} nodes one by one"
    shown = table(caption, columns, rows, numbers=(4, 5, 6, 7), fold=fold)
    return [*map(paragraph, overflow_lines(report)), shown]


def capability(report: Mapping[str, Any]) -> list[Markup]:
    """How the target runs each node; only what is not native has a row."""
    found = report["capabilities"]
    answers = ", ".join(f"{count:,} {answer}" for answer, count in found["by_answer"].items())
    special = [need for need in found["nodes"] if need["answer"] != "native"]
    parts = [paragraph(f"Nodes by answer of {report['meta']['target']}: {answers}.")]
    if special:
        rows = [(need["node"], need["kind"], need["answer"], need.get("reason", "")) for need in special]
        parts.append(table("What is not native", ("node", "needs", "runs on", "because"), rows))
    return parts
