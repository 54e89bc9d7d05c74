"""Turns the spikes of populations into products of them on the wall clock, by floating-point BLAS that cannot round.

Factors are spikes, so every product and every partial sum, in whatever order it is made, is an integer of magnitude
at most ``bound = |gain| * terms``, ``terms`` the number of products that one result adds up: N d for attention over N
tokens in heads of d channels, T d over time, d for its map, N for mapped values, N T for a product of sums.
Currents of counts that the host scales to length 1 are made by `unit_currents`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from avsnn.convert.ir.fixed_nodes import (
    FixedAttention,
    FixedAttentionMap,
    FixedMappedValues,
    FixedProductOfSums,
    FixedUnitCurrent,
    Product,
)
from avsnn.convert.ir.node import Array, Shape
from avsnn.deploy.backends import unit_currents
from avsnn.deploy.backends.exact_sums import FLOAT32_EXACT, FLOAT64_EXACT
from avsnn.errors import CapabilityError, DomainError, InputError

BLOCK_BYTES = 8 << 20  # working memory of one product: about what a cache holds


@dataclass(frozen=True, kw_only=True, eq=False)
class ExactProduct:
    """A `Product` of sources that hold 0 or 1.

    Attributes:
        node: the product.
        source_shapes: features of its inputs, in order.
        timesteps: T, the window of a product that needs one.

    Raises:
        InputError: shapes, heads or delays that do not fit.
        CapabilityError: another kind of node.
        DomainError: results could exceed 2^53.
    """

    node: Product
    source_shapes: tuple[Shape, ...]
    timesteps: int

    def __post_init__(self) -> None:
        node = self.node
        if not _fits(node, self.source_shapes):
            raise InputError(
                "shapes, heads or axis do not fit",
                where=node.name,
                found=f"{', '.join(map(str, self.source_shapes))} to {node.shape}",
                limit=node.kind,
            )
        if node.delays and (len(node.delays) != len(node.inputs) or min(node.delays) < 0):
            raise InputError("a product needs one delay per input", where=node.name, found=node.delays, limit=">= 0")
        if self.bound >= FLOAT64_EXACT:
            raise DomainError("products exceed what float64 holds", where=node.name, found=self.bound, limit="2^53 - 1")

    @cached_property
    def bound(self) -> int:
        """Largest |y| that can occur."""
        return abs(self.node.gain) * _terms(self.node, self.source_shapes, self.timesteps)

    @property
    def dtype(self) -> np.dtype[np.float32] | np.dtype[np.float64]:
        """The narrowest float that is exact."""
        return np.dtype(np.float32) if self.bound < FLOAT32_EXACT else np.dtype(np.float64)

    @property
    def message_dtype(self) -> np.dtype[np.signedinteger]:
        """The narrowest integer that holds every result."""
        return np.min_scalar_type(-self.bound - 1)

    @property
    def bytes_per_step(self) -> int:
        """What the messages of one wall step take."""
        return self.message_dtype.itemsize * math.prod(self.node.shape)

    def on_the_wall(self, sent: Sequence[Array], steps: int) -> Array:
        """What is emitted at wall steps 0 to ``steps - 1``, (steps, streams, *shape).

        Args:
            sent: spikes of the inputs, (steps, streams, *source) each.
            steps: of the wall clock.
        """
        node, streams = self.node, sent[0].shape[1]
        # A product of single steps is one whose window is a step long and who emits from step 0 on.
        period, begin = (self.timesteps, node.offset) if node.windowed else (1, 0)
        delays = node.delays or (0,) * len(sent)
        y = np.zeros((steps, streams, *node.shape), self.message_dtype)
        block = max(1, BLOCK_BYTES // (self._working_bytes * period * streams))
        for first in range(begin, steps, block * period):
            rows = min(block, -(-(steps - first) // period)) * period
            windows = [
                _rows(x, first - period - delay, rows).reshape(-1, period, *x.shape[1:])
                for x, delay in zip(sent, delays, strict=True)
            ]
            found = self(*windows).reshape(rows, *y.shape[1:])
            y[first : first + rows] = found[: steps - first]
        return y

    def __call__(self, *x: Array) -> Array:
        """Of windows (windows, period, streams, *source): (windows, period, streams, *shape), floats of integers."""
        y = self._of(*x).reshape(*x[0].shape[:3], *self.node.shape)
        return y if self.node.gain == 1 else y * self.dtype.type(self.node.gain)

    def _of(self, *x: Array) -> Array:
        match self.node:
            case FixedAttention(heads=heads, over="space"):
                return _attend(*(self._heads(each, heads) for each in x))
            case FixedAttention(heads=heads):
                apart = (self._heads(each, heads).transpose(0, 2, 3, 5, 4, 1) for each in x)  # (.., N, d, T)
                return _attend(*map(np.ascontiguousarray, apart)).transpose(0, 5, 1, 2, 4, 3)
            case FixedAttentionMap(heads=heads):
                q, k = (self._heads(each, heads) for each in x)
                return np.matmul(q.swapaxes(-1, -2), k)
            case FixedMappedValues():
                return np.matmul(self._heads(x[1], x[0].shape[3]), x[0].astype(self.dtype).swapaxes(-1, -2))
            case FixedUnitCurrent():
                held = unit_currents.unit_current(self.node, x)[:, None].astype(self.dtype)
                return np.broadcast_to(held, (*x[0].shape[:3], held.shape[3]))
            case _:
                over_tokens = x[0].sum(axis=tuple(range(4, x[0].ndim)), keepdims=True, dtype=self.dtype)
                return over_tokens * x[1].sum(axis=1, keepdims=True, dtype=self.dtype)

    def _heads(self, x: Array, heads: int) -> Array:
        """(windows, period, streams, D, *tokens) to (windows, period, streams, heads, d, N)."""
        tokens = math.prod(x.shape[4:])
        return x.astype(self.dtype).reshape(*x.shape[:3], heads, x.shape[3] // heads, tokens)

    @property
    def _working_bytes(self) -> int:
        """Working memory for one step of one stream: factors, what lies between, and the result."""
        return self.dtype.itemsize * (3 * sum(map(math.prod, self.source_shapes)) + 2 * math.prod(self.node.shape))


def _attend(q: Array, k: Array, v: Array) -> Array:
    """``v (k^T q)`` of (.., d, L), summed over the L of k and v, in the order that costs less."""
    if k.shape[-1] <= k.shape[-2]:
        return np.matmul(v, np.matmul(k.swapaxes(-1, -2), q))
    return np.matmul(np.matmul(v, k.swapaxes(-1, -2)), q)


def _rows(x: Array, start: int, count: int) -> Array:
    """Rows [start, start + count) of x, zeros where there are none."""
    stop = start + count
    if start >= 0 and stop <= len(x):
        return x[start:stop]
    out = np.zeros((count, *x.shape[1:]), x.dtype)
    inside = x[max(start, 0) : max(stop, 0)]
    out[max(-start, 0) :][: len(inside)] = inside
    return out


def _fits(node: Product, sources: tuple[Shape, ...]) -> bool:
    """Whether sources of these shapes make the product's shape."""
    match node, sources:
        case FixedAttention(heads=heads, over="space"), (q, k, v):
            return node.shape == q and k == v and k[:1] == q[:1] and _splits(q, heads)
        case FixedAttention(heads=heads, over="time"), (q, k, v):
            return node.shape == q == k == v and _splits(q, heads)
        case FixedAttentionMap(heads=heads), (q, k):
            tokens = math.prod(q[1:])
            return q == k and node.shape == (heads, tokens, tokens) and _splits(q, heads)
        case FixedMappedValues(), (chosen, v):
            tokens = math.prod(v[1:])
            return node.shape == v and chosen[1:] == (tokens, tokens) and _splits(v, chosen[0])
        case FixedProductOfSums(), (x, y):
            return node.shape == x == y
        case FixedUnitCurrent(), _:
            return unit_currents.fits(node, sources)
        case FixedAttention() | FixedAttentionMap() | FixedMappedValues() | FixedProductOfSums(), _:
            return False
        case _:
            raise CapabilityError("the simulator knows no such product", where=node.name, found=node.kind)


def _splits(shape: Shape, heads: int) -> bool:
    return len(shape) >= 1 and heads >= 1 and shape[0] % heads == 0


def _terms(node: Product, sources: tuple[Shape, ...], timesteps: int) -> int:
    """Products of spikes that one result adds up, or how large it can be if the gain is 1."""
    tokens = math.prod(sources[-1][1:])
    match node:
        case FixedUnitCurrent():
            return unit_currents.bound(node)
        case FixedAttention(heads=heads, over=over):
            return sources[0][0] // heads * (tokens if over == "space" else timesteps)
        case FixedAttentionMap(heads=heads):
            return sources[0][0] // heads
        case FixedMappedValues():
            return tokens
        case _:
            return tokens * timesteps
