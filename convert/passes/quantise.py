"""Float weights to the integers of the target: the only lossy pass.

All currents into one population share one scale S (integer units per 1.0): ``weight = round(S w)``, ``bias =
round(S b)``, and S is chosen so that the threshold is exact, ties included (`avsnn.convert.passes.integer_formats`).
Weights become a mantissa and a shared exponent; mantissas are even where signs are mixed (the chip keeps 8 bits
including the sign). Calibration data chooses among a few scales near the largest one: the one whose spikes differ
least, inputs being equal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.fixed_interpreter import connect, held, lif_step, product
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.interpreter import interpret
from avsnn.convert.ir.kernels import conv2d, per_channel
from avsnn.convert.ir.node import Array, Node
from avsnn.convert.passes.currents import Term, spike_sources, terms, total_bias
from avsnn.convert.passes.integer_formats import Target, check_range, mantissas, reach, tie
from avsnn.convert.passes.quantise_products import (
    ATTENDING,
    HEADROOM,
    count_scale,
    integer_product,
    normed,
    unit_current,
)
from avsnn.errors import CapabilityError, QuantizeError

CANDIDATES = (1.0, 0.97, 0.94, 0.9, 0.86, 0.8)  # fractions of the largest scale that calibration tries
MIN_THRESHOLD = 64  # levels below the threshold that a scale should offer
FINEST = 64  # how much smaller than the largest weights those of another connection may be and still be kept fine
SIMPLE = 32  # denominator of weights that are simple fractions of the threshold
HOST_WEIGHT_BITS = 16  # the host multiplies the first layer in wide integers
HOST_BIAS_BITS = 48  # and what it adds must stay exact in floats, too, however small the weights are
GEOMETRY = ("stride", "padding", "dilation", "groups")


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How one population or read-out was quantised: ``integer = round(real * scale)``.

    Attributes:
        population: its name.
        scale: S, integer units per 1.0 of the folded graph's current.
        tie: what the threshold stands above its integer: g, 0 for a neuron that fires on ``>`` and for read-outs.
        disagreement: share of calibration spikes of this population that differ from the folded graph's, inputs equal.
        threshold_error: largest rounding of a threshold, in integer units, where a population has several; else 0.
        decay_error: the integer decay, a multiple of 1/4096, minus the real one.
    """

    population: str
    scale: float
    tie: float
    disagreement: float = 0.0
    threshold_error: float = 0.0
    decay_error: float = 0.0


def quantise(graph: Graph, *, target: Target, calibration: Mapping[str, Array]) -> tuple[Graph, tuple[Scale, ...]]:
    """Return the integer graph and how each population was scaled.

    Args:
        graph: stage ``folded``.
        target: integer formats of the target.
        calibration: inputs by name; only training data belongs here.

    Raises:
        CapabilityError: a reset, decay or wiring that has no integer form yet.
        QuantizeError: a value that fits no format.
    """
    reference = interpret(graph, calibration)
    builder = _Builder(graph, target, calibration, reference.spikes)
    for node in graph.nodes:
        builder.add(node)
    done = Graph(
        nodes=tuple(builder.nodes.values()), outputs=graph.outputs, timesteps=graph.timesteps, stage="quantised"
    )
    return done, tuple(builder.scales)


