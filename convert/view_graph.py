"""A traced graph as it is rebuilt without views: which features each name looks at, and where they are."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.node import Array, Node, Shape
from avsnn.errors import TraceError


@dataclass(frozen=True, kw_only=True, eq=False)
class View(Node):
    """``y = x.flatten()[index]``, index: shape."""

    index: Array


@dataclass(frozen=True, kw_only=True, eq=False)
class PointLinear(Node):
    """``y[p] = weight x[p] + bias`` over the last axis of (*positions, features)."""

    weight: Array
    bias: Array


@dataclass(frozen=True, kw_only=True, eq=False)
class PointNorm(Node):
    """Layer norm over the last axis of (*positions, features); gamma, beta: (features,)."""

    gamma: Array
    beta: Array
    eps: float


@dataclass(frozen=True, kw_only=True, eq=False)
class MatMul(Node):
    """``y = x1 @ x2`` over the last two axes of features."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MeanAxes(Node):
    """Mean over axes of features."""

    axes: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Gate(Node):
    """``y = x1 x2``, spike by spike."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Complement(Node):
    """``y = 1 - x``."""


RAW = (View, PointLinear, PointNorm, MatMul, MeanAxes, Gate, Complement)
"""What the walk writes down and no graph holds."""


@dataclass(frozen=True, eq=False)
class Value:
    """Features that are looked at: where they are, and in which order.

    Attributes:
        name: the node that emits them.
        shape: its shape.
        index: which of its features, flattened, each feature looked at is.
    """

    name: str
    shape: Shape
    index: Array

    @property
    def in_order(self) -> bool:
        """Whether all features are looked at in the order in which they are."""
        return np.array_equal(self.index.ravel(), np.arange(math.prod(self.shape)))

    @property
    def plain(self) -> bool:
        """Whether nothing is looked at otherwise than it is."""
        return self.in_order and self.index.shape == self.shape

    @property
    def whole(self) -> bool:
        """Whether every feature is looked at once."""
        return self.index.size == math.prod(self.shape) == np.unique(self.index).size


@dataclass(frozen=True, eq=False)
class Product:
    """A matrix product of spikes that is not known yet: its operands in order, and a gain."""

    operands: tuple[Value, Value]
    gain: float = 1.0


@dataclass(frozen=True, eq=False)
class Silence:
    """Where something is silent: ``1 - x``."""

    of: Value


Known = Value | Product | Silence
Found = list[Known]


@dataclass
class Rebuilt:
    """The graph as far as it is rebuilt."""

    built: dict[str, Node] = field(default_factory=dict)
    known: dict[str, Known] = field(default_factory=dict)

    def place(self, node: Node, index: Array | None = None) -> Value:
        """Add a node; ``index`` is how it is looked at, if not as it is."""
        self.built[node.name] = node
        return Value(node.name, node.shape, ordered(node.shape) if index is None else index)

    def materialised(self, node: Node, value: Known) -> str:
        """The name of a node that emits what is looked at, in that order."""
        value = features(node, value)
        if value.plain:
            return value.name
        name = f"{value.name}@{node.name}"
        common: dict[str, Any] = {
            "name": name,
            "inputs": (value.name,),
            "shape": value.index.shape,
            "origin": node.origin,
        }
        if value.in_order and value.index.ndim == 1:
            self.built[name] = ir.Flatten(**common)
            return name
        whole = ordered(value.shape)
        for axes in itertools.permutations(range(len(value.shape))):
            if value.whole and (whole.transpose(axes).ravel() == value.index.ravel()).all():
                self.built[name] = ir.Permute(**common, axes=axes)
                return name
        raise refusal(node, "reads features in an order that is none of their axes", value)

    def used(self, answers: tuple[str, ...]) -> tuple[Node, ...]:
        """All nodes that the answers depend on, and all inputs."""
        needed = set(answers)
        for node in reversed(self.built.values()):
            if node.name in needed:
                needed.update(node.inputs)
        return tuple(node for node in self.built.values() if node.name in needed or isinstance(node, ir.Input))


def ordered(shape: Shape) -> Array:
    """The index of features that are looked at as they are."""
    return np.arange(math.prod(shape)).reshape(shape)


def refusal(node: Node, what: str, value: Value | None = None) -> TraceError:
    """The error of a rule that meets features in an order it has no node for."""
    found = None if value is None else f"{value.index.shape} of {value.name} {value.shape}"
    remedy = "keep channels first, (channels, tokens) or (channels, height, width), between layers"
    return TraceError(what, where=node.origin or node.name, found=found, remedy=remedy)


def features(node: Node, value: Known) -> Value:
    """``value``, if these are features; what only attention or a gate can read is an error."""
    if isinstance(value, Silence):
        what, remedy = "reads where spikes are missing", "1 - x only opens a gate, (1 - x) * y with spikes x and y"
        raise TraceError(what, where=node.origin or node.name, remedy=remedy)
    if isinstance(value, Product):
        what = "reads a matrix product of spikes that is no attention"
        remedy = "(q @ k.transpose(-2, -1)) @ v, with spikes (heads, tokens, channels), or neurons behind q @ k^T"
        raise TraceError(what, where=node.origin or node.name, remedy=remedy)
    return value


def channels_of(node: Node, value: Value, index: Array) -> Array:
    """Which channels are looked at, if ``index`` is (channels, *positions) and every position stays where it is."""
    positions = math.prod(value.shape[1:])
    rows = index.reshape(len(index), -1)
    channels: Array = rows[:, 0] // positions
    if not np.array_equal(rows, channels[:, None] * positions + np.arange(positions)):
        raise refusal(node, "reads features whose channels and positions are mixed", value)
    return channels


def part(graph: Rebuilt, node: Node, value: Value) -> Value:
    """``value``, or, if only some channels of a layer are looked at, those as a layer of their own."""
    if value.whole:
        return value
    positions = math.prod(value.shape[1:])
    channels = np.unique(value.index // positions)
    if value.index.size != len(channels) * positions or np.unique(value.index).size != value.index.size:
        raise refusal(node, "reads a part that is not made of whole channels", value)
    name = _rows(graph, node, value.name, channels)
    place = np.searchsorted(channels, value.index // positions)
    return Value(name, (len(channels), *value.shape[1:]), place * positions + value.index % positions)


def _rows(graph: Rebuilt, node: Node, name: str, channels: Array) -> str:
    """A layer with some of its rows only, what stands between it and ``node`` as well."""
    source = graph.built[name]
    made = f"{name}@{node.name}"
    common: dict[str, Any] = {"name": made, "shape": (len(channels), *source.shape[1:])}
    match source:
        case ir.Conv2d(groups=1) | ir.Linear():
            weight, bias = source.weight[channels], source.bias[channels]
            graph.built[made] = replace(source, **common, weight=weight, bias=bias)
        case ir.BatchNorm():
            common["inputs"] = (_rows(graph, node, source.inputs[0], channels),)
            parts: dict[str, Any] = {key: getattr(source, key)[channels] for key in ("mean", "var", "gamma", "beta")}
            graph.built[made] = replace(source, **common, **parts)
        case ir.Scale() | ir.Add():
            common["inputs"] = tuple(_rows(graph, node, one, channels) for one in source.inputs)
            graph.built[made] = replace(source, **common)
        case _:
            what = f"reads a part of what {source.origin or name} sends"
            raise TraceError(what, where=node.origin or node.name, remedy="take the part behind the neurons, or before")
    return made
