"""Features that ``forward`` only looks at in another order, to layers that read them where they are.

Published networks reshape, transpose, split and join tensors between layers: tokens last for a linear layer, heads
apart for a matrix product, queries, keys and values as parts of one tensor. None of this computes anything. The walk
writes such an operation down as a `View`: which feature of what it reads each of its own features is. `canonical` then
rebuilds the graph with channels first, ``(channel, height, width)``, and without views:

=============================  ===================================================================================
reads a view                   becomes
=============================  ===================================================================================
neurons, gain, sum             the same on the features as they are; neurons remember their order (``layout``)
linear layer                   its columns in the order of the features, zeros for those it does not see
linear layer over tokens       a 1x1 convolution, as is a pointwise convolution of a line of tokens
batch norm, mean over tokens   the same over channels
``(q k^T) v``, ``q (k^T v)``   `Attention`; ``LIF(q k^T)`` and a product with it become `AttentionMap`, `MappedValues`
neurons behind a part          the layer before, its rows of that part alone
gate: spikes times spikes      neurons without memory on ``x + y >= 1.5``; ``x (1 - y)``: on ``x - y >= 0.5``
=============================  ===================================================================================

Everything else gets its features in the order it wants by a `Permute`, or is an error.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.node import Array, Node, Shape
from avsnn.convert.problems import Problem
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


RAW = (View, PointLinear, MatMul, MeanAxes, Gate, Complement)


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


def canonical(
    nodes: tuple[Node, ...], outputs: tuple[str, ...], lines: Mapping[str, str]
) -> tuple[tuple[Node, ...], tuple[str, ...], list[Problem]]:
    """Return the nodes without views and the names of the answers, and what cannot be written so.

    Args:
        nodes: as the walk wrote them, in topological order.
        outputs: the answers among them.
        lines: name to the line of ``forward``, for problems.
    """
    if not any(isinstance(node, RAW) for node in nodes):
        return nodes, outputs, []
    rebuilt = _Rebuilt()
    for node in nodes:
        try:
            rebuilt.add(node)
        except TraceError as error:
            return nodes, outputs, [Problem.of(error, line=lines.get(node.name, ""), node=node.name)]
    named = {node.name: node for node in nodes}
    answers = tuple(rebuilt.materialised(named[name], rebuilt.known[name]) for name in outputs)
    return rebuilt.used(answers), answers, []


@dataclass
class _Rebuilt:
    """The graph as far as it is rebuilt."""

    built: dict[str, Node] = field(default_factory=dict)
    known: dict[str, Value | Product | Silence] = field(default_factory=dict)

    def add(self, node: Node) -> None:
        """Rebuild one node."""
        found = [self.known[name] for name in node.inputs]
        for kind, rule in RULES.items():
            if isinstance(node, kind):
                self.known[node.name] = rule(self, node, found)
                return
        names = tuple(self.materialised(node, value) for value in found)
        self.known[node.name] = self.place(replace(node, inputs=names))

    def place(self, node: Node, index: Array | None = None) -> Value:
        """Add a node; ``index`` is how it is looked at, if not as it is."""
        self.built[node.name] = node
        return Value(node.name, node.shape, ordered(node.shape) if index is None else index)

    def materialised(self, node: Node, value: Value | Product | Silence) -> str:
        """The name of a node that emits what is looked at, in that order."""
        value = _features(node, value)
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
        raise _refusal(node, "reads features in an order that is none of their axes", value)

    def used(self, answers: tuple[str, ...]) -> tuple[Node, ...]:
        """All nodes that the answers depend on, and all inputs."""
        needed = set(answers)
        for node in reversed(self.built.values()):
            if node.name in needed:
                needed.update(node.inputs)
        return tuple(node for node in self.built.values() if node.name in needed or isinstance(node, ir.Input))


Found = list[Value | Product | Silence]


def ordered(shape: Shape) -> Array:
    """The index of features that are looked at as they are."""
    return np.arange(math.prod(shape)).reshape(shape)


def _refusal(node: Node, what: str, value: Value | None = None) -> TraceError:
    found = None if value is None else f"{value.index.shape} of {value.name} {value.shape}"
    remedy = "keep channels first, (channels, tokens) or (channels, height, width), between layers"
    return TraceError(what, where=node.origin or node.name, found=found, remedy=remedy)


def _features(node: Node, value: Value | Product | Silence) -> Value:
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
        raise _refusal(node, "reads features whose channels and positions are mixed", value)
    return channels


def _view(graph: _Rebuilt, node: Node, found: Found) -> Value:
    value = _features(node, found[0])
    if isinstance(node, View):
        return Value(value.name, value.shape, value.index.ravel()[node.index])
    if isinstance(node, ir.Permute):
        return Value(value.name, value.shape, value.index.transpose(node.axes).reshape(node.shape))
    return Value(value.name, value.shape, value.index.reshape(node.shape))


def _pointwise(graph: _Rebuilt, node: Node, found: Found) -> Value:
    """Neurons, gains and sums, on the features as they are."""
    if isinstance(node, ir.LIF) and isinstance(found[0], Product):
        node = replace(node, gain=node.gain * found[0].gain)
        found = [_map(graph, node, found[0])]
    values = [_part(graph, node, _features(node, value)) for value in found]
    first = values[0]
    if not all(v.shape == first.shape and np.array_equal(v.index.ravel(), first.index.ravel()) for v in values):
        raise _refusal(node, "adds features in different orders", values[1])
    made = replace(node, inputs=tuple(v.name for v in values), shape=first.shape)
    if isinstance(made, ir.LIF) and not first.in_order:
        made = replace(made, layout=first.index)
    return graph.place(made, first.index)


def _scaled(graph: _Rebuilt, node: Node, found: Found) -> Value | Product | Silence:
    """A gain, which attention has itself."""
    assert isinstance(node, ir.Scale)
    if isinstance(found[0], Product):
        return replace(found[0], gain=found[0].gain * node.gain)
    value = _features(node, found[0])
    source = graph.built[value.name]
    if not isinstance(source, ir.Attention | ir.MappedValues):
        return _pointwise(graph, node, found)
    return graph.place(replace(source, name=node.name, scale=source.scale * node.gain), value.index)


def _gated(graph: _Rebuilt, node: Node, found: Found) -> Value:
    """Spikes where both send one; or where the first sends one and the second none."""
    silent = [value for value in found if isinstance(value, Silence)]
    if len(silent) == len(found):
        raise TraceError("a gate that opens in silence", where=node.origin or node.name, remedy="use one 1 - x at most")
    values = [value.of if isinstance(value, Silence) else _features(node, value) for value in found]
    for value in values:
        if not _sends_spikes(graph, value.name):
            what, remedy = "multiplies what are not spikes", "put neurons before the product"
            raise TraceError(what, where=node.origin or node.name, found=value.name, remedy=remedy)
    for i, value in enumerate(values):
        if isinstance(found[i], Silence):
            name = f"{node.name}.minus"
            values[i] = graph.place(
                ir.Scale(name=name, inputs=(value.name,), shape=value.shape, origin=node.origin, gain=-1.0), value.index
            )  # fmt: skip
    total = ir.Add(name=f"{node.name}.sum", inputs=tuple(v.name for v in values), shape=node.shape, origin=node.origin)
    graph.known[total.name] = _pointwise(graph, total, [*values])
    common: dict[str, Any] = {"name": node.name, "inputs": (total.name,), "shape": node.shape, "origin": node.origin}
    gate = ir.LIF(**common, decay=0.0, gain=1.0, threshold=0.5 if silent else 1.5)
    return _pointwise(graph, gate, [graph.known[total.name]])


def _silence(graph: _Rebuilt, node: Node, found: Found) -> Silence:
    return Silence(_features(node, found[0]))


def _sends_spikes(graph: _Rebuilt, name: str) -> bool:
    node = graph.built[name]
    return isinstance(node, ir.LIF) or (isinstance(node, ir.MaxPool2d) and _sends_spikes(graph, node.inputs[0]))


def _part(graph: _Rebuilt, node: Node, value: Value) -> Value:
    """``value``, or, if only some channels of a layer are looked at, those as a layer of their own."""
    if value.whole:
        return value
    positions = math.prod(value.shape[1:])
    channels = np.unique(value.index // positions)
    if value.index.size != len(channels) * positions or np.unique(value.index).size != value.index.size:
        raise _refusal(node, "reads a part that is not made of whole channels", value)
    name = _rows(graph, node, value.name, channels)
    place = np.searchsorted(channels, value.index // positions)
    return Value(name, (len(channels), *value.shape[1:]), place * positions + value.index % positions)


def _rows(graph: _Rebuilt, node: Node, name: str, channels: Array) -> str:
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


def _linear(graph: _Rebuilt, node: Node, found: Found) -> Value:
    """Columns where the features are."""
    value = _features(node, found[0])
    assert isinstance(node, ir.Linear)
    if value.plain or value.in_order:
        return graph.place(replace(node, inputs=(graph.materialised(node, value),)))
    weight = np.zeros((len(node.weight), math.prod(value.shape)), dtype=node.weight.dtype)
    weight[:, value.index.ravel()] = node.weight
    return graph.place(replace(node, inputs=(value.name,), weight=weight))


def _token_linear(graph: _Rebuilt, node: Node, found: Found) -> Value:
    """(*positions, features): a 1x1 convolution."""
    assert isinstance(node, PointLinear)
    value = _features(node, found[0])
    made = _point(graph, node, value, np.moveaxis(value.index, -1, 0), node.weight, node.bias)
    rows = np.arange(made.index.size).reshape(len(node.weight), *node.shape[:-1])
    return Value(made.name, made.shape, np.moveaxis(rows, 0, -1))


def _conv(graph: _Rebuilt, node: Node, found: Found) -> Value:
    """A pointwise convolution of tokens, or one that sees some of the channels."""
    assert isinstance(node, ir.Conv2d)
    value = _features(node, found[0])
    if value.index.ndim == 2 and not value.plain:  # a line
        value = Value(value.name, value.shape, value.index[:, None])
    spans = math.prod(node.weight.shape[2:]) > 1 or node.stride != (1, 1) or node.padding != (0, 0) or node.groups > 1
    if value.plain or (spans and value.index.shape[1:] != value.shape[1:]):
        return graph.place(replace(node, inputs=(graph.materialised(node, value),)))
    if not spans:
        made = _point(graph, node, value, value.index, node.weight[:, :, 0, 0], node.bias)
        return Value(made.name, made.shape, made.index.reshape(node.shape))
    channels = channels_of(node, value, value.index)
    if node.groups != 1:
        raise _refusal(node, "a grouped convolution of some of the channels", value)
    weight = np.zeros((len(node.weight), value.shape[0], *node.weight.shape[2:]), dtype=node.weight.dtype)
    weight[:, channels] = node.weight
    return graph.place(replace(node, inputs=(value.name,), weight=weight))


def _point(graph: _Rebuilt, node: Node, value: Value, index: Array, weight: Array, bias: Array) -> Value:
    """A 1x1 convolution of what ``index``, (channels, *positions), looks at."""
    source = graph.built[value.name]
    if isinstance(source, ir.Input) and value.whole and len(value.shape) == 2:  # tokens as the user gives them
        channels, tokens = len(index), index.size // len(index)
        turned = (channels, tokens, 1)
        if not np.array_equal(index.reshape(channels, -1), np.arange(index.size).reshape(value.shape).T):
            raise _refusal(node, "reads an input whose channels are not its last axis", value)
        name = f"{value.name}@{node.name}"
        graph.built[name] = ir.Permute(
            name=name, inputs=(value.name,), shape=turned, origin=node.origin, axes=(1, 0)
        )  # fmt: skip
        value = Value(name, turned, np.arange(index.size).reshape(turned))
        index = value.index
    if len(value.shape) != 3:
        raise _refusal(node, "a layer over tokens needs channels and positions", value)
    whole = np.zeros((len(weight), value.shape[0]), dtype=weight.dtype)
    whole[:, channels_of(node, value, index)] = weight
    made = ir.Conv2d(
        name=node.name,
        inputs=(value.name,),
        shape=(len(weight), *value.shape[1:]),
        origin=node.origin,
        weight=whole[:, :, None, None],
        bias=bias,
    )
    return graph.place(made)


def _batch_norm(graph: _Rebuilt, node: Node, found: Found) -> Value:
    """Statistics in the order of the channels."""
    assert isinstance(node, ir.BatchNorm)
    value = _part(graph, node, _features(node, found[0]))
    order = np.argsort(channels_of(node, value, value.index))
    parts = {key: getattr(node, key)[order] for key in ("mean", "var", "gamma", "beta")}
    return graph.place(replace(node, inputs=(value.name,), shape=value.shape, **parts), value.index)


def _mean(graph: _Rebuilt, node: Node, found: Found) -> Value:
    """Over all positions, whatever their order."""
    value = _features(node, found[0])
    axes = node.axes if isinstance(node, MeanAxes) else (1, 2)
    kept = [axis for axis in range(value.index.ndim) if axis not in axes]
    rows = np.sort(value.index.transpose(*kept, *axes).reshape(*(value.index.shape[a] for a in kept), -1), axis=-1)
    if len(kept) != 1 or len(value.shape) != 3:
        raise _refusal(node, "a mean over a part of the positions", value)
    channels = channels_of(node, value, rows)
    made = ir.MeanSpace(name=node.name, inputs=(value.name,), shape=value.shape[:1], origin=node.origin)
    return graph.place(made, channels)


def _multiplied(graph: _Rebuilt, node: Node, found: Found) -> Value | Product | Silence:
    """Attention, once its third operand is there."""
    x, y = found
    match x, y:
        case Value(), Value() if _is_map(graph, x):
            heads, tokens = x.shape[:2]
            _expect(node, y, _by_head(y, heads, tokens))
            inputs = (x.name, y.name)
            mapped = ir.MappedValues(name=node.name, inputs=inputs, shape=y.shape, origin=node.origin, scale=1.0)
            return graph.place(mapped, y.index)
        case Value(), Value():
            return Product((x, y))
        case Product(), Value():
            (q, k), v = x.operands, y
            return _attention(graph, node, q, Value(k.name, k.shape, k.index.swapaxes(-1, -2)), v, x.gain)
        case Value(), Product():
            k, v = y.operands
            return _attention(graph, node, x, Value(k.name, k.shape, k.index.swapaxes(-1, -2)), v, y.gain)
    raise _refusal(node, "a product of two products")


def _is_map(graph: _Rebuilt, value: Value) -> bool:
    """Whether spikes say which tokens attend to which."""
    source = graph.built[value.name]
    if not isinstance(source, ir.LIF) or not value.in_order:
        return False
    return isinstance(graph.built[source.inputs[0]], ir.AttentionMap)


def _by_head(value: Value, heads: int, tokens: int) -> Array:
    """The index of (heads, tokens, channels) of features (channels, *tokens), heads of consecutive channels."""
    size = math.prod(value.shape)
    if size % (heads * tokens) or math.prod(value.shape[1:]) != tokens:
        return np.empty(0, dtype=np.int64)
    return np.arange(size).reshape(heads, size // heads // tokens, tokens).transpose(0, 2, 1)


def _expect(node: Node, value: Value, index: Array) -> None:
    if not np.array_equal(value.index.ravel(), index.ravel()) or value.index.shape[-2:] != index.shape[-2:]:
        what = "multiplies spikes that are not (heads, tokens, channels of a head) of (channels, tokens)"
        raise _refusal(node, what, value)


def _heads(node: Node, q: Value) -> tuple[int, int]:
    if q.index.ndim not in (2, 3):
        raise _refusal(node, "a product of more than (heads, tokens, channels)", q)
    return (q.index.shape[0] if q.index.ndim == 3 else 1), q.index.shape[-2]


def _attention(graph: _Rebuilt, node: Node, q: Value, k: Value, v: Value, gain: float) -> Value:
    heads, tokens = _heads(node, q)
    for value in (q, k, v):
        _expect(node, value, _by_head(value, heads, tokens))
    made = ir.Attention(
        name=node.name,
        inputs=(q.name, k.name, v.name),
        shape=q.shape,
        origin=node.origin,
        heads=heads,
        scale=gain,
        over="space",
    )
    return graph.place(made, q.index)


def _map(graph: _Rebuilt, node: Node, product: Product) -> Value:
    """``q k^T`` in front of neurons."""
    q, k = product.operands
    heads, tokens = _heads(node, q)
    _expect(node, q, _by_head(q, heads, tokens))
    _expect(node, k, _by_head(k, heads, tokens).swapaxes(-1, -2))
    shape, bias = (heads, tokens, tokens), np.zeros((tokens, tokens))
    name, inputs = f"{node.name}.map", (q.name, k.name)
    graph.place(ir.AttentionMap(name=name, inputs=inputs, shape=shape, origin=node.origin, heads=heads, bias=bias))
    return Value(name, shape, ordered(shape).reshape(*q.index.shape[:-1], tokens))


RULES: dict[tuple[type[Node], ...], Callable[[_Rebuilt, Node, Found], Value | Product | Silence]] = {
    (View, ir.Permute, ir.Flatten): _view,
    (ir.LIF, ir.Add): _pointwise,
    (ir.Scale,): _scaled,
    (ir.Linear,): _linear,
    (PointLinear,): _token_linear,
    (ir.Conv2d,): _conv,
    (ir.BatchNorm,): _batch_norm,
    (MeanAxes, ir.MeanSpace): _mean,
    (MatMul,): _multiplied,
    (Gate,): _gated,
    (Complement,): _silence,
}
