"""What makes up the current of a population: which weighted layers, reading which spikes, and their biases.

Currents are sums, so the walk goes through `Add` to layers and from each layer through `Add` and `Flatten` to the
populations whose spikes it reads: ``W (x1 + x2) = W x1 + W x2``, one connection per source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.kernels import per_channel
from avsnn.convert.ir.node import Array
from avsnn.errors import CapabilityError


@dataclass(frozen=True, kw_only=True)
class Term:
    """One weighted connection: a float layer and the population or input it reads.

    Attributes:
        layer: the float layer.
        source: what it reads, in the integer graph.
        name: of the synapse to be.
        step: what an integer 1 of the source stands for: 1 for spikes, the step of an input.
        levels: largest integer magnitude that the source sends.
    """

    layer: ir.Conv2d | ir.Linear
    source: str
    name: str
    step: float = 1.0
    levels: int = 1

    @property
    def weight(self) -> Array:
        """Real weight per integer unit of the source."""
        return self.layer.weight.astype(np.float64) * self.step


def terms(graph: Graph, name: str) -> list[Term]:
    """The weighted connections that make up the current ``name``: through sums to layers, through sums to spikes."""
    node = graph[name]
    if isinstance(node, ir.Add):
        return [term for source in node.inputs for term in terms(graph, source)]
    if not isinstance(node, ir.Conv2d | ir.Linear):
        raise CapabilityError("a neuron must read weighted sums", where=node.origin or name, found=node.kind)
    sources = spike_sources(graph, node.inputs[0])
    names = [node.name] if len(sources) == 1 else [f"{node.name}@{source}" for source in sources]
    made = []
    for source, term in zip(sources, names, strict=True):
        fed = graph.by_name.get(source)
        steps: dict[str, Any] = {}
        if isinstance(fed, ir.Input):
            steps = {"step": fed.step, "levels": round(max(abs(fed.low), abs(fed.high)) / fed.step)}
        made.append(Term(layer=node, source=source, name=term, **steps))
    return made


def spike_sources(graph: Graph, name: str) -> list[str]:
    """The populations whose spikes add up to ``name``."""
    node = graph[name]
    match node:
        case ir.Add():
            found = [source for each in node.inputs for source in spike_sources(graph, each)]
            if len(set(found)) < len(found):
                raise CapabilityError("the same spikes are added twice", where=node.origin or name, found=found)
            return found
        case ir.Flatten():
            return spike_sources(graph, node.inputs[0])
        case ir.LIF() | ir.Input():
            return [name]
        case ir.MaxPool2d():
            return [f"{name}.or"]
        case _:
            raise CapabilityError("a layer must read spikes or an input", where=node.origin or name, found=node.kind)


def total_bias(found: Sequence[Term]) -> Array:
    """Sum of the biases of the layers behind a population, (C,) or a map; each layer counts once."""
    layers = {t.layer.name: t.layer for t in found}
    maps = [layer.bias.astype(np.float64) for layer in layers.values()]
    rank = max(m.ndim for m in maps)
    total: Array = sum((per_channel(m, rank) for m in maps), start=np.zeros(1).reshape((1,) * rank))
    return total
