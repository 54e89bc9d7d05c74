from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.fixed_interpreter import connect
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.interpreter import interpret
from avsnn.convert.ir.kernels import conv_size
from avsnn.convert.ir.node import Array, Node
from avsnn.convert.ir.text import render
from avsnn.convert.passes.fold_linear import fold_linear
from avsnn.deploy.backends.exact_sums import ExactSums
from avsnn.deploy.reports.fanout import fanout
from avsnn.errors import CapabilityError
from tests.strategies import SEEDS

ATOL = 1e-9  # float64 rounding of sums of a few hundred products of order one


def graph_of(*nodes: Node) -> Graph:
    return Graph(nodes=nodes, outputs=(nodes[-1].name,), timesteps=2, stage="traced")


def image(shape: tuple[int, ...]) -> ir.Input:
    return ir.Input(name="x", shape=shape, low=-2.0, high=2.0)


def outputs(graph: Graph, x: Array) -> Array:
    return interpret(graph, {"x": x}).outputs[graph.outputs[0]]


def assert_same(before: Graph, after: Graph, rng: np.random.Generator) -> None:
    """Equal answers; and a tap changed would show."""
    x = rng.uniform(-2, 2, size=(2, *before.nodes[0].shape))
    np.testing.assert_allclose(outputs(after, x), outputs(before, x), rtol=0, atol=ATOL)
    layer: Any = after[after.outputs[0]]
    if isinstance(layer, ir.Conv2d | ir.Linear):
        wrong = replace(after, nodes=(*after.nodes[:-1], replace(layer, weight=layer.weight + 0.1)))
        assert np.abs(outputs(wrong, x) - outputs(before, x)).max() > 1e-3


