"""One population of the folded graph to its integer nodes: what makes the current, and the neuron behind it.

Where spikes drive it, each integer threshold of `avsnn.convert.passes.thresholds` worth trying becomes a candidate,
and calibration data chooses: the one whose spikes differ least, inputs being equal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.fixed_interpreter import at_rest, held, lif_step, product
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.kernels import conv2d, per_channel
from avsnn.convert.ir.node import Array, Node
from avsnn.convert.passes.currents import Term, total_bias
from avsnn.convert.passes.integer_formats import Target, check_range, mantissas, reach
from avsnn.convert.passes.quantise_products import count_scale, integer_product, unit_current
from avsnn.convert.passes.row_sums import with_row_sums
from avsnn.convert.passes.thresholds import Thresholds
from avsnn.errors import CapabilityError, QuantizeError

GEOMETRY = ("stride", "padding", "dilation", "groups")


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Integer nodes of a population, the population last.

    Attributes:
        nodes: in order of evaluation.
        scale: S, integer units per 1.0 of current.
        disagreement: share of calibration spikes that differ from the folded graph's.
        shift: k, all currents being multiples of ``2^k``.
        rows_balanced: rows of weights in which some were moved by a step so that they sum to 0 as the real ones do.
    """

    nodes: tuple[Node, ...]
    scale: float
    disagreement: float
    shift: int = 0
    rows_balanced: int = 0


