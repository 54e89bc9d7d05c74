"""Layer norms and gains per step to what a host computes with integers: the synapses that bring it sums, and its node.

**Layer norm.** Currents at scale S are integers, and ``(x - mean) / sqrt(variance + eps)`` of them needs no S but in
``eps``, so S is as large as sums below 2^53 allow, and the only loss is that of the weights. What is sent is rounded to
``2^-shift`` of a deviation; its squares over n channels add up to n, which bounds the currents of those who read it.

**Gain.** x keeps whole numbers where its weights are whole. The gain is summed as finely as weights allow, then rounded
to so many bits that a message times a weight still fits the state of those who read it.

**Bits.** A message of b bits times a weight of b bits, added over a position of n channels (n of them at random signs
reach ``sqrt(n)`` times one), should fill what a membrane has room for (16 bits on
the chip), for any input whatever: `avsnn.convert.certificate` proves it. The variant of a layer norm multiplies by a
deviation, so what any input may send lies far above what data does, and takes the bits that data would have had.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from avsnn.convert.intervals import Interval, of_hosted, of_sums
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.fixed_interpreter import connect, product
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array, Node
from avsnn.convert.passes.currents import Sent, Term, total_bias
from avsnn.convert.passes.integer_formats import Target
from avsnn.convert.passes.populations import Populations
from avsnn.convert.passes.split_layer_norm import is_plain
from avsnn.convert.passes.thresholds import Spread
from avsnn.errors import CapabilityError, DomainError, QuantizeError

EXACT_ROOT = 2.0**26.5  # sums whose squares are exact in floats
SUM_LIMIT = 1 << 30  # of a gain, in integers
SIMPLE = 128  # below it, whole weights stay what they are
COARSEST = 16  # how much coarser than their format weights into a norm may be
MIN_BITS, MAX_BITS = 3, 15


@dataclass(frozen=True, kw_only=True)
class Made:
    """Integer nodes of a host, the host last; S of its first sum; what it sends, in general and on calibration data."""

    nodes: tuple[Node, ...]
    scale: float
    sent: Sent
    calibrated: Array


@dataclass(frozen=True, kw_only=True)
class Hosts:
    """Makes host nodes: graph of stage ``folded``, and what makes synapses."""

    graph: Graph
    populations: Populations

    def norm(self, node: ir.LayerNorm, found: list[Term]) -> Made:
        """A layer norm of sums.

        Raises:
            QuantizeError: sums that no scale keeps exact.
        """
        assert is_plain(node)
        n, bias = node.shape[0], total_bias(found)
        peak = sum(_most(t.weight, t) for t in found) + float(np.abs(bias).max())
        finest = self._finest(found, node)
        S = min(finest, EXACT_ROOT / 2 / (n * max(peak, 1e-30)))
        if finest / COARSEST > S:
            what, size = "sums are too large for an exact norm", f"{n} channels of up to {peak:g}"
            raise QuantizeError(what, where=node.origin or node.name, found=size, limit="squares below 2^53")
        synapses = self.populations.synapses(found, S)
        own: dict[str, Any] = {"bias": np.rint(S * bias).astype(np.int64), "eps": round((n * S) ** 2 * node.eps)}
        shift = _message_bits(self.populations.target, n, math.sqrt(n))
        if node.variant:
            raw = fixed.FixedLayerNorm(**_common(node, synapses), **own, shift=0, step=1.0, levels=0, variant=True)
            arriving = [self._arriving(s, t) for s, t in zip(synapses, found, strict=True)]
            most = of_hosted(raw, arriving)  # not what calibration sends: readers need room for any input
            length = min(most.length, most.peak * math.sqrt(n)) / math.sqrt(n)
            shift = max(math.ceil(math.log2(max(length, 1.0))) - shift - 1, 0)  # half as much is far from likely
        step = 2.0**shift / (n * S) ** 2 if node.variant else 2.0**-shift
        made = fixed.FixedLayerNorm(
            **_common(node, synapses), **own, shift=shift, step=step, levels=0, variant=node.variant
        )
        return self._made(made, synapses, found, S)

    def gain(self, node: ir.StepGain, found: list[Term], gains: list[Term]) -> Made:
        """A gain per step, times sums.

        Raises:
            CapabilityError: what is multiplied has a constant part.
        """
        if total_bias(found).any():
            what = "a gain multiplies spikes, or weighted sums of them without a bias"
            raise CapabilityError(what, where=node.origin or node.name, remedy="put neurons before it")
        weights = np.concatenate([t.weight.ravel() for t in found])
        simple = bool((weights == np.rint(weights)).all() and 0 <= weights.min() <= weights.max() < SIMPLE)
        S_x = 1.0 if simple else self._finest(found, node)
        bias = total_bias(gains)
        most = sum(_most(t.weight, t) for t in gains) + float(np.abs(bias).max())
        S = min(self._finest(gains, node), SUM_LIMIT / max(most, 1e-30))
        synapses = self.populations.synapses(found, S_x)
        weighing = self.populations.synapses(gains, S)
        whole = np.rint(S * bias).astype(np.int64)
        largest = max(1, int(np.abs(self._total(weighing) + whole).max(initial=0)))
        parts = [self._arriving(s, t) for s, t in zip(synapses, found, strict=True)]
        reach = math.sqrt(node.shape[0]) * sum(part.peak for part in parts)  # of x, over all channels
        wide = sum(self._arriving(s, t).peak for s, t in zip(weighing, gains, strict=True)) + int(np.abs(whole).max())
        bits = _message_bits(self.populations.target, node.shape[0], reach * wide / largest)
        shift = max(0, largest.bit_length() - bits)
        own: dict[str, Any] = {"bias": whole, "shift": shift, "factors": len(synapses)}
        every = [*synapses, *weighing]
        made = fixed.FixedStepGain(**_common(node, every), **own, step=2.0**shift / (S * S_x), levels=0)
        return self._made(made, every, [*found, *gains], S)

    def _made(self, node: fixed.Received, synapses: list[fixed.Synapse], found: list[Term], scale: float) -> Made:
        """The host with the largest message that any input can make it send.

        Raises:
            QuantizeError: sums that it would lose bits of.
        """
        try:
            most = of_hosted(node, [self._arriving(s, t) for s, t in zip(synapses, found, strict=True)])
        except DomainError as error:
            raise QuantizeError(
                error.what, where=node.origin or node.name, found=error.found, limit=error.limit
            ) from error
        made, sends = replace(node, levels=max(1, most.peak)), self._of(node, synapses)
        sent = Sent(step=node.step, levels=made.levels, length=most.length)
        return Made(nodes=(*synapses, made), scale=scale, sent=sent, calibrated=sends)

    def _arriving(self, synapse: fixed.Synapse, term: Term) -> Interval:
        """All that a synapse can deliver."""
        x = self.populations.calibrated[term.source]
        source = self.graph.by_name.get(term.source)
        signed = isinstance(source, ir.Input | ir.LayerNorm | ir.StepGain)
        sent = Interval.of(x.shape[2:], -term.levels if signed else 0, term.levels)
        return of_sums(synapse, replace(sent, length=term.length))

    def _finest(self, found: list[Term], node: Node) -> float:
        """The scale at which weights fill their format."""
        finest = Spread.of(found, self.populations.target.exponents(len(found))).finest
        if finest == 0:
            raise QuantizeError("all weights are zero", where=node.origin or node.name)
        return self.populations.target.weight_room / finest

    def _arrives(self, synapse: fixed.Synapse) -> Array:
        """Its sums on calibration data, (T, B, *shape)."""
        x = self.populations.calibrated[synapse.inputs[0]]
        return connect(synapse, x.reshape(-1, *x.shape[2:])).reshape(*x.shape[:2], *synapse.shape)

    def _total(self, synapses: list[fixed.Synapse]) -> Array:
        return np.sum([self._arrives(synapse) for synapse in synapses], axis=0)

    def _of(self, node: fixed.Received, synapses: list[fixed.Synapse]) -> Array:
        return product(node, *(self._arrives(synapse) for synapse in synapses))


def _message_bits(target: Target, channels: int, length: float) -> int:
    """Bits of a message that leave as many to the weights that read it.

    length: of the vectors over channels, in units of what ``bits`` bits stand for.
    """
    room = target.state_bits - fixed.ACTIVATION_SHIFT - 2
    return max(MIN_BITS, min(MAX_BITS, int((room - math.log2(max(1.0, length * math.sqrt(channels)))) / 2)))


def _most(weight: Array, term: Term) -> float:
    """No input makes these weights deliver more."""
    return float(np.abs(weight).reshape(len(weight), -1).sum(axis=1).max()) * term.levels


def _common(node: Node, synapses: list[fixed.Synapse]) -> dict[str, Any]:
    names = tuple(synapse.name for synapse in synapses)
    return {"name": node.name, "inputs": names, "shape": node.shape, "origin": node.origin}
