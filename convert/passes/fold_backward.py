"""Fold batch norm, or a constant gain, into the layer that feeds it.

``BN(W x + d) = (diag(a) W) x + (a d + c)`` with ``a = gamma / sqrt(var + eps)``, ``c = beta - a mean``: exact when
the statistics are frozen and the layer feeds nothing else. Behind a sum of layers each takes a, and one takes c.
"""

from __future__ import annotations

from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph, rewrite
from avsnn.convert.ir.node import Node
from avsnn.convert.passes.pointwise import Pointwise, follow, pointwise


def fold_backward(graph: Graph) -> Graph:
    """Return ``graph`` with every batch norm merged into the convolution or linear layer that alone feeds it."""

    def alone(name: str) -> bool:
        return len(graph.readers[name]) == 1 and name not in graph.outputs

    def fold(node: Node, before: dict[str, Node]) -> Node | None:
        if not isinstance(node, ir.BatchNorm | ir.Scale):
            return None
        # of two norms in a row the first may already be in the layer, but still have other readers: ask the original
        source, fed_by = before[node.inputs[0]], graph[node.name].inputs[0]
        outer = pointwise(node)
        if outer is None or not alone(fed_by):
            return None
        if isinstance(source, ir.Conv2d | ir.Linear):
            return follow(source, outer)
        if isinstance(source, ir.Add) and all(alone(name) for name in graph[fed_by].inputs):
            return _into_sum(source, outer, before)
        return None

    return rewrite(graph, fold)


def _into_sum(total: ir.Add, outer: Pointwise, before: dict[str, Node]) -> Node | None:
    """``total`` with its layers, which nobody else reads, behind ``outer``."""
    layers = [before[name] for name in dict.fromkeys(total.inputs)]
    if not all(isinstance(layer, ir.Conv2d | ir.Linear) for layer in layers):
        return None
    for index, layer in enumerate(layers):
        assert isinstance(layer, ir.Conv2d | ir.Linear)
        share = 0.0 if index else 1.0 / total.inputs.count(layer.name)
        before[layer.name] = follow(layer, Pointwise(matrix=outer.matrix, shift=share * outer.shift))
    return total
