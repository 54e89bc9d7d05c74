"""Integer graphs to the smallest and largest number that any input can make of each node, neuron by neuron.

Every bound holds in every step of every window, and between windows too, where a stream carries zeros: so 0 is in each
interval. Sums take each source at the end that suits the sign of its weight; zero padding and sources that never fire
are seen. Where sources are independent of each other the ends are met, otherwise they are safe.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.fixed_interpreter import connect, product
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.kernels import per_channel
from avsnn.convert.ir.node import Array, Node, Shape
from avsnn.convert.ir.products import UNIT_BITS
from avsnn.convert.ir.windows import windows
from avsnn.errors import DomainError

GAIN_BITS = 31  # of sums that a host multiplies, which reach it as messages
SQUARE_BITS = 53  # of sums of squares whose root it takes
SUM_BITS = 62  # sums of magnitudes stay below 2^62, so that int64 holds them and twice as much


@dataclass(frozen=True, kw_only=True, eq=False)
class Interval:
    """``low <= x <= high`` for every neuron, int64 arrays of the node's shape.

    length: where all channels of a position are bounded together, no vector of them is longer (Euclidean).
    """

    low: Array
    high: Array
    length: float = math.inf

    @classmethod
    def of(cls, shape: Shape, low: int, high: int) -> Interval:
        """The same ends everywhere."""
        return cls(low=np.full(shape, low, dtype=np.int64), high=np.full(shape, high, dtype=np.int64))

    @property
    def peak(self) -> int:
        """The largest magnitude."""
        return max(int(self.high.max(initial=0)), -int(self.low.min(initial=0)), 0)

    @property
    def ends(self) -> tuple[int, int]:
        """The smallest and the largest number of any neuron."""
        return int(self.low.min(initial=0)), int(self.high.max(initial=0))

    def __add__(self, other: Interval) -> Interval:
        return Interval(low=self.low + other.low, high=self.high + other.high)

    def __lshift__(self, bits: int) -> Interval:
        return Interval(low=self.low << bits, high=self.high << bits)

    def reshape(self, shape: Shape) -> Interval:
        """The same numbers in another shape."""
        return Interval(low=self.low.reshape(shape), high=self.high.reshape(shape))

    def with_zero(self) -> Interval:
        """The smallest interval that also holds 0."""
        return Interval(low=np.minimum(self.low, 0), high=np.maximum(self.high, 0), length=self.length)

    def hull(self, other: Interval) -> Interval:
        """The smallest interval that holds both."""
        return Interval(low=np.minimum(self.low, other.low), high=np.maximum(self.high, other.high))


def of_input(node: fixed.FixedInput) -> Interval:
    """The declared range, and 0 between windows."""
    return Interval.of(node.shape, node.low, node.high).with_zero()


def of_sums(node: fixed.Synapse | fixed.HeldCurrent, x: Interval) -> Interval:
    """Weighted sums of what the source can send, without bias or shift.

    Raises:
        DomainError: they could leave 64 bits.
    """
    magnitude = float(np.abs(node.weight.astype(np.float64)).reshape(len(node.weight), -1).sum(axis=1).max(initial=0.0))
    if magnitude * x.peak >= 2.0**SUM_BITS:
        what, limit = "sums could leave 64 bits", f"2^{SUM_BITS}"
        raise DomainError(what, where=node.name, found=f"{magnitude * x.peak:.3g}", limit=limit)
    up, down = _signed(node)

    def sums(part: fixed.Synapse | fixed.HeldCurrent, end: Array) -> Array:
        return connect(part, end[None])[0].reshape(node.shape) if end.any() else np.zeros(node.shape, dtype=np.int64)

    found = Interval(low=sums(up, x.low) + sums(down, x.high), high=sums(up, x.high) + sums(down, x.low))
    return found if x.length == math.inf else _together(node, x, found)


def _together(node: fixed.Synapse | fixed.HeldCurrent, x: Interval, found: Interval) -> Interval:
    """The sums, no larger than Cauchy and Schwarz allow at each position that a weighted sum sees."""
    weight = node.weight.astype(np.float64)
    if weight.ndim == 2:
        weight = weight.reshape(len(weight), x.high.shape[0], -1)
    lengths = np.sqrt(np.square(weight).sum(axis=1)).reshape(len(weight), -1).sum(axis=1)
    most = per_channel((np.floor(lengths * x.length * (1 + 1e-12)) + 1).astype(np.int64), len(node.shape))
    return Interval(low=np.maximum(found.low, -most), high=np.minimum(found.high, most))


def _signed(node: fixed.Synapse | fixed.HeldCurrent) -> tuple[fixed.Synapse | fixed.HeldCurrent, ...]:
    """The connection with its positive weights alone, and with its negative ones."""
    if isinstance(node, fixed.Synapse):
        return tuple(replace(node, weight_mant=end(node.weight_mant, 0)) for end in (np.maximum, np.minimum))
    return tuple(replace(node, weight=end(node.weight, 0)) for end in (np.maximum, np.minimum))


def of_held(node: fixed.HeldCurrent, x: Interval) -> Interval:
    """The current that the host holds for a sample."""
    bias, half = per_channel(node.bias.astype(np.int64), len(node.shape)), (1 << node.shift) >> 1
    sums = of_sums(node, x)
    return Interval(low=(sums.low + bias + half) >> node.shift, high=(sums.high + bias + half) >> node.shift)


def of_product(node: fixed.Product, spikes: Sequence[Interval], steps: Sequence[int]) -> Interval:
    """What a product makes of populations that can fire where ``high`` is 1, in so many steps of a window.

    Raises:
        DomainError: sums on the way could leave 64 bits.
    """
    if isinstance(node, fixed.FixedUnitCurrent):
        one = _unit_current(node, spikes)
    else:
        most = product(replace(node, gain=1), *(_fired(x, n, max(steps)) for x, n in zip(spikes, steps, strict=True)))
        one = Interval(low=np.zeros(node.shape, dtype=np.int64), high=most[0, 0].reshape(node.shape))
    if float(one.peak) * abs(node.gain) >= 2.0**SUM_BITS:
        raise DomainError("products could leave 64 bits", where=node.name, found=one.peak, limit=f"2^{SUM_BITS}")
    ends = (one.low * node.gain, one.high * node.gain)
    return Interval(low=np.minimum(*ends), high=np.maximum(*ends)).with_zero()


def _fired(x: Interval, steps: int, timesteps: int) -> Array:
    """All spikes of a window, (timesteps, 1, *shape)."""
    now = np.arange(timesteps).reshape(-1, *(1,) * (x.high.ndim + 1)) < steps
    return now * x.high[None, None]


def of_hosted(node: fixed.Received, arriving: Sequence[Interval]) -> Interval:
    """What a host makes of the sums that its synapses deliver.

    No channel is further from the mean than ``sqrt(n - 1)`` deviations, and all n together are ``sqrt(n)`` away.

    Raises:
        DomainError: sums of which the host would lose bits, or a host without a bound.
    """
    bias = per_channel(node.bias.astype(np.int64), len(node.shape))
    if isinstance(node, fixed.FixedStepGain):
        x, w = (sum(part[1:], start=part[0]) for part in (arriving[: node.factors], arriving[node.factors :]))
        half = (1 << node.shift) >> 1
        _exact(node, max(x.peak, w.peak + int(np.abs(bias).max())), 1 << GAIN_BITS)
        gains = [(int(end.reshape(-1)[0]) + int(bias.reshape(-1)[0]) + half) >> node.shift for end in (w.low, w.high)]
        ends = np.stack([end * gain * node.gain for end in (x.low, x.high) for gain in gains])
        squares = np.square(np.maximum(-x.low, x.high).astype(np.float64))
        length = float(np.sqrt(squares.sum(axis=0).max())) * max(map(abs, gains)) * abs(node.gain)
        return Interval(low=ends.min(axis=0), high=ends.max(axis=0), length=length)
    if not isinstance(node, fixed.FixedLayerNorm):
        raise DomainError("no bound for this host", where=node.name, found=node.kind)
    n, total = node.shape[0], sum(arriving[1:], start=arriving[0])
    widest = (n * Interval(low=total.low + bias, high=total.high + bias).peak) ** 2 + node.eps
    _exact(node, widest, 1 << SQUARE_BITS)
    radius = (float(widest) * 2.0**-node.shift if node.variant else 2.0**node.shift) * abs(node.gain)
    most = math.floor(radius * math.sqrt(n - 1) * (1 + 1e-12) + 0.5 * abs(node.gain))
    length = (radius + abs(node.gain)) * math.sqrt(n)
    return replace(Interval.of(node.shape, -most, most), length=length)


def _exact(node: Node, found: int, limit: int) -> None:
    if found >= limit:
        what = "sums that the host would lose bits of"
        raise DomainError(what, where=node.name, found=found, limit=f"2^{limit.bit_length() - 1}")


def sends(graph: Graph, node: Node) -> Interval:
    """What a node sends, whatever populations before it do; of populations themselves, spikes.

    Raises:
        DomainError: sums on the way to it that lose bits.
    """
    match node:
        case fixed.FixedInput():
            return of_input(node)
        case fixed.Synapse():
            return of_sums(node, sends(graph, graph[node.inputs[0]]))
        case fixed.Received():
            return of_hosted(node, [sends(graph, part) for part in graph.sources(node)])
        case fixed.Product():
            return of_product(node, [Interval.of(x.shape, 0, 1) for x in graph.sources(node)], steps_of(graph, node))
        case _:
            return Interval.of(node.shape, 0, 1)


def _unit_current(node: fixed.FixedUnitCurrent, spikes: Sequence[Interval]) -> Interval:
    """Bounds of the current before its gain: ``w e <= |max(w, 0)| |e|``, as counts are never negative.

    e is rounded to whole numbers, so ``|e| <= 2^15 + sqrt(n) / 2`` for n counts that can be other than 0.
    """
    weight: Array = node.weight.astype(np.int64)
    bias = node.bias.astype(np.int64).reshape(-1)
    sums = float(np.abs(weight.astype(np.float64)).sum(axis=1).max(initial=0.0)) * 2.0 ** (UNIT_BITS + 1)
    if sums + float(np.abs(bias).max(initial=0)) + 2.0**node.shift >= 2.0**SUM_BITS:
        raise DomainError("sums could leave 64 bits", where=node.name, found=f"{sums:.3g}", limit=f"2^{SUM_BITS}")
    low, high, start = bias.copy(), bias.copy(), 0
    for x, pooled in zip(spikes, node.pooled, strict=True):
        rows = x.high.reshape(len(x.high), -1)
        alive: Array = (rows.max(axis=1) if pooled else rows.ravel()) > 0
        longest = (1 << UNIT_BITS) + math.isqrt(int(np.count_nonzero(alive))) + 1
        part = (weight[:, start : start + len(alive)] * alive).astype(np.float64)
        high += _lengths(np.maximum(part, 0)) * longest
        low -= _lengths(np.minimum(part, 0)) * longest
        start += len(alive)
    half = (1 << node.shift) >> 1
    return Interval(low=(low + half) >> node.shift, high=(high + half) >> node.shift).reshape(node.shape)


def _lengths(rows: Array) -> Array:
    """Euclidean lengths, rounded up, and by more than a float can be wrong; 0 stays 0."""
    lengths = np.sqrt((rows**2).sum(axis=1))
    return np.where(lengths > 0, np.floor(lengths * (1 + 1e-12)) + 1, 0).astype(np.int64)


def steps_of(graph: Graph, node: Node) -> list[int]:
    """In how many steps of a window each source of a node can send anything."""
    steps = windows(graph)
    return [steps[name] for name in node.inputs]


def of_node(graph: Graph, node: Node, known: Mapping[str, Interval]) -> Interval:
    """What a node that is no population sends, from what its sources send.

    Raises:
        DomainError: a node without a bound here, or sums that could leave 64 bits.
    """
    match node:
        case fixed.FixedInput():
            return of_input(node)
        case fixed.HeldCurrent():
            return of_held(node, known[node.inputs[0]]).with_zero()
        case fixed.FixedConv2d() | fixed.FixedLinear():
            return of_sums(node, known[node.inputs[0]])
        case fixed.Received():
            return of_hosted(node, [known[name] for name in node.inputs]).with_zero()
        case fixed.Product():
            return of_product(node, [known[name] for name in node.inputs], steps_of(graph, node))
        case fixed.FixedReadout():
            return sum((known[n].reshape(node.shape) for n in node.inputs), start=Interval.of(node.shape, 0, 0))
        case _:
            raise DomainError("no bound for this node", where=node.name, found=node.kind)
