"""Neurons with a synaptic current of their own, from the float graph to integers, and against Lava's stock neuron."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from avsnn.convert.integer_check import check_neurons, check_parameters
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.fixed_interpreter import logical, to_integers
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.interpreter import interpret
from avsnn.convert.ir.node import Node
from avsnn.convert.passes.integer_formats import Target, growth
from avsnn.convert.passes.quantise import Scale, quantise
from avsnn.convert.passes.schedule import schedule
from avsnn.convert.pipeline import convert
from avsnn.convert.risks import layer_risks
from avsnn.deploy import lava_env
from avsnn.deploy.backends.cpu import simulate
from avsnn.deploy.capability import capabilities
from avsnn.deploy.run import run
from avsnn.errors import CapabilityError, VerifyError
from avsnn.hw_profiles.profile import load_profile
from tests.convert.mutants import NETWORKS, samples
from tests.strategies import inputs_for, spiking_graph

FOUND = lava_env.doctor()
LOIHI2 = Target.of(load_profile("loihi2"))


def with_currents(graph: Graph, decay: float, **more: Any) -> Graph:
    """The same graph, each population with a current."""
    changed = [replace(n, current_decay=decay, **more) if isinstance(n, ir.LIF) else n for n in graph]
    return replace(graph, nodes=tuple(changed))


def swap(graph: Graph, node: Node) -> Graph:
    return replace(graph, nodes=tuple(node if old.name == node.name else old for old in graph.nodes))


def quantised(graph: Graph) -> tuple[Graph, tuple[Scale, ...]]:
    return quantise(graph, target=LOIHI2, calibration=inputs_for(graph, 7, batch=6))


@pytest.mark.parametrize("reset", ["hard", "subtract", "subtract_delayed"])
def test_the_equation(reset: str) -> None:
    """Against three lines of Python for one neuron; a spike leaves the current as it is."""
    x = np.random.default_rng(0).uniform(-0.5, 1.0, size=(9, 40, 1))
    source = ir.Input(name="x", shape=(1,), coding="sequence", low=-1.0, step=1.0)
    cell = ir.LIF(
        name="p", inputs=("x",), shape=(1,), decay=0.7, gain=0.4, threshold=0.5, reset=reset, current_decay=0.6
    )
    found = interpret(Graph(nodes=(source, cell), outputs=("p",), timesteps=9, stage="traced"), {"x": x})
    for k in range(40):
        i = r = owed = 0.0
        for t in range(9):
            i = 0.6 * i + x[t, k, 0]
            u = 0.7 * r + 0.4 * i - owed
            s = u >= 0.5
            owed = 0.5 * s if reset == "subtract_delayed" else 0.0
            r = {"hard": 0.0, "subtract": u - 0.5}.get(reset, u) if s else u
            assert found.spikes["p"][t, k, 0] == s
            assert found.states["p"]["u"][t, k, 0] == pytest.approx(i)
            assert found.states["p"]["v"][t, k, 0] == pytest.approx(r)
    assert 0.1 < found.spikes["p"].mean() < 0.9


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("current", [0.5, 1.0])
@pytest.mark.parametrize(("decay", "reset"), [(0.5, "hard"), (0.5, "subtract"), (0.0, "hard"), (1.0, "hard")])
def test_ties_are_exact_where_nothing_rounds(decay: float, reset: str, current: float, strict: bool) -> None:
    graph = with_currents(spiking_graph(3, T=6, depth=2, strict=strict, decay=decay), current, reset=reset)
    integers, scales = quantised(graph)
    assert check_parameters(graph, integers, scales) > 0
    checks = check_neurons(graph, integers, scales)
    assert len(checks) == 2
    assert not any(check.mismatches for check in checks)
    reached = strict or 0.5 in (decay, current)  # whole numbers alone never reach a threshold just above one
    assert all(check.ties for check in checks) == reached
    node = integers["p1"]
    assert isinstance(node, fixed.FixedLIF)
    wrong = swap(integers, replace(node, decay_u=node.decay_u + 40))
    with pytest.raises(VerifyError, match=r"^p1: decay of its current"):
        check_parameters(graph, wrong, scales)


def test_decays_that_round_are_counted() -> None:
    graph = with_currents(spiking_graph(3, T=6, depth=2, strict=True), 0.7)
    integers, scales = quantised(graph)
    assert scales[1].current_decay_error == pytest.approx(2867 / 4096 - 0.7)
    assert all(check.ties for check in check_neurons(graph, integers, scales))
    (first, second) = layer_risks(graph.nodes, 6, traced=True)
    assert first.node == "p0"
    assert "0.7 is stored as 0.699951" in second.reason


def test_a_bias_comes_from_a_neuron_that_fires_in_every_step() -> None:
    """The chip adds a bias to v, past the current; a held current brings its own."""
    graph = with_currents(spiking_graph(3, T=4, depth=2, strict=True), 0.5)
    integers, _ = quantised(graph)
    steady, wire = integers["p1.bias"], integers["p1.bias.wire"]
    assert isinstance(steady, fixed.FixedLIF)
    assert isinstance(wire, fixed.FixedLinear)
    assert (steady.role, wire.weight_mant.shape) == ("bias", (50, 1))
    assert not integers["p1"].bias_mant.any()  # type: ignore[attr-defined]
    assert "p0.bias" not in integers.by_name
    x = inputs_for(graph, 8, batch=6)
    floats, whole = interpret(graph, x).spikes, logical(integers, to_integers(integers, x)).spikes
    assert whole["p1.bias"].all()
    assert np.mean(floats["p1"] == whole["p1"]) > 0.98
    still = swap(integers, replace(steady, bias_mant=np.zeros(1, dtype=np.int64)))
    assert np.mean(floats["p1"] == logical(still, to_integers(integers, x)).spikes["p1"]) < 0.9
    answers = {c.node: c.kind for c in capabilities(schedule(integers, delay_steps_max=62)[0], load_profile("loihi2"))}
    assert (answers["c0"], answers["p1.bias"], answers["p1"]) == ("input_host_message", "lif_hard", "lif_hard")


def test_a_current_does_not_outlive_its_window() -> None:
    """Samples follow each other; without the reset the next one would hear the last."""
    graph = with_currents(spiking_graph(3, T=4, depth=2, strict=True, coding="sequence"), 1.0)
    integers, _ = quantised(graph)
    timed, _ = schedule(integers, delay_steps_max=62)
    x = to_integers(timed, inputs_for(graph, 8, batch=6))
    expected, found = logical(integers, x), simulate(timed, x, record="all", streams=1)
    for name, spikes in expected.spikes.items():
        assert np.array_equal(spikes, found.spikes[name])
        assert np.array_equal(expected.states[name]["u"], found.states[name]["u"])
    assert expected.spikes["p1"].any()
    late = swap(timed, replace(timed["p1"], reset_phase=0))  # type: ignore[call-arg]
    assert not np.array_equal(expected.states["p1"]["u"], simulate(late, x, record="all", streams=1).states["p1"]["u"])


def test_counts_into_a_current_are_refused() -> None:
    graph = NETWORKS["space"]()
    node = graph["a"]
    assert isinstance(node, ir.LIF)
    with pytest.raises(CapabilityError, match=r"^a: a synaptic current behind counts"):
        convert(swap(graph, replace(node, current_decay=0.5)), calibration=samples(graph), proof_samples=2)


def test_growth_is_the_largest_sum() -> None:
    rng = np.random.default_rng(0)
    for decays in ((0.0,), (0.9,), (0.9, 0.97), (1.0, 0.5)):
        states, largest = [0.0] * len(decays), 0.0
        for _ in range(50):
            current = 1.0
            for k, decay in enumerate(decays):
                states[k] = current = decay * states[k] + current
            largest = max(largest, states[-1] * rng.uniform(0.9, 1))
        assert largest <= growth(50, *decays) + 1e-9


@pytest.mark.lava
@pytest.mark.skipif(bool(FOUND.missing), reason=f"no Lava interpreter: {FOUND.missing}")
def test_all_back_ends_agree_on_a_long_window() -> None:
    graph = NETWORKS["synaptic"]()
    inputs = samples(graph, batch=3)
    bundle = convert(graph, calibration=inputs, proof_samples=4)
    expected = run(bundle, inputs, backend="reference", record="all")
    for backend in ("cpu", "lava"):
        found = run(bundle, inputs, backend=backend, record="all")
        for name, spikes in expected.spikes.items():
            assert spikes.any()
            assert np.array_equal(spikes, found.spikes[name])
            assert all(np.array_equal(expected.states[name][k], found.states[name][k]) for k in "uv")
        assert np.array_equal(expected.raw, found.raw)
