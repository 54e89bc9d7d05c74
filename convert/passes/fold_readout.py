"""Fold everything behind the last spikes (averages over tokens and steps, sums, the head) into one linear read-out.

Averages, sums, flattening and linear layers are all linear, so with spikes s_i of the populations that are read::

    y = (1 / T) sum_t sum_i W_i s_i[t] + bias

W_i is the product of the linear maps on the way to population i: the head's weights, repeated over tokens and divided
by their number where tokens are averaged. The mean over steps becomes a sum that is read once per window. What is read
may also be a product of means, or made by a host: its messages are numbers rather than spikes. Answers joined to one
are rows of W_i.
A mean over a window of n < T steps has ``T / n`` in its W_i: what it reads is silent in the other steps.
"""

from __future__ import annotations

import math

import numpy as np

from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.kernels import per_channel
from avsnn.convert.ir.node import Array, Node, Shape
from avsnn.convert.passes.chains import behind
from avsnn.convert.passes.pointwise import pointwise
from avsnn.convert.passes.take_in import columns
from avsnn.errors import CapabilityError

SPIKING = (ir.LIF, ir.MaxPool2d, ir.Input, ir.ProductOfMeans, ir.LayerNorm, ir.StepGain)
LINEAR = (
    ir.Linear, ir.Conv2d, ir.Scale, ir.BatchNorm, ir.Normalise, ir.DSLN, ir.MeanSpace, ir.Flatten, ir.Permute
)  # fmt: skip


def fold_readout(graph: Graph) -> Graph:
    """Return ``graph`` with each output replaced by a `Readout` over one `Linear` per population read.

    Raises:
        CapabilityError: the way from the spikes to an output is not linear, or has no mean over time.
    """
    nodes = {node.name: node for node in graph.nodes}
    for name in graph.outputs:
        out = graph[name]
        if isinstance(out, ir.Readout):
            continue
        bias = np.zeros(out.shape)
        terms: dict[str, Array] = {}
        spans: dict[str, Array | None] = {}
        _expand(graph, out, np.eye(int(np.prod(out.shape))), 0, None, terms, spans, bias)
        span = _common(graph, out, spans)
        rows = {f"{name}@{source}": (source, weight) for source, weight in terms.items()}
        for row, (source, weight) in rows.items():
            nodes[row] = ir.Linear(
                name=row,
                inputs=(source,),
                shape=out.shape,
                origin=out.origin,
                weight=weight,
                bias=np.zeros(out.shape),
            )
        del nodes[name]  # moves behind the rows it reads
        nodes[name] = ir.Readout(
            name=name, inputs=tuple(rows), shape=out.shape, origin=out.origin, bias=bias, step_weights=span
        )
    return graph.with_nodes(nodes.values())


def _common(graph: Graph, out: Node, spans: dict[str, Array | None]) -> Array | None:
    """What the steps of all populations count for, if that is the same."""
    found = list(spans.values())
    if all(span is None for span in found):
        return None
    first = found[0]
    alike = all(span is not None and first is not None and np.array_equal(span, first) for span in found)
    if not alike or any(node.steps for node in graph.of(ir.LIF)):
        what = "an answer of several sums over time" if not alike else "a leaky integrator beside shorter windows"
        remedy = "read all populations through the same leaky integrator, or through none"
        raise CapabilityError(what, where=out.origin or out.name, found=", ".join(spans), remedy=remedy)
    return first


def _integrated(node: ir.LeakyIntegrator, span: Array) -> Array:
    """What each step of its input counts for, where each step of its v counts for ``span``: both decays, backwards."""
    v = i = 0.0
    counted = np.empty(len(span))
    for t in reversed(range(len(span))):
        v = node.decay * v + span[t]
        i = node.current_decay * i + node.gain * v
        counted[t] = i
    return counted


