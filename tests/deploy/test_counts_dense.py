"""The dense order: against loops over connections, published counts, and what must not change it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from avsnn.convert.ir import fixed_nodes as ir
from avsnn.convert.ir.fixed_interpreter import logical, to_integers
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Node, Shape
from avsnn.convert.passes.integer_formats import Target
from avsnn.convert.passes.lower_attention import lower_attention
from avsnn.convert.passes.schedule import schedule
from avsnn.convert.unproved import scheduled_integers
from avsnn.deploy.reports.counts import count
from avsnn.deploy.reports.dense import Dense, dense_order
from avsnn.hw_profiles.profile import load_profile
from tests.event_loop import connections
from tests.random_graphs import draw

LOIHI2 = load_profile("loihi2")


def lif(name: str, shape: Shape, *inputs: str) -> ir.FixedLIF:
    bias = np.zeros(1, np.int64)
    return ir.FixedLIF(name=name, inputs=inputs, shape=shape, threshold_mant=1, decay_v=2048, bias_mant=bias)


def chain(T: int, *layers: tuple[Shape, Shape, int, int, int]) -> Graph:
    """Layers (source, target, kernel, stride, padding) of populations of their own; kernel 0: linear."""
    nodes: list[Node] = []
    for i, (source, target, kernel, stride, padding) in enumerate(layers):
        nodes.append(lif(f"s{i}", source))
        if kernel:
            size = [min(kernel, side) if source[1] == 1 else kernel for side in source[1:]]
            pads = [padding if side > 1 else 0 for side in source[1:]]
            weight = np.ones((target[0], source[0], *size), np.int64)
            nodes.append(
                ir.FixedConv2d(
                    name=f"w{i}", inputs=(f"s{i}",), shape=target, weight_mant=weight, padding=(pads[0], pads[1]),
                    stride=(stride if source[1] > 1 else 1, stride),
                )
            )  # fmt: skip
        else:
            weight = np.ones((target[0], int(np.prod(source))), np.int64)
            nodes.append(ir.FixedLinear(name=f"w{i}", inputs=(f"s{i}",), shape=target, weight_mant=weight))
        nodes.append(lif(f"t{i}", target, f"w{i}"))
    return Graph(nodes=tuple(nodes), outputs=(nodes[-1].name,), timesteps=T, stage="quantised")


# Networks of NeuroBench's README, "Dense" of its synaptic operations: padding is no operation.
SPEECH_SNN = chain(200, *(((n,), (m,), 0, 1, 0) for n, m in ((20, 256), (256, 256), (256, 256), (256, 35))))
M5 = chain(
    1,
    ((1, 1, 8000), (32, 1, 496), 80, 16, 0),
    ((32, 1, 124), (32, 1, 122), 3, 1, 0),
    ((32, 1, 30), (64, 1, 28), 3, 1, 0),
    ((64, 1, 7), (64, 1, 5), 3, 1, 0),
    ((64, 1, 1), (35,), 0, 1, 0),
)
GESTURE = chain(
    150,
    ((2, 32, 32), (16, 32, 32), 5, 1, 2),
    ((16, 16, 16), (32, 16, 16), 5, 1, 2),
    ((32, 8, 8), (64, 8, 8), 5, 1, 2),
    ((64, 4, 4), (11,), 0, 1, 0),
)


@pytest.mark.parametrize(
    ("graph", "published"),
    [(SPEECH_SNN, 29_030_400), (M5, 1_880_256), (GESTURE, 891_206_400)],
    ids=["speech", "speech M5", "gesture"],
)
def test_published_dense_counts_are_reproduced(graph: Graph, published: int) -> None:
    assert dense_order(graph).macs == published


def rows(dense: Dense) -> dict[tuple[str, str], tuple[int, int]]:
    return {(row.name, row.kind): (row.macs, row.executions) for row in dense.layers}


def test_layers_of_random_networks_equal_loops_over_their_connections() -> None:
    seen: Counter[str] = Counter()
    for seed in range(24):
        drawn = draw(seed, 2 + seed % 4, 1 + seed % 4)
        graph = scheduled_integers(drawn.graph, LOIHI2, calibration=drawn.inputs)
        found, readers = rows(dense_order(graph)), graph.readers
        integers = to_integers(graph, drawn.inputs)
        spikes = logical(graph, integers).spikes
        for node in graph:
            if isinstance(node, ir.HeldCurrent):
                wires = connections(node, graph[node.inputs[0]].shape, stored_zeros=True)
                assert found.pop((node.name, "host")) == (sum(map(len, wires)), 1)
            elif isinstance(node, ir.Synapse):
                source, roles = graph[node.inputs[0]], {getattr(r, "role", "neuron") for r in readers[node.name]}
                if roles & {"relay", "or"} or getattr(source, "role", "") == "bias":
                    assert (node.name, "layer") not in found
                    seen["no layer"] += 1
                    continue
                macs, executions = found.pop((node.name, "layer"))
                wires = connections(node, source.shape, stored_zeros=True)
                assert macs == sum(map(len, wires))
                active = (
                    np.flatnonzero(spikes[source.name].any(axis=tuple(range(1, spikes[source.name].ndim))))
                    if (source.name in spikes)
                    else np.arange(0)
                )
                assert executions > active.max(initial=0)
                seen["shorter"] += executions < graph.timesteps
                seen["to the last step"] += executions == active.max(initial=-1) + 1
        assert {kind for _, kind in found} <= {"product", "host"}
        counts = count(graph, {**integers, **spikes})
        products = {row.name: row.dense_macs for row in counts.products}
        assert {name: 3 * macs for (name, kind), (macs, _) in found.items() if kind == "product"} == products
        seen.update(kind for _, kind in found)
    assert seen["shorter"] >= 5
    assert seen["to the last step"] >= 50
    assert min(seen["no layer"], seen["product"], seen["host"]) >= 5


def test_relays_and_stock_neurons_change_no_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Relays are no part of the network, and what products run on does not matter."""
    short = replace(LOIHI2, limits=replace(LOIHI2.limits, delay_steps_max=0))
    relays = lowered = 0
    for seed in range(14):
        drawn = draw(seed, 3, 4)
        relayed = scheduled_integers(drawn.graph, short, calibration=drawn.inputs)
        with monkeypatch.context() as unscheduled:
            unscheduled.setattr("avsnn.convert.unproved.schedule", lambda graph, **_: (graph, ()))
            quantised = scheduled_integers(drawn.graph, short, calibration=drawn.inputs)
        relays += sum(node.role == "relay" for node in relayed.of(ir.FixedLIF))
        theirs = rows(dense_order(quantised))
        assert rows(dense_order(relayed)) == theirs
        stock, table = lower_attention(quantised, target=Target.of(LOIHI2), limit=300, keep=True)
        ours = rows(dense_order(stock))
        assert {name for name in ours if name[1] == "layer"} == {name for name in theirs if name[1] == "layer"}
        for row in table:
            if row.runs_on != "stock":
                continue
            lowered += 1
            each, times = ours[f"{row.product}.coincidences", "product"]
            spikes = len(stock[f"{row.product}.coincidences"].inputs)
            assert each == (spikes - 1) * (row.neurons or 0) > 0
            if spikes == 2:  # of three spikes each pair is combined again for every third
                assert each * times == theirs[row.product, "product"][0]
    assert min(relays, lowered) >= 5


