"""A ``mapped`` graph to what each core holds and computes: its neurons, its axons, the weights between them.

A core's part of a connection is computed with `avsnn.convert.ir.kernels`, as the whole one is, but from an image that
holds nothing but the messages of its axons, with weights that were cut out before the first message. Together the
cores of a population compute what the population does, if every neuron is in one slice and no axon is missing. A core
makes results of a product likewise, from inputs that are 0 but for the messages of its axons.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

import numpy as np

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.kernels import conv2d, image_shape, per_channel, sparse_sums
from avsnn.convert.ir.node import Array, Node, Shape
from avsnn.errors import CapabilityError

Box = tuple[tuple[int, ...], tuple[int, ...]]
"""First indices, and those behind the last, of each axis."""


def wires(graph: Graph, node: Node, group: int = 0) -> tuple[Node, ...]:
    """What adds up in the neurons of a population, in one of the sums that a host reads; of a product, itself."""
    if isinstance(node, fixed.Received):
        return tuple(graph[name] for name in node.sums[group])
    return (node,) if isinstance(node, fixed.Product) else graph.sources(node)


def grid(graph: Graph, node: Node, group: int = 0) -> Shape:
    """The axes along which a population, a sum or a product is cut: those of its convolutions, else its own.

    Raises:
        CapabilityError: its convolutions have different shapes, or none of them that of the population.
    """
    sources = wires(graph, node, group)
    own = sources[0].shape if isinstance(node, fixed.Received) else node.shape
    shapes = {source.shape for source in sources if isinstance(source, fixed.FixedConv2d)}
    shape = shapes.pop() if shapes else own
    if shapes or np.prod(shape) != np.prod(own):
        found = sorted({shape, *shapes})
        raise CapabilityError("convolutions of different shapes meet", where=node.name, found=found, limit=own)
    return shape


def grid_of(graph: Graph, part: fixed.Slice) -> Shape:
    """The axes along which the population of a slice is cut."""
    return grid(graph, graph[part.inputs[0]], part.group)


def source_of(graph: Graph, axons: fixed.Axons) -> str:
    """The name of what sends the messages that these axons take."""
    wire = graph[axons.inputs[0]]
    return axons.inputs[2] if isinstance(wire, fixed.Product) else wire.inputs[0]


def seen(node: Node, source: Shape) -> Shape:
    """The shape as which a connection sees its source: an image for a convolution, else flat."""
    return image_shape(source) if isinstance(node, fixed.FixedConv2d) else (int(np.prod(source)),)


def cut(shape: Shape, box: Box) -> tuple[Any, ...]:
    """The index of a box in an array whose last axes are ``shape``."""
    first, last = box
    assert len(first) == len(last) == len(shape)
    return (Ellipsis, *(slice(a, b) for a, b in zip(first, last, strict=True)))


def targets(shape: Shape, box: Box) -> Array:
    """Flat indices of the neurons of a box, ascending."""
    return np.arange(int(np.prod(shape))).reshape(shape)[cut(shape, box)].ravel()


@dataclass(frozen=True, kw_only=True)
class Field:
    """The source neurons that a box of a convolution's outputs reads, before borders: rows and columns may lie outside.

    ``pieces``: (outputs, inputs, groups) for consecutive output channels, each a whole number of groups or part of one.
    """

    channels: tuple[int, int]
    rows: tuple[int, int]
    columns: tuple[int, int]
    pieces: tuple[tuple[tuple[int, int], tuple[int, int], int], ...]

    def inside(self, source: Shape) -> Box:
        """Those of them that exist."""
        ends = (self.channels, self.rows, self.columns)
        first = tuple(max(0, a) for a, _ in ends)
        return first, tuple(max(f, min(b, n)) for f, (_, b), n in zip(first, ends, source, strict=True))


def reads(node: fixed.FixedConv2d, box: Box) -> Field:
    """What the outputs in ``box`` read."""
    (c0, *low), (c1, *high) = box
    ends = []
    for axis in (0, 1):
        start = low[axis] * node.stride[axis] - node.padding[axis]
        reach = node.dilation[axis] * (node.weight_mant.shape[2 + axis] - 1)
        ends.append((start, (high[axis] - 1) * node.stride[axis] - node.padding[axis] + reach + 1))
    per, each = len(node.weight_mant) // node.groups, node.weight_mant.shape[1]
    cuts = sorted({c0, min(c1, -(-c0 // per) * per), max(c0, c1 // per * per), c1})
    pieces = []
    for a, b in pairwise(cuts):
        groups = max(1, (b - a) // per)
        pieces.append(((a, b), (a // per * each, (a // per + groups) * each), groups))
    channels = (pieces[0][1][0], pieces[-1][1][1])
    return Field(channels=channels, rows=ends[0], columns=ends[1], pieces=tuple(pieces))


def needed(node: fixed.Synapse, source: Shape, shape: Shape, box: Box) -> tuple[Box, Array | None]:
    """The axons that neurons in ``box`` of a grid ``shape`` need: a box of sources, and which of it if not all.

    A weight of 0 needs an axon, as it is stored, but for matrices that are nearly all zeros.
    """
    if isinstance(node, fixed.FixedConv2d):
        return reads(node, box).inside(seen(node, source)), None
    assert isinstance(node, fixed.FixedLinear)
    wide = node.weight_mant.shape[1]
    if node.entries is None:
        return ((0,), (wide,)), None
    rows, columns = node.entries
    only = np.unique(columns[np.isin(rows, targets(shape, box))])
    return ((0,), (wide,)), only


@dataclass(frozen=True, eq=False)
class Neurons:
    """The neurons of one slice: ``node`` is the population with parameters of these alone."""

    node: fixed.FixedLIF
    shape: Shape
    index: tuple[Any, ...]

    @staticmethod
    def of_slice(graph: Graph, part: fixed.Slice) -> Neurons:
        """The part of the population that ``part`` names."""
        node = graph[part.inputs[0]]
        assert isinstance(node, fixed.FixedLIF)
        shape, box = grid(graph, node), (part.first, part.last)
        index = cut(shape, box)
        own: dict[str, Any] = {}
        for each in fields(node):
            value = getattr(node, each.name)
            if isinstance(value, np.ndarray):
                full = per_channel(value, len(node.shape)) if each.name == "bias_mant" else value
                own[each.name] = np.broadcast_to(full, node.shape).reshape(shape)[index]
        local = replace(node, name=f"{node.name} on core {part.core}", shape=part.shape, **own)
        return Neurons(local, shape, index)

    def take(self, whole: Array) -> Array:
        """What of an array (1, *population) is here."""
        return whole.reshape(1, *self.shape)[self.index]

    def put(self, whole: Array, found: Array) -> None:
        """Write it into such an array."""
        whole.reshape(1, *self.shape)[self.index] = found


class Wire:
    """One core's part of a connection: its axons and the weights behind them."""

    def __init__(self, graph: Graph, axons: fixed.Axons) -> None:
        node, part = (graph[name] for name in axons.inputs)
        assert isinstance(node, fixed.Synapse)
        assert isinstance(part, fixed.Slice)
        self.node, self.axons, self.box = node, axons, (part.first, part.last)
        self.shape = grid_of(graph, part)
        self.source = seen(node, graph[node.inputs[0]].shape)
        self.weights = list(self._convolution(node) if isinstance(node, fixed.FixedConv2d) else self._rows(node))

    def _convolution(self, node: fixed.FixedConv2d) -> Iterator[Array]:
        for (a, b), _, _ in reads(node, self.box).pieces:
            yield node.weight[a:b]

    def _rows(self, node: fixed.Synapse) -> Iterator[Array]:
        assert isinstance(node, fixed.FixedLinear)
        rows = targets(self.shape, self.box)
        if node.entries is None:
            yield node.weight[rows]
            return
        place = np.full(len(node.weight_mant), -1)
        place[rows] = np.arange(len(rows))
        keep = place[node.entries[0]] >= 0
        across, along = (index[keep] for index in node.entries)
        yield from (place[across], along, node.weight[across, along])

    def received(self, x: Array) -> Array:
        """The messages (N, *source) that reach this core, 0 elsewhere."""
        x = x.reshape(len(x), *self.source).astype(np.int64)
        here = np.zeros_like(x)
        index = cut(self.source, (self.axons.first, self.axons.last))
        here[index] = x[index]
        if self.axons.only is not None:
            only = np.zeros_like(here)
            only[:, self.axons.only] = here[:, self.axons.only]
            return only
        return here

    def currents(self, x: Array) -> Array:
        """What the neurons of this core receive, (N, *slice), of messages (N, *source)."""
        x = self.received(x)
        if not isinstance(self.node, fixed.FixedConv2d):
            rows = int(np.prod([b - a for a, b in zip(*self.box, strict=True)]))
            if len(self.weights) == 1:
                return x @ self.weights[0].T
            across, along, values = self.weights
            return sparse_sums(x, across, along, values, rows)
        view = reads(self.node, self.box)
        (_, top, left), (_, bottom, right) = view.inside(self.source)
        pads = [(top - view.rows[0], view.rows[1] - bottom), (left - view.columns[0], view.columns[1] - right)]
        image = np.pad(x[:, :, top:bottom, left:right], ((0, 0), (0, 0), *pads))
        stride, dilation = self.node.stride, self.node.dilation
        found = [
            conv2d(image[:, a:b], weight, stride, (0, 0), dilation, groups)
            for (_, (a, b), groups), weight in zip(view.pieces, self.weights, strict=True)
        ]
        return np.concatenate(found, axis=1)


