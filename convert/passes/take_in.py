"""A weighted layer takes in what stands in front of it, until it reads spikes: one step at a time, each exact.

====================  ==============================================================================================
in front of W         becomes
====================  ==============================================================================================
affine map M x + c    ``W M`` and a bias map (`avsnn.convert.passes.pointwise`)
sum, channels joined  one layer per operand, the first with the bias: ``W (a + b) = W a + W b``
mean over tokens      ``W / N`` repeated over the tokens
flatten, permute      the columns of W in the order of what it now reads
another layer         their product, where that is exact (`avsnn.convert.passes.chains`)
====================  ==============================================================================================

``kinds`` says what to take in; sums, flattening and gains in front of such a node go with it, others stay.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np

from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.node import Array, Node, Shape
from avsnn.convert.passes.chains import chain
from avsnn.convert.passes.pointwise import Layer, absorb, dense, pointwise

Kinds = tuple[type[Node], ...]
_BETWEEN = (ir.Add, ir.Flatten, ir.Scale, ir.Permute)


def take_in(layer: Layer, before: dict[str, Node], kinds: Kinds) -> Node | None:
    """The node that stands for ``layer`` once it has taken in what it can, or None if there is nothing.

    Args:
        layer: the layer, its inputs in ``before``.
        before: the nodes before it, by name; layers that reading several sources needs are added to it.
        kinds: what to take in.
    """
    if not leads_to(layer.inputs[0], before, kinds):
        return None
    source = before[layer.inputs[0]]
    match source:
        case ir.Add():
            counts = Counter(source.inputs)
            weight = layer.weight.astype(np.float64)
            scaled = {name: replace(layer, weight=n * weight, inputs=(name,)) for name, n in counts.items()}
            return _split(layer, scaled, before, kinds)
        case ir.Concat() if all(_of_unit(name, before) for name in source.inputs):
            return _joined(layer, source, before)
        case ir.Concat():
            return _split(layer, _by_channel(layer, source, before), before, kinds)
        case _:
            new = _step(layer, source, before)
            return None if new is None else take_in(new, before, kinds) or new


def leads_to(name: str, before: dict[str, Node], kinds: Kinds) -> bool:
    """Whether one of ``kinds`` is reached from ``name`` through sums, flattening, gains and permutations."""
    node = before[name]
    if isinstance(node, ir.Concat) and all(_of_unit(source, before) for source in node.inputs):
        return ir.Linear in kinds and any(isinstance(before[source], ir.Linear) for source in node.inputs)
    if isinstance(node, kinds):
        return True
    return isinstance(node, _BETWEEN) and any(leads_to(source, before, kinds) for source in node.inputs)


def _step(layer: Layer, source: Node, before: dict[str, Node]) -> Layer | None:
    """``layer`` with the one node in front of it taken in."""
    if isinstance(source, ir.Conv2d | ir.Linear):
        return chain(layer, source, before[source.inputs[0]].shape)
    inner = pointwise(source)
    if inner is not None:
        new = absorb(layer, inner, source.shape)
    elif isinstance(layer, ir.Conv2d):
        return along_frames(layer, source, before)
    elif isinstance(source, ir.DSLN | ir.Flatten | ir.Permute | ir.MeanSpace):
        shape = before[source.inputs[0]].shape
        weight = layer.weight.astype(np.float64)
        constant = np.zeros(weight.shape[1])
        if isinstance(source, ir.DSLN):
            constant = source.beta.repeat(math.prod(shape[1:]))
        new = replace(layer, weight=columns(weight, source, shape), bias=layer.bias + weight @ constant)
    else:
        return None
    return replace(new, inputs=source.inputs)


def columns(weight: Array, node: Node, shape: Shape) -> Array:
    """The matrix ``V`` with ``V x = weight n(x)`` but for a constant, of a node n that reads features of ``shape``."""
    match node:
        case ir.MeanSpace():
            tokens = math.prod(shape[1:])
            return np.repeat(weight / tokens, tokens, axis=1)
        case ir.Permute():
            ordered = weight.reshape(len(weight), *(shape[axis] for axis in node.axes))
            return ordered.transpose(0, *(int(axis) + 1 for axis in np.argsort(node.axes))).reshape(len(weight), -1)
        case ir.DSLN():
            split = weight.reshape(len(weight), shape[0], *shape[1:])
            gain = node.gamma.astype(np.float64).reshape(-1, *(1,) * (len(shape) - 1)) / np.sqrt(node.var + node.eps)
            scaled = split * gain
            return (scaled - scaled.mean(axis=1, keepdims=True)).reshape(len(weight), -1)
        case _:
            return weight


def along_frames(layer: ir.Conv2d, source: Node, before: dict[str, Node]) -> ir.Conv2d | None:
    """A convolution over frames whose features were made channels, on the frames as they are.

    (F, K) turned to (K, F, 1) under a kernel (k, 1) is the image (1, F, K) under a kernel (k, K).
    """
    shape = before[source.inputs[0]].shape
    first = isinstance(before[source.inputs[0]], ir.Input)  # (F, K) has no channels that others could take in
    turned = first and isinstance(source, ir.Permute) and source.axes == (1, 0) and source.shape == (*shape[::-1], 1)
    upright = layer.weight.shape[3] == 1 and layer.padding[1] == 0 and layer.groups == 1
    if not (turned and upright):
        return None
    return replace(
        layer,
        inputs=source.inputs,
        weight=layer.weight.transpose(0, 3, 2, 1),
        stride=(layer.stride[0], 1),
        dilation=(layer.dilation[0], 1),
    )


def _of_unit(name: str, before: dict[str, Node]) -> bool:
    """Whether ``name`` is a vector of length 1, or a layer that reads one: the host reads such vectors together."""
    node = before[name]
    return isinstance(node, ir.Unit) or (isinstance(node, ir.Linear) and isinstance(before[node.inputs[0]], ir.Unit))


def _joined(layer: Layer, source: ir.Concat, before: dict[str, Node]) -> Node:
    """``layer`` behind joined vectors of length 1, the layers between taken in: vectors are not read one by one."""
    weights, bias, vectors, start = [], layer.bias.astype(np.float64), [], 0
    for name in source.inputs:
        part = before[name]
        width = math.prod(part.shape)
        weight = layer.weight[:, start : start + width].astype(np.float64)
        start += width
        if isinstance(part, ir.Linear):
            bias = bias + weight @ part.bias
            weight, name = weight @ part.weight, part.inputs[0]
        weights.append(weight)
        vectors.append(name)
    length = sum(math.prod(before[name].shape) for name in vectors)
    joined = ir.Concat(name=f"{layer.name}.joined", inputs=tuple(vectors), shape=(length,), origin=layer.origin)
    before[joined.name] = joined
    return replace(layer, inputs=(joined.name,), weight=np.concatenate(weights, axis=1), bias=bias)


def _by_channel(layer: Layer, source: ir.Concat, before: dict[str, Node]) -> dict[str, Layer]:
    """One layer per joined operand, over its channels; an operand that is joined twice adds up."""
    whole = dense(layer) if isinstance(layer, ir.Conv2d) else layer
    parts: dict[str, Layer] = {}
    start = 0
    for name in source.inputs:
        shape = before[name].shape
        width = shape[0] if isinstance(whole, ir.Conv2d) else math.prod(shape)
        weight = whole.weight[:, start : start + width]
        start += width
        parts[name] = replace(whole, inputs=(name,), weight=parts[name].weight + weight if name in parts else weight)
    return parts


def _split(layer: Layer, parts: dict[str, Layer], before: dict[str, Node], kinds: Kinds) -> Node:
    """The sum of ``parts``, each of which goes on taking in; the first keeps the bias."""
    made = []
    for index, (name, part) in enumerate(parts.items()):
        named = layer.name if len(parts) == 1 else f"{layer.name}@{name}"
        bias = layer.bias if index == 0 else np.zeros(layer.weight.shape[0])
        part = replace(part, name=named, bias=bias)
        made.append(take_in(part, before, kinds) or part)
    if len(made) == 1:
        return made[0]
    before.update({node.name: node for node in made})
    return ir.Add(name=layer.name, inputs=tuple(n.name for n in made), shape=layer.shape, origin=layer.origin)
