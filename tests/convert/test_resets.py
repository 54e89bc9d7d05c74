"""Resets by subtraction and thresholds that differ within a population: against a loop over whole numbers, against the
float neuron where currents are exact, and every wrong constant named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avsnn.convert.integer_check import check_neurons, check_parameters
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.fixed_interpreter import logical, to_integers, wall_clock
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.interpreter import interpret
from avsnn.convert.ir.node import Array, Node
from avsnn.convert.passes.integer_formats import Target, tie
from avsnn.convert.passes.quantise import Scale, quantise
from avsnn.convert.passes.schedule import schedule
from avsnn.deploy.backends.cpu import simulate
from avsnn.errors import CapabilityError, DomainError, InputError, QuantizeError, VerifyError
from avsnn.hw_profiles import fixed_point as fx
from avsnn.hw_profiles.profile import load_profile
from avsnn.train.neurons import LIF
from tests.strategies import inputs_for, spiking_graph

RESETS = ("hard", "subtract", "subtract_delayed")
SUBTRACTING = RESETS[1:]
LOIHI2, CPU = (Target.of(load_profile(name)) for name in ("loihi2", "cpu"))
TOP = (1 << 23) - 1


def swap(graph: Graph, node: Node) -> Graph:
    return replace(graph, nodes=tuple(node if old.name == node.name else old for old in graph.nodes))


def resetting(graph: Graph, reset: str, thresholds: bool = False) -> Graph:
    """The same graph with another reset, and with thresholds that differ from place to place."""
    rng = np.random.default_rng(5)

    def change(node: Node) -> Node:
        if not isinstance(node, ir.LIF):
            return node
        levels = rng.uniform(0.6, 1.4, size=(1, *node.shape[1:])) if thresholds else node.threshold
        return replace(node, reset=reset, threshold=levels)

    return replace(graph, nodes=tuple(change(node) for node in graph))


def quantised(graph: Graph, target: Target = LOIHI2) -> tuple[Graph, tuple[Scale, ...]]:
    return quantise(graph, target=target, calibration=inputs_for(graph, 7, batch=6))


def toward_zero(x: int, keep: int) -> int:
    return (x * keep) // 4096 if x >= 0 else -((-x * keep) // 4096)


def plain(
    currents: list[int], bias: int, decays: tuple[int, int], h: int, subtract: int, reset: str
) -> list[tuple[int, int, int]]:
    """One neuron over one window in unbounded integers: (u, v, spike) by step, written from the equations alone."""
    u = v = owed = 0
    found = []
    for a in currents:
        u = toward_zero(u, 4095 - decays[0]) + 64 * a
        v = max(-TOP, min(TOP, toward_zero(v, 4096 - decays[1]) + u + bias - owed))
        spike = int(v > 64 * h)
        owed = 0
        if spike and reset == "hard":
            v = 0
        elif spike and reset == "subtract":
            v -= subtract
        elif spike:
            owed = subtract
        found.append((u, v, spike))
    return found


@st.composite
def populations(draw: st.DrawFn) -> tuple[Graph, Array]:
    """A population of three neurons that reads whole numbers, and three samples of them."""
    window, size = draw(st.integers(1, 6)), 3
    several, reset = draw(st.booleans()), draw(st.sampled_from(RESETS))

    def constant(low: int, high: int) -> int | Array:
        each = [draw(st.integers(low, high)) for _ in range(size if several else 1)]
        return np.array(each) if several else each[0]

    wire = fixed.FixedLinear(name="w", inputs=("x",), shape=(size,), weight_mant=np.eye(size, dtype=np.int64) * 2)
    cell = fixed.FixedLIF(
        name="p",
        inputs=("w",),
        shape=(size,),
        threshold_mant=constant(*draw(st.sampled_from([(0, 40), (0, 131071)]))),
        decay_u=draw(st.sampled_from([4095, 4095, 2047, 100])),
        decay_v=draw(st.sampled_from([0, 205, 2048, 4096])),
        bias_mant=np.array([draw(st.integers(-4095, 4095)) for _ in range(size)]),
        bias_exp=draw(st.sampled_from([0, 6])),
        reset=reset,
        subtract=constant(*draw(st.sampled_from([(0, 4000), (0, TOP)]))),
    )
    top = draw(st.sampled_from([30, 1000]))
    x = np.array(draw(st.lists(st.integers(-top, top), min_size=window * 9, max_size=window * 9)))
    source = fixed.FixedInput(name="x", shape=(size,), coding="sequence", low=-top, high=top, step=1.0)
    graph = Graph(nodes=(source, wire, cell), outputs=("p",), timesteps=window, stage="quantised")
    return graph, x.reshape(window, 3, size)


@settings(max_examples=80)
@given(populations())
def test_every_interpreter_equals_whole_numbers(case: tuple[Graph, Array]) -> None:
    graph, x = case
    cell = graph["p"]
    assert isinstance(cell, fixed.FixedLIF)
    h, subtract = (np.broadcast_to(value, cell.shape) for value in (cell.threshold_mant, cell.subtract))
    expected = np.empty((3, *x.shape), dtype=np.int64)
    for k, n in np.ndindex(*x.shape[1:]):
        bias = int(cell.bias_mant[n]) << cell.bias_exp
        currents, decays = [2 * int(a) for a in x[:, k, n]], (cell.decay_u, cell.decay_v)
        expected[:, :, k, n] = np.array(plain(currents, bias, decays, int(h[n]), int(subtract[n]), cell.reset)).T
    timed, _ = schedule(graph, delay_steps_max=62)
    for found in (logical(graph, {"x": x}), wall_clock(timed, {"x": x}), simulate(timed, {"x": x}, record="all")):
        assert np.array_equal(found.states["p"]["u"], expected[0])
        assert np.array_equal(found.states["p"]["v"], expected[1])
        assert np.array_equal(found.spikes["p"], expected[2])


def test_a_window_begins_with_nothing_left_to_subtract() -> None:
    """Every neuron fires in the last step; samples follow each other in one stream."""
    wire = fixed.FixedLinear(name="w", inputs=("x",), shape=(1,), weight_mant=np.array([[2]]))
    cell = fixed.FixedLIF(
        name="p", inputs=("w",), shape=(1,), threshold_mant=9, decay_v=4096, bias_mant=np.zeros(1, dtype=np.int64),
        reset="subtract_delayed", subtract=700,
    )  # fmt: skip
    source = fixed.FixedInput(name="x", shape=(1,), coding="sequence", low=0, high=9, step=1.0)
    graph = Graph(nodes=(source, wire, cell), outputs=("p",), timesteps=2, stage="quantised")
    x = np.full((2, 4, 1), 5)
    timed, _ = schedule(graph, delay_steps_max=62)
    for found in (
        logical(graph, {"x": x}),
        wall_clock(timed, {"x": x}),
        simulate(timed, {"x": x}, record="all", streams=1),
    ):
        assert found.states["p"]["v"][:, :, 0].tolist() == [[640] * 4, [-60] * 4]
    unwindowed = swap(timed, replace(timed["p"], reset_interval=0))  # type: ignore[call-arg]
    states = simulate(unwindowed, {"x": x}, record="all").states  # an owed subtraction is a memory: samples run apart
    assert states["p"]["v"][:, :, 0].tolist() == [[640] * 4, [-60] * 4]


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(("decay", "top"), [(0.5, 12), (1.0, 7), (0.0, 12)])
def test_the_trained_neuron_equals_the_integer_one_where_currents_are_exact(
    reset: Any, strict: bool, decay: float, top: int
) -> None:
    """A unit of the neuron is 64 of the chip's: halving whole currents is exact, and ties are everywhere."""
    T, unit = 6, 64
    h = 5 * unit if strict else 5 * unit - 1  # v is a multiple of 2 units: v >= 5 unit is v > 5 unit - 1
    x = np.random.default_rng(1).integers(-3, top, size=(T, 64, 40))
    real = LIF(beta=decay, v_threshold=5.0, reset=reset, strict=strict)(torch.from_numpy(x.astype(np.float64))).numpy()
    u = v = np.zeros(x.shape[1:], dtype=np.int64)
    keep, fired, spikes = round(4096 * (1 - decay)), None, []
    for a in unit * x:
        u, v, fired = fx.lif_step(u, v, a, 0 * u, 4095, keep, h, reset=reset, subtract=5 * unit << 6, fired=fired)
        spikes.append(fired)
    assert 0.1 < real.mean() < 0.9
    np.testing.assert_array_equal(np.stack(spikes), real.astype(bool))


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_a_step_keeps_its_dtype_and_what_it_is_given(dtype: type[np.generic]) -> None:
    u, v, a = (np.array(row, dtype) for row in ([0, 0, 0], [100, 700, -TOP], [9, 9, -9]))
    fired, amounts = np.array([True, False, True]), np.array([1, 2, 3])
    for reset in RESETS:
        found = fx.lif_step(u, v, a, 0 * u, 4095, 0, np.array([9, 9, 9]), reset=reset, subtract=amounts, fired=fired)
        assert found[0].dtype == found[1].dtype == dtype
        assert v.tolist() == [100, 700, -TOP]
        delayed = reset == "subtract_delayed"
        assert found[1].tolist() == {"hard": [0, 0, -TOP], "subtract": [675, 1274, -TOP]}.get(reset, [675, 1276, -TOP])
        assert found[2].tolist() == [True, True, False], delayed
    with pytest.raises(DomainError, match="unknown reset, found soft"):
        fx.lif_step(u, v, a, 0 * u, 4095, 0, 9, reset="soft")


