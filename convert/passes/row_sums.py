"""Rows of weights that sum to 0 keep that sum as integers: taking the mean over channels away leaves such rows.

``sum_c W[o, c] = 0`` makes a current blind to what all channels share. Rounding breaks it: the mantissas of a row then
sum to k steps, and k steps of what they share leak into the current. So the k weights of the row that were rounded
furthest in that direction go one step back: each is then within one step of its real value (not within half of one),
and the row sums to 0 exactly. A convolution has such a row for every tap, a linear layer for every position.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.node import Array
from avsnn.convert.passes.integer_formats import Target

ZERO = 1e-9  # of the sum of sizes: float64 sums of numbers that cancel are far below


def with_row_sums(synapse: fixed.Synapse, weight: Array, channels: int, target: Target) -> tuple[fixed.Synapse, int]:
    """(``synapse`` whose rows sum to 0 where those of ``weight`` do, how many rows had to change).

    Args:
        synapse: ``weight`` rounded.
        weight: the real weights in integer units, (out, channels, ...), or (out, channels times positions).
        channels: of what a linear layer reads; a convolution has its own.
        target: integer formats; a row with no room for the change is left as it is.
    """
    channels = channels if isinstance(synapse, fixed.FixedLinear) else weight.shape[1]
    real = weight.reshape(len(weight), channels, -1)
    mant = synapse.weight_mant.reshape(real.shape).copy()
    grain, changed = target.grain(weight.reshape(len(weight), -1)), 0
    low, high = target.mantissa_range(grain)
    sums, sizes = real.sum(axis=1), np.abs(real).sum(axis=1)
    for row, tap in np.argwhere((np.abs(sums) <= ZERO * sizes) & (mant.sum(axis=1) != 0)):
        own = mant[row, :, tap]
        excess = int(own.sum()) // grain
        back = -grain if excess > 0 else grain
        gone = (own - real[row, :, tap] / 2.0 ** synapse.row_exp[row]) * np.sign(
            excess
        )  # how far it was rounded that way
        gone[(own + back < low) | (own + back > high)] = -np.inf
        chosen = np.argsort(-gone, kind="stable")[: abs(excess)]
        if len(chosen) == abs(excess) and (gone[chosen] >= 0).all():
            mant[row, chosen, tap] += back
            changed += 1
    return replace(synapse, weight_mant=mant.reshape(synapse.weight_mant.shape)) if changed else synapse, changed
