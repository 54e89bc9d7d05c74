"""The dense order and the twin of a report to lines, with what spikes spare of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def dense_lines(report: Mapping[str, Any]) -> list[str]:
    """What the same network takes without spikes; nothing in reports of older bundles.

    Spikes that a synapse carries are those of one inference, as in Dampfhoffer et al., IEEE TETCI 7(3), 2023: their
    models of hardware give a spiking network less energy than its twin only below 0.15 to 1.38 of them.
    """
    dense, twin = report.get("dense"), report.get("twin")
    if not dense or not twin:
        return []
    layers = {row["name"] for row in dense["layers"] if row["kind"] == "layer"}
    counts = report["counts"]
    sop = sum(row["sop_stored"] for row in counts["synapses"] if row["name"] in layers) / counts["samples"]
    macs, once = dense["by_kind"]["layer"], twin["connections"]
    share = f"; SOP are {100 * sop / macs:.2g} % of those of the same layers" if macs else ""
    each = f"; a synapse carries {sop / once:.2g} spikes per inference" if once else ""
    widths = f"{twin['activation_bits']}-bit activations, {twin['weight_bits']}-bit weights"
    return [
        f"in dense order: {dense['macs_per_sample']:,} multiply-accumulates per sample{share}",
        f"quantised ANN twin, run once at {widths}: {twin['macs']:,} multiply-accumulates{each}",
    ]
