from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given

from avsnn.convert.ir import storage
from avsnn.convert.ir.fixed_nodes import Axons
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Node
from avsnn.convert.ir.nodes import Add, Input
from avsnn.convert.ir.text import render
from avsnn.errors import InputError
from tests.strategies import spiking_graph, spiking_graphs


def same(a: Node, b: Node) -> bool:
    return type(a) is type(b) and all(
        np.array_equal(getattr(a, f.name), getattr(b, f.name)) if isinstance(getattr(a, f.name), np.ndarray)
        else getattr(a, f.name) == getattr(b, f.name)
        for f in fields(a)
    )  # fmt: skip


@given(spiking_graphs())
def test_a_graph_survives_being_packed(graph: Graph) -> None:
    meta, arrays = storage.pack(graph)
    again = storage.unpack(json.loads(json.dumps(meta)), arrays)
    assert (again.outputs, again.timesteps, again.stage) == (graph.outputs, graph.timesteps, graph.stage)
    assert all(same(a, b) for a, b in zip(again.nodes, graph.nodes, strict=True))


def test_a_graph_survives_a_file_with_the_same_bytes_twice(tmp_path: Path) -> None:
    graph = spiking_graph(0, depth=3, skips=((0, 2),))
    storage.save(graph, tmp_path / "one")
    again = storage.load(tmp_path / "one")
    storage.save(again, tmp_path / "two")
    assert render(again) == render(graph)
    for suffix in (".json", ".npz"):
        assert (tmp_path / "one").with_suffix(suffix).read_bytes() == (tmp_path / "two").with_suffix(
            suffix
        ).read_bytes()


def test_equal_arrays_are_stored_once() -> None:
    graph = spiking_graph(0, depth=4, read=(0, 1, 2))  # three rows of zeros as biases
    _, arrays = storage.pack(graph)
    assert len(arrays) < len([f for n in graph for f in fields(n) if isinstance(getattr(n, f.name), np.ndarray)])


DAMAGE = {
    "format": ("format", 2, "unknown graph format, found 2, limit 1"),
    "no nodes": ("nodes", None, "damaged graph"),
    "unknown kind": ("nodes", [{"kind": "os.system"}], "damaged graph"),
    "unknown field": ("nodes", [{"kind": "Input", "name": "x", "colour": 1}], "damaged graph"),
    "missing array": (
        "nodes",
        [{"kind": "Linear", "name": "l", "weight": {"array": "zz"}, "bias": 0}],
        "damaged graph",
    ),
    "reads the future": ("nodes", [{"kind": "Add", "name": "a", "inputs": ["b"]}], "does not come before it"),
    "stage": ("stage", "baked", "unknown stage"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_graphs_are_refused(kind: str) -> None:
    meta, arrays = storage.pack(spiking_graph(0))
    field, value, message = DAMAGE[kind]
    meta[field] = value
    with pytest.raises(InputError, match=message):
        storage.unpack(meta, arrays, where="file")


def test_a_file_that_is_no_graph_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "g.json").write_text("{")
    with pytest.raises(InputError, match=r"g\.json: cannot read the graph"):
        storage.load(tmp_path / "g")


def test_graphs_check_their_names_and_order() -> None:
    x = Input(name="x", shape=(1,))
    with pytest.raises(InputError, match=r"^x: node name used twice"):
        Graph(nodes=(x, x), outputs=("x",), timesteps=1, stage="traced")
    with pytest.raises(InputError, match=r"^y: graph output is not a node"):
        Graph(nodes=(x,), outputs=("y",), timesteps=1, stage="traced")
    with pytest.raises(KeyError, match="no node 'z'; there are: x"):
        Graph(nodes=(x,), outputs=("x",), timesteps=1, stage="traced")["z"]


def test_nodes_that_no_output_reads_are_dropped_but_inputs_stay() -> None:
    x, y, unused = Input(name="x", shape=(1,)), Input(name="y", shape=(1,)), Add(name="u", inputs=("x",), shape=(1,))
    last = Add(name="a", inputs=("x", "x"), shape=(1,))
    graph = Graph(nodes=(x, y, unused, last), outputs=("a",), timesteps=1, stage="traced")
    assert [node.name for node in graph.with_nodes(graph.nodes)] == ["x", "y", "a"]


def test_arrays_of_nodes_cannot_be_written() -> None:
    layer = next(node for node in spiking_graph(0) if node.kind == "Conv2d")
    with pytest.raises(ValueError, match="read-only"):
        layer.weight[0] = 0  # type: ignore[attr-defined]


def test_an_array_of_nothing_can_be_read() -> None:
    """A core that needs no message of a connection, found by random networks."""
    none = Axons(name="a", shape=(4,), first=(0,), last=(4,), only=np.zeros(0, dtype=np.int64))
    graph = Graph(nodes=(none,), outputs=("a",), timesteps=1, stage="mapped")
    assert "only=(0)" in render(graph)