@pytest.mark.parametrize("target", [LOIHI2, CPU])
@pytest.mark.parametrize("reset", SUBTRACTING)
@pytest.mark.parametrize("T", [1, 4, 7])
def test_ties_are_exact_where_a_reset_subtracts(T: int, reset: str, target: Target) -> None:
    for decay, strict in ((0.5, False), (0.5, True), (0.0, False)):
        graph = resetting(spiking_graph(3, T=T, depth=2, strict=strict, decay=decay), reset)
        integers, scales = quantised(graph, target)
        assert check_parameters(graph, integers, scales) > 0
        checks = check_neurons(graph, integers, scales)
        assert all(check.ties and not check.mismatches for check in checks)
        for scale, node in zip(scales, integers.of(fixed.FixedLIF), strict=False):
            assert scale.tie == (0.0 if strict else tie(T, reset))
            assert (node.reset, node.subtract) == (reset, node.threshold_mant << 6)


@pytest.mark.parametrize("reset", SUBTRACTING)
def test_the_tie_rule_of_a_hard_reset_would_not_do(reset: str) -> None:
    """With g of a hard reset, a membrane that has lost ``h + g`` before comes to lie between h and ``h + g``."""
    graph = resetting(spiking_graph(3, T=4, depth=2), reset)
    integers, scales = quantised(graph)
    factor = {"subtract": 2, "subtract_delayed": 4}[reset]
    node = integers["p1"]
    assert isinstance(node, fixed.FixedLIF)
    g = factor * scales[1].tie
    h = int(np.max(node.threshold_mant))
    coarse = replace(scales[1], tie=g, scale=scales[1].scale * (h + g) / (h + scales[1].tie))
    with pytest.raises(VerifyError, match=r"^p1: the integer neuron differs"):
        check_neurons(graph, integers, (scales[0], coarse, *scales[2:]))


