"""Matrix products of spikes to attention, and spikes times spikes to neurons that open a gate."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.node import Array, Node
from avsnn.convert.view_graph import (
    Found,
    Known,
    Product,
    Rebuilt,
    Silence,
    Value,
    features,
    ordered,
    refusal,
)
from avsnn.convert.view_layers import pointwise
from avsnn.errors import TraceError


def neurons(graph: Rebuilt, node: Node, found: Found) -> Value:
    """Neurons, also those that read ``q k^T``."""
    assert isinstance(node, ir.LIF)
    if isinstance(found[0], Product):
        node = replace(node, gain=node.gain * found[0].gain)
        found = [_map(graph, node, found[0])]
    return pointwise(graph, node, found)


def scaled(graph: Rebuilt, node: Node, found: Found) -> Known:
    """A gain, which attention has itself."""
    assert isinstance(node, ir.Scale)
    if isinstance(found[0], Product):
        return replace(found[0], gain=found[0].gain * node.gain)
    value = features(node, found[0])
    source = graph.built[value.name]
    if not isinstance(source, ir.Attention | ir.MappedValues):
        return pointwise(graph, node, found)
    return graph.place(replace(source, name=node.name, scale=source.scale * node.gain), value.index)


def gated(graph: Rebuilt, node: Node, found: Found) -> Value:
    """Spikes where both send one; or where the first sends one and the second none."""
    silent = [value for value in found if isinstance(value, Silence)]
    if len(silent) == len(found):
        raise TraceError("a gate that opens in silence", where=node.origin or node.name, remedy="use one 1 - x at most")
    values = [value.of if isinstance(value, Silence) else features(node, value) for value in found]
    for value in values:
        if not _sends_spikes(graph, value.name):
            what, remedy = "multiplies what are not spikes", "put neurons before the product"
            raise TraceError(what, where=node.origin or node.name, found=value.name, remedy=remedy)
    for i, value in enumerate(values):
        if isinstance(found[i], Silence):
            name = f"{node.name}.minus"
            values[i] = graph.place(
                ir.Scale(name=name, inputs=(value.name,), shape=value.shape, origin=node.origin, gain=-1.0), value.index
            )  # fmt: skip
    total = ir.Add(name=f"{node.name}.sum", inputs=tuple(v.name for v in values), shape=node.shape, origin=node.origin)
    graph.known[total.name] = pointwise(graph, total, [*values])
    common: dict[str, Any] = {"name": node.name, "inputs": (total.name,), "shape": node.shape, "origin": node.origin}
    gate = ir.LIF(**common, decay=0.0, gain=1.0, threshold=0.5 if silent else 1.5)
    return pointwise(graph, gate, [graph.known[total.name]])


def silence(graph: Rebuilt, node: Node, found: Found) -> Silence:
    """``1 - x``, which a gate may read."""
    return Silence(features(node, found[0]))


def _sends_spikes(graph: Rebuilt, name: str) -> bool:
    node = graph.built[name]
    return isinstance(node, ir.LIF) or (isinstance(node, ir.MaxPool2d) and _sends_spikes(graph, node.inputs[0]))


def multiplied(graph: Rebuilt, node: Node, found: Found) -> Known:
    """Attention, once its third operand is there."""
    x, y = found
    match x, y:
        case Value(), Value() if _is_map(graph, x):
            heads, tokens = x.shape[:2]
            _expect(node, y, _by_head(y, heads, tokens))
            inputs = (x.name, y.name)
            mapped = ir.MappedValues(name=node.name, inputs=inputs, shape=y.shape, origin=node.origin, scale=1.0)
            return graph.place(mapped, y.index)
        case Value(), Value():
            return Product((x, y))
        case Product(), Value():
            (q, k), v = x.operands, y
            return _attention(graph, node, q, Value(k.name, k.shape, k.index.swapaxes(-1, -2)), v, x.gain)
        case Value(), Product():
            k, v = y.operands
            return _attention(graph, node, x, Value(k.name, k.shape, k.index.swapaxes(-1, -2)), v, y.gain)
    raise refusal(node, "a product of two products")


def _is_map(graph: Rebuilt, value: Value) -> bool:
    """Whether spikes say which tokens attend to which."""
    source = graph.built[value.name]
    if not isinstance(source, ir.LIF) or not value.in_order:
        return False
    return isinstance(graph.built[source.inputs[0]], ir.AttentionMap)


def _by_head(value: Value, heads: int, tokens: int) -> Array:
    """The index of (heads, tokens, channels) of features (channels, *tokens), heads of consecutive channels."""
    size = math.prod(value.shape)
    if size % (heads * tokens) or math.prod(value.shape[1:]) != tokens:
        return np.empty(0, dtype=np.int64)
    return np.arange(size).reshape(heads, size // heads // tokens, tokens).transpose(0, 2, 1)


def _expect(node: Node, value: Value, index: Array) -> None:
    if not np.array_equal(value.index.ravel(), index.ravel()) or value.index.shape[-2:] != index.shape[-2:]:
        what = "multiplies spikes that are not (heads, tokens, channels of a head) of (channels, tokens)"
        raise refusal(node, what, value)


def _heads(node: Node, q: Value) -> tuple[int, int]:
    if q.index.ndim not in (2, 3):
        raise refusal(node, "a product of more than (heads, tokens, channels)", q)
    return (q.index.shape[0] if q.index.ndim == 3 else 1), q.index.shape[-2]


def _attention(graph: Rebuilt, node: Node, q: Value, k: Value, v: Value, gain: float) -> Value:
    heads, tokens = _heads(node, q)
    for value in (q, k, v):
        _expect(node, value, _by_head(value, heads, tokens))
    made = ir.Attention(
        name=node.name,
        inputs=(q.name, k.name, v.name),
        shape=q.shape,
        origin=node.origin,
        heads=heads,
        scale=gain,
        over="space",
    )
    return graph.place(made, q.index)


def _map(graph: Rebuilt, node: Node, product: Product) -> Value:
    """``q k^T`` in front of neurons."""
    q, k = product.operands
    heads, tokens = _heads(node, q)
    _expect(node, q, _by_head(q, heads, tokens))
    _expect(node, k, _by_head(k, heads, tokens).swapaxes(-1, -2))
    shape, bias = (heads, tokens, tokens), np.zeros((tokens, tokens))
    name, inputs = f"{node.name}.map", (q.name, k.name)
    graph.place(ir.AttentionMap(name=name, inputs=inputs, shape=shape, origin=node.origin, heads=heads, bias=bias))
    return Value(name, shape, ordered(shape).reshape(*q.index.shape[:-1], tokens))
