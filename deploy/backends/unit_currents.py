"""Turns windows of spikes into the currents of a host that scales their counts to length 1, exactly.

Lengths are rounded as `avsnn.convert.ir.products.unit_integers` says, the one definition; what follows are integers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from avsnn.convert.ir.fixed_nodes import FixedUnitCurrent
from avsnn.convert.ir.node import Array, Shape
from avsnn.convert.ir.products import UNIT_BITS, unit_integers
from avsnn.errors import DomainError

INT64_EXACT = 1 << 63


def fits(node: FixedUnitCurrent, sources: tuple[Shape, ...]) -> bool:
    """Whether weight and bias take the counts of sources of these shapes to the node's shape."""
    if len(sources) != len(node.pooled) or not sources or min(map(len, sources)) < 1 or node.shift < 0:
        return False
    lengths = (shape[0] if pooled else math.prod(shape) for shape, pooled in zip(sources, node.pooled, strict=True))
    out = math.prod(node.shape)
    return node.weight.shape == (out, sum(lengths)) and node.bias.shape == (out,)


def bound(node: FixedUnitCurrent) -> int:
    """Largest |current| without the gain.

    Raises:
        DomainError: its sums, before they are shifted, could exceed int64.
    """
    rows = np.abs(node.weight.astype(object)).sum(axis=1)
    peak = (int(rows.max()) << UNIT_BITS) + int(np.abs(node.bias.astype(object)).max()) + _half(node)
    if peak >= INT64_EXACT:
        raise DomainError("sums exceed what int64 holds", where=node.name, found=peak, limit="2^63 - 1")
    return (peak >> node.shift) + 1  # shifts round down, also what is negative


def unit_current(node: FixedUnitCurrent, x: Sequence[Array]) -> Array:
    """Of windows (windows, T, streams, *source) the current that is held, without the gain: (windows, streams, out)."""
    windows, _, streams = x[0].shape[:3]
    parts = []
    for spikes, pooled in zip(x, node.pooled, strict=True):
        counts = spikes.sum(axis=(1, *range(4, spikes.ndim)) if pooled else 1, dtype=np.int64)
        parts.append(unit_integers(counts.reshape(windows * streams, -1)))
    # Once per window, so integers need not be floats to be fast enough; weights of wide states would not fit in those.
    total = np.concatenate(parts, axis=1) @ node.weight.T.astype(np.int64) + node.bias.astype(np.int64)
    found: Array = (total + _half(node)) >> node.shift
    return found.reshape(windows, streams, -1)


def _half(node: FixedUnitCurrent) -> int:
    return (1 << node.shift) >> 1
