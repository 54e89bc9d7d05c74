"""Some results of a product to the source neurons that they are made of, and to the bits that their core holds.

No program of a product is published, so this is an assumption, made so that nothing that must be there is left out::

    neurons   a compartment for each result, beside the neuron that reads it (or for itself, where synapses read it)
    arrived   (T or 1, + delay) bits for each source neuron: the window to replay or the step, and the steps it waits
    counters  space: d for each channel of values, to N;  time: d for each value neuron, to T;
              sums: one for each channel of x, to N, one for each result, to T

d channels of a head, N tokens. A result of attention over tokens needs its head of q at its token, its head of k and
its channel of v at all tokens; over time, all of them at its token. A map needs the head of q at one token and of k at
the other; values by a map a row of it, and their channel; a product of sums its channel of x and one neuron of y.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array
from avsnn.errors import CapabilityError


def reached(node: fixed.Product, graph: Graph, results: Array) -> dict[str, Array]:
    """Source to those of its neurons that ``results`` are made of; flat indices, ascending.

    Raises:
        CapabilityError: a product of which nobody knows how to cut it.
    """
    found: dict[str, Array] = {}
    for name, each in zip(node.inputs, _operands(node, graph, results), strict=True):
        found[name] = np.union1d(found[name], each) if name in found else np.unique(each)
    return found


def _operands(node: fixed.Product, graph: Graph, results: Array) -> tuple[Array, ...]:
    """The same for each input."""
    shapes = [graph[name].shape for name in node.inputs]
    match node:
        case fixed.FixedAttention():
            heads, channels, tokens = _place(node, results, shapes[0][0] // node.heads)
            every, wide = np.arange(math.prod(shapes[1][1:])), math.prod(shapes[0][1:])
            others = tokens if node.windowed else every
            return _pairs(heads, tokens, wide), _pairs(heads, others, len(every)), _pairs(channels, others, len(every))
        case fixed.FixedAttentionMap():
            head, m, n = (np.unique(index) for index in np.unravel_index(results, node.shape))
            heads = _of_heads(head, shapes[0][0] // node.heads)
            return _pairs(heads, m, node.shape[1]), _pairs(heads, n, node.shape[2])
        case fixed.FixedMappedValues():
            number, rows, columns = shapes[0]
            _, channels, tokens = _place(node, results, 1)
            every = np.arange(columns)
            head = np.unique(channels // (shapes[1][0] // number))
            return _pairs(_pairs(head, tokens, rows), every, columns), _pairs(channels, every, columns)
        case fixed.FixedProductOfSums():
            _, channels, _ = _place(node, results, 1)
            wide = math.prod(shapes[0][1:])
            return _pairs(channels, np.arange(wide), wide), results
        case _:
            raise CapabilityError("nobody knows how to cut this", where=node.name, found=node.kind)


def held_bits(node: fixed.Product, graph: Graph, results: Array, arriving: Mapping[str, Array]) -> int:
    """Bits of memory for ``results``, besides their neurons; ``arriving``: what `reached` found for them."""
    steps = graph.timesteps if node.windowed else 1
    delays = node.delays or (0,) * len(node.inputs)
    waits: dict[str, int] = {}
    for name, delay in zip(node.inputs, delays, strict=True):
        waits[name] = max(waits.get(name, 0), steps + delay)
    return sum(waits[name] * len(each) for name, each in arriving.items()) + _counters(node, graph, results)


def _counters(node: fixed.Product, graph: Graph, results: Array) -> int:
    T, shapes = graph.timesteps, [graph[name].shape for name in node.inputs]
    match node:
        case fixed.FixedAttention():
            each = shapes[0][0] // node.heads
            _, channels, tokens = _place(node, results, each)
            keys = T if node.windowed else math.prod(shapes[1][1:])
            return each * len(channels) * (len(tokens) if node.windowed else 1) * keys.bit_length()
        case fixed.FixedProductOfSums():
            _, channels, _ = _place(node, results, 1)
            return len(channels) * math.prod(shapes[0][1:]).bit_length() + len(results) * T.bit_length()
        case _:
            return 0  # results add up where they are


def _place(node: fixed.Product, results: Array, each: int) -> tuple[Array, Array, Array]:
    """(channels of the heads of ``each`` channels, channels, tokens) that results (channel, *tokens) lie at."""
    channel, token = np.divmod(results, math.prod(node.shape[1:]))
    return _of_heads(np.unique(channel // each), each), np.unique(channel), np.unique(token)


def _of_heads(heads: Array, each: int) -> Array:
    return _pairs(heads, np.arange(each), each)


def _pairs(rows: Array, columns: Array, width: int) -> Array:
    """Flat indices of all (row, column)."""
    found: Array = (rows[:, None] * width + columns).ravel()
    return found
