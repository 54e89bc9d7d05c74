"""Every network of the table: its float graph is the module in float64, in every spike and answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.activity import Activity
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.interpreter import interpret
from avsnn.convert.ir.node import Node
from avsnn.convert.tracer import trace, witness
from avsnn.errors import TraceError
from avsnn.train.models.table import MODELS
from tests.networks import CASES, REFUSED, build, inputs


def agree(expected: Activity, found: Activity) -> bool:
    """Every spike, and answers to 1e-9."""
    same = all(np.array_equal(spikes, found.spikes[name]) for name, spikes in expected.spikes.items())
    (answer,), (other,) = expected.outputs.values(), found.outputs.values()
    return same and answer.shape == other.shape and np.allclose(answer, other, rtol=1e-9, atol=1e-9)


def swap(graph: Graph, name: str, **changes: object) -> Graph:
    return replace(graph, nodes=tuple(replace(n, **changes) if n.name == name else n for n in graph))  # type: ignore[arg-type]


def one_output_negated(graph: Graph) -> Graph:
    """The strongest output of the layer in the middle of the network."""
    layers = graph.of(ir.Conv2d)
    layer = layers[len(layers) // 2]
    weight = layer.weight.copy()
    weight[np.abs(weight).sum(axis=(1, 2, 3)).argmax()] *= -1
    return swap(graph, layer.name, weight=weight)


@pytest.mark.parametrize("case", CASES)
def test_the_graph_is_the_module(case: str) -> None:
    module = build(CASES[case])
    x, spec = inputs(module)
    graph = trace(module, x, input_spec=spec)
    expected = witness(module, x, graph=graph)
    assert [n.name for n in graph.of(ir.LIF)] == list(expected.spikes)
    assert [name for name, spikes in expected.spikes.items() if not spikes.any()] == []
    assert agree(expected, interpret(graph, x))
    assert not agree(expected, interpret(one_output_negated(graph), x))


def test_every_network_of_the_table_is_followed_or_refused() -> None:
    assert {model for model, _, _ in CASES.values()} | {case[0] for case, _ in REFUSED.values()} == set(MODELS)


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_chip_can_do_is_named_with_its_place_and_a_way_out(case: str) -> None:
    network, parts = REFUSED[case]
    module = build(network)
    x, spec = inputs(module)
    with pytest.raises(TraceError) as caught:
        trace(module, x, input_spec=spec)
    for part in parts:
        assert part in str(caught.value)


def test_counting_spikes_needs_no_length_of_features_and_has_the_winner_of_accumulating() -> None:
    """What the refusal of ``readout=counts`` promises."""
    model, preset, values = CASES["l2net"]
    accumulating, counting = build((model, preset, values)), build((model, preset, {**values, "readout": "counts"}))
    x, _ = inputs(counting, batch=8)
    scores = [next(iter(witness(module, x).outputs.values())) for module in (accumulating, counting)]
    assert len({int(row.argmax()) for row in scores[0]}) > 1
    np.testing.assert_array_equal(scores[0].argmax(axis=1), scores[1].argmax(axis=1))


MISTAKES: dict[type[Node], tuple[str, dict[str, object]]] = {
    ir.Attention: ("scmrl temporal", {"scale": 0.3}),
    ir.AttentionMap: ("sca random", {"bias": np.zeros((16, 16))}),
    ir.MappedValues: ("sca random", {"scale": 0.3}),
    ir.Scale: ("scmrl temporal", {"gain": -0.75}),
    ir.DSLN: ("spikslc shared", {"var": np.full((), 9.0)}),
    ir.LayerNorm: ("spikslc layer", {"variant": True}),
    ir.Permute: ("spikslc gcc", {"axes": (0, 1)}),
    ir.LIF: ("l2net", {"threshold": 1.5}),
    ir.BatchNorm: ("smlp projected", {"beta": np.zeros(1)}),
    ir.MaxPool2d: ("l2net", {"kernel": (2, 2)}),
}


@pytest.mark.parametrize(
    ("kind", "case"),
    [
        (ir.Attention, "scmrl spatial"),
        (ir.AttentionMap, "sca random"),
        (ir.ProductOfMeans, "scmrl without alignment"),
        (ir.Concat, "spikslc"),
    ],
)
def test_inputs_in_another_order_are_noticed(kind: type[Node], case: str) -> None:
    module = build(CASES[case])
    x, spec = inputs(module)
    graph = trace(module, x, input_spec=spec)
    node = graph.of(kind)[0]
    spoiled = swap(graph, node.name, inputs=node.inputs[::-1])
    assert not agree(witness(module, x, graph=graph), interpret(spoiled, x))


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistake_in_each_kind_of_node_is_noticed(kind: type[Node]) -> None:
    case, changes = MISTAKES[kind]
    module = build(CASES[case])
    x, spec = inputs(module)
    graph = trace(module, x, input_spec=spec)
    spoiled = swap(graph, graph.of(kind)[0].name, **changes)
    assert not agree(witness(module, x, graph=graph), interpret(spoiled, x))
