"""Do the integers fit the target, and do they for every input? Nothing is clipped later, so nothing may be too large.

Weights, exponents, biases and thresholds are compared with the widths of the target. Currents that the host computes
and counts that attention makes have a largest value, which is found here from the integers themselves: by intervals,
which zero padding narrows, and by spikes everywhere. What synapses of many spikes may add up to is left to the run,
which raises: on no sensible input does everything fire at once.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.fixed_interpreter import connect, product
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.kernels import per_channel
from avsnn.convert.ir.node import Array, Node
from avsnn.convert.ir.products import UNIT_BITS
from avsnn.convert.passes.integer_formats import Target
from avsnn.errors import VerifyError


def check_formats(quantised: Graph, target: Target) -> int:
    """Return how many nodes were checked.

    Raises:
        VerifyError: an integer that the target cannot hold, or a current or count that some input makes so.
    """
    for node in quantised.of(fixed.FixedLIF):
        _check_groups(quantised, node, target)
    return sum(_check(quantised, node, target) for node in quantised)


def _check_groups(graph: Graph, node: fixed.FixedLIF, target: Target) -> None:
    """No more pairs of exponent and sign mode arrive than a core holds, or one of each connection."""
    synapses = [part for part in graph.sources(node) if isinstance(part, fixed.Synapse)]
    found = {(exp, synapse.sign_mode) for synapse in synapses for exp in synapse.exponents}
    _within(node, "synapse formats", np.array([len(found)]), 0, max(len(synapses), target.synapse_formats))


def _check(graph: Graph, node: Node, target: Target) -> int:
    top = (1 << (target.bias_mant_bits - 1)) - 1
    room = (1 << (target.state_bits - 1 - fixed.ACTIVATION_SHIFT)) - 1
    match node:
        case fixed.Synapse():
            low, high = _weights(node.sign_mode, target)
            _within(node, "weight mantissa", node.weight_mant, low, high)
            _within(node, "weight exponent", np.asarray(node.weight_exp), 0, target.weight_exp_max)
        case fixed.HeldCurrent():
            for current in _extremes(graph, node):
                _within(node, "current", current, -top, top)
        case fixed.FixedLIF():
            _within(node, "bias mantissa", node.bias_mant, -top, top)
            _within(node, "threshold", np.asarray(node.threshold_mant), 0, (1 << target.threshold_bits) - 1)
            for part in graph.sources(node):
                if isinstance(part, fixed.FixedUnitCurrent):
                    _within(part, "current", _longest(graph, part), 0, room)
                elif isinstance(part, fixed.Product):
                    _within(part, "count", _everywhere(graph, part), 0, room)
        case _:
            return 0
    return 1


def _weights(mode: str, target: Target) -> tuple[int, int]:
    whole, half = 1 << target.weight_bits, 1 << (target.weight_bits - 1)
    if mode == "mixed":
        return (-whole, whole - 2) if target.even else (-half, half - 1)
    return (0, whole - 1) if mode == "excitatory" else (1 - whole, 0)


def _extremes(graph: Graph, node: fixed.HeldCurrent) -> tuple[Array, Array]:
    """The smallest and the largest current that inputs in range can make, position by position."""
    (source,) = graph.sources(node)
    assert isinstance(source, fixed.FixedInput)
    low, high = (np.full((1, *source.shape), level, dtype=np.int64) for level in (source.low, source.high))
    up, down = (replace(node, weight=part) for part in (np.maximum(node.weight, 0), np.minimum(node.weight, 0)))
    bias, half = per_channel(node.bias, len(node.shape)), (1 << node.shift) >> 1
    largest, smallest = connect(up, high) + connect(down, low), connect(up, low) + connect(down, high)
    return (smallest + bias + half) >> node.shift, (largest + bias + half) >> node.shift


def _longest(graph: Graph, node: fixed.FixedUnitCurrent) -> Array:
    """No vectors of length 1 make more, by Cauchy and Schwarz."""
    sizes = [x.shape[0] if p else math.prod(x.shape) for x, p in zip(graph.sources(node), node.pooled, strict=True)]
    parts = np.split(node.weight.astype(np.float64), np.cumsum(sizes)[:-1], axis=1)
    reach = sum(np.sqrt((part**2).sum(axis=1)) for part in parts)
    most: Array = (reach * (1 << UNIT_BITS) + np.abs(node.bias)) / 2.0**node.shift
    return most


def _everywhere(graph: Graph, node: fixed.Product) -> Array:
    """What a product makes when everything fires."""
    return product(node, *(np.ones((graph.timesteps, 1, *x.shape), dtype=np.int64) for x in graph.sources(node)))


def _within(node: Node, what: str, values: Array, low: int, high: int) -> None:
    if values.size and (values.min() < low or values.max() > high):
        raise VerifyError(
            f"{what} does not fit the target",
            where=node.name,
            expected=f"{low} to {high}",
            found=f"{values.min():g} to {values.max():g}",
        )
