"""Turns an integer graph into the multiply-accumulates of the same network in dense order: no zero is skipped.

=================== ==================================================== =============================
part                 one execution                                        executions of a sample
=================== ==================================================== =============================
weighted layer       every connection that exists (border exact, weights  steps in which its source works
                     of 0 included)
first layer held     likewise                                             1, as its input stands still
product of spikes    see `avsnn.deploy.reports.dynamic`, q k^T first      1, all steps of its window in it
coincidences         each combines its spikes: one less than they are     steps in which they work
norms, gains         what the host computes                               1, all steps of its window in it
=================== ==================================================== =============================

What only spikes need is in no dense network: relays, products computed again for a reader that waits, pools (a maximum
multiplies nothing), and neurons that fire in every step in place of a bias. Nothing depends on a run. A shortcut counts
as the layer of weight 1 that it has become.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Node
from avsnn.convert.ir.windows import windows
from avsnn.deploy.reports.counts import HOSTED, host_count, role_of
from avsnn.deploy.reports.dynamic import dense_macs
from avsnn.deploy.reports.fanout import fanout

LAYER, PRODUCT, HOST = "layer", "product", "host"


@dataclass(frozen=True, kw_only=True)
class DenseLayer:
    """Multiply-accumulates of one execution of one node, and how often a sample executes it."""

    name: str
    kind: str
    macs: int
    executions: int


@dataclass(frozen=True, kw_only=True)
class Dense:
    """The network in dense order, per sample."""

    layers: tuple[DenseLayer, ...]

    @property
    def macs(self) -> int:
        """Multiply-accumulates per sample."""
        return sum(row.macs * row.executions for row in self.layers)

    def of(self, kind: str) -> int:
        """Those of one kind of part."""
        return sum(row.macs * row.executions for row in self.layers if row.kind == kind)

    def to_json(self) -> dict[str, Any]:
        """Sums and rows."""
        sums = {kind: self.of(kind) for kind in (LAYER, PRODUCT, HOST)}
        return {"macs_per_sample": self.macs, "by_kind": sums, "layers": [asdict(row) for row in self.layers]}


def dense_order(graph: Graph) -> Dense:
    """Count the dense order of an integer graph (stage quantised or scheduled)."""
    return Dense(layers=tuple(_layers(graph, windows(graph))))


def once(graph: Graph) -> Dense:
    """The same with every source working one step: a network of the same shapes without time."""
    return Dense(layers=tuple(_layers(graph, dict.fromkeys(windows(graph), 1))))


def is_layer(node: fixed.Synapse, graph: Graph) -> bool:
    """Whether a connection belongs to the network and not to how spikes are made, delayed or joined."""
    source = graph[node.inputs[0]]
    while isinstance(source, fixed.FixedLIF) and source.role == "relay":
        source = graph[graph[source.inputs[0]].inputs[0]]
    made = isinstance(source, fixed.FixedLIF) and source.role in ("bias", "coincidence")
    return not made and role_of(node, graph) in ("neuron", "readout", "host")


def _layers(graph: Graph, steps: Mapping[str, int]) -> list[DenseLayer]:
    rows, known = [], set[tuple[str, str, tuple[str, ...]]]()
    for node in graph:
        if isinstance(node, fixed.Product):
            product = node.kind, node.name.split("@")[0], node.inputs  # computed again for a reader that waits
            if product in known:
                continue
            known.add(product)
        if isinstance(node, fixed.Synapse) and is_layer(node, graph):
            macs = int(fanout(node, graph[node.inputs[0]].shape)[0].sum())
            rows.append(DenseLayer(name=node.name, kind=LAYER, macs=macs, executions=steps[node.inputs[0]]))
        elif isinstance(node, fixed.FixedLIF) and node.role == "coincidence":
            macs = math.prod(node.shape) * (len(node.inputs) - 1)
            rows.append(DenseLayer(name=node.name, kind=PRODUCT, macs=macs, executions=steps[node.name]))
        elif isinstance(node, fixed.Product) and not isinstance(node, fixed.Received):
            rows.append(DenseLayer(name=node.name, kind=PRODUCT, macs=dense_macs(node, graph, steps), executions=1))
        if isinstance(node, HOSTED):
            rows.append(DenseLayer(name=node.name, kind=HOST, macs=_hosted(node, graph, steps), executions=1))
    return rows


def _hosted(node: Node, graph: Graph, steps: Mapping[str, int]) -> int:
    """What the host computes for a sample; that of each step in as many steps as its sources work."""
    row = host_count(node, graph, 1)
    if isinstance(node, fixed.Received):
        return row.macs // graph.timesteps * max(steps[name] for name in node.inputs)
    return row.macs
