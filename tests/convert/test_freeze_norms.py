from __future__ import annotations

import pytest

from avsnn.convert.check import check, of_graph
from avsnn.convert.freeze_norms import freeze_norms
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.interpreter import interpret
from avsnn.convert.pipeline import convert
from avsnn.hw_profiles.profile import load_profile
from tests.convert.mutants import NETWORKS, samples


@pytest.mark.parametrize("name", ["norms", "variants"])
def test_frozen_norms_fold_and_what_they_change_is_measured(name: str) -> None:
    graph = NETWORKS[name]()
    x = samples(graph, 12)
    frozen, costs = freeze_norms(graph, x)
    assert not frozen.of(ir.LayerNorm)
    assert [cost.norm for cost in costs] == [norm.name for norm in graph.of(ir.LayerNorm)]
    expected, found = interpret(graph, x).spikes, interpret(frozen, x).spikes
    differing = sum(int((found[n] != s).sum()) for n, s in expected.items()) / sum(s.size for s in expected.values())
    assert 0 < differing <= sum(cost.changed for cost in costs) * 1.5
    assert all(0 < cost.spread <= cost.largest for cost in costs)
    assert all(0 < cost.changed < 0.3 for cost in costs)
    assert not convert(frozen, calibration=x, proof_samples=2).graph("scheduled").of(fixed.Received)


def test_check_tells_what_freezing_would_change() -> None:
    graph = NETWORKS["norms"]()
    done = check(of_graph(graph, "net"), load_profile("loihi2"), samples(graph, 12))
    told = [e for e in done.entries if "frozen" in e.suggestion]
    assert [e.where for e in told] == ["n1", "n2"]
    assert all(e.severity == "risky" and "% of all spikes" in e.suggestion for e in told)
