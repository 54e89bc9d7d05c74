"""A population that no bound proves to an input that pushes it out of its domain, if one is found.

Two searches, each by the same hill climbing on what it may choose: inputs of the network within their declared ranges,
and, where these do not reach it, spikes of the layer's sources over time. The second starts from what the weights ask
for: everything that drives one neuron up, or down, from some step on. What is found is run again in the reference
interpreter, whose error is the evidence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from avsnn.convert.drives import wanted
from avsnn.convert.intervals import Interval
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.activity import Activity
from avsnn.convert.ir.fixed_interpreter import bias_of, held, logical
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array, Node
from avsnn.convert.isolate import isolate
from avsnn.convert.state_bounds import Bounds, high_counts, loads, room
from avsnn.errors import DomainError
from avsnn.hw_profiles import fixed_point as fx

Inputs = Mapping[str, Array]
WIDE = 50  # bits of states in which nothing leaves while a search looks on
PARENTS, CHILDREN = 8, 16  # samples kept, and tried in every round
ROUNDS = 24
OPERATIONS = 1 << 29  # multiplications that one search may cost, roughly; the reference interpreter is slow
NEURONS = 4  # of a population whose worst drives are tried, for each quantity and direction


@dataclass(frozen=True, kw_only=True, eq=False)
class CounterExample:
    """An input that pushes a population out of its domain, and what the reference interpreter said of it.

    Attributes:
        error: names population, quantity, step, neuron, value and limit.
        network: the graph that was searched.
        layer: the population alone, its sources as inputs (stage ``quantised``).
        spikes: of those sources over a window, integers of one sample.
        inputs: of the network, integers of one sample; None if only the layer alone was made to break.
    """

    error: DomainError
    network: Graph
    layer: Graph
    spikes: Inputs
    inputs: Inputs | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Choice:
    """A population, and what may be chosen to make it overflow: the inputs of ``graph``, within ``box``."""

    graph: Graph
    node: fixed.FixedLIF
    box: Mapping[str, Interval]

    @property
    def inputs(self) -> tuple[fixed.FixedInput, ...]:
        """In the order of the graph."""
        return self.graph.of(fixed.FixedInput)

    def take(self, x: Inputs, samples: list[int] | Array) -> dict[str, Array]:
        """Some samples."""
        return {name: np.take(values, samples, axis=_axis(self.graph[name])) for name, values in x.items()}

    def join(self, *parts: Inputs) -> dict[str, Array]:
        """All samples of all parts."""
        return {n.name: np.concatenate([part[n.name] for part in parts], axis=_axis(n)) for n in self.inputs}


def find(graph: Graph, node: fixed.FixedLIF, bounds: Bounds, data: Inputs, seed: int) -> CounterExample | None:
    """Look for an input that overflows ``node``; None: none was found, which proves nothing.

    Args:
        graph: stage ``quantised``; populations before ``node`` stay inside their domains.
        node: a population that its bounds do not prove.
        bounds: of the graph.
        data: integers of some samples, to start from.
        seed: of the search.
    """
    layer = isolate(graph, node.name, alone=True)
    network = _network(graph, node)
    ends = [_everywhere(network, low) for low in (True, False)]
    found = climb(network, network.join(*ends, {n.name: data[n.name] for n in network.inputs}), seed)
    error = None if found is None else overflow(network.graph, found)
    if found is not None and error is not None and error.where == node.name:
        sent = found | {name: s.astype(np.int64) for name, s in _run(network, found).spikes.items()}
        spikes = {n.name: sent[n.name][: n.steps or None] for n in layer.of(fixed.FixedInput)}
        rest = {n.name: np.take(data[n.name], [0], axis=_axis(n)) for n in graph.of(fixed.FixedInput)}
        return CounterExample(error=error, network=graph, layer=layer, spikes=spikes, inputs=rest | found)
    if not layer.of(fixed.FixedInput):
        return None
    choice = Choice(graph=layer, node=node, box={n.name: _sent(graph, n, bounds) for n in layer.of(fixed.FixedInput)})
    found = climb(choice, choice.join(*_driven(choice, graph, bounds)), seed)
    error = None if found is None else overflow(layer, found)
    if found is None or error is None:
        return None
    return CounterExample(error=error, network=graph, layer=layer, spikes=found, inputs=None)


def overflow(graph: Graph, x: Inputs) -> DomainError | None:
    """What the reference interpreter raises, if it does."""
    try:
        logical(graph, x)
    except DomainError as error:
        return error
    return None


def reached(node: fixed.FixedLIF, graph: Graph, x: Inputs, run: Activity) -> dict[str, Array]:
    """Magnitudes that count, by quantity, (steps of its window, B, *shape), of a run on integers x.

    What a reset hides is made again.
    """
    window = slice(node.steps or None)
    u, after, spikes = (x[window] for x in (*(run.states[node.name][k] for k in "uv"), run.spikes[node.name]))
    bias = np.broadcast_to(bias_of(node), u.shape[1:]).astype(np.int64)
    for source in graph.sources(node):
        if isinstance(source, fixed.HeldCurrent) and source.port == "bias":
            bias = bias + (held(source, x[source.inputs[0]]) << fx.ACTIVATION_SHIFT)
    before = np.concatenate([np.zeros_like(after[:1]), after[:-1]])
    v = fx.decay(before.astype(np.int64), fx.UNITY - node.decay_v) + u + bias
    if node.reset == "subtract_delayed":
        v[1:] -= np.where(spikes[:-1], node.subtract, 0)
    return loads(node, Interval(low=u, high=u), Interval(low=v, high=v), Interval(low=bias, high=bias))


def climb(choice: Choice, starts: Inputs, seed: int) -> dict[str, Array] | None:
    """One sample that pushes the population out of its domain, by keeping the best and changing them a little."""
    rng = np.random.default_rng(seed)
    kept, scores = dict(starts), _scores(choice, starts)
    for _ in range(_rounds(choice)):
        order = np.argsort(-scores, kind="stable")[:PARENTS]
        kept, scores = choice.take(kept, order), scores[order]
        if scores[0] > 1:
            break
        children = {n.name: _children(choice, n, kept[n.name], rng) for n in choice.inputs}
        kept = choice.join(kept, children)
        scores = np.concatenate([scores, _scores(choice, children)])
    best = int(scores.argmax())
    return choice.take(kept, [best]) if scores[best] > 1 else None


def _scores(choice: Choice, x: Inputs) -> Array:
    """How far each sample goes: above 1 it leaves the domain."""
    run = _run(choice, x)
    found = reached(choice.node, choice.graph, x, run)
    samples = next(iter(found.values())).shape[1] if found else 0
    best = np.zeros(samples)
    for what, load in found.items():
        steps = choice.node.steps or choice.graph.timesteps
        load = np.broadcast_to(load, (steps, *load.shape[-len(choice.node.shape) - 1 :]))
        best = np.maximum(best, load.swapaxes(0, 1).reshape(len(best), -1).max(axis=1) / room(choice.node, what))
    return best


def _run(choice: Choice, x: Inputs) -> Activity:
    wide = tuple(
        replace(n, state_bits=WIDE, saturates=True) if isinstance(n, fixed.FixedLIF) else n for n in choice.graph
    )
    return logical(replace(choice.graph, nodes=wide), x)


def _rounds(choice: Choice) -> int:
    """Fewer where a run costs much: the number does not depend on the machine."""
    each = 0
    for node in choice.graph:
        if isinstance(node, fixed.Synapse | fixed.HeldCurrent):
            each += math.prod(node.shape) * math.prod(node.weight.shape[1:])
        elif isinstance(node, fixed.Product):
            each += math.prod(node.shape) * max(math.prod(s.shape) for s in choice.graph.sources(node))
    return max(2, min(ROUNDS, OPERATIONS // max(1, each * choice.graph.timesteps * CHILDREN)))


def _children(choice: Choice, node: fixed.FixedInput, parents: Array, rng: np.random.Generator) -> Array:
    """Samples made of two parents, some of it at an end of the range or at random, some of it the same in all steps."""
    axis, box = _axis(node), choice.box[node.name]
    pool = np.moveaxis(parents, axis, 0)  # (samples, [T], *shape)
    made = []
    for _ in range(CHILDREN):
        one, other = pool[rng.integers(len(pool), size=2)]
        child = np.where(rng.random(one.shape) < rng.choice([0.0, 0.1, 0.5]), other, one)
        spot = rng.random(one.shape) < rng.choice([0.01, 0.05, 0.3])
        noise = rng.integers(box.low, box.high + 1, size=one.shape)
        new = [box.low, box.high, noise][int(rng.integers(3))]
        child = np.where(spot, np.broadcast_to(new, one.shape), child)
        if axis and rng.random() < 0.3:
            child = np.broadcast_to(child[rng.integers(len(child))], child.shape)
        made.append(child)
    return np.moveaxis(np.stack(made), 0, axis).astype(np.int64)


def _network(graph: Graph, node: fixed.FixedLIF) -> Choice:
    """The population with all that is before it."""
    behind = {node.name}
    for each in reversed(graph.nodes):
        if each.name in behind:
            behind |= set(each.inputs)
    sources = [n.name for n in graph.of(fixed.FixedInput)]
    if not behind.intersection(sources):  # neurons that nothing drives; the interpreter wants to know how many samples
        behind |= set(sources[:1])
    cut = replace(graph, nodes=tuple(n for n in graph if n.name in behind), outputs=(node.name,))
    return Choice(graph=cut, node=node, box={n.name: _declared(n) for n in cut.of(fixed.FixedInput)})


def _axis(node: Node) -> int:
    """The axis of samples in the values of an input."""
    return int(isinstance(node, fixed.FixedInput) and node.coding != "direct")


def _declared(node: fixed.FixedInput) -> Interval:
    return Interval.of(node.shape, node.low, node.high)


def _sent(graph: Graph, node: fixed.FixedInput, bounds: Bounds) -> Interval:
    """What an input of a layer alone may be: the spikes that its source can fire, or an input's declared range."""
    return bounds.sent[node.name] if isinstance(graph[node.name], fixed.FixedLIF) else _declared(node)


