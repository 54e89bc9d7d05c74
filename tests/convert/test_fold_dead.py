"""What can never fire disappears, and what depended on it does the same without it; what has no such form stays."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avsnn.convert import equivalence as eq
from avsnn.convert import pipeline
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.interpreter import interpret
from avsnn.convert.ir.node import Array, Node
from avsnn.convert.passes.fold_dead import fold_dead, never_fire
from avsnn.convert.proofs import left_out, without
from tests.convert.mutants import NETWORKS, Net, samples
from tests.strategies import SEEDS, inputs_for, spiking_graph


def changed(graph: Graph, name: str, **fields: Any) -> Graph:
    return replace(graph, nodes=tuple(replace(n, **fields) if n.name == name else n for n in graph))


def same(before: Graph, x: dict[str, Array]) -> Graph:
    """The graph without what can never fire, once both do the same, on data and on random spikes."""
    after = fold_dead(before)
    rows = left_out(before, after)
    gone = [row["population"] for row in rows if row["left_out"]]
    free = interpret(before, x).spikes
    rng = np.random.default_rng(0)
    silent = {each.population for each in never_fire(before)}
    for force in (free, {k: (rng.random(s.shape) < 0.4) & (k not in silent) for k, s in free.items()}):
        expected = interpret(before, x, force=force)
        assert not any(expected.spikes[name].any() for name in silent)
        eq.compare("fold_dead", "data", without(expected, gone), interpret(after, x, force=force), exact=False)
    assert fold_dead(after) is after
    return after


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.sets(st.integers(1, 4), min_size=1, max_size=3), st.booleans(), st.booleans())
def test_planted_dead_populations(seed: int, dead: set[int], pool: bool, biased: bool) -> None:
    """Populations made unable to fire by weak or negative weights; their own outgoing biases stay behind."""
    graph = spiking_graph(seed, depth=5, skips=((0, 2), (1, 3), (0, 4)), pool=pool, read=(0, 1, 2))
    for i in dead:
        into = [n for n in graph if n.name == f"c{i}" or n.name.endswith(f"to{i}")]
        for layer in into:
            assert isinstance(layer, ir.Conv2d)
            bias = np.full(2, 0.4 if biased else -0.1) / len(into)
            graph = changed(graph, layer.name, weight=0.02 * layer.weight, bias=bias)
    same(graph, inputs_for(graph, 1))
    assert {each.population for each in never_fire(graph)} >= {f"p{i}" for i in dead}


def network(make: Any) -> tuple[Graph, dict[str, Array]]:
    net = Net(3, 4, (2, 3, 3), coding="sequence", step=1.0)
    for name in "qkv":
        net.lif(name, net.conv(f"c{name}", "x", 4), threshold=0.4)
    net.lif("never", net.conv("cn", "x", 4, weight=np.full((4, 2, 1, 1), 0.01), bias=np.full(4, 0.1)))
    graph = make(net)
    for _, fold in pipeline.FOLDS[:-1]:
        graph = fold(graph)
    return graph, samples(graph)


def head(net: Net, *sources: str) -> Graph:
    total = net.add(ir.Add, "total", sources) if len(sources) > 1 else sources[0]
    mean = net.add(ir.MeanSpace, "mean", total, (4,))
    return net.graph(net.linear("y", net.add(ir.MeanTime, "time", mean), 3))


def names(graph: Graph) -> set[str]:
    return {node.name for node in graph}


def test_attention_with_a_dead_factor_goes_and_so_do_factors_that_nothing_else_reads() -> None:
    def make(net: Net) -> Graph:
        net.add(ir.Attention, "att", ("q", "k", "never"), heads=2, scale=0.25, over="time")
        net.lif("a", "att")
        return head(net, "a", "v", "q")

    before, x = network(make)
    after = same(before, x)
    assert names(before) - names(after) >= {"att", "a", "never", "k", "ck", "cn"}
    rows = {row["population"]: row for row in left_out(before, after)}
    assert rows["k"]["membrane"] is None
    assert rows["a"]["membrane"] == pytest.approx(0)
    assert rows["never"]["left_out"]


def test_a_map_of_a_dead_query_is_its_bias_so_the_query_stays() -> None:
    def make(net: Net, bias: float = 2.0) -> Graph:
        both = net.add(ir.AttentionMap, "map", ("never", "k"), (2, 9, 9), heads=2, bias=np.full((9, 9), bias))
        net.lif("m", both)
        values = net.add(ir.MappedValues, "values", ("m", "v"), (4, 3, 3), scale=0.25)
        net.lif("a", values)
        return head(net, "a", "q")

    before, x = network(make)
    assert same(before, x) is before
    assert [(row["population"], row["left_out"]) for row in left_out(before, before)] == [("never", False)]
    before, x = network(lambda net: make(net, 0.01))
    assert names(before) - names(same(before, x)) >= {"never", "map", "m", "values", "a"}


def test_a_maximum_of_silence_is_silent_and_its_layer_a_bias() -> None:
    def make(net: Net) -> Graph:
        net.add(ir.MaxPool2d, "pool", "never", (4, 2, 2), kernel=(2, 2), stride=(1, 1))
        side = net.conv("side", "pool", 4, 2, padding=(1, 1))
        net.add(ir.Add, "sum", (net.conv("main", "q", 4), side))
        net.lif("a", "sum")
        return head(net, "a")

    before, x = network(make)
    after = same(before, x)
    assert not {"pool", "side", "sum", "never"} & names(after)
    main, old, side = after["main"], before["main"], before["side"]
    assert isinstance(main, ir.Conv2d)
    assert isinstance(old, ir.Conv2d)
    assert isinstance(side, ir.Conv2d)
    np.testing.assert_allclose(main.bias, old.bias + side.bias)


def test_a_population_that_a_bias_alone_would_drive_keeps_its_silent_source() -> None:
    def make(net: Net) -> Graph:
        net.lif("pattern", net.conv("side", "never", 4, bias=np.full(4, 0.9)))
        return head(net, "pattern", "q")

    before, x = network(make)
    assert same(before, x) is before
    assert interpret(before, x).spikes["pattern"].any()


def test_an_answer_of_nothing_but_silence_stays() -> None:
    before, x = network(lambda net: head(net, "never"))
    assert fold_dead(before) is before
    both, x = network(lambda net: head(net, "never", "q"))
    assert "y@never" not in names(same(both, x))


def test_vectors_of_length_one_joined_to_silence_stay() -> None:
    def make(net: Net) -> Graph:
        parts = []
        for name in ("q", "never"):
            rate = net.add(ir.MeanTime, f"{name}.rate", net.add(ir.MeanSpace, f"{name}.mean", name, (4,)))
            parts.append(net.add(ir.Unit, f"{name}.unit", rate))
        net.lif("join", net.linear("c3", net.add(ir.Concat, "both", tuple(parts), (8,)), 4), threshold=0.1)
        return net.graph(net.linear("y", net.add(ir.MeanTime, "time", "join"), 3))

    before, x = network(make)
    assert same(before, x) is before


def test_the_graph_given_is_left_as_it_was_and_one_without_dead_ones_is_returned() -> None:
    graph = spiking_graph(1)
    assert fold_dead(graph) is graph
    before, _ = network(lambda net: head(net, "never", "q"))
    nodes: tuple[Node, ...] = before.nodes
    fold_dead(before)
    assert before.nodes is nodes


def test_the_pipeline_says_what_it_left_out_and_why() -> None:
    graph = NETWORKS["dead"]()
    done = pipeline.convert(graph, calibration=samples(graph), proof_samples=4)
    assert [(row["population"], row["neurons"], row["left_out"]) for row in done.record["left_out"]] == [
        ("never", 27, True), ("neither", 27, True),
    ]  # fmt: skip
    assert all(row["membrane"] < row["threshold"] for row in done.record["left_out"])
    again = pipeline.convert(done, calibration=samples(graph), proof_samples=4, start="folded")
    assert again.record["left_out"] == done.record["left_out"]
    assert {"never", "neither"} <= names(done.graph("traced"))
    assert not {"never", "neither"} & names(done.graph("folded"))
