"""Float weights to the integers of the target: the only lossy pass.

All currents into one population share one scale S (integer units per 1.0): ``weight = round(S w)``, ``bias =
round(S b)``, and S is chosen so that the threshold is exact, ties included (`avsnn.convert.passes.integer_formats`).
Weights become a mantissa and a shared exponent; mantissas are even where signs are mixed (the chip keeps 8 bits
including the sign). Here the graph is walked and wired; `avsnn.convert.passes.populations` makes each population, at a
scale that `avsnn.convert.passes.thresholds` bounds and calibration data chooses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.fixed_interpreter import connect, filled, product
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.interpreter import interpret, values
from avsnn.convert.ir.node import Array, Node
from avsnn.convert.passes.currents import Sent, arriving, spike_sources, terms, unit
from avsnn.convert.passes.integer_formats import Target
from avsnn.convert.passes.populations import Candidate, Populations
from avsnn.convert.passes.quantise_hosts import Hosts
from avsnn.convert.passes.quantise_products import ATTENDING, integer_product, normed
from avsnn.convert.passes.thresholds import Spread
from avsnn.errors import AvsnnError, CapabilityError, QuantizeError, stop

STEP_WEIGHT_MAX = (1 << 15) - 1  # the host multiplies the sums of each step with wide integers


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
        shift: k, where all currents are multiples of ``2^k`` so that windows of more than 7 steps keep their ties.
        current_decay_error: likewise, of the population's own current.
        rows_balanced: rows of weights in which some are a step further so that they sum to 0 as the real ones do.
    """

    population: str
    scale: float
    tie: float
    disagreement: float = 0.0
    threshold_error: float = 0.0
    decay_error: float = 0.0
    shift: int = 0
    current_decay_error: float = 0.0
    rows_balanced: int = 0


