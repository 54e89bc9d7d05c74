"""Products of activity with activity, which no synapse with fixed weights can form: any dtype, integers stay exact.

Also lengths of vectors of counts, norms over channels and gains, which the host computes.

Arrays are (T, B, D, *tokens) over the whole window; D is split into heads of ``d = D / heads`` consecutive channels and
``*tokens`` are N positions. Equations: `avsnn.train.attention`, which these restate term by term.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from avsnn.convert.ir.node import Array

UNIT_BITS = 15  # of an integer that stands for 1.0 in a vector of length 1


def _split(x: Array, heads: int) -> Array:
    """(T, B, D, *tokens) -> (T, B, heads, d, N)."""
    tokens = math.prod(x.shape[3:])
    return x.reshape(*x.shape[:2], heads, x.shape[2] // heads, tokens)


def attention(q: Array, k: Array, v: Array, heads: int, over: str) -> Array:
    """``sum_n (q[t, m] . k[t, n]) v[t, n]`` over the tokens n of a step, or ``sum_s (q[t, n] . k[s, n]) v[s, n]``."""
    queries, keys, values = (_split(x, heads) for x in (q, k, v))
    if over == "space":
        found = np.matmul(np.matmul(values, keys.swapaxes(-1, -2)), queries)  # (v k^T) q: the map k -> v, asked by q
    else:
        pairs = np.einsum("sbhdn,sbhen->bhden", keys, values, optimize=True)
        found = np.einsum("tbhdn,bhden->tbhen", queries, pairs, optimize=True)
    return found.reshape(q.shape)


def attention_map(q: Array, k: Array, heads: int) -> Array:
    """``q[t, h, :, m] . k[t, h, :, n]``: (T, B, heads, N, N)."""
    return np.matmul(_split(q, heads).swapaxes(-1, -2), _split(k, heads))


def mapped_values(chosen: Array, v: Array) -> Array:
    """``sum_n map[t, h, m, n] v[t, h, :, n]`` of a map (T, B, heads, N, N), of the shape of v."""
    return np.matmul(_split(v, chosen.shape[2]), chosen.swapaxes(-1, -2)).reshape(v.shape)


def product_of_sums(x: Array, y: Array) -> Array:
    """``sum_n x[t, c, n] * sum_s y[s, c, n]``, of the shape of x; N T times the product of the means."""
    over_tokens = x.sum(axis=tuple(range(3, x.ndim)), keepdims=True)
    return over_tokens * y.sum(axis=0, keepdims=True)


def unit_current(
    x: Sequence[Array], weight: Array, bias: Array, shift: int, pooled: Sequence[bool], unit_bits: int = UNIT_BITS
) -> Array:
    """The current that `avsnn.convert.ir.fixed_nodes.FixedUnitCurrent` holds, (B, out), of windows (T, B, *shape)."""
    parts = []
    for spikes, over_tokens in zip(x, pooled, strict=True):
        counts = spikes.astype(np.int64).sum(axis=0)
        counts = counts.sum(axis=tuple(range(2, counts.ndim))) if over_tokens else counts.reshape(len(counts), -1)
        parts.append(unit_integers(counts, unit_bits))
    total = np.concatenate(parts, axis=1) @ weight.astype(np.int64).T + bias.astype(np.int64)
    return (total + ((1 << shift) >> 1)) >> shift


def unit_integers(counts: Array, unit_bits: int = UNIT_BITS) -> Array:
    """``rint(2^bits z / |z|)`` of rows of integers z (B, n), zeros of zeros: the same on every IEEE machine."""
    length = np.sqrt((counts.astype(np.int64) ** 2).sum(axis=1, keepdims=True).astype(np.float64))
    scaled = (counts << unit_bits).astype(np.float64) / np.where(length > 0, length, 1.0)
    return np.rint(scaled).astype(np.int64)


def layer_norm(x: Array, eps: int, shift: int, variant: bool) -> Array:
    """What `avsnn.convert.ir.fixed_nodes.FixedLayerNorm` makes of integers (T, B, C, *positions)."""
    n, total = x.shape[2], x.sum(axis=2, keepdims=True)
    centred = n * x - total
    root = np.sqrt((n * (x * x).sum(axis=2, keepdims=True) - total * total + eps).astype(np.float64))
    divided = (centred << shift) / np.where(root > 0, root, 1.0) if not variant else centred * root * 2.0**-shift
    return np.rint(divided).astype(np.int64)


def step_gain(x: Array, w: Array, shift: int) -> Array:
    """``x ((w + half) >> shift)`` of integers x (T, B, *shape) and gains w (T, B, 1)."""
    gain = (w + ((1 << shift) >> 1)) >> shift
    return x * gain.reshape(*gain.shape[:2], *(1,) * (x.ndim - 2))
