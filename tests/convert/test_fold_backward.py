from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.interpreter import interpret
from avsnn.convert.ir.node import Array, Node
from avsnn.convert.ir.text import render
from avsnn.convert.passes.fold_backward import fold_backward
from tests.strategies import SEEDS

ATOL = 1e-9  # float64 rounding of sums of a few dozen products of order one
SHAPE = (4, 5, 5)


def batch_norm(rng: np.random.Generator, name: str, source: str, shape: tuple[int, ...] = SHAPE) -> ir.BatchNorm:
    c = shape[0]
    mean, gamma, beta = rng.normal(size=(3, c))
    var = rng.uniform(0.2, 3, size=c)
    return ir.BatchNorm(name=name, inputs=(source,), shape=shape, mean=mean, var=var, gamma=gamma, beta=beta)


def layer(rng: np.random.Generator, bias: Array, groups: int = 1) -> ir.Conv2d:
    weight = rng.normal(size=(4, 4 // groups, 3, 3))
    return ir.Conv2d(name="c", inputs=("x",), shape=SHAPE, weight=weight, bias=bias, padding=(1, 1), groups=groups)


def graph_of(*nodes: Node) -> Graph:
    first = ir.Input(name="x", shape=SHAPE, low=-2.0, high=2.0)
    return Graph(nodes=(first, *nodes), outputs=(nodes[-1].name,), timesteps=2, stage="traced")


def same(a: Graph, b: Graph, seed: int) -> None:
    x = {"x": np.random.default_rng(seed).uniform(-2, 2, size=(3, *a["x"].shape))}
    one, two = interpret(a, x).outputs[a.outputs[0]], interpret(b, x).outputs[b.outputs[0]]
    np.testing.assert_allclose(one, two, rtol=0, atol=ATOL)


@given(SEEDS, st.sampled_from([1, 2]), st.booleans(), st.integers(1, 2))
def test_batch_norms_behind_a_convolution_fold_into_it(seed: int, groups: int, mapped: bool, norms: int) -> None:
    rng = np.random.default_rng(seed)
    bias = rng.normal(size=SHAPE if mapped else 4)
    chain = [batch_norm(rng, f"n{i}", "c" if i == 0 else f"n{i - 1}") for i in range(norms)]
    graph = graph_of(layer(rng, bias, groups), *chain)
    text, folded = render(graph), fold_backward(graph)
    assert [node.kind for node in folded] == ["Input", "Conv2d"]
    same(folded, graph, seed)
    assert render(graph) == text
    assert render(fold_backward(folded)) == render(folded)


@given(SEEDS)
def test_a_batch_norm_behind_a_linear_layer_folds_into_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    dense = ir.Linear(name="l", inputs=("x",), shape=(3,), weight=rng.normal(size=(3, 100)), bias=rng.normal(size=3))
    graph = graph_of(dense, batch_norm(rng, "n", "l", (3,)))
    folded = fold_backward(graph)
    assert [node.kind for node in folded] == ["Input", "Linear"]
    same(folded, graph, seed)


def test_a_layer_that_others_read_is_left_alone() -> None:
    rng = np.random.default_rng(0)
    both = ir.Add(name="a", inputs=("n", "c"), shape=SHAPE)
    graph = graph_of(layer(rng, np.zeros(4)), batch_norm(rng, "n", "c"), both)
    assert [node.kind for node in fold_backward(graph)] == ["Input", "Conv2d", "BatchNorm", "Add"]


def test_a_second_norm_was_folded_although_the_first_has_another_reader() -> None:
    rng = np.random.default_rng(0)
    both = ir.Add(name="a", inputs=("n1", "n0"), shape=SHAPE)
    graph = graph_of(layer(rng, np.zeros(4)), batch_norm(rng, "n0", "c"), batch_norm(rng, "n1", "n0"), both)
    folded = fold_backward(graph)
    same(folded, graph, 0)
    assert [node.kind for node in folded] == ["Input", "Conv2d", "BatchNorm", "Add"]


def test_a_layer_that_is_itself_an_answer_was_changed() -> None:
    rng = np.random.default_rng(0)
    graph = graph_of(layer(rng, np.zeros(4)), batch_norm(rng, "n", "c"))
    graph = Graph(nodes=graph.nodes, outputs=("c", "n"), timesteps=2, stage="traced")
    folded = fold_backward(graph)
    assert folded.outputs == ("c", "n")
    same(folded, graph, 0)


@given(SEEDS, st.booleans(), st.lists(st.sampled_from(["c", "d"]), min_size=1, max_size=4))
def test_a_norm_or_gain_behind_a_sum_folds_into_every_layer_of_it(seed: int, gain: bool, read: list[str]) -> None:
    """The shift must come once, however often a layer is added."""
    rng = np.random.default_rng(seed)
    other = ir.Conv2d(
        name="d", inputs=("x",), shape=SHAPE, weight=rng.normal(size=(4, 4, 1, 1)), bias=rng.normal(size=SHAPE)
    )
    total = ir.Add(name="sum", inputs=tuple(read), shape=SHAPE)
    scale = ir.Scale(name="g", inputs=("sum",), shape=SHAPE, gain=-1.5)
    late: list[Node] = [scale, batch_norm(rng, "n", "g")] if gain else [batch_norm(rng, "n", "sum")]
    graph = graph_of(layer(rng, rng.normal(size=4)), other, total, *late)
    graph = graph.with_nodes(graph.nodes)
    folded = fold_backward(graph)
    assert {node.kind for node in folded} == {"Input", "Conv2d", "Add"}
    assert folded.outputs == ("sum",)
    same(folded, graph, seed)
    assert fold_backward(folded) is folded


def test_a_norm_behind_a_sum_stays_where_something_else_reads_a_part() -> None:
    rng = np.random.default_rng(0)
    total = ir.Add(name="sum", inputs=("c", "x"), shape=SHAPE)
    graph = graph_of(layer(rng, np.zeros(4)), total, batch_norm(rng, "n", "sum"))
    assert fold_backward(graph) is graph  # the input has no weights
    both = ir.Add(name="both", inputs=("n", "c"), shape=SHAPE)
    total = ir.Add(name="sum", inputs=("c", "c"), shape=SHAPE)
    graph = graph_of(layer(rng, np.zeros(4)), total, batch_norm(rng, "n", "sum"), both)
    assert fold_backward(graph) is graph