@settings(max_examples=12)
@given(st.sampled_from(RESETS), st.booleans(), st.integers(0, 50), st.sampled_from([0.5, 0.95]))
def test_thresholds_that_differ_are_proved_as_rounded(reset: str, strict: bool, seed: int, decay: float) -> None:
    graph = resetting(spiking_graph(seed, T=4, depth=2, strict=strict, decay=decay), reset, thresholds=True)
    integers, scales = quantised(graph)
    assert check_parameters(graph, integers, scales) > 0
    checks = check_neurons(graph, integers, scales)
    assert decay != 0.5 or all(check.ties and not check.mismatches for check in checks)
    for scale, node in zip(scales, integers.of(fixed.FixedLIF), strict=False):
        real = graph[node.name]
        assert isinstance(real, ir.LIF)
        assert isinstance(node.threshold_mant, np.ndarray)
        assert node.threshold_mant.shape == np.shape(real.threshold)
        assert 0 < scale.threshold_error <= 0.5 + 1e-9
        assert scale.decay_error == pytest.approx(0 if decay == 0.5 else 3891 / 4096 - 0.95)
    x = inputs_for(graph, 8, batch=6)
    floats, whole = interpret(graph, x).spikes, logical(integers, to_integers(integers, x)).spikes
    assert np.mean(np.concatenate([(s == whole[n]).ravel() for n, s in floats.items()])) > 0.95


