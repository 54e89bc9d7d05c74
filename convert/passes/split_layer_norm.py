"""Take gain and shift out of a layer norm, so that the folds of norms can put them into the layers behind it.

``LN(x) = gamma N(x) + beta`` with ``N(x) = (x - mean) / sqrt(variance + eps)`` over channels (the variant multiplies).
N divides by what the moment brings and stays, a node of the host; ``gamma y + beta`` is a norm with mean 0 and variance
1, which folds like any other: into layers, through sums, and at padded borders as a bias map.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph, rewrite
from avsnn.convert.ir.node import Node


def split_layer_norm(graph: Graph) -> Graph:
    """Return ``graph`` with every `LayerNorm` of gain 1 and shift 0, and the gain and shift it had in a norm behind."""

    def split(node: Node, before: dict[str, Node]) -> Node | None:
        if not isinstance(node, ir.LayerNorm) or is_plain(node):
            return None
        ones = np.ones(len(node.gamma))
        inner = replace(node, name=f"{node.name}.plain", gamma=ones, beta=0 * ones)
        before[inner.name] = inner
        return ir.BatchNorm(
            name=node.name,
            inputs=(inner.name,),
            shape=node.shape,
            origin=node.origin,
            mean=0 * ones,
            var=ones,
            gamma=node.gamma.astype(np.float64),
            beta=node.beta.astype(np.float64),
            eps=0.0,
        )

    return rewrite(graph, split)


def is_plain(node: ir.LayerNorm) -> bool:
    """Whether its gain is 1 and its shift 0."""
    return bool((node.gamma == 1).all() and not node.beta.any())
