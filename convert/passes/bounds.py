"""Between which values each node of a float graph stays, for every input in its range and in every step.

Interval arithmetic, per feature: with weights parted by sign, ``W x + b`` lies between ``W+ low + W- high + b`` and
``W+ high + W- low + b``; sums, means, maxima and orders of features are monotone, as are products of values that are
not negative. Spikes lie in [0, 1], those of a neuron that can never fire in [0, 0]. Until its first spike a membrane is
``u[t] = decay u[t-1] + gain x[t]``, so ``U[t] = decay U[t-1] + gain high`` is the highest it can be (``gain low`` where
the gain is negative): a neuron whose U stays below its threshold in all T steps has no first spike. All is rounded
outward.
"""

from __future__ import annotations

from dataclasses import MISSING, fields, replace

import numpy as np

from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.interpreter import TIE, apply
from avsnn.convert.ir.node import Array, Node

OUTWARD = 1e-11  # of the sizes added up: float64 sums of up to 10^5 terms stay far within
BEYOND = 1e-6  # of its range: how far an input may lie outside (float32 rounding, see `interpreter.check_input`)
MONOTONE = (ir.Add, ir.Concat, ir.Flatten, ir.Permute, ir.MaxPool2d, ir.MeanSpace, ir.MeanTime)
PRODUCTS = (ir.Attention, ir.AttentionMap, ir.MappedValues, ir.ProductOfMeans)
KNOWN = frozenset(
    {"name", "inputs", "shape", "origin", "decay", "gain", "threshold", "reset", "strict", "layout", "steps"}
)

Bounds = tuple[Array, Array]  # lowest and highest, (1, 1, *shape)


def membranes(graph: Graph) -> dict[str, Array]:
    """The highest that the membrane of each neuron can be before its first spike, by population, of its shape."""
    found: dict[str, Bounds] = {}
    highest: dict[str, Array] = {}
    for node in graph:
        if isinstance(node, ir.LIF):
            highest[node.name] = _highest(node, *found[node.inputs[0]], graph.timesteps)
            spikes = np.asarray(~below(node, highest[node.name]), dtype=np.float64)[None, None]
            found[node.name] = (np.zeros_like(spikes), spikes)
        else:
            found[node.name] = _bounds(node, [found[name] for name in node.inputs], graph.timesteps)
    return highest


def below(node: ir.LIF, membrane: Array) -> Array:
    """Which neurons stay below their threshold, and not so near it that rounding may decide."""
    threshold = np.asarray(node.threshold, dtype=np.float64)
    return np.broadcast_to(membrane < threshold - TIE * np.abs(threshold), node.shape)


def _highest(node: ir.LIF, low: Array, high: Array, T: int) -> Array:
    """U of one population, (*shape)."""
    charge = np.broadcast_to(node.gain * (high if node.gain >= 0 else low)[0, 0], node.shape)
    more = [f for f in fields(node) if f.name not in KNOWN]  # a neuron with other abilities has another bound
    plain = all(f.default is not MISSING and getattr(node, f.name) == f.default for f in more)
    if not plain or node.decay < 0 or not np.isfinite(charge).all():
        return np.full(node.shape, np.inf)
    u, size, top = np.zeros(node.shape), np.zeros(node.shape), np.full(node.shape, -np.inf)
    for _ in range(node.steps or T):
        u, size = node.decay * u + charge, node.decay * size + np.abs(charge)
        top = np.maximum(top, u + OUTWARD * size)
    return top


def _bounds(node: Node, read: list[Bounds], T: int) -> Bounds:
    """Of any other node, from those of what it reads."""
    lows, highs = [low for low, _ in read], [high for _, high in read]
    unknown = np.full((1, 1, *node.shape), np.inf)
    if isinstance(node, ir.Input):
        span = BEYOND * (node.high - node.low)
        behind = 0.0 if node.steps else node.low  # a shorter sequence is 0 behind its end
        lowest, highest = min(node.low, behind) - span, max(node.high, behind) + span
        return np.full(unknown.shape, lowest), np.full(unknown.shape, highest)
    if not all(np.isfinite(x).all() for x in (*lows, *highs)):
        return -unknown, unknown
    sizes = [np.maximum(np.abs(low), np.abs(high)) for low, high in read]
    match node:
        case ir.Conv2d() | ir.Linear():
            return _weighted(node, lows[0], highs[0], sizes[0])
        case ir.Scale():
            ends = node.gain * lows[0], node.gain * highs[0]
            return _outward(np.minimum(*ends), np.maximum(*ends), abs(node.gain) * sizes[0])
        case ir.Unit():
            return np.where(lows[0] < 0, -1.0, 0.0), np.where(highs[0] > 0, 1.0, 0.0)
        case _ if isinstance(node, MONOTONE):
            return _outward(apply(node, lows), apply(node, highs), apply(node, sizes))
        case _ if isinstance(node, PRODUCTS) and min(x.min() for x in lows) >= 0 <= getattr(node, "scale", 0.0):
            lows, highs = ([np.broadcast_to(x, (T, *x.shape[1:])) for x in ends] for ends in (lows, highs))
            low, high = apply(node, lows)[:1], apply(node, highs)[:1]
            return _outward(low, high, np.abs(low) + np.abs(high))
        case _:
            return -unknown, unknown


def _weighted(node: ir.Conv2d | ir.Linear, low: Array, high: Array, size: Array) -> Bounds:
    """``W+ low + W- high + b`` and the other way round."""
    weight, none = node.weight.astype(np.float64), np.zeros_like(node.bias, dtype=np.float64)
    plus, minus = (replace(node, weight=part, bias=none) for part in (np.maximum(weight, 0), np.minimum(weight, 0)))
    whole = replace(node, weight=np.abs(weight), bias=np.abs(node.bias))
    bias = apply(replace(node, weight=0 * weight), [low])
    lowest = apply(plus, [low]) + apply(minus, [high]) + bias
    highest = apply(plus, [high]) + apply(minus, [low]) + bias
    return _outward(lowest, highest, apply(whole, [size]))


def _outward(low: Array, high: Array, size: Array) -> Bounds:
    return low - OUTWARD * size, high + OUTWARD * size
