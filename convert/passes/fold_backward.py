"""Fold batch norm into the layer that feeds it.

``BN(W x + d) = (diag(a) W) x + (a d + c)`` with ``a = gamma / sqrt(var + eps)``, ``c = beta - a mean``: exact when
the statistics are frozen and the layer feeds nothing else.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph, rewrite
from avsnn.convert.ir.interpreter import affine
from avsnn.convert.ir.kernels import per_channel
from avsnn.convert.ir.node import Node


def fold_backward(graph: Graph) -> Graph:
    """Return ``graph`` with every batch norm merged into the convolution or linear layer that alone feeds it."""
    readers = graph.readers

    def fold(node: Node, before: dict[str, Node]) -> Node | None:
        if not isinstance(node, ir.BatchNorm):
            return None
        source, fed_by = before[node.inputs[0]], graph[node.name].inputs[0]
        if not isinstance(source, ir.Conv2d | ir.Linear) or len(readers[fed_by]) > 1 or fed_by in graph.outputs:
            return None  # of two norms in a row the first may already be in the layer, but still have other readers
        gain, shift = affine(node)
        rows = gain.reshape(-1, *(1,) * (source.weight.ndim - 1))
        bias = per_channel(gain, source.bias.ndim) * source.bias + per_channel(shift, source.bias.ndim)
        return replace(source, weight=rows * source.weight.astype(np.float64), bias=bias)

    return rewrite(graph, fold)