def quantise(
    graph: Graph,
    *,
    target: Target,
    calibration: Mapping[str, Array],
    refuse: Callable[[AvsnnError], None] = stop,
) -> tuple[Graph, tuple[Scale, ...]]:
    """Return the integer graph and how each population was scaled.

    Args:
        graph: stage ``folded``.
        target: integer formats of the target.
        calibration: inputs by name; only training data belongs here.
        refuse: gets every error. If it returns, the graph is of use for finding more errors alone: inputs with the
            values of the float graph stand in for what has no integers.

    Raises:
        CapabilityError: a reset, decay or wiring that has no integer form yet.
        QuantizeError: a value that fits no format.
    """
    reference = interpret(graph, calibration)
    builder = _Builder(graph, target, calibration, reference.spikes)
    for node in graph.nodes:
        try:
            builder.add(node)
        except AvsnnError as error:
            refuse(error)
            builder.stand_in(node)
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
        self.sent: dict[str, Sent] = {}  # by host nodes
        self.calibrated: dict[str, Array] = {}  # what each integer source sends on calibration data, if all were exact
        self.populations = Populations(graph=graph, target=target, spikes=spikes, calibrated=self.calibrated)

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
            case ir.LayerNorm() | ir.StepGain():
                self._hosted(node)
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

    def stand_in(self, node: Node) -> None:
        """An input that sends what ``node`` does in the float graph, if others read that."""
        name = f"{node.name}.or" if isinstance(node, ir.MaxPool2d) else node.name
        kinds = ir.LIF | ir.MaxPool2d | ir.ProductOfMeans | ir.LayerNorm | ir.StepGain | ir.Readout
        if name in self.nodes or not isinstance(node, kinds):
            return
        real = values(self.graph, self.calibration, self.spikes)[node.name]
        if isinstance(node, ir.LayerNorm | ir.StepGain):
            self.sent[name] = Sent(step=max(float(np.abs(real).max(initial=0.0)), 1e-30) / 128, levels=128)
        what = self.sent.get(name) or unit(self.graph, node)
        common: dict[str, Any] = {"name": name, "shape": node.shape, "origin": node.origin}
        self.nodes[name] = fixed.FixedInput(**common, coding="sequence", low=0, high=what.levels, step=what.step)
        sent = np.rint(real / what.step).astype(np.int64)
        self.calibrated[name] = np.broadcast_to(sent, (self.graph.timesteps, *sent.shape[1:]))

    def _keep(self, node: Node) -> None:
        if node.name in self.nodes:
            raise CapabilityError("one layer feeds two populations", where=node.origin or node.name)
        self.nodes[node.name] = node

    def _input(self, node: ir.Input) -> None:
        low, high = round(node.low / node.step), round(node.high / node.step)
        made = fixed.FixedInput(
            name=node.name,
            shape=node.shape,
            origin=node.origin,
            coding=node.coding,
            low=low,
            high=high,
            step=node.step,
            steps=node.steps,
        )
        self._keep(made)
        x = np.rint(np.asarray(self.calibration[node.name]) / node.step).astype(np.int64)
        self.calibrated[node.name] = x if node.coding == "direct" else filled(made, x, self.graph.timesteps)

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
        if node.current_decay and (scaled is not None or isinstance(source, ATTENDING)):
            what, remedy = "a synaptic current behind counts", "neurons without one there (tau_syn_inv = 1 / dt)"
            raise CapabilityError(what, where=node.origin or node.name, found=source.kind, remedy=remedy)
        if scaled is not None:
            best = self.populations.scaled(node, *scaled)
        else:
            attended = isinstance(source, ATTENDING)
            best = self.populations.attended(node, source) if attended else self._weighted(node)
        for new in best.nodes:
            self._keep(new)
        self.scales.append(self._scale(node, best))
        self.calibrated[node.name] = self.spikes[node.name]  # downstream is calibrated on exact inputs

    def _scale(self, node: ir.LIF, made: Candidate) -> Scale:
        population, thresholds = made.nodes[-1], self.populations.thresholds(node)
        assert isinstance(population, fixed.FixedLIF)
        levels, off = thresholds.levels, 0.0
        if isinstance(levels, np.ndarray):
            off = float(np.abs(population.threshold_mant + thresholds.tie() - made.scale * levels).max())
        return Scale(
            population=node.name,
            scale=made.scale,
            tie=thresholds.tie(),
            disagreement=made.disagreement,
            threshold_error=off,
            decay_error=(fixed.MEMORYLESS - population.decay_v) / 4096 - node.decay,
            shift=made.shift,
            current_decay_error=(fixed.NO_CURRENT_MEMORY - population.decay_u) / 4096 - node.current_decay,
            rows_balanced=made.rows_balanced,
        )

    def _weighted(self, node: ir.LIF) -> Candidate:
        """A population that reads weighted sums, and perhaps a neuron that brings its bias."""
        found = arriving(self.graph, node, self.sent)
        if found[-1].source == f"{node.name}.bias":
            self._steady(node, found[-1].source)
        held = [self._direct(t.source) for t in found]
        if any(held) and not all(held):
            raise CapabilityError("spikes and a held input into one population", where=node.origin or node.name)
        make = self.populations.held if all(held) else self.populations.driven
        return make(node, found)

    def _steady(self, node: ir.LIF, name: str) -> None:
        """A neuron that fires in every step: a unit of bias, no memory, threshold 0."""
        self._keep(
            fixed.FixedLIF(
                name=name,
                shape=(1,),
                origin=node.origin,
                threshold_mant=0,
                decay_v=fixed.MEMORYLESS,
                bias_mant=np.ones(1, dtype=np.int64),
                role="bias",
                steps=node.steps,
                state_bits=self.target.state_bits,
            )
        )
        self.calibrated[name] = np.ones((self.graph.timesteps, 1, 1), dtype=bool)

    def _multiplied(self, node: ir.ProductOfMeans) -> None:
        """A product of sums that synapses read."""
        made = integer_product(self.graph, node, 1)
        self._keep(made)
        self.calibrated[node.name] = product(made, *(self.calibrated[name] for name in made.inputs))

    def _hosted(self, node: ir.LayerNorm | ir.StepGain) -> None:
        """What a host makes of sums, and synapses read."""
        parts = [terms(self.graph, name, self.sent) for name in node.inputs]
        if any(self._direct(term.source) for found in parts for term in found):
            what = "the host would have to norm what it has not sent yet: an input that is held for a window"
            raise CapabilityError(what, where=node.origin or node.name, remedy="put neurons before it")
        hosts = Hosts(graph=self.graph, populations=self.populations)
        made = hosts.norm(node, parts[0]) if isinstance(node, ir.LayerNorm) else hosts.gain(node, *parts)
        for new in made.nodes:
            self._keep(new)
        self.scales.append(Scale(population=node.name, scale=made.scale, tie=0.0))
        self.sent[node.name], self.calibrated[node.name] = made.sent, made.calibrated

    def _direct(self, name: str) -> bool:
        node = self.nodes[name]
        return isinstance(node, fixed.FixedInput) and node.coding == "direct"

    def _readout(self, node: ir.Readout) -> None:
        rows = [self.graph[name] for name in node.inputs]
        found = [term for row in rows for term in terms(self.graph, row.name, self.sent)]
        finest = Spread.of(found, self.target.exponents(len(found))).finest
        if finest == 0:
            raise QuantizeError("all read-out weights are zero", where=node.origin or node.name)
        S = self.target.weight_room / finest
        synapses = self.populations.synapses(found, S)
        for synapse in synapses:
            self._keep(synapse)
        T: float = self.graph.timesteps
        steps = None
        if node.step_weights is not None:
            T = STEP_WEIGHT_MAX / float(np.abs(node.step_weights).max())
            steps = np.rint(T * node.step_weights).astype(np.int64)
        self._keep(
            fixed.FixedReadout(
                name=node.name,
                inputs=tuple(s.name for s in synapses),
                shape=node.shape,
                origin=node.origin,
                bias=np.rint(node.bias * S * T).astype(np.int64),
                scale=1.0 / (S * T),
                step_weights=steps,
            )
        )
        self.scales.append(Scale(population=node.name, scale=S, tie=0.0))
