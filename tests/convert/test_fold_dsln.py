from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avsnn.convert import equivalence as eq
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.interpreter import interpret
from avsnn.convert.ir.node import Array, Node
from avsnn.convert.ir.text import render
from avsnn.convert.passes.fold_dsln import fold_dsln
from avsnn.errors import CapabilityError, VerifyError
from tests.strategies import SEEDS, inputs_for

CHANNELS, PLACES = 4, (5, 1)
SHAPE = (CHANNELS, *PLACES)
RESETS = ("hard", "subtract", "subtract_delayed")


def spikes(rng: np.random.Generator, name: str, shape: tuple[int, ...] = SHAPE) -> list[Node]:
    """Spikes of a population that reads the input channel by channel, so that positions differ."""
    weight = rng.uniform(0.5, 2, size=(shape[0], shape[0], 1, 1))
    layer = ir.Conv2d(name=f"c{name}", inputs=("x",), shape=shape, weight=weight, bias=rng.normal(size=shape[0]))
    return [layer, ir.LIF(name=name, inputs=(layer.name,), shape=shape, decay=0.5, gain=0.5, threshold=1.0)]


def norm(rng: np.random.Generator, source: str, kind: str = "position", shape: tuple[int, ...] = SHAPE) -> ir.DSLN:
    c = shape[0]
    var = rng.uniform(0.05, 0.6, size=shape[1:] if kind == "position" else ())
    return ir.DSLN(
        name="norm", inputs=(source,), shape=shape, var=np.asarray(var), gamma=rng.uniform(0.5, 2, size=c),
        beta=rng.uniform(-0.3, 0.9, size=c), eps=1e-3,
    )  # fmt: skip


def conv1(rng: np.random.Generator, source: str, **options: Any) -> ir.Conv2d:
    common: dict[str, Any] = {"name": "fc", "inputs": (source,), "shape": SHAPE, "bias": rng.uniform(size=CHANNELS)}
    return ir.Conv2d(**{**common, "weight": rng.normal(0.2, 1, size=(CHANNELS, CHANNELS, 1, 1)), **options})


def lif(source: str, reset: str = "hard", **options: Any) -> ir.LIF:
    common: dict[str, Any] = {"name": "out", "inputs": (source,), "shape": SHAPE, "decay": 0.75, "gain": 0.5}
    return ir.LIF(**{**common, "threshold": 0.6, "reset": reset, **options})


def head(rng: np.random.Generator, source: str, width: int = CHANNELS * 5) -> list[Node]:
    weight = rng.normal(size=(3, width))
    row = ir.Linear(name="row", inputs=(source,), shape=(3,), weight=weight, bias=np.zeros(3))
    return [row, ir.Readout(name="y", inputs=("row",), shape=(3,), bias=np.zeros(3))]


def graph_of(*nodes: Node, shape: tuple[int, ...] = SHAPE) -> Graph:
    return Graph(nodes=(ir.Input(name="x", shape=shape), *nodes), outputs=("y",), timesteps=4, stage="traced")


def residual(rng: np.random.Generator, *behind: Node) -> Graph:
    """Two populations and their sum, which is not binary, then ``behind``."""
    total = ir.Add(name="sum", inputs=("a", "b"), shape=SHAPE)
    return graph_of(*spikes(rng, "a"), *spikes(rng, "b"), total, *behind, *head(rng, "out"))


def assert_equal(before: Graph, after: Graph, seed: int) -> eq.Check:
    """Every spike, state and answer is the same, also on random spikes; and a wrong variance would be noticed."""
    x, rng = inputs_for(before, seed), np.random.default_rng(seed)
    free = interpret(before, x)
    driven = {name: rng.random(s.shape) < 0.4 for name, s in free.spikes.items()}
    for force in (free.spikes, driven):
        expected = eq.in_units_of(interpret(before, x, force=force), before, after)
        check = eq.compare("fold", "drawn", expected, interpret(after, x, force=force), exact=False)
    assert not check.silent
    return check


