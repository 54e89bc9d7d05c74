"""The meaning of integer graphs, in int64, slow and obvious. Everything that runs integers must agree with this file.

`logical` runs ``quantised`` graphs: all layers see step t together. `wall_clock` runs ``scheduled`` graphs one
wall step at a time, samples back to back in a single stream, with a buffer in every synapse and resets by phase,
and cuts the result into logical time at the end: sample k, step t of a population is wall step ``k T + t + offset``.
A ``mapped`` graph runs likewise, but every connection and every population is computed core by core
(`avsnn.convert.ir.cores`): what no core computes stays 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from avsnn.convert.ir import fixed_nodes as ir
from avsnn.convert.ir import products
from avsnn.convert.ir.activity import Activity
from avsnn.convert.ir.cores import Cores
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.kernels import conv2d, per_channel, sparse_sums
from avsnn.convert.ir.node import Array, Node
from avsnn.errors import InputError
from avsnn.hw_profiles import fixed_point


def to_integers(graph: Graph, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """User values to the integers of the graph's inputs: ``round(value / step)``.

    Raises:
        InputError: an input is missing, misshapen or outside its declared range.
    """
    integers = {}
    for node in graph.of(ir.FixedInput):
        if node.name not in inputs:
            raise InputError("input missing", where=node.name, found=", ".join(inputs) or "none")
        raw = np.asarray(inputs[node.name], dtype=np.float64)
        lead, steps = 1 if node.coding == "direct" else 2, node.steps or graph.timesteps
        wrong_length = lead == 2 and raw.shape[:1] != (steps,)
        if raw.ndim != lead + len(node.shape) or raw.shape[lead:] != node.shape or wrong_length:
            wanted = ("batch",) if lead == 1 else (steps, "batch")
            raise InputError("wrong input shape", where=node.name, found=raw.shape, limit=(*wanted, *node.shape))
        if not np.isfinite(raw).all():
            raise InputError("input holds NaN or infinity", where=node.name)
        x = np.rint(raw / node.step).astype(np.int64)
        if x.size and (x.min() < node.low or x.max() > node.high):
            raise InputError(
                "input outside its declared range",
                where=node.name,
                found=f"{raw.min():g} to {raw.max():g}",
                limit=f"{node.low * node.step:g} to {node.high * node.step:g}",
                remedy="scale the data as in training, or declare another range when saving the checkpoint",
            )
        integers[node.name] = x
    return integers


def held(node: ir.HeldCurrent, x: Array) -> Array:
    """The current that a sample holds for its window; x: (B, *shape) integers."""
    total = connect(node, x) + per_channel(node.bias, len(node.shape))
    half = (1 << node.shift) >> 1
    return (total + half) >> node.shift


def connect(node: ir.HeldCurrent | ir.Synapse, x: Array) -> Array:
    """Weighted sums of x (B, *source): (B, *shape)."""
    x = x.astype(np.int64)
    if isinstance(node, ir.FixedLinear) and node.entries is not None:
        values = node.weight_mant[node.entries].astype(np.int64) << node.row_exp[node.entries[0]]
        return sparse_sums(x.reshape(len(x), -1), *node.entries, values, len(node.weight_mant))
    weight = node.weight.astype(np.int64)
    if isinstance(node, ir.FixedConv2d | ir.HeldCurrent) and weight.ndim == 4:
        return conv2d(x, weight, node.stride, node.padding, node.dilation, node.groups)
    return x.reshape(len(x), -1) @ weight.T


def product(node: ir.Product, *x: Array) -> Array:
    """What a product makes of windows (T, B, *shape) of its sources, int64; a per-step one sees each step alone."""
    whole = [each.astype(np.int64) for each in x]
    match node:
        case ir.FixedAttention():
            q, k, v = whole
            found = products.attention(q, k, v, node.heads, node.over)
        case ir.FixedAttentionMap():
            q, k = whole
            found = products.attention_map(q, k, node.heads)
        case ir.FixedMappedValues():
            found = products.mapped_values(*whole)
        case ir.FixedProductOfSums():
            found = products.product_of_sums(*whole)
        case ir.FixedUnitCurrent():
            current = products.unit_current(whole, node.weight, node.bias, node.shift, node.pooled)
            found = np.broadcast_to(current.reshape(-1, *node.shape), (len(whole[0]), len(current), *node.shape))
        case ir.FixedLayerNorm():
            total = sum(whole[1:], start=whole[0]) + per_channel(node.bias.astype(np.int64), len(node.shape))
            found = products.layer_norm(total, node.eps, node.shift, node.variant)
        case ir.FixedStepGain(factors=n):
            total = sum(whole[1:n], start=whole[0])
            found = products.step_gain(total, sum(whole[n + 1 :], start=whole[n]) + node.bias, node.shift)
        case _:
            raise InputError("no integer meaning", where=node.name, found=node.kind)
    return found * node.gain


def product_by_core(node: ir.Product, cores: Cores | None, *x: Array) -> Array:
    """`product`; where cores make it, each its results from what reaches it, and 0 for what no core makes."""
    shares = [] if cores is None else cores.shares.get(node.name, [])
    if not shares:  # by a host
        return product(node, *x)
    whole = np.zeros((*x[0].shape[:2], *node.shape), dtype=np.int64)
    for share in shares:
        share.put(whole, product(node, *share.arrived(*x)))
    return whole


def lif_step(
    node: ir.FixedLIF, u: Array, v: Array, a: Array, b: Array, step: int, fired: Array | None = None
) -> tuple[Array, Array, Array]:
    """One step of the equation in `FixedLIF`, (batch, *shape) each: (u, v, spikes).

    fired: the spikes of the step before, None where a window begins; only a delayed reset reads them.

    Raises:
        DomainError: u or bias leaves its domain, or v saturates where that counts.
    """
    bits = node.state_bits
    constants = (node.decay_u, node.decay_v, node.threshold_mant)
    how: Any = {"reset": node.reset, "subtract": node.subtract}
    b = np.broadcast_to(b, v.shape)
    _inside(node, "bias", b, step, fixed_point.first_outside(b, state_bits=bits))
    u, v, spikes = fixed_point.lif_step(u, v, a, b, *constants, state_bits=bits, fired=fired, **how)
    _inside(node, "u", u, step, fixed_point.first_outside(u, state_bits=bits))
    if not node.saturates:
        held = fixed_point.kept(v, spikes, **how)
        _inside(node, "v", held, step, fixed_point.first_saturated(held, state_bits=bits))
    return u, v, spikes


def _inside(node: ir.FixedLIF, what: str, values: Array, step: int, outside: tuple[int, ...] | None) -> None:
    if outside is None:
        return
    sample, neuron = outside[0], outside[1:]
    raise fixed_point.domain_error(
        int(values[outside]),
        where=node.name,
        what=what,
        place=f"step {step}, sample {sample}, neuron {neuron}",
        state_bits=node.state_bits,
        step=step,
        sample=sample,
        neuron=neuron,
    )


def at_rest(node: ir.FixedLIF, step: int) -> bool:
    """Whether a population rests in ``step`` of a window, because its own window has ended."""
    return 0 < node.steps <= step


def filled(node: ir.FixedInput, x: Array, timesteps: int) -> Array:
    """An input over the whole window, (T, B, *shape): held, or a sequence and zeros behind it."""
    if node.coding == "direct":
        return np.broadcast_to(x, (timesteps, *x.shape))
    return np.concatenate([x, np.zeros((timesteps - len(x), *x.shape[1:]), dtype=x.dtype)])


def bias_of(node: ir.FixedLIF) -> Array:
    """The constant bias in units of v, broadcastable to the population's shape."""
    return per_channel(node.bias_mant.astype(np.int64), len(node.shape)) << node.bias_exp


