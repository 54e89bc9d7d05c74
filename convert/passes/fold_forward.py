"""Fold a normalisation into the layer that follows it (input normalisation, batch norm after spikes).

With ``n(x) = a x + c`` per channel and zero padding applied after it::

    W n(x) + d = (W diag(a)) x + (W c_map + d)

where ``c_map`` is the constant map c, zero outside the image. So the bias becomes a map: at the border fewer taps see
c. Exact for any stride, padding and dilation.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph, rewrite
from avsnn.convert.ir.interpreter import affine
from avsnn.convert.ir.kernels import conv2d, per_channel
from avsnn.convert.ir.node import Array, Node


def fold_forward(graph: Graph) -> Graph:
    """Return ``graph`` with every `Normalise` or `BatchNorm` in front of a weighted layer merged into that layer."""
    return rewrite(graph, _fold)


def gain_and_shift(node: ir.Normalise | ir.BatchNorm) -> tuple[Array, Array]:
    """(a, c) of ``n(x) = a x + c``, float64."""
    if isinstance(node, ir.BatchNorm):
        return affine(node)
    return 1.0 / node.std.astype(np.float64), -node.mean.astype(np.float64) / node.std.astype(np.float64)


def _fold(node: Node, before: dict[str, Node]) -> Node | None:
    if not isinstance(node, ir.Conv2d | ir.Linear):
        return None
    norm = before[node.inputs[0]]
    if not isinstance(norm, ir.Normalise | ir.BatchNorm):
        return None
    merged = _merge(node, norm)
    return _fold(merged, before) or merged  # norms may follow one another


def _merge(node: ir.Conv2d | ir.Linear, norm: ir.Normalise | ir.BatchNorm) -> ir.Conv2d | ir.Linear:
    gain, shift = gain_and_shift(norm)
    weight = node.weight.astype(np.float64)
    if isinstance(node, ir.Linear):
        return replace(node, inputs=norm.inputs, weight=weight * gain, bias=node.bias + weight @ shift)
    constant = np.broadcast_to(per_channel(shift, 3), (1, *norm.shape))
    bias = conv2d(constant, weight, node.stride, node.padding, node.dilation, node.groups)[0]
    bias = bias + per_channel(node.bias, 3)
    inner = gain.reshape(node.groups, 1, -1).repeat(weight.shape[0] // node.groups, axis=1).reshape(weight.shape[:2])
    return replace(node, inputs=norm.inputs, weight=weight * inner[:, :, None, None], bias=bias)
