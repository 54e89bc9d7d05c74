"""Small random networks and inputs: float graphs from numbers, modules with weights that make every layer fire."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array, Node
from avsnn.train.layers import DirectCoding, Normalise, TimeBatched
from avsnn.train.neurons import LIF

SEEDS = st.integers(0, 2**32 - 1)
STEP = 1 / 255


def conv(name: str, source: str, shape: tuple[int, ...], weight: Array, **options: Any) -> ir.Conv2d:
    """A convolution whose bias is zero unless given."""
    return ir.Conv2d(
        name=name, inputs=(source,), shape=shape, weight=weight, **({"bias": np.zeros(len(weight))} | options)
    )


def spiking_graph(
    seed: int,
    *,
    T: int = 4,
    depth: int = 3,
    skips: tuple[tuple[int, int], ...] = (),
    pool: bool = False,
    strict: bool = False,
    coding: str = "direct",
    step: float = STEP,
    decay: float = 0.5,
    read: tuple[int, ...] = (),
) -> Graph:
    """A folded graph: ``depth`` populations p0, p1, ... in a row; each skip (i, j) adds a connection from pi to pj.

    Args:
        seed: of all weights and biases.
        T: steps.
        depth: populations in a row.
        skips: pairs (from, to) of populations.
        pool: halve the image after p0 by a maximum over 2 x 2.
        strict: neurons that fire on ``>``.
        coding: of the input.
        step: of the input's values.
        decay: of the neurons; their gain is 1 - decay.
        read: populations that the answer reads besides the last.
    """
    rng = np.random.default_rng(seed)
    channels, size = 2, 5
    nodes: list[Node] = [ir.Input(name="x", shape=(2, size, size), coding=coding, step=step)]
    source, small = "x", 2 if pool else size
    for i in range(depth):
        side = size if i == 0 else small
        shape = (channels, side, side)
        parts = [conv(f"c{i}", source, shape, weights(rng, (channels, 2, 3, 3)), bias=biases(rng), padding=(1, 1))]
        for start, end in skips:
            if end == i:
                big = pool and start == 0
                options: dict[str, Any] = {"stride": (2, 2)} if big else {"padding": (1, 1)}
                kernel = weights(rng, (channels, channels, 3, 3))
                parts.append(conv(f"c{start}to{end}", f"p{start}", shape, kernel, bias=biases(rng), **options))
        nodes += parts
        current = parts[0].name
        if len(parts) > 1:
            current = f"sum{i}"
            nodes.append(ir.Add(name=current, inputs=tuple(part.name for part in parts), shape=shape))
        nodes.append(
            ir.LIF(
                name=f"p{i}", inputs=(current,), shape=shape, decay=decay, gain=1 - decay or 1.0, threshold=1.0,
                strict=strict,
            )
        )  # fmt: skip
        source = f"p{i}"
        if pool and i == 0:
            source = "pool"
            nodes.append(
                ir.MaxPool2d(name="pool", inputs=("p0",), shape=(channels, 2, 2), kernel=(2, 2), stride=(2, 2))
            )
    return _with_readout(nodes, rng, T, sorted({*read, depth - 1}))


def _with_readout(nodes: list[Node], rng: np.random.Generator, T: int, read: list[int]) -> Graph:
    table = {node.name: node for node in nodes}
    rows = []
    for i in read:
        width = int(np.prod(table[f"p{i}"].shape))
        rows.append(
            ir.Linear(
                name=f"out@p{i}", inputs=(f"p{i}",), shape=(3,), weight=rng.normal(size=(3, width)), bias=np.zeros(3)
            )
        )
    answer = ir.Readout(name="out", inputs=tuple(row.name for row in rows), shape=(3,), bias=rng.normal(size=3))
    return Graph(nodes=(*nodes, *rows, answer), outputs=("out",), timesteps=T, stage="folded")


def weights(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Mixed signs with a positive mean, so that spikes go on to the next layer."""
    return rng.normal(0.15, 0.5, size=shape)


def biases(rng: np.random.Generator) -> Array:
    """Two channels, one that charges a waiting neuron."""
    return np.array([rng.uniform(0.2, 0.8), rng.uniform(-0.3, 0.5)])