def _everywhere(choice: Choice, low: bool) -> dict[str, Array]:
    """One sample with all inputs at one end."""
    ends = {name: box.low if low else box.high for name, box in choice.box.items()}
    return {n.name: _in_time(choice, n, ends[n.name][None]) for n in choice.inputs}


def _in_time(choice: Choice, node: fixed.FixedInput, steps: Array) -> Array:
    """Values by step, (1 or T, *shape), as one sample of an input: a held one has the last."""
    if not _axis(node):
        return steps[-1:]
    return np.broadcast_to(steps, (choice.graph.timesteps, *node.shape))[: node.steps or None, None]


def _driven(choice: Choice, graph: Graph, bounds: Bounds) -> list[dict[str, Array]]:
    """Samples that drive the worst neurons as their weights ask for, from each step on."""
    states, shape = bounds.states[choice.node.name], choice.node.shape
    found = [_everywhere(choice, low) for low in (True, False)]
    sides = [(states.u.high, 1), (-states.u.low, -1), (-states.v.low, -1)]
    sides += [(np.where(high_counts(choice.node), states.v.high, 0), 1)]
    for reach, sign in sides:
        for neuron in np.argsort(-reach.reshape(-1), kind="stable")[: min(NEURONS, math.prod(shape))]:
            asked = wanted(graph, choice.node, int(neuron), sign)
            found += [_from_step(choice, asked, first) for first in range(graph.timesteps)]
    return found


def _from_step(choice: Choice, asked: Mapping[str, Array], first: int) -> dict[str, Array]:
    """What is asked for from step ``first`` on, and before it what is nearest to nothing."""
    x = {}
    steps = np.arange(choice.graph.timesteps).reshape(-1, *(1,))
    for node in choice.inputs:
        box, share = choice.box[node.name], np.broadcast_to(asked.get(node.name, 0.0), node.shape).reshape(-1)
        quiet = np.clip(0, box.low, box.high).reshape(-1)
        low, high = box.low.reshape(-1), box.high.reshape(-1)
        if _axis(node) and node.low == 0 and node.high == 1:
            now = np.floor(share * (steps + 1) + 1e-9) > np.floor(share * steps + 1e-9)
        else:
            now = np.broadcast_to(share > 0, (len(steps), len(share)))
        values = np.where(steps >= first, np.where(now, high, low), quiet)
        x[node.name] = _in_time(choice, node, values.reshape(-1, *node.shape)).astype(np.int64)
    return x
