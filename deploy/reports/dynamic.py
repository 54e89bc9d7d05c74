"""Turns the spikes of a product's sources into its operations: activity times activity, which no stored weight is in.

An operation is counted where every operand of it is a spike, or a counter that a spike asks for; |x| is a number of
spikes, per head of d channels (T: steps of its window, N: tokens). Multiplying by the constant gain is not counted.

======================== ============================ =============================== ============== ==================
product                  AND                          ACC (additions)                 MUL            dense order
======================== ============================ =============================== ============== ==================
q (k^T v)                sum_n,t |k_n| |v_n|          the same, plus d |q|            0              2 N^2 d (T^2 d)
q k^T (map)              sum_i,t |q_i| |k_i|          the same                        0              N^2 d
map v                    sum_n,t |map_n| |v_n|        the same                        0              N^2 d
sum_n x times sum_t y    0                            |x| + |y|                       both sums > 0  N T per channel
counts to length 1       0                            |x|                             on the host    T per neuron
======================== ============================ =============================== ============== ==================

q (k^T v): a coincidence of a key and a value spike adds 1 to one of d^2 counters; a query spike then adds a row of d
counters. This holds over tokens (counters per step) and over time (counters per token). The dense order multiplies
every pair, zeros included, q k^T first: per step over tokens, per token over time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from avsnn.convert.core_traffic import emitted
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array
from avsnn.convert.ir.windows import windows
from avsnn.deploy.capability import needs
from avsnn.deploy.payload import payload_bits
from avsnn.errors import InputError

PerSample = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class ProductCount:
    """One product over all samples and steps.

    ``ands``, ``accs`` and ``muls`` as in the module's table, ``nonzero`` results that are not 0. They are None where
    the spikes of the sources were not recorded: numbers of spikes alone do not tell coincidences. ``dense_macs``: the
    multiply-accumulates of the dense order. ``payload_bits`` of the largest possible result.
    ``ability``: what it asks of a target (`avsnn.hw_profiles.schema.CAPABILITY_KINDS`). ``replay_bits``: a windowed
    product holds T steps of all its sources, a bit per neuron; one that only counts spikes holds a counter per neuron.
    ``delay_bits``: what its inputs wait in, a bit per neuron and step. ``operations_by_sample`` adds up to
    ands + accs + muls.
    """

    name: str
    kind: str
    ability: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    windowed: bool
    payload_bits: int
    replay_bits: int
    delay_bits: int
    dense_macs: int
    ands: int | None = None
    accs: int | None = None
    muls: int | None = None
    nonzero: int | None = None
    operations_by_sample: tuple[int, ...] | None = None


def results(graph: Graph, activity: Mapping[str, Array]) -> dict[str, Array]:
    """Whether each result of each product or host is not 0: (T, B, *shape) bool, where all sources were recorded."""
    known = emitted(graph, activity)
    return {node.name: known[node.name] != 0 for node in graph.of(fixed.Product) if node.name in known}


def product_count(
    node: fixed.Product, graph: Graph, activity: Mapping[str, Array], emitted: Mapping[str, Array], samples: int
) -> ProductCount:
    """Count one product; ``emitted`` is what `results` found."""
    sizes = [math.prod(graph[name].shape) for name in node.inputs]
    delays = node.delays or (0,) * len(sizes)
    row = ProductCount(
        name=node.name,
        kind=node.kind,
        ability=needs(node, graph)[0],
        sources=node.inputs,
        targets=tuple(reader.name for reader in graph.readers[node.name]),
        windowed=node.windowed,
        payload_bits=payload_bits(node, graph),
        replay_bits=_replay_bits(node, graph.timesteps, sizes),
        delay_bits=sum(delay * size for delay, size in zip(delays, sizes, strict=True)),
        dense_macs=dense_macs(node, graph, windows(graph)) * samples,
    )
    if node.name not in emitted:
        return row
    ands, accs, muls = operations(node, *(activity[name] != 0 for name in node.inputs))
    by_sample = tuple(int(n) for n in ands + accs + muls)
    known = {"ands": int(ands.sum()), "accs": int(accs.sum()), "muls": int(muls.sum())}
    nonzero = int(np.count_nonzero(emitted[node.name]))
    return ProductCount(**(vars(row) | known | {"nonzero": nonzero, "operations_by_sample": by_sample}))


def _replay_bits(node: fixed.Product, timesteps: int, sizes: list[int]) -> int:
    if isinstance(node, fixed.FixedUnitCurrent):
        return timesteps.bit_length() * sum(sizes)
    return timesteps * sum(sizes) if node.windowed else 0


def dense_macs(node: fixed.Product, graph: Graph, steps: Mapping[str, int]) -> int:
    """Multiply-accumulates of one sample if no zero were skipped, in the order written (the map q k^T first).

    steps: how many each source works, by name.
    """
    n, shapes = max(steps[name] for name in node.inputs), [graph[name].shape for name in node.inputs]
    first, tokens, others = shapes[0], math.prod(shapes[0][1:]), math.prod(shapes[-1][1:])
    match node:
        case fixed.FixedUnitCurrent():
            return sum(steps[name] * math.prod(shape) for name, shape in zip(node.inputs, shapes, strict=True))
        case fixed.FixedAttention():
            return 2 * first[0] * (tokens * n * n if node.windowed else n * tokens * others)
        case fixed.FixedAttentionMap():
            return n * first[0] * tokens * others
        case fixed.FixedMappedValues():
            return n * math.prod(node.shape) * first[-1]
        case fixed.FixedProductOfSums():
            return n * math.prod(first)
        case _:
            raise InputError("no counting rule", where=node.name, found=node.kind)


def operations(node: fixed.Product, *spikes: Array) -> tuple[PerSample, PerSample, PerSample]:
    """(AND, ACC, MUL) of each sample, int64 (B,); spikes: bool (T, B, *shape of the source), in the order of inputs.

    Raises:
        InputError: a product without a counting rule.
    """
    none = np.zeros(spikes[0].shape[1], np.int64)
    match node:
        case fixed.FixedAttention():
            q, k, v = (_heads(x, node.heads) for x in spikes)
            coincidences = _per_sample(k.sum(axis=3) * v.sum(axis=3))
            return coincidences, coincidences + v.shape[3] * _per_sample(q), none
        case fixed.FixedAttentionMap():
            q, k = (_heads(x, node.heads) for x in spikes)
            coincidences = _per_sample(q.sum(axis=4) * k.sum(axis=4))
        case fixed.FixedMappedValues():
            chosen, v = spikes[0].astype(np.int64), _heads(spikes[1], spikes[0].shape[2])
            coincidences = _per_sample(chosen.sum(axis=3) * v.sum(axis=3))
        case fixed.FixedProductOfSums():
            x, y = (each.astype(np.int64).reshape(*each.shape[:3], -1) for each in spikes)
            asked = np.count_nonzero(x.sum(axis=3), axis=0) * np.count_nonzero(y.sum(axis=0), axis=2)  # (B, C)
            return none, _per_sample(x) + _per_sample(y), asked.sum(axis=1).astype(np.int64)
        case fixed.FixedUnitCurrent():
            return none, sum((_per_sample(x) for x in spikes), start=none), none
        case _:
            raise InputError("no counting rule", where=node.name, found=node.kind)
    return coincidences, coincidences, none


def _heads(x: Array, heads: int) -> Array:
    """(T, B, D, *tokens) to int64 (T, B, heads, d, N)."""
    return x.astype(np.int64).reshape(*x.shape[:2], heads, x.shape[2] // heads, -1)


def _per_sample(x: Array) -> PerSample:
    """Sum over everything but the batch, axis 1."""
    total: PerSample = x.sum(axis=(0, *range(2, x.ndim)), dtype=np.int64)
    return total
