from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from avsnn.convert import equivalence as eq
from avsnn.convert import pipeline
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.interpreter import interpret
from avsnn.convert.ir.kernels import conv_size
from avsnn.convert.ir.node import Node
from avsnn.convert.ir.stages import check_stage
from avsnn.convert.proofs import left_out, without
from avsnn.errors import CapabilityError, VerifyError
from tests.strategies import SEEDS, inputs_for

Shape = tuple[int, ...]
RESETS = ("hard", "subtract", "subtract_delayed")
KINDS = ("conv", "conv", "norm", "gain", "add", "concat", "token norm", "pool", "neurons", "neurons")


class Builder:
    """A random network of ``size`` operations on images, each on any activity so far of a fitting shape."""

    def __init__(self, seed: int, size: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[Node] = [ir.Input(name="x", shape=(2, 6, 5))]
        self.lif("x")
        for _ in range(size):
            source = self.nodes[-1 - int(min(self.rng.geometric(0.5) - 1, len(self.nodes) - 2))]
            self.grow(str(self.rng.choice(KINDS)), source)
        if self.nodes[-1].kind != "LIF":
            self.lif(self.nodes[-1].name)
        self.head()

    def add(self, node: Node) -> Node:
        self.nodes.append(node)
        return node

    def common(self, source: str | tuple[str, ...], shape: Shape) -> dict[str, Any]:
        return {
            "name": f"n{len(self.nodes)}",
            "inputs": (source,) if isinstance(source, str) else source,
            "shape": shape,
        }

    def lif(self, source: str) -> None:
        """A layer of its own half of the time, so that both weighted and plain activity is read."""
        shape = self.nodes[-1].shape if self.nodes[-1].name == source else self.by(source).shape
        if self.rng.random() < 0.5:
            weight = self.rng.normal(0.2, 0.8, size=(shape[0], shape[0], 1, 1))
            layer = self.add(
                ir.Conv2d(**self.common(source, shape), weight=weight, bias=self.rng.uniform(size=shape[0]))
            )
            source = layer.name
        self.add(
            ir.LIF(
                **self.common(source, shape), decay=float(self.rng.choice([0.5, 0.9, 0.0])), gain=0.5,
                threshold=float(self.rng.uniform(0.2, 0.6)), reset=str(self.rng.choice(RESETS)),
                strict=bool(self.rng.random() < 0.5),
            )
        )  # fmt: skip

    def by(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)

    def grow(self, kind: str, node: Node) -> None:
        rng, shape, c = self.rng, node.shape, node.shape[0]
        like = [n for n in self.nodes if n.shape == shape and n.kind != "Input"]
        beside = [n for n in self.nodes if n.shape[1:] == shape[1:] and n.kind != "Input"]
        match kind:
            case "conv":
                self.conv(node)
            case "norm":
                mean, beta = rng.normal(size=(2, c))
                var, gamma = rng.uniform(0.3, 2, size=c), rng.normal(0.5, 1, size=c)
                self.add(ir.BatchNorm(**self.common(node.name, shape), mean=mean, var=var, gamma=gamma, beta=beta))
            case "gain":
                self.add(ir.Scale(**self.common(node.name, shape), gain=float(rng.normal())))
            case "add" if like:
                names = (node.name, *(like[i].name for i in rng.integers(len(like), size=rng.integers(1, 3))))
                self.add(ir.Add(**self.common(names, shape)))
            case "concat" if beside:
                other = beside[int(rng.integers(len(beside)))]
                if c + other.shape[0] <= 6:
                    joined = (c + other.shape[0], *shape[1:])
                    self.add(ir.Concat(**self.common((node.name, other.name), joined)))
            case "token norm":
                var = rng.uniform(0.1, 1, size=shape[1:] if rng.random() < 0.5 else ())
                gamma, beta = rng.normal(size=(2, c))
                self.add(ir.DSLN(**self.common(node.name, shape), var=np.asarray(var), gamma=gamma, beta=beta))
            case "pool" if node.kind in ("LIF", "BatchNorm"):
                side = conv_size((shape[1], shape[2]), (2, 2), (1, 1), (1, 1))
                self.add(
                    ir.MaxPool2d(**self.common(node.name, (c, *side)), kernel=(2, 2), stride=(1, 1), padding=(1, 1))
                )
            case "neurons":
                self.lif(node.name)

    def conv(self, node: Node) -> None:
        rng, c = self.rng, node.shape[0]
        kernel, padding, stride = (
            (int(rng.integers(low, high)), int(rng.integers(low, high))) for low, high in ((1, 4), (0, 2), (1, 3))
        )
        side = conv_size((node.shape[1], node.shape[2]), kernel, stride, padding)
        if min(side) < 1:
            return
        groups = 2 if c % 2 == 0 and rng.random() < 0.3 else 1
        out = int(rng.integers(1, 3)) * groups
        weight = rng.normal(0.2, 0.8, size=(out, c // groups, *kernel))
        self.add(
            ir.Conv2d(
                **self.common(node.name, (out, *side)), weight=weight, bias=rng.uniform(-0.2, 0.6, size=out),
                stride=stride, padding=padding, groups=groups,
            )
        )  # fmt: skip

    def head(self) -> None:
        last = self.nodes[-1]
        if self.rng.random() < 0.5:
            width = math.prod(last.shape)
            pooled = self.add(ir.Flatten(**self.common(last.name, (width,))))
        else:
            pooled = self.add(ir.MeanSpace(**self.common(last.name, last.shape[:1])))
        time = self.add(ir.MeanTime(**self.common(pooled.name, pooled.shape)))
        weight = self.rng.normal(size=(3, *time.shape))
        self.add(ir.Linear(**self.common(time.name, (3,)), weight=weight, bias=self.rng.normal(size=3)))


def network(seed: int, size: int) -> Graph:
    nodes = Builder(seed, size).nodes
    graph = Graph(nodes=tuple(nodes), outputs=(nodes[-1].name,), timesteps=3, stage="traced")
    return graph.with_nodes(graph.nodes)


def folds(seed: int, size: int) -> str:
    """What became of a random network: "folded", or the error that says what cannot fold."""
    graph = network(seed, size)
    x, rng = inputs_for(graph, seed, batch=2), np.random.default_rng(seed)
    before = graph
    try:
        for name, fold in pipeline.FOLDS:
            after = fold(before)
            free, rows = interpret(before, x), left_out(before, after) if name == "fold_dead" else []
            silent = {row["population"] for row in rows if row["membrane"] is not None}
            drawn = {p: (rng.random(s.shape) < 0.4) & (p not in silent) for p, s in free.spikes.items()}
            for force in (free.spikes, drawn):
                done = interpret(before, x, force=force)
                assert not any(done.spikes[population].any() for population in silent)
                gone = [row["population"] for row in rows if row["left_out"]]
                expected = without(eq.in_units_of(done, before, after), gone)
                found = interpret(after, x, force=force)
                if any(s.any() for s in expected.spikes.values()):
                    eq.compare(name, "drawn", expected, found, exact=False)
            before = after
    except CapabilityError as refusal:
        return str(refusal)
    try:
        check_stage(replace(before, stage="folded"))
    except VerifyError as left:
        return str(left)
    return "folded"


@given(SEEDS, st.integers(1, 9))
def test_random_networks_fold_exactly_or_are_refused(seed: int, size: int) -> None:
    folds(seed, size)


def test_most_random_networks_fold() -> None:
    """The test above would pass if everything were refused."""
    found = [folds(seed, 6) for seed in range(12)]
    assert found.count("folded") >= 6, found
