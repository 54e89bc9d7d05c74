"""Operations, messages and memory of products of activity, against loops over single spikes."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avsnn.convert.ir import fixed_nodes as ir
from avsnn.convert.ir.fixed_interpreter import wall_clock
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array, Node
from avsnn.convert.passes.schedule import depth, schedule
from avsnn.deploy.backends.cpu import simulate
from avsnn.deploy.payload import bounds, payload_bits
from avsnn.deploy.reports.counts import count
from avsnn.deploy.reports.dynamic import operations
from avsnn.deploy.reports.latency import first_answer
from avsnn.errors import InputError

Rng = np.random.Generator
SEEDS = st.integers(0, 2**32 - 1)


def lif(name: str, inputs: tuple[str, ...], shape: tuple[int, ...], threshold: int = 1) -> ir.FixedLIF:
    bias = np.full(1, 8, np.int64)
    return ir.FixedLIF(
        name=name, inputs=inputs, shape=shape, threshold_mant=threshold, decay_v=2048, bias_mant=bias
    )  # fmt: skip


def linear(rng: Rng, name: str, source: str, size: int, out: int) -> ir.FixedLinear:
    return ir.FixedLinear(name=name, inputs=(source,), shape=(out,), weight_mant=rng.integers(-3, 7, (out, size)) * 2)


def network(seed: int, *, heads: int = 2, d: int = 3, tokens: int = 4, T: int = 3) -> Graph:
    """Quantised: q, k, v at depths 0, 1, 2; every product; populations that read them; one that reads a message."""
    rng = np.random.default_rng(seed)
    shape = (heads * d, tokens)
    size = heads * d * tokens
    common: dict[str, Any] = {"inputs": ("q", "k", "v"), "shape": shape, "heads": heads}

    def layer(name: str, source: str) -> tuple[Node, ...]:
        wires = linear(rng, f"{source}.{name}", source, size, size)
        return wires, lif(name, (wires.name,), shape, threshold=4)

    nodes: tuple[Node, ...] = (
        ir.FixedInput(name="x", shape=shape, coding="sequence", low=0, high=1, step=1.0),
        *layer("q", "x"), *layer("k", "q"), *layer("v", "k"),
        ir.FixedAttention(name="space", **common, over="space"),
        ir.FixedAttention(name="time", **common, over="time"),
        ir.FixedAttentionMap(name="map", inputs=("q", "k"), shape=(heads, tokens, tokens), heads=heads),
        lif("chosen", ("map",), (heads, tokens, tokens)),
        ir.FixedMappedValues(name="mapped", inputs=("chosen", "v"), shape=shape, gain=2),
        ir.FixedProductOfSums(name="sums", inputs=("q", "v"), shape=shape, gain=3),
        lif("a", ("space", "time", "mapped"), shape, threshold=3),
        linear(rng, "sums.b", "sums", size, 5), lif("b", ("sums.b",), (5,), threshold=90),
        linear(rng, "a.y", "a", size, 2), linear(rng, "b.y", "b", 5, 2),
        ir.FixedReadout(name="y", inputs=("a.y", "b.y"), shape=(2,), bias=np.zeros(2, np.int64), scale=1.0),
    )  # fmt: skip
    return Graph(nodes=nodes, outputs=("y",), timesteps=T, stage="quantised")


def scheduled(seed: int, **sizes: int) -> Graph:
    return schedule(network(seed, **sizes), delay_steps_max=62)[0]


def random_activity(graph: Graph, rng: Rng, samples: int, rate: float) -> dict[str, Array]:
    shapes = {n.name: n.shape for n in graph if isinstance(n, ir.FixedLIF | ir.FixedInput)}
    return {name: rng.random((graph.timesteps, samples, *shape)) < rate for name, shape in shapes.items()}


def split(x: Array, sample: int, heads: int) -> Array:
    """One sample as (T, heads, d, N)."""
    return x[:, sample].reshape(len(x), heads, x.shape[2] // heads, -1)


def by_loops(node: ir.Product, spikes: list[Array], sample: int) -> tuple[int, int, int]:
    """(AND, ACC, MUL), one spike after the other."""
    ands = accs = muls = 0
    if isinstance(node, ir.FixedProductOfSums):
        x, y = (each[:, sample].reshape(len(each), each.shape[2], -1) for each in spikes)
        T, channels, tokens = x.shape
        accs = sum(int(bit) for bit in x.ravel()) + sum(int(bit) for bit in y.ravel())
        for t, c, n in itertools.product(range(T), range(channels), range(tokens)):
            muls += any(x[t, c, m] for m in range(tokens)) and any(y[s, c, n] for s in range(T))
        return ands, accs, muls
    if isinstance(node, ir.FixedMappedValues):
        chosen, v = spikes[0][:, sample], split(spikes[1], sample, spikes[0].shape[2])
        for t, h, m, n in itertools.product(*map(range, chosen.shape)):
            for i in range(v.shape[2]):
                ands += bool(chosen[t, h, m, n] and v[t, h, i, n])
        return ands, ands, 0
    parts = [split(x, sample, node.heads) for x in spikes]  # type: ignore[attr-defined]
    T, heads, d, tokens = parts[0].shape
    if isinstance(node, ir.FixedAttentionMap):
        for t, h, i, m, n in itertools.product(range(T), range(heads), range(d), range(tokens), range(tokens)):
            ands += bool(parts[0][t, h, i, m] and parts[1][t, h, i, n])
        return ands, ands, 0
    q, k, v = parts
    for t, h, i, n in itertools.product(range(T), range(heads), range(d), range(tokens)):
        for j in range(d):
            if k[t, h, i, n] and v[t, h, j, n]:  # one counter more
                ands += 1
                accs += 1
            accs += bool(q[t, h, i, n])  # a row of d counters
    return ands, accs, 0


@given(
    SEEDS, st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.sampled_from([0.1, 0.5, 0.9])
)
@settings(max_examples=15)
def test_operations_of_every_product_equal_loops_over_single_spikes(
    seed: int, heads: int, d: int, tokens: int, T: int, rate: float
) -> None:
    graph = scheduled(seed, heads=heads, d=d, tokens=tokens, T=T)
    activity = random_activity(graph, np.random.default_rng(seed), 2, rate)
    rows = {row.name: row for row in count(graph, activity).products}
    assert set(rows) == {"space", "time", "map", "mapped", "sums"}
    for node in graph.of(ir.Product):
        row, found = rows[node.name], [by_loops(node, [activity[n] for n in node.inputs], b) for b in range(2)]
        assert (row.ands, row.accs, row.muls) == tuple(sum(column) for column in zip(*found, strict=True)), node.name
        assert row.operations_by_sample == tuple(sum(parts) for parts in found)
        for value in (row.ands, row.accs, row.muls, row.nonzero, *row.operations_by_sample):
            assert type(value) is int


def test_the_formula_of_the_keys_first_order_is_below_the_dense_one() -> None:
    """|k| |v| per token and d |q|, the published count, against N^2 d of each product."""
    graph = scheduled(1, heads=2, d=4, tokens=9, T=4)
    activity = random_activity(graph, np.random.default_rng(1), 3, 0.2)
    rows = {row.name: row for row in count(graph, activity).products}
    q, k, v = (activity[name].reshape(4, 3, 2, 4, 9).astype(int) for name in "qkv")
    pairs = int((k.sum(3) * v.sum(3)).sum())
    for name in ("space", "time"):
        assert (rows[name].ands, rows[name].accs) == (pairs, pairs + 4 * int(q.sum()))
    assert rows["space"].dense_macs == 3 * 4 * 2 * (2 * 9 * 9 * 4)  # samples, steps, heads, 2 N^2 d
    assert rows["time"].dense_macs == 3 * 9 * 2 * (2 * 4 * 4 * 4)  # samples, tokens, heads, 2 T^2 d
    assert rows["map"].dense_macs == rows["mapped"].dense_macs == 3 * 4 * 2 * (9 * 9 * 4)
    assert rows["sums"].dense_macs == 3 * 4 * 8 * 9
    assert 0 < pairs + (pairs + 4 * int(q.sum())) < rows["space"].dense_macs


def test_full_activity_reaches_every_bound() -> None:
    """With all spikes there the operations are those of the dense order, and results are the largest that fit."""
    graph = scheduled(2, heads=2, d=3, tokens=4, T=3)
    activity = {n: np.ones_like(a) for n, a in random_activity(graph, np.random.default_rng(0), 1, 0.5).items()}
    rows = {row.name: row for row in count(graph, activity).products}
    assert rows["map"].ands == rows["map"].dense_macs
    assert rows["mapped"].ands == rows["mapped"].dense_macs
    assert rows["sums"].muls == rows["sums"].dense_macs
    expected = {"space": 3 * 4, "time": 3 * 3, "map": 3, "mapped": 2 * 4, "sums": 3 * 4 * 3}
    for node in graph.of(ir.Product):
        assert bounds(node, graph) == (0, expected[node.name])
        assert payload_bits(node, graph) == expected[node.name].bit_length()
        assert payload_bits(replace(node, gain=-1), graph) >= 2  # a sign
        assert rows[node.name].nonzero == activity["q"][:, 0].size * (8 if node.name == "map" else 6) // 6


def test_messages_of_a_product_are_graded_sops_apart_from_spikes() -> None:
    graph = scheduled(3)
    activity = random_activity(graph, np.random.default_rng(3), 4, 0.3)
    counts = count(graph, activity, driven=True)
    rows = {row.name: row for row in counts.synapses}
    q, v = activity["q"].astype(int), activity["v"].astype(int)
    value = 3 * q.sum(axis=3, keepdims=True) * v.sum(axis=0, keepdims=True)
    sums = rows["sums.b"]
    assert 0 < sums.events == int(np.count_nonzero(value)) < value.size
    assert sums.events_graded == sums.events
    assert sums.sop_graded == sums.sop_stored == 5 * sums.events
    assert sums.payload_bits == (3 * 4 * 3).bit_length()
    for name, row in rows.items():
        if name != "sums.b":
            assert (row.events_graded, row.sop_graded, row.payload_bits) == (0, 0, 0), name
    assert counts.sop_graded == sums.sop_stored
    assert counts.sop_spike == counts.sop_stored - sums.sop_stored > 0
    assert counts.payload_bits == sums.events * sums.payload_bits
    read = value != 0
    weight = graph["sums.b"].weight_mant != 0  # type: ignore[attr-defined]
    reached = read.reshape(3, 4, -1).astype(int) @ weight.T > 0
    assert {row.name: row.driven for row in counts.populations}["b"] == int(reached.sum())


def test_a_population_is_driven_by_results_of_products_that_are_not_zero() -> None:
    graph = scheduled(4)
    activity = random_activity(graph, np.random.default_rng(4), 2, 0.15)
    q, k = (activity[n].reshape(3, 2, 2, 3, 4).astype(int) for n in "qk")
    hits = np.einsum("tbhim,tbhin->tbhmn", q, k) > 0
    counts = count(graph, activity, driven=True)
    assert {row.name: row.driven for row in counts.populations}["chosen"] == int(hits.sum())
    assert 0 < int(hits.sum()) < hits.size


def test_numbers_of_messages_alone_leave_operations_out_and_give_the_same_sops() -> None:
    graph = scheduled(5)
    x = (np.random.default_rng(5).random((3, 6, 6, 4)) < 0.4).astype(np.int64)
    recorded = wall_clock(graph, {"x": x})
    execution = simulate(graph, {"x": x})
    assert not execution.spikes
    full = count(graph, {"x": x, **recorded.spikes})
    numbers = count(graph, {"x": x}, messages=execution.counts)
    assert numbers.synapses == full.synapses
    assert numbers.populations == full.populations
    assert full.sop_graded > 0
    assert [row.ands for row in numbers.products] == [None] * 5
    table = numbers.to_json()
    for row in table["products"]:
        assert not {"ands", "accs", "muls"} & set(row)
        assert ("nonzero" in row) is (row["name"] == "sums")  # the only one whose messages are counted
    assert not {"dynamic_and", "dynamic_acc", "dynamic_mul"} & set(table["total"])
    assert "dynamic_per_sample" not in table
    complete = full.to_json()
    assert complete["total"]["dynamic_and"] == sum(row["ands"] for row in complete["products"]) > 0
    by_sample = sorted(full.dynamic_by_sample or ())
    assert complete["dynamic_per_sample"] == {"min": by_sample[0], "median": by_sample[2], "max": by_sample[5]}
    with pytest.raises(InputError, match="no recorded activity"):
        count(graph, {"x": x}, messages=execution.counts, driven=True)


def test_numbers_of_graded_inputs_do_not_tell_which_are_graded() -> None:
    graph = scheduled(6)
    nodes = [replace(n, high=9) if isinstance(n, ir.FixedInput) else n for n in graph]
    wide = graph.with_nodes(nodes)
    activity = random_activity(graph, np.random.default_rng(6), 2, 0.3)
    totals = {name: a.sum(axis=0) for name, a in activity.items()}
    totals["sums"] = np.zeros((2, 6, 4), np.int64)
    assert count(graph, {}, messages=totals).samples == 2
    with pytest.raises(InputError, match="x: numbers of messages do not tell which are graded"):
        count(wide, {}, messages=totals)
    with pytest.raises(InputError, match="q: not numbers of messages"):
        count(graph, {}, messages=totals | {"q": totals["q"][:, 0]})
    row = next(row for row in count(wide, activity).synapses if row.name == "x.q")
    assert row.payload_bits == 4


def test_a_direct_input_counts_in_every_step() -> None:
    rng = np.random.default_rng(7)
    node = ir.FixedInput(name="x", shape=(3,), coding="direct", low=0, high=1, step=1.0)
    graph = Graph(
        nodes=(node, linear(rng, "w", "x", 3, 2), lif("p", ("w",), (2,))), outputs=("p",), timesteps=4,
        stage="quantised",
    )  # fmt: skip
    x = np.array([[1, 0, 1], [0, 0, 1]])
    assert count(graph, {"x": x, "p": np.zeros((4, 2, 2), bool)}).events == 4 * 3


def test_windows_are_replayed_from_bits_and_delays_hold_bits() -> None:
    graph = scheduled(8)
    rows = {row.name: row for row in count(graph, random_activity(graph, np.random.default_rng(8), 1, 0.5)).products}
    size, T = 24, 3
    assert {name: row.replay_bits for name, row in rows.items()} == {
        "space": 0, "map": 0, "mapped": 0, "time": T * 3 * size, "sums": T * 2 * size
    }  # fmt: skip
    for node in graph.of(ir.Product):
        sizes = [int(np.prod(graph[name].shape)) for name in node.inputs]
        expected = sum(delay * n for delay, n in zip(node.delays, sizes, strict=True))
        assert rows[node.name].delay_bits == expected
    assert rows["space"].delay_bits >= (2 + 1) * size  # q waits 2 steps for v, k one
    assert [row.ability for row in rows.values()] == [
        "attention",
        "attention_window",
        "attention",
        "attention",
        "product",
    ]


@given(SEEDS, st.integers(1, 5))
@settings(max_examples=10)
def test_the_first_answer_is_the_schedules_depth_and_a_window(seed: int, T: int) -> None:
    graph = scheduled(seed, T=T)
    first = first_answer(graph)
    assert (first.depth, first.steps) == (depth(graph), depth(graph) + T)
    assert (first.windows, first.non_causal) == (1, ("time", "sums"))


def test_windows_on_one_path_add_up_and_those_side_by_side_do_not() -> None:
    """time -> p -> sums -> read-out is two windows deep."""
    rng, shape = np.random.default_rng(9), (4, 2)
    nodes: tuple[Node, ...] = (
        ir.FixedInput(name="x", shape=shape, coding="sequence", low=0, high=1, step=1.0),
        linear(rng, "x.q", "x", 8, 8), lif("q", ("x.q",), shape),
        ir.FixedAttention(name="time", inputs=("q", "q", "q"), shape=shape, heads=2, over="time"),
        lif("p", ("time",), shape),
        ir.FixedProductOfSums(name="sums", inputs=("p", "q"), shape=shape), linear(rng, "y.w", "sums", 8, 2),
        ir.FixedReadout(name="y", inputs=("y.w",), shape=(2,), bias=np.zeros(2, np.int64), scale=1.0),
    )  # fmt: skip
    graph = schedule(Graph(nodes=nodes, outputs=("y",), timesteps=4, stage="quantised"), delay_steps_max=62)[0]
    first = first_answer(graph)
    assert first.windows == 2
    assert first.depth == depth(graph) == 1 + 4 + 4 + 1
    assert first.to_json() == {"steps": 14, "depth": 10, "windows": 2, "non_causal": ["time", "sums"]}
    forgotten = [replace(n, delays=(0, 0)) if n.name == "sums" and isinstance(n, ir.Product) else n for n in graph]
    with pytest.raises(InputError, match="sums: paths arrive at different steps"):
        first_answer(graph.with_nodes(forgotten))


def test_counts_scaled_to_length_one_are_counted_on_the_host() -> None:
    rng = np.random.default_rng(10)
    unit = ir.FixedUnitCurrent(
        name="unit", inputs=("a", "b"), shape=(3,), weight=rng.integers(-5, 6, (3, 6)), bias=np.full(3, 7), shift=4,
        pooled=(False, True),
    )  # fmt: skip
    nodes = (lif("a", (), (4,)), lif("b", (), (2, 5)), unit, lif("p", ("unit",), (3,)))
    graph = Graph(nodes=nodes, outputs=("p",), timesteps=4, stage="quantised")
    activity = random_activity(graph, rng, 2, 0.4)
    counts = count(graph, activity)
    row = counts.products[0]
    spikes = int(activity["a"].sum()) + int(activity["b"].sum())
    assert (row.ability, row.ands, row.accs, row.muls) == ("unit_length", 0, spikes, 0)
    assert (row.dense_macs, row.replay_bits) == (2 * 4 * 14, 3 * 14)  # 4 spikes at most: counters of 3 bits
    assert [(host.name, host.macs_per_sample) for host in counts.hosts] == [("unit", 3 * 6 + 6)]
    assert (counts.host_roots, counts.host_divisions) == (2 * 2, 2 * 6)  # of 2 samples
    low, high = bounds(unit, graph)
    widest = int(np.abs(unit.weight).sum(axis=1).max()) << 15
    assert -low == high >= widest >> 4


class Unheard(ir.Product):
    """A product that nobody knows."""


def test_a_product_without_a_rule_is_refused() -> None:
    with pytest.raises(InputError, match="odd: no counting rule, found Unheard"):
        operations(Unheard(name="odd"), np.ones((1, 1, 1, 1), bool))