class Share:
    """One core's part of a product: which messages reach it, and which results it makes."""

    def __init__(self, graph: Graph, product: fixed.Product, part: fixed.Slice) -> None:
        self.node, self.shape, self.index = (
            product,
            grid_of(graph, part),
            cut(grid_of(graph, part), (part.first, part.last)),
        )
        self.here = {name: np.zeros(int(np.prod(graph[name].shape)), dtype=np.int64) for name in product.inputs}

    def listen(self, axons: fixed.Axons) -> None:
        """Take messages as ``axons`` do."""
        here = self.here[axons.inputs[2]]
        here[slice(axons.first[0], axons.last[0]) if axons.only is None else axons.only] = 1

    def arrived(self, *x: Array) -> list[Array]:
        """The messages (T, B, *source) of each input that reach this core, 0 elsewhere."""
        here = (self.here[name].reshape(each.shape[2:]) for name, each in zip(self.node.inputs, x, strict=True))
        return [each * there for each, there in zip(x, here, strict=True)]

    def put(self, whole: Array, found: Array) -> None:
        """Write this core's results, of (T, B, *product), into such an array."""
        shape = (*whole.shape[:2], *self.shape)
        whole.reshape(shape)[self.index] = found.reshape(shape)[self.index]


class Cores:
    """All cores of a mapped graph, their weights loaded. ``shares``: of each product that cores make."""

    def __init__(self, graph: Graph) -> None:
        self.neurons: dict[str, list[Neurons]] = defaultdict(list)
        self.wires: dict[str, list[Wire]] = defaultdict(list)
        for each in graph.of(fixed.Slice):
            if isinstance(graph[each.inputs[0]], fixed.FixedLIF):
                self.neurons[each.inputs[0]].append(Neurons.of_slice(graph, each))
        shares: dict[tuple[str, str], Share] = {}
        for axons in graph.of(fixed.Axons):
            node, part = (graph[name] for name in axons.inputs[:2])
            if isinstance(node, fixed.Product):
                assert isinstance(part, fixed.Slice)
                shares.setdefault((node.name, part.name), Share(graph, node, part)).listen(axons)
            else:
                self.wires[node.name].append(Wire(graph, axons))
        self.shares: dict[str, list[Share]] = defaultdict(list)
        for (name, _), share in shares.items():
            self.shares[name].append(share)

    def connect(self, node: fixed.Synapse, x: Array) -> Array:
        """Weighted sums of x (N, *source), each core its own: (N, *grid); 0 for what no core computes."""
        whole: Array | None = None
        for wire in self.wires[node.name]:
            if whole is None:
                whole = np.zeros((len(x), *wire.shape), dtype=np.int64)
            found = wire.currents(x)
            index = cut(wire.shape, wire.box)
            whole[index] = found.reshape(whole[index].shape)
        return np.zeros((len(x), *node.shape), dtype=np.int64) if whole is None else whole
