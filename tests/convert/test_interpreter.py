from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import signal

from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.interpreter import apply, fire, interpret
from avsnn.convert.ir.kernels import conv2d, max_pool2d
from avsnn.convert.ir.node import Array, Node
from avsnn.errors import InputError
from tests.strategies import SEEDS, inputs_for, spiking_graph

ATOL = 1e-12  # sums of a few dozen products of order one in another order
PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))


@given(SEEDS, PAIRS, PAIRS, st.tuples(st.integers(0, 2), st.integers(0, 3)), PAIRS, st.sampled_from([1, 2, 4]))
def test_convolution_is_that_of_torch_for_odd_geometry(
    seed: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> None:
    rng = np.random.default_rng(seed)
    x, weight = rng.normal(size=(2, 4, 8, 9)), rng.normal(size=(8, 4 // groups, *kernel))
    wanted = torch.nn.functional.conv2d(
        torch.from_numpy(x), torch.from_numpy(weight), None, stride, padding, dilation, groups
    )
    np.testing.assert_allclose(conv2d(x, weight, stride, padding, dilation, groups), wanted.numpy(), rtol=0, atol=ATOL)


def test_convolution_is_the_cross_correlation_of_scipy() -> None:
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(1, 1, 6, 7)), rng.normal(size=(1, 1, 3, 2))
    wanted = signal.correlate2d(x[0, 0], weight[0, 0], mode="valid")
    np.testing.assert_allclose(conv2d(x, weight, (1, 1), (0, 0), (1, 1), 1)[0, 0], wanted, rtol=0, atol=ATOL)


def test_integer_convolution_stays_integer_beyond_the_floats() -> None:
    x, weight = np.full((1, 1, 1, 2), 2**53 + 1), np.ones((1, 1, 1, 2), dtype=np.int64)
    assert conv2d(x, weight, (1, 1), (0, 0), (1, 1), 1).item() == 2**54 + 2


@given(SEEDS, PAIRS, PAIRS, st.booleans())
def test_max_pooling_is_that_of_torch(
    seed: int, kernel: tuple[int, int], stride: tuple[int, int], padded: bool
) -> None:
    padding = (kernel[0] // 2, kernel[1] // 2) if padded else (0, 0)
    x = np.random.default_rng(seed).normal(-3, 1, size=(2, 3, 7, 6))  # negative: a padding of zeros would win
    wanted = torch.nn.functional.max_pool2d(torch.from_numpy(x), kernel, stride, padding)
    np.testing.assert_array_equal(max_pool2d(x, kernel, stride, padding), wanted.numpy())


def walk(currents: list[float], **options: Any) -> tuple[list[bool], list[float], list[bool]]:
    values: dict[str, Any] = {"name": "p", "decay": 0.5, "gain": 1.0, "threshold": 1.0}
    node = ir.LIF(**(values | options))
    s, v, ties = fire(node, np.array(currents)[:, None], len(currents), None)
    return s[:, 0].tolist(), v[:, 0].tolist(), ties[:, 0].tolist()


def test_hard_reset_by_hand() -> None:
    spikes, states, ties = walk([0.75, 0.75, 0.75, 2.0])
    assert spikes == [False, True, False, True]  # u = 0.75, 1.125, 0.75, 2.375
    assert states == [0.75, 0.0, 0.75, 0.0]
    assert ties == [False] * 4


def test_reset_by_subtraction_by_hand() -> None:
    spikes, states, _ = walk([0.75, 0.75, 0.75, 2.0], reset="subtract")
    assert spikes == [False, True, False, True]  # u = 0.75, 1.125, 0.8125, 2.40625
    assert states == [0.75, 0.125, 0.8125, 1.40625]


def test_delayed_reset_by_subtraction_by_hand() -> None:
    spikes, states, _ = walk([0.75, 0.75, 0.75, 2.0, 0.0], reset="subtract_delayed")
    # u = 0.75, 1.125, 0.5625 - 1 + 0.75 = 0.3125, 2.15625, 1.078125 - 1
    assert spikes == [False, True, False, True, False]
    assert states == [0.75, 1.125, 0.3125, 2.15625, 0.078125]


def test_an_unknown_reset_is_an_error() -> None:
    with pytest.raises(InputError, match=r"^p: unknown reset, found soft"):
        walk([1.0], reset="soft")


@pytest.mark.parametrize(("strict", "spikes"), [(False, [True, True]), (True, [False, True])])
def test_a_tie_fires_unless_strict_and_is_marked(strict: bool, spikes: list[bool]) -> None:
    found, _, ties = walk([1.0, 1.0], strict=strict)
    assert found == spikes
    assert ties == [True, not strict]


def test_thresholds_may_differ_between_neurons() -> None:
    thresholds = np.array([[0.5], [1.0]])  # of two channels
    currents = np.broadcast_to([[0.75, 0.75], [0.75, 0.75]], (3, 1, 2, 2))
    node = ir.LIF(name="p", shape=(2, 2), decay=0.5, gain=1.0, threshold=thresholds, reset="subtract")
    spikes, states, ties = fire(node, currents, 3, None)
    for channel, threshold in enumerate(thresholds[:, 0]):
        wanted = walk([0.75] * 3, threshold=threshold, reset="subtract")
        for position in range(2):
            found = tuple(x[:, 0, channel, position].tolist() for x in (spikes, states, ties))
            assert found == wanted


def test_gain_scales_the_current_alone() -> None:
    assert walk([1.0, 1.0, 2.0], gain=0.5) == walk([0.5, 0.5, 1.0])


def test_force_replaces_what_is_sent_and_reset_but_not_what_is_decided() -> None:
    graph = spiking_graph(0, depth=2)
    x = inputs_for(graph, 1)
    free = interpret(graph, x)
    again = interpret(graph, x, force=free.spikes)
    for name, spikes in free.spikes.items():
        np.testing.assert_array_equal(again.spikes[name], spikes)
        np.testing.assert_array_equal(again.states[name]["v"], free.states[name]["v"])
    everything = {"p0": np.ones_like(free.spikes["p0"])}
    forced = interpret(graph, x, force=everything)
    assert not forced.spikes["p0"].all()  # its own decision
    assert not forced.states["p0"]["v"].any()  # but reset at every step
    layer, p1 = graph["c1"], graph["p1"]
    assert isinstance(layer, ir.Conv2d)
    assert isinstance(p1, ir.LIF)
    current = conv2d(np.ones((1, 2, 5, 5)), layer.weight, (1, 1), (1, 1), (1, 1), 1) + layer.bias[:, None, None]
    spikes, _, _ = fire(p1, np.broadcast_to(current, (4, 3, 2, 5, 5)), 4, None)
    np.testing.assert_array_equal(forced.spikes["p1"], spikes)


def bad(x: Array) -> dict[str, tuple[dict[str, Array], str]]:
    outside, nan = x.copy(), x.copy()
    outside.flat[3], nan.flat[0] = 1.5, np.nan
    return {
        "missing": ({"other": x}, "^x: input missing, found other"),
        "one axis too few": ({"x": x[0]}, "^x: wrong input shape"),
        "another image": ({"x": x[..., 1:]}, "^x: wrong input shape"),
        "nan": ({"x": nan}, "^x: input holds NaN or infinity"),
        "infinity": ({"x": np.where(np.isnan(nan), np.inf, nan)}, "^x: input holds NaN or infinity"),
        "outside": ({"x": outside}, "^x: input outside its declared range, found 0.* to 1.5, limit 0 to 1; "),
        "below": ({"x": x - 0.5}, "^x: input outside its declared range"),
    }


@pytest.mark.parametrize("kind", bad(np.zeros((3, 2, 5, 5))))
@pytest.mark.parametrize("coding", ["direct", "sequence"])
def test_inputs_that_cannot_be_meant_are_refused(kind: str, coding: str) -> None:
    graph = spiking_graph(0, coding=coding)
    inputs, message = bad(inputs_for(graph, 0)["x"])[kind]
    with pytest.raises(InputError, match=message):
        interpret(graph, inputs)


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_a_sequence_of_another_length_was_repeated_or_broke_in_numpy(steps: int) -> None:
    graph = spiking_graph(0, T=4, coding="sequence")
    with pytest.raises(InputError, match=r"^x: wrong input shape, found .*, limit \(4, 'batch', 2, 5, 5\)"):
        interpret(graph, {"x": np.zeros((steps, 3, 2, 5, 5))})


def test_a_node_without_a_meaning_is_an_error() -> None:
    strange = Node(name="what", inputs=("x",), shape=(2,))
    graph = Graph(nodes=(ir.Input(name="x", shape=(2,)), strange), outputs=("what",), timesteps=1, stage="traced")
    with pytest.raises(InputError, match=r"^what: no float meaning, found Node"):
        interpret(graph, {"x": np.zeros((1, 2))})


def wave(shape: tuple[int, ...], T: int = 3, B: int = 2) -> Array:
    """(T, B, *shape) of small whole numbers, no two neighbours alike."""
    return np.arange(T * B * np.prod(shape)).reshape(T, B, *shape) * 5 % 7 - 2.0


def meaning(node: Node, *arguments: Array) -> Array:
    return apply(node, list(arguments))


def test_attention_over_space_term_by_term() -> None:
    q, k, v = wave((4, 2, 1)), wave((4, 3, 1)) + 1, wave((4, 3, 1)) * 2 + 1
    node = ir.Attention(name="a", shape=(4, 2, 1), heads=2, scale=0.5, over="space")
    found = meaning(node, q, k, v)
    for t, b, c, m in np.ndindex(3, 2, 4, 2):
        head = slice(c // 2 * 2, c // 2 * 2 + 2)
        terms = [(q[t, b, head, m, 0] @ k[t, b, head, n, 0]) * v[t, b, c, n, 0] for n in range(3)]
        assert found[t, b, c, m, 0] == 0.5 * sum(terms)


def test_attention_over_time_term_by_term() -> None:
    q, k, v = wave((4, 2, 1)), wave((4, 2, 1)) + 1, wave((4, 2, 1)) * 2 + 1
    node = ir.Attention(name="a", shape=(4, 2, 1), heads=2, scale=0.5, over="time")
    found = meaning(node, q, k, v)
    for t, b, c, n in np.ndindex(3, 2, 4, 2):
        head = slice(c // 2 * 2, c // 2 * 2 + 2)
        terms = [(q[t, b, head, n, 0] @ k[s, b, head, n, 0]) * v[s, b, c, n, 0] for s in range(3)]
        assert found[t, b, c, n, 0] == 0.5 * sum(terms)


def test_a_current_that_does_not_change_counts_at_every_step_of_attention_over_time() -> None:
    x = ir.Input(name="x", shape=(2, 1, 1))
    node = ir.Attention(name="a", inputs=("x", "x", "x"), shape=(2, 1, 1), heads=1, scale=1.0, over="time")
    graph = Graph(nodes=(x, node), outputs=("a",), timesteps=3, stage="traced")
    found = interpret(graph, {"x": np.array([[1.0, 0.5]])[:, :, None, None]}).outputs["a"]
    np.testing.assert_array_equal(found.ravel(), [3 * 1.25, 3 * 0.625])


def test_a_map_of_attention_and_the_values_it_picks_term_by_term() -> None:
    q, k, v, bias = wave((4, 3)), wave((4, 3)) + 1, wave((4, 3)) * 2 + 1, wave((3, 3))[0, 0] / 4
    scores = meaning(ir.AttentionMap(name="s", shape=(2, 3, 3), heads=2, bias=bias), q, k)
    picked = meaning(ir.MappedValues(name="a", shape=(4, 3), scale=0.5), scores, v)
    for t, b, h, m in np.ndindex(3, 2, 2, 3):
        head = slice(2 * h, 2 * h + 2)
        for n in range(3):
            assert scores[t, b, h, m, n] == q[t, b, head, m] @ k[t, b, head, n] + bias[m, n]
        for c in (2 * h, 2 * h + 1):
            assert picked[t, b, c, m] == 0.5 * (scores[t, b, h, m] @ v[t, b, c])


def test_the_product_of_means_term_by_term() -> None:
    x, y = wave((2, 2, 2), T=4), wave((2, 2, 2), T=4) + 1
    found = meaning(ir.ProductOfMeans(name="r", shape=(2, 2, 2)), x, y)
    for t, b, c, i, j in np.ndindex(4, 2, 2, 2, 2):
        assert found[t, b, c, i, j] == x[t, b, c].mean() * y[:, b, c, i, j].mean()


def test_gains_of_a_step_and_of_a_number() -> None:
    x, w = wave((2, 3, 1)), wave((1,))
    found = meaning(ir.StepGain(name="w", shape=(2, 3, 1)), x, w)
    for t, b in np.ndindex(3, 2):
        np.testing.assert_array_equal(found[t, b], x[t, b] * w[t, b, 0])
    np.testing.assert_array_equal(meaning(ir.Scale(name="s", shape=(2, 3, 1), gain=1.5), x), 1.5 * x)


@pytest.mark.parametrize("variance", [np.array(2.0), np.array([[0.5], [2.0], [4.0]])])
def test_norm_of_tokens_with_frozen_variance_term_by_term(variance: Array) -> None:
    x, gamma, beta = wave((4, 3, 1)), np.array([1.0, 2.0, -1.0, 0.5]), np.array([0.0, 1.0, 2.0, 3.0])
    found = meaning(ir.DSLN(name="n", shape=(4, 3, 1), var=variance, gamma=gamma, beta=beta, eps=0.25), x)
    for t, b, c, i in np.ndindex(3, 2, 4, 3):
        var = variance if variance.ndim == 0 else variance[i, 0]
        wanted = gamma[c] * (x[t, b, c, i, 0] - x[t, b, :, i, 0].mean()) / np.sqrt(var + 0.25) + beta[c]
        assert found[t, b, c, i, 0] == pytest.approx(wanted, rel=ATOL, abs=ATOL)


@pytest.mark.parametrize("variant", [False, True])
def test_norm_of_tokens_with_their_own_variance_term_by_term(variant: bool) -> None:
    x, gamma, beta = wave((4, 3, 1)), np.array([1.0, 2.0, -1.0, 0.5]), np.array([0.0, 1.0, 2.0, 3.0])
    found = meaning(ir.LayerNorm(name="n", shape=(4, 3, 1), gamma=gamma, beta=beta, eps=0.25, variant=variant), x)
    for t, b, c, i in np.ndindex(3, 2, 4, 3):
        token = x[t, b, :, i, 0]
        deviation = np.sqrt(token.var() + 0.25)
        wanted = gamma[c] * (token[c] - token.mean()) * (deviation if variant else 1 / deviation) + beta[c]
        assert found[t, b, c, i, 0] == pytest.approx(wanted, rel=ATOL, abs=ATOL)


def test_axes_in_another_order_and_another_shape() -> None:
    x = wave((4, 3))
    found = meaning(ir.Permute(name="p", axes=(1, 0), shape=(3, 4, 1)), x)
    np.testing.assert_array_equal(found[..., 0], x.swapaxes(2, 3))