def inputs_for(graph: Graph, seed: int, batch: int = 3) -> dict[str, Array]:
    """Values on the grid of each input, over its whole range."""
    rng = np.random.default_rng(seed)
    made = {}
    for node in graph.of(ir.Input):
        lead = (batch,) if node.coding == "direct" else (graph.timesteps, batch)
        low, high = round(node.low / node.step), round(node.high / node.step)
        made[node.name] = rng.integers(low, high + 1, size=(*lead, *node.shape)) * node.step
    return made


@st.composite
def spiking_graphs(draw: st.DrawFn, max_steps: int = 5) -> Graph:
    """Graphs with skips of unequal depth, with or without pooling."""
    depth = draw(st.integers(2, 4))
    pairs = [(i, j) for j in range(1, depth) for i in range(j)]
    skips = draw(st.lists(st.sampled_from(pairs), max_size=2, unique=True))
    return spiking_graph(
        draw(SEEDS),
        T=draw(st.integers(1, max_steps)),
        depth=depth,
        skips=tuple(skips),
        pool=draw(st.booleans()),
        coding=draw(st.sampled_from(["direct", "sequence"])),
        read=tuple(draw(st.lists(st.integers(0, depth - 1), max_size=1))),
    )


class Small(nn.Module):
    """Everything that the tracer knows, in three spiking layers with one skip; image (2, 6, 6) -> 3 classes."""

    def __init__(self, seed: int = 0, T: int = 4) -> None:
        super().__init__()
        self.norm = Normalise([0.4, 0.5], [0.3, 0.25])
        self.code = DirectCoding(T)
        self.conv1 = TimeBatched(nn.Conv2d(2, 4, 3, padding=1, bias=False))
        self.bn1 = TimeBatched(nn.BatchNorm2d(4))
        self.lif1 = LIF()
        self.conv2 = TimeBatched(nn.Conv2d(4, 4, 3, padding=1, groups=2))
        self.bn2 = TimeBatched(nn.BatchNorm2d(4))
        self.lif2 = LIF()
        self.conv3 = TimeBatched(nn.Conv2d(4, 4, 1))
        self.skip = TimeBatched(nn.Conv2d(4, 4, 1))
        self.bn3 = TimeBatched(nn.BatchNorm2d(4))
        self.lif3 = LIF()
        self.pool = TimeBatched(nn.MaxPool2d(2))
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 3)
        randomise(self, seed)

    def forward(self, image: Tensor) -> Tensor:
        x = self.code(self.norm(image))
        a = self.lif1(self.bn1(self.conv1(x)))
        b = self.lif2(self.bn2(self.conv2(a)))
        c = self.lif3(self.bn3(self.conv3(b)) + self.skip(a))
        tokens = torch.cat([self.pool(c), self.pool(a)], dim=2).mean((3, 4))
        answer: Tensor = self.head(self.drop(tokens).mean(0))
        return answer


def randomise(module: nn.Module, seed: int) -> None:
    """Weights and statistics from numpy's generator, the same on every version; evaluation mode."""
    rng = np.random.default_rng(seed)

    def fill(tensor: Tensor, low: float, high: float) -> None:
        tensor.copy_(torch.from_numpy(rng.uniform(low, high, size=tuple(tensor.shape))))

    with torch.no_grad():
        for child in module.modules():
            if isinstance(child, nn.Conv2d | nn.Linear):
                fill(child.weight, -0.6, 0.9)
                if child.bias is not None:
                    fill(child.bias, -0.2, 0.3)
            elif isinstance(child, nn.BatchNorm2d) and child.running_mean is not None:
                assert child.running_var is not None
                fill(child.running_mean, -0.5, 0.5)
                fill(child.running_var, 0.5, 1.5)
                fill(child.weight, 0.8, 1.4)
                fill(child.bias, 0.1, 0.9)
    module.eval()


def images(seed: int, batch: int = 4) -> dict[str, Array]:
    """Inputs of `Small`, on its grid."""
    return {"image": np.random.default_rng(seed).integers(0, 256, size=(batch, 2, 6, 6)) * STEP}
