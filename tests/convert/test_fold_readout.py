from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.interpreter import interpret
from avsnn.convert.ir.node import Node
from avsnn.convert.ir.text import render
from avsnn.convert.passes.fold_readout import fold_readout
from avsnn.errors import CapabilityError
from tests.strategies import SEEDS, inputs_for

ATOL = 1e-9  # float64 rounding of sums of a few hundred products of order one
SHAPE = (2, 3, 4)


def population(name: str, rng: np.random.Generator) -> tuple[Node, Node]:
    weight = rng.normal(0.3, 1, size=(2, 2, 3, 3))
    layer = ir.Conv2d(
        name=f"c{name}", inputs=("x",), shape=SHAPE, weight=weight, bias=rng.uniform(size=2), padding=(1, 1)
    )
    return layer, ir.LIF(name=name, inputs=(layer.name,), shape=SHAPE, decay=0.5, gain=0.5, threshold=0.5)


def linear(rng: np.random.Generator, source: str, width: int, name: str = "head") -> ir.Linear:
    return ir.Linear(
        name=name, inputs=(source,), shape=(3,), weight=rng.normal(size=(3, width)), bias=rng.normal(size=3)
    )


def mean_tokens(source: str, shape: tuple[int, ...], name: str) -> list[Node]:
    return [ir.MeanSpace(name=name, inputs=(source,), shape=(shape[0],))]


def heads(kind: str, rng: np.random.Generator) -> list[Node]:
    """From the spikes of a and b to an answer, in the ways that networks end."""
    time = ir.MeanTime(name="time", inputs=("tokens",), shape=(2,))
    match kind:
        case "mean over tokens, then time":
            return [*mean_tokens("a", SHAPE, "tokens"), time, linear(rng, "time", 2)]
        case "head at every step, then mean":
            return [
                ir.Flatten(name="flat", inputs=("a",), shape=(24,)),
                linear(rng, "flat", 24),
                ir.MeanTime(name="y", inputs=("head",), shape=(3,)),
            ]
        case "two layers without neurons between":
            return [
                *mean_tokens("a", SHAPE, "tokens"), time, linear(rng, "time", 2, "hidden"), linear(rng, "hidden", 3)
            ]  # fmt: skip
        case "sum of two populations":
            both = ir.Add(name="sum", inputs=("a", "b"), shape=SHAPE)
            return [both, *mean_tokens("sum", SHAPE, "tokens"), time, linear(rng, "time", 2)]
        case "a population and itself":
            both = ir.Add(name="sum", inputs=("a", "a"), shape=SHAPE)
            return [both, *mean_tokens("sum", SHAPE, "tokens"), time, linear(rng, "time", 2)]
        case "channels side by side":
            joined = ir.Concat(name="cat", inputs=("a", "b"), shape=(4, 3, 4))
            late = ir.MeanTime(name="time", inputs=("tokens",), shape=(4,))
            return [joined, *mean_tokens("cat", (4, 3, 4), "tokens"), late, linear(rng, "time", 4)]
        case "features side by side":
            flats = [ir.Flatten(name=f"f{n}", inputs=(n,), shape=(24,)) for n in "ab"]
            joined = ir.Concat(name="cat", inputs=("fa", "fb"), shape=(48,))
            return [*flats, joined, linear(rng, "cat", 48), ir.MeanTime(name="y", inputs=("head",), shape=(3,))]
        case "maximum of spikes":
            pool = ir.MaxPool2d(name="pool", inputs=("a",), shape=(2, 1, 2), kernel=(2, 2), stride=(2, 2))
            return [pool, *mean_tokens("pool", (2, 1, 2), "tokens"), time, linear(rng, "time", 2)]
        case "two answers of sums over time":
            total = ir.Scale(name="total", inputs=("time",), shape=(2,), gain=3.0)
            answers = [linear(rng, "total", 2, "event"), linear(rng, "total", 2, "place")]
            joined = ir.Concat(name="y", inputs=("event", "place"), shape=(6,))
            return [*mean_tokens("a", SHAPE, "tokens"), time, total, *answers, joined]
        case "residual of a product of means":
            product = ir.ProductOfMeans(name="r", inputs=("a", "b"), shape=SHAPE)
            scaled = ir.Scale(name="alpha r", inputs=("r",), shape=SHAPE, gain=1.5)
            both = ir.Add(name="sum", inputs=("a", "alpha r"), shape=SHAPE)
            return [product, scaled, both, *mean_tokens("sum", SHAPE, "tokens"), time, linear(rng, "time", 2)]
        case "norms, a convolution and another order":
            return [
                batch_norm(rng, "norm", "a", SHAPE),
                ir.DSLN(
                    name="dsln", inputs=("norm",), shape=SHAPE, var=rng.uniform(0.1, 1, size=SHAPE[1:]),
                    gamma=rng.normal(size=2), beta=rng.normal(size=2),
                ),
                ir.Conv2d(
                    name="conv", inputs=("dsln",), shape=(4, 2, 4), weight=rng.normal(size=(4, 1, 2, 3)),
                    bias=rng.normal(size=4), padding=(0, 1), groups=2,
                ),
                ir.Permute(name="turned", inputs=("conv",), shape=(8, 4), axes=(1, 2, 0)),
                ir.MeanTime(name="time", inputs=("turned",), shape=(8, 4)),
                linear(rng, "time", 32, "l"),
                batch_norm(rng, "y", "l", (3,)),
            ]  # fmt: skip
    raise ValueError(kind)


