"""Connections with several weight exponents to connections with one each, because a stock Process has one.

The weights of a connection are the sum of those of its synapse groups, the other rows of each being 0, so its readers
read the groups instead: ``(sum_e (mant_e << e)) x = sum_e ((mant_e x) << e)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Node


def split_groups(graph: Graph) -> Graph:
    """Return the graph with each synapse of several exponents as one synapse per exponent, ``name.e<exponent>``."""
    names: dict[str, tuple[str, ...]] = {}
    nodes: list[Node] = []
    for node in graph:
        parts = _groups(node) if isinstance(node, fixed.Synapse) else (node,)
        names[node.name] = tuple(part.name for part in parts)
        nodes += parts
    return replace(graph, nodes=tuple(_reading(node, names) for node in nodes))


def _reading(node: Node, names: Mapping[str, tuple[str, ...]]) -> Node:
    """The node with the groups of all that it reads."""
    inputs = tuple(part for name in node.inputs for part in names[name])
    if isinstance(node, fixed.FixedStepGain):
        return replace(node, inputs=inputs, factors=sum(len(names[name]) for name in node.inputs[: node.factors]))
    return replace(node, inputs=inputs)


def _groups(node: fixed.Synapse) -> tuple[Node, ...]:
    if len(node.exponents) < 2:
        return (replace(node, weight_exp=node.exponents[0]),) if np.ndim(node.weight_exp) else (node,)
    parts = []
    for exp in node.exponents:
        mant = node.weight_mant.copy()
        mant[node.row_exp != exp] = 0
        parts.append(replace(node, name=f"{node.name}.e{exp}", weight_mant=mant, weight_exp=exp))
    return tuple(parts)
