"""Attention and products of sums to integer nodes, and the scale of a population that reads attention.

Counts are integers, so quantising attention loses nothing: its factor moves into the threshold (Zhou et al. write
``LIF(scale (q k^T) v)``, which fires as ``LIF((q k^T) v)`` with threshold ``threshold / scale``). With a gain m and
decay 1/2, v is a multiple of ``m / 2^(T-1)``; where that is at least 1, ``v >= m threshold`` is ``v > h`` for
``h = ceil(m threshold) - 1`` exactly, ties included.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Node
from avsnn.convert.ir.products import UNIT_BITS
from avsnn.convert.passes.integer_formats import Target, grid, rooms
from avsnn.errors import CapabilityError, QuantizeError

ATTENDING = (ir.Attention, ir.AttentionMap, ir.MappedValues)
HEADROOM = 0.9  # of u that the largest possible counts may fill
HOST_WEIGHT_MAX = (1 << 15) - 1  # the host multiplies vectors of length 1 in wide integers
HOST_BIAS_MAX = 1 << 47  # and what it adds must stay exact in floats, too, however small the weights are


@dataclass(frozen=True, kw_only=True)
class CountScale:
    """Gain of a product, integer threshold and S of the population that reads it; ``exact``: no tie is misjudged."""

    gain: int
    threshold: int
    scale: float
    exact: bool


def sources_of(graph: Graph, node: Node) -> tuple[str, ...]:
    """The populations that a product multiplies, one per input.

    Raises:
        CapabilityError: an input is not the spikes of one population.
    """
    found = []
    for name in node.inputs:
        source = graph[name]
        if not isinstance(source, ir.LIF | ir.MaxPool2d):
            what = "only spikes of one population can be multiplied"
            raise CapabilityError(what, where=node.origin or node.name, found=f"{source.name} ({source.kind})")
        found.append(name if isinstance(source, ir.LIF) else f"{name}.or")
    return tuple(found)


def integer_product(graph: Graph, node: Node, gain: int) -> fixed.Product:
    """The integer form of a float product."""
    common: dict[str, Any] = {"name": node.name, "inputs": sources_of(graph, node), "shape": node.shape}
    common |= {"origin": node.origin, "gain": gain}
    match node:
        case ir.Attention():
            return fixed.FixedAttention(**common, heads=node.heads, over=node.over)
        case ir.AttentionMap():
            return fixed.FixedAttentionMap(**common, heads=node.heads)
        case ir.MappedValues():
            return fixed.FixedMappedValues(**common)
        case ir.ProductOfMeans():
            return fixed.FixedProductOfSums(**common)
        case _:
            raise CapabilityError("no integer form", where=node.origin or node.name, found=node.kind)


def most(graph: Graph, node: Node) -> int:
    """The largest count that binary spikes can give."""
    q = graph[node.inputs[0]]
    tokens = math.prod(q.shape[1:])
    match node:
        case ir.Attention(over="space"):
            return q.shape[0] // node.heads * math.prod(graph[node.inputs[1]].shape[1:])
        case ir.Attention():
            return q.shape[0] // node.heads * (node.steps or graph.timesteps)
        case ir.AttentionMap():
            return q.shape[0] // node.heads
        case ir.MappedValues():
            return q.shape[2]
        case ir.ProductOfMeans():
            return tokens * (node.steps or graph.timesteps)
        case _:
            raise CapabilityError("no integer form", where=node.origin or node.name, found=node.kind)


def count_scale(graph: Graph, node: ir.LIF, source: Node, target: Target, bias: float = 0.0) -> CountScale:
    """The gain and threshold of a population that reads counts and, where ``bias`` is not 0, constants up to it.

    With constants, which are rounded, S is as large as the formats allow, so that the gain is nearly ``S factor``.

    Raises:
        CapabilityError: a reset or thresholds that counts have no exact form for.
        QuantizeError: the largest counts leave no room for a threshold.
    """
    T, factor = node.steps or graph.timesteps, float(getattr(source, "scale", 1.0))
    if not isinstance(node.threshold, float | int) or node.reset != "hard":
        what = "one threshold and a hard reset are needed behind attention"
        raise CapabilityError(what, where=node.origin or node.name, found=node.reset)
    real, peak = Fraction(node.threshold) / Fraction(node.gain), most(graph, source)
    threshold, tie = real / Fraction(factor), 0.0 if node.strict else grid(T)
    room = (1 << (target.state_bits - 1 - fixed.ACTIVATION_SHIFT)) - 1
    if bias:
        by_bias, by_peak = target.bias_room / bias * float(real), HEADROOM * room / peak * float(threshold)
        h = int(min(target.threshold_room, by_bias, by_peak) - 1)
        S = (h + tie) / float(real)
        gain, exact = round(S * factor), False
    else:
        gain = 1 << (T - 1)
        while gain > 1 and (gain * peak > HEADROOM * room or gain * threshold > target.threshold_room):
            gain //= 2
        h = math.floor(gain * threshold) if node.strict else math.ceil(gain * threshold) - 1
        S, exact = (h + tie) / float(real), node.decay == 0.5 and gain >= 1 << (T - 1)
    if h < 0 or gain < 1 or h > target.threshold_room or gain * peak > room:
        found = f"counts to {peak}, threshold {float(threshold):g}, constants to {bias:g}"
        raise QuantizeError("counts do not fit the state", where=node.origin or node.name, found=found, limit=room)
    return CountScale(gain=gain, threshold=h, scale=S, exact=exact)


def misjudged(node: ir.LIF, factor: float, gain: int, h: int, T: int) -> str:
    """What is wrong with the integer threshold h, or nothing: no v that counts can give lies on its wrong side.

    Counts times ``gain``, halved up to ``T - 1`` times, are multiples of ``gain / 2^(T-1)``.
    """
    step = Fraction(gain, 1 << (T - 1))
    top = Fraction(float(node.threshold)) / Fraction(node.gain) / Fraction(factor) * gain
    fires = (math.floor(top / step) + 1 if node.strict else math.ceil(top / step)) * step
    if fires - step <= h < fires:
        return ""
    return f"v = {float(fires)} should be the smallest that fires"


def normed(graph: Graph, node: ir.LIF) -> tuple[ir.Linear, tuple[ir.Unit, ...]] | None:
    """The layer and the vectors of length 1 that a population reads, if it reads such."""
    layer = graph[node.inputs[0]]
    if not isinstance(layer, ir.Linear):
        return None
    joined = graph[layer.inputs[0]]
    parts = graph.sources(joined) if isinstance(joined, ir.Concat) else (joined,)
    units = tuple(part for part in parts if isinstance(part, ir.Unit))
    if not units:
        return None
    if len(units) < len(parts):
        what = "vectors of length 1 and other activity into one layer"
        raise CapabilityError(what, where=layer.origin or layer.name, found=", ".join(part.kind for part in parts))
    return layer, units


def counted(graph: Graph, unit: ir.Unit) -> tuple[str, bool]:
    """(population whose counts become the vector, whether its tokens are summed): a positive factor changes nothing.

    Raises:
        CapabilityError: the vector is not a mean over steps, and perhaps tokens, of the spikes of one population.
    """
    node, over_time, pooled = graph[unit.inputs[0]], False, False
    while isinstance(node, ir.MeanTime | ir.MeanSpace | ir.Flatten):
        over_time |= isinstance(node, ir.MeanTime)
        pooled |= isinstance(node, ir.MeanSpace)
        node = graph[node.inputs[0]]
    if not over_time or not isinstance(node, ir.LIF | ir.MaxPool2d):
        what = "only means over steps of the spikes of one population can be scaled to length 1"
        raise CapabilityError(what, where=unit.origin or unit.name, found=f"{node.name} ({node.kind})")
    return (node.name if isinstance(node, ir.LIF) else f"{node.name}.or"), pooled


def unit_current(
    graph: Graph, node: ir.LIF, layer: ir.Linear, units: tuple[ir.Unit, ...], target: Target
) -> tuple[fixed.FixedUnitCurrent, int, float]:
    """(the host's node, integer threshold, S) of a population that reads vectors of length 1 through ``layer``.

    Raises:
        QuantizeError: no scale keeps every possible current in the state.
    """
    weight, bias = layer.weight.astype(np.float64), np.broadcast_to(layer.bias.astype(np.float64), layer.shape)
    lengths = [math.prod(unit.shape) for unit in units]
    parts = np.split(weight, np.cumsum(lengths)[:-1], axis=1)
    lengths_of = {sign: [np.sqrt((np.maximum(sign * part, 0) ** 2).sum(axis=1)) for part in parts] for sign in (-1, 1)}
    peaks = {sign: float((np.abs(bias) + sum(each)).max()) for sign, each in lengths_of.items()}  # counts are positive
    if not isinstance(node.threshold, float | int):
        raise CapabilityError("one threshold is needed behind a norm", where=node.origin or node.name)
    real = float(node.threshold) / node.gain
    most = min(room / max(peaks[sign], 1e-30) for sign, room in rooms(node, target, graph.timesteps))
    h = int(min(HEADROOM * most * real, target.threshold_room) - 1)
    if h < 1:
        peak = max(peaks.values())
        raise QuantizeError(
            "currents do not fit the state", where=node.origin or node.name, found=peak, limit=most * peak
        )
    S = (h + (0.0 if node.strict else grid(node.steps or graph.timesteps))) / real
    by_weight = HOST_WEIGHT_MAX / max(S * float(np.abs(weight).max()), 1e-30)
    by_bias = (HOST_BIAS_MAX >> UNIT_BITS) / max(S * float(np.abs(bias).max()), 1.0)
    shift = max(0, int(np.floor(np.log2(min(by_weight, by_bias)))))
    found = [counted(graph, unit) for unit in units]
    return (
        fixed.FixedUnitCurrent(
            name=layer.name,
            inputs=tuple(name for name, _ in found),
            shape=layer.shape,
            origin=layer.origin,
            weight=np.rint(weight * S * 2.0**shift).astype(np.int64),
            bias=np.rint(bias * S * 2.0 ** (shift + UNIT_BITS)).astype(np.int64),
            shift=shift + UNIT_BITS,
            pooled=tuple(pooled for _, pooled in found),
        ),
        h,
        S,
    )