def inputs_of(graph: Graph, node: Node, now: Mapping[str, Array], batch: int) -> tuple[Array, Array]:
    """(synaptic input a, bias from bias ports) of one population, (batch, *shape)."""
    a = np.zeros((batch, *node.shape), dtype=np.int64)
    b = np.zeros((batch, *node.shape), dtype=np.int64)
    for source in graph.sources(node):
        if isinstance(source, ir.HeldCurrent) and source.port == "bias":
            b += now[source.name] << ir.ACTIVATION_SHIFT
        else:
            a += now[source.name].reshape(a.shape)
    return a, b


def logical(graph: Graph, integers: Mapping[str, Array]) -> Activity:
    """Run a ``quantised`` graph on inputs from `to_integers`."""
    batch, T = _batch(graph, integers), graph.timesteps
    values: dict[str, Array] = {}
    outputs: dict[str, Array] = {}
    spikes: dict[str, Array] = {}
    states: dict[str, dict[str, Array]] = {}
    for node in graph.nodes:
        match node:
            case ir.FixedInput():
                values[node.name] = filled(node, integers[node.name], T)
            case ir.HeldCurrent():
                current = held(node, integers[node.inputs[0]])
                values[node.name] = np.broadcast_to(current, (T, *current.shape))
            case ir.Synapse():
                x = values[node.inputs[0]]
                values[node.name] = connect(node, x.reshape(-1, *x.shape[2:])).reshape(T, batch, *node.shape)
            case ir.Product():
                values[node.name] = product(node, *(values[n] for n in node.inputs))
            case ir.FixedLIF():
                u = v = rest = np.zeros((batch, *node.shape), dtype=np.int64)
                s = None
                record: list[tuple[Array, Array, Array]] = []
                for t in range(T):
                    if at_rest(node, t):
                        record.append((rest, rest, rest != 0))
                        continue
                    a, b = inputs_of(graph, node, {n: values[n][t] for n in node.inputs}, batch)
                    u, v, s = lif_step(node, u, v, a, b + bias_of(node), t, s)
                    record.append((u, v, s))
                us, vs, ss = (np.stack(part) for part in zip(*record, strict=True))
                values[node.name] = spikes[node.name] = ss
                states[node.name] = {"u": us, "v": vs}
            case ir.FixedReadout():
                total = sum((node.over_window(values[n]) for n in node.inputs), start=np.int64(0))
                outputs[node.name] = total + node.bias
            case _:
                raise InputError("no integer meaning", where=node.name, found=node.kind)
    return Activity(outputs=outputs, spikes=spikes, states=states)


