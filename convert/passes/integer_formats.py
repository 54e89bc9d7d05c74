"""The integer formats of a target as the quantiser needs them: how large a scale may be, and what a value becomes.

**Ties.** Chips fire on ``v > h`` with an integer h, the network on ``v >= threshold``. Integer currents that are halved
at most ``T - 1`` times leave v on a grid of ``g = 2^-(T-1)``. So the scale puts the threshold just above an integer::

    S threshold / gain = h + g        then        v > h  if and only if  v >= h + g

for every v on the grid: exact, ties included, without spending bias or currents on it, as long as v can hold ``T - 1``
fractional bits (it has 6, so T <= 7). A neuron that fires on ``>`` gets ``h`` itself. Decays other than 0, 1/2 and 1
round in every step; there the neuron check counts what differs, and the report shows it.

**Longer windows.** Currents, biases and what a reset subtracts that are multiples of ``2^k`` leave v on multiples of
``2^(k - T + 1)``: with ``k = T - 7`` six fractional bits are enough again, and g is 2^-6 for any integer threshold.
Weights are such multiples by their exponent (and by one bit where mantissas are even), at a scale that is larger by as
much, so that they are rounded as before. Where exponents, threshold, bias or u have no room, neurons stay as they are.

**Reset by subtraction.** The chip subtracts h, so that v stays on the grid, where the network subtracts ``h + g``. What
the network has subtracted in excess is ``g sigma``, sigma the decayed count of its spikes: below 1, or 2 where the
subtraction is a step late. It fires on ``v >= h + g (1 + sigma)``, which is ``v > h`` on the grid as long as
``g (1 + sigma) <= 2^-(T-1)``: exact, ties included, with half that g, or a quarter of it.

**Exponents.** A connection has as many synapse groups as there are exponents among its output channels (rows): each row
takes the smallest exponent that holds it, so that rows with small weights keep a finer step than those with large ones,
all at the same scale. A chip holds few formats, so the exponents of a connection are consecutive, and none is kept that
rounds nothing differently.

**Synaptic currents.** A current that is halved, or keeps all or nothing, puts u on the grid of v: exact as above, but
where neurons that fire on ``>=`` forget nothing and subtract while u is halved: there sigma counts every spike.

**Thresholds that differ within a population** share S, so only their rounded values ``h_i`` fit; each is within half a
unit of ``S threshold_i / gain - g``. Neurons are then exact for ``h_i + g``, and ties of the real threshold are not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.fixed_nodes import ACTIVATION_SHIFT
from avsnn.convert.ir.node import Array, Node
from avsnn.errors import QuantizeError
from avsnn.hw_profiles.profile import Profile

FRACTION_BITS = 6  # of v below one activation unit: how often a value can be halved exactly
HALVING = 2048  # decay_v
EXPONENTS = 4  # of one connection, at most: a fifth would serve weights below an eighth of the largest


@dataclass(frozen=True, kw_only=True)
class Target:
    """Widths in bits; ``even`` where mixed signs leave only even weight mantissas.

    ``synapse_formats``: exponents that all connections into one population may have together.
    """

    weight_bits: int
    weight_exp_max: int
    bias_mant_bits: int
    threshold_bits: int
    state_bits: int
    even: bool
    synapse_formats: int = 1
    bias_exp_max: int = 7

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
            synapse_formats=_synapse_formats(profile),
            bias_exp_max=profile.need("bias_exp_max"),
        )

    def exponents(self, connections: int) -> int:
        """How many exponents each of the connections into one population may have."""
        return max(1, min(EXPONENTS, self.synapse_formats // connections))

    def grain(self, weight: Array) -> int:
        """What the mantissas of these weights are multiples of: 2 where signs are mixed and all are even."""
        return _signs(weight, self)[1]

    def mantissa_range(self, grain: int) -> tuple[int, int]:
        """The smallest and the largest mantissa of weights of mixed signs that are multiples of ``grain``."""
        top = (1 << self.weight_bits) - grain if grain > 1 else (1 << (self.weight_bits - 1)) - 1
        return -(top + grain), top

    def bias_shift(self, shift: int) -> int:
        """How far the exponent of a bias that is a multiple of ``2^shift`` activation units may rise above theirs."""
        return max(0, min(shift, self.bias_exp_max - ACTIVATION_SHIFT))

    def rounding(self, weight: Array, exponents: int) -> float:
        """What `mantissas` does to currents: steps in units of the root mean square weight, summed over rows.

        A neuron whose currents are large is near its threshold less often, so that an error changes fewer spikes.
        """
        rows = weight.reshape(len(weight), -1)
        rows = rows[rows.any(axis=1)]
        steps = _signs(rows, self)[1] * 2.0 ** _exponents(rows, self, exponents)
        return float((steps * np.sqrt(np.count_nonzero(rows, axis=1) / (rows**2).sum(axis=1))).sum())

    @property
    def threshold_room(self) -> int:
        """Largest threshold mantissa."""
        return (1 << self.threshold_bits) - 1

    @property
    def weight_room(self) -> float:
        """Largest |weight mantissa| of either sign that rounding cannot push over the edge."""
        return float((1 << self.weight_bits) - 2 if self.even else (1 << (self.weight_bits - 1)) - 1)

    @property
    def bias_room(self) -> int:
        """Largest |bias| in activation units, which are 64 units of v: exponent 6."""
        return (1 << (self.bias_mant_bits - 1)) - 1


def _synapse_formats(profile: Profile) -> int:
    """What the profile grants; one where nobody has published it."""
    found = profile.limits.synapse_formats_per_core
    if found is not None:
        return found
    return 1 if "synapse_formats_per_core" in profile.limits.unknown else EXPONENTS * EXPONENTS


def mantissas(weight: Array, target: Target, exponents: int = 1, least: int = 0) -> tuple[Array, int | Array, str]:
    """(mantissas, exponent, sign mode) of real ``weight`` (out, ...) in integer units, nothing clipped.

    Mixed signs: even mantissas in [-2^bits, 2^bits - 2] (or all in [-2^(bits-1), 2^(bits-1) - 1] where the target
    keeps odd ones); one sign: magnitudes up to 2^bits - 1. The exponent is the smallest that fits; with several
    ``exponents`` it is the smallest that fits each row, (out,), or a number again where all are alike. None is below
    ``least``.
    """
    rows = weight.reshape(len(weight), -1)
    mode, grain = _signs(rows, target)
    exps = np.maximum(_exponents(rows, target, exponents), least)
    mant = _rounded(rows, grain, exps)
    for exp in np.unique(exps)[:-1]:  # a finer step that rounds nothing differently needs no format of its own
        above, group = exps[exps > exp].min(), exps == exp
        if not (mant[group] % (grain << (above - exp))).any():
            mant[group], exps[group] = mant[group] >> (above - exp), above
    alike = exps.size == 0 or exps.min() == exps.max()
    return mant.reshape(weight.shape), int(exps.max(initial=0)) if alike else exps, mode


def _signs(rows: Array, target: Target) -> tuple[str, int]:
    """(sign mode, what mantissas are multiples of)."""
    low, high = float(rows.min(initial=0.0)), float(rows.max(initial=0.0))
    mode = "mixed" if low < 0 < high else "inhibitory" if low < 0 else "excitatory"
    return mode, 2 if mode == "mixed" and target.even else 1


def _exponents(rows: Array, target: Target, exponents: int) -> Array:
    """The smallest exponent of every row that holds its mantissas, the largest so many of them."""
    mode, grain = _signs(rows, target)
    one_sign = (1 << target.weight_bits) - 1
    bottom, top = target.mantissa_range(grain) if mode == "mixed" else (-one_sign, one_sign)
    ends = np.stack([rows.min(axis=1, initial=0), rows.max(axis=1, initial=0)], axis=1)
    exps = np.zeros(len(rows), dtype=np.int64)
    while True:
        mant = _rounded(ends, grain, exps)
        over = (mant[:, 0] < bottom) | (mant[:, 1] > top)
        if not over.any():
            return np.maximum(exps, exps.max(initial=0) - exponents + 1)
        exps[over] += 1


def _rounded(rows: Array, grain: int, exps: Array) -> Array:
    """Mantissas, multiples of ``grain``."""
    mant: Array = grain * np.rint(rows / (grain << exps)[:, None]).astype(np.int64)
    return mant


def shift(timesteps: int, decay_v: int) -> int:
    """k: v keeps every tie of a window whose currents are multiples of ``2^k``; 0 where nothing is halved.

    >>> shift(7, 2048), shift(16, 2048), shift(16, 4096)
    (0, 9, 0)
    """
    return max(0, timesteps - 1 - FRACTION_BITS) if decay_v == HALVING else 0


def grid(timesteps: int) -> float:
    """g: what v is a multiple of after T steps of integer currents and halving, as far as v has fractional bits."""
    return float(2.0 ** -min(timesteps - 1, FRACTION_BITS))


def tie(timesteps: int, reset: str) -> float:
    """g: what the threshold of a neuron that fires on ``>=`` stands above its integer, see above.

    >>> tie(4, "hard"), tie(4, "subtract"), tie(4, "subtract_delayed")
    (0.125, 0.0625, 0.03125)
    """
    return grid(timesteps) / {"hard": 1, "subtract": 2, "subtract_delayed": 4}[reset]


def growth(timesteps: int, *decays: float) -> float:
    """What states in a row, each decaying and adding the one before it, reach in a window on a steady current of 1.

    >>> growth(4, 0.0), growth(4, 0.5), growth(2, 1.0, 1.0)
    (1.0, 1.875, 3.0)
    """
    states = [0.0] * len(decays)
    for _ in range(timesteps):
        current = 1.0
        for k, decay in enumerate(decays):
            states[k] = current = decay * states[k] + current
    return states[-1]


def rooms(node: ir.LIF, target: Target, timesteps: int) -> tuple[tuple[int, float], tuple[int, float]]:
    """The largest currents in activation units that u and v can hold in every step of a window, below and above 0.

    ((-1, room), (1, room)). Above 0 a hard reset forgets what v has added up.
    """
    whole, steps = float((1 << (target.state_bits - 1 - FRACTION_BITS)) - 1), node.steps or timesteps
    u, v = whole / growth(steps, node.current_decay), whole / growth(steps, node.current_decay, node.decay)
    return (-1, v), (1, u if node.reset == "hard" else v)


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
    high = (1 << (bits - 1)) - 1
    low = -high  # the chip keeps a sign and a magnitude
    if mant.size and (mant.min() < low or mant.max() > high):
        raise QuantizeError(
            f"{what} out of range",
            where=node.origin or node.name,
            found=f"{mant.min()} to {mant.max()}",
            limit=f"{low} to {high}",
        )
