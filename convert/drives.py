"""Weights of one neuron to the spikes of its sources that drive it as far up, or down, as they can.

A source is wanted where its weight has the right sign. Products want all of their sources, or none; a vector scaled to
length 1 wants counts in proportion to the weights.
"""

from __future__ import annotations

import numpy as np

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.kernels import image_shape
from avsnn.convert.ir.node import Array, Node, Shape
from avsnn.errors import DomainError

Wanted = dict[str, Array]  # name of a source to how often each of its neurons should fire: 0 to 1 of all steps


def wanted(graph: Graph, node: fixed.FixedLIF, neuron: int, sign: int) -> Wanted:
    """What sources should send so that ``node``'s neuron (flat index) goes the way of ``sign``, 1 or -1.

    Raises:
        DomainError: it reads a node that is not known here.
    """
    found: Wanted = {}
    for source in graph.sources(node):
        one = np.zeros(node.shape).reshape(-1)
        one[neuron] = sign
        _through(graph, source, one, found)
    return {name: np.clip(share, 0.0, 1.0) for name, share in found.items()}  # whole weights are 1 or more


def _through(graph: Graph, node: Node, weight: Array, found: Wanted) -> None:
    """Add what the sources of ``node`` should send, of which each element counts with ``weight`` (flat)."""
    match node:
        case fixed.FixedInput() | fixed.FixedLIF():
            found[node.name] = found.get(node.name, 0.0) + weight.reshape(node.shape)
        case fixed.FixedConv2d() | fixed.FixedLinear() | fixed.HeldCurrent():
            (source,) = graph.sources(node)
            row = _row(node, int(np.abs(weight).argmax()), source.shape) * np.sign(weight[np.abs(weight).argmax()])
            _through(graph, source, row.reshape(-1), found)
        case fixed.FixedLayerNorm() | fixed.FixedStepGain():
            for source in graph.sources(node):
                each = weight * np.sign(node.gain)
                _through(graph, source, each if source.shape == node.shape else np.abs(each).sum(keepdims=True), found)
        case fixed.FixedUnitCurrent():
            _counts(graph, node, weight * np.sign(node.gain), found)
        case fixed.FixedProductOfSums():
            x, y = graph.sources(node)
            positive = np.maximum(weight * np.sign(node.gain), 0).reshape(node.shape)
            channels = positive.reshape(len(positive), -1).max(axis=1).reshape(-1, *(1,) * (positive.ndim - 1))
            _through(graph, x, np.sign(np.broadcast_to(channels, x.shape)).reshape(-1), found)
            _through(graph, y, np.sign(positive).reshape(-1), found)
        case fixed.Product():
            for source in graph.sources(node):
                _through(graph, source, np.full(source.shape, float(weight.sum() * node.gain > 0)).reshape(-1), found)
        case _:
            raise DomainError("no drive through this node", where=node.name, found=node.kind)


def _counts(graph: Graph, node: fixed.FixedUnitCurrent, weight: Array, found: Wanted) -> None:
    row, start = np.maximum(weight.reshape(-1) @ node.weight.astype(np.float64), 0.0), 0
    for source, pooled in zip(graph.sources(node), node.pooled, strict=True):
        size = source.shape[0] if pooled else int(np.prod(source.shape))
        part = row[start : start + size]
        rates = part / max(float(part.max(initial=0.0)), 1e-30)
        lead = source.shape[:1] + (1,) * (len(source.shape) - 1) if pooled else source.shape
        _through(graph, source, np.broadcast_to(rates.reshape(lead), source.shape).reshape(-1), found)
        start += size


def _row(node: fixed.FixedConv2d | fixed.FixedLinear | fixed.HeldCurrent, index: int, source: Shape) -> Array:
    """The weights of one target (flat index), in the shape of the source."""
    weight = node.weight
    if weight.ndim == 2 or isinstance(node, fixed.FixedLinear):
        return weight[index].reshape(source).astype(np.float64)
    channel, y, x = np.unravel_index(index, node.shape)
    row = np.zeros(image_shape(source))
    per = weight.shape[1]
    first = int(channel) // (len(weight) // node.groups) * per
    for i, j in np.ndindex(*weight.shape[2:]):
        top = int(y) * node.stride[0] - node.padding[0] + i * node.dilation[0]
        left = int(x) * node.stride[1] - node.padding[1] + j * node.dilation[1]
        if 0 <= top < row.shape[1] and 0 <= left < row.shape[2]:
            row[first : first + per, top, left] = weight[channel, :, i, j]
    return row.reshape(source)
