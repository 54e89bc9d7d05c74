"""Random spiking networks as the tracer would leave them: small, of all that converts, and alive by construction.

Parts may have windows shorter than T: what is drawn next reads one of them, or what its window has left at its end.
Every node is computed as soon as it is drawn. Thresholds are then chosen such that each population fires neither always
nor hardly ever on the inputs that come with the network; what cannot be brought to life so is drawn again.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.interpreter import apply, check_input, decayed, fire
from avsnn.convert.ir.kernels import conv_size
from avsnn.convert.ir.node import Array, Node, Shape

SAMPLES = 3
MOST = 60  # neurons of a population
LIVELY = (0.08, 0.8)  # spikes per neuron and step
ATTEMPTS = 60  # to draw a population that is alive
WINDOWED = (ir.Attention, ir.ProductOfMeans, ir.MeanTime)
RESETS = ("hard", "subtract", "subtract_delayed")


class DeadError(Exception):
    """What was drawn does not fit or does not fire."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A traced graph, inputs on which all its populations fire, and the names of what it is made of."""

    graph: Graph
    inputs: dict[str, Array]
    parts: frozenset[str]


def draw(seed: int, T: int, blocks: int | None = None) -> Drawn:
    """The network of this seed with windows of T steps; blocks: how many are tried after the first populations."""
    return _Draw(seed, T).network(blocks)


