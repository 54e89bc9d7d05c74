"""Turns a graph and its counts into one part per input: what image, sound, or both together make the network do.

A node that only one input reaches belongs to that input; one that several reach, however far behind, is fused. What no
input reaches (neurons that fire in place of a bias) belongs to what reads it. A connection belongs where its spikes
come from, a neuron where its currents come from. Every row of the counts is in one part: parts add up to the total.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from avsnn.convert.ir.fixed_nodes import FixedInput
from avsnn.convert.ir.graph import Graph
from avsnn.deploy.reports.dynamic import ProductCount
from avsnn.deploy.reports.rows import Counts, HostCount, PopulationCount, SynapseCount

FUSED, NEITHER = "fused", "no input"
Inputs = tuple[str, ...]
Named = SynapseCount | PopulationCount | ProductCount | HostCount


@dataclass(frozen=True, kw_only=True)
class PartCount:
    """What one part of the network did, over all samples; fields as the totals of `Counts` of the same name.

    ``inputs`` are all that reach any of it. ``dynamic`` are the operations of its products (None: not counted).
    """

    part: str
    inputs: Inputs
    neurons: int
    weights: int
    spikes: int
    events: int
    sop_stored: int
    sop_nonzero: int
    sop_graded: int
    neuron_updates: int
    dynamic: int | None
    host_macs: int


def reaching(graph: Graph) -> dict[str, Inputs]:
    """Node to the inputs that reach it, in the order of the graph."""
    order = [node.name for node in graph.of(FixedInput)]
    found: dict[str, set[str]] = {}
    for node in graph:
        found[node.name] = {node.name} if isinstance(node, FixedInput) else _union(found, node.inputs)
    for node in reversed(graph.nodes):
        if not found[node.name]:
            found[node.name] = _union(found, (reader.name for reader in graph.readers[node.name]))
    return {name: tuple(each for each in order if each in inputs) for name, inputs in found.items()}


def by_modality(graph: Graph, counts: Counts) -> tuple[PartCount, ...]:
    """Parts that anything is counted of: each input's in the order of the graph, what is fused last."""
    reach = reaching(graph)
    part = {name: _part(inputs) for name, inputs in reach.items()}
    names = [*(node.name for node in graph.of(FixedInput)), FUSED, NEITHER]
    tables: tuple[Iterable[Named], ...] = (counts.synapses, counts.populations, counts.products, counts.hosts)
    counted = {row.name for table in tables for row in table}
    rows = []
    for name in dict.fromkeys(names):
        mine = {node for node, where in part.items() if where == name}
        if mine & counted:
            rows.append(_row(name, mine, reach, counts))
    return tuple(rows)


def to_json(rows: Iterable[PartCount]) -> list[dict[str, Any]]:
    """Plain values; what was not counted is absent."""
    return [{k: v for k, v in asdict(row).items() if v is not None} for row in rows]


COLUMNS = ("part", "neurons", "weights", "spikes", "SOP stored", "SOP non-zero", "updates", "products", "host MACs")


def modality_rows(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Texts for `COLUMNS`, means per sample; none where there is one part, or in reports of older bundles."""
    samples, parts = report["counts"]["samples"], report.get("by_modality", ())
    if len(parts) < 2:
        return []
    means = ("spikes", "sop_stored", "sop_nonzero", "neuron_updates", "dynamic", "host_macs")
    rows = []
    for row in parts:
        found = (f"{row[name] / samples:,.0f}" if name in row else "not counted" for name in means)
        rows.append((row["part"], f"{row['neurons']:,}", f"{row['weights']:,}", *found))
    return rows


def _row(name: str, mine: set[str], reach: Mapping[str, Inputs], counts: Counts) -> PartCount:
    synapses = [row for row in counts.synapses if row.name in mine]
    populations = [row for row in counts.populations if row.name in mine]
    products = [row.operations_by_sample for row in counts.products if row.name in mine]
    known = [sum(row) for row in products if row is not None]
    return PartCount(
        part=name,
        inputs=tuple(dict.fromkeys(each for node in sorted(mine) for each in reach[node])),
        neurons=sum(row.neurons for row in populations),
        weights=sum(row.weights for row in synapses),
        spikes=sum(row.spikes for row in populations),
        events=sum(row.events for row in synapses),
        sop_stored=sum(row.sop_stored for row in synapses),
        sop_nonzero=sum(row.sop_nonzero for row in synapses),
        sop_graded=sum(row.sop_graded for row in synapses),
        neuron_updates=sum(row.updates for row in populations),
        dynamic=sum(known) if len(known) == len(products) else None,
        host_macs=sum(row.macs for row in counts.hosts if row.name in mine),
    )


def _part(inputs: Inputs) -> str:
    return FUSED if len(inputs) > 1 else inputs[0] if inputs else NEITHER


def _union(found: Mapping[str, set[str]], names: Iterable[str]) -> set[str]:
    return set().union(*(found[name] for name in names))