class _Builder:
    """Walks the folded graph once and collects integer nodes."""

    def __init__(
        self, graph: Graph, target: Target, calibration: Mapping[str, Array], spikes: Mapping[str, Array]
    ) -> None:
        self.graph, self.target, self.spikes = graph, target, spikes
        self.calibration = calibration
        self.nodes: dict[str, Node] = {}
        self.scales: list[Scale] = []
        self.calibrated: dict[str, Array] = {}  # what each integer source sends on calibration data, if all were exact

    def add(self, node: Node) -> None:
        match node:
            case ir.Input():
                self._input(node)
            case ir.LIF():
                self._population(node)
            case ir.MaxPool2d():
                self._pool(node)
            case ir.Readout():
                self._readout(node)
            case ir.ProductOfMeans():
                self._multiplied(node)
            case (
                ir.Conv2d()
                | ir.Linear()
                | ir.Add()
                | ir.Scale()
                | ir.Flatten()
                | ir.Permute()
                | ir.Attention()
                | ir.AttentionMap()
                | ir.MappedValues()
                | ir.Unit()
                | ir.Concat()
                | ir.MeanSpace()
                | ir.MeanTime()
            ):
                pass  # parts of a current: seen from the population that reads them
            case _:
                raise CapabilityError("no integer form", where=node.origin or node.name, found=node.kind)

    def _keep(self, node: Node) -> None:
        if node.name in self.nodes:
            raise CapabilityError("one layer feeds two populations", where=node.origin or node.name)
        self.nodes[node.name] = node

    def _input(self, node: ir.Input) -> None:
        low, high = round(node.low / node.step), round(node.high / node.step)
        self._keep(
            fixed.FixedInput(
                name=node.name,
                shape=node.shape,
                origin=node.origin,
                coding=node.coding,
                low=low,
                high=high,
                step=node.step,
            )
        )
        x = np.rint(np.asarray(self.calibration[node.name]) / node.step).astype(np.int64)
        self.calibrated[node.name] = x

    def _pool(self, node: ir.MaxPool2d) -> None:
        """OR of a window: all-ones synapse, no memory, fires on the first spike."""
        source = spike_sources(self.graph, node.inputs[0])
        if len(source) != 1 or isinstance(self.graph[node.inputs[0]], ir.Input):
            raise CapabilityError("max pooling of sums or inputs", where=node.origin or node.name, found=source)
        ones = np.ones((node.shape[0], 1, *node.kernel), dtype=np.int64)
        window = fixed.FixedConv2d(
            name=f"{node.name}.window",
            inputs=(source[0],),
            shape=node.shape,
            origin=node.origin,
            weight_mant=ones,
            sign_mode="excitatory",
            stride=node.stride,
            padding=node.padding,
            groups=node.shape[0],
        )
        self._keep(window)
        population = fixed.FixedLIF(
            name=f"{node.name}.or",
            inputs=(window.name,),
            shape=node.shape,
            origin=node.origin,
            threshold_mant=0,
            decay_v=fixed.MEMORYLESS,
            bias_mant=np.zeros(1, dtype=np.int64),
            role="or",
            state_bits=self.target.state_bits,
        )
        self._keep(population)
        spikes = self.calibrated[source[0]]
        flat = connect(window, spikes.reshape(-1, *spikes.shape[2:]))
        self.calibrated[population.name] = (flat > 0).reshape(*spikes.shape[:2], *node.shape)

    def _population(self, node: ir.LIF) -> None:
        source = self.graph[node.inputs[0]]
        scaled = normed(self.graph, node)
        if scaled is not None:
            best = self._scaled(node, *scaled)
        else:
            best = self._attended(node, source) if isinstance(source, ATTENDING) else self._weighted(node)
        for new in best.nodes:
            self._keep(new)
        self.scales.append(best.scale)
        self.calibrated[node.name] = self.spikes[node.name]  # downstream is calibrated on exact inputs

    def _weighted(self, node: ir.LIF) -> _Candidate:
        """A population that reads weighted sums."""
        found = terms(self.graph, node.inputs[0])
        held = [self._direct(t.source) for t in found]
        if any(held) and not all(held):
            raise CapabilityError("spikes and a held input into one population", where=node.origin or node.name)
        make = self._held if all(held) else self._driven
        return make(node, found)

    def _attended(self, node: ir.LIF, source: Node) -> _Candidate:
        """A population that reads counts of attention, and perhaps a constant per pair of tokens."""
        bias = source.bias[None] if isinstance(source, ir.AttentionMap) else np.zeros(1)
        plan = count_scale(self.graph, node, source, self.target, float(np.abs(bias).max(initial=0.0)))
        attending = integer_product(self.graph, source, plan.gain)
        population = self._neuron(node, [source.name], plan.threshold, np.rint(plan.scale * bias).astype(np.int64))
        current = product(attending, *(self.calibrated[name] for name in attending.inputs))
        spikes = _walk(population, lambda t: current[t], self.graph.timesteps, current.shape[1:])
        return self._candidate(node, (attending, population), plan.scale, spikes)

    def _scaled(self, node: ir.LIF, layer: ir.Linear, units: tuple[ir.Unit, ...]) -> _Candidate:
        """A population that reads vectors of length 1, which the host makes of counts."""
        current, h, S = unit_current(self.graph, node, layer, units, self.target)
        population = self._neuron(node, [current.name], h, np.zeros(1, dtype=np.int64))
        a = product(current, *(self.calibrated[name] for name in current.inputs))
        spikes = _walk(population, lambda t: a[t], self.graph.timesteps, a.shape[1:])
        return self._candidate(node, (current, population), S, spikes)

    def _multiplied(self, node: ir.ProductOfMeans) -> None:
        """A product of sums that synapses read."""
        made = integer_product(self.graph, node, 1)
        self._keep(made)
        self.calibrated[node.name] = product(made, *(self.calibrated[name] for name in made.inputs))

    def _direct(self, name: str) -> bool:
        node = self.nodes[name]
        return isinstance(node, fixed.FixedInput) and node.coding == "direct"

    def _driven(self, node: ir.LIF, found: list[Term]) -> _Candidate:
        """A population driven by spikes: the scale that disagrees least with the folded graph on calibration data."""
        levels = _levels(node)
        threshold = float(np.max(levels))
        largest, finest = _spread(found)
        bias = total_bias(found)
        limits = float(np.abs(bias).max()), float(np.min(levels))
        top, room = self._largest_threshold(threshold, finest, *limits), self._room(threshold, found)
        top = min(top, room)
        if all(t.levels == 1 for t in found):  # spikes alone rarely come together: only what is finer is bounded
            top = max(top, self._largest_threshold(threshold, largest, *limits))
        top = min(top, self._with_largest_exponent(threshold, largest))
        if top < 1:
            raise QuantizeError(
                "weights and bias do not fit one scale",
                where=node.origin or node.name,
                found=f"weight {largest:g}, bias {np.abs(bias).max():g}, threshold {threshold:g}",
                limit=f"{self.target.weight_bits}-bit weights, {self.target.bias_mant_bits}-bit bias",
            )
        tried = sorted({max(1, int(top * fraction)) for fraction in CANDIDATES}, reverse=True)
        if isinstance(levels, float) and _commensurate(found, bias, levels):
            tried = sorted({_meeting(h, node.strict) for h in tried}, reverse=True)
        candidates = [self._integers(node, found, bias, threshold, h) for h in tried]
        return min(candidates, key=lambda c: (c.scale.disagreement, -c.scale.scale))

    def _tie(self, node: ir.LIF) -> float:
        return 0.0 if node.strict else tie(self.graph.timesteps, node.reset)

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

    def _with_largest_exponent(self, threshold: float, weight: float) -> int:
        """Largest threshold whose scale leaves the exponent of the largest weight in its format."""
        return int((self.target.weight_room * 2.0**self.target.weight_exp_max) / max(weight, 1e-30) * threshold - 1)

    def _room(self, threshold: float, found: list[Term]) -> int:
        """Largest threshold for which no input whatever can push the current out of u."""
        reach = sum(np.abs(t.weight).reshape(len(t.weight), -1).sum(axis=1).max() * t.levels for t in found)
        room = 1 << (self.target.state_bits - 1 - fixed.ACTIVATION_SHIFT)
        return int(HEADROOM * room / max(float(reach), 1e-30) * threshold)

    def _integers(self, node: ir.LIF, found: list[Term], bias: Array, threshold: float, h: int) -> _Candidate:
        S = (h + self._tie(node)) / threshold
        synapses = [self._synapse(t, S) for t in found]
        names, whole = [s.name for s in synapses], np.rint(S * bias).astype(np.int64)
        population = self._neuron(node, names, self._thresholds(node, S, h), whole)
        spikes = self._spikes(population, synapses)
        return self._candidate(node, (*synapses, population), S, spikes)

    def _thresholds(self, node: ir.LIF, S: float, h: int) -> int | Array:
        """h, the largest; where thresholds differ, each within half a unit of ``S threshold - g``."""
        levels = _levels(node)
        if isinstance(levels, float):
            return h
        rounded: Array = np.rint(S * levels - self._tie(node)).astype(np.int64)
        if rounded.min() < 1:
            raise QuantizeError(
                "thresholds too far apart for one scale",
                where=node.origin or node.name,
                found=f"{levels.min():g} to {levels.max():g}",
                limit=f"1 to {self.target.threshold_room}",
            )
        return rounded

    def _neuron(self, node: ir.LIF, inputs: list[str], h: int | Array, bias: Array) -> fixed.FixedLIF:
        check_range(bias, self.target.bias_mant_bits, "bias mantissa", node)
        return fixed.FixedLIF(
            name=node.name,
            inputs=tuple(inputs),
            shape=node.shape,
            origin=node.origin,
            threshold_mant=h,
            decay_v=round(4096 * (1 - node.decay)),
            bias_mant=bias,
            bias_exp=fixed.ACTIVATION_SHIFT,
            reset=node.reset,
            subtract=0 if node.reset == "hard" else h << fixed.ACTIVATION_SHIFT,
            state_bits=self.target.state_bits,
        )

    def _candidate(self, node: ir.LIF, nodes: tuple[Node, ...], S: float, spikes: Array) -> _Candidate:
        population, levels = nodes[-1], _levels(node)
        assert isinstance(population, fixed.FixedLIF)
        off = 0.0
        if isinstance(levels, np.ndarray):
            off = float(np.abs(population.threshold_mant + self._tie(node) - S * levels).max())
        scale = Scale(
            population=node.name,
            scale=S,
            tie=self._tie(node),
            disagreement=float((spikes != self.spikes[node.name]).mean()),
            threshold_error=off,
            decay_error=(fixed.MEMORYLESS - population.decay_v) / 4096 - node.decay,
        )
        return _Candidate(nodes=nodes, scale=scale)

    def _synapse(self, term: Term, S: float) -> fixed.Synapse:
        mant, exp, mode = mantissas(term.weight * S, self.target)
        if exp > self.target.weight_exp_max:
            raise QuantizeError("weight exponent", where=term.layer.origin, found=exp, limit=self.target.weight_exp_max)
        common: dict[str, Any] = {
            "name": term.name,
            "inputs": (term.source,),
            "shape": term.layer.shape,
            "origin": term.layer.origin,
            "weight_mant": mant,
            "weight_exp": exp,
            "sign_mode": mode,
        }
        if isinstance(term.layer, ir.Linear):
            return fixed.FixedLinear(**common)
        layer = term.layer
        return fixed.FixedConv2d(
            **common, stride=layer.stride, padding=layer.padding, dilation=layer.dilation, groups=layer.groups
        )

    def _spikes(self, population: fixed.FixedLIF, synapses: Sequence[fixed.Synapse]) -> Array:
        """What the integer population does when its sources send what the folded graph's send."""
        total = sum(self._current(s, population) for s in synapses)
        assert isinstance(total, np.ndarray)
        return _walk(population, lambda t: total[t], self.graph.timesteps, total.shape[1:])

    def _current(self, synapse: fixed.Synapse, population: fixed.FixedLIF) -> Array:
        """The synapse's exact sums in float64 (integers far below 2^53), because integer matrix products are slow."""
        x = self.calibrated[synapse.inputs[0]].astype(np.float64)
        weight = synapse.weight.astype(np.float64)
        flat = x.reshape(-1, *x.shape[2:])
        if isinstance(synapse, fixed.FixedConv2d):
            a = conv2d(flat, weight, synapse.stride, synapse.padding, synapse.dilation, synapse.groups)
        else:
            a = flat.reshape(len(flat), -1) @ weight.T
        return np.rint(a).astype(np.int64).reshape(*x.shape[:2], *population.shape)

    def _held(self, node: ir.LIF, found: list[Term]) -> _Candidate:
        """The first layer of a held input: the host computes the current once, in wide integers.

        The chip takes the current as a bias (mantissa a, exponent 6), which bounds |a|. The largest scale that no
        input in range can push out is taken, so nothing ever saturates.
        """
        if len(found) != 1:
            raise CapabilityError("two held inputs into one population", where=node.origin or node.name)
        term, layer = found[0], found[0].layer
        source = self.graph[term.source]
        assert isinstance(source, ir.Input)
        threshold, bias, weight = float(np.max(_levels(node))), total_bias(found), term.weight
        peak = reach(layer, weight, bias, round(source.low / source.step), round(source.high / source.step))
        rounding = 1 + 0.5 * term.levels * weight[0].size  # of all weights, the bias and the result, at most
        h, S, shift = self._held_scale(node, threshold, peak, (weight, bias), 0.0)
        if S * peak + rounding / 2.0**shift + 1 > self.target.bias_room:
            h, S, shift = self._held_scale(node, threshold, peak, (weight, bias), rounding / 2.0**shift + 1)
        fine = S * 2.0**shift
        geometry = {} if isinstance(layer, ir.Linear) else {k: getattr(layer, k) for k in GEOMETRY}
        current = fixed.HeldCurrent(
            name=layer.name,
            inputs=(term.source,),
            shape=layer.shape,
            origin=layer.origin,
            weight=np.rint(weight * fine).astype(np.int64),
            bias=np.rint(bias * fine).astype(np.int64),
            shift=shift,
            **geometry,
        )
        thresholds = self._thresholds(node, S, h)
        population = self._neuron(node, [current.name], thresholds, np.zeros(1, dtype=np.int64))
        a = held(current, self.calibrated[term.source])
        spikes = _walk(population, lambda t: a, self.graph.timesteps, a.shape)
        return self._candidate(node, (current, population), S, spikes)

    def _held_scale(
        self, node: ir.LIF, threshold: float, peak: float, numbers: tuple[Array, Array], spare: float
    ) -> tuple[int, float, int]:
        """(integer threshold, S, fractional bits of the host's numbers) that leave ``spare`` above the largest current.

        Raises:
            QuantizeError: there is none.
        """
        h = int(min((self.target.bias_room - spare) / peak * threshold, self.target.threshold_room) - 1)
        if h < 1:
            raise QuantizeError("currents do not fit the host's bias", where=node.origin or node.name, found=peak)
        S = (h + self._tie(node)) / threshold
        weight, bias = (S * float(np.abs(part).max()) for part in numbers)
        return h, S, _host_shift(weight, bias)

    def _readout(self, node: ir.Readout) -> None:
        rows = [self.graph[name] for name in node.inputs]
        found = [term for row in rows for term in terms(self.graph, row.name)]
        _, finest = _spread(found)
        if finest == 0:
            raise QuantizeError("all read-out weights are zero", where=node.origin or node.name)
        S = self.target.weight_room / finest
        synapses = [self._synapse(t, S) for t in found]
        for synapse in synapses:
            self._keep(synapse)
        T = self.graph.timesteps
        self._keep(
            fixed.FixedReadout(
                name=node.name,
                inputs=tuple(s.name for s in synapses),
                shape=node.shape,
                origin=node.origin,
                bias=np.rint(node.bias * S * T).astype(np.int64),
                scale=1.0 / (S * T),
            )
        )
        self.scales.append(Scale(population=node.name, scale=S, tie=0.0))


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    nodes: tuple[Node, ...]
    scale: Scale


