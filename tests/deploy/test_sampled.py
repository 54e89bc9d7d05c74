"""What a report keeps of spikes is what the network did, and no more of it than it says."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from avsnn.convert.ir import fixed_nodes as ir
from avsnn.convert.ir.activity import Activity
from avsnn.convert.ir.graph import Graph
from avsnn.deploy.reports.sampled import NEURONS, POPULATIONS, RATE_EDGES, STEPS, by_rate, by_step, evenly, raster


def network(number: int, timesteps: int, **options: Any) -> Graph:
    """So many populations that nothing feeds: only their names, roles and shapes matter here."""
    common: dict[str, Any] = {
        "inputs": (),
        "shape": (3, 5),
        "threshold_mant": 1,
        "decay_v": 0,
        "bias_mant": np.zeros(1, int),
    }
    nodes = [ir.FixedLIF(name=f"p{k}", **(common | options)) for k in range(number)]
    return Graph(nodes=tuple(nodes), outputs=(), timesteps=timesteps, stage="scheduled")


def activity_of(graph: Graph, samples: int) -> Activity:
    rng = np.random.default_rng(0)
    spikes = {node.name: rng.random((graph.timesteps, samples, *node.shape)) < 0.3 for node in graph}
    return Activity(outputs={}, spikes=spikes, states={})


def test_a_raster_holds_the_spikes_of_the_neurons_that_it_names() -> None:
    graph = network(3, 6)
    activity = activity_of(graph, 9)
    found = raster(graph, activity)
    assert (found["samples"], found["steps"], found["of_populations"]) == (STEPS // 6, 6, 3)
    for row in found["populations"]:
        assert len(row["neurons"]) == NEURONS < 15
        for neuron, text in zip(row["neurons"], row["spikes"], strict=True):
            spikes = activity.spikes[row["name"]].reshape(6, 9, -1)[:, : found["samples"], neuron]
            assert text == "".join(str(int(spikes[t, b])) for b in range(found["samples"]) for t in range(6))
    assert "1" in "".join(text for row in found["populations"] for text in row["spikes"])


def test_a_raster_stays_small_however_large_the_network() -> None:
    graph = network(100, 200)
    found = raster(graph, activity_of(graph, 2))
    assert len(found["populations"]) == POPULATIONS
    assert found["of_populations"] == 100
    assert (found["samples"], found["steps"]) == (1, STEPS)
    assert {len(text) for row in found["populations"] for text in row["spikes"]} == {STEPS}
    assert raster(network(2, 4, role="relay"), Activity(outputs={}, spikes={}, states={}))["populations"] == []


@given(st.integers(1, 300), st.integers(1, 40))
def test_evenly_spaced_indices_are_different_and_in_range(number: int, most: int) -> None:
    found = evenly(number, most)
    assert len(set(found)) == len(found) == min(number, most)
    assert 0 <= found[0] <= found[-1] < number
    gaps = np.diff(found)
    assert gaps.size == 0 or gaps.max() - gaps.min() <= 1


def test_neurons_are_counted_by_rate_exactly_at_the_edges() -> None:
    """100 steps: a neuron that fires in 2 of them has a rate of 2 %, which is not more than 2 %."""
    fired = [0, 0, 1, 2, 3, 5, 6, 10, 11, 20, 21, 50, 51, 99, 100]
    spikes = (np.arange(100)[:, None] < np.array(fired)).reshape(25, 4, 3, 5)
    assert RATE_EDGES == (1, 2, 5, 10, 20, 50)
    assert by_rate(spikes) == [2, 1, 1, 2, 2, 2, 2, 2, 1]
    assert sum(by_rate(spikes)) == len(fired)
    assert sum(by_step(spikes)) == sum(fired)
    assert by_step(spikes)[0] == int(spikes[0].sum()) > by_step(spikes)[-1]
