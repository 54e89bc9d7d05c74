"""Fold everything behind the last spikes (averages over tokens and steps, sums, the head) into one linear read-out.

Averages, sums, flattening and linear layers are all linear, so with spikes s_i of the populations that are read::

    y = (1 / T) sum_t sum_i W_i s_i[t] + bias

W_i is the product of the linear maps on the way to population i: the head's weights, repeated over tokens and divided
by their number where tokens are averaged. The mean over steps becomes a sum that is read once per window.
"""

from __future__ import annotations

import numpy as np

from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array, Node
from avsnn.errors import CapabilityError

SPIKING = (ir.LIF, ir.MaxPool2d, ir.Input)


def fold_readout(graph: Graph) -> Graph:
    """Return ``graph`` with each output replaced by a `Readout` over one `Linear` per population read.

    Raises:
        CapabilityError: the way from the spikes to an output is not linear, or has no mean over time.
    """
    nodes = {node.name: node for node in graph.nodes}
    for name in graph.outputs:
        out = graph[name]
        if isinstance(out, ir.Readout):
            continue
        bias = np.zeros(out.shape)
        terms: dict[str, Array] = {}
        _expand(graph, out, np.eye(int(np.prod(out.shape))), False, terms, bias)
        rows = {f"{name}@{source}": (source, weight) for source, weight in terms.items()}
        for row, (source, weight) in rows.items():
            nodes[row] = ir.Linear(
                name=row,
                inputs=(source,),
                shape=out.shape,
                origin=out.origin,
                weight=weight,
                bias=np.zeros(out.shape),
            )
        del nodes[name]  # moves behind the rows it reads
        nodes[name] = ir.Readout(name=name, inputs=tuple(rows), shape=out.shape, origin=out.origin, bias=bias)
    return graph.with_nodes(nodes.values())


def _expand(graph: Graph, node: Node, weight: Array, averaged: bool, terms: dict[str, Array], bias: Array) -> None:
    """Add to ``terms`` what ``weight @ node`` means for each population, and to ``bias`` what is constant."""
    sources = graph.sources(node)
    match node:
        case ir.Linear():
            bias += weight @ node.bias
            _expand(graph, sources[0], weight @ node.weight.astype(np.float64), averaged, terms, bias)
        case ir.Add():
            for source in sources:
                _expand(graph, source, weight, averaged, terms, bias)
        case ir.Concat():
            sizes = np.cumsum([int(np.prod(source.shape)) for source in sources])
            for source, part in zip(sources, np.split(weight, sizes[:-1], axis=1), strict=True):
                _expand(graph, source, part, averaged, terms, bias)
        case ir.Flatten():
            _expand(graph, sources[0], weight, averaged, terms, bias)
        case ir.MeanSpace():
            tokens = int(np.prod(sources[0].shape[1:]))
            _expand(graph, sources[0], np.repeat(weight / tokens, tokens, axis=1), averaged, terms, bias)
        case ir.MeanTime():
            _expand(graph, sources[0], weight, True, terms, bias)
        case _ if isinstance(node, SPIKING) and averaged:
            terms[node.name] = terms[node.name] + weight if node.name in terms else weight
        case _:
            raise CapabilityError(
                "only averages, sums and linear layers may stand between the last spikes and the output",
                where=node.origin or node.name,
                found=node.kind if averaged else "no mean over time",
                remedy="end the network with a mean over time and a linear head",
            )
