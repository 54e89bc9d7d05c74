"""Turns a scheduled graph and integer inputs into spikes, states and answers, bit for bit what the chip's rules say.

The whole wall clock is simulated: streams of samples back to back, delays, resets by phase, biases that charge waiting
layers. Because no connection leads backwards, layers are run one after the other over all wall steps instead of all
layers step by step; what each neuron sees is the same. Then logical time is cut out of the wall clock.
Sums and products are made by BLAS in floats that cannot round (`exact_sums`, `exact_products`), neurons by
`hw_profiles.fixed_point`, what a host answers by `received`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from avsnn.convert.ir.fixed_nodes import (
    FixedInput,
    FixedLIF,
    FixedLinear,
    FixedReadout,
    HeldCurrent,
    Product,
    Received,
    Synapse,
)
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.kernels import per_channel
from avsnn.convert.ir.node import Array, Node, Shape
from avsnn.deploy.backends import received
from avsnn.deploy.backends.base import Execution, Progress
from avsnn.deploy.backends.cpu_plan import PART_BYTES, Plan, make_plan, output_delay, population_names
from avsnn.deploy.backends.exact_sums import ExactSums
from avsnn.hw_profiles import fixed_point as fx

BLOCK_BYTES = 8 << 20  # working memory of one connection: about what a cache holds
PART_NEURONS = 1 << 17  # of the largest population, over all streams at once: few numpy calls, little cache traffic


def simulate(
    graph: Graph,
    inputs: Mapping[str, Array],
    *,
    record: Collection[str] | str = (),
    streams: int | None = None,
    progress: Progress | None = None,
) -> Execution:
    """Run a scheduled graph.

    Args:
        graph: stage ``scheduled``. Without resets (every ``reset_interval`` 0) there are no windows: each sample
            starts a run of its own, of ``timesteps`` wall steps.
        inputs: integers by input name: (B, *shape) if directly coded, (T, B, *shape) if a sequence.
        record: populations whose spikes and states are wanted, or "all".
        streams: samples simulated side by side; the others follow back to back. None chooses.
        progress: called after each part of the batch.

    Returns:
        Raw outputs (B, *shape) int64 (spike counts for a population), what was recorded, counts per source.

    Raises:
        InputError: wrong stage, inputs that do not fit, a time that cannot be.
        KeyError: ``record`` names no population.
        CapabilityError: a node that the simulator does not know.
        DomainError: a current or bias left its range; population, step, sample and neuron are named.
    """
    plan = make_plan(graph, inputs, population_names(graph, record), streams)
    layout = plan.layout
    result = _allocate(plan)
    at_once = _streams_at_once(plan)
    for first in range(0, layout.streams, at_once):
        last = min(first + at_once, layout.streams)
        _Part(plan=plan, result=result, first=first, last=last).run()
        if progress:
            progress(min(last * layout.length, layout.batch), layout.batch)
    return result


def _streams_at_once(plan: Plan) -> int:
    graph, layout = plan.graph, plan.layout
    largest = max((math.prod(n.shape) for n in graph.of(FixedLIF)), default=1)
    fits = min(PART_BYTES // max(1, plan.bytes_per_step * layout.steps), PART_NEURONS // largest)
    return max(1, min(layout.streams, fits))


def _allocate(plan: Plan) -> Execution:
    graph, B, T = plan.graph, plan.layout.batch, plan.layout.timesteps
    recorded = [node for node in graph.of(FixedLIF) if node.name in plan.record]
    counted = [
        node
        for node in graph
        if isinstance(node, FixedLIF)
        or (isinstance(node, FixedInput | Product) and any(isinstance(r, Synapse) for r in graph.readers[node.name]))
    ]
    return Execution(
        outputs={name: np.zeros((B, *graph[name].shape), np.int64) for name in graph.outputs},
        spikes={node.name: np.zeros((T, B, *node.shape), bool) for node in recorded},
        states={
            node.name: {
                key: np.zeros((T, B, *node.shape), np.int32 if node.state_bits <= 24 else np.int64) for key in "uv"
            }
            for node in recorded
        },
        counts={node.name: np.zeros((B, *node.shape), np.int64) for node in counted},
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Part:
    """Streams [first, last) of a run. Wall-clock arrays are (steps, streams, *shape)."""

    plan: Plan
    result: Execution
    first: int
    last: int

    def run(self) -> None:
        """Run every layer over all wall steps, in the order of the graph, and store what it left."""
        graph, inputs, result = self.plan.graph, self.plan.inputs, self.result
        samples = self.plan.layout.samples(self.first, self.last)
        sent: dict[str, Array] = {}  # messages on the wall clock
        held: dict[str, Array] = {}  # currents by sample: (streams, length, *shape)
        for node in graph.nodes:
            match node:
                case FixedInput():
                    if node.name in result.counts:
                        sent[node.name] = self._input(node, inputs[node.name], samples)
                        self._count(node, 0, sent[node.name] != 0)
                case HeldCurrent():
                    held[node.name] = _held(self.plan.sums[node.name], inputs[node.inputs[0]][samples])
                case Received():
                    sent[node.name] = self._hosted(node, sent, held)
                    if node.name in result.counts:
                        self._count(node, node.offset, sent[node.name] != 0)
                case Product():
                    factors = [sent[name] for name in node.inputs]
                    sent[node.name] = self.plan.products[node.name].on_the_wall(factors, self.plan.layout.steps)
                    if node.name in result.counts:
                        self._count(node, node.offset, sent[node.name] != 0)
                case FixedLIF():
                    sent[node.name] = self._population(node, sent, held)
                    self._count(node, node.offset, sent[node.name])
                case FixedReadout():
                    self._readout(node, sent, held)
                case _:
                    pass  # a synapse is computed where it is read

    def _input(self, node: FixedInput, x: Array, samples: Array) -> Array:
        T = self.plan.layout.timesteps
        if node.coding == "direct":
            return self.plan.layout.to_wall(np.broadcast_to(x[samples], (T, *samples.shape, *node.shape)))
        whole = np.zeros((T, *x.shape[1:]), x.dtype)  # a shorter sequence, then nothing
        whole[: len(x)] = x
        return self.plan.layout.to_wall(whole[:, samples])

    def _count(self, node: Node, offset: int, flags: Array) -> None:
        """Add up messages in logical time."""
        layout, out = self.plan.layout, self.result.counts[node.name]
        layout.per_sample(np.count_nonzero(layout.to_windows(flags, offset), axis=1), self.first, out)
        if node.name in self.result.outputs:
            self.result.outputs[node.name][:] = out

    def _population(self, node: FixedLIF, sent: Mapping[str, Array], held: Mapping[str, Array]) -> Array:
        """Spikes of one population at every wall step."""
        layout, streams = self.plan.layout, self.last - self.first
        currents = [held[name] for name in node.inputs if name in held and _port(self.plan.graph, name) == "current"]
        bound = self.plan.bound(node) + sum(int(np.abs(current).max(initial=0)) for current in currents)
        dtype = fx.safe_dtype(bound, state_bits=node.state_bits)
        proved = fx.never_leaves(bound, node.decay_u, state_bits=node.state_bits)
        bias = self._bias(node, held)
        calm = node.saturates or fx.never_saturates(
            bound,
            max(int(np.abs(b).max(initial=0)) for b in bias),
            int(np.max(node.subtract)),
            node.decay_u,
            node.decay_v,
            node.reset_interval or layout.steps,
            node.state_bits,
        )
        spikes = np.empty((layout.steps, streams, *node.shape), dtype=bool)
        kept = {key: np.empty(spikes.shape, dtype) for key in ("uv" if node.name in self.plan.record else "")}
        zero = u = v = np.zeros((streams, *node.shape), dtype)
        threshold, subtract = (_cast(x, dtype) for x in (node.threshold_mant, node.subtract))
        how: dict[str, Any] = {"state_bits": node.state_bits, "reset": node.reset, "subtract": subtract}
        fired = None
        block = self._block(node.inputs)
        for w in range(layout.steps):
            if w % block == 0:
                a = self._currents(node.inputs, node.shape, sent, held, w, min(w + block, layout.steps), dtype)
            if node.reset_interval and w % node.reset_interval == node.reset_phase:
                u, v, fired = zero, zero, None
            if node.steps and (w - node.reset_phase) % node.reset_interval >= node.steps:
                u, v, fired = zero, zero, None
                for wall in (spikes, *kept.values()):
                    wall[w] = 0
                continue
            sample = min(w // layout.timesteps, layout.length)
            b = bias[min(sample, len(bias) - 1)]
            u, v, spikes[w] = fx.lif_step(
                u, v, a[w % block], b, node.decay_u, node.decay_v, threshold, fired=fired, **how
            )
            fired = spikes[w]
            if not proved:
                self._check(node, "u", u, w, fx.first_outside(u, state_bits=node.state_bits))
            if not calm:
                whole = fx.kept(v, spikes[w], reset=node.reset, subtract=subtract)
                self._check(node, "v", whole, w, fx.first_saturated(whole, state_bits=node.state_bits))
            for key, value in zip(kept, (u, v), strict=False):
                kept[key][w] = value
        for key, wall in kept.items():
            layout.store(wall, node.offset, self.first, self.result.states[node.name][key])
        if kept:
            layout.store(spikes, node.offset, self.first, self.result.spikes[node.name])
        return spikes

    def _hosted(self, node: Received, sent: Mapping[str, Array], held: Mapping[str, Array]) -> Array:
        """What a host sends at every wall step: made of what arrived in the step before."""
        layout, streams = self.plan.layout, self.last - self.first
        y = np.zeros((layout.steps, streams, *node.shape), received.message_dtype(node))
        block = max(1, BLOCK_BYTES // max(1, received.WORKING_BYTES * math.prod(node.shape) * streams))
        for first in range(0, layout.steps, block):
            stop = min(first + block, layout.steps)
            arrived = [
                self._currents(names, shape, sent, held, first - 1, stop - 1, np.int64)
                for names, shape in received.groups(self.plan.graph, node)
            ]
            y[first:stop] = received.sends(node, arrived)
        return y

    def _bias(self, node: FixedLIF, held: Mapping[str, Array]) -> list[Array]:
        """Bias in units of v: one array, or, if the host writes biases, one per sample and one for the tail."""
        constant = per_channel(node.bias_mant.astype(np.int64), len(node.shape)) << node.bias_exp
        ports = [held[name] for name in node.inputs if name in held and _port(self.plan.graph, name) == "bias"]
        biases = [constant]
        if ports:
            total: Array = sum(ports, start=np.int64(0)) << fx.ACTIVATION_SHIFT
            biases = [constant + total[:, k] for k in range(total.shape[1])] + [constant]
        for k, bias in enumerate(biases):
            seen = np.broadcast_to(bias, (self.last - self.first, *node.shape))
            outside = fx.first_outside(seen, state_bits=node.state_bits)
            self._check(node, "bias", seen, k * self.plan.layout.timesteps + node.offset, outside)
        return [bias.astype(np.int32 if node.state_bits <= 24 else np.int64) for bias in biases]

    def _currents(
        self,
        names: tuple[str, ...],
        shape: Shape,
        sent: Mapping[str, Array],
        held: Mapping[str, Array],
        begin: int,
        end: int,
        dtype: type[np.int32] | type[np.int64],
    ) -> Array:
        """What ``names`` deliver to neurons of ``shape`` at wall steps [begin, end); nothing before step 0."""
        a = np.zeros((end - begin, self.last - self.first, *shape), dtype)
        layout = self.plan.layout
        for source in map(self.plan.graph.__getitem__, names):
            if isinstance(source, Synapse):
                self._arrive(source, sent[source.inputs[0]], begin, a)
            elif isinstance(source, Product):
                a += sent[source.name][begin:end]
            elif isinstance(source, HeldCurrent) and source.port == "current":
                for w in range(begin, min(end, layout.length * layout.timesteps)):
                    a[w - begin] += held[source.name][:, w // layout.timesteps].reshape(a.shape[1:]).astype(dtype)
        return a

    def _arrive(self, synapse: Synapse, messages: Array, begin: int, a: Array) -> None:
        """Add to a, wall steps from ``begin`` on, what this connection delivers: sums made 1 + delay steps before."""
        delays = output_delay(synapse) if isinstance(synapse, FixedLinear) else np.zeros(1, np.int64)
        longest = int(delays.max(initial=0))
        lead = begin - 1 - synapse.delay - longest  # the source step that the first row of y would be
        start, stop = max(0, lead), max(0, begin - 1 - synapse.delay + len(a))
        x = messages[start:stop]
        if len(x) == 0:
            return
        y = (
            self.plan.sums[synapse.name](x.reshape(-1, *x.shape[2:]))
            .astype(a.dtype)
            .reshape(*x.shape[:2], *a.shape[2:])
        )
        if not delays.any():
            a[len(a) - len(y) :] += y
            return
        targets, sums = a.reshape(*a.shape[:2], -1), y.reshape(*y.shape[:2], -1)
        for delay in np.unique(delays):
            first = start + 1 + synapse.delay + int(delay) - begin  # where the first row of y arrives in a
            rows = slice(max(0, -first), max(0, len(a) - first))
            part = sums[rows][:, :, delays == delay]
            targets[max(0, first) : max(0, first) + len(part), :, delays == delay] += part

    def _readout(self, node: FixedReadout, sent: Mapping[str, Array], held: Mapping[str, Array]) -> None:
        layout = self.plan.layout
        total = np.zeros((layout.steps, self.last - self.first, *node.shape), np.int64)
        block = self._block(node.inputs)
        for w in range(0, layout.steps, block):
            end = min(w + block, layout.steps)
            total[w:end] = self._currents(node.inputs, node.shape, sent, held, w, end, np.int64)
        steps = np.moveaxis(layout.to_windows(total, node.offset), 1, 0)
        windows = node.over_window(steps) + per_channel(node.bias, len(node.shape))
        layout.per_sample(windows, self.first, self.result.outputs[node.name])

    def _block(self, names: tuple[str, ...]) -> int:
        """Wall steps whose connections are computed together."""
        sums, products = self.plan.sums, self.plan.products
        needed = max(
            (sums[n].bytes_per_item if n in sums else 8 * math.prod(products[n].node.shape) for n in names), default=1
        )
        longest = max(
            (
                int(output_delay(s).max(initial=0))
                for s in map(self.plan.graph.__getitem__, names)
                if isinstance(s, FixedLinear)
            ),
            default=0,
        )
        return max(1, 4 * longest, BLOCK_BYTES // max(1, needed * (self.last - self.first)))

    def _check(self, node: FixedLIF, what: str, value: Array, w: int, index: tuple[int, ...] | None) -> None:
        """Refuse a value (streams, *shape) at wall step w that the state cannot hold, in words of logical time."""
        if index is None:
            return
        layout = self.plan.layout
        k, t = divmod(w - node.offset, layout.timesteps)
        sample = ((self.first + index[0]) * layout.length + k) % layout.batch
        inside = 0 <= k < layout.length
        place = f"sample {sample}, step {t}" if inside else f"wall step {w}, outside every window"
        raise fx.domain_error(
            int(value[index]),
            where=node.name,
            what=what,
            place=f"{place}, neuron {index[1:]}",
            state_bits=node.state_bits,
            step=t if inside else None,
            sample=sample if inside else None,
            neuron=index[1:],
        )


def _held(sums: ExactSums, x: Array) -> Array:
    """What samples x (streams, length, *source) hold: int64 (streams, length, *shape)."""
    node = sums.node
    assert isinstance(node, HeldCurrent)
    flat = sums(x.reshape(-1, *sums.source_shape)).astype(np.int64) + per_channel(
        node.bias.astype(np.int64), len(node.shape)
    )
    current: Array = (flat + ((1 << node.shift) >> 1)) >> node.shift
    return current.reshape(*x.shape[:2], *node.shape)


def _cast(value: int | Array, dtype: type[np.int32] | type[np.int64]) -> int | Array:
    """Constants by neuron in the dtype of the state, or numpy would widen every step."""
    return value.astype(dtype) if isinstance(value, np.ndarray) else value


def _port(graph: Graph, name: str) -> str:
    node = graph[name]
    return node.port if isinstance(node, HeldCurrent) else ""