def batch_norm(rng: np.random.Generator, name: str, source: str, shape: tuple[int, ...]) -> ir.BatchNorm:
    mean, gamma, beta = rng.normal(size=(3, shape[0]))
    return ir.BatchNorm(
        name=name, inputs=(source,), shape=shape, mean=mean, gamma=gamma, beta=beta,
        var=rng.uniform(0.2, 2, size=shape[0]),
    )  # fmt: skip


KINDS = (
    "mean over tokens, then time", "head at every step, then mean", "two layers without neurons between",
    "sum of two populations", "a population and itself", "channels side by side", "features side by side",
    "maximum of spikes", "two answers of sums over time", "residual of a product of means",
    "norms, a convolution and another order",
)  # fmt: skip


@given(SEEDS, st.sampled_from(KINDS))
def test_all_that_follows_the_last_spikes_becomes_one_linear_read_out(seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    image = ir.Input(name="x", shape=SHAPE)
    nodes = (image, *population("a", rng), *population("b", rng), *heads(kind, rng))
    graph = Graph(nodes=nodes, outputs=(nodes[-1].name,), timesteps=3, stage="traced")
    text, folded = render(graph), fold_readout(graph)
    x = inputs_for(graph, seed)
    before, after = interpret(graph, x), interpret(folded, x)
    name = graph.outputs[0]
    np.testing.assert_allclose(after.outputs[name], before.outputs[name], rtol=0, atol=ATOL)
    left = {node.kind for node in folded}
    assert left <= {"Input", "Conv2d", "LIF", "MaxPool2d", "Linear", "Readout", "ProductOfMeans"}
    assert isinstance(folded[name], ir.Readout)
    assert render(graph) == text
    assert render(fold_readout(folded)) == render(folded)


def test_mean_over_tokens_repeats_the_head_over_them() -> None:
    rng = np.random.default_rng(0)
    nodes = (ir.Input(name="x", shape=SHAPE), *population("a", rng), *heads(KINDS[0], rng))
    graph = Graph(nodes=nodes, outputs=("head",), timesteps=3, stage="traced")
    row, head = fold_readout(graph)["head@a"], graph["head"]
    assert isinstance(row, ir.Linear)
    assert isinstance(head, ir.Linear)
    for token in range(12):
        np.testing.assert_allclose(row.weight.reshape(3, 2, 12)[:, :, token], head.weight / 12, rtol=1e-15)


def test_a_head_without_a_mean_over_time_is_refused() -> None:
    rng = np.random.default_rng(0)
    nodes = (ir.Input(name="x", shape=SHAPE), *population("a", rng), *mean_tokens("a", SHAPE, "tokens"))
    graph = Graph(nodes=nodes, outputs=("tokens",), timesteps=3, stage="traced")
    with pytest.raises(CapabilityError, match=r"^a: .*no mean over time.*end the network with a mean over time"):
        fold_readout(graph)


def test_what_is_not_linear_behind_the_spikes_is_refused() -> None:
    rng = np.random.default_rng(0)
    late = ir.AttentionMap(name="norm", inputs=("a", "a"), shape=SHAPE, heads=1, bias=np.zeros(1))
    nodes = (
        ir.Input(name="x", shape=SHAPE), *population("a", rng), late, *mean_tokens("norm", SHAPE, "tokens"),
        ir.MeanTime(name="time", inputs=("tokens",), shape=(2,)),
    )  # fmt: skip
    graph = Graph(nodes=nodes, outputs=("time",), timesteps=3, stage="traced")
    with pytest.raises(CapabilityError, match=r"^norm: only averages, sums and linear layers.*found AttentionMap"):
        fold_readout(graph)


def test_what_a_host_sends_is_read_as_spikes_are() -> None:
    rng = np.random.default_rng(0)
    gain = ir.Linear(name="w", inputs=("a",), shape=(1,), weight=rng.normal(size=(1, 24)), bias=np.ones(1))
    weighed = ir.StepGain(name="weigh", inputs=("a", "w"), shape=SHAPE)
    norm = ir.LayerNorm(name="norm", inputs=("a",), shape=SHAPE, gamma=np.ones(2), beta=np.zeros(2))
    both = ir.Add(name="both", inputs=("weigh", "norm"), shape=SHAPE)
    time = ir.MeanTime(name="time", inputs=("tokens",), shape=(2,))
    first: tuple[Node, ...] = (ir.Input(name="x", shape=SHAPE), *population("a", rng))
    nodes = (*first, gain, weighed, norm, both, *mean_tokens("both", SHAPE, "tokens"), time)
    graph = Graph(nodes=nodes, outputs=("time",), timesteps=3, stage="traced")
    x = {"x": rng.random((4, *SHAPE))}
    expected, found = interpret(graph, x), interpret(fold_readout(graph), x)
    assert {0, 1} == set(np.unique(expected.spikes["a"]))
    assert np.abs(found.outputs["time"] - expected.outputs["time"]).max() <= 1e-12
    assert {n.inputs[0] for n in fold_readout(graph).of(ir.Linear)} >= {"weigh", "norm"}


def test_a_second_mean_over_time_is_refused() -> None:
    rng = np.random.default_rng(0)
    time = ir.MeanTime(name="time", inputs=("tokens",), shape=(2,))
    first: tuple[Node, ...] = (ir.Input(name="x", shape=SHAPE), *population("a", rng))
    twice = (*first, *mean_tokens("a", SHAPE, "tokens"), time, replace(time, name="again", inputs=("time",)))
    with pytest.raises(CapabilityError, match=r"^time: .*found a second mean over time"):
        fold_readout(Graph(nodes=twice, outputs=("again",), timesteps=3, stage="traced"))
