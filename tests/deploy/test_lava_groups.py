from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.fixed_interpreter import wall_clock
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array
from avsnn.deploy.backends.cpu import simulate
from avsnn.deploy.exports.lava import lower, write_lava
from avsnn.deploy.exports.lava_groups import split_groups

RNG = np.random.default_rng(0)
CONV_EXP, HEAD_EXP = np.array([0, 2, 0, 1]), np.array([3, 0, 3])


def network(conv: int | Array = CONV_EXP, head: int | Array = HEAD_EXP) -> Graph:
    """A grouped convolution with delay and a read-out, both with an exponent per output channel."""
    nodes = (
        fixed.FixedInput(name="x", shape=(2, 5, 5), coding="sequence", low=0, high=1, step=1.0),
        fixed.FixedConv2d(
            name="conv", inputs=("x",), shape=(4, 3, 3), weight_mant=2 * RNG.integers(-20, 30, (4, 1, 3, 3)),
            weight_exp=conv, groups=2, delay=1,
        ),
        fixed.FixedLIF(
            name="p", inputs=("conv",), shape=(4, 3, 3), threshold_mant=90, decay_v=2048, bias_mant=np.zeros(1, int),
            offset=2, reset_interval=4, reset_phase=2,
        ),
        fixed.FixedLinear(
            name="head", inputs=("p",), shape=(3,), weight_mant=2 * RNG.integers(-99, 99, (3, 36)), weight_exp=head
        ),
        fixed.FixedReadout(name="out", inputs=("head",), shape=(3,), bias=np.zeros(1, int), scale=1.0, offset=3),
    )  # fmt: skip
    return Graph(nodes=nodes, outputs=("out",), timesteps=4, stage="scheduled")


X = {"x": RNG.integers(0, 2, (4, 6, 2, 5, 5))}


def test_groups_add_up_to_the_connection_in_every_step() -> None:
    graph = network()
    split = split_groups(graph)
    assert [n.name for n in split] == ["x", "conv.e0", "conv.e1", "conv.e2", "p", "head.e0", "head.e3", "out"]
    assert split["p"].inputs == ("conv.e0", "conv.e1", "conv.e2")
    for name in ("conv", "head"):
        whole, parts = graph[name], [n for n in split.of(fixed.Synapse) if n.name.startswith(name)]
        assert isinstance(whole, fixed.Synapse)
        assert all(len(part.exponents) == 1 and part.weight_mant.any() for part in parts)
        assert sum((part.weight_mant != 0).sum() for part in parts) == (whole.weight_mant != 0).sum()
        np.testing.assert_array_equal(sum(part.weight for part in parts), whole.weight)
    runs = [
        wall_clock(graph, X),
        wall_clock(split, X),
        simulate(graph, X, record="all"),
        simulate(split, X, record="all"),
    ]
    assert 0.05 < runs[0].spikes["p"].mean() < 0.95
    for run in runs[1:]:
        np.testing.assert_array_equal(run.spikes["p"], runs[0].spikes["p"])
        np.testing.assert_array_equal(run.states["p"]["v"], runs[0].states["p"]["v"])
        np.testing.assert_array_equal(run.outputs["out"], runs[0].outputs["out"])


@pytest.mark.parametrize("name", ["conv", "head"])
def test_an_exponent_lost_shows(name: str) -> None:
    graph = network()
    lost = graph.with_nodes(
        replace(n, weight_exp=0) if isinstance(n, fixed.Synapse) and n.name == name else n for n in graph
    )
    right, wrong = wall_clock(graph, X), wall_clock(split_groups(lost), X)
    assert (right.outputs["out"] != wrong.outputs["out"]).any()


def test_one_exponent_is_one_connection_as_before(tmp_path: Path) -> None:
    for exp in (2, np.full(4, 2)):
        assert [n.name for n in split_groups(network(exp, 0))] == ["x", "conv", "p", "head", "out"]
    rows = lower(network())[0]["synapses"]
    assert [(row["name"], row["weight_exp"]) for row in rows] == [
        ("conv.e0", 0), ("conv.e1", 1), ("conv.e2", 2), ("head.e0", 0), ("head.e3", 3),
    ]  # fmt: skip
    write_lava(network(), tmp_path / "lava")
