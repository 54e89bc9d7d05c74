"""A product of a scheduled graph to the row of ``network.json`` that its Lava Process is built from.

Each kind of product has one Process in ``lava_runtime/products``; what distinguishes two products of a kind are sizes,
gain and times. Messages are int32 in Lava: a product that could form a larger one is an error here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Node, Shape
from avsnn.errors import CapabilityError, InputError, QuantizeError

MESSAGE_LIMIT = 2**31


def product_row(graph: Graph, node: fixed.Product) -> dict[str, Any]:
    """Return {"kind", "inputs", "sizes", "gain", "delays", "window", "start"}, the arguments of the Process.

    Raises:
        InputError: shapes that do not fit each other, or a delay per input missing or negative.
        QuantizeError: messages that may not fit 32 bits.
    """
    shapes = [source.shape for source in graph.sources(node)]
    kind, sizes, fits = _kind(node, [(shape[0], _tokens(shape)) for shape in shapes])
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
    window = graph.timesteps if node.windowed else 1
    return row | {"window": window, "start": node.offset if node.windowed else 0}


def message_range(graph: Graph, node: fixed.Product) -> tuple[int, int]:
    """Smallest and largest integer that a product of spikes can send.

    Raises:
        CapabilityError: a product that this module does not know.
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


def _tokens(shape: Shape) -> int:
    return math.prod(shape[1:])


def _unknown(node: Node) -> CapabilityError:
    return CapabilityError("no Lava Process for this product", where=node.name, found=node.kind)
