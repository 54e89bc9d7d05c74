"""Do the integers fit the target, and do they for every input? Nothing is clipped later, so nothing may be too large.

Weights, exponents, biases and thresholds are compared with the widths of the target. Currents that the host computes
and counts that attention makes have a largest value, by `avsnn.convert.intervals`. What everything together makes of
neurons is the matter of `avsnn.convert.certificate`.
"""

from __future__ import annotations

import numpy as np

from avsnn.convert.intervals import Interval, of_held, of_product, sends, steps_of
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array, Node
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
            low, high = weight_range(node.sign_mode, target)
            _within(node, "weight mantissa", node.weight_mant, low, high)
            _within(node, "weight exponent", np.asarray(node.weight_exp), 0, target.weight_exp_max)
        case fixed.HeldCurrent():
            (source,) = graph.sources(node)
            assert isinstance(source, fixed.FixedInput)
            current = of_held(node, Interval.of(source.shape, source.low, source.high))
            _within(node, "current", np.stack([current.low, current.high]), -top, top)
        case fixed.FixedLIF():
            _within(node, "bias mantissa", node.bias_mant, -top, top)
            _within(node, "threshold", np.asarray(node.threshold_mant), 0, (1 << target.threshold_bits) - 1)
            for part in graph.sources(node):
                if isinstance(part, fixed.Product):
                    spikes = [Interval.of(x.shape, 0, 1) for x in graph.sources(part)]
                    made = of_product(part, spikes, steps_of(graph, part))
                    what = "current" if isinstance(part, fixed.FixedUnitCurrent) else "count"
                    _within(part, what, np.stack([made.low, made.high]), -room, room)
        case fixed.Received():
            _within(node, "message", np.array(sends(graph, node).ends), -node.levels, node.levels)
        case _:
            return 0
    return 1


def weight_range(mode: str, target: Target) -> tuple[int, int]:
    """(lowest, highest) weight mantissa of a sign mode."""
    whole, half = 1 << target.weight_bits, 1 << (target.weight_bits - 1)
    if mode == "mixed":
        return (-whole, whole - 2) if target.even else (-half, half - 1)
    return (0, whole - 1) if mode == "excitatory" else (1 - whole, 0)


def _within(node: Node, what: str, values: Array, low: int, high: int) -> None:
    if values.size and (values.min() < low or values.max() > high):
        raise VerifyError(
            f"{what} does not fit the target",
            where=node.name,
            expected=f"{low} to {high}",
            found=f"{values.min():g} to {values.max():g}",
        )
