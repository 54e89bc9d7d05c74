"""Features that ``forward`` only looks at in another order, to layers that read them where they are.

Published networks reshape, transpose, split and join tensors between layers: tokens last for a linear layer, heads
apart for a matrix product, queries, keys and values as parts of one tensor. None of this computes anything. The walk
writes such an operation down as a `View`: which feature of what it reads each of its own features is. `canonical` then
rebuilds the graph with channels first, ``(channel, height, width)``, and without views:

=============================  ===================================================================================
reads a view                   becomes
=============================  ===================================================================================
neurons, gain, sum             the same on the features as they are; neurons remember their order (``layout``)
linear layer                   its columns in the order of the features, zeros for those it does not see
linear layer over tokens       a 1x1 convolution, as is a pointwise convolution of a line of tokens
norms, mean over tokens        the same over channels
``(q k^T) v``, ``q (k^T v)``   `Attention`; ``LIF(q k^T)`` and a product with it become `AttentionMap`, `MappedValues`
neurons behind a part          the layer before, its rows of that part alone
gate: spikes times spikes      neurons without memory on ``x + y >= 1.5``; ``x (1 - y)``: on ``x - y >= 0.5``
=============================  ===================================================================================

Everything else gets its features in the order it wants by a `Permute`, or is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from avsnn.convert import view_layers as layers
from avsnn.convert import view_products as products
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.node import Node
from avsnn.convert.problems import Problem
from avsnn.convert.view_graph import (
    RAW,
    Complement,
    Found,
    Gate,
    Known,
    MatMul,
    MeanAxes,
    PointLinear,
    PointNorm,
    Rebuilt,
    View,
)
from avsnn.errors import TraceError


def canonical(
    nodes: tuple[Node, ...], outputs: tuple[str, ...], lines: Mapping[str, str]
) -> tuple[tuple[Node, ...], tuple[str, ...], list[Problem]]:
    """Return the nodes without views and the names of the answers, and what cannot be written so.

    Args:
        nodes: as the walk wrote them, in topological order.
        outputs: the answers among them.
        lines: name to the line of ``forward``, for problems.
    """
    if not any(isinstance(node, RAW) for node in nodes):
        return nodes, outputs, []
    rebuilt = Rebuilt()
    for node in nodes:
        try:
            _rebuild(rebuilt, node)
        except TraceError as error:
            return nodes, outputs, [Problem.of(error, line=lines.get(node.name, ""), node=node.name)]
    named = {node.name: node for node in nodes}
    answers = tuple(rebuilt.materialised(named[name], rebuilt.known[name]) for name in outputs)
    return rebuilt.used(answers), answers, []


def _rebuild(graph: Rebuilt, node: Node) -> None:
    found = [graph.known[name] for name in node.inputs]
    for kinds, rule in RULES.items():
        if isinstance(node, kinds):
            graph.known[node.name] = rule(graph, node, found)
            return
    names = tuple(graph.materialised(node, value) for value in found)
    graph.known[node.name] = graph.place(replace(node, inputs=names))


RULES: dict[tuple[type[Node], ...], Callable[[Rebuilt, Node, Found], Known]] = {
    (View, ir.Permute, ir.Flatten): layers.view,
    (ir.LIF,): products.neurons,
    (ir.Scale,): products.scaled,
    (ir.Add,): layers.pointwise,
    (ir.Linear,): layers.linear,
    (PointLinear,): layers.token_linear,
    (PointNorm,): layers.token_norm,
    (ir.Conv2d,): layers.conv,
    (ir.BatchNorm,): layers.batch_norm,
    (MeanAxes, ir.MeanSpace): layers.mean,
    (MatMul,): products.multiplied,
    (Gate,): products.gated,
    (Complement,): products.silence,
}
"""What else reads a view gets its features in the order that it wants."""
