"""Rows and bounds of exported products; no Lava needed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.fixed_interpreter import product
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Node, Shape
from avsnn.deploy.exports.lava import lower, write_lava
from avsnn.deploy.exports.lava_limits import needs_guard
from avsnn.deploy.exports.lava_products import message_range
from avsnn.errors import AvsnnError, CapabilityError, InputError, QuantizeError

STEPS, SHAPE, MAP = 4, (6, 5), (2, 5, 5)


def population(name: str, *inputs: str, shape: Shape = SHAPE) -> fixed.FixedLIF:
    bias = np.zeros(1, dtype=np.int64)
    return fixed.FixedLIF(name=name, inputs=inputs, shape=shape, threshold_mant=9, decay_v=2048, bias_mant=bias)


SOURCES = tuple(population(name) for name in "qkv")
SPACE = fixed.FixedAttention(name="y", inputs=("q", "k", "v"), heads=2, over="space", shape=SHAPE, gain=3)
TIME = replace(SPACE, over="time", delays=(2, 0, 1), offset=9)
SCORES = fixed.FixedAttentionMap(name="y", inputs=("q", "k"), heads=2, shape=MAP, gain=3)
MAPPED = fixed.FixedMappedValues(name="y", inputs=("map", "v"), shape=SHAPE, gain=3)
SUMS = fixed.FixedProductOfSums(name="y", inputs=("q", "k"), shape=SHAPE, gain=3, offset=5)
EVERY = (SPACE, TIME, SCORES, MAPPED, SUMS)


def graph(*nodes: Node) -> Graph:
    nodes = (*SOURCES, population("map", shape=MAP), *nodes)
    return Graph(nodes=nodes, outputs=(nodes[-1].name,), timesteps=STEPS, stage="scheduled")


def row_of(node: fixed.Product) -> dict[str, Any]:
    (row,) = lower(graph(node, population("z", "y", shape=node.shape)))[0]["products"]
    return row


def test_rows_are_plain(tmp_path: Path) -> None:
    write_lava(graph(TIME, population("z", "y")), tmp_path / "lava")
    (row,) = json.loads((tmp_path / "lava" / "network.json").read_text())["products"]
    assert row == {
        "name": "y", "kind": "TimeAttention", "inputs": ["q", "k", "v"], "shape": [6, 5], "order": 4,
        "sizes": {"heads": 2, "channels": 6, "tokens": 5}, "gain": 3, "delays": [2, 0, 1], "window": 4, "start": 9,
    }  # fmt: skip
    assert (tmp_path / "lava" / "products" / "models.py").is_file()


def test_only_windows_wait_for_a_start() -> None:
    assert [(row_of(node)["window"], row_of(node)["start"]) for node in EVERY] == [
        (1, 0),
        (4, 9),
        (1, 0),
        (1, 0),
        (4, 5),
    ]
    assert row_of(replace(SPACE, offset=7))["start"] == 0
    assert row_of(SPACE)["delays"] == [0, 0, 0]


@pytest.mark.parametrize("node", EVERY)
def test_bounds_are_reached_and_not_passed(node: fixed.Product) -> None:
    whole = graph(node)
    ones = [np.ones((STEPS, 1, *source.shape), dtype=np.int64) for source in whole.sources(node)]
    assert message_range(whole, node).ends == (0, product(node, *ones).max())
    assert message_range(whole, replace(node, gain=-3)).ends == (-product(node, *ones).max(), 0)


@pytest.mark.parametrize("node", EVERY)
def test_messages_fit_32_bits_or_are_refused(node: fixed.Product) -> None:
    each = message_range(graph(node), node).ends[1] // 3
    fitting = (2**31 - 1) // each
    assert row_of(replace(node, gain=fitting))["gain"] == fitting
    with pytest.raises(QuantizeError) as caught:
        row_of(replace(node, gain=fitting + 1))
    assert caught.value.where == "y"


@pytest.mark.parametrize(
    ("node", "error"),
    [
        (replace(SPACE, heads=4), InputError),
        (replace(SPACE, shape=(6, 4)), InputError),
        (replace(SPACE, inputs=("q", "k", "map")), InputError),
        (replace(TIME, inputs=("map", "k", "v")), InputError),
        (replace(SCORES, shape=SHAPE), InputError),
        (replace(MAPPED, inputs=("q", "v")), InputError),
        (replace(SUMS, inputs=("q", "map")), InputError),
        (replace(SUMS, delays=(1,)), InputError),
        (replace(SUMS, delays=(1, -1)), InputError),
        (replace(SUMS, offset=-1), InputError),
        (replace(SUMS, inputs=("q",)), CapabilityError),
        (fixed.Product(name="y", inputs=("q",), shape=SHAPE), CapabilityError),
    ],
)
def test_products_that_do_not_fit(node: fixed.Product, error: type[AvsnnError]) -> None:
    with pytest.raises(error) as caught:
        row_of(node)
    assert caught.value.where == "y"


def test_only_spikes_are_multiplied() -> None:
    again = replace(SUMS, name="again", inputs=("y", "q"))
    with pytest.raises(CapabilityError, match="cannot read"):
        lower(graph(SUMS, again, population("z", "again")))


def test_synapses_know_how_large_messages_are() -> None:
    weight = np.full((2, 30), 2)
    wire = fixed.FixedLinear(name="w", inputs=("y",), shape=(2,), weight_mant=weight)
    head = fixed.FixedReadout(name="head", inputs=("w",), shape=(2,), bias=np.zeros(1, int), scale=1.0)
    (row,) = lower(graph(SUMS, wire, head))[0]["synapses"]
    assert row["message_bits"] == 6  # 3 * 5 tokens * 4 steps = 60
    (row,) = lower(graph(replace(SUMS, gain=1000), wire, head))[0]["synapses"]
    assert row["message_bits"] == 15  # 20 000
    for reader in (head, population("head", "w", shape=(2,))):
        lower(graph(replace(SUMS, gain=1_789_000), wire, reader))  # 2 * 30 * 20 * gain fits
        with pytest.raises(QuantizeError) as caught:
            lower(graph(replace(SUMS, gain=1_790_000), wire, reader))
        assert caught.value.where == "head"


def test_a_population_that_products_could_overflow_is_watched() -> None:
    reader = replace(population("z", "y"), reset_interval=STEPS)
    quiet = replace(SPACE, gain=2**17 // 15)  # 64 * 15 * gain stays below 2^23
    assert not needs_guard(graph(quiet, reader), reader)
    loud = replace(quiet, gain=quiet.gain + 1)
    assert needs_guard(graph(loud, reader), reader)
