"""Random networks through every stage and through Lava's own process models: every spike, every state, every answer.

The pipeline proves folds against the traced graph in float64, integers against the folded graph, neurons against exact
fractions, and the wall clock against logical time. What it leaves is stored and read back, run by the simulator, and
driven through Lava's process models. More networks: ``AVSNN_RANDOM_GRAPHS=5000 pytest -m slow`` on this file.
"""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from avsnn.convert import equivalence as eq
from avsnn.convert import integer_check, pipeline
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir import storage
from avsnn.convert.ir.activity import Activity
from avsnn.convert.ir.fixed_interpreter import logical, to_integers
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array, Node
from avsnn.convert.ir.text import render
from avsnn.deploy import lava_env
from avsnn.deploy.backends.cpu import simulate
from avsnn.deploy.backends.lava import LavaWorker
from avsnn.deploy.exports.lava import write_lava
from avsnn.errors import DomainError, QuantizeError, VerifyError
from tests.random_graphs import draw

FOUND = lava_env.doctor()
needs_lava = pytest.mark.skipif(bool(FOUND.missing), reason=f"no Lava interpreter: {FOUND.missing}")
STEPS = range(1, 8)
EACH = 15  # networks of every length of the window
MANY = int(os.environ.get("AVSNN_RANDOM_GRAPHS", "2100"))
AT_ONCE = 15  # of the many: that many share one run of Lava
NO_ROOM = (
    "currents do not fit the host's bias",  # thousands of thresholds: no format of the target holds them
    "weights and bias do not fit one scale",  # messages of so many levels that no scale has room for any input
)
MISTAKES = ("weight", "delay", "threshold", "reset")


@dataclass(frozen=True, kw_only=True)
class Proved:
    """A network that went through all stages, and what it does on its inputs."""

    name: str
    parts: frozenset[str]
    scheduled: Graph
    integers: Mapping[str, Array]
    expected: Activity

    @property
    def rates(self) -> dict[str, float]:
        """Spikes per neuron and step of every population that the network came with."""
        own = {n.name: n.steps or None for n in self.scheduled.of(fixed.FixedLIF) if n.role == "neuron"}
        return {name: float(self.expected.spikes[name][:steps].mean()) for name, steps in own.items()}


def prove(seed: int, T: int, blocks: int | None) -> Proved | None:
    """All stages, the comparisons of the pipeline, storage and the simulator; None where one is refused by name."""
    name = f"draw({seed}, {T}, {blocks})"
    try:
        drawn = draw(seed, T, blocks)
        bundle = pipeline.convert(drawn.graph, calibration=drawn.inputs, seed=seed, proof_samples=4)
        stored = {stage: storage.unpack(*storage.pack(graph)) for stage, graph in bundle.graphs.items()}
        assert all(render(stored[stage]) == render(graph) for stage, graph in bundle.graphs.items())
        integers = to_integers(stored["quantised"], drawn.inputs)
        expected = logical(stored["quantised"], integers)
        streams = 1 if seed % 2 else None
        same(expected, simulated(stored["scheduled"], integers, streams), "simulator")
    except Exception as error:
        silent = isinstance(error, VerifyError) and "nothing fired" in str(error)  # nothing is proved by silence
        if silent or (isinstance(error, QuantizeError) and any(text in str(error) for text in NO_ROOM)):
            return None
        raise AssertionError(f"{name}: {error}") from error
    return Proved(
        name=name, parts=drawn.parts | structure(stored["scheduled"]), scheduled=stored["scheduled"],
        integers=integers, expected=expected,
    )  # fmt: skip


def structure(graph: Graph) -> set[str]:
    """What only shows once a network is scheduled."""
    found = set()
    for node in graph:
        if isinstance(node, fixed.Synapse):
            found |= {node.sign_mode} | ({"delay"} if node.delay else set())
            found |= {"exponent"} if np.any(node.weight_exp) else set()
        elif isinstance(node, fixed.Product):
            found |= {"delay in a product"} if any(node.delays) else set()
    return found


def simulated(graph: Graph, integers: Mapping[str, Array], streams: int | None = None) -> Activity:
    run = simulate(graph, integers, record="all", streams=streams)
    return Activity(outputs=run.outputs, spikes=run.spikes, states=run.states)


def same(expected: Activity, found: Activity, name: str) -> None:
    """Raise `VerifyError` at the first difference."""
    assert expected.spikes.keys() == found.spikes.keys()
    assert all(states.keys() == found.states[where].keys() for where, states in expected.states.items())
    eq.compare(name, "its inputs", expected, found, exact=True)


