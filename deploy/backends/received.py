"""What synapses delivered to a host, to the integers that it answers with: layer norms, gains per step.

Roots, divisions and roundings are those of `avsnn.convert.ir.products`, the one definition; all else are integers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from avsnn.convert.ir import products
from avsnn.convert.ir.fixed_nodes import FixedLayerNorm, FixedStepGain, Received
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.kernels import per_channel
from avsnn.convert.ir.node import Array, Shape
from avsnn.errors import CapabilityError, DomainError, InputError

WORKING_BYTES = 64  # for each neuron and step, all that lies between sums and messages
GAIN_LIMIT = 1 << 31
SQUARE_LIMIT = 1 << 53


def groups(graph: Graph, node: Received) -> tuple[tuple[tuple[str, ...], Shape], ...]:
    """The synapses whose currents add up, and the shape of each sum."""
    if not isinstance(node, FixedStepGain):
        return ((node.inputs, node.shape),)
    return (node.inputs[: node.factors], node.shape), (node.inputs[node.factors :], (1,))


def check(graph: Graph, node: Received, bounds: Mapping[str, int]) -> None:
    """Raise unless the host's arithmetic is exact; ``bounds``: the largest magnitude that each synapse delivers.

    Raises:
        CapabilityError: a node that the simulator does not know.
        InputError: synapses of other shapes, or delays that belong into synapses.
        DomainError: sums or their squares that could exceed what is exact.
    """
    if not isinstance(node, FixedLayerNorm | FixedStepGain):
        raise CapabilityError("the simulator knows no such host", where=node.name, found=node.kind)
    parts = groups(graph, node)
    unlike = [graph[name].shape for names, shape in parts for name in names if graph[name].shape != shape]
    if unlike or not all(names for names, _ in parts) or any(node.delays):
        raise InputError("what a host receives does not fit", where=node.name, found=unlike or node.delays)
    sums = [sum(bounds[name] for name in names) for names, _ in parts]
    sums[-1] += int(np.abs(node.bias).max(initial=0))
    if isinstance(node, FixedLayerNorm):
        worst, limit = (node.shape[0] * sums[0]) ** 2 + node.eps, SQUARE_LIMIT
    else:
        worst, limit = max(sums), GAIN_LIMIT
    if worst >= limit:
        raise DomainError("sums exceed what the host keeps exact", where=node.name, found=worst, limit=limit - 1)


def message_dtype(node: Received) -> np.dtype[np.signedinteger]:
    """The narrowest integer that holds every message."""
    return np.min_scalar_type(-node.levels - 1)


def sends(node: Received, arrived: Sequence[Array]) -> Array:
    """Messages of sums (steps, streams, *shape), int64."""
    if isinstance(node, FixedLayerNorm):
        x = arrived[0] + per_channel(node.bias.astype(np.int64), len(node.shape))
        return products.layer_norm(x, node.eps, node.shift, node.variant) * node.gain
    assert isinstance(node, FixedStepGain)
    x, w = arrived
    return products.step_gain(x, w + node.bias.astype(np.int64), node.shift) * node.gain
