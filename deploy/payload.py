"""Turns the source of a connection into the bits of payload that its messages carry: 0 for spikes.

A product emits integers up to the value it has when every spike of its sources is there; an input those of its
declared range. The format follows from that range, not from the values of a run: a 1 in it has its payload too.
"""

from __future__ import annotations

import math

import numpy as np

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Node
from avsnn.convert.ir.products import UNIT_BITS
from avsnn.errors import InputError


def payload_bits(node: Node, graph: Graph) -> int:
    """Bits of a message of ``node``, one more for a sign where values may be negative; 0 where all are 0 or 1.

    Raises:
        InputError: a node that sends no messages.
    """
    match node:
        case fixed.FixedLIF():
            return 0
        case fixed.FixedInput():
            low, high = node.low, node.high
        case fixed.Product():
            low, high = bounds(node, graph)
        case _:
            raise InputError("a connection must read a population, a product or an input", where=node.name)
    if low >= 0 and high <= 1:
        return 0
    return max(high.bit_length(), (-low - 1).bit_length()) + 1 if low < 0 else high.bit_length()


def bounds(node: fixed.Product, graph: Graph) -> tuple[int, int]:
    """(smallest, largest) value of a product, its gain included; no spike or every spike of its sources is there."""
    if isinstance(node, fixed.Received):
        widest = abs(node.gain) * node.levels
        return -widest, widest
    if not isinstance(node, fixed.FixedUnitCurrent):
        low, high = sorted((0, node.gain * _most(node, graph)))
        return low, high
    row = int(np.abs(node.weight.astype(np.int64)).sum(axis=1).max()) << UNIT_BITS
    widest = abs(node.gain) * (((row + int(np.abs(node.bias).max(initial=0))) >> node.shift) + 1)
    return -widest, widest


def _most(node: fixed.Product, graph: Graph) -> int:
    """The largest value before the gain.

    Raises:
        InputError: a product without a known bound.
    """
    first = graph[node.inputs[0]].shape
    match node:
        case fixed.FixedAttention():
            keys = graph.timesteps if node.windowed else math.prod(graph[node.inputs[1]].shape[1:])
            return first[0] // node.heads * keys
        case fixed.FixedAttentionMap():
            return first[0] // node.heads
        case fixed.FixedMappedValues():
            return first[-1]
        case fixed.FixedProductOfSums():
            return math.prod(first[1:]) * graph.timesteps
        case _:
            raise InputError("no bound is known for this product", where=node.name, found=node.kind)