@functools.cache
def batch(T: int) -> tuple[Proved, ...]:
    """The networks with windows of T steps, one to four blocks after their first populations."""
    return proved(T, range(EACH), small=True)


def proved(T: int, seeds: Sequence[int], *, small: bool) -> tuple[Proved, ...]:
    """Those of the seeds that are neither silent nor out of every format, which are nearly all."""
    found = [prove(seed, T, 1 + seed % 4 if small else None) for seed in seeds]
    alive = tuple(network for network in found if network is not None)
    assert len(alive) >= 0.8 * len(found)
    return alive


@pytest.fixture(autouse=True)
def _fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples and windows by which each of the many networks is proved."""
    monkeypatch.setattr(integer_check, "SEQUENCES", 128)
    monkeypatch.setattr(integer_check, "TIED", 32)


@pytest.fixture(scope="module")
def worker() -> Iterator[LavaWorker]:
    with LavaWorker(timeout_s=600) as running:
        yield running


def in_lava(worker: LavaWorker, graphs: Sequence[Graph], integers: Sequence[Mapping[str, Array]]) -> list[Activity]:
    """Networks of one length side by side in one run of Lava's process models."""
    nodes: list[Node] = []
    outputs: list[str] = []
    given: dict[str, Array] = {}
    for i, (graph, x) in enumerate(zip(graphs, integers, strict=True)):
        nodes += [replace(n, name=f"{i}/{n.name}", inputs=tuple(f"{i}/{s}" for s in n.inputs)) for n in graph]
        outputs += [f"{i}/{name}" for name in graph.outputs]
        given |= {f"{i}/{name}": values for name, values in x.items()}
    whole = Graph(nodes=tuple(nodes), outputs=tuple(outputs), timesteps=graphs[0].timesteps, stage="scheduled")
    with TemporaryDirectory() as place:
        write_lava(whole, Path(place) / "lava")
        found = worker.run(Path(place) / "lava", given, oracle=True).activity

    def of(i: int, values: Mapping[str, object]) -> dict[str, object]:
        return {name.split("/", 1)[1]: value for name, value in values.items() if name.startswith(f"{i}/")}

    return [
        Activity(outputs=of(i, found.outputs), spikes=of(i, found.spikes), states=of(i, found.states))  # type: ignore[arg-type]
        for i in range(len(graphs))
    ]


def lava_agrees(worker: LavaWorker, networks: Sequence[Proved]) -> None:
    found = in_lava(worker, [network.scheduled for network in networks], [network.integers for network in networks])
    for network, activity in zip(networks, found, strict=True):
        same(network.expected, activity, f"Lava of {network.name}")


@pytest.mark.parametrize("T", STEPS)
def test_all_stages_and_the_simulator_agree(T: int) -> None:
    assert batch(T)


@pytest.mark.lava
@needs_lava
@pytest.mark.parametrize("T", STEPS)
def test_process_models_of_lava_agree(worker: LavaWorker, T: int) -> None:
    lava_agrees(worker, batch(T))


