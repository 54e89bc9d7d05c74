"""What arrives at integer neurons to the largest u, v and bias that any input can make of them in a window.

The equations of `FixedLIF` are monotone in what they are given: a larger current never makes a smaller u or v, and
neither does rounding. So the ends of an interval go through them as numbers do, step by step, with the arithmetic of
`avsnn.hw_profiles.fixed_point`. The bound of u is met whenever that of the current is. v is bounded by what a reset
leaves: a neuron that has not fired is at most at its threshold, one that has is where the reset puts it. That is met
too as long as no reset comes between.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from avsnn.convert.intervals import Interval, of_node, of_sums
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.fixed_interpreter import bias_of
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array, Node
from avsnn.hw_profiles import fixed_point as fx


@dataclass(frozen=True, kw_only=True, eq=False)
class States:
    """What one population can reach, over all steps of a window; all but ``current`` in units of v.

    Attributes:
        current: sum of all that arrives in a step (activation units), of any part of it included.
        u: the current with memory.
        v: before clip and reset.
        bias: constant and what the host writes.
        spikes: 0 to 1 where a neuron can fire, else 0.
        met: where the (low, high) ends of v are met if those of the current are, whatever the sources send together.
    """

    current: Interval
    u: Interval
    v: Interval
    bias: Interval
    spikes: Interval
    met: tuple[Array, Array]

    def loads(self, node: fixed.FixedLIF) -> dict[str, Array]:
        """The largest magnitudes that count, by quantity and neuron; compare them with `room`."""
        return loads(node, self.u, self.v, self.bias)


def loads(node: fixed.FixedLIF, u: Interval, v: Interval, bias: Interval) -> dict[str, Array]:
    """The largest magnitudes that count, by quantity; v is before clip and reset."""
    found = {"u": np.maximum(-u.low, u.high), "bias": np.maximum(-bias.low, bias.high)}
    if not node.saturates:
        low = np.maximum(-v.low, 0)
        found["v"] = np.where(high_counts(node), np.maximum(low, v.high), low)
    return found


def room(node: fixed.FixedLIF, what: str) -> int:
    """The largest magnitude of "u", "v" or "bias" inside the domain; v saturates at the next one."""
    return fx.state_limit(node.state_bits) - (2 if what == "v" else 1)


def high_counts(node: fixed.FixedLIF) -> Array:
    """Where v must not saturate above: a neuron that fires there and starts again from 0 loses nothing."""
    top = fx.state_limit(node.state_bits) - 1
    level = np.asarray(node.threshold_mant, dtype=np.int64) << fx.ACTIVATION_SHIFT
    return np.broadcast_to(np.asarray(node.reset != "hard") | (level >= top), node.shape)


@dataclass(frozen=True, kw_only=True, eq=False)
class Bounds:
    """Of a whole graph: what each node sends, and what each population can reach."""

    sent: dict[str, Interval]
    states: dict[str, States]


def bounds(graph: Graph) -> Bounds:
    """Bound every node of a ``quantised`` or ``scheduled`` graph, for every input in its declared range.

    Raises:
        DomainError: a node without a bound, or sums that could leave 64 bits.
    """
    found = Bounds(sent={}, states={})
    for node in graph:
        if isinstance(node, fixed.FixedLIF):
            states = states_of(graph, node, found.sent)
            found.states[node.name], found.sent[node.name] = states, states.spikes
        else:
            found.sent[node.name] = of_node(graph, node, found.sent)
    return found


def states_of(graph: Graph, node: fixed.FixedLIF, sent: dict[str, Interval]) -> States:
    """Bound one population from what its sources send."""
    current = Interval.of(node.shape, 0, 0)
    constant = np.broadcast_to(bias_of(node), node.shape).astype(np.int64)
    bias = Interval(low=constant, high=constant)
    for source, sends in _together(graph, node, sent):
        arriving = sends.reshape(node.shape)
        if isinstance(source, fixed.HeldCurrent) and source.port == "bias":
            bias = bias + (arriving << fx.ACTIVATION_SHIFT)
        else:
            current = current + arriving
    return _over_window(node, current, bias, node.steps or node.reset_interval or graph.timesteps)


def _together(graph: Graph, node: fixed.FixedLIF, sent: dict[str, Interval]) -> list[tuple[Node, Interval]]:
    """What a population reads and what that sends; connections alike from one source are one, with summed weights.

    Apart, each would take the source at the end that suits it.
    """
    alike: dict[tuple[object, ...], list[Node]] = {}
    for source in graph.sources(node):
        alike.setdefault(_likeness(source), []).append(source)
    found: list[tuple[Node, Interval]] = []
    for first, *others in alike.values():
        if others and isinstance(first, fixed.Synapse):
            weight = sum((s.weight for s in others if isinstance(s, fixed.Synapse)), start=first.weight)
            first = replace(first, weight_mant=weight, weight_exp=0)
            found.append((first, of_sums(first, sent[first.inputs[0]])))
        else:
            found.append((first, sent[first.name]))
    return found


def _likeness(source: Node) -> tuple[object, ...]:
    """Equal for connections that may be added up."""
    if isinstance(source, fixed.FixedConv2d):
        geometry = (source.stride, source.padding, source.dilation, source.groups)
        return (source.inputs, source.shape, source.delay, source.weight_mant.shape, geometry)
    if isinstance(source, fixed.FixedLinear) and source.output_delay is None:
        return (source.inputs, source.shape, source.delay, source.weight_mant.shape)
    return (source.name,)


def _over_window(node: fixed.FixedLIF, current: Interval, bias: Interval, steps: int) -> States:
    top = fx.state_limit(node.state_bits) - 1
    level = np.broadcast_to(np.asarray(node.threshold_mant, dtype=np.int64) << fx.ACTIVATION_SHIFT, node.shape)
    zero = Interval.of(node.shape, 0, 0)
    u = rest = reach_u = zero
    reach_v: Interval | None = None
    late: Interval | None = None  # where neurons that have fired are, if they are reset a step late
    fires = can = must = np.zeros(node.shape, dtype=bool)
    path = met = (~fires, ~fires)  # whether nothing has come between the ends of the current and those of v
    for _ in range(steps):
        u = _decayed(u, fx.UNITY - (node.decay_u + 1)) + (current << fx.ACTIVATION_SHIFT)
        reach_u, u = reach_u.hull(u), _clipped(u, top)
        drive = u + bias
        v = _decayed(rest, fx.UNITY - node.decay_v) + drive
        if late is not None:
            fired = _less(_decayed(late, fx.UNITY - node.decay_v) + drive, node.subtract)
            v = _where(must, fired, _where(can, v.hull(fired), v))
        if reach_v is None:
            reach_v = v
        met = np.where(v.low < reach_v.low, path[0], met[0]), np.where(v.high > reach_v.high, path[1], met[1])
        reach_v, v = reach_v.hull(v), _clipped(v, top)
        can, must = v.high > level, v.low > level
        fires = fires | can
        rest, late = _after(node, v, level)
        same = rest.low == v.low, rest.high == v.high
        path = (path[0] & same[0] & (late is None), path[1] & same[1] & (late is None))
    assert reach_v is not None
    spikes = Interval(low=np.zeros(node.shape, dtype=np.int64), high=fires.astype(np.int64))
    return States(current=current, u=reach_u, v=reach_v, bias=bias.with_zero(), spikes=spikes, met=met)


def _after(node: fixed.FixedLIF, v: Interval, level: Array) -> tuple[Interval, Interval | None]:
    """Where v can be after a step: (what carries on, who has fired and is reset a step late; None: nobody ever is)."""
    can, must = v.high > level, v.low > level
    quiet = Interval(low=v.low, high=np.where(must, v.high, np.minimum(v.high, level)))
    fired = Interval(low=np.where(can, np.maximum(v.low, level + 1), v.high), high=v.high)
    if node.reset == "subtract_delayed":
        return quiet, fired
    put = Interval.of(node.shape, 0, 0) if node.reset == "hard" else _less(fired, node.subtract)
    return _where(must, put, _where(can, quiet.hull(put), v)), None


def _where(flags: Array, yes: Interval, no: Interval) -> Interval:
    return Interval(low=np.where(flags, yes.low, no.low), high=np.where(flags, yes.high, no.high))


def _decayed(x: Interval, keep: int) -> Interval:
    return Interval(low=fx.decay(x.low, keep), high=fx.decay(x.high, keep))


def _clipped(x: Interval, top: int) -> Interval:
    return Interval(low=np.clip(x.low, -top, top), high=np.clip(x.high, -top, top))


def _less(x: Interval, amount: int | Array) -> Interval:
    return Interval(low=x.low - amount, high=x.high - amount)