@dataclass(frozen=True, kw_only=True)
class Populations:
    """Makes integer populations, one kind of current per method.

    Attributes:
        graph: stage ``folded``.
        target: integer formats.
        spikes: of the folded graph on calibration data.
        calibrated: what each integer source sends on calibration data; whoever adds nodes fills it.
    """

    graph: Graph
    target: Target
    spikes: Mapping[str, Array]
    calibrated: Mapping[str, Array]

    def thresholds(self, node: ir.LIF) -> Thresholds:
        """Return the bounds of a population's integer threshold."""
        return Thresholds(node=node, target=self.target, timesteps=node.steps or self.graph.timesteps)

    def driven(self, node: ir.LIF, found: list[Term]) -> Candidate:
        """A population driven by spikes: the scale that disagrees least with the folded graph on calibration data."""
        bias, thresholds = total_bias(found), self.thresholds(node)
        tried = thresholds.to_try(found, bias)
        shifted = thresholds.shifted(tried, found, bias)
        k = thresholds.shift if shifted else 0
        candidates = [self._integers(node, found, bias, h, k) for h in shifted or tried]
        candidates += [other for made in candidates if (other := self._with_row_sums(node, found, made)) is not None]
        return min(candidates, key=lambda c: (c.disagreement, -c.scale, -c.rows_balanced))

    def _with_row_sums(self, node: ir.LIF, found: list[Term], made: Candidate) -> Candidate | None:
        """The same with rows that sum to 0 as the real ones do, if any does not."""
        *synapses, population = made.nodes
        rows, changed = [], 0
        for synapse, term in zip(synapses, found, strict=True):
            assert isinstance(synapse, fixed.Synapse)
            row, count = with_row_sums(synapse, term.weight * made.scale, term.channels, self.target)
            rows.append(row)
            changed += count
        assert isinstance(population, fixed.FixedLIF)
        if not changed:
            return None
        other = self._candidate(node, (*rows, population), made.scale, self._spikes(population, rows))
        return replace(other, shift=made.shift, rows_balanced=changed)

    def held(self, node: ir.LIF, found: list[Term]) -> Candidate:
        """The first layer of a held input: the host computes the current once, in wide integers.

        The chip takes the current as a bias (mantissa a, exponent 6), which bounds |a|. The largest scale that no
        input in range can push out is taken, so nothing ever saturates.
        """
        if len(found) != 1:
            raise CapabilityError("two held inputs into one population", where=node.origin or node.name)
        term, layer = found[0], found[0].layer
        source = self.graph[term.source]
        assert isinstance(source, ir.Input)
        thresholds, bias, weight = self.thresholds(node), total_bias(found), term.weight
        peak = reach(layer, weight, bias, round(source.low / source.step), round(source.high / source.step))
        rounding = 1 + 0.5 * term.levels * weight[0].size  # of all weights, the bias and the result, at most
        h, S, shift = thresholds.for_host(peak, (weight, bias), 0.0)
        if S * peak + rounding / 2.0**shift + 1 > self.target.bias_room:
            h, S, shift = thresholds.for_host(peak, (weight, bias), rounding / 2.0**shift + 1)
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
        population = self._neuron(node, [current.name], thresholds.rounded(S, h), np.zeros(1, dtype=np.int64))
        a = held(current, self.calibrated[term.source])
        spikes = _walk(population, lambda t: a, self.graph.timesteps, a.shape)
        return self._candidate(node, (current, population), S, spikes)

    def attended(self, node: ir.LIF, source: Node) -> Candidate:
        """A population that reads counts of attention, and perhaps a constant per pair of tokens."""
        bias = source.bias[None] if isinstance(source, ir.AttentionMap) else np.zeros(1)
        plan = count_scale(self.graph, node, source, self.target, float(np.abs(bias).max(initial=0.0)))
        attending = integer_product(self.graph, source, plan.gain)
        population = self._neuron(node, [source.name], plan.threshold, np.rint(plan.scale * bias).astype(np.int64))
        current = product(attending, *(self.calibrated[name] for name in attending.inputs))
        spikes = _walk(population, lambda t: current[t], self.graph.timesteps, current.shape[1:])
        made = self._candidate(node, (attending, population), plan.scale, spikes)
        return replace(made, shift=self.thresholds(node).shift) if plan.exact else made  # a gain of 2^(T - 1)

    def scaled(self, node: ir.LIF, layer: ir.Linear, units: tuple[ir.Unit, ...]) -> Candidate:
        """A population that reads vectors of length 1, which the host makes of counts."""
        current, h, S = unit_current(self.graph, node, layer, units, self.target)
        population = self._neuron(node, [current.name], h, np.zeros(1, dtype=np.int64))
        a = product(current, *(self.calibrated[name] for name in current.inputs))
        spikes = _walk(population, lambda t: a[t], self.graph.timesteps, a.shape[1:])
        return self._candidate(node, (current, population), S, spikes)

    def synapses(self, found: list[Term], S: float, least: int = 0) -> list[fixed.Synapse]:
        """Weighted sums as integer layers at scale S, all those of one population or read-out.

        Raises:
            QuantizeError: an exponent that fits no format.
        """
        return [self._synapse(term, S, self.target.exponents(len(found)), least) for term in found]

    def _synapse(self, term: Term, S: float, exponents: int, least: int) -> fixed.Synapse:
        mant, exp, mode = mantissas(term.weight * S, self.target, exponents, least)
        top = int(np.max(exp))
        if top > self.target.weight_exp_max:
            raise QuantizeError("weight exponent", where=term.layer.origin, found=top, limit=self.target.weight_exp_max)
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

    def _integers(self, node: ir.LIF, found: list[Term], bias: Array, h: int, k: int) -> Candidate:
        thresholds = self.thresholds(node)
        S = (h + thresholds.tie()) / float(np.max(thresholds.levels))
        synapses = self.synapses(found, S, thresholds.least(found, k))
        names, whole = [s.name for s in synapses], np.rint(S * bias / 2.0**k).astype(np.int64) << k
        population = self._neuron(node, names, thresholds.rounded(S, h), whole, self.target.bias_shift(k))
        spikes = self._spikes(population, synapses)
        return replace(self._candidate(node, (*synapses, population), S, spikes), shift=k)

    def _neuron(self, node: ir.LIF, inputs: list[str], h: int | Array, bias: Array, up: int = 0) -> fixed.FixedLIF:
        """bias: activation units, multiples of ``2^up``, which its exponent takes."""
        bias = bias >> up
        check_range(bias, self.target.bias_mant_bits, "bias mantissa", node)
        return fixed.FixedLIF(
            name=node.name,
            inputs=tuple(inputs),
            shape=node.shape,
            origin=node.origin,
            threshold_mant=h,
            decay_v=round(4096 * (1 - node.decay)),
            decay_u=round(4096 * (1 - node.current_decay)) - 1,
            bias_mant=bias,
            bias_exp=fixed.ACTIVATION_SHIFT + up,
            reset=node.reset,
            subtract=0 if node.reset == "hard" else h << fixed.ACTIVATION_SHIFT,
            state_bits=self.target.state_bits,
            steps=node.steps,
        )

    def _candidate(self, node: ir.LIF, nodes: tuple[Node, ...], S: float, spikes: Array) -> Candidate:
        differs = (spikes != self.spikes[node.name])[: node.steps or self.graph.timesteps]
        return Candidate(nodes=nodes, scale=S, disagreement=float(differs.mean()))

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


def _walk(population: fixed.FixedLIF, current: Callable[[int], Array], T: int, shape: tuple[int, ...]) -> Array:
    """Spikes (T, B, *) of one integer population; a candidate that overflows simply disagrees everywhere."""
    u = v = np.zeros(shape, dtype=np.int64)
    b = per_channel(population.bias_mant, len(population.shape)) << population.bias_exp
    wide = replace(population, state_bits=50)
    spikes: list[Array] = []
    s = None
    for t in range(T):
        if at_rest(population, t):
            spikes.append(np.zeros(shape, dtype=bool))
            continue
        u, v, s = lif_step(wide, u, v, current(t), b, t, s)
        spikes.append(s if np.abs(u).max(initial=0) < 2 ** (population.state_bits - 1) else ~s)
    return np.stack(spikes)