def layer(
    rng: np.random.Generator, name: str, source: str, shape: tuple[int, ...], out: int, kernel: Any, **geometry: Any
) -> ir.Conv2d:
    groups = geometry.get("groups", 1)
    sizes = {k: geometry.get(k, d) for k, d in (("stride", (1, 1)), ("padding", (0, 0)), ("dilation", (1, 1)))}
    rows, columns = conv_size((shape[1], shape[2]), kernel, **sizes)
    if min(rows, columns) < 1:  # drawn too large for the image
        reject()
    weight = rng.normal(size=(out, shape[0] // groups, *kernel))
    return ir.Conv2d(
        name=name, inputs=(source,), shape=(out, rows, columns), weight=weight, bias=rng.normal(size=out), **geometry
    )


def pairs(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


GEOMETRIES = st.fixed_dictionaries(
    {"kernel": pairs(1, 3), "stride": pairs(1, 2), "padding": pairs(0, 1), "dilation": pairs(1, 2)}
)
ONES = {"kernel": (1, 1), "stride": (1, 1), "padding": (0, 0), "dilation": (1, 1)}


@given(SEEDS, GEOMETRIES, GEOMETRIES, st.sampled_from([1, 2]), st.sampled_from([1, 2]), st.sampled_from("abc"))
def test_two_convolutions_are_one_where_the_second_pads_nothing_or_one_is_1x1(
    seed: int, first: dict[str, Any], second: dict[str, Any], groups: int, late_groups: int, kind: str
) -> None:
    rng = np.random.default_rng(seed)
    shape = (4, 9, 8)
    if kind == "a":
        first = ONES  # and the bias in front of padding becomes a map
    elif kind == "b":
        second = {**ONES, "stride": second["stride"]}
    else:
        second = {**second, "padding": (0, 0)}
    a = layer(rng, "a", "x", shape, 4, groups=groups, **first)
    b = layer(rng, "b", "a", a.shape, 6, groups=late_groups, **second)
    graph = graph_of(image(shape), a, b)
    text, folded = render(graph), fold_linear(graph)
    assert [node.kind for node in folded] == ["Input", "Conv2d"]
    assert folded["b"].shape == b.shape
    assert_same(graph, folded, rng)
    assert render(graph) == text
    assert fold_linear(folded) is folded


@given(SEEDS, pairs(1, 3), pairs(4, 9), st.sampled_from([0, 1]))
def test_an_average_pool_goes_into_a_padding_convolution_if_its_windows_end_with_the_image(
    seed: int, window: tuple[int, int], size: tuple[int, int], padding: int
) -> None:
    rng = np.random.default_rng(seed)
    pool = layer(rng, "pool", "x", (2, *size), 2, window, stride=window, groups=2)
    pool = replace(pool, weight=np.full_like(pool.weight, 1 / np.prod(window)), bias=np.zeros(2))
    graph = graph_of(image((2, *size)), pool, layer(rng, "b", "pool", pool.shape, 3, (1, 3), padding=(0, padding)))
    if padding and size[1] % window[1]:  # the window behind the last one would still see the image
        with pytest.raises(CapabilityError, match=r"^b: two layers without a neuron.*found pool before b"):
            fold_linear(graph)
        return
    folded = fold_linear(graph)
    assert [node.kind for node in folded] == ["Input", "Conv2d"]
    assert_same(graph, folded, rng)


@pytest.mark.parametrize("seed", range(3))
def test_two_padding_convolutions_stay_apart_and_are_named(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a = layer(rng, "a", "x", (2, 5, 5), 2, (3, 3), padding=(1, 1))
    graph = graph_of(image((2, 5, 5)), a, layer(rng, "b", "a", a.shape, 2, (3, 3), padding=(1, 1)))
    with pytest.raises(CapabilityError, match=r"^b: .*put neurons between them, or let the later one pad nothing"):
        fold_linear(graph)


@given(SEEDS, GEOMETRIES, st.sampled_from([1, 2]))
def test_a_linear_layer_takes_in_convolutions_sums_gains_and_orders(
    seed: int, geometry: dict[str, Any], groups: int
) -> None:
    rng = np.random.default_rng(seed)
    shape = (4, 6, 5)
    a = layer(rng, "a", "x", shape, 2, groups=groups, **geometry)
    c, h, w = a.shape
    half = ir.Scale(name="half", inputs=("a",), shape=a.shape, gain=0.5)
    both = ir.Add(name="both", inputs=("a", "half", "a"), shape=a.shape)
    turned = ir.Permute(name="turned", inputs=("both",), shape=(w * c, h), axes=(2, 0, 1))
    flat = ir.Flatten(name="flat", inputs=("turned",), shape=(c * h * w,))
    hidden = dense(rng, "hidden", "flat", c * h * w, 5)
    graph = graph_of(image(shape), a, half, both, turned, flat, hidden, dense(rng, "out", "hidden", 5, 3))
    folded = fold_linear(graph)
    assert {node.kind for node in folded} <= {"Input", "Linear", "Add"}
    assert_same(graph, folded, rng)


def dense(rng: np.random.Generator, name: str, source: str, width: int, out: int) -> ir.Linear:
    weight = rng.normal(size=(out, width))
    return ir.Linear(name=name, inputs=(source,), shape=(out,), weight=weight, bias=rng.normal(size=out))


def test_a_layer_that_others_read_stays_for_them() -> None:
    rng = np.random.default_rng(0)
    a, b = dense(rng, "a", "x", 4, 3), dense(rng, "b", "a", 3, 3)
    graph = graph_of(image((4,)), a, b, ir.Add(name="sum", inputs=("a", "b"), shape=(3,)))
    folded = fold_linear(graph)
    assert folded["b"].inputs == ("x",)
    assert folded["sum"].inputs == ("a", "b")
    assert_same(graph, folded, rng)


def test_spikes_and_gains_on_them_stay_in_front_of_a_layer() -> None:
    rng = np.random.default_rng(1)
    neurons = ir.LIF(name="s", inputs=("a",), shape=(3,), decay=0.5, gain=0.5, threshold=1.0)
    gain = ir.Scale(name="g", inputs=("s",), shape=(3,), gain=1.5)
    graph = graph_of(image((4,)), dense(rng, "a", "x", 4, 3), neurons, gain, dense(rng, "b", "g", 3, 2))
    assert fold_linear(graph) is graph


# Frames of features (F, K) are made channels (K, F, 1) for a 1x1 convolution. As an image (1, F, K) they need no order.


def frames(rng: np.random.Generator, kernel: int = 1, **geometry: Any) -> Graph:
    turned = ir.Permute(name="turned", inputs=("x",), shape=(6, 7, 1), axes=(1, 0))
    first = layer(rng, "fc", "turned", turned.shape, 5, (kernel, 1), **geometry)
    return graph_of(image((7, 6)), turned, first)


@given(SEEDS, st.integers(1, 3), st.integers(0, 1), st.integers(1, 2), st.integers(1, 2))
def test_frames_are_read_as_they_are(seed: int, kernel: int, pad: int, stride: int, dilation: int) -> None:
    rng = np.random.default_rng(seed)
    graph = frames(rng, kernel, padding=(pad, 0), stride=(stride, 1), dilation=(dilation, 1))
    folded = fold_linear(graph)
    assert [node.kind for node in folded] == ["Input", "Conv2d"]
    made, original = folded["fc"], graph["fc"]
    assert isinstance(made, ir.Conv2d)
    assert isinstance(original, ir.Conv2d)
    assert made.weight.size == original.weight.size
    assert_same(graph, folded, rng)


def test_frames_are_read_alike_by_interpreter_simulator_and_counts() -> None:
    rng = np.random.default_rng(4)
    made = fold_linear(frames(rng))["fc"]
    assert isinstance(made, ir.Conv2d)
    weight = rng.integers(-9, 9, size=made.weight.shape)
    weight[0, 0, 0, 2] = 0
    held = fixed.HeldCurrent(
        name="fc", inputs=("x",), shape=made.shape, weight=weight, bias=np.zeros(5, dtype=np.int64), stride=made.stride
    )
    x = rng.integers(-20, 20, size=(3, 7, 6))
    expected = np.einsum("eck,nfk->nef", weight[:, 0], x)[..., None]
    np.testing.assert_array_equal(connect(held, x), expected)
    np.testing.assert_array_equal(ExactSums(node=held, source_shape=(7, 6), peak=20)(x), expected)
    stored, nonzero = fanout(held, (7, 6))
    assert stored.shape == nonzero.shape == (7, 6)
    assert (stored == 5).all()
    np.testing.assert_array_equal(nonzero, np.broadcast_to((weight != 0).sum(axis=(0, 1, 2)), (7, 6)))


def test_other_orders_in_front_of_a_convolution_stay() -> None:
    rng = np.random.default_rng(5)
    turned = ir.Permute(name="turned", inputs=("x",), shape=(3, 5, 4), axes=(1, 2, 0))
    graph = graph_of(image((4, 3, 5)), turned, layer(rng, "fc", "turned", turned.shape, 2, (3, 3)))
    assert fold_linear(graph) is graph