@given(SEEDS, st.sampled_from(RESETS), st.booleans())
def test_a_variance_per_position_moves_into_thresholds_and_biases(seed: int, reset: str, strict: bool) -> None:
    rng = np.random.default_rng(seed)
    graph = residual(rng, norm(rng, "sum"), conv1(rng, "norm"), lif("fc", reset, strict=strict))
    text, folded = render(graph), fold_dsln(graph)
    assert [node.kind for node in folded if node.name in ("norm", "fc", "out")] == ["Conv2d", "LIF"]
    assert folded["fc"].inputs == ("sum",)
    check = assert_equal(graph, folded, seed)
    assert sum(p.states for p in check.populations) == sum(p.spikes for p in check.populations) > 0
    layer, neurons = folded["fc"], folded["out"]
    assert isinstance(layer, ir.Conv2d)
    assert isinstance(neurons, ir.LIF)
    np.testing.assert_allclose(layer.weight.sum(axis=1), 0, atol=1e-12)  # the mean over channels is gone
    assert np.shape(neurons.threshold) == (1, *PLACES)
    assert layer.bias.shape == SHAPE
    assert render(graph) == text
    assert fold_dsln(folded) is folded


@given(SEEDS, st.sampled_from(["shared", "position"]), st.sampled_from(RESETS))
def test_a_layer_before_the_norm_takes_it_where_none_behind_does(seed: int, kind: str, reset: str) -> None:
    rng = np.random.default_rng(seed)
    behind = (replace(conv1(rng, "sum"), name="first"), norm(rng, "first", kind), lif("norm", reset))
    graph = residual(rng, *behind)
    folded = fold_dsln(graph)
    assert folded["out"].inputs == ("first",)
    assert_equal(graph, folded, seed)
    layer = folded["first"]
    assert isinstance(layer, ir.Conv2d)
    assert layer.bias.shape == (SHAPE if kind == "position" else (CHANNELS,))


