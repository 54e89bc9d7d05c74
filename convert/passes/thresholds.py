"""How high the integer threshold of a population may be: the number that sets the scale S of all its currents.

``S = (h + g) / threshold`` for the integer threshold h and the tie g of `avsnn.convert.passes.integer_formats`. A
large h is a fine one; the formats of weights, bias and threshold, and u, which must never overflow, bound it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.node import Array
from avsnn.convert.passes.currents import Term
from avsnn.convert.passes.integer_formats import Target, rooms, shift, tie
from avsnn.convert.passes.quantise_products import HEADROOM
from avsnn.errors import QuantizeError

CANDIDATES = (1.0, 0.97, 0.94, 0.9, 0.86, 0.8)  # fractions of the largest scale that calibration tries
MIN_THRESHOLD = 64  # levels below the threshold that a scale should offer
FINEST = 64  # how much smaller than the largest weights those of another connection may be and still be kept fine
SIMPLE = 32  # denominator of weights that are simple fractions of the threshold
HOST_WEIGHT_BITS = 16  # the host multiplies the first layer in wide integers
HOST_BIAS_BITS = 48  # and what it adds must stay exact in floats, too, however small the weights are


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Largest |weight| of all connections, and of the finest of their groups, no less than exponents can bridge.

    Groups share a scale, not an exponent: a scale at which the finest fills its mantissas costs the others nothing.
    A connection is one group, or several of output channels. A graded source has fine weights, as each of its many
    levels stands for little.
    """

    largest: float
    finest: float

    @staticmethod
    def of(found: list[Term], exponents: int) -> Spread:
        """Measure the connections of one population or read-out, each with so many exponents."""
        rows = [np.abs(t.weight).reshape(len(t.weight), -1).max(axis=1, initial=0.0) for t in found]
        rows = [row[row > 0] for row in rows if row.any()]
        largest = max((float(row.max()) for row in rows), default=0.0)
        bridged = [max(float(row.min()), float(row.max()) / 2.0 ** (exponents - 1)) for row in rows]
        return Spread(largest=largest, finest=max(min(bridged, default=0.0), largest / FINEST))


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Bounds and candidates for the integer threshold of one population.

    Attributes:
        node: the population of the folded graph.
        target: integer formats.
        timesteps: T of the graph.
    """

    node: ir.LIF
    target: Target
    timesteps: int

    @property
    def levels(self) -> float | Array:
        """What the current is compared with, ``threshold / gain``: one number, or an array where neurons differ.

        Raises:
            QuantizeError: one of several thresholds is not positive.
        """
        node = self.node
        levels = np.asarray(node.threshold, dtype=np.float64) / node.gain
        if levels.min() == levels.max():
            return float(levels.flat[0])
        if not levels.min() > 0:
            raise QuantizeError("thresholds must be positive", where=node.origin or node.name, found=levels.min())
        return levels

    def tie(self) -> float:
        """What the threshold stands above its integer: g, 0 for a neuron that fires on ``>``."""
        return 0.0 if self.node.strict else tie(self.timesteps, self.node.reset)

    def rounded(self, S: float, h: int) -> int | Array:
        """h, the largest; where thresholds differ, each within half a unit of ``S threshold - g``."""
        levels, node = self.levels, self.node
        if isinstance(levels, float):
            return h
        rounded: Array = np.rint(S * levels - self.tie()).astype(np.int64)
        if rounded.min() < 1:
            raise QuantizeError(
                "thresholds too far apart for one scale",
                where=node.origin or node.name,
                found=f"{levels.min():g} to {levels.max():g}",
                limit=f"1 to {self.target.threshold_room}",
            )
        return rounded

    def to_try(self, found: list[Term], bias: Array) -> list[int]:
        """Integer thresholds for a population driven by spikes, highest first: a few near the largest possible one.

        Raises:
            QuantizeError: there is none.
        """
        levels, node = self.levels, self.node
        threshold = float(np.max(levels))
        spread = Spread.of(found, self.target.exponents(len(found)))
        fine, coarse = self._tops(found, spread, float(np.abs(bias).max()))
        highest = self._with_largest_exponent(threshold, spread.largest)
        top, filled = (min(h, highest) for h in (self._best(fine, coarse, found), coarse))
        if top < 1:
            raise QuantizeError(
                "weights and bias do not fit one scale",
                where=node.origin or node.name,
                found=f"weight {spread.largest:g}, bias {np.abs(bias).max():g}, threshold {threshold:g}",
                limit=f"{self.target.weight_bits}-bit weights, {self.target.bias_mant_bits}-bit bias",
                remedy=self._why(found),
            )
        tried = {max(1, int(top * fraction)) for fraction in CANDIDATES}
        tried |= {filled} if 1 <= filled < top else set()
        if isinstance(levels, float) and _commensurate(found, bias, levels):
            tried = {_meeting(h, node.strict) for h in tried}
        return sorted(tried, reverse=True)

    def _why(self, found: list[Term]) -> str:
        """What to do where there is no room: messages of many levels take it before weights do."""
        widest = max(found, key=lambda t: t.levels)
        if widest.levels == 1:
            return "scale the weights of this layer, or its threshold"
        return f"send fewer levels: {widest.source} has {widest.levels}, so a larger step of it"

    def _tops(self, found: list[Term], spread: Spread, bias: float) -> tuple[int, int]:
        """(largest threshold at which finer groups may use the exponents of coarser ones, where the largest are full).

        No input whatever overflows u or v at either.
        """
        threshold, smallest = float(np.max(self.levels)), float(np.min(self.levels))
        fine = self._largest_threshold(threshold, spread.finest, bias, smallest)
        coarse = self._largest_threshold(threshold, spread.largest, bias, smallest)
        spikes = all(t.levels == 1 for t in found)
        room = self.room(threshold, found, bias)
        return min(max(fine, coarse) if spikes else fine, room), min(coarse, room)

    @property
    def shift(self) -> int:
        """k: what currents are to be multiples ``2^k`` of, so that ties are exact."""
        if self.node.current_decay not in (0.0, 0.5, 1.0):  # then u is rounded in every step whatever its multiples are
            return 0
        return shift(self.timesteps, round(4096 * (1 - self.node.decay)))

    def shifted(self, tried: list[int], found: list[Term], bias: Array) -> list[int]:
        """Those of the thresholds that have room for it, so much higher that all currents can be multiples of ``2^k``.

        Weights are rounded as before, or to 16 bits where they are wider. Empty where k is 0, or nothing has room.
        """
        several = isinstance(self.levels, np.ndarray) and self.node.reset != "hard"  # each would be rounded to 2^k
        least = self.least(found, self.shift)
        if not self.shift or several or least > self.target.weight_exp_max:
            return []
        largest = self._largest_shifted(found, bias)
        for spare in range(max(0, self.target.weight_bits - HOST_WEIGHT_BITS) + 1):
            higher = {self._shifted(h >> spare, least) for h in tried}
            if fits := sorted((h for h in higher if 1 <= h <= largest), reverse=True):
                return fits
        return []

    def _shifted(self, h: int, least: int) -> int:
        """The largest threshold that has its scale from weights ``2^least`` times as large as at h."""
        if self.node.reset != "hard":  # what is subtracted is a multiple of 2^k as well
            return h << least >> self.shift << self.shift
        rest = 0 if self.node.strict else 1
        return ((h + rest) << least) - rest

    def _largest_shifted(self, found: list[Term], bias: Array) -> int:
        threshold, up = float(np.max(self.levels)), self.target.bias_shift(self.shift)
        most = float(np.abs(bias).max())
        return min(
            self._largest_threshold(threshold, 0.0, most / 2.0**up, 1.0),
            self._with_largest_exponent(threshold, Spread.of(found, 1).largest),
            self.room(threshold, found, most),
        )

    def least(self, found: list[Term], k: int) -> int:
        """The smallest exponent that makes all weights multiples of ``2^k``."""
        return max(0, *(k - self.target.grain(t.weight) + 1 for t in found))

    def for_host(self, peak: float, numbers: tuple[Array, Array], spare: float) -> tuple[int, float, int]:
        """(integer threshold, S, fractional bits of the host's numbers) that leave ``spare`` above the largest current.

        Raises:
            QuantizeError: there is none.
        """
        node, threshold = self.node, float(np.max(self.levels))
        states = min(room for _, room in rooms(node, self.target, self.timesteps))
        room = min(float(self.target.bias_room), HEADROOM * states)
        h = int(min((room - spare) / peak * threshold, self.target.threshold_room) - 1)
        if h < 1:
            raise QuantizeError("currents do not fit the host's bias", where=node.origin or node.name, found=peak)
        S = (h + self.tie()) / threshold
        weight, bias = (S * float(np.abs(part).max()) for part in numbers)
        return h, S, _host_shift(weight, bias)

    def _largest_threshold(self, threshold: float, weight: float, bias: float, smallest: float) -> int:
        """Largest integer threshold whose scale keeps weights, bias and threshold inside their formats.

        threshold: the population's largest; its ``smallest`` is to have enough levels.
        """
        room = (1 << (self.target.state_bits - 1 - fixed.ACTIVATION_SHIFT)) - 1
        limits = [min(float(self.target.threshold_room), HEADROOM * room)]  # u can reach it against any bias
        if bias > 0:
            limits.append(self.target.bias_room / bias * threshold)
        if weight > 0:
            by_weight = self.target.weight_room / weight * threshold
            # an exponent keeps the threshold fine where weights are far above it
            while by_weight * smallest < MIN_THRESHOLD * threshold:
                by_weight *= 2
            limits.append(by_weight)
        return int(min(limits) - 1)  # the threshold lies up to one unit above its integer

    def _best(self, fine: int, coarse: int, found: list[Term]) -> int:
        """Of ``fine`` and what lies ``coarse 2^j`` below it, the threshold at which weights are rounded least.

        At ``coarse 2^j`` the largest weights fill their mantissas; a little above, their step would double.
        """
        tops = [fine]
        while 1 <= coarse < fine:
            tops.append(coarse)
            coarse *= 2
        return min(tops, key=lambda h: (self._rounding(h, found), -h)) if len(tops) > 1 else fine

    def _rounding(self, h: int, found: list[Term]) -> float:
        """How much the weights are rounded at threshold h."""
        S = (h + self.tie()) / float(np.max(self.levels))
        return sum(self.target.rounding(t.weight * S, self.target.exponents(len(found))) for t in found)

    def _with_largest_exponent(self, threshold: float, weight: float) -> int:
        """Largest threshold whose scale leaves the exponent of the largest weight in its format."""
        return int((self.target.weight_room * 2.0**self.target.weight_exp_max) / max(weight, 1e-30) * threshold - 1)

    def room(self, threshold: float, found: list[Term], bias: float) -> int:
        """Largest threshold for which no input whatever can push current and bias out of u or v.

        Both ways: v adds up what is below 0 for a window, and what is above it unless a hard reset forgets that. Each
        weight may grow by half a step: of the largest mantissa, or of the integers where mantissas are not filled.
        """
        limits = []
        for sign, room in rooms(self.node, self.target, self.timesteps):
            driving = [(t, np.abs(t.weight) if t.signed else np.maximum(sign * t.weight, 0)) for t in found]
            reach = sum(min(float(t.reach), t.levels * _rows(w, np.sum)) for t, w in driving)
            counts = [(t, _rows(w, np.count_nonzero)) for t, w in driving]
            steps = sum(min(t.levels * n, t.length * n**0.5 * (n / t.channels) ** 0.5) for t, n in counts)
            largest = max(float(np.abs(t.weight).max(initial=0.0)) for t in found)
            whole = reach + steps * largest / 2.0**self.target.weight_bits + bias
            limits.append((HEADROOM * room - steps) / max(whole, 1e-30))
        return int(max(min(limits), 0.0) * threshold)


def _rows(weight: Array, of: Callable[[Array], Any]) -> float:
    """The largest sum, or count, of the weights of one output."""
    return max((float(of(row)) for row in weight.reshape(len(weight), -1)), default=0.0)


def _commensurate(found: list[Term], bias: Array, threshold: float) -> bool:
    """Whether weights and biases are simple fractions of the threshold, so that currents often meet it exactly."""
    parts = np.concatenate([bias.ravel(), *(t.weight.ravel() for t in found)]) / threshold * SIMPLE
    return bool((np.abs(parts - np.rint(parts)) <= 1e-9 * np.maximum(1.0, np.abs(parts))).all())


def _meeting(h: int, strict: bool) -> int:
    """At most h, and such that simple fractions still add up after rounding: to ``h + 1``, or to h if strict."""
    shift, above = max(0, h.bit_length() - 4), 0 if strict else 1
    return max(1, ((h + above) >> shift << shift) - above)


def _host_shift(weight: float, bias: float) -> int:
    """Fractional bits that the host's numbers can have, the largest being ``weight`` and ``bias`` activation units."""
    by_weight = ((1 << (HOST_WEIGHT_BITS - 1)) - 1) / max(weight, 1e-30)
    by_bias = (1 << (HOST_BIAS_BITS - 1)) / max(bias, 1.0)
    return max(0, int(np.floor(np.log2(min(by_weight, by_bias)))))
