"""No input overflows what is called proved, every planted overflow is found, and bounds are met where they say so."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avsnn.convert import overflow_search, state_bounds
from avsnn.convert.certificate import Row, certify, with_seen
from avsnn.convert.intervals import Interval, of_product
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.fixed_interpreter import logical, product, to_integers
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array, Node
from avsnn.convert.isolate import isolate
from avsnn.convert.overflow_search import Choice, climb, overflow, reached
from avsnn.convert.passes.integer_formats import Target
from avsnn.convert.passes.quantise import quantise
from avsnn.convert.pipeline import FOLDS
from avsnn.convert.state_bounds import bounds, room
from avsnn.errors import CertificateError, DomainError, InputError, QuantizeError
from avsnn.hw_profiles import fixed_point as fx
from avsnn.hw_profiles.profile import load_profile
from tests.random_graphs import draw
from tests.strategies import SEEDS

TARGET = Target.of(load_profile("loihi2"))
RESETS = fx.RESETS


def small(seed: int, T: int, **own: Any) -> Graph:
    """Three binary inputs, two of them on two neurons twice, with any constants that the arithmetic knows."""
    rng = np.random.default_rng(seed)
    options: dict[str, Any] = {
        "threshold_mant": rng.integers(1, 200, size=2) if rng.random() < 0.5 else int(rng.integers(1, 200)),
        "decay_u": int(rng.choice([4095, 4095, 2047, 100, -1])),
        "decay_v": int(rng.choice([0, 2048, 4096, 205, 1500])),
        "bias_mant": rng.integers(-3000, 3000, size=2),
        "reset": str(rng.choice(RESETS)),
        "subtract": int(rng.integers(0, 9000)),
    }
    nodes: tuple[Node, ...] = (
        fixed.FixedInput(name="x", shape=(3,), coding="sequence", low=0, high=1, step=1.0),
        fixed.FixedLinear(name="w", inputs=("x",), shape=(2,), weight_mant=rng.integers(-100, 150, size=(2, 3))),
        fixed.FixedLIF(name="p", inputs=("w",), shape=(2,), **(options | own)),
    )
    return Graph(nodes=nodes, outputs=("p",), timesteps=T, stage="quantised")


def all_binary(T: int, wide: int) -> Array:
    """Every binary input, (T, 2^(T wide), wide)."""
    found = np.array(list(itertools.product((0, 1), repeat=T * wide)), dtype=np.int64)
    return found.reshape(-1, T, wide).swapaxes(0, 1)


def population(graph: Graph, name: str = "p") -> fixed.FixedLIF:
    node = graph[name]
    assert isinstance(node, fixed.FixedLIF)
    return node


def ends(graph: Graph, x: Array) -> dict[str, tuple[Array, Array]]:
    """The true (smallest, largest) u and v before reset, by neuron, over all given inputs and steps."""
    node, run = population(graph), logical(graph, {"x": x})
    u, after, s = run.states["p"]["u"], run.states["p"]["v"], run.spikes["p"]
    v = after * 0
    for t in range(len(u)):
        for i, j in np.ndindex(u.shape[1:]):
            before = int(after[t - 1, i, j]) if t else 0
            kept = abs(before) * (4096 - node.decay_v) >> 12
            v[t, i, j] = (kept if before > 0 else -kept) + u[t, i, j] + node.bias_mant[j]
            if t and node.reset == "subtract_delayed":
                v[t, i, j] -= int(s[t - 1, i, j]) * int(node.subtract)
    return {name: (part.min(axis=(0, 1)), part.max(axis=(0, 1))) for name, part in (("u", u), ("v", v))}


@settings(deadline=None, max_examples=60)
@given(SEEDS, st.integers(1, 3))
def test_bounds_hold_for_all_inputs_and_are_met_where_they_say_so(seed: int, T: int) -> None:
    graph = small(seed, T)
    true, states = ends(graph, all_binary(T, 3)), bounds(graph).states["p"]
    low, high = true["u"]
    assert np.array_equal(np.minimum(low, 0), states.u.low)
    assert np.array_equal(np.maximum(high, 0), states.u.high)
    low, high = true["v"]
    assert (states.v.low <= low).all()
    assert (states.v.high >= high).all()
    assert np.array_equal(states.v.low[states.met[0]], low[states.met[0]])
    assert np.array_equal(states.v.high[states.met[1]], high[states.met[1]])
    fired = logical(graph, {"x": all_binary(T, 3)}).spikes["p"].any(axis=(0, 1))
    assert (states.spikes.high >= fired).all()


def test_bounds_of_v_are_met_often() -> None:
    """Else the test above would say little."""
    met = [bounds(small(seed, 3)).states["p"].met for seed in range(40)]
    assert np.mean([low for low, _ in met]) > 0.5
    assert np.mean([high for _, high in met]) > 0.1


@cache
def converted(seed: int, T: int, bits: int = 8) -> tuple[Graph, Mapping[str, Array]] | None:
    """A random network in integers, and inputs on which it fires; None where no format holds it."""
    drawn = draw(seed, T, 1 + seed % 4)
    graph = drawn.graph
    for _, fold in FOLDS:
        graph = fold(graph)
    try:
        formats = replace(TARGET, weight_bits=bits)
        quantised, _ = quantise(replace(graph, stage="folded"), target=formats, calibration=drawn.inputs)
    except QuantizeError:
        return None
    return quantised, to_integers(quantised, drawn.inputs)


def networks() -> Iterator[tuple[Graph, Mapping[str, Array]]]:
    for seed in range(18):
        made = converted(seed, 1 + seed % 6)
        if made is not None:
            yield made


def exceeding(graph: Graph, data: Mapping[str, Array]) -> set[str]:
    """Populations that go beyond their bounds, driven by data, by ends of ranges, or each alone as its weights ask."""
    found, wrong = bounds(graph), set()
    for node in graph.of(fixed.FixedLIF):
        most, network = found.states[node.name].loads(node), overflow_search._network(graph, node)
        layer = isolate(graph, node.name, alone=True)
        box = {n.name: overflow_search._sent(graph, n, found) for n in layer.of(fixed.FixedInput)}
        alone = Choice(graph=layer, node=node, box=box)
        starts = [overflow_search._everywhere(network, low) for low in (True, False)]
        known = network.join(*starts, {n.name: data[n.name] for n in network.inputs})
        runs = [(network, known)]
        if alone.inputs:
            runs.append((alone, alone.join(*overflow_search._driven(alone, graph, found))))
        for choice, x in runs:
            run = overflow_search._run(choice, x)
            for what, load in reached(node, choice.graph, x, run).items():
                top = load.reshape(-1, *node.shape).max(axis=0)
                wrong |= {node.name} if (top > most[what]).any() else set()
    return wrong


def test_no_input_exceeds_the_bounds_of_random_networks() -> None:
    rows: list[Row] = []
    for graph, data in networks():
        rows += certify(graph, data)
        assert not exceeding(graph, data)
    assert len(rows) > 100
    assert all(row.verdict == "proved" for row in rows)
    assert {row.kind for row in rows} == {"population", "product", "readout"}


@pytest.mark.parametrize("bits", [4, 2])
def test_scales_leave_the_room_for_the_proof_however_coarse_the_weights_are(bits: int) -> None:
    made = [converted(seed, 1 + seed % 6, bits) for seed in range(30, 40)]
    rows = [row for one in made if one is not None for row in certify(*one)]
    assert len(rows) > 40
    assert all(row.verdict == "proved" for row in rows)


@settings(deadline=None, max_examples=12)
@given(SEEDS, st.integers(0, 5))
def test_no_search_overflows_what_is_proved(seed: int, which: int) -> None:
    graph, data = list(networks())[which]
    nodes = graph.of(fixed.FixedLIF)
    node = nodes[seed % len(nodes)]
    network = overflow_search._network(graph, node)
    assert climb(network, {n.name: data[n.name] for n in network.inputs}, seed) is None


FORGOTTEN: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "the bias": ("bias_of", lambda rule: lambda node: rule(node) * 0),
    "a step": ("_over_window", lambda rule: lambda n, a, b, steps: rule(n, a, b, max(1, steps - 1))),
    "what u keeps, and v": ("_decayed", lambda rule: lambda x, keep: rule(x, keep // 2)),
    "a term": (
        "states_of",
        lambda rule: lambda g, n, sent: rule(g, replace(n, inputs=n.inputs[:1]), sent),
    ),
    "the reset": ("_after", lambda rule: lambda node, v, level: (Interval(low=v.low * 0, high=v.high * 0), None)),
}


@pytest.mark.parametrize("what", FORGOTTEN)
def test_a_bound_that_forgets_something_is_noticed(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    name, how = FORGOTTEN[what]
    monkeypatch.setattr(state_bounds, name, how(getattr(state_bounds, name)))
    assert any(exceeding(graph, data) for graph, data in networks() if graph.timesteps > 1)


def heavier(graph: Graph, node: fixed.FixedLIF, k: int) -> Graph:
    """All that reaches a population times ``2^k``."""

    def scaled(each: Node) -> Node:
        match each:
            case fixed.Synapse() if each.name in node.inputs:
                return replace(each, weight_exp=each.weight_exp + k)
            case fixed.HeldCurrent() if each.name in node.inputs:
                return replace(each, weight=each.weight << k, bias=each.bias << k)
            case fixed.Product() if each.name in node.inputs:
                return replace(each, gain=each.gain << k)
        return each

    return replace(graph, nodes=tuple(scaled(each) for each in graph))


def changed(graph: Graph, node: fixed.FixedLIF, **fields: Any) -> Graph:
    return replace(graph, nodes=tuple(replace(node, **fields) if n is node else n for n in graph))


def planted(kind: str, graph: Graph, node: fixed.FixedLIF) -> list[Graph]:
    """The mildest overflows of one population that its bounds do not exclude; none where it has none of this kind."""
    found = []
    for k in range(1, 20):
        match kind:
            case "weights":
                wrong = heavier(graph, node, k)
            case "threshold":  # never resets, so that v adds up what it was given
                wrong = changed(heavier(graph, node, k), node, threshold_mant=1 << 20, decay_v=0, reset="hard")
            case _:
                wrong = changed(graph, node, bias_mant=np.full(1, (-1) ** k << k), bias_exp=6, decay_v=0)
        if not within(wrong, node.name):
            found.append(wrong)
    return found[:3]


def rejected(wrong: Graph, data: Mapping[str, Array], name: str) -> CertificateError | None:
    """What stops it; None where a bound is too wide to say, and no input is found."""
    try:
        rows = {row.name: row.verdict for row in certify(wrong, data)}
    except CertificateError as error:
        return error
    assert rows[name] == "observed"
    return None


def within(graph: Graph, name: str) -> bool:
    node = population(graph, name)
    return all(int(load.max()) <= room(node, what) for what, load in bounds(graph).states[name].loads(node).items())


@pytest.mark.parametrize("kind", ["weights", "threshold", "bias"])
def test_a_planted_overflow_is_always_rejected_with_an_input_that_breaks_it(kind: str) -> None:
    tried, by_network, unsaid = 0, 0, 0
    for i, (graph, data) in enumerate(networks()):
        nodes = [n for n in graph.of(fixed.FixedLIF) if n.role == "neuron"]
        node = nodes[i % len(nodes)]
        wrongs = planted(kind, graph, node)
        if not wrongs:
            continue
        tried += 1
        stops = [(wrong, rejected(wrong, data, node.name)) for wrong in wrongs]
        unsaid += stops[0][1] is None
        wrong, error = next((wrong, error) for wrong, error in stops if error is not None)
        example = error.example
        assert isinstance(example, overflow_search.CounterExample)
        assert (error.where, error.exit_code) == (node.name, 1)
        assert error.step is not None and error.neuron is not None  # noqa: PT018
        alone = overflow(example.layer, example.spikes)
        assert alone is not None
        assert (alone.where, alone.step, alone.neuron) == (error.where, error.step, error.neuron)
        if example.inputs is not None:
            by_network += 1
            whole = overflow(wrong, example.inputs)
            assert whole is not None
            assert (whole.where, whole.found) == (error.where, error.found)
    assert tried >= 10
    assert unsaid <= 1, "the mildest are found as well"
    assert by_network >= tried // 2


def test_what_data_reaches_stands_beside_the_bounds() -> None:
    graph, data = next(networks())
    rows = with_seen(certify(graph, data), graph, data, logical(graph, data))
    for row in rows:
        for what, margin in row.margins.items():
            if row.kind == "population" and what != "sum":
                assert margin.seen is not None
                assert margin.seen <= margin.bound
                assert margin.seen_bits is not None
                assert margin.seen_bits >= margin.bits >= 0
    assert any(margin.seen for row in rows for margin in row.margins.values())


def test_padding_and_silent_sources_narrow_a_bound() -> None:
    one = fixed.FixedInput(name="x", shape=(1, 3, 3), coding="sequence", low=0, high=1, step=1.0)
    kernel = np.ones((1, 1, 3, 3), dtype=np.int64)
    conv = fixed.FixedConv2d(name="c", inputs=("x",), shape=(1, 3, 3), weight_mant=kernel, padding=(1, 1))
    cell = fixed.FixedLIF(
        name="p", inputs=("c",), shape=(1, 3, 3), threshold_mant=5, decay_v=4096, bias_mant=np.zeros(1, np.int64)
    )
    after = fixed.FixedConv2d(name="d", inputs=("p",), shape=(1, 3, 3), weight_mant=kernel, padding=(1, 1))
    graph = Graph(nodes=(one, conv, cell, after), outputs=("d",), timesteps=2, stage="quantised")
    found = bounds(graph)
    assert found.sent["c"].high[0].tolist() == [[4, 6, 4], [6, 9, 6], [4, 6, 4]]
    assert found.sent["p"].high[0].tolist() == [[0, 1, 0], [1, 1, 1], [0, 1, 0]]
    assert found.sent["d"].high[0].tolist() == [[3, 4, 3], [4, 5, 4], [3, 4, 3]]


@given(SEEDS, st.booleans(), st.integers(-2, 3))
def test_currents_of_counts_scaled_to_length_1_stay_inside_their_bounds(seed: int, pooled: bool, gain: int) -> None:
    rng = np.random.default_rng(seed)
    shape, T = (3, 2, 2), 3
    node = fixed.FixedUnitCurrent(
        name="y", inputs=("p",), shape=(4,), weight=rng.integers(-999, 999, (4, 3 if pooled else 12)),
        bias=rng.integers(-999, 999, 4) << 15, shift=int(rng.integers(0, 16)), pooled=(pooled,), gain=gain,
    )  # fmt: skip
    alive = rng.random(shape) < 0.7
    spikes = (rng.random((T, 40, *shape)) < rng.random((1, 40, 1, 1, 1))) & alive
    found = of_product(node, [Interval(low=alive * 0, high=alive * 1)], [T])
    made = product(node, spikes)
    assert (made >= found.low).all()
    assert (made <= found.high).all()


def test_a_node_without_a_bound_is_an_error() -> None:
    class Unheard(fixed.Product):
        pass

    graph = small(0, 2)
    node = Unheard(name="y", inputs=("p",), shape=(2,))
    with pytest.raises((DomainError, InputError), match=r"^y: "):
        bounds(replace(graph, nodes=(*graph.nodes, node)))
