"""Layers that read views, to layers that read features where they are."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.node import Array, Node
from avsnn.convert.view_graph import (
    Found,
    MeanAxes,
    PointLinear,
    PointNorm,
    Rebuilt,
    Value,
    View,
    channels_of,
    features,
    part,
    refusal,
)


def view(graph: Rebuilt, node: Node, found: Found) -> Value:
    """No node: another way to look at the same features."""
    value = features(node, found[0])
    if isinstance(node, View):
        return Value(value.name, value.shape, value.index.ravel()[node.index])
    if isinstance(node, ir.Permute):
        return Value(value.name, value.shape, value.index.transpose(node.axes).reshape(node.shape))
    return Value(value.name, value.shape, value.index.reshape(node.shape))


def pointwise(graph: Rebuilt, node: Node, found: Found) -> Value:
    """Neurons, gains and sums, on the features as they are."""
    values = [part(graph, node, features(node, value)) for value in found]
    first = values[0]
    if not all(v.shape == first.shape and np.array_equal(v.index.ravel(), first.index.ravel()) for v in values):
        raise refusal(node, "adds features in different orders", values[1])
    made = replace(node, inputs=tuple(v.name for v in values), shape=first.shape)
    if isinstance(made, ir.LIF) and not first.in_order:
        made = replace(made, layout=first.index)
    return graph.place(made, first.index)


def linear(graph: Rebuilt, node: Node, found: Found) -> Value:
    """Columns where the features are."""
    value = features(node, found[0])
    assert isinstance(node, ir.Linear)
    if value.plain or value.in_order:
        return graph.place(replace(node, inputs=(graph.materialised(node, value),)))
    weight = np.zeros((len(node.weight), math.prod(value.shape)), dtype=node.weight.dtype)
    weight[:, value.index.ravel()] = node.weight
    return graph.place(replace(node, inputs=(value.name,), weight=weight))


def token_linear(graph: Rebuilt, node: Node, found: Found) -> Value:
    """(*positions, features): a 1x1 convolution."""
    assert isinstance(node, PointLinear)
    value = features(node, found[0])
    made = _point(graph, node, value, np.moveaxis(value.index, -1, 0), node.weight, node.bias)
    rows = np.arange(made.index.size).reshape(len(node.weight), *node.shape[:-1])
    return Value(made.name, made.shape, np.moveaxis(rows, 0, -1))


def token_norm(graph: Rebuilt, node: Node, found: Found) -> Value:
    """(*positions, features): the same norm over channels."""
    assert isinstance(node, PointNorm)
    value = part(graph, node, features(node, found[0]))
    order = np.argsort(channels_of(node, value, np.moveaxis(value.index, -1, 0)))
    made = ir.LayerNorm(
        name=node.name,
        inputs=(value.name,),
        shape=value.shape,
        origin=node.origin,
        gamma=node.gamma[order],
        beta=node.beta[order],
        eps=node.eps,
    )
    return graph.place(made, value.index)


def conv(graph: Rebuilt, node: Node, found: Found) -> Value:
    """A pointwise convolution of tokens, or one that sees some of the channels."""
    assert isinstance(node, ir.Conv2d)
    value = features(node, found[0])
    if value.index.ndim == 2 and not value.plain:  # a line
        value = Value(value.name, value.shape, value.index[:, None])
    spans = math.prod(node.weight.shape[2:]) > 1 or node.stride != (1, 1) or node.padding != (0, 0) or node.groups > 1
    if value.plain or (spans and value.index.shape[1:] != value.shape[1:]):
        return graph.place(replace(node, inputs=(graph.materialised(node, value),)))
    if not spans:
        made = _point(graph, node, value, value.index, node.weight[:, :, 0, 0], node.bias)
        return Value(made.name, made.shape, made.index.reshape(node.shape))
    channels = channels_of(node, value, value.index)
    if node.groups != 1:
        raise refusal(node, "a grouped convolution of some of the channels", value)
    weight = np.zeros((len(node.weight), value.shape[0], *node.weight.shape[2:]), dtype=node.weight.dtype)
    weight[:, channels] = node.weight
    return graph.place(replace(node, inputs=(value.name,), weight=weight))


def _point(graph: Rebuilt, node: Node, value: Value, index: Array, weight: Array, bias: Array) -> Value:
    """A 1x1 convolution of what ``index``, (channels, *positions), looks at."""
    source = graph.built[value.name]
    if isinstance(source, ir.Input) and value.whole and len(value.shape) == 2:  # tokens as the user gives them
        channels, tokens = len(index), index.size // len(index)
        turned = (channels, tokens, 1)
        if not np.array_equal(index.reshape(channels, -1), np.arange(index.size).reshape(value.shape).T):
            raise refusal(node, "reads an input whose channels are not its last axis", value)
        name = f"{value.name}@{node.name}"
        graph.built[name] = ir.Permute(
            name=name, inputs=(value.name,), shape=turned, origin=node.origin, axes=(1, 0)
        )  # fmt: skip
        value = Value(name, turned, np.arange(index.size).reshape(turned))
        index = value.index
    if len(value.shape) != 3:
        raise refusal(node, "a layer over tokens needs channels and positions", value)
    whole = np.zeros((len(weight), value.shape[0]), dtype=weight.dtype)
    whole[:, channels_of(node, value, index)] = weight
    made = ir.Conv2d(
        name=node.name,
        inputs=(value.name,),
        shape=(len(weight), *value.shape[1:]),
        origin=node.origin,
        weight=whole[:, :, None, None],
        bias=bias,
    )
    return graph.place(made)


def batch_norm(graph: Rebuilt, node: Node, found: Found) -> Value:
    """Statistics in the order of the channels."""
    assert isinstance(node, ir.BatchNorm)
    value = part(graph, node, features(node, found[0]))
    order = np.argsort(channels_of(node, value, value.index))
    parts = {key: getattr(node, key)[order] for key in ("mean", "var", "gamma", "beta")}
    return graph.place(replace(node, inputs=(value.name,), shape=value.shape, **parts), value.index)


def mean(graph: Rebuilt, node: Node, found: Found) -> Value:
    """Over all positions, whatever their order."""
    value = features(node, found[0])
    axes = node.axes if isinstance(node, MeanAxes) else (1, 2)
    kept = [axis for axis in range(value.index.ndim) if axis not in axes]
    rows = np.sort(value.index.transpose(*kept, *axes).reshape(*(value.index.shape[a] for a in kept), -1), axis=-1)
    if len(kept) != 1 or len(value.shape) != 3:
        raise refusal(node, "a mean over a part of the positions", value)
    channels = channels_of(node, value, rows)
    made = ir.MeanSpace(name=node.name, inputs=(value.name,), shape=value.shape[:1], origin=node.origin)
    return graph.place(made, channels)