def wall_clock(graph: Graph, integers: Mapping[str, Array]) -> Activity:
    """Run a ``scheduled`` or ``mapped`` graph, one wall step after the other, samples back to back."""
    cores = Cores(graph) if graph.stage == "mapped" else None
    batch, T = _batch(graph, integers), graph.timesteps
    steps = batch * T + max((n.offset for n in graph if isinstance(n, ir.FixedLIF | ir.FixedReadout)), default=0)
    streams = {n.name: _stream(n, integers, T, steps) for n in graph.of(ir.FixedInput)}
    currents = {n.name: _held_stream(n, integers, T, steps) for n in graph.of(ir.HeldCurrent)}
    sent: dict[str, list[Array]] = {n.name: [] for n in graph}  # what each node emitted at every past step
    u = {n.name: np.zeros((1, *n.shape), dtype=np.int64) for n in graph.of(ir.FixedLIF)}
    v = dict(u)
    fired: dict[str, Array | None] = dict.fromkeys(u)
    record: dict[str, list[tuple[Array, Array, Array]]] = {name: [] for name in u}
    for w in range(steps):
        for node in graph.nodes:
            match node:
                case ir.FixedInput():
                    now = streams[node.name][w : w + 1]
                case ir.HeldCurrent():
                    now = currents[node.name][w : w + 1]
                case ir.Synapse():
                    now = _delayed(node, sent[node.inputs[0]], w, cores)
                case ir.Product():
                    now = _product_now(node, [sent[n] for n in node.inputs], w, T, cores)
                case ir.FixedLIF():
                    rests = at_rest(node, (w - node.reset_phase) % (node.reset_interval or steps))
                    if rests or (node.reset_interval and w % node.reset_interval == node.reset_phase):
                        u[node.name] = v[node.name] = np.zeros((1, *node.shape), dtype=np.int64)
                        fired[node.name] = None
                    now = u[node.name] != 0
                    if not rests:
                        a, b = inputs_of(graph, node, {n: sent[n][w] for n in node.inputs}, 1)
                        before = u[node.name], v[node.name]
                        u[node.name], v[node.name], now = step_by_core(node, *before, a, b, w, fired[node.name], cores)
                        fired[node.name] = now
                    record[node.name].append((u[node.name], v[node.name], now))
                case ir.Slice() | ir.Axons():
                    continue
                case ir.FixedReadout():
                    now = sum((sent[n][w] for n in node.inputs), start=np.zeros((1, *node.shape), dtype=np.int64))
                case _:
                    raise InputError("no integer meaning", where=node.name, found=node.kind)
            sent[node.name].append(now)
    return _cut(graph, record, sent, batch)