@given(SEEDS)
def test_of_two_layers_the_one_behind_takes_the_norm(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first = replace(conv1(rng, "sum"), name="first")
    graph = residual(rng, first, norm(rng, "first"), conv1(rng, "norm"), lif("fc"))
    folded = fold_dsln(graph)
    assert folded["fc"].inputs == ("first",)
    assert folded["first"].kind == "Conv2d"
    assert_equal(graph, folded, seed)


@given(SEEDS)
def test_one_variance_folds_into_a_convolution_that_pads_groups_and_feeds_two(seed: int) -> None:
    """The constant beta ends at the border, so the bias becomes a map; groups meet: the mean is over all channels."""
    rng = np.random.default_rng(seed)
    shape = (4, 5, 3)
    layer = ir.Conv2d(
        name="fc", inputs=("norm",), shape=shape, weight=rng.normal(size=(4, 2, 3, 3)), bias=rng.normal(size=4),
        padding=(1, 1), groups=2,
    )  # fmt: skip
    twice = ir.Add(name="twice", inputs=("fc", "fc"), shape=shape)
    nodes = (*spikes(rng, "a", shape), norm(rng, "a", "shared", shape), layer, twice, lif("twice", shape=shape))
    graph = graph_of(*nodes, *head(rng, "out", 60), shape=shape)
    folded = fold_dsln(graph)
    assert not folded.of(ir.DSLN)
    found = folded["fc"]
    assert isinstance(found, ir.Conv2d)
    assert found.bias.shape == shape
    assert_equal(graph, folded, seed)


@given(SEEDS)
def test_a_linear_layer_over_all_positions_has_columns_of_its_own_for_each(seed: int) -> None:
    rng = np.random.default_rng(seed)
    flat = ir.Flatten(name="flat", inputs=("norm",), shape=(20,))
    dense = ir.Linear(
        name="fc", inputs=("flat",), shape=(6,), weight=rng.normal(0.1, 1, size=(6, 20)), bias=rng.uniform(size=6)
    )
    both = ir.Add(name="both", inputs=("fc", "fc"), shape=(6,))
    graph = residual(rng, norm(rng, "sum"), flat, dense, both, lif("both", shape=(6,)))
    graph = replace(graph, nodes=(*graph.nodes[:-2], *head(rng, "out", 6)))
    folded = fold_dsln(graph)
    assert folded["fc"].inputs == ("sum",)
    assert folded["out"].kind == "LIF"
    assert np.ndim(folded.of(ir.LIF)[-1].threshold) == 0
    assert_equal(graph, folded, seed)


@given(SEEDS)
def test_thresholds_that_differ_already_are_scaled_each(seed: int) -> None:
    rng = np.random.default_rng(seed)
    thresholds = rng.uniform(0.3, 1, size=(CHANNELS, 1, 1))
    graph = residual(rng, norm(rng, "sum"), conv1(rng, "norm"), lif("fc", "subtract", threshold=thresholds))
    assert_equal(graph, fold_dsln(graph), seed)


def test_a_stride_keeps_the_variances_of_the_positions_it_keeps() -> None:
    rng = np.random.default_rng(0)
    layer = conv1(rng, "norm", stride=(2, 1), shape=(CHANNELS, 3, 1))
    neurons = lif("fc", shape=(CHANNELS, 3, 1))
    graph = residual(rng, norm(rng, "sum"), layer, neurons)
    graph = replace(graph, nodes=(*graph.nodes[:-2], *head(rng, "out", 12)))
    folded = fold_dsln(graph)
    assert np.shape(folded.of(ir.LIF)[-1].threshold) == (1, 3, 1)
    assert_equal(graph, folded, 0)


@given(SEEDS, st.sampled_from(["norm", "shared", "position"]), st.sampled_from(["shared", "position"]))
def test_norms_in_front_of_norms_fold_as_well(seed: int, first: str, second: str) -> None:
    """What the first one adds is divided by the second's deviation already; its own shift is not."""
    rng = np.random.default_rng(seed)
    if first == "norm":
        early: Node = ir.BatchNorm(
            name="early", inputs=("sum",), shape=SHAPE, mean=rng.normal(size=4), var=rng.uniform(0.3, 2, size=4),
            gamma=rng.normal(size=4), beta=rng.normal(size=4),
        )  # fmt: skip
    else:
        early = replace(norm(rng, "sum", first), name="early")
    graph = residual(rng, early, norm(rng, "early", second), conv1(rng, "norm"), lif("fc"))
    if first == "position":
        with pytest.raises(
            CapabilityError, match=r"^early: a variance per position folds into thresholds, but it feeds"
        ):
            fold_dsln(graph)
        return
    folded = fold_dsln(graph)
    assert folded["fc"].inputs == ("sum",)
    assert_equal(graph, folded, seed)


def test_a_norm_behind_a_layer_in_front_of_an_identity_reads_what_the_layer_became() -> None:
    rng = np.random.default_rng(0)
    first, second = replace(conv1(rng, "sum"), name="first"), replace(norm(rng, "norm"), name="late")
    graph = residual(rng, first, norm(rng, "first", "shared"), second, conv1(rng, "late"), lif("fc"))
    assert_equal(graph, fold_dsln(graph), 0)


def spoil(name: str, alter: Callable[[Any], dict[str, Any]]) -> Callable[[Graph], Graph]:
    return lambda g: replace(g, nodes=tuple(replace(n, **alter(n)) if n.name == name else n for n in g))


def turned(values: Array) -> Array:
    return values[:, ::-1]


@pytest.mark.parametrize(
    "mistake",
    [
        pytest.param(spoil("fc", lambda n: {"weight": n.weight + 0.05}), id="mean left in"),
        pytest.param(spoil("fc", lambda n: {"bias": n.bias.mean(axis=(1, 2))}), id="bias not per position"),
        pytest.param(spoil("out", lambda n: {"threshold": float(n.threshold.mean())}), id="one threshold"),
        pytest.param(spoil("out", lambda n: {"threshold": turned(n.threshold)}), id="positions turned"),
        pytest.param(spoil("out", lambda n: {"threshold": 0.36 / n.threshold}), id="multiplied, not divided"),
    ],
)
def test_a_wrong_fold_is_noticed(mistake: Callable[[Graph], Graph]) -> None:
    rng = np.random.default_rng(1)
    graph = residual(rng, norm(rng, "sum"), conv1(rng, "norm"), lif("fc"))
    folded = fold_dsln(graph)
    assert_equal(graph, folded, 1)
    with pytest.raises(VerifyError):
        assert_equal(graph, mistake(folded), 1)


def test_what_a_variance_per_position_cannot_fold_into_is_named() -> None:
    rng = np.random.default_rng(2)
    both = ir.Add(name="both", inputs=("fc", "a"), shape=SHAPE)
    graph = residual(rng, norm(rng, "sum"), conv1(rng, "norm"), both, lif("both"))
    wanted = r"^norm: .*but fc behind it feeds both \(Add\), not exactly one population.*dsln_var='shared'"
    with pytest.raises(CapabilityError, match=wanted):
        fold_dsln(graph)
    wide = conv1(rng, "norm", weight=rng.normal(size=(CHANNELS, CHANNELS, 3, 1)), padding=(1, 0))
    with pytest.raises(CapabilityError, match=r"^norm: .*but it feeds fc, which sees several positions at once"):
        fold_dsln(residual(rng, norm(rng, "sum"), wide, lif("fc")))
    first = replace(conv1(rng, "sum"), name="first")
    other = lif("first", name="other")
    with pytest.raises(CapabilityError, match=r"^norm: .*but first in front of it feeds others as well"):
        fold_dsln(residual(rng, first, other, norm(rng, "first"), lif("norm")))
