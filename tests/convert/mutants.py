"""Small networks through which every rule of the compiler has something to do, for the mutations of those rules.

Weights are random with a positive mean, and biases such that every population fires; each converts in well under a
second. All are given as traced graphs, so that no module has to be built.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array, Node
from tests.strategies import spiking_graph

Shape = tuple[int, ...]


class Net:
    """Nodes in order, each with random parameters."""

    def __init__(self, seed: int, T: int, shape: Shape, **options: Any) -> None:
        self.rng, self.T = np.random.default_rng(seed), T
        self.nodes: list[Node] = [ir.Input(name="x", shape=shape, **options)]

    def shape(self, name: str) -> Shape:
        return next(node.shape for node in self.nodes if node.name == name)

    def add(self, kind: type[Node], name: str, inputs: str | tuple[str, ...], shape: Shape = (), **rest: Any) -> str:
        names = (inputs,) if isinstance(inputs, str) else inputs
        self.nodes.append(kind(name=name, inputs=names, shape=shape or self.shape(names[0]), **rest))
        return name

    def conv(self, name: str, source: str, out: int, kernel: int = 1, **options: Any) -> str:
        c, *size = self.shape(source)
        stride, pad = options.get("stride", (1, 1)), options.get("padding", (0, 0))
        side = [(size[k] + 2 * pad[k] - kernel) // stride[k] + 1 for k in (0, 1)]
        groups = options.get("groups", 1)
        weight = self.rng.normal(0.3, 0.6, size=(out, c // groups, kernel, kernel))
        bias = self.rng.uniform(0.1, 0.6, size=out)
        return self.add(ir.Conv2d, name, source, (out, *side), **{"weight": weight, "bias": bias, **options})

    def linear(self, name: str, source: str, out: int) -> str:
        weight = self.rng.normal(0.1, 0.6, size=(out, int(np.prod(self.shape(source)))))
        return self.add(ir.Linear, name, source, (out,), weight=weight, bias=self.rng.uniform(0.1, 0.6, size=out))

    def norm(self, name: str, source: str) -> str:
        c, rng = self.shape(source)[0], self.rng
        gamma = rng.uniform(0.6, 1.5, size=c) * np.where(np.arange(c) % 3 == 1, -1, 1)
        return self.add(
            ir.BatchNorm, name, source, mean=rng.normal(size=c) / 2, var=rng.uniform(0.3, 2, size=c), gamma=gamma,
            beta=rng.uniform(0.3, 0.9, size=c),
        )  # fmt: skip

    def tokens(self, name: str, source: str, positions: Shape = ()) -> str:
        """A token norm, with a variance per position if ``positions`` are given."""
        c, rng = self.shape(source)[0], self.rng
        var = np.asarray(rng.uniform(0.1, 0.8, size=positions))
        gamma, beta = rng.uniform(0.6, 1.5, size=c), rng.uniform(0.2, 0.8, size=c)
        return self.add(ir.DSLN, name, source, var=var, gamma=gamma, beta=beta, eps=0.05)

    def layer_norm(self, name: str, source: str, variant: bool = False) -> str:
        c, rng = self.shape(source)[0], self.rng
        gamma, beta = rng.uniform(0.6, 1.5, size=c), rng.uniform(-0.2, 0.8, size=c)
        return self.add(ir.LayerNorm, name, source, gamma=gamma, beta=beta, variant=variant)

    def lif(self, name: str, source: str, **options: Any) -> str:
        how = {"decay": 0.5, "gain": 0.5, "threshold": 0.6, **options}
        return self.add(ir.LIF, name, source, **how)

    def graph(self, answer: str) -> Graph:
        return Graph(nodes=tuple(self.nodes), outputs=(answer,), timesteps=self.T, stage="traced")


def images() -> Graph:
    """Norms before and behind layers, sums, maxima, averages, joined channels and shortcuts."""
    net = Net(1, 3, (2, 5, 4))
    rng = net.rng
    net.add(ir.Normalise, "grey", "x", mean=rng.uniform(0.3, 0.6, size=2), std=rng.uniform(0.2, 0.4, size=2))
    net.conv("c1", "grey", 4, 3, padding=(1, 1))
    net.lif("a", net.norm("n1", "c1"))
    net.add(ir.Scale, "more", net.norm("n2", "a"), gain=1.25)
    net.conv("c2", "more", 4, 3, padding=(1, 1), stride=(2, 2))
    pool: dict[str, Any] = {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1)}
    net.add(ir.MaxPool2d, "pool", net.norm("n3", "a"), (4, 3, 2), **pool)
    net.conv("c3", "pool", 4, groups=2)
    net.lif("b", net.norm("n4", net.add(ir.Add, "c23", ("c2", "c3"))))
    net.add(ir.Scale, "half", "b", gain=0.75)
    net.add(ir.Add, "short", (net.norm("n5", net.conv("c5", "b", 4)), net.norm("n6", "half")))
    net.lif("d", "short")
    net.add(ir.Concat, "both", ("b", "d"), (8, 3, 2))
    net.conv("c7", net.norm("n7", "both"), 4, groups=2)
    net.lif("e", net.norm("n8", "c7"))
    net.lif("f", "c7")
    net.add(ir.MaxPool2d, "last", "e", (4, 3, 1), kernel=(1, 2), stride=(1, 2))
    net.add(ir.Add, "sum", ("e", "b", net.add(ir.Scale, "twice", "f", gain=2.0), "b"))
    answers = [net.add(ir.MeanSpace, f"{source}.mean", source, (4,)) for source in ("sum", "last")]
    joined = net.add(ir.Concat, "joined", tuple(answers), (8,))
    return net.graph(net.linear("y", net.add(ir.MeanTime, "time", joined), 3))


def chains() -> Graph:
    """Layers without neurons between them: averages, two convolutions, features in another order."""
    net = Net(2, 3, (2, 6, 6))
    net.lif("a", net.conv("c1", "x", 4, 3, padding=(1, 1)))
    average: dict[str, Any] = {"weight": np.full((4, 1, 2, 2), 0.25), "bias": np.zeros(4), "groups": 4}
    net.conv("mean", "a", 4, 2, stride=(2, 2), **average)
    net.lif("b", net.conv("c2", "mean", 4, 3, padding=(1, 1)))
    net.conv("c3", "b", 4, 2)
    net.lif("d", net.conv("c4", "c3", 4, 1))
    net.add(ir.Permute, "turned", "d", (2, 4, 2), axes=(2, 0, 1))
    net.lif("e", net.linear("l2", net.linear("l1", net.add(ir.Flatten, "flat", "turned", (16,)), 16), 16))
    net.conv("late", "d", 3, 2, bias=np.array([0.3, -0.2, 0.5]))
    net.linear("head", net.add(ir.Flatten, "row", "late", (3,)), 3)
    net.add(ir.Add, "rows", ("head", net.linear("other", "e", 3)))
    return net.graph(net.add(ir.MeanTime, "y", "rows"))


def apart() -> Graph:
    """An average over windows that overlap the edge, in front of a layer that pads: two layers that are not one."""
    net = Net(2, 3, (1, 4, 4))
    net.lif("a", net.conv("c1", "x", 2))
    average: dict[str, Any] = {"weight": np.full((2, 1, 3, 3), 1 / 9), "bias": np.zeros(2), "groups": 2}
    net.conv("mean", "a", 2, 3, padding=(1, 1), **average)
    net.lif("b", net.conv("c2", "mean", 2, 3, padding=(1, 1)))
    return answered(net, "b")


def tokens() -> Graph:
    """Token norms: a variance per position before and behind layers, shared ones, and one in front of every token."""
    net = Net(3, 4, (3, 5, 1))
    net.lif("a", net.conv("c1", "x", 4))
    net.lif("b", net.conv("c2", net.tokens("n2", "a", (5, 1)), 4))
    net.add(ir.Add, "sum", ("a", "b"))
    net.lif("d", net.tokens("n3", net.conv("c3", "sum", 4), (5, 1)))
    net.lif("e", net.conv("c4", net.tokens("n4", "d"), 4))
    net.linear("l5", net.add(ir.Flatten, "flat", net.tokens("n5", "e", (5, 1)), (20,)), 6)
    net.lif("f", "l5")
    return net.graph(net.linear("y", net.add(ir.MeanTime, "time", "f"), 3))


def frames() -> Graph:
    """Features as channels under a convolution over time steps of the recording."""
    net = Net(4, 3, (6, 3))
    net.add(ir.Permute, "turned", "x", (3, 6, 1), axes=(1, 0))
    weight = net.rng.normal(0.2, 0.6, size=(4, 3, 3, 1))
    common: dict[str, Any] = {"weight": weight, "bias": net.rng.uniform(0.1, 0.6, size=4)}
    net.add(ir.Conv2d, "c1", "turned", (4, 3, 1), **common, stride=(2, 1), padding=(1, 0))
    net.lif("a", "c1")
    net.add(ir.MeanSpace, "mean", "a", (4,))
    return net.graph(net.linear("y", net.add(ir.MeanTime, "time", "mean"), 3))


def graded() -> Graph:
    """Neurons without a leak that add numbers of both signs up for a window."""
    net = Net(5, 6, (8,), coding="sequence", low=-1.0, high=1.0, step=1 / 127)
    net.lif("a", net.linear("l1", "x", 6), decay=1.0, gain=1.0, reset="subtract")
    net.lif("b", net.linear("l2", "a", 6))
    return net.graph(net.linear("y", net.add(ir.MeanTime, "time", "b"), 3))


def answered(net: Net, source: str) -> Graph:
    flat = net.add(ir.Flatten, "flat", source, (int(np.prod(net.shape(source))),))
    return net.graph(net.linear("y", net.add(ir.MeanTime, "time", flat), 3))


def products(kind: str) -> Graph:
    """Queries one layer deeper than keys and values; a shortcut from the keys waits for what attention makes."""
    net = Net(5, 4, (4, 2, 2), coding="sequence", step=1.0)
    net.lif("deep", net.conv("c0", "x", 4))
    for name, source in (("q", "deep"), ("k", "x"), ("v", "x"))[: 2 if kind == "sums" else 3]:
        net.lif(name, net.conv(f"c{name}", source, 4), threshold=0.4)
    match kind:
        case "map":
            bias = net.rng.normal(0.3, 0.4, size=(4, 4))
            net.lif("m", net.add(ir.AttentionMap, "map", ("q", "k"), (2, 4, 4), heads=2, bias=bias), threshold=0.7)
            net.lif("a", net.add(ir.MappedValues, "values", ("m", "v"), (4, 2, 2), scale=0.25), threshold=0.25)
        case "sums":
            net.lif("a", net.conv("ca", net.add(ir.ProductOfMeans, "sums", ("q", "k")), 4), threshold=0.4)
        case _:
            both = net.add(ir.Attention, "attention", ("q", "k", "v"), heads=2, scale=0.375, over=kind)
            net.lif("a", both, threshold=0.75)
    net.add(ir.Add, "late", (net.conv("skip", "k", 4), net.conv("last", "a", 4)))
    net.lif("out", "late")
    if kind == "time":  # read once more, a step later
        again = net.add(ir.Add, "again", (net.add(ir.Scale, "tenth", "out", gain=0.5), "k"))
        net.lif("end", net.conv("ce", again, 4))
        return answered(net, "end")
    return answered(net, "out")


def wide() -> Graph:
    """So many tokens and channels that the largest count of attention limits its gain."""
    net = Net(5, 7, (1, 6, 6), coding="sequence", step=1.0)
    for name in "qkv":
        net.lif(name, net.conv(f"c{name}", "x", 64), threshold=0.4)
    net.lif("a", net.add(ir.Attention, "attention", ("q", "k", "v"), heads=1, scale=0.01, over="space"))
    net.add(ir.MeanSpace, "mean", "a", (64,))
    return net.graph(net.linear("y", net.add(ir.MeanTime, "time", "mean"), 3))


def units() -> Graph:
    """Counts of two populations, each scaled to length 1, of which the tokens of the first are averaged."""
    net = Net(6, 4, (2, 3, 3), coding="sequence", step=1.0)
    net.lif("first", net.conv("c0", "x", 5), threshold=0.8)
    net.lif("a", net.conv("c1", "first", 5), threshold=0.9)
    net.lif("b", net.conv("c2", "x", 3), threshold=0.9)
    net.add(ir.MeanSpace, "a.mean", "a", (5,))
    net.add(ir.Unit, "a.unit", net.add(ir.MeanTime, "a.rate", "a.mean"))
    net.add(ir.Flatten, "b.flat", "b", (27,))
    net.add(ir.Unit, "b.unit", net.add(ir.MeanTime, "b.rate", "b.flat"))
    net.add(ir.Concat, "joined", ("a.unit", "b.unit"), (32,))
    net.lif("join", net.linear("c3", "joined", 8), threshold=0.5)
    return net.graph(net.linear("y", net.add(ir.MeanTime, "time", "join"), 3))


def windows() -> Graph:
    """A part of two steps beside one of four: counts joined when both have ended, an answer of each, a product."""
    net = Net(10, 4, (2, 3, 3))
    net.lif("a", net.conv("c1", "x", 4))
    net.lif("b", net.conv("c2", "x", 4), steps=2)
    net.lif("d", net.conv("c3", "b", 4), steps=2)
    net.add(ir.ProductOfMeans, "both", ("b", "d"), steps=2)
    net.lif("e", net.conv("c4", "both", 4), threshold=0.3, steps=2)
    for name, steps in (("a", 0), ("e", 2)):
        net.add(ir.Flatten, f"{name}.flat", name, (36,))
        net.add(ir.Unit, f"{name}.unit", net.add(ir.MeanTime, f"{name}.rate", f"{name}.flat", steps=steps))
    net.add(ir.Concat, "joined", ("a.unit", "e.unit"), (72,))
    net.lif("join", net.linear("c5", "joined", 8), threshold=0.5)
    net.add(ir.Flatten, "d.flat", "d", (36,))
    late = net.linear("y.short", net.add(ir.MeanTime, "d.rate", "d.flat", steps=2), 3)
    return net.graph(net.add(ir.Add, "y", (late, net.linear("y.long", net.add(ir.MeanTime, "time", "join"), 3))))


def hosts(variant: bool = False) -> Graph:
    """Layer norms of a sum of spikes in front of a padded convolution, and of weighted sums in front of neurons."""
    net = Net(1, 3, (2, 4, 4), coding="sequence", step=1.0)
    net.lif("a", net.conv("c1", "x", 6, 3, padding=(1, 1)))
    net.lif("b", net.conv("c2", "a", 6, 3, padding=(1, 1)))
    net.add(ir.Add, "ab", ("a", "b"))
    net.lif("d", net.conv("c3", net.layer_norm("n1", "ab", variant), 6, 3, padding=(1, 1)))
    net.add(ir.Add, "both", (net.conv("c4", "d", 6), net.conv("skip", "a", 6)))
    net.lif("e", net.layer_norm("n2", "both", variant))
    return answered(net, "e")


def gains() -> Graph:
    """A gain per step, linear in the token means of two populations, of a sum of two."""
    net = Net(1, 3, (2, 4, 4), coding="sequence", step=1.0)
    net.lif("a", net.conv("c1", "x", 6, 3, padding=(1, 1)))
    net.lif("b", net.conv("c2", "a", 6, 3, padding=(1, 1)))
    net.lif("o", net.conv("c0", "x", 6, 3, padding=(1, 1)))
    net.add(ir.Add, "ab", ("a", "b"))
    means = (net.add(ir.MeanSpace, "ma", "ab", (6,)), net.add(ir.MeanSpace, "mo", "o", (6,)))
    net.add(ir.Concat, "means", means, (12,))
    net.linear("w", net.linear("v", "means", 6), 1)
    net.add(ir.StepGain, "gain", ("ab", "w"), (6, 4, 4))
    net.lif("d", net.conv("c3", "gain", 8), threshold=0.2)
    net.add(ir.Add, "rest", (net.conv("c4", "d", 6), "gain"))
    net.lif("e", "rest", threshold=0.4)
    return answered(net, "e")


def resets(reset: str) -> Graph:
    """Three populations in a row with a shortcut; the last decays by a tenth and has a threshold per position."""
    net = Net(7, 4, (2, 3, 3))
    net.lif("a", net.conv("c1", "x", 3, 3, padding=(1, 1)), reset=reset)
    net.lif("b", net.conv("c2", "a", 3), reset=reset, strict=reset == "hard")
    net.add(ir.Add, "sum", (net.conv("c3", "b", 3), net.conv("skip", "a", 3)))
    thresholds = net.rng.uniform(0.5, 1.0, size=(1, 3, 3))
    net.lif("d", "sum", reset=reset, decay=0.9, gain=0.25, threshold=thresholds)
    return answered(net, "d")


def synaptic() -> Graph:
    """Neurons with a current of their own, behind a held input, a layer and a sum; a long window of slow decays."""
    net = Net(7, 16, (2, 3, 3))
    slow: dict[str, Any] = {"current_decay": 0.9, "decay": 0.97, "gain": 0.05, "strict": True}
    net.lif("a", net.conv("c1", "x", 3, 3, padding=(1, 1)), **slow)
    net.lif("b", net.conv("c2", "a", 3), current_decay=0.5, strict=True, threshold=0.9)
    net.add(ir.Add, "sum", (net.conv("c3", "b", 3), net.conv("skip", "a", 3)))
    net.lif("d", "sum", current_decay=0.75, gain=0.25, reset="subtract_delayed", strict=True, threshold=1.2)
    return answered(net, "d")


def leaky() -> Graph:
    """An answer that is the last membrane of a leaky integrator, behind two layers and a bias."""
    net = Net(7, 5, (2, 3, 3))
    net.lif("a", net.conv("c1", "x", 3, 3, padding=(1, 1)))
    net.linear("out", net.add(ir.Flatten, "flat", "a", (27,)), 4)
    net.add(ir.LeakyIntegrator, "v", "out", decay=0.8, gain=0.3, current_decay=0.4)
    return net.graph(net.add(ir.LastStep, "y", net.linear("head", "v", 3)))


def skips() -> Graph:
    """Shortcuts over one to four populations, and a maximum over windows."""
    done = spiking_graph(8, T=3, depth=5, skips=((0, 2), (0, 4), (1, 4)), pool=True, read=(1,))
    return replace(done, stage="traced")


def silent() -> Graph:
    """A shortcut whose weights are 0 but for one that is too small for a spike."""
    done = spiking_graph(8, T=3, depth=3, skips=((0, 2),), read=(1,))
    layer = done["c0to2"]
    assert isinstance(layer, ir.Conv2d)
    weak = replace(layer, weight=1e-9 * (layer.weight == layer.weight.max()))
    return replace(done, nodes=tuple(weak if node is layer else node for node in done), stage="traced")


def dead() -> Graph:
    """Two populations that cannot fire, beside others, and one that fires only if its membrane adds up over steps."""
    net = Net(10, 4, (2, 3, 3))
    net.lif("a", net.conv("c1", "x", 3, 3, padding=(1, 1)))
    small = net.rng.uniform(-0.2, 0.2, size=(3, 3, 1, 1))
    net.lif("never", net.conv("c2", "a", 3, weight=small, bias=np.array([0.2, 0.1, -0.2])))
    net.lif("neither", net.conv("c3", "never", 3, weight=small, bias=np.array([0.3, 0.1, 0.2])))
    net.add(ir.Add, "sum", (net.conv("c4", "a", 3), net.conv("c5", "never", 3)))
    net.lif("b", "sum")
    thin = np.array([[0.3, -0.15, 0.3], [0.35, 0.25, -0.15], [-0.15, 0.3, 0.3]]).reshape(3, 3, 1, 1)
    net.lif("slow", net.conv("c6", "b", 3, weight=thin, bias=np.full(3, 0.12)), decay=0.9, gain=1.0, threshold=2.0)
    net.lif("end", net.conv("c7", net.add(ir.Add, "some", ("a", "never", "b")), 3))
    net.add(ir.Add, "all", ("end", "neither", "slow"))
    net.add(ir.MeanSpace, "mean", "all", (3,))
    late = net.linear("y1", net.add(ir.MeanTime, "time", "mean"), 3)
    net.add(ir.Flatten, "flat", "never", (27,))
    other = net.linear("y2", net.add(ir.MeanTime, "time2", "flat"), 3)
    return net.graph(net.add(ir.Add, "y", (late, other)))


NETWORKS: dict[str, Callable[[], Graph]] = {
    "images": images,
    "chains": chains,
    "apart": apart,
    "tokens": tokens,
    "frames": frames,
    "graded": graded,
    "space": lambda: products("space"),
    "time": lambda: products("time"),
    "map": lambda: products("map"),
    "sums": lambda: products("sums"),
    "wide": wide,
    "units": units,
    "windows": windows,
    "norms": hosts,
    "variants": lambda: hosts(variant=True),
    "gains": gains,
    "hard": lambda: resets("hard"),
    "subtract": lambda: resets("subtract"),
    "subtract_delayed": lambda: resets("subtract_delayed"),
    "long": lambda: spiking_graph(3, T=9, depth=2, coding="sequence"),
    "synaptic": synaptic,
    "leaky": leaky,
    "skips": skips,
    "silent": silent,
    "dead": dead,
}


def samples(graph: Graph, batch: int = 6) -> dict[str, Array]:
    """Values on the grid of the input, over its whole range."""
    rng, made = np.random.default_rng(9), {}
    for node in graph.of(ir.Input):
        lead = (batch,) if node.coding == "direct" else (graph.timesteps, batch)
        levels = rng.integers(0, round(node.high / node.step) + 1, size=(*lead, *node.shape))
        made[node.name] = levels * node.step
    return made
