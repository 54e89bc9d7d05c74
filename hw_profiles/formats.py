"""Turns a width in bits into the integers that it can hold: plain formats and the weight grids of signed cores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from avsnn.errors import InputError

SIGN_MODES = ("mixed", "excitatory", "inhibitory")


@dataclass(frozen=True, kw_only=True)
class Bits:
    """Two's complement (signed) or plain binary (unsigned) integers of ``width`` bits.

    Signed: ``[-2^(width - 1), 2^(width - 1) - 1]``; unsigned: ``[0, 2^width - 1]``.

    >>> Bits(signed=True, width=8).min, Bits(signed=True, width=8).max, Bits(signed=False, width=17).name
    (-128, 127, 'u17')

    Raises:
        InputError: the width is not positive (a signed number needs two bits).
    """

    signed: bool
    width: int

    def __post_init__(self) -> None:
        if self.width < 1 + self.signed:
            raise InputError("too few bits", where="Bits", found=self.width, limit=f"at least {1 + self.signed}")

    @property
    def min(self) -> int:
        """Smallest integer."""
        return -(1 << (self.width - 1)) if self.signed else 0

    @property
    def max(self) -> int:
        """Largest integer."""
        return (1 << (self.width - self.signed)) - 1

    @property
    def name(self) -> str:
        """``i24`` or ``u17``."""
        return f"{'i' if self.signed else 'u'}{self.width}"

    def contains(self, values: npt.ArrayLike) -> bool:
        """Whether every element is an integer of this format (an empty array is contained)."""
        return _within(values, self.min, self.max, 1)


@dataclass(frozen=True, kw_only=True)
class WeightGrid:
    """The legal weights of one synapse group: ``low, low + step, ..., high``; zero is always among them."""

    low: int
    high: int
    step: int

    def contains(self, values: npt.ArrayLike) -> bool:
        """Whether every element is an integer on the grid."""
        return _within(values, self.low, self.high, self.step)


def signed_core_grid(*, max_bits: int, bits: int, sign_mode: str) -> WeightGrid:
    """Weights of a core that stores ``max_bits`` and a sign mode per group, as Loihi and Lava's ``Dense`` do.

    With mixed signs one of the stored bits is the sign and the value doubles: ``[-2^max_bits, 2^max_bits - step]``,
    ``step = 2^(max_bits - bits + 1)``, which leaves even numbers at full width. With one sign only:
    ``[0, 2^max_bits - step]`` or its negative, ``step = 2^(max_bits - bits)``.
    Source: lava-nc 0.10.0, ``lava.utils.weightutils`` and the docstring of ``lava.proc.dense.process``.

    >>> signed_core_grid(max_bits=8, bits=8, sign_mode="mixed")
    WeightGrid(low=-256, high=254, step=2)

    Raises:
        InputError: ``bits`` outside 1..max_bits, or an unknown sign mode.
    """
    if not 1 <= bits <= max_bits:
        raise InputError("weight width not available", where="weight_bits", found=bits, limit=f"1..{max_bits}")
    mixed = sign_mode == "mixed"
    step = 1 << (max_bits - bits + mixed)
    top = (1 << max_bits) - step
    match sign_mode:
        case "mixed":
            return WeightGrid(low=-(1 << max_bits), high=top, step=step)
        case "excitatory":
            return WeightGrid(low=0, high=top, step=step)
        case "inhibitory":
            return WeightGrid(low=-top, high=0, step=step)
        case _:
            raise InputError("unknown sign mode", where="sign_mode", found=sign_mode, limit=", ".join(SIGN_MODES))


def _within(values: npt.ArrayLike, low: int, high: int, step: int) -> bool:
    array: npt.NDArray[Any] = np.asarray(values)
    if array.size == 0:
        return True
    if array.dtype.kind == "b":
        array = array.astype(np.uint8)
    if array.dtype.kind not in "iu":
        return False
    # Python integers: an int64 bound compared with a uint64 array would go through float64.
    inside = low <= int(array.min()) and int(array.max()) <= high
    return inside and (step == 1 or not bool(np.any(array.astype(np.int64) % step)))
