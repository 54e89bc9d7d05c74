"""The meaning of float graphs: one rule per node, float64, logical time. Slow and obvious on purpose.

With ``force`` the spikes of another stage are sent downstream and used for the reset, while each population still
decides by itself: every disagreement is then local, and one tie cannot make later layers differ.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir import products
from avsnn.convert.ir.activity import Activity
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.kernels import conv2d, max_pool2d, per_channel
from avsnn.convert.ir.node import Array, Node
from avsnn.errors import InputError

TIE = 1e-9  # relative distance to the threshold below which float64 rounding may decide


def interpret(graph: Graph, inputs: Mapping[str, Array], *, force: Mapping[str, Array] | None = None) -> Activity:
    """Run a ``traced`` or ``folded`` graph.

    Args:
        graph: the float graph.
        inputs: name to array, (B, *shape) where direct, (T, B, *shape) where a sequence (of its own steps, if it has).
        force: population name to spikes (T, B, *shape) that replace its own downstream and in its reset.

    Raises:
        InputError: an input is missing, has another shape, or lies outside its declared range.
    """
    return _run(graph, inputs, force)[0]


def values(graph: Graph, inputs: Mapping[str, Array], spikes: Mapping[str, Array]) -> dict[str, Array]:
    """What every node emits, (1 or T, B, *shape), when the populations send ``spikes``; errors as in `interpret`."""
    return _run(graph, inputs, spikes)[1]


def _run(
    graph: Graph, inputs: Mapping[str, Array], force: Mapping[str, Array] | None
) -> tuple[Activity, dict[str, Array]]:
    values: dict[str, Array] = {}
    spikes: dict[str, Array] = {}
    states: dict[str, dict[str, Array]] = {}
    ties: dict[str, Array] = {}
    for node in graph.nodes:
        arguments = [values[name] for name in node.inputs]
        if isinstance(node, ir.Attention | ir.LeakyIntegrator):  # sums over steps: one that stands for all will not do
            arguments = [np.broadcast_to(x, (graph.timesteps, *x.shape[1:])) for x in arguments]
        if isinstance(node, ir.Input):
            values[node.name] = check_input(node, inputs, graph.timesteps)
        elif isinstance(node, ir.LIF):
            forced = force.get(node.name) if force else None
            s, v, tie = fire(node, arguments[0], graph.timesteps, forced)
            spikes[node.name], states[node.name], ties[node.name] = s, {"v": v}, tie
            if node.current_decay:
                u = states[node.name]["u"] = decayed(arguments[0], node.current_decay, graph.timesteps)
                u[node.steps or graph.timesteps :] = 0.0
            values[node.name] = (s if forced is None else forced).astype(np.float64)
            values[node.name][node.steps or graph.timesteps :] = 0.0  # at rest nothing can be forced
        else:
            values[node.name] = apply(node, arguments)
    outputs = {name: values[name][-1] for name in graph.outputs}
    return Activity(outputs=outputs, spikes=spikes, states=states, ties=ties), values


def check_input(node: ir.Input, inputs: Mapping[str, Array], timesteps: int) -> Array:
    """The input as (1 or T, B, *shape) float64; a shorter sequence is followed by zeros."""
    if node.name not in inputs:
        raise InputError("input missing", where=node.name, found=", ".join(inputs) or "none")
    x = np.asarray(inputs[node.name], dtype=np.float64)
    lead = 1 if node.coding == "direct" else 2
    steps = node.steps or timesteps
    wrong_length = lead == 2 and x.shape[:1] != (steps,)
    if x.ndim != lead + len(node.shape) or x.shape[lead:] != node.shape or wrong_length:
        wanted = ("batch",) if lead == 1 else (steps, "batch")
        raise InputError("wrong input shape", where=node.name, found=x.shape, limit=(*wanted, *node.shape))
    if not np.isfinite(x).all():
        raise InputError("input holds NaN or infinity", where=node.name)
    slack = 1e-6 * (node.high - node.low)  # float32 rounding of a value on the edge
    if x.size and (x.min() < node.low - slack or x.max() > node.high + slack):
        raise InputError(
            "input outside its declared range",
            where=node.name,
            found=f"{x.min():g} to {x.max():g}",
            limit=f"{node.low:g} to {node.high:g}",
            remedy="scale the data as in training, or declare another range when saving the checkpoint",
        )
    return x[None] if lead == 1 else np.concatenate([x, np.zeros((timesteps - steps, *x.shape[1:]))])


def decayed(x: Array, decay: float, timesteps: int) -> Array:
    """``y[t] = decay y[t-1] + x[t]``, ``y[-1] = 0``, over the window: (T, B, *shape)."""
    found = np.empty((timesteps, *x.shape[1:]))
    y = np.zeros(x.shape[1:])
    for t, now in enumerate(np.broadcast_to(x, found.shape)):
        found[t] = y = decay * y + now
    return found


def fire(node: ir.LIF, current: Array, timesteps: int, forced: Array | None) -> tuple[Array, Array, Array]:
    """Walk one population through its window: (spikes, recorded v, ties), each (T, B, *shape)."""
    current = decayed(current, node.current_decay, timesteps) if node.current_decay else current
    full = np.broadcast_to(current, (timesteps, *current.shape[1:]))
    spikes = np.empty(full.shape, dtype=bool)
    states = np.empty(full.shape)
    ties = np.empty(full.shape, dtype=bool)
    v = np.zeros(full.shape[1:])
    owed = np.zeros(full.shape[1:])
    threshold = np.asarray(node.threshold, dtype=np.float64)
    steps = node.steps or timesteps
    spikes[steps:], states[steps:], ties[steps:] = False, 0.0, False
    for t in range(steps):
        u = (node.decay * v - owed) + node.gain * full[t]
        spikes[t] = u > threshold if node.strict else u >= threshold
        ties[t] = np.abs(u - threshold) <= TIE * np.abs(threshold)
        reset = spikes[t] if forced is None else forced[t]
        match node.reset:
            case "hard":
                v = np.where(reset, 0.0, u)
            case "subtract":
                v = u - threshold * reset
            case "subtract_delayed":
                v, owed = u, threshold * reset
            case _:
                raise InputError("unknown reset", where=node.name, found=node.reset)
        states[t] = v
    return spikes, states, ties


def apply(node: Node, arguments: list[Array]) -> Array:
    """One stateless node on (T, B, *shape) arrays."""
    x = arguments[0]
    match node:
        case ir.Attention() | ir.AttentionMap() | ir.MappedValues() | ir.ProductOfMeans():
            return multiply(node, arguments)
        case ir.DSLN() | ir.LayerNorm():
            return normalise_tokens(node, x)
        case ir.StepGain():
            return x * per_channel(arguments[1], x.ndim)
        case ir.Scale():
            return x * node.gain
        case ir.Unit():
            flat = x.reshape(*x.shape[:2], -1)
            length = np.sqrt((flat * flat).sum(axis=2)).reshape(*x.shape[:2], *(1 for _ in x.shape[2:]))
            return x / np.where(length > 0, length, 1.0)
        case ir.Permute():
            return x.transpose(0, 1, *(axis + 2 for axis in node.axes)).reshape(*x.shape[:2], *node.shape)
        case ir.Normalise():
            return (x - per_channel(node.mean, x.ndim - 2)) / per_channel(node.std, x.ndim - 2)
        case ir.Conv2d():
            y = conv2d(
                merge(x),
                node.weight.astype(np.float64),
                node.stride,
                node.padding,
                node.dilation,
                node.groups,
            )
            return split(y, x) + per_channel(node.bias, 3)
        case ir.Linear():
            return x.reshape(*x.shape[:2], -1) @ node.weight.astype(np.float64).T + node.bias
        case ir.BatchNorm():
            gain, shift = affine(node)
            return x * per_channel(gain, x.ndim - 2) + per_channel(shift, x.ndim - 2)
        case ir.MaxPool2d():
            return split(max_pool2d(merge(x), node.kernel, node.stride, node.padding), x)
        case ir.Add():
            return sum(arguments[1:], start=x)
        case ir.Concat():
            steps = max(len(one) for one in arguments)
            return np.concatenate([np.broadcast_to(one, (steps, *one.shape[1:])) for one in arguments], axis=2)
        case ir.Flatten():
            return x.reshape(*x.shape[:2], -1)
        case ir.MeanSpace():
            return x.mean(axis=(3, 4))
        case ir.MeanTime():
            return window(x, node.steps).mean(axis=0, keepdims=True)
        case ir.LeakyIntegrator():
            i = decayed(x, node.current_decay, len(x))
            return node.gain * decayed(i, node.decay, len(x))
        case ir.LastStep():
            return x[-1:]
        case ir.Readout() if node.step_weights is not None:
            total = np.broadcast_to(sum(arguments[1:], start=x), (len(node.step_weights), *x.shape[1:]))
            return np.tensordot(node.step_weights, total, axes=1)[None] + node.bias
        case ir.Readout():
            return sum(arguments[1:], start=x).mean(axis=0, keepdims=True) + node.bias
        case _:
            raise InputError("no float meaning", where=node.name, found=node.kind)


def multiply(node: Node, arguments: list[Array]) -> Array:
    """One product of activity with activity."""
    x, y = arguments[:2]
    match node:
        case ir.Attention(over="time"):
            keys, values = window(y, node.steps), window(arguments[2], node.steps)
            return node.scale * products.attention(x, keys, values, node.heads, node.over)
        case ir.Attention():
            return node.scale * products.attention(x, y, arguments[2], node.heads, node.over)
        case ir.AttentionMap():
            return products.attention_map(x, y, node.heads) + node.bias
        case ir.MappedValues():
            return node.scale * products.mapped_values(x, y)
        case ir.ProductOfMeans():
            y = window(y, node.steps)
            return products.product_of_sums(x, y) / (len(y) * math.prod(node.shape[1:]))
        case _:
            raise InputError("no float meaning", where=node.name, found=node.kind)


def window(x: Array, steps: int) -> Array:
    """The steps that count, of (T, B, *shape): all, or the first ``steps``."""
    return x[:steps] if steps else x


def normalise_tokens(node: ir.DSLN | ir.LayerNorm, x: Array) -> Array:
    """Minus the mean over channels, times what the variance says, then gain and shift per channel."""
    centred = x - x.mean(axis=2, keepdims=True)
    if isinstance(node, ir.DSLN):
        centred = centred / np.sqrt(node.var + node.eps)
    else:
        deviation = np.sqrt(np.square(centred).mean(axis=2, keepdims=True) + node.eps)
        centred = centred * deviation if node.variant else centred / deviation
    return centred * per_channel(node.gamma, x.ndim - 2) + per_channel(node.beta, x.ndim - 2)


def affine(node: ir.BatchNorm) -> tuple[Array, Array]:
    """(a, c) with BN(x) = a x + c, float64: a = gamma / sqrt(var + eps), c = beta - a mean."""
    gain = node.gamma.astype(np.float64) / np.sqrt(node.var.astype(np.float64) + node.eps)
    return gain, node.beta - gain * node.mean


def merge(x: Array) -> Array:
    """(T, B, *shape) -> (T B, *shape)."""
    return x.reshape(-1, *x.shape[2:])


def split(y: Array, like: Array) -> Array:
    """(T B, *shape) -> (T, B, *shape) with the T and B of ``like``."""
    return y.reshape(*like.shape[:2], *y.shape[1:])
