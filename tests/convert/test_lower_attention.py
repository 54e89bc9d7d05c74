"""Products of spikes as coincidences of stock neurons: the same currents, spikes and states, any size and gain."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avsnn.convert import equivalence as eq
from avsnn.convert.format_check import check_formats
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.fixed_interpreter import connect, logical, wall_clock
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array, Node
from avsnn.convert.passes import lower_attention as module
from avsnn.convert.passes.integer_formats import Target
from avsnn.convert.passes.lower_attention import lower_attention, neurons_of
from avsnn.convert.passes.schedule import depth, schedule
from avsnn.deploy.backends.cpu import simulate
from avsnn.errors import CapabilityError, VerifyError
from avsnn.hw_profiles.profile import load_profile
from tests.strategies import SEEDS

TARGET = Target.of(load_profile("loihi2"))
T, BATCH = 3, 4
KINDS = ("attention", "map", "mapped")


def population(name: str, *inputs: str, shape: tuple[int, ...], **own: object) -> fixed.FixedLIF:
    options: dict[str, object] = {"threshold_mant": 5, "decay_v": 2048, "bias_mant": np.array([60])}
    return fixed.FixedLIF(name=name, inputs=inputs, shape=shape, **(options | own))  # type: ignore[arg-type]


def network(kind: str, heads: int, tokens: int, dim: int, gain: int, seed: int, over: str = "space") -> Graph:
    """Three populations at different depths, one product of them, who reads it, and who reads that."""
    rng = np.random.default_rng(seed)
    shape, scores = (heads * dim, tokens), (heads, tokens, tokens)
    nodes: list[Node] = [fixed.FixedInput(name="x", shape=(5,), coding="sequence", low=0, high=1, step=1.0)]

    def add(name: str, source: str, size: int, shape: tuple[int, ...]) -> None:
        weight = 2 * rng.integers(-4, 7, (int(np.prod(shape)), size))
        nodes.append(fixed.FixedLinear(name=f"{name}.in", inputs=(source,), shape=shape, weight_mant=weight))
        nodes.append(population(name, f"{name}.in", shape=shape))

    first = scores if kind == "mapped" else shape
    add("q", "x", 5, first)
    add("k", "q", int(np.prod(first)), shape)
    add("v", "x", 5, shape)
    match kind:
        case "attention":
            made: fixed.Product = fixed.FixedAttention(
                name="y", inputs=("q", "k", "v"), shape=shape, heads=heads, over=over, gain=gain
            )
        case "map":
            made = fixed.FixedAttentionMap(name="y", inputs=("q", "k"), shape=scores, heads=heads, gain=gain)
        case _:
            made = fixed.FixedMappedValues(name="y", inputs=("q", "v"), shape=shape, gain=gain)
    nodes += [made, population("a", "y", shape=made.shape, threshold_mant=max(1, gain))]
    size = int(np.prod(made.shape))
    wires = {"head.a": ("a", size), "head.k": ("k", int(np.prod(shape))), "head.v": ("v", int(np.prod(shape)))}
    for name, (source, width) in wires.items():
        weight = 2 * rng.integers(-9, 9, (2, width))
        nodes.append(fixed.FixedLinear(name=name, inputs=(source,), shape=(2,), weight_mant=weight))
    nodes.append(fixed.FixedReadout(name="head", inputs=tuple(wires), shape=(2,), bias=np.zeros(2, int), scale=1.0))
    return Graph(nodes=tuple(nodes), outputs=("head",), timesteps=T, stage="quantised")


def spikes(seed: int) -> dict[str, Array]:
    return {"x": (np.random.default_rng(seed).random((T, BATCH, 5)) < 0.7).astype(np.int64)}


@settings(max_examples=40)
@given(
    kind=st.sampled_from(KINDS), heads=st.integers(1, 3), tokens=st.integers(1, 4), dim=st.integers(1, 3),
    gain=st.sampled_from([1, 2, 8, 255, 256, 257, 4135, 12345, -3]), seed=SEEDS,
)  # fmt: skip
def test_lowered_is_quantised(kind: str, heads: int, tokens: int, dim: int, gain: int, seed: int) -> None:
    graph, x = network(kind, heads, tokens, dim, gain, seed), spikes(seed)
    low, (row,) = lower_attention(graph, target=TARGET)
    wanted = heads * tokens**2 * (dim**2 if kind == "attention" else dim)
    together = low["y.coincidences"]
    assert (row.runs_on, row.neurons, int(np.prod(together.shape))) == ("stock", wanted, wanted)
    assert not low.of(fixed.Product)
    check_formats(low, TARGET)
    expected, found = logical(graph, x), logical(low, x)
    eq.compare("lowered = quantised", "random", expected, found, exact=True)
    assert (found.states["a"]["u"] == expected.states["a"]["u"]).all()  # the very current, not only its spikes
    timed, _ = schedule(low, delay_steps_max=62)
    assert depth(timed) == depth(schedule(graph, delay_steps_max=62)[0]) + 1  # a coincidence is one more hop
    for run in (wall_clock(timed, x), simulate(timed, x, record="all")):
        eq.compare("scheduled = lowered", "random", found, run, exact=True)


@pytest.mark.parametrize("kind", KINDS)
def test_coincidences_that_are_wrong_are_noticed(kind: str) -> None:
    graph, x = network(kind, 2, 3, 2, 4, seed=1), spikes(2)
    low, _ = lower_attention(graph, target=TARGET)
    expected = logical(graph, x)
    assert all(0 < expected.spikes[name].mean() < 1 for name in expected.spikes)
    (hasty,) = eq.hasty_coincidences(low).values()
    together = low["y.coincidences"]
    assert isinstance(together, fixed.FixedLIF)
    slow = replace(together, threshold_mant=together.threshold_mant + 1)
    wire = low["y.meet0"]
    assert isinstance(wire, fixed.FixedLinear)
    turned = replace(wire, weight_mant=np.roll(wire.weight_mant, 1, axis=1))  # every coincidence asks the next spike
    spoiled = [low.with_nodes(new if n.name == new.name else n for n in low) for new in (slow, turned)]
    for graph in (hasty, *spoiled):
        with pytest.raises(VerifyError):
            eq.compare("lowered = quantised", "random", expected, logical(graph, x), exact=True)


def test_one_population_may_be_every_factor() -> None:
    graph, x = network("attention", 2, 2, 2, 2, seed=3), spikes(3)
    itself = replace(graph["y"], inputs=("k", "k", "k"))
    graph = graph.with_nodes(itself if n.name == "y" else n for n in graph)
    low, _ = lower_attention(graph, target=TARGET)
    check = eq.compare("lowered = quantised", "random", logical(graph, x), logical(low, x), exact=True)
    assert "a" not in check.silent


def test_what_is_too_large_is_an_error_or_stays() -> None:
    graph = network("attention", 2, 3, 2, 4, seed=1)
    count = 2 * 3**2 * 2**2
    assert lower_attention(graph, target=TARGET, limit=count)[1][0].runs_on == "stock"
    with pytest.raises(CapabilityError, match=r"^y: attention is too large for stock neurons, found 72 neurons.*71"):
        lower_attention(graph, target=TARGET, limit=count - 1)
    same, (row,) = lower_attention(graph, target=TARGET, limit=count - 1, keep=True)
    assert same is graph
    assert (row.runs_on, row.neurons, row.reason) == ("own", count, "would take 72 neurons, the limit is 71")


def test_matrices_are_bounded_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MATRIX_ENTRIES", 72 * 12 - 1)
    with pytest.raises(CapabilityError, match="found 864 entries of a 0/1 matrix"):
        lower_attention(network("attention", 2, 3, 2, 4, seed=1), target=TARGET)


def test_windows_and_numbers_stay_own_processes() -> None:
    graph = network("attention", 2, 3, 2, 4, seed=1, over="time")
    same, (row,) = lower_attention(graph, target=TARGET)
    assert same is graph
    assert (row.runs_on, row.neurons, row.reason) == ("own", None, "needs the whole window")
    assert neurons_of(graph, graph.of(fixed.Product)[0]) is None
    graph = network("map", 1, 2, 2, 1, seed=1)
    wire = fixed.FixedLinear(name="w", inputs=("y",), shape=(2,), weight_mant=np.ones((2, 4), int))
    numbers = graph.with_nodes([*graph, wire, replace(graph["head"], inputs=("head.a", "w"))])
    assert lower_attention(numbers, target=TARGET)[1][0].reason == "is read as a number"


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("gain", [1, 3, 16, 100, 255])
def test_gains_fit_few_bits(bits: int, gain: int) -> None:
    few = Target.of(load_profile("loihi2"), weight_bits=bits)
    low, _ = lower_attention(network("map", 1, 2, 2, gain, seed=0), target=few)
    sums = [n for n in low.of(fixed.FixedLinear) if n.inputs == ("y.coincidences",)]
    assert sum(n.weight.max() for n in sums) == gain
    assert all(n.weight_mant.max() < 1 << bits for n in sums)


@given(seed=SEEDS, rows=st.integers(1, 9), exponent=st.integers(0, 7))
def test_sums_without_zeros_are_sums(seed: int, rows: int, exponent: int) -> None:
    rng = np.random.default_rng(seed)
    weight = np.where(rng.random((rows, 200)) < 0.03, rng.integers(-256, 255, (rows, 200)), 0)
    node = fixed.FixedLinear(name="w", shape=(rows,), weight_mant=weight, weight_exp=exponent)
    x = rng.integers(-5, 6, (7, 200))
    expected = x @ (weight << exponent).T
    assert (connect(node, x) == expected).all()
    dense = replace(node, weight_mant=weight + 1)
    assert dense.entries is None
    if np.count_nonzero(weight) * fixed.SPARSE <= weight.size:
        assert node.entries is not None
