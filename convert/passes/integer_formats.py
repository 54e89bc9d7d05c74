"""The integer formats of a target as the quantiser needs them: how large a scale may be, and what a value becomes.

**Ties.** Chips fire on ``v > theta``, the network on ``v >= theta``. Two exact remedies, both for a decay of 1/2:

* ``offset``: the smallest unit of the bias is added every step. With a bias unit of ``2^(6 - T)`` the sum of decayed
  offsets stays below one step of the grid that v can take, for T <= 6.
* ``shift``: currents are multiples of ``2^k``, ``k = T - 1``, and the threshold is ``2^k theta - 1``, so that no value
  of v lies between. It leaves more room for the bias and less for sums of currents.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.node import Array, Node
from avsnn.errors import QuantizeError
from avsnn.hw_profiles.profile import Profile

TIE_STEPS = 6  # fractional bits of v: how often a value can be halved exactly


@dataclass(frozen=True, kw_only=True)
class Target:
    """Widths in bits; ``even`` where mixed signs leave only even weight mantissas."""

    weight_bits: int
    weight_exp_max: int
    bias_mant_bits: int
    threshold_bits: int
    state_bits: int
    even: bool

    @classmethod
    def of(cls, profile: Profile, *, weight_bits: int | None = None) -> Target:
        """The formats of a profile, with fewer weight bits if asked for."""
        stored = profile.need("weight_bits")
        bits = stored if weight_bits is None else weight_bits
        if not 2 <= bits <= stored:
            raise QuantizeError("weight bits out of range", where=profile.id, found=bits, limit=f"2 to {stored}")
        return cls(
            weight_bits=bits,
            weight_exp_max=profile.need("weight_exp_max"),
            bias_mant_bits=profile.need("bias_mant_bits"),
            threshold_bits=profile.need("threshold_bits"),
            state_bits=profile.need("state_bits"),
            even=profile.formats is not None and profile.formats.weight_sign_modes,
        )

    @property
    def threshold_room(self) -> int:
        """Largest threshold mantissa."""
        return (1 << self.threshold_bits) - 1

    @property
    def weight_room(self) -> float:
        """Largest |weight mantissa| of either sign that rounding cannot push over the edge."""
        return float((1 << self.weight_bits) - 2 if self.even else (1 << (self.weight_bits - 1)) - 1)

    def bias_room(self, T: int, tie: str) -> int:
        """Largest |bias| in activation units that `bias_format` can hold."""
        top = (1 << (self.bias_mant_bits - 1)) - 2
        if tie == "shift":
            return top >> max(0, T - 2)
        return top if tie == "none" else top >> min(T, TIE_STEPS)


def mantissas(weight: Array, target: Target) -> tuple[Array, int, str]:
    """(mantissas, exponent, sign mode) of real ``weight`` in integer units, nothing clipped.

    Mixed signs: even mantissas in [-2^bits, 2^bits - 2] (or all in [-2^(bits-1), 2^(bits-1) - 1] where the target
    keeps odd ones); one sign: magnitudes up to 2^bits - 1. The exponent is the smallest that fits.
    """
    low, high = float(weight.min(initial=0.0)), float(weight.max(initial=0.0))
    mode = "mixed" if low < 0 < high else "inhibitory" if low < 0 else "excitatory"
    grain = 2 if mode == "mixed" and target.even else 1
    exp = 0
    while True:
        mant = grain * np.rint(weight / (grain << exp)).astype(np.int64)
        top = (
            (1 << target.weight_bits) - grain if grain == 2 or mode != "mixed" else (1 << (target.weight_bits - 1)) - 1
        )
        bottom = -(top + grain) if mode == "mixed" else -top
        if mant.min(initial=0) >= bottom and mant.max(initial=0) <= top:
            return mant, exp, mode
        exp += 1


def tie_rules(node: ir.LIF, T: int) -> tuple[str, ...]:
    """The remedies for ties that a neuron can use over T steps."""
    if node.strict:
        return ("none",)
    return ("offset", "shift") if T <= TIE_STEPS else ("offset",)


def bias_format(whole: Array, T: int, tie: str) -> tuple[Array, int]:
    """Mantissa and exponent of a bias of ``whole`` activation units (64 units of v each)."""
    if tie == "shift":
        unit = 7  # the largest exponent of the chip; 2^(6 + k) whole = (whole << (k - 1)) << 7
        lift = T - 1
        return (whole << (lift - 1), unit) if lift >= 1 else (whole, fixed.ACTIVATION_SHIFT)
    if tie == "none":
        return whole, fixed.ACTIVATION_SHIFT
    steps = min(T, TIE_STEPS)
    return (whole << steps) + 1, fixed.ACTIVATION_SHIFT - steps


def reach(layer: ir.Conv2d | ir.Linear, weight: Array, bias: Array, low: int, high: int) -> float:
    """Largest |current| over all inputs in [low, high], by interval arithmetic (border taps see fewer terms)."""
    flat = weight.reshape(len(weight), -1)
    up = np.maximum(flat * low, flat * high)
    down = np.minimum(flat * low, flat * high)
    padded = isinstance(layer, ir.Conv2d) and layer.padding != (0, 0)
    if padded:  # a tap outside the image contributes 0
        up, down = np.maximum(up, 0), np.minimum(down, 0)
    tops = up.sum(axis=1).reshape(-1, *(1,) * (bias.ndim - 1)) + bias
    bottoms = down.sum(axis=1).reshape(-1, *(1,) * (bias.ndim - 1)) + bias
    return max(float(np.abs(tops).max()), float(np.abs(bottoms).max()), 1e-9)


def check_range(mant: Array, bits: int, what: str, node: Node) -> None:
    """Raise `QuantizeError` if a mantissa does not fit signed ``bits``."""
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    if mant.size and (mant.min() < low or mant.max() > high):
        raise QuantizeError(
            f"{what} out of range",
            where=node.origin or node.name,
            found=f"{mant.min()} to {mant.max()}",
            limit=f"{low} to {high}",
        )
