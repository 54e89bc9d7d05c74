"""Affine maps over channels, the same at every position, merged into the weighted layer before or after them.

``y[:, p] = M x[:, p] + c`` with M diagonal (a norm, a gain) or full (a 1x1 convolution, centring over channels). As
zero padding comes after such a map, the layer behind it sees c inside the image alone: its bias becomes a map.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.interpreter import affine
from avsnn.convert.ir.kernels import conv2d, per_channel
from avsnn.convert.ir.node import Array, Node, Shape

Layer = ir.Conv2d | ir.Linear


@dataclass(frozen=True, kw_only=True)
class Pointwise:
    """``M x + c``; matrix: (C,) for a diagonal, or (out, in); shift: (out,)."""

    matrix: Array
    shift: Array


def pointwise(node: Node) -> Pointwise | None:
    """The map that ``node`` is, or nothing if it is no such map. All float64."""
    match node:
        case ir.BatchNorm():
            gain, shift = affine(node)
            return Pointwise(matrix=gain, shift=shift)
        case ir.Normalise():
            std = node.std.astype(np.float64)
            return Pointwise(matrix=1.0 / std, shift=-node.mean.astype(np.float64) / std)
        case ir.Scale():
            return Pointwise(matrix=np.full(node.shape[0], node.gain), shift=np.zeros(node.shape[0]))
        case ir.DSLN() if node.var.size == 1:
            return centring(node, 1.0 / math.sqrt(float(node.var.reshape(())) + node.eps))
        case ir.Conv2d() if _one_by_one(node) and node.stride == (1, 1) and node.bias.ndim == 1:
            single = node.groups == len(node.weight) == node.groups * node.weight.shape[1]
            matrix = node.weight.reshape(-1) if single else dense(node).weight[:, :, 0, 0]
            return Pointwise(matrix=matrix.astype(np.float64), shift=node.bias.astype(np.float64))
        case _:
            return None


def centring(node: ir.DSLN, gain: float) -> Pointwise:
    """``gain diag(gamma) (I - 1/C) x + beta``: rows that sum to zero."""
    channels = len(node.gamma)
    centred = np.eye(channels) - 1.0 / channels
    return Pointwise(matrix=gain * node.gamma.astype(np.float64)[:, None] * centred, shift=node.beta.astype(np.float64))


def absorb(layer: Layer, inner: Pointwise, shape: Shape) -> Layer:
    """``layer(inner(x))`` as one layer; shape: features of ``inner(x)``. The inputs stay those of ``layer``."""
    weight, shift, diagonal = layer.weight.astype(np.float64), inner.shift, inner.matrix.ndim == 1
    if isinstance(layer, ir.Linear):
        columns = weight.reshape(len(weight), shape[0], -1)
        bias = layer.bias + columns.sum(axis=2) @ shift
        scaled = columns * inner.matrix[:, None] if diagonal else np.einsum("ocp,ci->oip", columns, inner.matrix)
        return replace(layer, weight=scaled.reshape(len(weight), -1), bias=bias)
    added = _constant(layer, shift, shape)
    bias = per_channel(layer.bias, added.ndim) + added
    if diagonal:
        rows = inner.matrix.reshape(layer.groups, 1, -1).repeat(len(weight) // layer.groups, axis=1)
        return replace(layer, weight=weight * rows.reshape(*weight.shape[:2], 1, 1), bias=bias)
    whole = dense(layer)
    return replace(whole, weight=np.einsum("ochw,ci->oihw", whole.weight, inner.matrix, optimize=True), bias=bias)


def follow(layer: Layer, outer: Pointwise) -> Layer:
    """``outer(layer(x))`` as one layer."""
    if outer.matrix.ndim == 1:
        rows = outer.matrix.reshape(-1, *(1,) * (layer.weight.ndim - 1))
        weight = rows * layer.weight.astype(np.float64)
        bias = per_channel(outer.matrix, layer.bias.ndim) * layer.bias
        return replace(layer, weight=weight, bias=bias + per_channel(outer.shift, layer.bias.ndim))
    whole = dense(layer) if isinstance(layer, ir.Conv2d) else layer
    bias = np.tensordot(outer.matrix, layer.bias.astype(np.float64), axes=1) + per_channel(outer.shift, layer.bias.ndim)
    return replace(whole, weight=np.tensordot(outer.matrix, whole.weight.astype(np.float64), axes=1), bias=bias)


def dense(layer: ir.Conv2d) -> ir.Conv2d:
    """The same convolution with one group: zeros where groups do not meet."""
    if layer.groups == 1:
        return layer
    out, per_group, *kernel = layer.weight.shape
    weight = np.zeros((out, per_group * layer.groups, *kernel))
    rows = out // layer.groups
    for g in range(layer.groups):
        block = slice(g * rows, (g + 1) * rows)
        weight[block, g * per_group : (g + 1) * per_group] = layer.weight[block]
    return replace(layer, weight=weight, groups=1)


def _constant(layer: ir.Conv2d, shift: Array, shape: Shape) -> Array:
    """What the layer makes of the constant shift: a map, or one number per channel where nothing is padded."""
    image = np.broadcast_to(per_channel(shift, 3), (1, *shape))
    weight = layer.weight.astype(np.float64)
    made: Array = conv2d(image, weight, layer.stride, layer.padding, layer.dilation, layer.groups)[0]
    return made[:, 0, 0] if layer.padding == (0, 0) and layer.bias.ndim == 1 else made


def _one_by_one(layer: ir.Conv2d) -> bool:
    return layer.weight.shape[2:] == (1, 1) and layer.padding == (0, 0)
