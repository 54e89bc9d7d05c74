"""Convolution and pooling, written to be obviously right: one term per kernel tap, any dtype, integers stay exact."""

from __future__ import annotations

import numpy as np

from avsnn.convert.ir.node import Array, Shape
from avsnn.convert.ir.nodes import Pair


def conv2d(x: Array, weight: Array, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> Array:
    """Cross-correlation of x (N, C, H, W) with weight (O, C / groups, kh, kw), zero padding: (N, O, H', W').

    x (N, H, W) is an image of one channel.
    """
    x = x.reshape(len(x), *image_shape(x.shape[1:]))
    n, _, height, width = x.shape
    out, per_group, kh, kw = weight.shape
    padded = np.pad(x, ((0, 0), (0, 0), (padding[0], padding[0]), (padding[1], padding[1])))
    rows, columns = conv_size((height, width), (kh, kw), stride, padding, dilation)
    y = np.zeros((n, groups, out // groups, rows, columns), dtype=np.result_type(x, weight))
    taps = weight.reshape(groups, out // groups, per_group, kh, kw)
    for i in range(kh):
        for j in range(kw):
            top, left = i * dilation[0], j * dilation[1]
            view = padded[
                :,
                :,
                top : top + (rows - 1) * stride[0] + 1 : stride[0],
                left : left + (columns - 1) * stride[1] + 1 : stride[1],
            ].reshape(n, groups, per_group, rows * columns)
            for g in range(groups):
                y[:, g] += (taps[g, :, :, i, j] @ view[:, g]).reshape(n, -1, rows, columns)
    return y.reshape(n, out, rows, columns)


def sparse_sums(x: Array, rows: Array, columns: Array, values: Array, size: int) -> Array:
    """``x @ W.T`` of x (N, in) with W (size, in) that is ``values`` at (rows, columns), row by row, and 0 elsewhere."""
    y = np.zeros((len(x), size), dtype=np.result_type(x, values))
    if len(rows):
        filled, starts = np.unique(rows, return_index=True)
        y[:, filled] = np.add.reduceat(x[:, columns] * values, starts, axis=1)
    return y


def image_shape(shape: Shape) -> Shape:
    """What a convolution takes features for: of two axes, an image of one channel."""
    return (1, *shape) if len(shape) == 2 else shape


def conv_size(size: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair = (1, 1)) -> Pair:
    """Height and width that a convolution or a pool makes of ``size``."""
    rows, columns = ((size[k] + 2 * padding[k] - dilation[k] * (kernel[k] - 1) - 1) // stride[k] + 1 for k in range(2))
    return rows, columns


def max_pool2d(x: Array, kernel: Pair, stride: Pair, padding: Pair) -> Array:
    """Maximum over windows of x (N, C, H, W); padding never wins."""
    rows, columns = conv_size((x.shape[2], x.shape[3]), kernel, stride, padding)
    low = np.array(-np.inf if x.dtype.kind == "f" else np.iinfo(np.int64).min)
    padded = np.pad(
        x,
        ((0, 0), (0, 0), (padding[0], padding[0]), (padding[1], padding[1])),
        constant_values=low.astype(x.dtype),
    )
    y = np.full((*x.shape[:2], rows, columns), low, dtype=x.dtype)
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            bottom, right = i + (rows - 1) * stride[0] + 1, j + (columns - 1) * stride[1] + 1
            y = np.maximum(y, padded[:, :, i : bottom : stride[0], j : right : stride[1]])
    return y


def per_channel(values: Array, ndim: int) -> Array:
    """(C,) as (C, 1, 1) or (C,), to meet features of ``ndim`` axes; a full map stays as it is."""
    return values.reshape(*values.shape, *(1,) * (ndim - values.ndim)) if values.ndim < ndim else values
