from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.interpreter import interpret
from avsnn.convert.ir.kernels import conv_size
from avsnn.convert.ir.node import Array, Node
from avsnn.convert.ir.text import render
from avsnn.convert.passes.fold_forward import fold_forward
from tests.strategies import SEEDS

ATOL = 1e-9  # float64 rounding of sums of a few dozen products of order one


def graph_of(*nodes: Node) -> Graph:
    return Graph(nodes=nodes, outputs=(nodes[-1].name,), timesteps=2, stage="traced")


def image(channels: int, size: tuple[int, int]) -> ir.Input:
    return ir.Input(name="x", shape=(channels, *size), low=-2.0, high=2.0)


def norm(rng: np.random.Generator, kind: str, name: str, source: str, shape: tuple[int, ...]) -> Node:
    c = shape[0]
    common: dict[str, Any] = {"name": name, "inputs": (source,), "shape": shape, "mean": rng.normal(size=c)}
    if kind == "Normalise":
        return ir.Normalise(**common, std=rng.uniform(0.3, 2, size=c))
    return ir.BatchNorm(
        **common, var=rng.uniform(0.3, 2, size=c), gamma=rng.normal(size=c), beta=rng.normal(size=c), eps=1e-3
    )


def outputs(graph: Graph, x: Array) -> Array:
    return interpret(graph, {"x": x}).outputs[graph.outputs[0]]


