"""Neurons that subtract, and thresholds that differ: Lava's process models against the slow interpreter."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avsnn.convert.integer_check import check_parameters
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.activity import Activity
from avsnn.convert.ir.fixed_interpreter import logical, to_integers, wall_clock
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array, Node
from avsnn.convert.passes.integer_formats import Target
from avsnn.convert.passes.quantise import quantise
from avsnn.convert.passes.schedule import schedule
from avsnn.convert.pipeline import FOLDS
from avsnn.convert.tracer import trace
from avsnn.deploy import lava_env
from avsnn.deploy.backends.cpu import simulate
from avsnn.deploy.backends.lava import LavaWorker
from avsnn.deploy.exports.lava import write_lava
from avsnn.errors import CapabilityError, DomainError, QuantizeError
from avsnn.hw_profiles.profile import load_profile
from tests.networks import CASES, build, inputs

FOUND = lava_env.doctor()
needs_lava = pytest.mark.skipif(bool(FOUND.missing), reason=f"no Lava interpreter: {FOUND.missing}")
SIZE, TOP = 3, (1 << 23) - 1
RESETS = ("hard", "subtract", "subtract_delayed")


@pytest.fixture(scope="module")
def worker() -> Iterator[LavaWorker]:
    with LavaWorker(timeout_s=120) as running:
        yield running


def network(window: int, offset: int, populations: list[Any], seed: int = 0) -> Graph:
    """Populations side by side that hear the same input, each over its own synapse."""
    rng = np.random.default_rng(seed)
    nodes: list[Node] = [fixed.FixedInput(name="x", shape=(SIZE,), coding="sequence", low=-7, high=7, step=1.0)]
    for i, constants in enumerate(populations):
        weight = 2 * rng.integers(-40, 90, (SIZE, SIZE))
        nodes.append(
            fixed.FixedLinear(name=f"w{i}", inputs=("x",), shape=(SIZE,), weight_mant=weight, delay=max(0, offset - 1))
        )
        common: dict[str, Any] = {
            "bias_mant": rng.integers(-90, 190, SIZE),
            "bias_exp": 2,
            "decay_v": 2048,
            "reset_interval": window,
        }
        common |= {"offset": offset, "reset_phase": offset % window}
        nodes.append(fixed.FixedLIF(name=f"p{i}", inputs=(f"w{i}",), shape=(SIZE,), **(common | constants)))
    names = tuple(f"p{i}" for i in range(len(populations)))
    return Graph(nodes=tuple(nodes), outputs=names, timesteps=window, stage="scheduled")


@st.composite
def cases(draw: st.DrawFn) -> tuple[Graph, Array]:
    def constant(*ranges: tuple[int, int]) -> int | Array:
        low, high = draw(st.sampled_from(ranges))
        each = [draw(st.integers(low, high)) for _ in range(draw(st.sampled_from([1, SIZE])))]
        return np.array(each) if len(each) > 1 else each[0]

    window = draw(st.integers(1, 5))
    interval = draw(st.sampled_from([window, window, 0]))
    constants = [
        {
            "reset": reset,
            "threshold_mant": constant((0, 400), (0, 131071), (-9, 9)),
            "subtract": constant((0, 30000), (0, TOP)),
            "decay_u": draw(st.sampled_from([4095, 4095, 0, 2047, -1])),
            "decay_v": draw(st.sampled_from([0, 205, 2048, 4096])),
            "bias_mant": np.array([draw(st.integers(1 - 2**15, 2**15 - 1)) for _ in range(SIZE)]),
            "bias_exp": draw(st.integers(0, 8)),
            "saturates": True,
            "reset_interval": interval,
        }
        for reset in RESETS
    ]
    seed = draw(st.integers(0, 2**32))
    x = np.random.default_rng(seed).integers(-7, 8, (window, 3, SIZE))
    return network(window, draw(st.integers(1, 4)), constants, seed), x


def same(graph: Graph, found: Any, expected: Activity) -> None:
    for node in graph.of(fixed.FixedLIF):
        for key in "uv":
            assert np.array_equal(found.states[node.name][key], expected.states[node.name][key]), (node.name, key)
        assert np.array_equal(found.spikes[node.name], expected.spikes[node.name]), node.name


@settings(max_examples=15, deadline=None)
@given(cases())
@pytest.mark.lava
@needs_lava
def test_interpreter_and_simulator_equal_lavas_models(worker: LavaWorker, case: tuple[Graph, Array]) -> None:
    graph, x = case
    with TemporaryDirectory() as place:
        write_lava(graph, Path(place) / "lava")
        try:
            expected = wall_clock(graph, {"x": x})
        except DomainError:  # all or none
            with pytest.raises(DomainError):
                worker.run(Path(place) / "lava", {"x": x}, oracle=True)
            with pytest.raises(DomainError):
                simulate(graph, {"x": x}, record="all", streams=1)
            return
        found = worker.run(Path(place) / "lava", {"x": x}, oracle=True).activity
    same(graph, found, expected)
    if graph.of(fixed.FixedLIF)[0].reset_interval:  # without resets, the simulator has a run for every sample
        same(graph, simulate(graph, {"x": x}, record="all"), expected)


FIVE = [
    {"reset": "hard", "threshold_mant": np.array([10, 100, 400])},
    {"reset": "subtract", "threshold_mant": 90, "subtract": 90 << 6},
    {"reset": "subtract", "threshold_mant": np.array([10, 100, 400]), "subtract": np.array([640, 6400, 25600])},
    {"reset": "subtract_delayed", "threshold_mant": 90, "subtract": 90 << 6},
    {"reset": "subtract_delayed", "threshold_mant": np.array([10, 100, 400]), "subtract": np.array([640, 6400, 25600])},
]


@pytest.mark.lava
@needs_lava
def test_lavas_runtime_gives_the_same(worker: LavaWorker, tmp_path: Path) -> None:
    graph = network(4, 2, FIVE)
    x = np.random.default_rng(1).integers(-3, 8, (4, 5, SIZE))
    write_lava(graph, tmp_path / "lava")
    run, expected = worker.run(tmp_path / "lava", {"x": x}), wall_clock(graph, {"x": x})
    same(graph, run.activity, expected)
    for name, spikes in expected.spikes.items():
        assert 0.02 < spikes.mean() < 0.98, name
    # control: at once and a step late are told apart, as are one threshold and several
    states = [expected.states[f"p{i}"]["v"] for i in range(5)]
    assert all((a != b).any() for i, a in enumerate(states) for b in states[i + 1 :])
    for i, wrong in ((1, {"reset": "subtract_delayed"}), (4, {"reset": "subtract"}), (2, {"subtract": 640})):
        other = replace(graph[f"p{i}"], **wrong)
        altered = graph.with_nodes(other if n.name == other.name else n for n in graph)
        with pytest.raises(AssertionError, match=f"p{i}"):
            same(altered, run.activity, wall_clock(altered, {"x": x}))


def scheduled(name: str) -> tuple[Graph, Graph, dict[str, Array]]:
    """(quantised, scheduled, integer inputs) of one of the papers' networks."""
    module = build(CASES[name])
    x, spec = inputs(module)
    graph = trace(module, x, input_spec=spec)
    for _, fold in FOLDS:
        graph = fold(graph)
    graph = replace(graph, stage="folded")
    integers, scales = quantise(graph, target=Target.of(load_profile("loihi2")), calibration=x)
    assert check_parameters(graph, integers, scales) > 0
    return integers, schedule(integers, delay_steps_max=62)[0], to_integers(integers, x)


