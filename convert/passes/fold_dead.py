"""Populations that can never fire to the constant 0, and what depends on them to what is left of it.

A population whose membranes stay below their thresholds for every input (`avsnn.convert.passes.bounds`) sends zeros::

    W 0 + b = b        s + 0 = s        (q k^T) 0 = 0        max(0, .., 0) = 0

A constant b goes into the bias of a layer that is added to it, or of the read-out. A population that would be left with
a constant alone (it fires always the same pattern), or channels joined to others that fire, have no such form: what
they read stays, and is silent. What is read by nothing any more disappears, also where it fires.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.kernels import per_channel
from avsnn.convert.ir.node import Array, Node
from avsnn.convert.passes.bounds import below, membranes

_OF_ZEROS = (ir.MaxPool2d, ir.Flatten, ir.Permute, ir.Scale, ir.MeanSpace, ir.MeanTime, ir.Unit, ir.Concat)
_FACTORS = (ir.Attention, ir.MappedValues, ir.ProductOfMeans)


@dataclass(frozen=True, kw_only=True)
class NeverFires:
    """A population that can not fire.

    Attributes:
        population: its name.
        neurons: how many.
        membrane: the highest that the membrane of the neuron nearest to its threshold can be.
        threshold: of that neuron.
    """

    population: str
    neurons: int
    membrane: float
    threshold: float


def never_fire(graph: Graph) -> tuple[NeverFires, ...]:
    """The populations of which no neuron can fire, whatever the input."""
    found = []
    for name, membrane in membranes(graph).items():
        node = graph[name]
        assert isinstance(node, ir.LIF)
        if below(node, membrane).all():
            threshold = np.broadcast_to(np.asarray(node.threshold, dtype=np.float64), node.shape)
            nearest = int((threshold - membrane).argmin())
            ends = float(membrane.flat[nearest]), float(threshold.flat[nearest])
            found.append(NeverFires(population=name, neurons=membrane.size, membrane=ends[0], threshold=ends[1]))
    return tuple(found)


def fold_dead(graph: Graph) -> Graph:
    """Return ``graph`` without the populations that can never fire, as far as the rest has a form without them."""
    while (less := _once(graph)) is not graph:  # what stays for another's sake may go once that one stays
        graph = less
    return graph


def _once(graph: Graph) -> Graph:
    gone = frozenset(each.population for each in never_fire(graph))
    while gone:
        walk = _Walk(graph, gone)
        needed = walk.run()
        if not needed:
            return graph.with_nodes(walk.nodes.values())
        gone -= needed
    return graph


class _Walk:
    """One try: every node with zeros for the populations that are ``gone``.

    Attributes:
        nodes: those that still compute something.
        constants: node name to what it always emits, in as many dimensions as its shape; broadcasts to it.
        because: node name to the populations that make it constant.
        moved: node name to the one that is left of it.
    """

    def __init__(self, graph: Graph, gone: frozenset[str]) -> None:
        self.graph, self.gone = graph, gone
        self.nodes: dict[str, Node] = {}
        self.constants: dict[str, Array] = {}
        self.because: dict[str, frozenset[str]] = {}
        self.moved: dict[str, str] = {}

    def run(self) -> frozenset[str]:
        """The populations that have to stay, or none: then the walk has succeeded."""
        for node in self.graph:
            constant = [name for name in node.inputs if name in self.constants]
            if node.name in self.gone:
                self.constants[node.name] = np.zeros((1,) * len(node.shape))
                self.because[node.name] = frozenset({node.name})
            elif not constant:
                self._keep(node, node.inputs)
            else:
                reasons = frozenset[str]().union(*(self.because[name] for name in constant))
                if not self._simpler(node, [self.constants[name] for name in constant]):
                    return reasons
                self.because[node.name] = reasons
        fixed = [name for name in self.graph.outputs if name in self.constants or name in self.moved]
        return frozenset[str]().union(*(self.because[name] for name in fixed))

    def _keep(self, node: Node, inputs: tuple[str, ...]) -> None:
        self.nodes[node.name] = replace(node, inputs=tuple(self.moved.get(name, name) for name in inputs))

    def _simpler(self, node: Node, read: list[Array]) -> bool:
        """Note what is left of ``node``, some of whose inputs are constant; False if it has no form without them."""
        left = tuple(name for name in node.inputs if name not in self.constants)
        silent = not any(value.any() for value in read)
        match node:
            case ir.Add() if not left:
                self.constants[node.name] = sum(read, start=np.zeros((1,) * len(node.shape)))
            case ir.Add():
                return self._shorter(node, left, sum(read, start=np.zeros((1,) * len(node.shape))))
            case ir.Readout() if left:
                counted = 1.0 if node.step_weights is None else float(node.step_weights.sum())
                total = np.broadcast_to(counted * sum(read, start=np.zeros(1)), node.shape)
                self._keep(replace(node, bias=node.bias + total), left)
            case ir.Conv2d() | ir.Linear() if silent:
                self.constants[node.name] = per_channel(node.bias.astype(np.float64), len(node.shape))
            case ir.AttentionMap() if silent:
                self.constants[node.name] = node.bias[None].astype(np.float64)
            case _ if silent and (isinstance(node, _FACTORS) or (isinstance(node, _OF_ZEROS) and not left)):
                self.constants[node.name] = np.zeros((1,) * len(node.shape))
            case _:
                return False
        return True

    def _shorter(self, node: ir.Add, left: tuple[str, ...], constant: Array) -> bool:
        """A sum without its constants, which a layer that only this sum reads takes into its bias."""
        if constant.any():
            hosts = (name for name in left if len(self.graph.readers[name]) == 1 == node.inputs.count(name))
            host = next((self.nodes[n] for n in hosts if isinstance(self.nodes.get(n), ir.Conv2d | ir.Linear)), None)
            if not isinstance(host, ir.Conv2d | ir.Linear):
                return False
            bias = per_channel(host.bias.astype(np.float64), constant.ndim) + constant
            whole = np.ptp(bias.reshape(len(bias), -1), axis=1).any()
            self.nodes[host.name] = replace(host, bias=bias if whole else bias.reshape(len(bias), -1)[:, 0])
        if len(left) > 1:
            self._keep(node, left)
        else:
            self.moved[node.name] = self.moved.get(left[0], left[0])
        return True