def _expand(
    graph: Graph,
    node: Node,
    weight: Array,
    averaged: int,
    span: Array | None,
    terms: dict[str, Array],
    spans: dict[str, Array | None],
    bias: Array,
) -> None:
    """Add to ``terms`` what ``weight @ node`` means for each population, and to ``bias`` what is constant.

    averaged: steps of the mean over time that was met on the way, 0 before it.
    span: what each step counts for, if that is not the same for all; ``spans``: for each population.
    """
    sources, T = graph.sources(node), graph.timesteps
    if isinstance(node, ir.LayerNorm) and averaged not in (0, T):
        raise _refusal(node, "a layer norm that speaks on when its window is over")
    if isinstance(node, ir.LeakyIntegrator | ir.LastStep):
        if isinstance(node, ir.LastStep) and averaged:
            raise _refusal(node, "one step of what has no time")
        if not averaged:
            span = np.eye(T)[-1]
        elif span is None:
            span = np.where(np.arange(T) < averaged, 1.0 / averaged, 0.0)
        span = _integrated(node, span) if isinstance(node, ir.LeakyIntegrator) else span
        _expand(graph, sources[0], weight, T, span, terms, spans, bias)
    elif isinstance(node, SPIKING) and averaged:
        same = node.name not in spans or np.array_equal(spans[node.name], span)  # type: ignore[arg-type]
        if not same:
            raise _refusal(node, "two sums over time of the same spikes")
        spans[node.name] = span
        if span is None and not (isinstance(node, ir.Input) and node.coding == "direct"):  # which is there in all steps
            weight = weight * (graph.timesteps / averaged)
        terms[node.name] = terms[node.name] + weight if node.name in terms else weight
    elif isinstance(node, ir.Add):
        for source in sources:
            _expand(graph, source, weight, averaged, span, terms, spans, bias)
    elif isinstance(node, ir.Concat):
        sizes = np.cumsum([math.prod(source.shape) for source in sources])
        for source, part in zip(sources, np.split(weight, sizes[:-1], axis=1), strict=True):
            _expand(graph, source, part, averaged, span, terms, spans, bias)
    elif isinstance(node, ir.MeanTime):
        if averaged:
            raise _refusal(node, "a second mean over time")
        _expand(graph, sources[0], weight, node.steps or T, None, terms, spans, bias)
    elif isinstance(node, LINEAR):
        bias += weight @ _constant(node) * (1.0 if span is None else span.sum())
        _expand(graph, sources[0], _columns(weight, node, sources[0].shape), averaged, span, terms, spans, bias)
    else:
        raise _refusal(node, node.kind if averaged else "no mean over time")


def _constant(node: Node) -> Array:
    """What the linear node makes of zeros, flat."""
    match node:
        case ir.Linear():
            return node.bias.astype(np.float64)
        case ir.Conv2d():
            return np.broadcast_to(per_channel(node.bias, 3), node.shape).reshape(-1).astype(np.float64)
        case ir.BatchNorm() | ir.Normalise():
            inner = pointwise(node)
            assert inner is not None
            return inner.shift.repeat(math.prod(node.shape[1:]))
        case ir.DSLN():
            return node.beta.astype(np.float64).repeat(math.prod(node.shape[1:]))
        case _:
            return np.zeros(math.prod(node.shape))


def _columns(weight: Array, node: Node, shape: Shape) -> Array:
    """``V`` with ``V x = weight node(x)`` but for the constant, x of features ``shape``."""
    match node:
        case ir.Linear():
            return weight @ node.weight.astype(np.float64)
        case ir.Conv2d():
            return behind(weight, node, shape)
        case ir.Scale():
            return weight * node.gain
        case ir.BatchNorm() | ir.Normalise():
            inner = pointwise(node)
            assert inner is not None
            return weight * inner.matrix.repeat(math.prod(shape[1:]))
        case _:
            return columns(weight, node, shape)


def _refusal(node: Node, found: str) -> CapabilityError:
    return CapabilityError(
        "only averages, sums and linear layers may stand between the last spikes and the output",
        where=node.origin or node.name,
        found=found,
        remedy="end the network with a mean over time and a linear head",
    )
