"""What makes up the current of a population: which weighted layers, reading which spikes, and their biases.

Currents are sums, so the walk goes through `Add` to layers and from each layer through `Add`, `Scale` and `Flatten` to
the populations whose spikes it reads: ``W (x1 + g x2) = W x1 + (g W) x2``, one connection per source.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.kernels import per_channel
from avsnn.convert.ir.node import Array, Node
from avsnn.errors import CapabilityError


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What a host sends: a unit, the largest integer, and the length that no vector over channels is likely to exceed.

    Attributes:
        step: what an integer 1 stands for.
        levels: largest integer magnitude.
        length: Euclidean length of the integers of one position; beyond it, a run may overflow (and then raises).
    """

    step: float
    levels: int
    length: float = math.inf


@dataclass(frozen=True, kw_only=True)
class Term:
    """One weighted connection: a float layer and the population or input it reads.

    Attributes:
        layer: the float layer.
        source: what it reads, in the integer graph.
        name: of the synapse to be.
        step: what an integer 1 of the source stands for: 1 for spikes, the step of an input, 1 / (N T) for a product
            of means; times the gains on the way, and times how often it is added.
        levels: largest integer magnitude that the source sends.
        length: of the vectors over channels that it sends, where that bounds them better than ``levels`` does.
        channels: of the source.
        signed: whether it sends negative ones as well.
    """

    layer: ir.Conv2d | ir.Linear
    source: str
    name: str
    step: float = 1.0
    levels: int = 1
    length: float = math.inf
    channels: int = 1
    signed: bool = False

    @property
    def weight(self) -> Array:
        """Real weight per integer unit of the source."""
        return self.layer.weight.astype(np.float64) * self.step

    @property
    def reach(self) -> float:
        """Largest |current| that it can make: the sum of all |weights|, or by Cauchy and Schwarz at each position."""
        rows = self.weight.reshape(len(self.layer.weight), -1)
        most = float(np.abs(rows).sum(axis=1).max()) * self.levels
        if self.length == math.inf:
            return most
        by_position = self.weight if self.weight.ndim > 2 else rows.reshape(len(rows), self.channels, -1)
        lengths = np.sqrt(np.square(by_position).sum(axis=1)).reshape(len(rows), -1)
        return min(most, float(lengths.sum(axis=1).max()) * self.length)


def terms(graph: Graph, name: str, sent: Mapping[str, Sent] = MappingProxyType({})) -> list[Term]:
    """The weighted connections that make up the current ``name``: through sums to layers, through sums to spikes.

    A layer that is added n times is one connection with n times its weights and bias. ``sent``: of host nodes.
    """
    return [term for layer, n in Counter(_summed(graph, name)).items() for term in _terms_of(graph, layer, n, sent)]


def arriving(graph: Graph, node: ir.LIF, sent: Mapping[str, Sent] = MappingProxyType({})) -> list[Term]:
    """The weighted connections of a population.

    A bias of the chip goes into v, past the current. So where a population has a current of its own, its biases become
    the weights of one more connection, from a neuron called ``node.bias`` that fires in every step. (The host adds the
    bias to a current that it holds.)
    """
    found = terms(graph, node.inputs[0], sent)
    bias = total_bias(found)
    if not node.current_decay or not bias.any() or all(_held(graph, t) for t in found):
        return found
    silent = {t.layer.name: replace(t.layer, bias=np.zeros(len(t.weight))) for t in found}
    flat = np.broadcast_to(per_channel(bias, len(node.shape)), node.shape).reshape(-1, 1)
    steady = f"{node.name}.bias"
    wire = ir.Linear(
        name=f"{steady}.wire", inputs=(steady,), shape=node.shape, origin=node.origin, weight=flat, bias=np.zeros(1)
    )
    return [*(replace(t, layer=silent[t.layer.name]) for t in found), Term(layer=wire, source=steady, name=wire.name)]


def _held(graph: Graph, term: Term) -> bool:
    source = graph.by_name.get(term.source)
    return isinstance(source, ir.Input) and source.coding == "direct"


def _summed(graph: Graph, name: str) -> list[str]:
    """What is summed up to ``name``, sums within sums opened."""
    node = graph[name]
    return [part for each in node.inputs for part in _summed(graph, each)] if isinstance(node, ir.Add) else [name]