def _levels(node: ir.LIF) -> float | Array:
    """What the current is compared with, ``threshold / gain``: one number, or an array where neurons differ.

    Raises:
        QuantizeError: one of several thresholds is not positive.
    """
    levels = np.asarray(node.threshold, dtype=np.float64) / node.gain
    if levels.min() == levels.max():
        return float(levels.flat[0])
    if not levels.min() > 0:
        raise QuantizeError("thresholds must be positive", where=node.origin or node.name, found=levels.min())
    return levels


def _spread(found: list[Term]) -> tuple[float, float]:
    """Largest |weight| of all connections, and of the finest of them, no less than the largest exponent can bridge.

    Connections share a scale, not an exponent: a scale at which the finest fills its mantissas costs the others
    nothing. A graded source has such weights, as each of its many levels stands for little.
    """
    tops = [float(np.abs(t.weight).max(initial=0.0)) for t in found]
    largest = max(tops)
    return largest, max(min((top for top in tops if top > 0), default=0.0), largest / FINEST)


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


def _walk(population: fixed.FixedLIF, current: Callable[[int], Array], T: int, shape: tuple[int, ...]) -> Array:
    """Spikes (T, B, *) of one integer population; a candidate that overflows simply disagrees everywhere."""
    u = v = np.zeros(shape, dtype=np.int64)
    b = per_channel(population.bias_mant, len(population.shape)) << population.bias_exp
    wide = replace(population, state_bits=50)
    spikes: list[Array] = []
    s = None
    for t in range(T):
        u, v, s = lif_step(wide, u, v, current(t), b, t, s)
        spikes.append(s if np.abs(u).max(initial=0) < 2 ** (population.state_bits - 1) else ~s)
    return np.stack(spikes)
