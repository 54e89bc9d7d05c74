"""Two weighted layers with no neuron between them are one: their product, where zero padding allows.

A convolution behind another sees zeros where it pads, but the first one would go on beyond its edge. The two are one
convolution only if the second pads nothing, or if what the first would make there is zero: its windows lie wholly in
padding (pooling by windows that do not overlap, say) and its bias is a map that ends at the edge.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.kernels import conv2d, per_channel
from avsnn.convert.ir.node import Array, Shape
from avsnn.convert.passes.pointwise import Layer, absorb, dense, follow, pointwise
from avsnn.errors import CapabilityError


def chain(layer: Layer, first: Layer, shape: Shape) -> Layer:
    """``layer(first(x))`` as one layer that reads what ``first`` reads.

    Args:
        layer: the later one, which gives the result its name.
        first: the earlier one.
        shape: features of x.

    Raises:
        CapabilityError: they are not one layer.
    """
    if isinstance(first, ir.Linear):
        if isinstance(layer, ir.Linear):
            weight = layer.weight.astype(np.float64) @ first.weight
            return replace(layer, inputs=first.inputs, weight=weight, bias=layer.bias + layer.weight @ first.bias)
        raise _refusal(layer, first)
    inner = pointwise(first)
    if inner is not None:
        return replace(absorb(layer, inner, first.shape), inputs=first.inputs)
    if isinstance(layer, ir.Linear):
        weight = behind(layer.weight.astype(np.float64), first, shape)
        constant = np.broadcast_to(per_channel(first.bias, 3), first.shape).reshape(-1)
        return replace(layer, inputs=first.inputs, weight=weight, bias=layer.bias + layer.weight @ constant)
    outer = pointwise(layer)
    if outer is not None:
        return replace(follow(first, outer), name=layer.name, origin=layer.origin, shape=layer.shape)
    return _convolve(layer, first, shape)


def behind(weight: Array, layer: ir.Conv2d, shape: Shape) -> Array:
    """``V`` with ``V x = weight (layer.weight * x)``: (rows, features of the layer) -> (rows, features of x)."""
    whole = dense(layer).weight.astype(np.float64)
    rows = weight.reshape(len(weight), *layer.shape)
    (ph, pw), (sh, sw), (dh, dw) = layer.padding, layer.stride, layer.dilation
    height, width = layer.shape[1:]
    padded = np.zeros((len(weight), shape[0], shape[1] + 2 * ph, shape[2] + 2 * pw))
    for i, j in np.ndindex(*whole.shape[2:]):
        seen = (
            slice(i * dh, i * dh + (height - 1) * sh + 1, sh),
            slice(j * dw, j * dw + (width - 1) * sw + 1, sw),
        )
        padded[:, :, seen[0], seen[1]] += np.einsum("rohw,oc->rchw", rows, whole[:, :, i, j], optimize=True)
    return padded[:, :, ph : ph + shape[1], pw : pw + shape[2]].reshape(len(weight), -1)


def _convolve(layer: ir.Conv2d, first: ir.Conv2d, shape: Shape) -> ir.Conv2d:
    """Taps meet at ``i d s1 + j d1``, i of the later kernel and j of the earlier one."""
    if not all(_zero_beyond(layer, first, shape, axis) for axis in (0, 1)):
        raise _refusal(layer, first)
    late, early = dense(layer).weight.astype(np.float64), dense(first).weight.astype(np.float64)
    apart = [layer.dilation[k] * first.stride[k] for k in (0, 1)]
    size = [apart[k] * (late.shape[2 + k] - 1) + first.dilation[k] * (early.shape[2 + k] - 1) + 1 for k in (0, 1)]
    weight = np.zeros((len(late), early.shape[1], *size))
    for i, j in np.ndindex(*late.shape[2:]):
        for m, n in np.ndindex(*early.shape[2:]):
            y, x = i * apart[0] + m * first.dilation[0], j * apart[1] + n * first.dilation[1]
            weight[:, :, y, x] += late[:, :, i, j] @ early[:, :, m, n]
    pads = [first.padding[k] + layer.padding[k] * first.stride[k] for k in (0, 1)]
    constant = np.broadcast_to(per_channel(first.bias, 3), (1, *first.shape)).astype(np.float64)
    made = conv2d(constant, late, layer.stride, layer.padding, layer.dilation, 1)[0]
    return replace(
        layer,
        inputs=first.inputs,
        weight=weight,
        bias=made + per_channel(layer.bias, 3),
        stride=(layer.stride[0] * first.stride[0], layer.stride[1] * first.stride[1]),
        padding=(pads[0], pads[1]),
        dilation=(1, 1),
        groups=1,
    )


def _zero_beyond(layer: ir.Conv2d, first: ir.Conv2d, shape: Shape, axis: int) -> bool:
    """Whether ``first`` without its bias is zero at the positions that ``layer`` pads, before and behind the image."""
    reach = first.dilation[axis] * (first.weight.shape[2 + axis] - 1)
    before = -first.stride[axis] - first.padding[axis] + reach < 0
    after = first.shape[1 + axis] * first.stride[axis] - first.padding[axis] >= shape[1 + axis]
    return layer.padding[axis] == 0 or (before and after)


def _refusal(layer: Layer, first: Layer) -> CapabilityError:
    return CapabilityError(
        "two layers without a neuron between them are not one layer, as the later one pads what the earlier one made",
        where=layer.origin or layer.name,
        found=f"{first.name} before {layer.name}",
        remedy="put neurons between them, or let the later one pad nothing",
    )