def _terms_of(graph: Graph, name: str, times: int, sent: Mapping[str, Sent]) -> list[Term]:
    node = graph[name]
    if not isinstance(node, ir.Conv2d | ir.Linear):
        raise CapabilityError("a neuron must read weighted sums", where=node.origin or name, found=node.kind)
    if times > 1:
        node = replace(node, weight=times * node.weight.astype(np.float64), bias=times * node.bias.astype(np.float64))
    sources = weighted_sources(graph, node.inputs[0])
    names = [node.name] if len(sources) == 1 else [f"{node.name}@{source}" for source in sources]
    made = []
    for (source, gain), term in zip(sources.items(), names, strict=True):
        what = sent.get(source) or unit(graph, graph.by_name.get(source))
        channels = graph[source].shape[0] if source in graph.by_name else 1
        sender = graph.by_name.get(source)
        signed = source in sent or (isinstance(sender, ir.Input) and sender.low < 0)
        sends: dict[str, Any] = {
            "step": gain * what.step,
            "levels": what.levels,
            "length": what.length,
            "channels": channels,
            "signed": signed,
        }
        made.append(Term(layer=node, source=source, name=term, **sends))
    return made


def unit(graph: Graph, source: Node | None) -> Sent:
    """What an integer 1 of ``source`` stands for, and the largest integer that it sends.

    Raises:
        CapabilityError: a host node, which only its integer form knows this of.
    """
    match source:
        case ir.Input():
            return Sent(step=source.step, levels=round(max(abs(source.low), abs(source.high)) / source.step))
        case ir.ProductOfMeans():
            levels = math.prod(graph[source.inputs[0]].shape[1:]) * (source.steps or graph.timesteps)
            return Sent(step=1.0 / levels, levels=levels)
        case ir.LayerNorm() | ir.StepGain():
            raise CapabilityError("has no integers to read", where=source.origin or source.name, found=source.kind)
        case _:
            return Sent(step=1.0, levels=1)


def weighted_sources(graph: Graph, name: str) -> dict[str, float]:
    """The populations, inputs, products of means and host nodes that add up to ``name``, each with its factor.

    What is added twice has factor 2; what cancels out, 0.

    Raises:
        CapabilityError: something else adds to it.
    """
    node = graph[name]
    match node:
        case ir.Add():
            total: dict[str, float] = {}
            for each in node.inputs:
                for source, gain in weighted_sources(graph, each).items():
                    total[source] = total.get(source, 0.0) + gain
            return total
        case ir.Scale():
            return {source: node.gain * gain for source, gain in weighted_sources(graph, node.inputs[0]).items()}
        case ir.Flatten():
            return weighted_sources(graph, node.inputs[0])
        case ir.LIF() | ir.Input() | ir.ProductOfMeans() | ir.LayerNorm() | ir.StepGain():
            return {name: 1.0}
        case ir.MaxPool2d():
            return {f"{name}.or": 1.0}
        case ir.Permute():
            what = "features in another order between spikes and a convolution"
            remedy = "order them before the neurons, or read them with a linear layer"
            raise CapabilityError(what, where=node.origin or name, found=f"axes {node.axes}", remedy=remedy)
        case _:
            raise CapabilityError("a layer must read spikes or an input", where=node.origin or name, found=node.kind)


def spike_sources(graph: Graph, name: str) -> list[str]:
    """The populations whose spikes add up to ``name``, each once and with factor 1.

    Raises:
        CapabilityError: something else adds to it, or with another factor.
    """
    found = weighted_sources(graph, name)
    if any(gain != 1 for gain in found.values()):
        raise CapabilityError("plain spikes are needed", where=graph[name].origin or name, found=found)
    return list(found)


def total_bias(found: Sequence[Term]) -> Array:
    """Sum of the biases of the layers behind a population, (C,) or a map; each layer counts once."""
    layers = {t.layer.name: t.layer for t in found}
    maps = [layer.bias.astype(np.float64) for layer in layers.values()]
    rank = max(m.ndim for m in maps)
    total: Array = sum((per_channel(m, rank) for m in maps), start=np.zeros(1).reshape((1,) * rank))
    return total