def test_a_product_that_is_computed_again_for_a_late_reader_counts_once() -> None:
    """The copy's operations are real, and counted as such; the network has the product once."""
    x = ir.FixedInput(name="x", shape=(2, 3), coding="sequence", low=0, high=1, step=1.0)

    def wire(name: str, source: str) -> ir.FixedLinear:
        return ir.FixedLinear(name=name, inputs=(source,), shape=(6,), weight_mant=2 * np.eye(6, dtype=np.int64))

    pairs = ir.FixedAttention(name="pairs", inputs=("q", "q", "q"), shape=(2, 3), heads=1, over="space")
    nodes = (
        x, wire("x.q", "x"), lif("q", (2, 3), "x.q"), pairs, lif("early", (2, 3), "pairs"), wire("deep", "early"),
        lif("late", (2, 3), "deep", "pairs"),
    )  # fmt: skip
    graph = Graph(nodes=nodes, outputs=("late",), timesteps=4, stage="quantised")
    scheduled, _ = schedule(graph, delay_steps_max=62)
    assert len(scheduled.of(ir.Product)) == 2
    assert dense_order(scheduled).of("product") == dense_order(graph).of("product") == 4 * 2 * 2 * 9
    spikes = {name: np.ones((4, 1, 2, 3), bool) for name in ("x", "q", "early", "late")}
    assert count(scheduled, spikes).dense_macs == 2 * count(graph, spikes).dense_macs


def test_what_is_held_or_answered_counts_as_often_as_it_is_computed() -> None:
    image = ir.FixedInput(name="image", shape=(1, 4, 4), coding="direct", low=0, high=9, step=1.0)
    bias, ones = np.zeros(1, np.int64), np.ones((2, 1, 3, 3), np.int64)
    held = ir.HeldCurrent(name="held", inputs=("image",), shape=(2, 4, 4), weight=ones, bias=bias, padding=(1, 1))
    wire = ir.FixedConv2d(name="wire", inputs=("a",), shape=(3, 4, 4), weight_mant=np.ones((3, 2, 1, 1), np.int64))
    norm = ir.FixedLayerNorm(
        name="norm", inputs=("wire",), shape=(3, 4, 4), step=1.0, levels=7, bias=bias, eps=1, shift=2
    )
    last = ir.FixedLinear(name="last", inputs=("norm",), shape=(5,), weight_mant=np.zeros((5, 48), np.int64))
    nodes = (image, held, lif("a", (2, 4, 4), "held"), wire, norm, last, lif("b", (5,), "last"))
    graph = Graph(nodes=nodes, outputs=("b",), timesteps=6, stage="quantised")
    inside = 10 * 10  # taps inside of 4 rows, times 4 columns: 3 + 3 + 2 + 2 each
    assert rows(dense_order(graph)) == {
        ("held", "host"): (2 * inside, 1),
        ("wire", "layer"): (3 * 32, 6),
        ("norm", "host"): (6 * 2 * 48, 1),
        ("last", "layer"): (5 * 48, 6),
    }
    assert dense_order(graph).macs == 200 + 6 * 96 + 576 + 6 * 240
    assert dense_order(graph).to_json()["by_kind"] == {"layer": 6 * 336, "product": 0, "host": 776}
