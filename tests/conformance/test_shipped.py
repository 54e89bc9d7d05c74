"""Every shipped network through every stage, and its integers on every back end: two samples of data, two generated.

`make verify-all` does the same with sixteen.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from avsnn.convert import equivalence as eq
from avsnn.convert.bundle import Bundle
from avsnn.convert.idle_mistakes import idle_on
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.activity import Activity
from avsnn.convert.ir.fixed_interpreter import to_integers, wall_clock
from avsnn.convert.ir.graph import Graph
from avsnn.convert.pipeline import convert
from avsnn.convert.proof_data import first_samples
from avsnn.deploy import lava_env
from avsnn.deploy.backends.cpu import simulate
from avsnn.deploy.backends.lava import LavaWorker
from avsnn.deploy.exports.lava import write_lava
from avsnn.train.checkpoints import load

MODELS = sorted((Path(__file__).parent.parent.parent / "examples" / "models").glob("*.pt"))
FOUND = lava_env.doctor()
SAMPLES = 2
LIVELY = 1e-4  # spikes per neuron and step below which a population proves little


@pytest.fixture(scope="module", params=MODELS, ids=lambda path: path.stem)
def bundle(request: pytest.FixtureRequest) -> tuple[Bundle, dict[str, np.ndarray]]:
    checkpoint = load(request.param)
    made = convert(checkpoint, target="loihi2", proof_samples=SAMPLES)
    scheduled = made.graph("scheduled")
    data = first_samples(made.graph("traced"), checkpoint.calibration, SAMPLES)
    rng = np.random.default_rng(0)
    integers = to_integers(scheduled, data)
    for node in scheduled.of(fixed.FixedInput):
        x, axis = integers[node.name], 0 if node.coding == "direct" else 1
        drawn = rng.integers(node.low, node.high + 1, size=x.shape)
        integers[node.name] = np.concatenate([x, drawn], axis=axis)
    return made, integers


def test_simulator_equals_the_reference(bundle: tuple[Bundle, dict[str, np.ndarray]]) -> None:
    made, integers = bundle
    graph = made.graph("scheduled")
    expected = wall_clock(graph, integers)
    check = eq.compare("CPU = reference", "both", expected, simulate(graph, integers, record="all"), exact=True)

    def run(spoiled: Graph) -> Activity:
        return simulate(spoiled, integers, record="all")

    spoiled, idle = eq.negated_row(graph) | eq.shifted_time(graph), idle_on(graph, integers, expected)
    noticed = eq.with_controls(check, expected, run, spoiled, idle)
    assert len(noticed.controls) == noticed.planted >= 2
    rates = {name: float(spikes.mean()) for name, spikes in expected.spikes.items()}
    assert not [name for name, rate in rates.items() if rate < LIVELY], rates


@pytest.mark.lava
@pytest.mark.skipif(bool(FOUND.missing), reason=f"no Lava interpreter: {FOUND.missing}")
def test_lava_equals_the_simulator(bundle: tuple[Bundle, dict[str, np.ndarray]], tmp_path: Path) -> None:
    made, integers = bundle
    graph = made.graph("scheduled")
    write_lava(graph, tmp_path / "lava")
    with LavaWorker() as worker:
        found = worker.run(tmp_path / "lava", integers).activity
    check = eq.compare("Lava = CPU", "both", simulate(graph, integers, record="all"), found, exact=True)
    assert check.compared > 100_000
    assert not check.silent

    def run(spoiled: Graph) -> Activity:
        return simulate(spoiled, integers, record="all")

    spoiled, idle = eq.negated_row(graph) | eq.shifted_time(graph), idle_on(graph, integers, found)
    noticed = eq.with_controls(check, found, run, spoiled, idle)
    assert len(noticed.controls) == noticed.planted >= 2