@pytest.mark.lava
@needs_lava
@pytest.mark.parametrize(
    ("name", "reset", "several"),
    [
        ("l2net lif_after_bn", "subtract", False),
        ("audio-snn odd", "subtract_delayed", False),
        ("spikslc gcc", "hard", True),
    ],
)
def test_the_papers_networks_run_alike_everywhere(
    worker: LavaWorker, tmp_path: Path, name: str, reset: str, several: bool
) -> None:
    integers, timed, x = scheduled(name)
    neurons = [node for node in timed.of(fixed.FixedLIF) if node.role == "neuron"]
    assert {node.reset for node in neurons} == {reset}
    assert any(np.ndim(node.threshold_mant) for node in neurons) == several
    expected = logical(integers, x)
    assert all(expected.spikes[node.name].any() for node in neurons)
    write_lava(timed, tmp_path / "lava")
    run = worker.run(tmp_path / "lava", x, oracle=True).activity
    for found in (simulate(timed, x, record="all"), run):
        same(integers, found, expected)
        for head, values in expected.outputs.items():
            assert np.array_equal(found.outputs[head], values)


@pytest.mark.parametrize(
    ("constants", "error", "message"),
    [
        ({"reset": "soft"}, CapabilityError, "no Lava Process for this reset, found soft"),
        ({"threshold_mant": np.array([1, 2**17, 3])}, QuantizeError, "threshold mantissa that Lava would change"),
        ({"reset": "subtract", "subtract": 2**23}, QuantizeError, "amount to subtract that Lava would change"),
        ({"reset": "subtract", "subtract": np.array([1, -1, 1])}, QuantizeError, "amount to subtract .* found -1 to 1"),
    ],
)
def test_constants_that_lava_would_change_are_refused(
    tmp_path: Path, constants: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^p0: {message}"):
        write_lava(network(4, 2, [{"threshold_mant": 5} | constants]), tmp_path / "lava")
    assert not list(tmp_path.iterdir())
