"""Turns a scheduled graph and integer inputs into spikes, states and answers, bit for bit what the chip's rules say.

The whole wall clock is simulated: streams of samples back to back, delays, resets by phase, biases that charge waiting
layers. Because no connection leads backwards, layers are run one after the other over all wall steps instead of all
layers step by step; what each neuron sees is the same. Then logical time is cut out of the wall clock.
Sums are made by BLAS in floats that cannot round (`exact_sums`), neurons by `hw_profiles.fixed_point`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from avsnn.convert.ir.fixed_nodes import FixedInput, FixedLIF, FixedLinear, FixedReadout, HeldCurrent, Synapse
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.kernels import per_channel
from avsnn.convert.ir.node import Array, Node
from avsnn.deploy.backends.base import Execution, Progress
from avsnn.deploy.backends.exact_sums import ExactSums
from avsnn.deploy.backends.streams import Streams, lay_out
from avsnn.errors import CapabilityError, InputError
from avsnn.hw_profiles import fixed_point as fx

PART_BYTES = 192 << 20  # messages and recorded states of the streams that run at once
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
    plan = _plan(graph, inputs, _names(graph, record), streams)
    layout = plan.layout
    result = _allocate(plan)
    at_once = _streams_at_once(plan)
    for first in range(0, layout.streams, at_once):
        last = min(first + at_once, layout.streams)
        _Part(plan=plan, result=result, first=first, last=last).run()
        if progress:
            progress(min(last * layout.length, layout.batch), layout.batch)
    return result


@dataclass(frozen=True, kw_only=True, eq=False)
class _Plan:
    """What is decided before the first step."""

    graph: Graph
    inputs: Mapping[str, Array]
    record: frozenset[str]
    layout: Streams
    sums: Mapping[str, ExactSums]

    def bound(self, node: FixedLIF) -> int:
        """Largest synaptic input that connections can give; held currents are added where they are known."""
        return sum(self.sums[name].bound for name in node.inputs if isinstance(self.graph[name], Synapse))


def _plan(graph: Graph, inputs: Mapping[str, Array], record: frozenset[str], streams: int | None) -> _Plan:
    if graph.stage != "scheduled":
        raise InputError("only scheduled graphs can be simulated", where="simulate", found=graph.stage)
    batch = _check_inputs(graph, inputs)
    if streams is not None and not 1 <= streams <= batch:
        raise InputError("impossible number of streams", where="simulate", found=streams, limit=f"1 to {batch}")
    peaks = {name: max(1, int(np.abs(inputs[name]).max(initial=0))) for name in inputs}
    sums = {}
    for node in graph.nodes:
        _check_node(graph, node)
        if isinstance(node, Synapse | HeldCurrent):
            source = node.inputs[0]
            sums[node.name] = ExactSums(node=node, source_shape=graph[source].shape, peak=peaks.get(source, 1))
    tail = max((n.offset for n in graph if isinstance(n, FixedLIF | FixedReadout)), default=0)
    messages = sum(math.prod(n.shape) for n in graph if isinstance(n, FixedLIF | FixedInput))
    layout = lay_out(
        batch,
        graph.timesteps,
        tail,
        windowed=_windowed(graph),
        streams=streams,
        longest=PART_BYTES // max(1, messages * graph.timesteps),
    )
    return _Plan(graph=graph, inputs=inputs, record=record, layout=layout, sums=sums)


def _names(graph: Graph, record: Collection[str] | str) -> frozenset[str]:
    known = [node.name for node in graph.of(FixedLIF)]
    names = frozenset(known if record == "all" else [record] if isinstance(record, str) else record)
    if unknown := sorted(names.difference(known)):
        raise KeyError(f"no population {unknown[0]!r}; there are: {', '.join(known)}")
    return names


def _windowed(graph: Graph) -> bool:
    """Whether samples may follow each other: populations with memory forget at the period of the windows."""
    with_memory = [n for n in graph.of(FixedLIF) if (n.decay_u, n.decay_v) != (fx.UNITY - 1, fx.UNITY)]
    intervals = {n.reset_interval for n in with_memory}
    return not with_memory or (any(intervals) and all(graph.timesteps % i == 0 for i in intervals if i))


def _check_inputs(graph: Graph, inputs: Mapping[str, Array]) -> int:
    """Return the number of samples."""
    nodes = graph.of(FixedInput)
    if not nodes or {n.name for n in nodes} != set(inputs):
        raise InputError(
            "inputs do not match the graph",
            where="simulate",
            found=", ".join(sorted(inputs)) or "none",
            limit=", ".join(n.name for n in nodes) or "none",
        )
    batches = set()
    for node in nodes:
        x, sequence = inputs[node.name], node.coding != "direct"
        limit = (*((graph.timesteps,) if sequence else ()), "batch", *node.shape)
        if x.ndim != len(limit) or x.shape[1 + sequence :] != node.shape or (sequence and len(x) != graph.timesteps):
            raise InputError("wrong input shape", where=node.name, found=x.shape, limit=limit)
        if x.dtype.kind not in "biu":
            raise InputError("the simulator takes integers", where=node.name, found=x.dtype)
        if x.size and (int(x.min()) < node.low or int(x.max()) > node.high):
            found = f"{x.min()} to {x.max()}"
            raise InputError("input out of range", where=node.name, found=found, limit=f"{node.low} to {node.high}")
        batches.add(x.shape[int(sequence)])
    if len(batches) != 1 or 0 in batches:
        raise InputError("inputs need one equal number of samples", where="simulate", found=sorted(batches))
    return int(batches.pop())


def _check_node(graph: Graph, node: Node) -> None:
    sources = graph.sources(node)
    match node:
        case FixedInput():
            allowed: tuple[type[Node], ...] = ()
        case HeldCurrent():
            allowed = (FixedInput,)
            if any(isinstance(s, FixedInput) and s.coding != "direct" for s in sources):
                raise CapabilityError("a held current needs a directly coded input", where=node.name)
            if node.port not in ("current", "bias"):
                raise CapabilityError("unknown port", where=node.name, found=node.port, limit="current, bias")
        case Synapse():
            allowed = (FixedInput, FixedLIF)
            if node.delay < 0 or (isinstance(node, FixedLinear) and (_output_delay(node) < 0).any()):
                raise InputError("negative delay", where=node.name)
        case FixedLIF() | FixedReadout():
            allowed = (Synapse, HeldCurrent)
            if isinstance(node, FixedLIF) and node.bias_exp < 0:
                raise CapabilityError("negative bias exponent", where=node.name, found=node.bias_exp, limit=0)
            if node.offset < 0:
                raise InputError("negative offset", where=node.name, found=node.offset, limit=0)
        case _:
            raise CapabilityError("the simulator knows no such node", where=node.name, found=node.kind)
    if wrong := [s for s in sources if not isinstance(s, allowed)]:
        raise CapabilityError("reads what it cannot", where=node.name, found=f"{wrong[0].name} ({wrong[0].kind})")
    if isinstance(node, HeldCurrent | Synapse) and len(sources) != 1:
        raise InputError("a connection has one source", where=node.name, found=len(sources), limit=1)


def _output_delay(node: FixedLinear) -> Array:
    delays = np.zeros(1, np.int64) if node.output_delay is None else node.output_delay.astype(np.int64)
    return np.broadcast_to(delays, (len(node.weight_mant),))


def _streams_at_once(plan: _Plan) -> int:
    graph, layout = plan.graph, plan.layout
    populations = graph.of(FixedLIF)
    per_step = sum(math.prod(n.shape) * (9 if n.name in plan.record else 1) for n in populations)
    per_step += sum(8 * math.prod(n.shape) for n in graph.of(FixedInput))
    largest = max((math.prod(n.shape) for n in populations), default=1)
    fits = min(PART_BYTES // max(1, per_step * layout.steps), PART_NEURONS // largest)
    return max(1, min(layout.streams, fits))


def _allocate(plan: _Plan) -> Execution:
    graph, B, T = plan.graph, plan.layout.batch, plan.layout.timesteps
    recorded = [node for node in graph.of(FixedLIF) if node.name in plan.record]
    counted = [
        node
        for node in graph
        if isinstance(node, FixedLIF)
        or (isinstance(node, FixedInput) and any(isinstance(r, Synapse) for r in graph.readers[node.name]))
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

    plan: _Plan
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
        return self.plan.layout.to_wall(x[:, samples])

    def _count(self, node: Node, offset: int, flags: Array) -> None:
        """Add up messages in logical time."""
        layout, out = self.plan.layout, self.result.counts[node.name]
        total = np.count_nonzero(layout.to_windows(flags, offset), axis=1)
        for p in range(total.shape[1]):
            start = (self.first + p) * layout.length
            stop = min(start + layout.length, layout.batch)
            out[start:stop] = total[: stop - start, p]
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
        spikes = np.empty((layout.steps, streams, *node.shape), dtype=bool)
        kept = {key: np.empty(spikes.shape, dtype) for key in ("uv" if node.name in self.plan.record else "")}
        zero = u = v = np.zeros((streams, *node.shape), dtype)
        block = self._block(node.inputs)
        for w in range(layout.steps):
            if w % block == 0:
                a = self._currents(node, sent, held, w, min(w + block, layout.steps), dtype)
            if node.reset_interval and w % node.reset_interval == node.reset_phase:
                u = v = zero
            sample = min(w // layout.timesteps, layout.length)
            b = bias[min(sample, len(bias) - 1)]
            u, v, spikes[w] = fx.lif_step(
                u, v, a[w % block], b, node.decay_u, node.decay_v, node.threshold_mant, state_bits=node.state_bits
            )
            if not proved:
                self._check(node, "u", u, w)
            for key, value in zip(kept, (u, v), strict=False):
                kept[key][w] = value
        for key, wall in kept.items():
            layout.store(wall, node.offset, self.first, self.result.states[node.name][key])
        if kept:
            layout.store(spikes, node.offset, self.first, self.result.spikes[node.name])
        return spikes

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
            self._check(node, "bias", seen, k * self.plan.layout.timesteps + node.offset)
        return [bias.astype(np.int32 if node.state_bits <= 24 else np.int64) for bias in biases]

    def _currents(
        self,
        node: FixedLIF | FixedReadout,
        sent: Mapping[str, Array],
        held: Mapping[str, Array],
        begin: int,
        end: int,
        dtype: type[np.int32] | type[np.int64],
    ) -> Array:
        """Synaptic input at wall steps [begin, end)."""
        a = np.zeros((end - begin, self.last - self.first, *node.shape), dtype)
        layout = self.plan.layout
        for source in self.plan.graph.sources(node):
            if isinstance(source, Synapse):
                self._arrive(source, sent[source.inputs[0]], begin, a)
            elif isinstance(source, HeldCurrent) and source.port == "current":
                for w in range(begin, min(end, layout.length * layout.timesteps)):
                    a[w - begin] += held[source.name][:, w // layout.timesteps].reshape(a.shape[1:]).astype(dtype)
        return a

    def _arrive(self, synapse: Synapse, messages: Array, begin: int, a: Array) -> None:
        """Add to a, wall steps from ``begin`` on, what this connection delivers: sums made 1 + delay steps before."""
        delays = _output_delay(synapse) if isinstance(synapse, FixedLinear) else np.zeros(1, np.int64)
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
            total[w:end] = self._currents(node, sent, held, w, end, np.int64)
        out = self.result.outputs[node.name]
        windows = layout.to_windows(total, node.offset).sum(axis=1) + per_channel(node.bias, len(node.shape))
        for p in range(windows.shape[1]):
            start = (self.first + p) * layout.length
            stop = min(start + layout.length, layout.batch)
            out[start:stop] = windows[: stop - start, p]

    def _block(self, names: tuple[str, ...]) -> int:
        """Wall steps whose connections are computed together."""
        needed = max((self.plan.sums[name].bytes_per_item for name in names), default=1)
        longest = max(
            (
                int(_output_delay(s).max(initial=0))
                for s in map(self.plan.graph.__getitem__, names)
                if isinstance(s, FixedLinear)
            ),
            default=0,
        )
        return max(1, 4 * longest, BLOCK_BYTES // max(1, needed * (self.last - self.first)))

    def _check(self, node: FixedLIF, what: str, value: Array, w: int) -> None:
        """Refuse values (streams, *shape) at wall step w that the state cannot hold, in words of logical time."""
        index = fx.first_outside(value, state_bits=node.state_bits)
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
        )


def _held(sums: ExactSums, x: Array) -> Array:
    """What samples x (streams, length, *source) hold: int64 (streams, length, *shape)."""
    node = sums.node
    assert isinstance(node, HeldCurrent)
    flat = sums(x.reshape(-1, *sums.source_shape)).astype(np.int64) + per_channel(
        node.bias.astype(np.int64), len(node.shape)
    )
    current: Array = ((flat + ((1 << node.shift) >> 1)) >> node.shift) << node.lift
    return current.reshape(*x.shape[:2], *node.shape)


def _port(graph: Graph, name: str) -> str:
    node = graph[name]
    return node.port if isinstance(node, HeldCurrent) else ""