def step_by_core(
    node: ir.FixedLIF, u: Array, v: Array, a: Array, b: Array, w: int, fired: Array | None, cores: Cores | None
) -> tuple[Array, Array, Array]:
    """`lif_step` with the population's own bias; of each of its cores by itself, where there are any."""
    if cores is None:
        return lif_step(node, u, v, a, b + bias_of(node), w, fired)
    after = np.zeros_like(u), np.zeros_like(v), np.zeros(u.shape, dtype=bool)
    for part in cores.neurons[node.name]:
        u0, v0, a0, b0 = (part.take(x) for x in (u, v, a, b))
        s0 = None if fired is None else part.take(fired)
        for whole, found in zip(after, lif_step(part.node, u0, v0, a0, b0 + bias_of(part.node), w, s0), strict=True):
            part.put(whole, found)
    return after


def _delayed(node: ir.Synapse, past: list[Array], w: int, cores: Cores | None) -> Array:
    """What arrives now: the source's message of ``1 + delay`` steps ago (nothing before the first)."""
    delays = np.zeros(1, dtype=np.int64)
    if isinstance(node, ir.FixedLinear) and node.output_delay is not None:
        delays = node.output_delay
    arrived = np.zeros((1, *node.shape), dtype=np.int64)
    for delay in np.unique(delays):
        when = w - 1 - node.delay - int(delay)
        if when >= 0:
            mask = per_channel(np.broadcast_to(delays == delay, node.shape[:1]), len(node.shape))
            sums = connect(node, past[when]) if cores is None else cores.connect(node, past[when])
            arrived = arrived + sums.reshape(1, *node.shape) * mask
    return arrived


def _product_now(node: ir.Product, past: list[list[Array]], w: int, T: int, cores: Cores | None) -> Array:
    """What a product emits in wall step w, (1, *shape), from what its sources have sent."""
    delays = node.delays or (0,) * len(past)
    if not node.windowed:
        now = [_at(sent, w - 1 - delay)[None] for sent, delay in zip(past, delays, strict=True)]
        return product_by_core(node, cores, *now)[0]
    if w < node.offset:
        return np.zeros((1, *node.shape), dtype=np.int64)
    step = (w - node.offset) % T
    first = w - step - T  # step 0 of its window, when nothing waits
    windows = [
        np.stack([_at(sent, first + s - delay) for s in range(T)]) for sent, delay in zip(past, delays, strict=True)
    ]
    return product_by_core(node, cores, *windows)[step]


def _at(sent: list[Array], w: int) -> Array:
    """What was sent in wall step w, (1, *shape); nothing before the first."""
    return sent[w] if w >= 0 else np.zeros_like(sent[0])


def _cut(
    graph: Graph,
    record: Mapping[str, list[tuple[Array, Array, Array]]],
    sent: Mapping[str, list[Array]],
    batch: int,
) -> Activity:
    """Wall-clock records to logical time."""
    T = graph.timesteps

    def window(items: list[Array], offset: int) -> Array:
        cut = np.concatenate(items[offset : offset + batch * T])
        return cut.reshape(batch, T, *cut.shape[1:]).swapaxes(0, 1)

    spikes, states, outputs = {}, {}, {}
    for node in graph:
        if isinstance(node, ir.FixedLIF):
            us, vs, ss = (list(part) for part in zip(*record[node.name], strict=True))
            spikes[node.name] = window(ss, node.offset)
            states[node.name] = {"u": window(us, node.offset), "v": window(vs, node.offset)}
        elif isinstance(node, ir.FixedReadout):
            outputs[node.name] = node.over_window(window(sent[node.name], node.offset)) + node.bias
    return Activity(outputs=outputs, spikes=spikes, states=states)


def _stream(node: ir.FixedInput, integers: Mapping[str, Array], T: int, steps: int) -> Array:
    """An input over wall time, (steps, *shape): samples back to back, then zeros."""
    sequence = filled(node, integers[node.name], T).swapaxes(0, 1).reshape(-1, *node.shape)
    return np.concatenate([sequence, np.zeros((steps - len(sequence), *node.shape), dtype=np.int64)])


def _held_stream(node: ir.HeldCurrent, integers: Mapping[str, Array], T: int, steps: int) -> Array:
    current = np.repeat(held(node, integers[node.inputs[0]]), T, axis=0)
    return np.concatenate([current, np.zeros((steps - len(current), *node.shape), dtype=np.int64)])


def _batch(graph: Graph, integers: Mapping[str, Array]) -> int:
    sizes = {n.name: integers[n.name].shape[0 if n.coding == "direct" else 1] for n in graph.of(ir.FixedInput)}
    if len(set(sizes.values())) != 1:
        raise InputError("inputs disagree on the number of samples", where=", ".join(sizes), found=sizes)
    return next(iter(sizes.values()))