def spoil(graph: Graph, kind: str, rng: np.random.Generator) -> Graph | None:
    """One mistake in one node, or None where the network has no such thing."""
    made: list[Node] = []
    for node in graph:
        match kind, node:
            case "weight", fixed.Synapse() if node.weight_mant.any():
                weight = node.weight_mant.copy()
                place = np.unravel_index(int(np.abs(weight).argmax()), weight.shape)
                weight[place] = int(weight[place] / 4) * 2  # half, and even
                made.append(replace(node, weight_mant=weight))
            case "delay", fixed.Synapse():
                made.append(replace(node, delay=node.delay + 1))
            case "delay", fixed.Product() if not isinstance(node, fixed.FixedUnitCurrent | fixed.Received):
                made.append(replace(node, delays=(node.delays[0] + 1, *node.delays[1:])))
            case "threshold", fixed.FixedLIF(role="neuron"):
                made.append(replace(node, threshold_mant=node.threshold_mant // 2))
            case "reset", fixed.FixedLIF(role="neuron") if node.decay_v < fixed.MEMORYLESS and graph.timesteps > 1:
                made.append(replace(node, reset_phase=(node.reset_phase + 1) % graph.timesteps))
    if not made:
        return None
    wrong = made[int(rng.integers(len(made)))]
    return graph.with_nodes(wrong if node.name == wrong.name else node for node in graph)


def noticed(network: Proved, kind: str, seed: int) -> bool | None:
    """Whether the comparison sees the mistake; None where there was nothing to spoil."""
    wrong = spoil(network.scheduled, kind, np.random.default_rng(seed))
    if wrong is None:
        return None
    try:
        return differ(network.expected, simulated(wrong, network.integers))
    except DomainError:
        return True


def test_a_step_too_many_is_noticed_where_windows_are_shorter() -> None:
    networks = [network for T in STEPS for network in batch(T) if eq.longer_windows(network.scheduled)]
    assert len(networks) >= 20
    longer = [next(iter(eq.longer_windows(network.scheduled).values())) for network in networks]
    seen = [differ(n.expected, simulated(graph, n.integers)) for n, graph in zip(networks, longer, strict=True)]
    assert sum(seen) >= 0.9 * len(seen), f"{sum(seen)} of {len(seen)}"


def differ(one: Activity, other: Activity) -> bool:
    try:
        same(one, other, "right = wrong")
    except VerifyError:
        return True
    return False


@pytest.mark.parametrize("kind", MISTAKES)
def test_one_mistake_in_one_node_is_noticed(kind: str) -> None:
    found = [noticed(network, kind, i) for T in STEPS for i, network in enumerate(batch(T))]
    tried = [seen for seen in found if seen is not None]
    assert len(tried) >= 0.7 * len(found)
    assert sum(tried) >= 0.6 * len(tried), f"{sum(tried)} of {len(tried)}"


@pytest.mark.lava
@needs_lava
def test_lava_makes_the_same_mistakes(worker: LavaWorker) -> None:
    """An export that mended them would hide them."""
    networks, rng = batch(3), np.random.default_rng(0)
    wrong = [spoil(network.scheduled, MISTAKES[i % 4], rng) or network.scheduled for i, network in enumerate(networks)]
    found = in_lava(worker, wrong, [network.integers for network in networks])
    differing = 0
    for network, graph, activity in zip(networks, wrong, found, strict=True):
        same(simulated(graph, network.integers), activity, f"Lava of {network.name}, spoilt")
        differing += differ(network.expected, activity)
    assert differing >= 0.5 * len(networks)


PARTS = {
    "Conv2d": 0.5, "Linear": 0.9, "Concat": 0.2, "Add": 0.1, "Scale": 0.15, "Normalise": 0.2, "MaxPool2d": 0.1,
    "stride": 0.5, "padding": 0.5, "dilation": 0.4, "groups": 0.3, "average": 0.01, "chain": 0.05, "Flatten": 0.2,
    "MeanSpace": 0.2, "Permute": 0.2, "sum": 0.2, "shortcut": 0.1, "norm on shortcut": 0.03, "norm before": 0.1,
    "norm after": 0.4, "norm after sum": 0.02, "norm before pool": 0.01, "norm in the answer": 0.2, "DSLN": 0.1,
    "DSLN positions": 0.05, "space": 0.1, "space, other grids": 0.01, "time": 0.1, "AttentionMap": 0.05,
    "MappedValues": 0.05, "ProductOfMeans": 0.05, "Unit": 0.1, "LayerNorm": 0.03,
    "LayerNorm variant": 0.01, "StepGain": 0.02, "hard": 0.7, "subtract": 0.4, "subtract_delayed": 0.4,
    "strict": 0.4, "not strict": 0.7, "thresholds": 0.3, "decay 0": 0.3, "decay 0.5": 0.5, "decay 1": 0.3,
    "decay": 0.3, "current": 0.2, "current 0.5": 0.2,
    "direct": 0.3, "sequence": 0.3, "graded input": 0.3, "events": 0.1, "other scale": 0.2,
    "two answers": 0.05, "delay": 0.5, "delay in a product": 0.05, "exponent": 0.1, "mixed": 0.7, "excitatory": 0.3,
    "inhibitory": 0.05, "shorter window": 0.2,
}  # fmt: skip


def test_networks_are_alive_and_of_everything() -> None:
    """The tests above would pass on networks that are silent, or all alike."""
    networks = [network for T in STEPS for network in batch(T)]
    assert len(networks) >= 100
    rates = np.array([rate for network in networks for rate in network.rates.values()])
    assert len(rates) >= 3 * len(networks)
    assert ((rates > 0.02) & (rates < 0.98)).mean() >= 0.95
    assert 0.15 < rates.mean() < 0.6
    counts = Counter(part for network in networks for part in network.parts)
    rare = {part: counts[part] for part, share in PARTS.items() if counts[part] < share * len(networks)}
    assert not rare, rare


@pytest.mark.slow
@pytest.mark.lava
@needs_lava
def test_many_networks_of_any_size_agree_everywhere(worker: LavaWorker) -> None:
    for i in range(-(-MANY // AT_ONCE)):
        T, first = 1 + i % 7, 1000 + AT_ONCE * i
        lava_agrees(worker, proved(T, range(first, first + AT_ONCE), small=False))