def pairs(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def geometries(draw: st.DrawFn) -> dict[str, Any]:
    kernel, dilation = draw(pairs(1, 3)), draw(pairs(1, 2))
    padding = draw(pairs(0, 2))
    least = [max(1, dilation[k] * (kernel[k] - 1) + 1 - 2 * padding[k]) for k in range(2)]
    size = (draw(st.integers(least[0], least[0] + 5)), draw(st.integers(least[1], least[1] + 5)))
    return {"kernel": kernel, "size": size, "stride": draw(pairs(1, 3)), "padding": padding, "dilation": dilation}


@given(SEEDS, geometries(), st.sampled_from([1, 2]), st.sampled_from(["Normalise", "BatchNorm"]), st.booleans())
def test_a_norm_in_front_of_any_convolution_folds_into_it(
    seed: int, geometry: dict[str, Any], groups: int, kind: str, twice: bool
) -> None:
    rng = np.random.default_rng(seed)
    kernel, size = geometry.pop("kernel"), geometry.pop("size")
    before: list[Node] = [image(4, size), norm(rng, kind, "n", "x", (4, *size))]
    if twice:
        before.append(norm(rng, "BatchNorm", "n2", "n", (4, *size)))
    shape = (6, *conv_size(size, kernel, **{k: geometry[k] for k in ("stride", "padding", "dilation")}))
    weight = rng.normal(size=(6, 4 // groups, *kernel))
    layer = ir.Conv2d(
        name="c", inputs=(before[-1].name,), shape=shape, weight=weight, bias=rng.normal(size=6), groups=groups,
        **geometry,
    )  # fmt: skip
    graph = graph_of(*before, layer)
    text, x = render(graph), rng.uniform(-2, 2, size=(2, 4, *size))
    folded = fold_forward(graph)
    assert [node.kind for node in folded] == ["Input", "Conv2d"]
    np.testing.assert_allclose(outputs(folded, x), outputs(graph, x), rtol=0, atol=ATOL)
    assert render(graph) == text
    assert graph["c"].inputs == (before[-1].name,)
    assert render(fold_forward(folded)) == render(folded)


@given(SEEDS)
def test_a_norm_in_front_of_a_linear_layer_folds_into_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    vector = ir.Input(name="x", shape=(5,), low=-2.0)
    head = ir.Linear(name="l", inputs=("n",), shape=(3,), weight=rng.normal(size=(3, 5)), bias=rng.normal(size=3))
    graph = graph_of(vector, norm(rng, "BatchNorm", "n", "x", (5,)), head)
    folded, x = fold_forward(graph), rng.uniform(-2, 1, size=(4, 5))
    assert [node.kind for node in folded] == ["Input", "Linear"]
    np.testing.assert_allclose(outputs(folded, x), outputs(graph, x), rtol=0, atol=ATOL)


def bias_vectors(stride: int, size: int = 9) -> Array:
    """The bias map of a 3 x 3 convolution with padding 1 behind a norm, one row per pixel."""
    rng = np.random.default_rng(0)
    side = (size - 1) // stride + 1
    layer = ir.Conv2d(
        name="c", inputs=("n",), shape=(3, side, side), weight=rng.normal(size=(3, 2, 3, 3)), bias=np.zeros(3),
        stride=(stride, stride), padding=(1, 1),
    )  # fmt: skip
    graph = graph_of(image(2, (size, size)), norm(rng, "Normalise", "n", "x", (2, size, size)), layer)
    folded = fold_forward(graph)["c"]
    assert isinstance(folded, ir.Conv2d)
    return folded.bias.reshape(3, -1).T


@pytest.mark.parametrize("stride", [1, 2])
def test_three_by_three_with_padding_has_nine_biases_inside_edges_and_corners(stride: int) -> None:
    assert len(np.unique(bias_vectors(stride).round(9), axis=0)) == 9


def test_an_even_image_at_stride_two_never_sees_two_of_its_edges() -> None:
    assert len(np.unique(bias_vectors(2, size=8).round(9), axis=0)) == 4


def test_one_bias_per_channel_is_wrong_at_the_border_and_nowhere_else() -> None:
    """The control of the tests above: the fold that forgets the padding."""
    rng = np.random.default_rng(1)
    n = norm(rng, "Normalise", "n", "x", (2, 6, 6))
    weight = rng.normal(size=(3, 2, 3, 3))
    layer = ir.Conv2d(name="c", inputs=("n",), shape=(3, 6, 6), weight=weight, bias=np.zeros(3), padding=(1, 1))
    graph = graph_of(image(2, (6, 6)), n, layer)
    folded = fold_forward(graph)["c"]
    assert isinstance(folded, ir.Conv2d)
    naive = ir.Conv2d(
        name="c", inputs=("x",), shape=(3, 6, 6), weight=folded.weight, bias=folded.bias[:, 3, 3], padding=(1, 1)
    )
    x = rng.uniform(-2, 2, size=(2, 2, 6, 6))
    off = np.abs(outputs(graph_of(graph["x"], naive), x) - outputs(graph, x)).max(axis=(0, 1)) > ATOL
    assert off[0].all()
    assert off[:, -1].all()
    assert not off[1:-1, 1:-1].any()


def test_a_norm_that_others_read_stays_for_them() -> None:
    rng = np.random.default_rng(2)
    shape = (2, 4, 4)
    layer = ir.Conv2d(name="c", inputs=("n",), shape=shape, weight=rng.normal(size=(2, 2, 1, 1)), bias=np.zeros(2))
    both = ir.Add(name="a", inputs=("c", "n"), shape=shape)
    graph = graph_of(image(2, (4, 4)), norm(rng, "BatchNorm", "n", "x", shape), layer, both)
    folded, x = fold_forward(graph), rng.uniform(-1, 1, size=(2, *shape))
    assert folded["c"].inputs == ("x",)
    assert folded["a"].inputs == ("c", "n")
    np.testing.assert_allclose(outputs(folded, x), outputs(graph, x), rtol=0, atol=ATOL)


# What may stand between the norm and the layer, and around it.


def dense(rng: np.random.Generator, source: str, width: int, name: str = "out") -> ir.Linear:
    return ir.Linear(
        name=name, inputs=(source,), shape=(3,), weight=rng.normal(size=(3, width)), bias=rng.normal(size=3)
    )


def conv3(rng: np.random.Generator, source: str, channels: int, groups: int = 1) -> ir.Conv2d:
    weight = rng.normal(size=(4, channels // groups, 3, 3))
    return ir.Conv2d(
        name="out", inputs=(source,), shape=(4, 3, 5), weight=weight, bias=rng.normal(size=4), padding=(1, 1),
        groups=groups,
    )  # fmt: skip


A, B = (4, 3, 5), (2, 3, 5)
BETWEEN: dict[str, Callable[[np.random.Generator], list[Node]]] = {
    "norm of joined channels": lambda rng: [
        ir.Concat(name="cat", inputs=("x", "half"), shape=(6, 3, 5)),
        norm(rng, "BatchNorm", "n", "cat", (6, 3, 5)),
        conv3(rng, "n", 6, groups=2),
    ],
    "joined norms": lambda rng: [
        norm(rng, "BatchNorm", "n", "x", A),
        ir.Concat(name="cat", inputs=("n", "half", "n"), shape=(10, 3, 5)),
        conv3(rng, "cat", 10),
    ],
    "joined norms, flat": lambda rng: [
        norm(rng, "BatchNorm", "n", "x", A),
        ir.Flatten(name="f1", inputs=("n",), shape=(60,)),
        ir.Flatten(name="f2", inputs=("half",), shape=(30,)),
        ir.Concat(name="cat", inputs=("f1", "f2"), shape=(90,)),
        norm(rng, "BatchNorm", "m", "cat", (90,)),
        dense(rng, "m", 90),
    ],
    "flatten": lambda rng: [
        norm(rng, "BatchNorm", "n", "x", A),
        ir.Flatten(name="flat", inputs=("n",), shape=(60,)),
        dense(rng, "flat", 60),
    ],
    "another order": lambda rng: [
        norm(rng, "BatchNorm", "n", "x", A),
        ir.Permute(name="turned", inputs=("n",), shape=(15, 4), axes=(1, 2, 0)),
        dense(rng, "turned", 60),
    ],
    "mean over tokens": lambda rng: [
        norm(rng, "BatchNorm", "n", "x", A),
        ir.MeanSpace(name="mean", inputs=("n",), shape=(4,)),
        dense(rng, "mean", 4),
    ],
    "a sum with what has no norm": lambda rng: [
        norm(rng, "BatchNorm", "n", "x", A),
        ir.Scale(name="g", inputs=("n",), shape=A, gain=-0.5),
        ir.Add(name="sum", inputs=("x", "g", "n", "x"), shape=A),
        conv3(rng, "sum", 4, groups=2),
    ],
}


@given(SEEDS, st.sampled_from(sorted(BETWEEN)))
def test_a_norm_folds_through_sums_joined_channels_means_and_orders(seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    half = ir.Conv2d(name="half", inputs=("x",), shape=B, weight=rng.normal(size=(2, 4, 1, 1)), bias=np.zeros(2))
    spikes = ir.LIF(name="s", inputs=("half",), shape=B, decay=0.5, gain=0.5, threshold=0.5)
    nodes = [replace(n, inputs=tuple("s" if i == "half" else i for i in n.inputs)) for n in BETWEEN[kind](rng)]
    graph = graph_of(ir.Input(name="x", shape=A, low=-2.0, high=2.0), half, spikes, *nodes)
    text, folded, x = render(graph), fold_forward(graph), rng.uniform(-2, 2, size=(2, *A))
    assert {node.kind for node in folded} <= {"Input", "Conv2d", "Linear", "LIF", "Add", "Flatten"}
    np.testing.assert_allclose(outputs(folded, x), outputs(graph, x), rtol=0, atol=ATOL)
    assert render(graph) == text
    assert fold_forward(folded) is folded
    late = [n for n in folded if isinstance(n, ir.Conv2d | ir.Linear)][-1]
    wrong = replace(folded, nodes=tuple(replace(n, bias=n.bias + 0.1) if n is late else n for n in folded))
    assert np.abs(outputs(wrong, x) - outputs(graph, x)).max() > 1e-3


@given(SEEDS, pairs(1, 3), pairs(1, 2), st.sampled_from(["positive", "mixed", "zero"]))
def test_a_maximum_behind_a_norm_of_spikes_goes_before_it(
    seed: int, kernel: tuple[int, int], stride: tuple[int, int], signs: str
) -> None:
    """Where the gain is negative the maximum is where no neuron of the window fires: an AND."""
    rng = np.random.default_rng(seed)
    shape, pad = (3, 5, 6), (kernel[0] // 2, kernel[1] // 2)
    spikes = ir.LIF(name="s", inputs=("x",), shape=shape, decay=0.5, gain=0.5, threshold=0.2)
    late = norm(rng, "BatchNorm", "n", "s", shape)
    assert isinstance(late, ir.BatchNorm)
    gamma = {"positive": np.abs(late.gamma), "mixed": late.gamma, "zero": np.abs(late.gamma) * [1, 0, 1]}[signs]
    rows, columns = conv_size(shape[1:], kernel, stride, pad)
    pool = ir.MaxPool2d(name="pool", inputs=("n",), shape=(3, rows, columns), kernel=kernel, stride=stride, padding=pad)
    layer = ir.Conv2d(
        name="c", inputs=("pool",), shape=pool.shape, weight=rng.normal(size=(3, 3, 1, 1)), bias=np.zeros(3)
    )
    late = replace(late, gamma=gamma)
    graph = graph_of(ir.Input(name="x", shape=shape), spikes, late, pool, layer)
    folded, x = fold_forward(graph), rng.uniform(0, 1, size=(4, *shape))
    assert not folded.of(ir.BatchNorm)
    assert bool(folded.of(ir.MaxPool2d)) == bool((gamma >= 0).all())
    np.testing.assert_allclose(outputs(folded, x), outputs(graph, x), rtol=0, atol=ATOL)
