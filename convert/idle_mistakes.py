"""Can a mistake in an integer graph change a run at all? Decided from what the sound run sent, without running it.

Mistakes that time shifts or that silence hides are no fault of the comparison that misses them. Here each changed node
is tried alone on the messages of the sound run: u shows every change of a current, so if one is changed by then, some
population or answer, the first of them at least, must differ. Nothing is said where only the end of the last sample
could tell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from avsnn.convert.core_traffic import owners
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.activity import Activity
from avsnn.convert.ir.cores import Cores
from avsnn.convert.ir.fixed_interpreter import (
    bias_of,
    connect,
    filled,
    held,
    inputs_of,
    lif_step,
    product,
    product_by_core,
)
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array, Node

Messages = Mapping[str, Array]


def idle_on(graph: Graph, integers: Mapping[str, Array], done: Activity) -> Callable[[Graph], bool]:
    """What says whether a changed ``graph`` surely does what the sound one has done, for `equivalence.with_controls`.

    Args:
        graph: the sound graph, quantised or scheduled.
        integers: its inputs.
        done: its run, with all populations.
    """

    def idle(spoiled: Graph) -> bool:
        sent = _messages(graph, integers, done)
        changed = [node for node in graph if spoiled[node.name] is not node]
        early = {node.name for node in changed if _delays(node) != _delays(spoiled[node.name])}
        if any(_matters(node, spoiled[node.name], graph, sent, done) for node in changed if node.name not in early):
            return False
        return not any(_early_matters(graph, spoiled, node, early, sent) for node in graph)

    return idle


def idle_by_core(graph: Graph, integers: Mapping[str, Array], done: Activity) -> Callable[[Graph], bool]:
    """The same for mistakes in a mapped graph, which neither change weights nor times.

    Args:
        graph: the scheduled graph.
        integers: its inputs.
        done: the run of the sound mapped graph.
    """

    def idle(spoiled: Graph) -> bool:
        sent, cores, held_by = _messages(graph, integers, done), Cores(spoiled), owners(spoiled)
        found: dict[str, Array] = {}  # what each connection and product makes of what it then gets
        for node in graph:
            if isinstance(node, fixed.Synapse):
                (x,) = (found.get(name, sent[name]) for name in node.inputs)
                found[node.name] = cores.connect(node, x.reshape(-1, *x.shape[2:])).reshape(sent[node.name].shape)
            elif isinstance(node, fixed.Product):
                found[node.name] = product_by_core(node, cores, *(found.get(n, sent[n]) for n in node.inputs))
            elif any((found[name] != sent[name]).any() for name in node.inputs if name in found):
                return False  # a population or an answer gets something else
        alive = ((name, [done.spikes[name], *done.states[name].values()]) for name in done.spikes)
        return not any(x[..., held_by[name].reshape(x.shape[2:]) < 0].any() for name, shown in alive for x in shown)

    return idle


def _messages(graph: Graph, integers: Mapping[str, Array], done: Activity) -> dict[str, Array]:
    """What every node but the read-outs has sent, in logical time, (T, B, *shape)."""
    sent: dict[str, Array] = {}
    for node in graph:
        if isinstance(node, fixed.FixedInput):
            sent[node.name] = filled(node, integers[node.name], graph.timesteps)
        elif isinstance(node, fixed.FixedLIF):
            sent[node.name] = done.spikes[node.name]
        elif not isinstance(node, fixed.FixedReadout):
            sent[node.name] = _made(node, [sent[name] for name in node.inputs])
    return sent


def _made(node: Node, x: list[Array]) -> Array:
    """What a synapse, held current or product makes of (T, B, *source)."""
    if isinstance(node, fixed.Product):
        return product(node, *x)
    assert isinstance(node, fixed.Synapse | fixed.HeldCurrent)
    flat = x[0].reshape(-1, *x[0].shape[2:])
    made = held(node, flat) if isinstance(node, fixed.HeldCurrent) else connect(node, flat)
    return made.reshape(*x[0].shape[:2], *node.shape)


def _matters(old: Node, new: Node, graph: Graph, sent: Messages, done: Activity) -> bool:
    """Whether a node with other numbers does something else with the same messages."""
    if not isinstance(old, fixed.FixedLIF):
        return bool((_made(new, [sent[name] for name in old.inputs]) != sent[old.name]).any())
    assert isinstance(new, fixed.FixedLIF)
    if old.reset_phase != new.reset_phase and old.steps:  # it then rests in step 0, and works one step longer
        starts = done.spikes[old.name][0].any() or any(state[0].any() for state in done.states[old.name].values())
        return bool(starts) or _longer_matters(old, graph, sent, done)
    if old.reset_phase != new.reset_phase:
        return _late_matters(old, done)
    if old.steps != new.steps:
        return _longer_matters(old, graph, sent, done)
    total = np.asarray(sum(sent[name].reshape(*sent[name].shape[:2], *old.shape) for name in old.inputs))
    return bool(((total > old.threshold_mant) != (total > new.threshold_mant)).any())  # coincidences have no memory


def _late_matters(node: fixed.FixedLIF, done: Activity) -> bool:
    """Whether a reset in step 1 in place of step 0 takes from u, or from v what a neuron that is silent then shows."""
    u, v = (np.abs(done.states[node.name][key][0]) for key in "uv")
    kept = (v * (4096 - node.decay_v)) >> 12 != 0
    current = (u * (fixed.NO_CURRENT_MEMORY - node.decay_u)) >> 12 != 0
    return bool((kept & ~done.spikes[node.name][1] if node.reset == "hard" else kept).any() or current.any())


def _longer_matters(node: fixed.FixedLIF, graph: Graph, sent: Messages, done: Activity) -> bool:
    """Whether a neuron whose window is a step too long shows anything in that step."""
    t, state = node.steps, done.states[node.name]
    batch = done.spikes[node.name].shape[1]
    a, b = inputs_of(graph, node, {name: sent[name][t] for name in node.inputs}, batch)
    before = done.spikes[node.name][t - 1]
    shown = lif_step(node, state["u"][t - 1], state["v"][t - 1], a, b + bias_of(node), t, before)
    return any(bool(x.any()) for x in shown)


def _delays(node: Node) -> tuple[int, ...]:
    if isinstance(node, fixed.Product):
        return node.delays
    return (node.delay,) if isinstance(node, fixed.Synapse) else ()


def _early_matters(graph: Graph, spoiled: Graph, reader: Node, early: set[str], sent: Messages) -> bool:
    """Whether what comes a step early is then something else for ``reader``; samples are one stream."""
    T = graph.timesteps
    if isinstance(reader, fixed.Product) and reader.name in early:
        waits = zip(_delays(reader), _delays(spoiled[reader.name]), strict=True)
        streams = [_stream(sent[name]) for name in reader.inputs]
        moved = [x[1:] if old != new else x[:-1] for x, (old, new) in zip(streams, waits, strict=True)]
        if not reader.windowed:
            return _shows(graph, reader, _made(reader, moved), _made(reader, [x[:-1] for x in streams]))
        there = _windows(_stream(sent[reader.name])[:-1], T)
        return _shows(graph, reader, _made(reader, [_windows(x, T) for x in moved]), there)
    synapses = [name for name in reader.inputs if name in early and isinstance(graph[name], fixed.Synapse)]
    if not synapses:
        return False
    if isinstance(reader, fixed.Received):  # whose synapses differ in shape: x and its gain
        streams = [_stream(sent[name]) for name in reader.inputs]
        moved = [x[1:] if name in synapses else x[:-1] for name, x in zip(reader.inputs, streams, strict=True)]
        return _shows(graph, reader, _made(reader, moved), _made(reader, [x[:-1] for x in streams]))
    total = _stream(np.asarray(sum(sent[name].reshape(*sent[name].shape[:2], *reader.shape) for name in synapses)))
    if isinstance(reader, fixed.FixedReadout):
        answers = [reader.over_window(_windows(stream, T)) for stream in (total[1:], total[:-1])]
        return bool((answers[0] != answers[1]).any())
    return bool((total[1:] != total[:-1]).any())


def _shows(graph: Graph, node: Node, found: Array, sound: Array) -> bool:
    """Whether what reads ``node`` gets something else: weights of 0, or sums that cancel, may hide it."""
    differs = bool((found != sound).any())
    readers = graph.readers[node.name]
    if not differs or not all(isinstance(reader, fixed.Synapse) for reader in readers):
        return differs
    return any(bool((_made(reader, [found]) != _made(reader, [sound])).any()) for reader in readers)


def _stream(x: Array) -> Array:
    """(T, B, *shape) to samples one after the other, (B T, 1, *shape)."""
    return x.swapaxes(0, 1).reshape(-1, 1, *x.shape[2:])


def _windows(stream: Array, T: int) -> Array:
    """All whole windows but the last sample's, (T, B - 1, *shape)."""
    whole = (len(stream) - 1) // T
    return stream[: whole * T].reshape(whole, T, *stream.shape[2:]).swapaxes(0, 1)
