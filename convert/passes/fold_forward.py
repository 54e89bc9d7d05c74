"""Fold a normalisation into the layer that follows it (input normalisation, batch norm after spikes).

With ``n(x) = a x + c`` per channel and zero padding applied after it::

    W n(x) + d = (W diag(a)) x + (W c_map + d)

where ``c_map`` is the constant map c, zero outside the image. So the bias becomes a map: at the border fewer taps see
c. Exact for any stride, padding and dilation. Between norm and layer there may be sums, channels joined, flattening and
means over tokens: a layer behind joined channels becomes one layer per part.

A maximum over windows behind such a norm goes before it, as ``max(a s + c) = a max(s) + c`` where a >= 0. Of spikes it
is an OR; where a < 0 the norm's maximum is the spikes' minimum, an AND, and neurons without memory make either.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph, rewrite
from avsnn.convert.ir.kernels import conv2d
from avsnn.convert.ir.node import Array, Node, Shape
from avsnn.convert.passes.pointwise import pointwise
from avsnn.convert.passes.take_in import take_in

TAKES_IN = (ir.Normalise, ir.BatchNorm, ir.Concat, ir.MeanSpace)


def fold_forward(graph: Graph) -> Graph:
    """Return ``graph`` with every `Normalise` or `BatchNorm` in front of a weighted layer merged into that layer."""
    return rewrite(graph, _fold)


def _fold(node: Node, before: dict[str, Node]) -> Node | None:
    match node:
        case ir.Conv2d() | ir.Linear():
            return take_in(node, before, TAKES_IN)
        case ir.MaxPool2d():
            return _norm_last(node, before)
        case _:
            return None


def _norm_last(pool: ir.MaxPool2d, before: dict[str, Node]) -> Node | None:
    """``norm(pool(spikes))`` for ``pool(norm(spikes))``."""
    norm = before[pool.inputs[0]]
    spikes = before[norm.inputs[0]] if norm.inputs else norm
    if not isinstance(norm, ir.BatchNorm) or not isinstance(spikes, ir.LIF):
        return None
    inner = pointwise(norm)
    assert inner is not None
    negative = inner.matrix < 0
    made: Node = replace(pool, inputs=norm.inputs)
    if negative.any():
        window, neurons = _extremes(replace(pool, inputs=norm.inputs), negative, norm.shape)
        made = replace(neurons, steps=spikes.steps)
        before[window.name] = window
    before[made.name] = made
    return replace(norm, name=f"{pool.name}.norm", inputs=(made.name,), shape=pool.shape)


def _extremes(pool: ir.MaxPool2d, negative: Array, shape: Shape) -> tuple[ir.Conv2d, ir.LIF]:
    """OR of a window's spikes, AND in the ``negative`` channels: fire if sum + bias >= 1, bias 1 - size of window.

    The threshold is half of that, as integer weights and biases, each rounded, do not add up to exactly 1.
    """
    ones = np.ones((shape[0], 1, *pool.kernel))
    size = conv2d(np.ones((1, *shape)), ones, pool.stride, pool.padding, (1, 1), shape[0])[0]
    window = ir.Conv2d(
        name=f"{pool.name}.window",
        inputs=pool.inputs,
        shape=pool.shape,
        origin=pool.origin,
        weight=ones,
        bias=np.where(negative[:, None, None], 1.0 - size, 0.0),
        stride=pool.stride,
        padding=pool.padding,
        groups=shape[0],
    )
    neurons = ir.LIF(
        name=f"{pool.name}.extremes",
        inputs=(window.name,),
        shape=pool.shape,
        origin=pool.origin,
        decay=0.0,
        gain=1.0,
        threshold=0.5,
    )
    return window, neurons