class _Draw:
    def __init__(self, seed: int, T: int) -> None:
        self.rng, self.T = np.random.default_rng([seed, T]), T
        self.slow = np.random.default_rng([seed, T, 1])  # of currents
        self.nodes: dict[str, Node] = {}
        self.values: dict[str, Array] = {}  # (1 or T, samples, *shape)
        self.inputs: dict[str, Array] = {}
        self.parts: set[str] = set()
        self.window: dict[str, int] = {}  # steps of what each node sends
        shorter = np.random.default_rng([seed, T, 1])
        self.windows = [T] if T == 1 or shorter.random() < 0.65 else [T, int(shorter.integers(1, T))]
        self.now = T  # the window of what is drawn
        self.dyadic = bool(self.rng.random() < 0.3)  # weights and thresholds that meet exactly

    def network(self, blocks: int | None) -> Drawn:
        for i in range(max(len(self.windows), 1 + int(self.chance(0.4)))):
            self.now = self.windows[i % len(self.windows)]
            self.alive(functools.partial(self.stem, f"x{i}"), must=True)
        for _ in range(int(self.rng.integers(3, 8)) if blocks is None else blocks):
            kinds = (
                self.weighted,
                self.weighted,
                self.weighted,
                self.pool,
                self.attention,
                self.attention,
                self.mapped,
            )
            self.now = self.windows[0] if len(self.windows) == 1 else int(self.pick(self.windows))
            self.alive(self.pick((*kinds, self.norm_of_tokens, self.means, self.unit, self.host)))
        names = self.answers()
        graph = Graph(nodes=tuple(self.nodes.values()), outputs=names, timesteps=self.T, stage="traced")
        return Drawn(graph=graph.with_nodes(graph.nodes), inputs=self.inputs, parts=frozenset(self.parts))

    def alive(self, make: Callable[[], Any], must: bool = False) -> None:
        """Try ``make`` until it succeeds; what a failed attempt has added goes."""
        for _ in range(10 * ATTEMPTS if must else ATTEMPTS):
            kept = dict(self.nodes), dict(self.values), dict(self.inputs), set(self.parts)
            try:
                make()
                return
            except DeadError:
                self.nodes, self.values, self.inputs, self.parts = kept
        if must:
            raise RuntimeError("nothing comes to life")

    # What is drawn

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def pick(self, among: Any) -> Any:
        among = list(among)
        if not among:
            raise DeadError
        return among[int(self.rng.integers(len(among)))]

    def numbers(self, low: float, high: float, *shape: int) -> Array:
        found = self.rng.uniform(low, high, size=shape)
        return np.rint(found * 8) / 8 if self.dyadic else found

    def weights(self, *shape: int) -> Array:
        """Mixed, mostly positive, or of one sign; now and then much larger or smaller than those of other layers."""
        low, high = self.pick([(-0.5, 0.9), (-0.5, 0.9), (-0.8, 0.6), (0.0, 0.8), (-0.6, 0.0)])
        found = self.numbers(low, high, *shape)
        while not found.any():
            found = self.numbers(low, high, *shape)
        if self.chance(0.1):
            found = found * float(self.pick([1 / 32, 1 / 8, 4, 32]))
            self.parts.add("other scale")
        return found

    # Nodes

    def add(self, kind: type[Node], *inputs: str, part: str = "", **fields: Any) -> str:
        """Add a node and what it computes, which gives its shape."""
        name, now = f"n{len(self.nodes)}", self.window[inputs[0]]
        if kind in WINDOWED:
            fields["steps"] = now % self.T
        node = kind(name=name, inputs=inputs, **fields)
        given = [self.values[source] for source in inputs]
        if isinstance(node, ir.Attention | ir.ProductOfMeans):
            given = [np.broadcast_to(x, (self.T, *x.shape[1:])) for x in given]
        value = apply(node, given)
        self.nodes[name], self.values[name] = replace(node, shape=value.shape[2:]), value
        self.window[name] = self.now if kind is ir.MeanTime else now
        self.parts.add(part or kind.__name__)
        return name

    def shape(self, name: str) -> Shape:
        return self.nodes[name].shape

    def of(self, *kinds: type[Node], window: int | None = None) -> list[str]:
        """Nodes of some kinds in the window that is drawn, or another."""
        there = [name for name, node in self.nodes.items() if isinstance(node, kinds)]
        return [name for name in there if self.window[name] == (window or self.now)]

    def spikes(self, images: bool = False, window: int | None = None) -> list[str]:
        """Populations, late ones more often, and what is pooled of them."""
        found = [
            name for name in self.of(ir.LIF, ir.MaxPool2d, window=window) if not images or len(self.shape(name)) == 3
        ]
        return found + found[-3:]

    def senders(self, images: bool = False) -> list[str]:
        """What weighted layers may read besides: sequences, products of means, and what hosts send."""
        others = self.of(ir.ProductOfMeans, ir.LayerNorm, ir.StepGain)
        others += [name for name in self.of(ir.Input) if getattr(self.nodes[name], "coding", "") == "sequence"]
        return self.spikes(images) + [name for name in others if not images or len(self.shape(name)) == 3]

    def population(self, current: str, *, counts: bool = False, thresholds: bool = True) -> str:
        """Neurons that read ``current``; behind counts with one threshold and a hard reset."""
        shape, rng = self.shape(current), self.rng
        if math.prod(shape) > MOST:
            raise DeadError
        decay = float(self.pick([0.5, 0.5, 0.5, 0.0, 1.0, round(rng.uniform(0.05, 0.95), 2)]))
        gain = float(self.pick([1.0, 1 - decay or 1.0, round(rng.uniform(0.3, 2.0), 2)]))
        reset = "hard" if counts else str(self.pick(RESETS))
        strict = self.chance(0.3)
        kept = 0.0 if counts else float(self.slow.choice([0.0, 0.0, 0.0, 0.5, round(self.slow.uniform(0.05, 0.95), 2)]))
        arrives = decayed(self.values[current], kept, self.T) if kept else self.values[current]
        factors = np.ones(())
        if thresholds and not counts and self.chance(0.2):
            lead = self.pick([shape, (shape[0], *(1,) * (len(shape) - 1)), (1, *shape[1:])])
            factors = rng.uniform(0.7, 1.5, size=lead)
        top = float(np.quantile(gain * arrives[: self.now], 0.95))
        name = f"p{len(self.nodes)}"
        for share in rng.permutation([0.15, 0.3, 0.45, 0.6, 0.8, 1.0, 1.4, 2.0]):
            level = top * float(share) * rng.uniform(0.9, 1.1) * factors
            level = np.maximum(np.rint(level * 8) / 8, 0.125) if self.dyadic or counts else level
            threshold = level if level.ndim else float(level)
            if not top > 0.02:
                raise DeadError
            node = ir.LIF(
                name=name, inputs=(current,), shape=shape, decay=decay, gain=gain, threshold=threshold, reset=reset,
                strict=strict, steps=self.now % self.T, current_decay=kept,
            )  # fmt: skip
            spikes, _, _ = fire(node, self.values[current], self.T, None)
            fired = spikes.reshape(-1, math.prod(shape)).any(axis=0).mean()
            if LIVELY[0] <= spikes[: self.now].mean() <= LIVELY[1] and fired >= 0.4:
                self.nodes[name], self.values[name] = node, spikes.astype(np.float64)
                self.window[name] = self.now
                self.parts |= {"shorter window"} if node.steps else set()
                self.parts |= {reset, "strict" if strict else "not strict"}
                self.parts |= {"thresholds"} if level.ndim else set()
                self.parts |= {f"decay {decay:g}" if decay in (0.0, 0.5, 1.0) else "decay"}
                self.parts |= {f"current {kept:g}" if kept in (0.0, 0.5) else "current"}
                return name
        raise DeadError

    # Weighted layers and what stands around them

    def norm(self, source: str, part: str) -> str:
        c = self.shape(source)[0]
        return self.add(
            ir.BatchNorm, source, part=part, mean=self.numbers(-0.3, 0.4, c), var=self.numbers(0.3, 1.5, c),
            gamma=self.numbers(-0.4, 1.5, c), beta=self.numbers(-0.2, 0.5, c),
        )  # fmt: skip

    def token_norm(self, source: str, per_position: bool) -> str:
        shape = self.shape(source)
        var = self.numbers(0.125, 1.0, *shape[1:]) if per_position else np.asarray(self.rng.uniform(0.1, 1.0))
        gamma, beta = self.numbers(0.5, 1.5, shape[0]), self.numbers(0.0, 0.7, shape[0])
        return self.add(
            ir.DSLN, source, part="DSLN positions" if per_position else "DSLN", var=var, gamma=gamma, beta=beta
        )

    def read(self, images: bool) -> str:
        """Something that a weighted layer reads: spikes or numbers, perhaps behind norms, sums, joined channels."""
        source = self.pick(self.senders(images))
        for _ in range(int(self.pick([0, 0, 1, 1, 2, 3]))):
            kind = self.pick(["norm", "gain", "concat", "add", "token norm"])
            shape = self.shape(source)
            if kind == "norm":
                source = self.norm(source, "norm before")
            elif kind == "gain":
                source = self.add(ir.Scale, source, gain=float(self.numbers(0.25, 1.5)))
            elif kind == "concat":
                other = self.pick([n for n in self.senders() if self.shape(n)[1:] == shape[1:]])
                source = self.add(ir.Concat, *((source, other) if self.chance(0.5) else (other, source)))
            elif kind == "add":
                source = self.add(ir.Add, source, self.pick([n for n in self.senders() if self.shape(n) == shape]))
            elif shape[0] > 1:
                source = self.token_norm(source, False)
        return source

    def conv(self, source: str, target: Shape | None = None, single: bool = False, out: int | None = None) -> str:
        """A convolution of any geometry, or one that gives ``target``; single: 1x1."""
        c, *size = self.shape(source)
        sides = []
        for axis in (0, 1):
            fitting = [
                (k, s, p, d)
                for k in ((1,) if single else (1, 2, 3))
                for s in ((1,) if single else (1, 1, 2, 3))
                for p in range(min(k, 3) if not single else 1)
                for d in ((1, 2) if k > 1 else (1,))
                if size[axis] + 2 * p > d * (k - 1)
                and (
                    target is None
                    or conv_size((size[axis],) * 2, (k, k), (s, s), (p, p), (d, d))[0] == target[1 + axis]
                )
            ]
            sides.append(self.pick(fitting))
        kernel, stride, padding, dilation = zip(*sides, strict=True)
        wide = out or (target[0] if target else int(self.rng.integers(1, 5)))
        groups = self.pick([g for g in (1, 1, 2, 3, c) if c % g == 0 and wide % g == 0])
        self.parts |= {n for n, v in (("stride", stride), ("dilation", dilation)) if v != (1, 1)}
        self.parts |= {"padding"} if padding != (0, 0) else set()
        self.parts |= {"groups"} if groups > 1 else set()
        bias = self.numbers(-0.2, 0.5, wide)
        return self.add(
            ir.Conv2d, source, weight=self.weights(wide, c // groups, *kernel), bias=bias, stride=stride,
            padding=padding, dilation=dilation, groups=groups,
        )  # fmt: skip

    def linear(self, source: str, wide: int) -> str:
        """A dense layer behind flattening, another order, a mean over tokens, or nothing."""
        shape = self.shape(source)
        if len(shape) == 3:
            how = self.pick(["mean", "flat", "order", ""])
            if how == "mean":
                source = self.add(ir.MeanSpace, source)
            elif how == "flat":
                source = self.add(ir.Flatten, source)
            elif how == "order":
                axes = tuple(int(i) for i in self.rng.permutation(3))
                source = self.add(ir.Permute, source, axes=axes, shape=tuple(shape[i] for i in axes))
        width = math.prod(self.shape(source))
        return self.add(ir.Linear, source, weight=self.weights(wide, width), bias=self.numbers(-0.2, 0.6, wide))

    def branch(self, target: Shape | None, images: bool) -> str:
        """One part of a current: a layer, two in a row, or a shortcut without any."""
        if not images:
            wide = target[0] if target else int(self.rng.integers(2, 12))
            source = self.linear(self.read(False), wide)
            if target is None and self.chance(0.1):
                source = self.add(ir.Linear, source, part="chain", weight=self.weights(wide, wide), bias=np.zeros(wide))
            return self.norm(source, "norm after") if self.chance(0.3) else source
        if target and self.chance(0.5):
            source = self.pick([name for name in self.spikes(True) if self.shape(name) == target])
            self.parts.add("shortcut")
            return self.norm(source, "norm on shortcut") if self.chance(0.4) else source
        source = self.read(True)
        if target is None and self.chance(0.4):
            return self.conv(self.average(source), single=True)
        source = self.conv(source, target)
        if self.chance(0.15):
            source = self.conv(source, single=True, out=self.shape(source)[0])
            self.parts.add("chain")
        return self.norm(source, "norm after") if self.chance(0.3) else source

    def average(self, source: str) -> str:
        """An average pool: a depthwise convolution."""
        c = self.shape(source)[0]
        if min(self.shape(source)[1:]) < 2:
            raise DeadError
        return self.add(
            ir.Conv2d,
            source,
            part="average",
            weight=np.full((c, 1, 2, 2), 0.25),
            bias=np.zeros(c),
            groups=c,
            stride=(2, 2),
        )

    # Blocks, each of one or more populations

    def stem(self, name: str) -> None:
        """An input, and a first population behind it."""
        coding, step = self.pick(["direct", "sequence"]), float(self.pick([1 / 255, 1 / 15, 1.0]))
        shape = self.pick([(2, 5, 4), (1, 6, 5), (2, 4, 4), (3, 3, 4), (1, 1, 7), (6,)])
        low, high = self.pick([(0.0, 1.0), (0.0, 1.0), (-1.0, 1.0), (-2.0, 3.0), (1.0, 2.0)])
        steps = 0 if coding == "direct" else self.now % self.T
        node = ir.Input(name=name, shape=shape, coding=coding, low=low, high=high, step=step, steps=steps)
        lead = (SAMPLES,) if coding == "direct" else (self.now, SAMPLES)
        whole = self.rng.integers(round(node.low / step), round(node.high / step) + 1, size=(*lead, *shape))
        self.inputs[name] = whole * step
        self.nodes[name] = node
        self.values[name] = check_input(node, self.inputs, self.T)
        self.window[name] = self.now
        self.parts |= {coding, "events" if (low, high, step) == (0, 1, 1) else "graded input"}
        source = name
        if self.chance(0.4):
            mean, std = self.numbers(0.0, 0.5, shape[0]), self.numbers(0.25, 1.5, shape[0])
            source = self.add(ir.Normalise, source, mean=mean, std=std)
        if len(shape) == 3 and self.chance(0.9):
            source = self.conv(source)
        else:
            source = self.linear(source, int(self.rng.integers(3, 12)))
        self.population(self.norm(source, "norm after") if self.chance(0.5) else source)

    def weighted(self) -> None:
        """Sums of layers from anywhere, shortcuts among them."""
        images = self.chance(0.75)
        like = self.shape(self.pick(self.spikes(images))) if self.chance(0.5) else None  # with room for a shortcut
        parts = [self.branch(like, images)]
        for _ in range(int(self.pick([0, 0, 1, 1, 2]))):
            parts.append(self.branch(self.shape(parts[0]), images))
        current = self.add(ir.Add, *parts, part="sum") if len(parts) > 1 else parts[0]
        end = self.pick(["", "", "norm", "gain"])
        if end and not all(isinstance(self.nodes[part], ir.Conv2d | ir.Linear) for part in parts):
            end = ""  # a norm on sums with shortcuts belongs to no layer
        if end == "norm":
            current = self.norm(current, "norm after sum")
        elif end == "gain":
            current = self.add(ir.Scale, current, gain=float(self.numbers(0.5, 1.5)))
        self.population(current)

    def pool(self) -> None:
        """A maximum over windows of spikes, norms between or not."""
        source = self.pick([name for name in self.spikes(True) if self.plain(name)])
        kernel = tuple(int(self.rng.integers(1, min(3, side) + 1)) for side in self.shape(source)[1:])
        stride, padding = (
            self.pick([(1, 1), (2, 2), kernel]),
            tuple(int(self.rng.integers(0, k // 2 + 1)) for k in kernel),
        )
        if math.prod(kernel) == 1:
            raise DeadError
        normed = isinstance(self.nodes[source], ir.LIF) and self.chance(0.3)
        read = self.norm(source, "norm before pool") if normed else source
        pooled = self.add(ir.MaxPool2d, read, kernel=kernel, stride=stride, padding=padding)
        if self.values[pooled].mean() > 0.9 and not normed:
            raise DeadError
        if normed:  # numbers, not spikes: for a layer only
            self.population(self.conv(pooled))

    def norm_of_tokens(self) -> None:
        """DSLN behind spikes or a layer, with one variance or one per position."""
        per_position = self.chance(0.5)
        source = self.pick([name for name in self.spikes(True) if self.shape(name)[0] > 1 and self.plain(name)])
        if self.chance(0.5):
            normed = self.token_norm(source, per_position)
            self.population(self.conv(normed, single=True, out=self.shape(source)[0]), thresholds=not per_position)
        else:
            layer = self.conv(source)
            if self.shape(layer)[0] == 1:
                raise DeadError
            self.population(self.token_norm(layer, per_position), thresholds=not per_position)

    def trio(self, number: int, width: int, side: Shape | None = None) -> list[str]:
        """Populations of ``width`` channels over the same tokens, some of them there already."""
        found: list[str] = []
        for _ in range(number):
            fitting = [n for n in self.spikes(True) if self.shape(n)[0] == width and self.shape(n)[1:] == side]
            fitting = [n for n in fitting if self.plain(n)]
            if fitting and self.chance(0.3):
                found.append(self.pick(fitting))
                continue
            layer = self.conv(self.pick(self.spikes(True)), (width, *side) if side else None, out=width)
            side = self.shape(layer)[1:]
            if math.prod(side) > 12:
                raise DeadError
            found.append(self.population(layer))
        return found

    def attention(self) -> None:
        over, heads = self.pick(["space", "time"]), int(self.rng.integers(1, 4))
        width = heads * int(self.rng.integers(1, 4))
        if over == "space" and self.chance(0.45):  # queries at other positions than keys and values
            q, (k, v) = self.trio(1, width)[0], self.trio(2, width)
            self.parts.add("space, other grids")
        else:
            q, k, v = self.trio(3, width)
        scale = float(self.pick([0.125, 0.25, 1.0, round(float(self.rng.uniform(0.1, 1.0)), 3)]))
        current = self.add(ir.Attention, q, k, v, part=over, heads=heads, scale=scale, over=over)
        self.population(current, counts=True)

    def mapped(self) -> None:
        """Which pairs of tokens belong together, as spikes; then values by these pairs."""
        heads = int(self.rng.integers(1, 4))
        q, k, v = self.trio(3, heads * int(self.rng.integers(1, 4)))
        tokens = math.prod(self.shape(q)[1:])
        bias = self.numbers(-0.5, 1.5, tokens, tokens) * float(self.chance(0.6))
        pairs = self.population(self.add(ir.AttentionMap, q, k, heads=heads, bias=bias), counts=True)
        scale = float(self.pick([0.25, 1.0, 0.3]))
        self.population(self.add(ir.MappedValues, pairs, v, scale=scale), counts=True)

    def means(self) -> None:
        """A product of means, which layers read as numbers."""
        x, y = self.trio(2, int(self.rng.integers(1, 5)))
        product = self.add(ir.ProductOfMeans, x, y, shape=self.shape(x))
        self.population(self.conv(product) if self.chance(0.5) else self.linear(product, int(self.rng.integers(2, 9))))

    def unit(self) -> None:
        """Counts of a window scaled to length 1."""
        vectors = []
        for _ in range(int(self.pick([1, 2]))):
            ended = [n for steps in self.windows for n in self.spikes(window=steps)]
            source = self.add(ir.MeanTime, self.pick([n for n in ended if self.plain(n)]))
            if len(self.shape(source)) == 3:
                source = self.add(self.pick([ir.MeanSpace, ir.Flatten]), source)
            vectors.append(self.add(ir.Unit, source))
        joined = self.add(ir.Concat, *vectors) if len(vectors) > 1 else vectors[0]
        wide = int(self.rng.integers(2, 9))
        weight = self.weights(wide, math.prod(self.shape(joined)))
        current = self.add(ir.Linear, joined, weight=weight, bias=self.numbers(-0.2, 0.5, wide))
        self.population(current, counts=True)

    def host(self) -> None:
        """What a host answers in every step: a norm of sums or of a layer, or a gain, which layers read as numbers."""
        source = self.pick([name for name in self.spikes(True) if self.shape(name)[0] > 1 and self.plain(name)])
        kind = self.pick(["norm", "norm behind a layer", "gain"])
        if kind == "gain":
            w = self.linear(self.pick([n for n in self.spikes() if self.plain(n)]), 1)
            found = self.add(ir.StepGain, source, w)
        else:
            x = self.conv(source) if kind != "norm" else source
            c = self.shape(x)[0]
            if c == 1:
                raise DeadError
            gamma, beta, variant = self.numbers(0.5, 1.5, c), self.numbers(0.0, 0.7, c), self.chance(0.5)
            part = "LayerNorm variant" if variant else "LayerNorm"
            found = self.add(ir.LayerNorm, x, part=part, gamma=gamma, beta=beta, variant=variant)
        if self.chance(0.25):
            self.population(found)
        else:
            self.population(self.conv(found) if self.chance(0.7) else self.linear(found, int(self.rng.integers(2, 9))))

    def plain(self, name: str) -> bool:
        """Whether ``name`` sends spikes: a pool of normed spikes sends numbers."""
        node = self.nodes[name]
        return self.plain(node.inputs[0]) if isinstance(node, ir.MaxPool2d) else isinstance(node, ir.LIF)

    def answers(self) -> tuple[str, ...]:
        """One or two answers, which read all populations that nothing else reads."""
        read = {source for node in self.nodes.values() for source in node.inputs}
        ends = [n for steps in self.windows for n in self.of(ir.LIF, ir.MaxPool2d, window=steps) if n not in read]
        if self.chance(0.3):
            short = self.now < self.T  # where a norm would speak on
            ends.append(self.pick(n for n in self.senders() if not (short and isinstance(self.nodes[n], ir.LayerNorm))))
        number = 2 if len(ends) > 1 and self.chance(0.2) else 1
        self.parts |= {"two answers"} if number == 2 else set()
        return tuple(self.answer(ends[i::number]) for i in range(number))

    def answer(self, ends: list[str]) -> str:
        rows, wide = [], int(self.rng.integers(2, 5))
        for source in ends:
            first = self.chance(0.5)
            source = self.add(ir.MeanTime, source) if first else source
            if self.chance(0.2):
                source = self.norm(source, "norm in the answer")
            source = self.linear(source, wide)
            rows.append(source if first else self.add(ir.MeanTime, source))
        return self.add(ir.Add, *rows, part="answers added") if len(rows) > 1 else rows[0]
