"""Turns a connection into weighted sums that floating-point BLAS computes and that are still exact integers.

A float32 holds every integer up to 2^24, a float64 up to 2^53. Let ``bound = max_o sum_i |w[o, i]| * max |x|``. Each
product and each partial sum, in whatever order and with whatever fused operations BLAS makes them, is an integer of
magnitude at most bound; so while bound stays below 2^24 (2^53) nothing is ever rounded. Above that: an error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse

from avsnn.convert.ir.fixed_nodes import FixedConv2d, FixedLinear, HeldCurrent, Synapse
from avsnn.convert.ir.kernels import image_shape
from avsnn.convert.ir.node import Array, Shape
from avsnn.errors import CapabilityError, DomainError, InputError

FLOAT32_EXACT = 1 << 24
FLOAT64_EXACT = 1 << 53
Connection = Synapse | HeldCurrent


@dataclass(frozen=True, kw_only=True, eq=False)
class ExactSums:
    """``y = weight (*) x`` for x of integers with ``|x| <= peak``.

    Attributes:
        node: the connection; its delay is not applied here.
        source_shape: features of x.
        peak: largest |x| that will be given.

    Raises:
        DomainError: sums could exceed 2^53.
        InputError: the weight does not fit source or target.
        CapabilityError: a negative weight exponent (the sum would be rounded), or another kind of node.
    """

    node: Connection
    source_shape: Shape
    peak: int

    def __post_init__(self) -> None:
        node = self.node
        if not isinstance(node, FixedConv2d | FixedLinear | HeldCurrent):
            raise CapabilityError("the simulator knows no such connection", where=node.name, found=node.kind)
        if isinstance(node, Synapse) and min(node.exponents) < 0:
            raise CapabilityError("negative weight exponent", where=node.name, found=min(node.exponents), limit=0)
        expected: Shape
        if self.convolves:
            expected = (self._weight.shape[1] * self._conv.groups, *self._image[1:])
            fits = len(self._image) == 3 and self._image == expected and node.shape == self._out_shape
        else:
            expected = self._weight.shape
            fits = expected == (math.prod(node.shape), math.prod(self.source_shape))
        if not fits:
            raise InputError(
                f"weight {self._weight.shape} does not fit",
                where=node.name,
                found=f"{self.source_shape} to {node.shape}",
            )
        if self.bound >= FLOAT64_EXACT:
            raise DomainError("sums exceed what float64 holds", where=node.name, found=self.bound, limit="2^53 - 1")

    @property
    def convolves(self) -> bool:
        """Whether the weight has a kernel."""
        return self._weight.ndim == 4

    @cached_property
    def bound(self) -> int:
        """Largest |y| that can occur, from the weights alone."""
        if self._entries is not None:
            values = np.abs(self._weight[self._entries].astype(np.float64))
            rows = np.bincount(self._entries[0], weights=values)
        else:
            rows = np.abs(self._weight.astype(np.float64)).reshape(len(self._weight), -1).sum(axis=1)
        return int(rows.max(initial=0.0)) * self.peak

    @property
    def bytes_per_item(self) -> int:
        """Working memory for one x."""
        if not self.convolves:
            return self.dtype.itemsize * (math.prod(self.source_shape) + math.prod(self.node.shape))
        taps = math.prod(self._weight.shape[2:]) * self._image[0]
        return self.dtype.itemsize * (taps * math.prod(self.node.shape[1:]) + math.prod(self.node.shape))

    @property
    def dtype(self) -> np.dtype[np.float32] | np.dtype[np.float64]:
        """The narrowest float that is exact."""
        return np.dtype(np.float32) if self.bound < FLOAT32_EXACT else np.dtype(np.float64)

    def __call__(self, x: Array) -> Array:
        """Sums of x (N, *source_shape): (N, *node.shape), floats that are integers."""
        if not self.convolves:
            flat = x.reshape(len(x), -1).astype(self.dtype)
            if self._sparse is not None:
                return np.ascontiguousarray((self._sparse @ flat.T).T).reshape(len(x), *self.node.shape)
            return (flat @ self._operand.T).reshape(len(x), *self.node.shape)
        x = x.reshape(len(x), *self._image)
        if self._weight.shape[1] == 1 and len(self._weight) == self._conv.groups:
            return self._depthwise(x)
        groups = self._conv.groups
        columns = self._columns(x).reshape(len(x), groups, -1, math.prod(self.node.shape[1:]))
        operand = self._operand.reshape(groups, len(self._weight) // groups, -1)
        return np.matmul(operand, columns).reshape(len(x), *self.node.shape)

    @property
    def _image(self) -> Shape:
        return image_shape(self.source_shape)

    @cached_property
    def _weight(self) -> Array:
        node = self.node  # as stored, if that is what acts: matrices full of zeros are large
        return node.weight_mant if isinstance(node, Synapse) and not np.any(node.weight_exp) else node.weight

    @property
    def _entries(self) -> tuple[Array, Array] | None:
        return self.node.entries if isinstance(self.node, FixedLinear) else None

    @cached_property
    def _sparse(self) -> Any:
        """The weight without its zeros, where it has hardly anything else."""
        if self._entries is None:
            return None
        values = self._weight[self._entries].astype(self.dtype)
        return scipy.sparse.csr_array((values, self._entries), shape=self._weight.shape)

    @cached_property
    def _operand(self) -> Array:
        return np.ascontiguousarray(self._weight, dtype=self.dtype)

    @property
    def _conv(self) -> FixedConv2d | HeldCurrent:
        assert isinstance(self.node, FixedConv2d | HeldCurrent)
        return self.node

    @property
    def _out_shape(self) -> Shape:
        node = self._conv
        sizes = (
            (self._image[1 + k] + 2 * node.padding[k] - node.dilation[k] * (self._weight.shape[2 + k] - 1) - 1)
            // node.stride[k]
            + 1
            for k in range(2)
        )
        return (len(self._weight), *sizes)

    def _taps(self, x: Array) -> list[tuple[int, int, Array]]:
        """(i, j, view (N, C, H', W')): what kernel tap (i, j) multiplies."""
        node = self._conv
        (ph, pw), (sh, sw), (dh, dw) = node.padding, node.stride, node.dilation
        height, width = self.node.shape[1:]
        if ph or pw:
            x = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)))
        return [
            (
                i,
                j,
                x[:, :, i * dh : i * dh + (height - 1) * sh + 1 : sh, j * dw : j * dw + (width - 1) * sw + 1 : sw],
            )
            for i, j in np.ndindex(*self._weight.shape[2:])
        ]

    def _columns(self, x: Array) -> Array:
        """(N, C, kh, kw, H', W') in the working dtype."""
        columns = np.empty((*x.shape[:2], *self._weight.shape[2:], *self.node.shape[1:]), dtype=self.dtype)
        for i, j, view in self._taps(x):
            columns[:, :, i, j] = view
        return columns

    def _depthwise(self, x: Array) -> Array:
        """One input channel per output channel: BLAS has nothing to multiply, add the taps."""
        y = np.zeros((len(x), *self.node.shape), dtype=self.dtype)
        for i, j, view in self._taps(x):
            y += self._operand[:, 0, i, j, None, None] * view
        return y
