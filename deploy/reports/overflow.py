"""The certificate of a report to the lines that a reader sees: can any input overflow the integers?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def overflow_lines(report: Mapping[str, Any]) -> list[str]:
    """A summary, and a line per node that is not proved; none where a bundle is older than certificates."""
    rows = report.get("certificate", [])
    populations = [row for row in rows if row["kind"] == "population"]
    if not populations:
        return []
    proved = sum(row["verdict"] == "proved" for row in populations)
    bits, name, what = min(
        (margin["bits"], row["name"], what) for row in populations for what, margin in row["margins"].items()
    )
    lines = [f"{proved} of {len(populations)} populations proved: no input can overflow them"]
    if proved == len(populations):
        lines[0] += f"; closest, {bits} bits away: {what} of {name}"
    return lines + [_observed(row) for row in rows if row["verdict"] != "proved"]


def _observed(row: Mapping[str, Any]) -> str:
    parts = []
    for what, margin in row["margins"].items():
        if margin["bits"] < 0:
            seen = "not looked at" if margin["seen_bits"] is None else f"{margin['seen_bits']} bits inside on data"
            parts.append(f"{what} {seen}, by its bound {-margin['bits']} outside")
    return f"  {row['name']} not proved: {'; '.join(parts)}"
