"""A product of a scheduled graph to the row of ``network.json`` that its Lava Process is built from.

Each kind of product has one Process in ``lava_runtime/products``; what distinguishes two products of a kind are sizes,
gain and times, and for the host's currents from vectors of length 1 their weights. Messages are int32 in Lava: a
product that could form a larger one is an error here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array, Node, Shape
from avsnn.convert.ir.products import UNIT_BITS
from avsnn.errors import CapabilityError, InputError, QuantizeError

MESSAGE_LIMIT = 2**31
SUM_LIMIT = 2**63
UNIT_PROCESSES = {1: "UnitCurrent", 2: "PairedUnitCurrent"}


def product_row(graph: Graph, node: fixed.Product, store: Callable[[Array], str]) -> dict[str, Any]:
    """Return {"kind", "inputs", "sizes", "gain", "delays", "window", "start"}, the arguments of the Process.

    ``arrays``, if there are any, maps further arguments to names that ``store`` gave to arrays.

    Raises:
        InputError: shapes that do not fit each other, or a delay per input missing or negative.
        CapabilityError: a product without a Process.
        QuantizeError: messages that may not fit 32 bits.
    """
    shapes = [source.shape for source in graph.sources(node)]
    flat = [(shape[0], _tokens(shape)) for shape in shapes]
    kind, sizes, fits = _unit_current(node, flat) if isinstance(node, fixed.FixedUnitCurrent) else _kind(node, flat)
    if not fits or sizes.get("channels", 0) % sizes.get("heads", 1):
        found = f"{node.shape} of {', '.join(map(str, shapes))}"
        raise InputError("shapes of a product do not fit each other", where=node.name, found=found)
    delays = node.delays or (0,) * len(shapes)
    if len(delays) != len(shapes) or min(delays) < 0 or node.offset < 0:
        found = f"delays {delays}, offset {node.offset}"
        raise InputError("a product needs one delay per input, none negative", where=node.name, found=found)
    low, high = message_range(graph, node)
    if max(-low, high) >= MESSAGE_LIMIT:
        raise QuantizeError(
            "products may leave 32 bits", where=node.name, found=max(-low, high), limit=MESSAGE_LIMIT - 1
        )
    row: dict[str, Any] = {"kind": kind, "inputs": list(node.inputs), "sizes": dict(sizes)}
    row |= {"gain": int(node.gain), "delays": [int(delay) for delay in delays]}
    if isinstance(node, fixed.FixedUnitCurrent):
        row["arrays"] = {"weight": store(node.weight), "bias": store(node.bias)}
    window = graph.timesteps if node.windowed else 1
    return row | {"window": window, "start": node.offset if node.windowed else 0}


def message_range(graph: Graph, node: fixed.Product) -> tuple[int, int]:
    """Smallest and largest integer that a product of spikes can send.

    Raises:
        CapabilityError: a product that this module does not know.
        QuantizeError: sums on the way to them may leave 64 bits.
    """
    first = graph.sources(node)[0].shape
    match node:
        case fixed.FixedAttention():
            terms = graph.timesteps if node.windowed else _tokens(graph.sources(node)[1].shape)
            most = first[0] // node.heads * terms
        case fixed.FixedAttentionMap():
            most = first[0] // node.heads
        case fixed.FixedMappedValues():
            most = first[-1]
        case fixed.FixedProductOfSums():
            most = _tokens(first) * graph.timesteps
        case fixed.FixedUnitCurrent():
            low, high = sorted(int(node.gain) * each for each in _current_range(node, _counts(graph, node)))
            return min(0, low), max(0, high)
        case _:
            raise _unknown(node)
    end = most * int(node.gain)
    return min(0, end), max(0, end)


def _kind(node: fixed.Product, flat: list[tuple[int, int]]) -> tuple[str, Mapping[str, int], bool]:
    """Name of the Process, its sizes, and whether inputs of ``flat`` (channels, tokens) are those that it takes."""
    channels, tokens = flat[-1]
    result = (node.shape[0], _tokens(node.shape))
    match node, flat:
        case fixed.FixedAttention(over="space"), [q, k, v]:
            sizes = {"heads": node.heads, "channels": channels, "tokens": q[1], "keys": tokens}
            return "SpaceAttention", sizes, q == result and q[0] == channels and k == v
        case fixed.FixedAttention(over="time"), [q, k, v]:
            sizes = {"heads": node.heads, "channels": channels, "tokens": tokens}
            return "TimeAttention", sizes, q == k == v == result
        case fixed.FixedAttentionMap(), [q, k]:
            sizes = {"heads": node.heads, "channels": channels, "tokens": tokens}
            return "AttentionMap", sizes, q == k and result == (node.heads, tokens**2)
        case fixed.FixedMappedValues(), [chosen, v]:
            sizes = {"heads": chosen[0], "channels": channels, "tokens": tokens}
            return "MappedValues", sizes, chosen[1] == tokens**2 and v == result
        case fixed.FixedProductOfSums(), [x, y]:
            return "ProductOfSums", {"channels": channels, "tokens": tokens}, x == y == result
        case _:
            raise _unknown(node)


def _unit_current(node: fixed.FixedUnitCurrent, flat: list[tuple[int, int]]) -> tuple[str, dict[str, Any], bool]:
    """What `_kind` returns, of a current that the host makes of counts."""
    if len(flat) not in UNIT_PROCESSES:
        what, limit = "no Lava Process joins so many vectors of length 1", max(UNIT_PROCESSES)
        raise CapabilityError(what, where=node.name, found=len(flat), limit=limit)
    out, fits = math.prod(node.shape), len(node.pooled) == len(flat) and node.shift >= 0
    summed = [tokens if over else 1 for (_, tokens), over in zip(flat, node.pooled, strict=False)]
    lengths = [channels * tokens for channels, tokens in flat]
    counts = sum(length // each for length, each in zip(lengths, summed, strict=False))
    fits = fits and node.weight.shape == (out, counts) and node.bias.shape == (out,)
    return UNIT_PROCESSES[len(flat)], {"lengths": lengths, "summed": summed, "shift": node.shift}, fits


def _counts(graph: Graph, node: fixed.FixedUnitCurrent) -> list[int]:
    """How many counts each population gives."""
    shapes = [source.shape for source in graph.sources(node)]
    return [shape[0] if over else math.prod(shape) for shape, over in zip(shapes, node.pooled, strict=True)]


def _current_range(node: fixed.FixedUnitCurrent, counts: list[int]) -> tuple[int, int]:
    """Bounds of the current before its gain: ``w e <= |max(w, 0)| |e|``, as counts are never negative.

    e is rounded to whole numbers, so ``|e| <= 2^15 + sqrt(n) / 2`` for n counts.
    """
    weight = node.weight.astype(np.int64)
    bias = [int(each) for each in node.bias]
    sums = np.abs(weight).astype(np.float64).sum(axis=1).max(initial=0.0) * 2**UNIT_BITS
    if sums + max(map(abs, bias)) + 2.0**node.shift >= SUM_LIMIT:
        raise QuantizeError("sums may leave 64 bits", where=node.name, found=f"{sums:.3g}", limit="2^63 - 1")
    up, down = list(bias), list(bias)
    start = 0
    for count in counts:
        longest = (1 << UNIT_BITS) + math.isqrt(count) + 1
        part = weight[:, start : start + count].astype(np.float64)
        up = [b + length * longest for b, length in zip(up, _lengths(np.maximum(part, 0)), strict=True)]
        down = [b - length * longest for b, length in zip(down, _lengths(np.minimum(part, 0)), strict=True)]
        start += count
    half = (1 << node.shift) >> 1
    return (min(down) + half) >> node.shift, (max(up) + half) >> node.shift


def _lengths(rows: Array) -> list[int]:
    """Euclidean lengths, rounded up, and more than a float can be wrong."""
    return [int(length * (1 + 1e-12)) + 1 for length in np.sqrt((rows**2).sum(axis=1))]


def _tokens(shape: Shape) -> int:
    return math.prod(shape[1:])


def _unknown(node: Node) -> CapabilityError:
    return CapabilityError("no Lava Process for this product", where=node.name, found=node.kind)
