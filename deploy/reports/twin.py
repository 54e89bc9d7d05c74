"""Turns an integer graph into its quantised twin: an ordinary network of the same shapes that is executed once.

T steps of spikes tell T + 1 counts apart, so a network without time says as much with activations of ceil(log2(T + 1))
bits (Shen et al., CVPR 2024). It is what a spiking network has to beat: T steps of additions against one pass of
multiplications.

What it is: every layer of the network once in dense order (`avsnn.deploy.reports.dense`), the same weights at the same
bits, and for every spike train of n steps a number of ceil(log2(n + 1)) bits, as for whatever else layers and products
send. Inputs keep their own range; a sequence enters as its sum over the window. Products multiply activations with each
other, attention over time with one step left to attend to.

What it is not: a network that anybody has trained. Nothing is said about its accuracy, and what spikes tell by their
order is not in it. It skips no zeros; an ANN that does has fewer multiplications than this.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Node
from avsnn.convert.ir.windows import windows
from avsnn.deploy.reports.dense import LAYER, PRODUCT, once


@dataclass(frozen=True, kw_only=True)
class TwinLayer:
    """One layer or product: multiply-accumulates, and what it reads.

    ``operand_bits`` are those of the activations and of what they are multiplied with: weights, or other activations.
    ``reads`` activations (of all sources), ``weights`` that are stored.
    """

    name: str
    kind: str
    macs: int
    operand_bits: tuple[int, int]
    reads: int
    weights: int


@dataclass(frozen=True, kw_only=True)
class Twin:
    """The twin of a network; everything is per sample, which is one execution."""

    steps: int
    weight_bits: int
    layers: tuple[TwinLayer, ...]

    @property
    def activation_bits(self) -> int:
        """ceil(log2(T + 1)): bits of what stands for T steps of spikes."""
        return activation_bits(self.steps)

    @property
    def macs(self) -> int:
        """Multiply-accumulates: of weights, of products and of what the host computes."""
        return sum(row.macs for row in self.layers)

    @property
    def product_macs(self) -> int:
        """Those of activations with activations."""
        return sum(row.macs for row in self.layers if row.kind == PRODUCT)

    @property
    def connections(self) -> int:
        """Those of layers that read spikes: each connection is multiplied once."""
        return sum(row.macs for row in self.layers if row.kind == LAYER)

    @property
    def weight_memory_bits(self) -> int:
        """Bits of all stored weights."""
        return self.weight_bits * sum(row.weights for row in self.layers)

    @property
    def activation_traffic_bits(self) -> int:
        """Bits of the activations that layers and products read, each once per reader."""
        return sum(row.reads * row.operand_bits[0] for row in self.layers)

    def to_json(self) -> dict[str, Any]:
        """Sums and rows."""
        names = "steps", "weight_bits", "activation_bits", "macs", "product_macs", "connections"
        sums = {name: getattr(self, name) for name in (*names, "weight_memory_bits", "activation_traffic_bits")}
        return sums | {"layers": [asdict(row) for row in self.layers]}


def activation_bits(steps: int) -> int:
    """ceil(log2(steps + 1)), in integers."""
    return steps.bit_length()


def ann_twin(graph: Graph, *, weight_bits: int) -> Twin:
    """The twin of an integer graph (stage quantised or scheduled) whose weights have ``weight_bits``."""
    steps = windows(graph)
    layers = []
    for row in once(graph).layers:
        node = graph[row.name]
        if row.kind == PRODUCT and isinstance(node, fixed.FixedUnitCurrent):
            continue  # its sums over the window: activations are such sums from the start
        weights = 0 if row.kind == PRODUCT else _weights(node)
        read = _read(node, graph)
        own = max(_bits(source, steps) for source in read)
        layers.append(
            TwinLayer(
                name=row.name,
                kind=row.kind,
                macs=row.macs,
                operand_bits=(own, weight_bits if weights else own),
                reads=sum(math.prod(source.shape) for source in read),
                weights=weights,
            )
        )
    return Twin(steps=graph.timesteps, weight_bits=weight_bits, layers=tuple(layers))


def _weights(node: Node) -> int:
    match node:
        case fixed.Synapse():
            return node.weight_mant.size
        case fixed.HeldCurrent() | fixed.FixedUnitCurrent():
            return node.weight.size
        case _:
            return 0


def _read(node: Node, graph: Graph) -> tuple[Node, ...]:
    """Whose activations a layer or product reads; a norm reads the sums of the layers before it."""
    sources = graph.sources(node)
    wired = isinstance(node, fixed.FixedLIF)  # coincidences, behind connections of weight 1
    return tuple(graph[source.inputs[0]] for source in sources) if wired else sources


def _bits(source: Node, steps: Mapping[str, int]) -> int:
    """Bits of what stands for all that a source sends in a window."""
    if isinstance(source, fixed.FixedInput):
        times = 1 if source.coding == "direct" else steps[source.name]
        low, high = min(0, source.low * times), max(1, source.high * times)
        return high.bit_length() if low == 0 else max(high.bit_length(), (-low - 1).bit_length()) + 1
    return activation_bits(steps[source.name])
