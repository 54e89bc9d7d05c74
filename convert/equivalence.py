"""Do two runs agree? Every spike, every state, every answer; and would the comparison have noticed if they did not?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.activity import Activity
from avsnn.convert.ir.cores import grid_of
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array, Node, Shape
from avsnn.errors import DomainError, VerifyError

SHORTER = (ir.LIF, ir.MeanTime, ir.Attention, ir.ProductOfMeans, fixed.FixedLIF)
RELATIVE = 1e-9  # float64 answers and states: rounding of sums in another order stays far below
ANSWER = "answer"  # stands for the answers among names of populations
WEIGHTED = ir.Conv2d | ir.Linear | fixed.Synapse | fixed.HeldCurrent | fixed.FixedUnitCurrent


@dataclass(frozen=True, kw_only=True)
class PopulationCheck:
    """What was compared of one population."""

    name: str
    spikes: int
    states: int
    fired: int
    ties: int

    @property
    def rate(self) -> float:
        """Spikes per neuron and step."""
        return self.fired / self.spikes if self.spikes else 0.0


@dataclass(frozen=True, kw_only=True)
class Check:
    """One comparison that held.

    Attributes:
        name: what was compared, "folded = traced".
        data: on which inputs.
        samples: how many.
        populations: per population, in order; mismatches are zero by construction, ties are counted.
        controls: deliberate mistakes that the same comparison did notice.
        planted: how many there were.
        idle: those that can change nothing on these inputs; the same comparison must notice all others.
    """

    name: str
    data: str
    samples: int
    populations: tuple[PopulationCheck, ...]
    controls: tuple[str, ...] = ()
    planted: int = 0
    idle: tuple[str, ...] = ()

    @property
    def silent(self) -> tuple[str, ...]:
        """Populations that never fired here: nothing was learnt about them."""
        return tuple(p.name for p in self.populations if p.fired == 0)

    @property
    def compared(self) -> int:
        """Spike and state values compared."""
        return sum(p.spikes + p.states for p in self.populations)


def compare(name: str, data: str, expected: Activity, found: Activity, *, exact: bool) -> Check:
    """Return what was compared.

    Args:
        name: for messages.
        data: which inputs.
        expected: the run whose truth is not in question; its populations must all be in ``found``.
        found: the run to judge; in float stages its ``ties`` excuse spikes (they are counted).
        exact: integers must be equal; otherwise answers and states may differ by float64 rounding.

    Raises:
        VerifyError: the first difference in the order of the graph, or nothing fired at all.
    """
    populations = []
    for population, spikes in expected.spikes.items():
        if population not in found.spikes:
            raise VerifyError(f"{name} on {data}: population missing", where=population)
        populations.append(_population(name, data, population, spikes, expected, found, exact))
    if not any(p.fired for p in populations):
        raise VerifyError(f"{name} on {data}: nothing fired, so nothing was compared", where="all populations")
    for where, a, b in paired_answers(expected.outputs, found.outputs):
        _equal(f"{name} on {data}: answer", where, a[None], b[None], 0.0 if exact else slack(a))
    samples = next(iter(expected.spikes.values())).shape[1]
    return Check(name=name, data=data, samples=samples, populations=tuple(populations))


def _population(
    name: str, data: str, population: str, spikes: Array, expected: Activity, found: Activity, exact: bool
) -> PopulationCheck:
    other = found.spikes[population]
    if spikes.shape != other.shape:
        raise VerifyError(
            f"{name} on {data}: shapes differ", where=population, expected=spikes.shape, found=other.shape
        )
    ties = found.ties.get(population, np.zeros((), dtype=bool))
    _equal(f"{name} on {data}: spike", population, spikes, np.where(ties, spikes, other), 0.0)
    states = 0
    for key, a in expected.states.get(population, {}).items():
        b = found.states.get(population, {}).get(key)
        if b is None:
            continue
        limit = 0.0 if exact else slack(a)
        _equal(f"{name} on {data}: state {key}", population, a, np.where(ties, a, b) if ties.any() else b, limit)
        states += a.size
    return PopulationCheck(
        name=population, spikes=spikes.size, states=states, fired=int(spikes.sum()), ties=int(np.sum(ties))
    )


def slack(wanted: Array) -> float:
    """By how much float answers and states may differ from these."""
    return RELATIVE * max(1.0, float(np.abs(wanted).max(initial=0.0)))


def paired_answers(expected: Mapping[str, Array], found: Mapping[str, Array]) -> Iterator[tuple[str, Array, Array]]:
    """(name, answer, answer) by name in any order; where folds have renamed them, one by one."""
    same_names = expected.keys() == found.keys()
    answers = [found[where] for where in expected] if same_names else found.values()
    for (where, a), b in zip(expected.items(), answers, strict=True):
        yield where, a, b


def differing(expected: Activity, found: Activity, *, exact: bool) -> set[str]:
    """The populations, and `ANSWER`, of which `compare` says that they differ."""
    different = set()
    for name, spikes in expected.spikes.items():
        alone = replace(expected, outputs={}, spikes={name: spikes})
        try:
            _population("", "", name, spikes, alone, found, exact)
        except VerifyError:
            different.add(name)
    for where, a, b in paired_answers(expected.outputs, found.outputs):
        try:
            _equal("", where, a[None], b[None], 0.0 if exact else slack(a))
        except VerifyError:
            different.add(ANSWER)
    return different


def in_units_of(expected: Activity, before: Graph, after: Graph) -> Activity:
    """``expected`` of graph ``before`` with states as ``after`` counts them, whose thresholds a fold may have scaled.

    ``LIF(s a; th)`` and ``LIF(a; th / s)`` send the same spikes, and their membranes differ by s.
    """
    states = dict(expected.states)
    for node in before.of(ir.LIF):
        new = after.by_name.get(node.name)
        if isinstance(new, ir.LIF) and new.threshold is not node.threshold and node.name in states:
            old, now = (np.asarray(n.threshold, dtype=np.float64) for n in (node, new))
            unit = np.divide(now, old, out=np.ones(np.broadcast(now, old).shape), where=(old != now) & (old != 0))
            states[node.name] = {key: v * unit for key, v in states[node.name].items()}
    return replace(expected, states=states)


def _equal(what: str, where: str, expected: Array, found: Array, limit: float) -> None:
    """Raise on the earliest difference: smallest step, then sample, then neuron."""
    if expected.shape != found.shape:
        raise VerifyError(f"{what}: shapes differ", where=where, expected=expected.shape[1:], found=found.shape[1:])
    wrong = expected != found if limit == 0.0 else ~(np.abs(expected - found) <= limit)  # the latter catches NaN
    if not wrong.any():
        return
    step, sample, *neuron = (int(i) for i in np.argwhere(wrong)[0])
    place = (step, sample, *neuron)
    raise VerifyError(
        f"{what} differs in {int(wrong.sum())} of {wrong.size} values",
        where=where,
        sample=sample,
        step=step,
        neuron=tuple(neuron),
        expected=expected[place],
        found=found[place],
    )


def with_controls(
    check: Check,
    expected: Activity,
    run: Callable[[Graph], Activity],
    spoiled: Mapping[str, Graph],
    idle: Callable[[Graph], bool],
) -> Check:
    """``check``, an exact one, with the names of deliberate mistakes that the same comparison catches.

    Args:
        check: what held.
        expected: the run whose truth is not in question.
        run: what was judged, given another graph.
        spoiled: mistake to graph.
        idle: whether a spoiled graph can be shown to do the same on these inputs, asked where it goes unnoticed.

    Raises:
        VerifyError: a mistake that is not idle went unnoticed, or all are idle: the comparison proves nothing.
    """
    noticed, nothing = [], []
    for mistake, graph in spoiled.items():
        try:
            compare(check.name, check.data, expected, run(graph), exact=True)
        except (VerifyError, DomainError):  # a mistake may also drive a state out of its range
            noticed.append(mistake)
            continue
        if not idle(graph):
            raise VerifyError(f"{check.name} on {check.data} did not notice a planted mistake", where=mistake)
        nothing.append(mistake)
    if not noticed:
        raise VerifyError(
            f"{check.name} on {check.data}: no planted mistake changes anything", where=", ".join(nothing)
        )
    return replace(check, controls=tuple(noticed), planted=len(spoiled), idle=tuple(nothing))


def spoils(node: Node) -> bool:
    """Whether a node has weights to turn the sign of."""
    return isinstance(node, WEIGHTED) and bool(np.any(getattr(node, _weights(node))))


def _weights(node: Node) -> str:
    return "weight_mant" if isinstance(node, fixed.Synapse) else "weight"


def negated(graph: Graph, layers: Iterable[str]) -> Graph:
    """A planted mistake: the strongest row of some weighted layers with its sign turned."""
    spoiled = graph
    for name in layers:
        node = graph[name]
        weight = getattr(node, _weights(node)).copy()
        row = int(np.abs(weight).reshape(len(weight), -1).sum(axis=1).argmax())
        weight[row] = -weight[row]
        change: dict[str, Any] = {_weights(node): weight}
        spoiled = _swap(spoiled, replace(node, **change))
    return spoiled


def negated_row(graph: Graph) -> dict[str, Graph]:
    """The same in every weighted layer at once (one alone may be dead)."""
    layers = [node.name for node in graph if spoils(node)]
    if not layers:
        raise VerifyError("no weighted layer", where="graph")
    return {"every layer: weights of the strongest output negated": negated(graph, layers)}


def shifted_time(graph: Graph) -> dict[str, Graph]:
    """Planted mistakes of scheduled graphs: all resets one step late, and all balancing delays short by one."""
    late = short = graph
    for node in graph:
        if isinstance(node, fixed.FixedLIF) and node.role == "neuron" and node.reset_interval > 1:
            phase = (node.reset_phase + 1) % node.reset_interval
            late = _swap(late, replace(node, reset_phase=phase))
        elif isinstance(node, fixed.Synapse) and node.delay:
            short = _swap(short, replace(node, delay=node.delay - 1))
        elif isinstance(node, fixed.Product) and any(node.delays):
            short = _swap(short, replace(node, delays=tuple(max(0, delay - 1) for delay in node.delays)))
    mistakes = {"every population: reset one step late": late, "every balancing delay: short by one": short}
    return {name: spoiled for name, spoiled in mistakes.items() if spoiled is not graph} | longer_windows(graph)


def longer_windows(graph: Graph) -> dict[str, Graph]:
    """A planted mistake: what has a window of fewer than T steps works, and counts, one step too long."""
    longer = graph
    for node in graph:
        if isinstance(node, SHORTER) and node.steps:
            longer = _swap(longer, replace(node, steps=(node.steps + 1) % graph.timesteps))
    return {} if longer is graph else {"every shorter window: one step too long": longer}


def hasty_coincidences(graph: Graph) -> dict[str, Graph]:
    """A planted mistake: neurons that wait for all of their spikes fire when one of them is missing."""
    hasty = graph
    for node in graph.of(fixed.FixedLIF):
        if node.role == "coincidence":
            hasty = _swap(hasty, replace(node, threshold_mant=node.threshold_mant - 1))
    return {} if hasty is graph else {"every coincidence: one spike may be missing": hasty}


def liveliest(run: Activity, count: int) -> Array:
    """Which samples make most spikes, at most ``count`` of them, in order."""
    spikes = sum(s.sum(axis=0).reshape(s.shape[1], -1).sum(axis=1) for s in run.spikes.values())
    return np.sort(np.argsort(-np.asarray(spikes), kind="stable")[:count])


def misplaced(graph: Graph) -> dict[str, Graph]:
    """Planted mistakes of mapped graphs: cores lack axons of each connection or product; every slice is shifted by one.

    A product lacks half of what it reads, as a single spike of many seldom changes it.
    """
    lost = starved = moved = graph
    for node in graph:
        if isinstance(node, fixed.Axons) and isinstance(graph[node.inputs[0]], fixed.Product):
            size = math.prod(node.shape) // 2
            starved = _swap(starved, _fewer(node, size))
        elif isinstance(node, fixed.Axons):
            lost = _swap(lost, _fewer(node, -1))
        elif isinstance(node, fixed.Slice):
            moved = _swap(moved, _moved(node, grid_of(graph, node)))
    mistakes = {
        "every core: axons left out": lost,
        "every product: axons left out": starved,
        "every slice: shifted by one": moved,
    }
    return {name: spoiled for name, spoiled in mistakes.items() if spoiled is not graph}


def _fewer(node: fixed.Axons, keep: int) -> fixed.Axons:
    """The first ``keep`` of its axons along the first axis, or all but the last."""
    if node.only is not None:
        return replace(node, only=node.only[:keep])
    last = node.first[0] + keep if keep >= 0 else node.last[0] + keep
    return replace(node, last=(last, *node.last[1:]))


def _moved(node: fixed.Slice, shape: Shape) -> fixed.Slice:
    """The slice one further along the longest axis; where it is all of that, a part of it."""
    axis = shape.index(max(shape))
    up, down = node.last[axis] < shape[axis], node.first[axis] > 0
    here = np.arange(len(shape)) == axis
    first = tuple(int(i) for i in node.first + here * (1 if up or not down else -1))
    last = tuple(int(i) for i in node.last + here * (1 if up else -1 if down else 0))
    if first[axis] == last[axis]:  # a population of one neuron has no other place
        return node
    return replace(node, first=first, last=last, shape=tuple(b - a for a, b in zip(first, last, strict=True)))


def _swap(graph: Graph, node: Node) -> Graph:
    if graph[node.name] is node:
        return graph
    return replace(graph, nodes=tuple(node if old.name == node.name else old for old in graph.nodes))
