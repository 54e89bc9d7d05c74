"""A product of a scheduled graph to the row of ``network.json`` that its Lava Process is built from.

Each kind of product has one Process in ``lava_runtime/products``; what distinguishes two products of a kind are sizes,
gain and times, and for what a host does its constants. Messages are int32 in Lava: a
product that could form a larger one is an error here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from avsnn.convert.intervals import Interval, sends
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.kernels import per_channel
from avsnn.convert.ir.node import Array, Node, Shape
from avsnn.errors import CapabilityError, DomainError, InputError, QuantizeError

MESSAGE_LIMIT = 2**31
HOST_PROCESSES = {"FixedLayerNorm": "LayerNorm", "FixedStepGain": "StepGain"}
KNOWN = (
    fixed.FixedAttention,
    fixed.FixedAttentionMap,
    fixed.FixedMappedValues,
    fixed.FixedProductOfSums,
    fixed.FixedUnitCurrent,
    fixed.Received,
)
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
    peak = message_range(graph, node).peak
    if peak >= MESSAGE_LIMIT:
        raise QuantizeError("products may leave 32 bits", where=node.name, found=peak, limit=MESSAGE_LIMIT - 1)
    row: dict[str, Any] = {"kind": kind, "inputs": list(node.inputs), "sizes": dict(sizes)}
    row |= {"gain": int(node.gain), "delays": [int(delay) for delay in delays]}
    if isinstance(node, fixed.FixedUnitCurrent):
        row["arrays"] = {"weight": store(node.weight), "bias": store(node.bias)}
    window = graph.timesteps if node.windowed else 1
    return row | {"window": window, "start": node.offset if node.windowed else 0}


def host_row(graph: Graph, node: fixed.Received, store: Callable[[Array], str]) -> dict[str, Any]:
    """What `product_row` returns, of a host that reads synapses; ``joined``: how many of these each port adds up.

    Raises:
        InputError: synapses of other shapes, or delays, which a host does not have.
        CapabilityError: a host without a Process.
        QuantizeError: squares of sums, or messages, that lose bits.
    """
    shapes = [source.shape for source in graph.sources(node)]
    size = math.prod(node.shape)
    sizes: dict[str, int]
    match node:
        case fixed.FixedLayerNorm():
            joined, wanted = [len(shapes)], [node.shape] * len(shapes)
            sizes = {"channels": node.shape[0], "size": size, "shift": node.shift, "eps": node.eps}
            sizes |= {"variant": int(node.variant)}
            bias = np.broadcast_to(per_channel(node.bias, len(node.shape)), node.shape)
        case fixed.FixedStepGain():
            joined = [node.factors, len(shapes) - node.factors]
            wanted = [node.shape] * joined[0] + [(1,)] * joined[1]
            sizes = {"size": size, "shift": node.shift}
            bias = node.bias
        case _:
            raise _unknown(node)
    if shapes != wanted or min(joined) < 1 or any(node.delays):
        raise InputError("what a host receives does not fit", where=node.name, found=f"{shapes}, delays {node.delays}")
    peak = max(node.levels, message_range(graph, node).peak)
    if peak >= MESSAGE_LIMIT:
        raise QuantizeError("messages may leave 32 bits", where=node.name, found=peak, limit=MESSAGE_LIMIT - 1)
    row: dict[str, Any] = {"kind": HOST_PROCESSES[node.kind], "inputs": list(node.inputs), "joined": joined}
    row |= {"sizes": sizes, "gain": int(node.gain), "delays": [0] * len(joined), "window": 1, "start": 0}
    return row | {"arrays": {"bias": store(bias.reshape(-1))}}


def message_range(graph: Graph, node: fixed.Product) -> Interval:
    """Smallest and largest integers that a product of spikes can send.

    Raises:
        CapabilityError: a product that this module does not know.
        QuantizeError: sums on the way to them may leave 64 bits.
    """
    if not isinstance(node, KNOWN):
        raise _unknown(node)
    try:
        return sends(graph, node)
    except DomainError as error:
        raise QuantizeError(error.what, where=node.name, found=error.found, limit=error.limit) from error


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


def _tokens(shape: Shape) -> int:
    return math.prod(shape[1:])


def _unknown(node: Node) -> CapabilityError:
    return CapabilityError("no Lava Process for this product", where=node.name, found=node.kind)
