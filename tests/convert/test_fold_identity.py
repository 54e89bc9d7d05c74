from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avsnn.convert import equivalence as eq
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.interpreter import interpret
from avsnn.convert.ir.node import Node
from avsnn.convert.ir.text import render
from avsnn.convert.passes.currents import terms
from avsnn.convert.passes.fold_backward import fold_backward
from avsnn.convert.passes.fold_forward import fold_forward
from avsnn.convert.passes.fold_identity import fold_identity
from avsnn.errors import CapabilityError, VerifyError
from tests.strategies import SEEDS, conv, inputs_for, weights

SHAPE = (2, 4, 3)


def neurons(name: str, source: str, shape: tuple[int, ...] = SHAPE) -> ir.LIF:
    return ir.LIF(name=name, inputs=(source,), shape=shape, decay=0.75, gain=0.5, threshold=0.5)


def norm(rng: np.random.Generator, name: str, source: str, shape: tuple[int, ...] = SHAPE) -> ir.BatchNorm:
    c = shape[0]
    return ir.BatchNorm(
        name=name, inputs=(source,), shape=shape, mean=rng.normal(size=c), var=rng.uniform(0.3, 2, size=c),
        gamma=rng.normal(0.5, 1, size=c), beta=rng.normal(size=c),
    )  # fmt: skip


def block(rng: np.random.Generator, shortcut: list[Node], reads: tuple[str, ...]) -> Graph:
    """Spikes a, then LIF(BN(conv a) + shortcut of a), then an answer."""
    first = conv("c", "x", SHAPE, weights(rng, (2, 2, 3, 3)), bias=rng.uniform(0.2, 1, size=2), padding=(1, 1))
    branch = conv("branch", "a", SHAPE, weights(rng, (2, 2, 3, 3)), padding=(1, 1))
    nodes: list[Node] = [ir.Input(name="x", shape=SHAPE), first, neurons("a", "c"), branch, norm(rng, "bn", "branch")]
    nodes += [*shortcut, ir.Add(name="sum", inputs=("bn", *reads), shape=SHAPE), neurons("b", "sum")]
    row = ir.Linear(name="row", inputs=("b",), shape=(3,), weight=rng.normal(size=(3, 24)), bias=np.zeros(3))
    answer = ir.Readout(name="y", inputs=("row",), shape=(3,), bias=np.zeros(3))
    return Graph(nodes=(*nodes, row, answer), outputs=("y",), timesteps=4, stage="traced")


def shortcuts(kind: str, rng: np.random.Generator) -> tuple[list[Node], tuple[str, ...]]:
    match kind:
        case "identity":
            return [], ("a",)
        case "norm":
            return [norm(rng, "late", "a")], ("late",)
        case "gain":
            return [ir.Scale(name="late", inputs=("a",), shape=SHAPE, gain=1.5)], ("late",)
        case "twice":
            return [norm(rng, "late", "a")], ("a", "late", "a")
        case "pool":
            return [
                ir.MaxPool2d(name="pool", inputs=("a",), shape=SHAPE, kernel=(3, 3), stride=(1, 1), padding=(1, 1))
            ], ("pool",)
        case "norm before a pool":
            pool = ir.MaxPool2d(
                name="pool", inputs=("late",), shape=SHAPE, kernel=(3, 3), stride=(1, 1), padding=(1, 1)
            )
            return [norm(rng, "late", "a"), pool], ("pool",)
        case "joined":
            parts = [conv(f"half{n}", "a", (1, 4, 3), weights(rng, (1, 2, 1, 1))) for n in "ab"]
            layers = [neurons(f"n{n}", f"half{n}", (1, 4, 3)) for n in "ab"]
            return [*parts, *layers, ir.Concat(name="both", inputs=("na", "nb"), shape=SHAPE)], ("both",)
    raise ValueError(kind)


KINDS = ("identity", "norm", "gain", "twice", "pool", "norm before a pool", "joined")


def compared(graph: Graph, folded: Graph, seed: int) -> eq.Check:
    x, rng = inputs_for(graph, seed), np.random.default_rng(seed)
    free = interpret(graph, x)
    for force in (free.spikes, {name: rng.random(s.shape) < 0.4 for name, s in free.spikes.items()}):
        expected = interpret(graph, x, force=force)
        check = eq.compare("fold", "drawn", expected, interpret(folded, x, force=force), exact=False)
    return check


@given(SEEDS, st.sampled_from(KINDS))
def test_a_population_reads_weights_alone_whatever_stands_on_its_shortcut(seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    graph = block(rng, *shortcuts(kind, rng))
    before = fold_backward(fold_forward(graph))
    text, folded = render(before), fold_identity(before)
    assert not folded.of(ir.BatchNorm)
    assert all(terms(folded, node.inputs[0]) for node in folded.of(ir.LIF))
    assert folded["branch"] is not None  # the norm behind it went backward, not into an identity
    compared(graph, folded, seed)
    assert render(before) == text
    assert fold_identity(folded) is folded


def test_a_norm_on_a_shortcut_is_a_diagonal_and_a_bias() -> None:
    rng = np.random.default_rng(0)
    graph = block(rng, *shortcuts("norm", rng))
    folded = fold_identity(fold_backward(fold_forward(graph)))
    made = folded["b.identity@late"]
    assert isinstance(made, ir.Conv2d)
    assert made.weight.shape == (2, 1, 1, 1)
    assert made.groups == 2
    assert made.inputs == ("a",)
    assert made.bias.shape == (2,)
    for change in ({"weight": -made.weight}, {"bias": made.bias + 0.3}, {"inputs": ("x",)}):
        wrong = replace(folded, nodes=tuple(replace(n, **change) if n is made else n for n in folded))
        with pytest.raises(VerifyError):
            compared(graph, wrong, 0)


def test_features_without_positions_get_a_diagonal_matrix() -> None:
    rng = np.random.default_rng(1)
    flat = ir.Flatten(name="flat", inputs=("a",), shape=(24,))
    graph = block(rng, [], ("a",))
    late = [flat, neurons("late", "flat", (24,))]
    row = replace(graph["row"], inputs=("late",))
    graph = replace(graph, nodes=(*graph.nodes[:3], *late, row, graph["y"]))
    folded = fold_identity(graph)
    made = folded["late.identity"]
    assert isinstance(made, ir.Linear)
    np.testing.assert_array_equal(made.weight, np.eye(24))
    compared(graph, folded, 1)
    wide = ir.Input(name="x", shape=(5000,))
    huge = Graph(nodes=(wide, neurons("late", "x", (5000,))), outputs=("late",), timesteps=1, stage="traced")
    with pytest.raises(CapabilityError, match=r"^late: neurons read spikes without weights.*up to 4096 features"):
        fold_identity(huge)
