"""Attention within a step to stock neurons and synapses alone, for small sizes, on integer graphs in logical time.

A spike times a spike is a coincidence. One memoryless neuron for each product of two or three spikes fires if all of
them are there (0/1 synapses, threshold one below their number), and a synapse of weight ``gain`` adds the coincidences
up into whoever read the product::

    y[h, c, m] = gain sum_{j, n} q[h, j, m] k[h, j, n] v[h, c, n]     heads N_q N_k d^2 neurons, three spikes each
    y[h, m, n] = gain sum_j q[h, j, m] k[h, j, n]                     heads N^2 d neurons, two spikes each (the map)
    y[h, c, m] = gain sum_n map[h, m, n] v[h, c, n]                   heads N^2 d neurons, two spikes each

The same integers reach the same populations, so spikes and states of the graph that was stay as they were; in
wall-clock time a product then costs two steps instead of one, which `avsnn.convert.passes.schedule` sees. Products that
need the whole window (attention over time, products of sums) have no such form: their operands lie steps apart.

The 0/1 weights are dense matrices here (a byte each), which ``MATRIX_ENTRIES`` bounds beside the number of neurons;
Lava's Sparse holds the ones alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array, Node, Shape
from avsnn.convert.passes.integer_formats import Target
from avsnn.errors import CapabilityError

NEURONS = 65_536  # that one product may add
MATRIX_ENTRIES = 1 << 26  # of one 0/1 matrix
STOCK, OWN = "stock", "own"


@dataclass(frozen=True, kw_only=True)
class Lowered:
    """What became of one product: ``runs_on`` "stock" processes or its "own"; neurons that stock takes (or would)."""

    product: str
    kind: str
    runs_on: str
    neurons: int | None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Coincidences:
    """Which spikes meet in each neuron, and where its spike counts: flat indices, one array per factor.

    shape: (channels, queries, keys), so that a delaying population of them is one depthwise convolution.
    """

    shape: Shape
    factors: tuple[Array, ...]
    result: Array


def lower_attention(
    graph: Graph, *, target: Target, limit: int = NEURONS, keep: bool = False
) -> tuple[Graph, tuple[Lowered, ...]]:
    """Return the graph with products of a step in stock form, and what became of each product.

    Args:
        graph: stage ``quantised``.
        target: formats of weights, which the gain must fit.
        limit: neurons that one product may add.
        keep: leave larger products as they are instead of raising.

    Raises:
        CapabilityError: a product needs more neurons than ``limit``, and ``keep`` is False.
    """
    nodes: dict[str, Node] = {}
    found: list[Lowered] = []
    parts: dict[str, tuple[str, ...]] = {}  # product to the synapses in its place
    for node in graph.nodes:
        if isinstance(node, fixed.Product):
            found.append(_judge(graph, node, limit=limit, keep=keep))
            if found[-1].runs_on == STOCK:
                meeting, sums = _stock(graph, node, target)
                nodes |= {new.name: new for new in (*meeting, *sums)}
                parts[node.name] = tuple(new.name for new in sums)
                continue
        inputs = tuple(each for name in node.inputs for each in parts.get(name, (name,)))
        nodes[node.name] = replace(node, inputs=inputs) if inputs != node.inputs else node
    return (graph.with_nodes(nodes.values()) if parts else graph), tuple(found)


def neurons_of(graph: Graph, node: fixed.Product) -> int | None:
    """Coincidences that a product of one step takes, or None for one without such a form."""
    sizes = _sizes(graph, node)
    return None if sizes is None else math.prod(sizes)


def coincidences(graph: Graph, node: fixed.Product) -> Coincidences:
    """The table of a product's coincidences; arrays are (neurons,).

    Raises:
        CapabilityError: a product without such a form.
    """
    sizes = _sizes(graph, node)
    if sizes is None:
        raise CapabilityError("no form in stock neurons", where=node.name, found=node.kind)
    heads, *channels, queries, keys = sizes
    index = [each.ravel() for each in np.indices(sizes)]
    h, m, n = index[0], index[-2], index[-1]
    chosen = (h * queries + m) * keys + n  # entry of the map
    at = [
        ((h * size + i) * queries + m, (h * size + i) * keys + n) for size, i in zip(channels, index[1:], strict=False)
    ]
    factors: tuple[Array, ...]
    match node:
        case fixed.FixedAttention():
            (q, k), (result, v) = at
            factors = (q, k, v)
        case fixed.FixedAttentionMap():
            factors, result = at[0], chosen
        case _:
            ((result, v),) = at
            factors = (chosen, v)
    return Coincidences(shape=(heads * math.prod(channels), queries, keys), factors=factors, result=result)


def _sizes(graph: Graph, node: fixed.Product) -> tuple[int, ...] | None:
    """(heads, channels of a head of each independent factor, queries, keys), or None."""
    shapes = [source.shape for source in graph.sources(node)]
    tokens = [math.prod(shape[1:]) for shape in shapes]
    match node:
        case fixed.FixedAttention(over="space"):
            return node.heads, shapes[0][0] // node.heads, shapes[2][0] // node.heads, tokens[0], tokens[1]
        case fixed.FixedAttentionMap():
            return node.heads, shapes[0][0] // node.heads, tokens[0], tokens[1]
        case fixed.FixedMappedValues():
            heads = shapes[0][0]
            return heads, shapes[1][0] // heads, shapes[0][1], shapes[0][2]
        case _:
            return None


def _judge(graph: Graph, node: fixed.Product, *, limit: int, keep: bool) -> Lowered:
    """Whether a product can and may become coincidences."""
    neurons = neurons_of(graph, node)
    row = Lowered(product=node.name, kind=node.kind, runs_on=OWN, neurons=neurons)
    if neurons is None:
        return replace(row, reason="needs the whole window" if node.windowed else "has no form in stock neurons")
    others = [n.name for n in graph.readers[node.name] if not isinstance(n, fixed.FixedLIF)]
    if others or node.name in graph.outputs:
        return replace(row, reason="is read as a number")
    entries = neurons * max(math.prod(graph[name].shape) for name in (*node.inputs, node.name))
    if neurons <= limit and entries <= MATRIX_ENTRIES:
        return replace(row, runs_on=STOCK)
    found = f"{neurons:,} neurons" if neurons > limit else f"{entries:,} entries of a 0/1 matrix"
    most = f"{limit:,}" if neurons > limit else f"{MATRIX_ENTRIES:,}"
    if keep:
        return replace(row, reason=f"would take {found}, the limit is {most}")
    raise CapabilityError(
        "attention is too large for stock neurons",
        where=node.origin or node.name,
        found=found,
        limit=most,
        remedy="attention 'small' (--attention small) leaves such products to processes of their own",
    )


def _stock(graph: Graph, node: fixed.Product, target: Target) -> tuple[list[Node], list[Node]]:
    """(wires and the population of coincidences, the synapses that add them up: the first bears the product's name)."""
    table = coincidences(graph, node)
    count = math.prod(table.shape)
    neurons = np.arange(count)
    wires: list[Node] = []
    for i, (name, index) in enumerate(zip(node.inputs, table.factors, strict=True)):
        ones = _matrix((count, math.prod(graph[name].shape)), neurons, index, 1)
        wires.append(_linear(f"{node.name}.meet{i}", name, table.shape, ones, origin=node.origin))
    together = fixed.FixedLIF(
        name=f"{node.name}.coincidences",
        inputs=tuple(wire.name for wire in wires),
        shape=table.shape,
        origin=node.origin,
        threshold_mant=len(wires) - 1,
        decay_v=fixed.MEMORYLESS,
        bias_mant=np.zeros(1, dtype=np.int64),
        role="coincidence",
        state_bits=target.state_bits,
    )
    mode, sums = "inhibitory" if node.gain < 0 else "excitatory", []
    for i, (mantissa, exponent) in enumerate(_weights_of(node.gain, target)):
        weight = _matrix((math.prod(node.shape), count), table.result, neurons, mantissa)
        name, own = f"{node.name}.sum{i}" if i else node.name, {"sign_mode": mode, "weight_exp": exponent}
        sums.append(_linear(name, together.name, node.shape, weight, origin=node.origin, **own))
    return [*wires, together], sums


def _matrix(shape: tuple[int, int], rows: Array, columns: Array, value: int) -> Array:
    """Zeros with ``value`` at (rows, columns), in the smallest signed integers."""
    weight = np.zeros(shape, dtype=np.min_scalar_type(-abs(value) - 1))
    weight[rows, columns] = value
    return weight


def _linear(name: str, source: str, shape: Shape, weight: Array, **own: Any) -> Node:
    options = {"sign_mode": "excitatory"} | own
    return fixed.FixedLinear(name=name, inputs=(source,), shape=shape, weight_mant=weight, **options)


def _weights_of(gain: int, target: Target) -> list[tuple[int, int]]:
    """(mantissa, exponent) of weights that add up to the gain, the largest first; one where it fits."""
    rest, top, sign = abs(gain), (1 << target.weight_bits) - 1, -1 if gain < 0 else 1
    weights: list[tuple[int, int]] = []
    while rest or not weights:
        exponent = min(max(0, rest.bit_length() - target.weight_bits), target.weight_exp_max)
        mantissa = min(rest >> exponent, top)
        weights.append((sign * mantissa, exponent))
        rest -= mantissa << exponent
    return weights
