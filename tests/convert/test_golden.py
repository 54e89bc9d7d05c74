"""A small network at each stage, as text: what a change of any pass changes shows up here, to be looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array
from avsnn.convert.ir.text import render
from avsnn.convert.pipeline import convert
from tests.strategies import inputs_for, spiking_graph

SHAPE = (2, 5, 5)


def eighths(values: Array) -> Array:
    """Few bits, so that no platform's rounding shows in the text."""
    return np.round(values * 8) / 8


def small() -> Graph:
    """Normalised input, batch norm, a skip of unequal depth, a pool, tokens of two populations side by side."""
    plain = spiking_graph(1, depth=3, skips=((0, 2),))
    nodes = {n.name: n for n in plain if n.name not in ("out@p2", "out")}
    for name, node in nodes.items():
        if isinstance(node, ir.Conv2d):
            nodes[name] = replace(node, weight=eighths(node.weight), bias=eighths(node.bias))
    norm = ir.Normalise(name="norm", inputs=("x",), shape=SHAPE, mean=np.array([0.5, 0.25]), std=np.array([0.5, 0.25]))
    bn = ir.BatchNorm(
        name="bn1", inputs=("c1",), shape=SHAPE, mean=np.array([0.125, 0.5]), var=np.array([1.0, 0.25]),
        gamma=np.array([1.0, 0.5]), beta=np.array([0.5, 0.25]), eps=0.0,
    )  # fmt: skip
    pools = [
        ir.MaxPool2d(name=f"pool{i}", inputs=(f"p{i}",), shape=(2, 2, 2), kernel=(2, 2), stride=(2, 2)) for i in (0, 2)
    ]
    end = (
        *pools,
        ir.Concat(name="cat", inputs=("pool0", "pool2"), shape=(4, 2, 2)),
        ir.MeanSpace(name="tokens", inputs=("cat",), shape=(4,)),
        ir.MeanTime(name="time", inputs=("tokens",), shape=(4,)),
        ir.Linear(name="head", inputs=("time",), shape=(3,), weight=np.arange(-6.0, 6).reshape(3, 4), bias=np.ones(3)),
    )
    first = replace(nodes.pop("c0"), inputs=("norm",))
    middle = [nodes.pop("x"), norm, first, nodes.pop("p0"), nodes.pop("c1"), bn]
    nodes["p1"] = replace(nodes["p1"], inputs=("bn1",))
    return Graph(nodes=(*middle, *nodes.values(), *end), outputs=("head",), timesteps=4, stage="traced")


@pytest.mark.parametrize("target", ["loihi2", "cpu"])
def test_each_stage_of_a_small_network_reads_as_it_did(target: str, golden: Callable[[str, str], None]) -> None:
    graph = small()
    done = convert(graph, target=target, calibration=inputs_for(graph, 2, batch=8))
    for stage in done.graphs:
        if target == "loihi2" or stage in ("quantised", "scheduled"):
            golden(f"small.{target}.{stage}.txt", render(done.graph(stage)))
