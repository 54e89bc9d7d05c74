"""A node to the share of the network that hangs on it: its segment, from the populations before it to those after."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from functools import cached_property

from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.node import Node

NEURON_NAME = re.compile(r"LIF|Leaky|Neuron|Synaptic|Izhikevich|\(IF|ALIF|PLIF")
"""Class names that other libraries give their neurons."""


class Shares:
    """Neurons and operations of a network, by segment.

    Args:
        nodes: in topological order; a plain `Node` stands in for what has no rule.
    """

    def __init__(self, nodes: Iterable[Node]) -> None:
        self.table = {node.name: node for node in nodes}

    @cached_property
    def readers(self) -> Mapping[str, list[str]]:
        """Name to who reads it."""
        found: dict[str, list[str]] = {name: [] for name in self.table}
        for node in self.table.values():
            for source in node.inputs:
                found[source].append(node.name)
        return found

    def of(self, name: str) -> tuple[float, float]:
        """Share of all neurons, and of all operations per step, that work with what ``name`` computes.

        Neurons: ``name`` itself, or the populations that it reaches through no other. Operations (multiply-accumulates
        of all layers per step): those on its ways from and to the populations around it. 0 for unknown names.
        """
        if name not in self.table:
            return 0.0, 0.0
        behind = self._walk(name, {key: list(node.inputs) for key, node in self.table.items()})
        ahead = self._walk(name, self.readers)
        neurons = [name] if is_population(self.table[name]) else [n for n in ahead if is_population(self.table[n])]
        between = {name, *behind, *ahead}
        total_neurons = sum(math.prod(n.shape) for n in self.table.values() if is_population(n))
        total_operations = sum(operations(n, self.table) for n in self.table.values())
        mine = sum(math.prod(self.table[n].shape) for n in neurons)
        work = sum(operations(self.table[n], self.table) for n in between)
        return mine / max(1, total_neurons), work / max(1, total_operations)

    def _walk(self, name: str, ways: Mapping[str, list[str]]) -> list[str]:
        """What can be reached without passing through a population, ends included."""
        found: dict[str, None] = {}
        waiting = list(ways[name])
        while waiting:
            each = waiting.pop()
            if each not in found:
                found[each] = None
                waiting += [] if is_population(self.table[each]) else ways[each]
        return list(found)


def is_population(node: Node) -> bool:
    """Whether a node is neurons, ours or those of a library that the tracer does not know."""
    return isinstance(node, ir.LIF) or (type(node) is Node and bool(NEURON_NAME.search(node.origin)))


def operations(node: Node, table: Mapping[str, Node]) -> int:
    """Multiply-accumulates per step of one node; an unknown one counts as one per value."""
    size = math.prod(node.shape)
    match node:
        case ir.Conv2d() | ir.Linear():
            return size * math.prod(node.weight.shape[1:])
        case ir.Attention():
            return 2 * size * (node.shape[0] // node.heads)
        case ir.AttentionMap() | ir.MappedValues():
            wide = math.prod(table[node.inputs[0]].shape)
            return wide * node.shape[-1]
        case _:
            return size if type(node) is Node else 0