def test_equal_thresholds_in_an_array_are_one_exact_threshold() -> None:
    graph = spiking_graph(3, T=4, depth=2)
    node = graph["p1"]
    assert isinstance(node, ir.LIF)
    many = swap(graph, replace(node, threshold=np.full((1, 5, 5), node.threshold)))
    integers, scales = quantised(many)
    population = integers["p1"]
    assert isinstance(population, fixed.FixedLIF)
    assert isinstance(population.threshold_mant, int)
    check_parameters(many, integers, scales)
    check_neurons(many, integers, scales)


@pytest.mark.parametrize(
    ("levels", "message"), [((1.0, 1e6), "thresholds too far apart"), ((1.0, 0.0), "thresholds must be positive")]
)
def test_thresholds_that_no_scale_holds_are_refused(levels: tuple[float, float], message: str) -> None:
    graph = spiking_graph(0, depth=2)
    node = graph["p1"]
    assert isinstance(node, ir.LIF)
    with pytest.raises(QuantizeError, match=f"^p1: {message}"):
        quantised(swap(graph, replace(node, threshold=np.array(levels).reshape(2, 1, 1))))


def up(value: int | Array) -> int | Array:
    return value + 1 if isinstance(value, int) else value + (np.arange(value.size) == 3).reshape(value.shape)


MISTAKES: dict[str, tuple[Callable[[Any], dict[str, Any]], str]] = {
    "threshold": (lambda n: {"threshold_mant": up(n.threshold_mant)}, "threshold"),
    "amount": (lambda n: {"subtract": up(n.subtract)}, "amount to subtract"),
    "no amount": (lambda n: {"subtract": 0 * n.subtract}, "amount to subtract"),
    "one step early or late": (
        lambda n: {"reset": "subtract" if n.reset == "subtract_delayed" else "subtract_delayed"},
        "another reset",
    ),
    "hard": (lambda n: {"reset": "hard"}, "another reset"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("thresholds", [False, True])
@pytest.mark.parametrize("reset", SUBTRACTING)
def test_every_wrong_constant_is_named(reset: str, thresholds: bool, mistake: str) -> None:
    graph = resetting(spiking_graph(3, T=4, depth=2), reset, thresholds)
    integers, scales = quantised(graph)
    node = integers["p1"]
    assert isinstance(node, fixed.FixedLIF)
    change, what = MISTAKES[mistake]
    wrong = swap(integers, replace(node, **change(node)))
    with pytest.raises(VerifyError, match=f"^p1: {what}"):
        check_parameters(graph, wrong, scales)
    if mistake != "amount":  # 1/64 of a unit is below what ties show in four steps
        with pytest.raises(VerifyError, match=r"^p1: the integer neuron differs"):
            check_neurons(graph, wrong, scales)


@pytest.mark.parametrize(
    ("constants", "error", "message"),
    [
        ({"reset": "soft"}, CapabilityError, "unknown reset"),
        ({"subtract": -1}, InputError, "amount to subtract out of range"),
        ({"subtract": TOP + 1}, InputError, "amount to subtract out of range"),
        ({"threshold_mant": np.array([1.5, 2, 3, 4, 5])}, InputError, "threshold out of range"),
        ({"threshold_mant": np.arange(3)}, InputError, "threshold does not fit"),
        ({"subtract": np.zeros((2, 2, 5, 5), dtype=np.int64)}, InputError, "amount to subtract does not fit"),
    ],
)
def test_the_simulator_refuses_constants_it_would_change(constants: Any, error: type[Exception], message: str) -> None:
    graph = spiking_graph(3, depth=2)
    integers, _ = quantised(graph)
    timed, _ = schedule(integers, delay_steps_max=62)
    wrong = swap(timed, replace(timed["p1"], **constants))
    with pytest.raises(error, match=f"^p1: {message}"):
        simulate(wrong, to_integers(timed, inputs_for(graph, 1)))
