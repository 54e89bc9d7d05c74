"""The quantised ANN of the same shapes: how wide its numbers are, what it multiplies, and how a report says so."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest

from avsnn.convert.ir import fixed_nodes as ir
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Node, Shape
from avsnn.convert.unproved import scheduled_integers
from avsnn.deploy.reports.dense import dense_order
from avsnn.deploy.reports.dense_lines import dense_lines
from avsnn.deploy.reports.twin import activation_bits, ann_twin
from avsnn.hw_profiles.profile import load_profile
from tests.random_graphs import draw


def lif(name: str, shape: Shape, *inputs: str, steps: int = 0) -> ir.FixedLIF:
    bias = np.zeros(1, np.int64)
    return ir.FixedLIF(
        name=name, inputs=inputs, shape=shape, threshold_mant=1, decay_v=2048, bias_mant=bias, steps=steps
    )


def wire(name: str, source: str, size: int, out: int) -> ir.FixedLinear:
    return ir.FixedLinear(name=name, inputs=(source,), shape=(out,), weight_mant=np.ones((out, size), np.int64))


def network() -> Graph:
    """An image once, events of 3 of 5 steps, attention over tokens and over time, counts of length 1."""
    image = ir.FixedInput(name="image", shape=(2, 3), coding="direct", low=-8, high=200, step=1.0)
    sound = ir.FixedInput(name="sound", shape=(4,), coding="sequence", low=0, high=1, step=1.0, steps=3)
    none = np.zeros(1, np.int64)
    held = ir.HeldCurrent(name="held", inputs=("image",), shape=(6,), weight=np.ones((6, 6), np.int64), bias=none)
    unit = ir.FixedUnitCurrent(
        name="unit", inputs=("a", "s"), shape=(2,), weight=np.ones((2, 7), np.int64), bias=none, shift=1,
        pooled=(True, False),
    )  # fmt: skip
    nodes: tuple[Node, ...] = (
        image, sound, held, lif("a", (2, 3), "held"), wire("sound.s", "sound", 4, 5),
        lif("s", (5,), "sound.s", steps=3),
        ir.FixedAttention(name="space", inputs=("a", "a", "a"), shape=(2, 3), heads=1, over="space"),
        ir.FixedAttention(name="time", inputs=("a", "a", "a"), shape=(2, 3), heads=1, over="time"),
        lif("b", (2, 3), "space", "time"), wire("b.y", "b", 6, 2), wire("s.y", "s", 5, 2), unit,
        lif("c", (2,), "unit"), wire("c.y", "c", 2, 2),
        ir.FixedReadout(
            name="y", inputs=("b.y", "s.y", "c.y"), shape=(2,), bias=np.zeros(2, np.int64), scale=1.0
        ),
    )  # fmt: skip
    return Graph(nodes=nodes, outputs=("y",), timesteps=5, stage="quantised")


@pytest.mark.parametrize("steps", [*range(1, 70), 255, 256, 2**40 - 1, 2**40])
def test_activations_have_as_many_bits_as_tell_the_counts_apart(steps: int) -> None:
    bits = activation_bits(steps)
    assert 2 ** (bits - 1) < steps + 1 <= 2**bits
    if steps < 300:
        assert bits == math.ceil(math.log2(steps + 1))


def test_every_layer_runs_once_on_numbers_that_hold_a_window() -> None:
    twin = ann_twin(network(), weight_bits=8)
    found = {row.name: (row.kind, row.macs, row.operand_bits, row.reads, row.weights) for row in twin.layers}
    assert found == {
        "held": ("host", 36, (9, 8), 6, 36),  # -8 to 200 and a sign
        "sound.s": ("layer", 20, (2, 8), 4, 20),  # 0 to 3 events
        "space": ("product", 2 * 2 * 9, (3, 3), 18, 0),  # 0 to 5 spikes, both sides of a product
        "time": ("product", 2 * 2 * 3, (3, 3), 18, 0),
        "b.y": ("layer", 12, (3, 8), 6, 12),
        "s.y": ("layer", 10, (2, 8), 5, 10),
        "unit": ("host", 14 + 7, (3, 8), 11, 14),
        "c.y": ("layer", 4, (3, 8), 2, 4),
    }
    assert (twin.steps, twin.activation_bits, twin.weight_bits) == (5, 3, 8)
    assert twin.macs == 36 + 20 + 36 + 12 + 12 + 10 + 21 + 4
    assert (twin.product_macs, twin.connections) == (48, 46)
    assert twin.weight_memory_bits == 8 * 96
    assert twin.activation_traffic_bits == 6 * 9 + 4 * 2 + 36 * 3 + 6 * 3 + 5 * 2 + 11 * 3 + 2 * 3
    values = [value for value in twin.to_json().values() if not isinstance(value, list)]
    assert all(type(value) is int for value in values)


def test_layers_of_random_networks_are_those_of_the_dense_order_once() -> None:
    loihi2, seen = load_profile("loihi2"), Counter[str]()
    for seed in range(10):
        T = 2 + seed % 4
        drawn = draw(seed, T, 1 + seed % 4)
        graph = scheduled_integers(drawn.graph, loihi2, calibration=drawn.inputs)
        twin, dense = ann_twin(graph, weight_bits=8), dense_order(graph)
        every = {row.name: row.executions for row in dense.layers if row.kind == "layer"}
        ours = {row.name: row.macs for row in twin.layers if row.kind == "layer"}
        assert ours == {row.name: row.macs for row in dense.layers if row.kind == "layer"}
        assert sum(ours[name] * every[name] for name in ours) == dense.of("layer")
        assert 0 < twin.macs < dense.macs
        for row in twin.layers:
            node = graph[row.name]
            widths = [activation_bits(T) for _ in node.inputs]
            assert all(bits >= 1 for bits in row.operand_bits)
            if isinstance(node, ir.Synapse) and isinstance(graph[node.inputs[0]], ir.FixedLIF):
                assert row.operand_bits[0] <= max(widths)
                seen["fewer bits"] += row.operand_bits[0] < max(widths)
                seen["spikes"] += 1
            seen[row.kind] += 1
    assert min(seen[name] for name in ("spikes", "fewer bits", "product", "host")) >= 3, seen


def report(sop: int, steps: int = 5) -> dict[str, Any]:
    graph = network()
    rows = [{"name": name, "sop_stored": n} for name, n in (("sound.s", sop), ("b.y", 0), ("relay", 10**6))]
    return {
        "dense": dense_order(graph).to_json(),
        "twin": ann_twin(graph, weight_bits=8).to_json(),
        "counts": {"samples": 2, "steps": steps, "synapses": rows},
    }


def test_a_report_says_what_spikes_spare() -> None:
    dense, twin = dense_lines(report(sop=46))
    layers = 3 * 20 + 5 * 12 + 3 * 10 + 5 * 4
    products = 5 * 36 + 2 * 2 * 3 * 25 + 5 * 6 + 3 * 5
    assert dense == (
        f"in dense order: {layers + products + 36 + 21:,} multiply-accumulates per sample; "
        f"SOP are {100 * 23 / layers:.2g} % of those of the same layers"
    )
    assert twin == (
        "quantised ANN twin, run once at 3-bit activations, 8-bit weights: 151 multiply-accumulates; "
        "a synapse carries 0.5 spikes per inference"
    )


def test_older_reports_and_networks_without_layers_say_less() -> None:
    assert dense_lines({"counts": {}}) == []
    bare = report(sop=0)
    bare["dense"] = bare["dense"] | {"by_kind": {"layer": 0, "product": 0, "host": 1}}
    bare["twin"] = bare["twin"] | {"connections": 0}
    assert all("SOP" not in line and "a synapse carries" not in line for line in dense_lines(bare))
