"""For each rule of the folds a mistake in it, and the proof that follows every fold notices it, by name of the fold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from avsnn.convert import pipeline, proofs
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Node
from avsnn.convert.passes import chains, fold_backward, fold_dsln, fold_forward, fold_readout, pointwise, take_in
from avsnn.errors import VerifyError
from tests.strategies import inputs_for

SHAPE = (2, 6, 6)


class Everything:
    """A network in which every fold has something to do."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(5)
        self.nodes: list[Node] = [ir.Input(name="x", shape=SHAPE)]
        self.add(ir.Normalise, "normalise", "x", mean=np.array([0.4, 0.5]), std=np.array([0.3, 0.2]))
        self.conv("c1", "normalise")
        self.norm("bn1", "c1")
        self.lif("a", "bn1")
        self.norm("bn_a", "a", gamma=np.array([1.3, -0.9]))  # of two signs: the pool becomes OR and AND
        window: dict[str, Any] = {"kernel": (3, 3), "stride": (1, 1), "padding": (1, 1)}
        self.add(ir.MaxPool2d, "pool", "bn_a", **window)
        self.conv("c2", "pool")
        self.conv("c2b", "a")
        self.add(ir.Add, "two", "c2", "c2b")
        self.norm("bn2", "two")
        self.add(ir.Add, "shortcut", "bn2", "bn_a")
        self.lif("b", "shortcut")
        self.norm("bn_b", "b")
        self.add(ir.Concat, "cat", "a", "bn_b", shape=(4, 6, 6))
        self.conv("c3", "cat", channels=4)
        self.lif("c", "c3")
        self.add(ir.Add, "stream", "b", "c", "a")
        self.tokens("dsln", "stream", self.rng.uniform(0.05, 0.5, size=SHAPE[1:]))
        self.conv("fc", "dsln", kernel=1)
        self.lif("d", "fc", reset="subtract")
        self.tokens("shared", "d", np.asarray(0.2))
        self.conv("c4", "shared")
        self.lif("e", "c4")
        half: dict[str, Any] = {"stride": (2, 2), "groups": 2, "shape": (2, 3, 3)}
        quarter = np.full((2, 1, 2, 2), 0.25)
        self.add(ir.Conv2d, "average", "e", weight=quarter, bias=np.array([0.1, 0.3]), **half)
        self.conv("c5", "average", shape=(2, 3, 3))
        self.lif("f", "c5", shape=(2, 3, 3))
        self.linear("hidden", "f", 18, 5)
        self.linear("last", "hidden", 5, 4)
        self.lif("g", "last", shape=(4,))
        self.head()

    def add(self, kind: type[Any], name: str, *inputs: str, shape: tuple[int, ...] = SHAPE, **fields: Any) -> None:
        self.nodes.append(kind(name=name, inputs=inputs, shape=shape, **fields))

    def conv(self, name: str, source: str, kernel: int = 3, channels: int = 2, shape: tuple[int, ...] = SHAPE) -> None:
        weight = self.rng.normal(0.15, 0.5, size=(2, channels, kernel, kernel))
        bias, padding = self.rng.uniform(-0.1, 0.5, size=2), (kernel // 2, kernel // 2)
        self.add(ir.Conv2d, name, source, shape=shape, weight=weight, bias=bias, padding=padding)

    def linear(self, name: str, source: str, width: int, out: int) -> None:
        weight, bias = self.rng.normal(0.1, 0.6, size=(out, width)), self.rng.uniform(-0.1, 0.6, size=out)
        self.add(ir.Linear, name, source, shape=(out,), weight=weight, bias=bias)

    def norm(self, name: str, source: str, **fields: Any) -> None:
        mean, beta = self.rng.uniform(-0.3, 0.5, size=(2, 2))
        values = {"mean": mean, "var": self.rng.uniform(0.3, 1, size=2), "beta": beta}
        self.add(ir.BatchNorm, name, source, **{**values, "gamma": self.rng.uniform(0.6, 1.5, size=2), **fields})

    def tokens(self, name: str, source: str, var: Any) -> None:
        gamma, beta = self.rng.uniform(0.5, 1.5, size=2), self.rng.uniform(0.1, 0.6, size=2)
        self.add(ir.DSLN, name, source, var=var, gamma=gamma, beta=beta)

    def lif(self, name: str, source: str, reset: str = "hard", shape: tuple[int, ...] = SHAPE) -> None:
        self.add(ir.LIF, name, source, shape=shape, decay=0.5, gain=0.5, threshold=0.4, reset=reset)

    def head(self) -> None:
        for source in "ef":
            self.add(ir.MeanSpace, f"mean_{source}", source, shape=(2,))
        self.add(ir.Concat, "tokens", "mean_e", "mean_f", "g", shape=(8,))
        self.add(ir.MeanTime, "time", "tokens", shape=(8,))
        self.add(ir.Scale, "total", "time", shape=(8,), gain=4.0)
        self.linear("answer", "total", 8, 3)


def fold(graph: Graph) -> set[str]:
    log = proofs.Log(progress=lambda _text: None)
    pipeline._fold(graph, {"generated": inputs_for(graph, 0, batch=2)}, 0, log)
    return {check.name.split()[0] for check in log.checks}


@pytest.fixture(scope="module")
def everything() -> Graph:
    nodes = tuple(Everything().nodes)
    return Graph(nodes=nodes, outputs=(nodes[-1].name,), timesteps=4, stage="traced")


def test_every_fold_has_something_to_do(everything: Graph) -> None:
    assert fold(everything) == {name for name, _ in pipeline.FOLDS}


def of_result(function: Callable[..., Any], alter: Callable[[Any], Any]) -> Callable[..., Any]:
    return lambda *arguments, **keywords: alter(function(*arguments, **keywords))


def unpadded(layer: Any, shift: Any, shape: Any) -> Any:
    """The constant as it is in the middle, everywhere."""
    weight = layer.weight.reshape(layer.groups, len(layer.weight) // layer.groups, -1, *layer.weight.shape[2:])
    return np.einsum("gocij,gc->go", weight, shift.reshape(layer.groups, -1)).reshape(-1)


def shift_for_each(total: Any, outer: Any, before: Any) -> Any:
    for name in total.inputs:
        before[name] = pointwise.follow(before[name], outer)
    return total


def or_alone(pool: Any, negative: Any, shape: Any) -> Any:
    return right_extremes(pool, np.zeros_like(negative), shape)


def exchanged(parts: dict[str, Any]) -> dict[str, Any]:
    """Each part with the weights of the next."""
    weights = [part.weight for part in parts.values()]
    return {name: replace(part, weight=weights[i - 1]) for i, (name, part) in enumerate(parts.items())}


def summed(weight: Any, node: Any, shape: Any) -> Any:
    return right_columns(weight, node, shape) * (2 if node.kind == "MeanSpace" else 1)


right_extremes: Any = fold_forward._extremes
right_columns: Any = fold_readout._columns

MISTAKES: dict[str, tuple[str, Any, str, Any]] = {
    "bias per channel in front of padding": ("fold_forward", pointwise, "_constant", unpadded),
    "maximum of a negative gain": ("fold_forward", fold_forward, "_extremes", or_alone),
    "channels joined in another order": (
        "fold_forward",
        take_in,
        "_by_channel",
        of_result(take_in._by_channel, exchanged),
    ),
    "shift of a norm behind a sum, for each": ("fold_backward", fold_backward, "_into_sum", shift_for_each),
    "gain behind a layer left out": ("fold_backward", fold_backward, "follow", lambda layer, outer: layer),
    "mean over channels left in": (
        "fold_dsln",
        fold_dsln,
        "centring",
        lambda norm, gain: pointwise.Pointwise(matrix=gain * norm.gamma, shift=norm.beta),
    ),
    "variance for deviation": (
        "fold_dsln",
        fold_dsln,
        "_plan",
        of_result(
            fold_dsln._plan,
            lambda plans: {name: replace(p, deviation=p.deviation**2) for name, p in plans.items()},
        ),
    ),
    "bias of the earlier layer left out": (
        "fold_linear",
        take_in,
        "chain",
        lambda layer, first, shape: chains.chain(layer, replace(first, bias=0 * first.bias), shape),
    ),
    "tokens not averaged": ("fold_readout", fold_readout, "_columns", summed),
    "constants of the head left out": ("fold_readout", fold_readout, "_constant", lambda node: np.zeros(node.shape)),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_rule_stops_the_conversion(
    mistake: str, everything: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, module, function, wrong = MISTAKES[mistake]
    monkeypatch.setattr(module, function, wrong)
    with pytest.raises(VerifyError, match=f"{name} changes nothing on"):
        fold(everything)


def test_a_pool_whose_windows_overlap_the_edge_is_no_part_of_a_padding_layer(
    everything: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the rule that refuses: without it the fold would be wrong, and noticed."""
    wide = np.full((2, 1, 3, 3), 1 / 9)
    wrong: dict[str, Any] = {"weight": wide, "padding": (1, 1)}
    graph = replace(
        everything, nodes=tuple(replace(n, **wrong) if n.name == "average" else n for n in everything.nodes)
    )
    monkeypatch.setattr(chains, "_zero_beyond", lambda *_: True)
    with pytest.raises(VerifyError, match="fold_linear changes nothing on"):
        fold(graph)
