"""Merge layers that have no neuron between them: ``W2 (W1 x + b1) + b2 = (W2 W1) x + (W2 b1 + b2)``.

Average pools in front of convolutions, 1x1 behind 3x3 convolutions, two linear layers in a row. Features that were
only put into another order in front of a layer are left where they were: the layer's columns move instead.
"""

from __future__ import annotations

from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph, rewrite
from avsnn.convert.ir.node import Node
from avsnn.convert.passes.take_in import take_in

TAKES_IN = (ir.Conv2d, ir.Linear, ir.Permute)


def fold_linear(graph: Graph) -> Graph:
    """Return ``graph`` with every chain of weighted layers as one layer.

    Raises:
        CapabilityError: two convolutions that zero padding between them keeps apart.
    """

    def merge(node: Node, before: dict[str, Node]) -> Node | None:
        return take_in(node, before, TAKES_IN) if isinstance(node, ir.Conv2d | ir.Linear) else None

    return rewrite(graph, merge)
