"""No membrane is higher than its bound, whatever the input; where nothing depends on each other, one gets there."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.interpreter import interpret
from avsnn.convert.ir.node import Array, Node
from avsnn.convert.passes.bounds import membranes
from avsnn.convert.pipeline import FOLDS
from tests.convert.mutants import NETWORKS, samples
from tests.strategies import SEEDS, inputs_for, spiking_graphs


def peaks(graph: Graph, x: dict[str, Array]) -> dict[str, Array]:
    """The highest membranes on these inputs if nobody fires by himself: thresholds out of reach, spikes as they are."""
    sent = interpret(graph, x).spikes
    nodes = [replace(n, threshold=1e9, reset="hard") if isinstance(n, ir.LIF) else n for n in graph]
    high = replace(graph, nodes=tuple(nodes))
    rng = np.random.default_rng(0)
    found: dict[str, Array] = {}
    for rate in (None, 0.1, 0.5, 0.9):
        spikes = sent if rate is None else {k: (rng.random(s.shape) < rate) & _can(graph)[k] for k, s in sent.items()}
        for name in sent:
            others = {k: s for k, s in spikes.items() if k != name}  # the one looked at never resets
            v = interpret(high, x, force=others).states[name]["v"].max(axis=(0, 1))
            found[name] = np.maximum(found.get(name, v), v)
    return found


def _can(graph: Graph) -> dict[str, Array]:
    return {n: m >= graph[n].threshold for n, m in membranes(graph).items() if isinstance(graph[n], ir.LIF)}  # type: ignore[attr-defined]


@settings(max_examples=20, deadline=None)
@given(spiking_graphs(), st.booleans())
def test_no_membrane_is_higher(graph: Graph, weak: bool) -> None:
    if weak:  # so that some neurons can never fire, which lowers the bounds of the next
        nodes = [replace(n, weight=n.weight * 0.4) if isinstance(n, ir.Conv2d) else n for n in graph]
        graph = replace(graph, nodes=tuple(nodes))
    bound = membranes(graph)
    for name, found in peaks(graph, inputs_for(graph, 1)).items():
        assert (found <= bound[name] + 1e-9).all()


@pytest.mark.parametrize("name", ["space", "time", "map", "sums", "units", "skips", "dead"])
def test_products_maxima_and_the_rest(name: str) -> None:
    graph = NETWORKS[name]()
    for _, fold in FOLDS[:-1]:
        graph = fold(graph)
    bound = membranes(graph)
    found = peaks(graph, samples(graph))
    assert all((found[population] <= bound[population] + 1e-9).all() for population in found)
    assert all(np.isfinite(each).all() for each in bound.values())


@given(SEEDS, st.integers(1, 3), st.sampled_from([0.0, 0.5, 0.9]), st.sampled_from([0.5, -0.7]))
@settings(max_examples=20, deadline=None)
def test_the_bound_of_one_layer_is_met_by_the_worst_of_all_inputs(seed: int, T: int, decay: float, gain: float) -> None:
    """All 2^(2 T) spike trains of two inputs: the highest membrane is the bound, for both signs of the gain."""
    rng = np.random.default_rng(seed)
    weight, bias = rng.normal(size=(3, 2)), rng.normal(size=3)
    common: dict[str, Any] = {"shape": (3,)}
    nodes: tuple[Node, ...] = (
        ir.Input(name="x", shape=(2,), coding="sequence", step=1.0),
        ir.Linear(name="c", inputs=("x",), weight=weight, bias=bias, **common),
        ir.LIF(name="p", inputs=("c",), decay=decay, gain=gain, threshold=1e9, **common),
    )
    graph = Graph(nodes=nodes, outputs=("p",), timesteps=T, stage="folded")
    every = np.array(list(itertools.product((0.0, 1.0), repeat=2 * T))).reshape(-1, T, 2).swapaxes(0, 1)
    found = interpret(graph, {"x": every}).states["p"]["v"].max(axis=(0, 1))
    np.testing.assert_allclose(membranes(graph)["p"], found, atol=1e-5)  # inputs may lie a millionth beyond their range
    assert (membranes(graph)["p"] >= found).all()


def test_what_is_unknown_has_no_bound() -> None:
    nodes: list[Node] = [
        ir.Input(name="x", shape=(2, 3, 3)),
        ir.LayerNorm(name="n", inputs=("x",), shape=(2, 3, 3), gamma=np.ones(2), beta=np.zeros(2)),
        ir.LIF(name="p", inputs=("n",), shape=(2, 3, 3), decay=0.5, gain=0.5, threshold=1e9),
        ir.LIF(name="q", inputs=("x",), shape=(2, 3, 3), decay=-0.5, gain=0.5, threshold=1e9),
    ]
    found = membranes(Graph(nodes=tuple(nodes), outputs=("p", "q"), timesteps=2, stage="traced"))
    assert all(np.isinf(each).all() for each in found.values())
