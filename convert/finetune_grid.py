"""A sign mode and a width to the integer weights that fine-tuning chooses among."""

from __future__ import annotations

from avsnn.convert.format_check import weight_range
from avsnn.convert.passes.integer_formats import Target

TERNARY_BITS = 2


def mantissa_grid(mode: str, target: Target) -> tuple[int, int, int]:
    """(lowest, highest, step) of weights that train: as the format has them; of 2 bits the three that are symmetric.

    >>> mantissa_grid("mixed", Target(weight_bits=2, weight_exp_max=7, bias_mant_bits=13, threshold_bits=17,
    ...                               state_bits=24, even=True))
    (-2, 2, 2)
    """
    low, high = weight_range(mode, target)
    grain = 2 if mode == "mixed" and target.even else 1
    return (-high if mode == "mixed" and target.weight_bits == TERNARY_BITS else low), high, grain
