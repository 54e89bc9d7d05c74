"""Turns a connection into its fan-out: how many targets each source neuron reaches, exact at borders and strides.

A source neuron reaches target y through tap k where ``y * stride + k * dilation - padding`` is its position and y lies
inside the output. Rows and columns are independent, so the counts are products of one table each.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from avsnn.convert.ir.fixed_nodes import FixedConv2d, FixedLinear, HeldCurrent
from avsnn.convert.ir.kernels import image_shape
from avsnn.convert.ir.node import Array, Node, Shape
from avsnn.errors import InputError

Counts64 = npt.NDArray[np.int64]
Connection = FixedConv2d | FixedLinear | HeldCurrent


def fanout(node: Node, source_shape: Shape) -> tuple[Counts64, Counts64]:
    """Connections that leave each source neuron: ``(stored, nonzero)``, int64 arrays of ``source_shape``.

    ``stored`` counts every connection to an existing target, ``nonzero`` those whose quantised weight is not 0. For a
    `HeldCurrent` these are the multiplications that touch each real input value once.

    Raises:
        InputError: the node is no connection, or does not fit the source's shape.
    """
    connection, weight = _connection(node)
    if isinstance(connection, FixedLinear) or weight.ndim == 2:
        if weight.shape[1] != int(np.prod(source_shape)):
            raise InputError("source does not fit the weight", where=node.name, found=source_shape, limit=weight.shape)
        stored = np.full(source_shape, weight.shape[0], np.int64)
        return stored, np.count_nonzero(weight, axis=0).astype(np.int64).reshape(source_shape)
    image = image_shape(source_shape)
    taps_y, taps_x = _taps(connection, image)
    channels = weight.shape[1] * connection.groups
    if len(image) != 3 or image[0] != channels or weight.shape[0] % connection.groups:
        raise InputError("source does not fit the weight", where=node.name, found=source_shape, limit=weight.shape)
    per_group = weight.shape[0] // connection.groups
    positions = np.outer(taps_y.sum(1), taps_x.sum(1))
    stored = np.broadcast_to(per_group * positions, image).astype(np.int64)
    grouped = (weight != 0).reshape(connection.groups, per_group, *weight.shape[1:])
    targets = grouped.sum(axis=1, dtype=np.int64).reshape(channels, *weight.shape[2:])  # per source channel and tap
    nonzero = np.einsum("yk,ckl,xl->cyx", taps_y.astype(np.int64), targets, taps_x.astype(np.int64), optimize=True)
    return stored.reshape(source_shape), nonzero.reshape(source_shape)


def reached(node: Node, active: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Targets that at least one active source reaches through a weight that is not 0.

    active: (N, *source shape); returns (N, *node.shape).

    Raises:
        InputError: the node is no connection.
    """
    connection, weight = _connection(node)
    mask = (weight != 0).astype(np.float32)  # sums of at most 2^24 ones stay exact
    if isinstance(connection, FixedLinear) or weight.ndim == 2:
        return (active.reshape(len(active), -1).astype(np.float32) @ mask.T > 0).reshape(-1, *node.shape)
    (ph, pw), (sh, sw), (dh, dw) = connection.padding, connection.stride, connection.dilation
    height, width = node.shape[1:]
    active = active.reshape(len(active), *image_shape(active.shape[1:]))
    padded = np.pad(active, ((0, 0), (0, 0), (ph, ph), (pw, pw))).astype(np.float32)
    groups = connection.groups
    padded = padded.reshape(len(active), groups, weight.shape[1], *padded.shape[2:])
    mask = mask.reshape(groups, -1, *weight.shape[1:])
    found = np.zeros((len(active), groups, mask.shape[1], height, width), bool)
    for k, m in np.ndindex(*weight.shape[2:]):
        rows = slice(k * dh, k * dh + (height - 1) * sh + 1, sh)
        columns = slice(m * dw, m * dw + (width - 1) * sw + 1, sw)
        found |= np.einsum("goc,ngcyx->ngoyx", mask[..., k, m], padded[..., rows, columns], optimize=True) > 0
    return found.reshape(len(active), *node.shape)


def _connection(node: Node) -> tuple[Connection, Array]:
    match node:
        case FixedConv2d() | FixedLinear():
            return node, node.weight_mant
        case HeldCurrent():
            return node, node.weight
        case _:
            raise InputError("is no connection", where=node.name, found=node.kind)


def _taps(node: FixedConv2d | HeldCurrent, source_shape: Shape) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """For rows and columns: (source positions, kernel taps), whether that pair has a target."""
    weight = node.weight
    tables: list[npt.NDArray[np.bool_]] = []
    for axis in (0, 1):
        stride, padding, dilation = node.stride[axis], node.padding[axis], node.dilation[axis]
        source = np.arange(source_shape[1 + axis])[:, None]
        start = source + padding - dilation * np.arange(weight.shape[2 + axis])[None, :]
        tables.append((start >= 0) & (start % stride == 0) & (start // stride < node.shape[1 + axis]))
    return tables[0], tables[1]
