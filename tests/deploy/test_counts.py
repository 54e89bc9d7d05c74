from __future__ import annotations

import itertools
import json
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from avsnn.convert.ir.fixed_nodes import (
    FixedAttention,
    FixedConv2d,
    FixedInput,
    FixedLIF,
    FixedLinear,
    FixedReadout,
    HeldCurrent,
)
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Node
from avsnn.deploy.reports.counts import Counts, SynapseCount, count
from avsnn.deploy.reports.dynamic import operations
from avsnn.deploy.reports.fanout import fanout, reached
from avsnn.errors import InputError

Array = npt.NDArray[Any]
NO_BIAS = np.zeros(1, np.int64)


def dense_expansion(node: FixedConv2d, source: tuple[int, int, int]) -> tuple[Array, Array]:
    """(targets, sources) tables by brute force: whether a connection exists, and its weight."""
    size = int(np.prod(source))
    exists = np.zeros((int(np.prod(node.shape)), size), np.int64)
    weight = np.zeros_like(exists)
    out_per_group, in_per_group = node.shape[0] // node.groups, node.weight_mant.shape[1]
    for o, y, x in np.ndindex(*node.shape):
        for c, k, m in np.ndindex(*node.weight_mant.shape[1:]):
            row = y * node.stride[0] + k * node.dilation[0] - node.padding[0]
            column = x * node.stride[1] + m * node.dilation[1] - node.padding[1]
            if 0 <= row < source[1] and 0 <= column < source[2]:
                channel = (o // out_per_group) * in_per_group + c
                target = np.ravel_multi_index((o, y, x), node.shape)
                neuron = np.ravel_multi_index((channel, row, column), source)
                exists[target, neuron] += 1
                weight[target, neuron] = node.weight_mant[o, c, k, m]
    return exists, weight


def conv(rng: np.random.Generator, source: tuple[int, int, int], *, out: int, kernel: tuple[int, int], groups: int = 1,
         stride: tuple[int, int] = (1, 1), padding: tuple[int, int] = (0, 0), dilation: tuple[int, int] = (1, 1),
         name: str = "conv", inputs: tuple[str, ...] = ("pop",)) -> FixedConv2d:  # fmt: skip
    spans = [(source[1 + i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) for i in (0, 1)]
    shape = (out * groups, spans[0] // stride[0] + 1, spans[1] // stride[1] + 1)
    weight = rng.integers(-1, 2, (out * groups, source[0] // groups, *kernel)) * 2
    return FixedConv2d(
        name=name, inputs=inputs, shape=shape, weight_mant=weight, stride=stride, padding=padding, dilation=dilation,
        groups=groups,
    )  # fmt: skip


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[FixedConv2d, tuple[int, int, int]]:
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    kernel, stride, dilation = draw(pair), draw(pair), draw(pair)
    padding = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    groups, per_group, out = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(1, 3))
    source = (groups * per_group, draw(st.integers(1, 7)), draw(st.integers(1, 7)))
    assume(all(source[1 + i] + 2 * padding[i] >= dilation[i] * (kernel[i] - 1) + 1 for i in (0, 1)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    node = conv(rng, source, out=out, kernel=kernel, groups=groups, stride=stride, padding=padding, dilation=dilation)
    return node, source


@settings(deadline=None, max_examples=100)
@given(convolutions(), st.integers(0, 2**32 - 1))
def test_fan_out_and_reach_of_a_convolution_equal_its_dense_expansion(
    case: tuple[FixedConv2d, tuple[int, int, int]], seed: int
) -> None:
    node, source = case
    exists, weight = dense_expansion(node, source)
    assert exists.max(initial=0) <= 1
    stored, nonzero = fanout(node, source)
    assert stored.dtype == nonzero.dtype == np.int64
    np.testing.assert_array_equal(stored, exists.sum(axis=0).reshape(source))
    np.testing.assert_array_equal(nonzero, np.count_nonzero(weight, axis=0).reshape(source))
    active = np.random.default_rng(seed).random((2, *source)) < 0.2
    expected = active.reshape(2, -1).astype(np.int64) @ (weight != 0).T > 0
    np.testing.assert_array_equal(reached(node, active).reshape(2, -1), expected)


def test_fan_out_of_a_dense_connection_follows_the_flattened_source() -> None:
    weight = np.array([[1, 0, 2, 0], [0, 0, 3, 4], [5, 0, 6, 0]])
    node = FixedLinear(name="fc", inputs=("pop",), shape=(3,), weight_mant=weight)
    stored, nonzero = fanout(node, (1, 2, 2))
    assert stored.tolist() == [[[3, 3], [3, 3]]]
    assert nonzero.tolist() == [[[2, 0], [3, 1]]]
    assert reached(node, np.array([[[[False, True], [False, True]]]])).tolist() == [[False, True, False]]


def test_a_source_of_another_shape_is_refused() -> None:
    node = FixedLinear(name="fc", inputs=("pop",), shape=(3,), weight_mant=np.ones((3, 4), int))
    with pytest.raises(InputError, match="fc: source does not fit"):
        fanout(node, (5,))
    wide = conv(np.random.default_rng(0), (2, 4, 4), out=1, kernel=(3, 3))
    with pytest.raises(InputError, match="conv: source does not fit"):
        fanout(wide, (3, 4, 4))
    with pytest.raises(InputError, match="is no connection, found FixedLIF"):
        fanout(lif("pop", (), (3,)), (3,))


def test_weights_are_counted_by_their_exponent() -> None:
    graph = small_graph(np.random.default_rng(7))
    node = graph["head"]
    assert isinstance(node, FixedLinear)
    exps = np.arange(len(node.weight_mant)) % 2 * 3
    graph = graph.with_nodes(replace(n, weight_exp=exps) if n is node else n for n in graph)
    rows = {row.name: row for row in count(graph, spikes_again()).synapses}
    assert rows["head"].groups == ((0, rows["head"].weights // 2), (3, rows["head"].weights // 2))
    assert all(row.groups == ((0, row.weights),) for name, row in rows.items() if name != "head")


def lif(name: str, inputs: tuple[str, ...], shape: tuple[int, ...], role: str = "neuron") -> FixedLIF:
    return FixedLIF(name=name, inputs=inputs, shape=shape, threshold_mant=1, decay_v=2048, bias_mant=NO_BIAS, role=role)


def small_graph(rng: np.random.Generator) -> Graph:
    """Held image -> population -> (conv, and an identity through a relay) -> population -> dense -> read-out."""
    image = FixedInput(name="image", shape=(1, 6, 6), coding="direct", low=0, high=255, step=1.0)
    held = HeldCurrent(
        name="stem", inputs=("image",), shape=(2, 3, 3), weight=np.ones((2, 1, 3, 3), int), bias=NO_BIAS, stride=(2, 2),
        padding=(1, 1),
    )  # fmt: skip
    body = conv(rng, (2, 3, 3), out=2, kernel=(3, 3), padding=(1, 1), name="body", inputs=("a",))
    to_relay = FixedConv2d(
        name="a.delay", inputs=("a",), shape=(2, 3, 3), weight_mant=np.ones((2, 1, 1, 1), int), groups=2
    )
    skip = FixedConv2d(name="skip", inputs=("r",), shape=(2, 3, 3), weight_mant=np.ones((2, 1, 1, 1), int), groups=2)
    head = FixedLinear(name="head", inputs=("b",), shape=(4,), weight_mant=rng.integers(-1, 2, (4, 18)))
    nodes: tuple[Node, ...] = (
        image, held, lif("a", ("stem",), (2, 3, 3)), to_relay, lif("r", ("a.delay",), (2, 3, 3), "relay"), body, skip,
        lif("b", ("body", "skip"), (2, 3, 3)), head,
        FixedReadout(name="y", inputs=("head",), shape=(4,), bias=np.zeros(4, np.int64), scale=1.0),
    )  # fmt: skip
    return Graph(nodes=nodes, outputs=("y",), timesteps=5, stage="scheduled")


def spikes(rng: np.random.Generator, samples: int = 3) -> dict[str, Array]:
    return {name: rng.random((5, samples, 2, 3, 3)) < rate for name, rate in (("a", 0.3), ("r", 0.3), ("b", 0.1))}


def test_counts_of_a_graph_equal_a_walk_over_every_spike() -> None:
    rng = np.random.default_rng(1)
    graph = small_graph(rng)
    activity = spikes(rng)
    counts = count(graph, activity, driven=True)
    for row in counts.synapses:
        node = graph[row.name]
        stored, nonzero = fanout(node, (2, 3, 3))
        expected = [0, 0, 0]
        for _, _sample, *where in np.argwhere(activity[row.source]):
            expected[0] += 1
            expected[1] += int(stored[tuple(where)])
            expected[2] += int(nonzero[tuple(where)])
        assert [row.events, row.sop_stored, row.sop_nonzero] == expected, row.name
        assert row.sop_graded == row.events_graded == 0
        assert all(type(value) is int for value in (row.events, row.sop_stored, row.sop_nonzero, row.connections))
    assert counts.sop_stored > counts.sop_nonzero > 0
    assert sum(counts.sop_by_sample) == counts.sop_stored
    assert counts.neuron_updates == 3 * 18 * 5 * 3
    assert counts.spikes == sum(int(a.sum()) for a in activity.values())
    assert [(row.name, row.role) for row in counts.synapses] == [
        ("a.delay", "relay"), ("body", "neuron"), ("skip", "neuron"), ("head", "readout"),
    ]  # fmt: skip


def test_relays_are_counted_apart() -> None:
    rng = np.random.default_rng(2)
    activity = spikes(rng)
    counts = count(small_graph(rng), activity)
    assert counts.only("relay").neuron_updates == 18 * 5 * 3
    assert counts.only("relay").sop_stored == int(activity["a"].sum())
    assert counts.to_json()["relays"]["sop_stored"] == int(activity["a"].sum())


def test_a_relay_of_a_population_without_image_has_one_connection_per_neuron() -> None:
    """Its wire is a matrix with ones on the diagonal; nobody stores the zeros of it."""
    x = FixedInput(name="x", shape=(5,), coding="sequence", low=0, high=1, step=1.0)
    wire = FixedLinear(name="wire", inputs=("x",), shape=(5,), weight_mant=np.eye(5, dtype=np.int64))
    head = FixedLinear(name="head", inputs=("r",), shape=(3,), weight_mant=np.eye(3, 5, dtype=np.int64))
    nodes = (x, wire, lif("r", ("wire",), (5,), "relay"), head, lif("p", ("head",), (3,)))
    graph = Graph(nodes=nodes, outputs=("p",), timesteps=2, stage="scheduled")
    activity = {"x": np.ones((2, 1, 5), int), "r": np.ones((2, 1, 5), bool), "p": np.zeros((2, 1, 3), bool)}
    relay, read = count(graph, activity).synapses
    assert (relay.connections, relay.weights, relay.sop_stored, relay.groups) == (5, 5, 10, ((0, 5),))
    assert (read.connections, read.weights, read.sop_stored, read.sop_nonzero) == (15, 15, 30, 6)


def test_the_held_first_layer_is_host_work_once_per_sample_and_no_sop() -> None:
    rng = np.random.default_rng(3)
    counts = count(small_graph(rng), spikes(rng))
    rows = 2 + 3 + 3  # 3 taps at rows -1..1, 1..3, 3..5 of a 6-row image: one falls outside
    assert [(host.name, host.macs_per_sample, host.macs) for host in counts.hosts] == [
        ("stem", 2 * rows**2, 6 * rows**2)
    ]
    assert "stem" not in [row.name for row in counts.synapses]


def test_driven_neurons_are_those_reached_over_any_connection() -> None:
    rng = np.random.default_rng(4)
    graph, activity = small_graph(rng), spikes(rng)
    by_name = {row.name: row for row in count(graph, activity, driven=True).populations}
    expected = 0
    for t, b in itertools.product(range(5), range(3)):
        over_body = reached(graph["body"], activity["a"][t, b : b + 1])
        expected += int((over_body[0] | activity["r"][t, b]).sum())
    assert by_name["b"].driven == expected
    assert by_name["r"].driven == int(activity["a"].sum())
    assert by_name["a"].driven == 0  # a host current is no message
    assert count(graph, activity).driven is None


def test_graded_messages_are_counted_apart() -> None:
    rng = np.random.default_rng(5)
    activity = spikes(rng)
    graded = activity["a"].astype(np.int8)
    graded[0, 0, 0, 0, 0], graded[1, 0, 0, 0, 0], graded[2, 0, 0, 0, 0] = 3, -1, -128
    activity["a"] = graded
    row = next(row for row in count(small_graph(rng), activity).synapses if row.name == "body")
    assert row.events_graded == 2
    assert row.sop_graded == 2 * 8  # a corner reaches 2 x 2 positions in 2 channels


def test_events_above_two_to_the_24_are_not_rounded() -> None:
    wide = FixedLinear(name="fc", inputs=("x",), shape=(2**24 + 1,), weight_mant=np.ones((2**24 + 1, 1), np.int8))
    graph = Graph(
        nodes=(FixedInput(name="x", shape=(1,), coding="sequence", low=0, high=1, step=1.0), wide,
               lif("p", ("fc",), (2**24 + 1,))), outputs=("p",), timesteps=1, stage="quantised",
    )  # fmt: skip
    counts = count(graph, {"x": np.ones((1, 1, 1), bool), "p": np.zeros((1, 1, 2**24 + 1), bool)})
    assert counts.sop_stored == 2**24 + 1


def test_counts_above_two_to_the_31_are_exact() -> None:
    """Operations, updates, spikes, the host and products; views of one value stand for large arrays."""
    many, T, samples = 2**16 + 1, 2**9, 33
    image = FixedInput(name="image", shape=(many,), coding="direct", low=0, high=1, step=1.0)
    ones = np.broadcast_to(np.int8(1), (3, many))
    held = HeldCurrent(name="held", inputs=("image",), shape=(3,), weight=ones, bias=NO_BIAS)
    wire = FixedLinear(name="wire", inputs=("p",), shape=(many,), weight_mant=np.ones((many, 3), np.int8))
    nodes = (image, held, lif("p", ("held",), (3,)), wire, lif("wide", ("wire",), (many,)))
    graph = Graph(nodes=nodes, outputs=("wide",), timesteps=T, stage="quantised")
    full = np.full((samples, many), T)
    counts = count(graph, {"p": np.ones((T, samples, 3), bool)}, messages={"wide": full})
    assert counts.sop_stored == counts.sop_nonzero == T * samples * 3 * many > 2**31
    assert counts.sop_by_sample == (T * 3 * many,) * samples
    assert counts.neuron_updates == counts.spikes == T * samples * (3 + many)
    assert counts.host_macs == samples * 3 * many
    attention = FixedAttention(name="qkv", inputs=("p", "p", "p"), shape=(2**15, 1), heads=1, over="space")
    spikes = np.ones((3, 1, 2**15, 1), bool)
    ands, accs, _ = operations(attention, spikes, spikes, spikes)
    assert (int(ands[0]), int(accs[0])) == (3 * 2**30, 6 * 2**30)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("b"), "b: no recorded activity.*record='all'"),
        (lambda a: a.update(b=a["b"].astype(float)), "b: activity must be integers, found float64"),
        (lambda a: a.update(b=a["b"][:, 0]), "b: activity has another shape"),
        (lambda a: a.update(b=a["b"][:4]), "activities differ in time and batch"),
    ],
)
def test_incomplete_activity_is_refused(change: Any, message: str) -> None:
    rng = np.random.default_rng(6)
    activity = spikes(rng)
    change(activity)
    with pytest.raises(InputError, match=message):
        count(small_graph(rng), activity)


def test_float_graphs_have_no_counts() -> None:
    graph = Graph(nodes=(), outputs=(), timesteps=1, stage="folded")
    with pytest.raises(InputError, match="only integer graphs"):
        count(graph, {})


def test_json_has_the_spread_over_samples_and_only_integers() -> None:
    rng = np.random.default_rng(7)
    counts = count(small_graph(rng), spikes(rng, samples=4), driven=True)
    table = counts.to_json()
    assert "." not in json.dumps(table["total"])
    by_sample = sorted(counts.sop_by_sample)
    assert table["sop_per_sample"] == {"min": by_sample[0], "median": by_sample[1], "max": by_sample[3]}
    fired = sorted(sum(int(spikes_again()[name][:, b].sum()) for name in "arb") for b in range(4))
    assert table["spikes_per_sample"] == {"min": fired[0], "median": fired[1], "max": fired[3]}
    assert table["sop_graded_per_sample"] == {"min": 0, "median": 0, "max": 0}
    assert table["host_macs_per_sample"] == {"min": 128, "median": 128, "max": 128}
    assert not [name for row in table["synapses"] + table["populations"] for name in row if "by_sample" in name]
    assert {row["driven"] for row in count(small_graph(rng), spikes(rng)).to_json()["populations"]} == {None}
    assert counts.sha256 == count(small_graph(np.random.default_rng(7)), spikes_again(), driven=True).sha256


def spikes_again() -> dict[str, Array]:
    rng = np.random.default_rng(7)
    small_graph(rng)
    return spikes(rng, samples=4)


def test_contradicting_counts_are_refused() -> None:
    good = dict(
        name="s", source="a", targets=("b",), role="neuron", weights=1, connections=4, connections_nonzero=2, events=2,
        events_graded=0, sop_stored=4, sop_nonzero=2, sop_graded=0, sop_by_sample=(4,),
    )  # fmt: skip
    row = SynapseCount(**good)  # type: ignore[arg-type]
    assert Counts(synapses=(row,), populations=(), hosts=(), samples=1, steps=1).sop_stored == 4
    for wrong in ({"sop_by_sample": (3,)}, {"sop_nonzero": 5}, {"sop_graded": 5}, {"groups": ((0, 1), (2, 1))},
                  {"graded_by_sample": (1,)}):  # fmt: skip
        with pytest.raises(InputError, match="contradict"):
            SynapseCount(**(good | wrong))  # type: ignore[arg-type]
