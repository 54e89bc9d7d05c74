from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.interpreter import interpret
from avsnn.convert.passes.split_layer_norm import is_plain, split_layer_norm
from tests.convert.mutants import NETWORKS, samples


@pytest.mark.parametrize("name", ["norms", "variants"])
def test_gain_and_shift_leave_the_norm_and_nothing_changes(name: str) -> None:
    graph = NETWORKS[name]()
    found = split_layer_norm(graph)
    assert all(map(is_plain, found.of(ir.LayerNorm)))
    assert not any(map(is_plain, graph.of(ir.LayerNorm)))
    assert {n.name for n in found.of(ir.BatchNorm)} == {n.name for n in graph.of(ir.LayerNorm)}
    x = samples(graph)
    expected, other = interpret(graph, x), interpret(found, x)
    for population, spikes in expected.spikes.items():
        assert 0 < spikes.mean() < 1
        assert (spikes == other.spikes[population]).all()
        assert np.abs(expected.states[population]["v"] - other.states[population]["v"]).max() <= 1e-12
    norm = found.of(ir.BatchNorm)[0]
    wrong = found.with_nodes(replace(n, gamma=n.gamma * 1.5) if n is norm else n for n in found.nodes)
    assert any((interpret(wrong, x).spikes[name] != spikes).any() for name, spikes in expected.spikes.items())


def test_a_plain_norm_stays_and_a_graph_without_any_is_not_touched() -> None:
    once = split_layer_norm(NETWORKS["norms"]())
    assert split_layer_norm(once) is once
    other = NETWORKS["units"]()
    assert split_layer_norm(other) is other
