from __future__ import annotations

import numpy as np
import pytest

from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.interpreter import apply, interpret
from avsnn.convert.ir.node import Node
from avsnn.convert.passes.currents import spike_sources, terms, total_bias, weighted_sources
from avsnn.errors import CapabilityError
from tests.strategies import conv

SHAPE = (2, 3, 2)


def population(name: str) -> list[Node]:
    weight = np.random.default_rng(len(name)).uniform(0.5, 2, size=(2, 2, 1, 1))
    layer = conv(f"c{name}", "x", SHAPE, weight, bias=np.full(2, 0.1))
    return [layer, ir.LIF(name=name, inputs=(layer.name,), shape=SHAPE, decay=0.5, gain=0.5, threshold=0.5)]


def stream() -> Graph:
    """x + alpha r with r a product of means, x of three populations one of which comes twice, and a layer on it."""
    rng = np.random.default_rng(0)
    nodes: list[Node] = [ir.Input(name="x", shape=SHAPE, low=-1.0, high=2.0, step=0.5)]
    nodes += [node for name in ("a", "bb", "ccc") for node in population(name)]
    nodes += [
        ir.Add(name="ab", inputs=("a", "bb"), shape=SHAPE),
        ir.ProductOfMeans(name="r", inputs=("bb", "ccc"), shape=SHAPE),
        ir.Scale(name="alpha r", inputs=("r",), shape=SHAPE, gain=1.5),
        ir.Add(name="sum", inputs=("ab", "alpha r", "a"), shape=SHAPE),
        ir.Flatten(name="flat", inputs=("sum",), shape=(12,)),
        ir.Linear(name="l", inputs=("flat",), shape=(4,), weight=rng.normal(size=(4, 12)), bias=rng.normal(size=4)),
        ir.Linear(name="m", inputs=("a",), shape=(4,), weight=rng.normal(size=(4, 12)), bias=rng.normal(size=4)),
        ir.Add(name="current", inputs=("l", "m"), shape=(4,)),
    ]
    return Graph(nodes=tuple(nodes), outputs=("current",), timesteps=5, stage="folded")


def test_a_stream_is_its_sources_each_with_a_factor() -> None:
    assert weighted_sources(stream(), "flat") == {"a": 2.0, "bb": 1.0, "r": 1.5}


def test_integers_of_the_sources_times_their_weights_are_the_current() -> None:
    """The meaning of a term: real weight per integer unit, of spikes, of counts, of steps of an input."""
    graph = stream()
    found = terms(graph, "current")
    assert [t.name for t in found] == ["l@a", "l@bb", "l@r", "m"]
    graded = found[2]
    assert graded.levels == 3 * 2 * 5
    assert graded.step == 1.5 / 30
    x = np.random.default_rng(1).integers(-2, 5, size=(4, *SHAPE)) * 0.5
    run = interpret(graph, {"x": x})
    values = {name: s.astype(float) for name, s in run.spikes.items()}
    values["r"] = apply(graph["r"], [values["bb"], values["ccc"]]) * graded.levels
    np.testing.assert_allclose(values["r"], np.rint(values["r"]), atol=1e-9)
    total = sum(values[t.source].reshape(5, 4, -1) @ t.weight.T for t in found) + total_bias(found)
    np.testing.assert_allclose(total[-1], run.outputs["current"], atol=1e-9)


def test_a_layer_added_twice_was_taken_for_two_connections_of_one_name() -> None:
    """A shortcut added twice stopped with "one layer feeds two populations", which it does not."""
    graph = stream()
    twice = ir.Add(name="twice", inputs=("m", "current"), shape=(4,))
    graph = Graph(nodes=(*graph.nodes, twice), outputs=("twice",), timesteps=5, stage="folded")
    found = terms(graph, "twice")
    assert sorted(t.name for t in found) == ["l@a", "l@bb", "l@r", "m"]
    (m,) = (t for t in found if t.name == "m")
    once, layer = terms(graph, "m")[0], graph["m"]
    assert isinstance(layer, ir.Linear)
    np.testing.assert_allclose(m.weight, 2 * once.weight)
    np.testing.assert_allclose(total_bias(found), total_bias(terms(graph, "l")) + 2 * layer.bias)


def test_an_input_counts_in_its_steps_and_gains() -> None:
    scaled = ir.Scale(name="g", inputs=("x",), shape=SHAPE, gain=-2.0)
    layer = conv("c", "g", SHAPE, np.ones((2, 2, 1, 1)))
    given = ir.Input(name="x", shape=SHAPE, low=-1.0, high=2.0, step=0.5)
    graph = Graph(nodes=(given, scaled, layer), outputs=("c",), timesteps=1, stage="folded")
    (term,) = terms(graph, "c")
    assert (term.source, term.step, term.levels) == ("x", -1.0, 4)


def test_pools_take_plain_spikes_of_one_population() -> None:
    graph = stream()
    assert spike_sources(graph, "ab") == ["a", "bb"]
    with pytest.raises(CapabilityError, match=r"^sum: plain spikes are needed, found \{'a': 2.0"):
        spike_sources(graph, "sum")


def test_what_adds_to_a_current_without_weights_or_spikes_is_named() -> None:
    graph = stream()
    with pytest.raises(CapabilityError, match=r"^sum: a neuron must read weighted sums|^a: a neuron must read"):
        terms(graph, "ab")
    with pytest.raises(CapabilityError, match=r"^ca: a layer must read spikes or an input, found Conv2d"):
        weighted_sources(graph, "ca")
    turned = ir.Permute(name="turned", inputs=("a",), shape=(3, 2, 2), axes=(1, 2, 0))
    graph = Graph(nodes=(*graph.nodes, turned), outputs=("turned",), timesteps=5, stage="folded")
    with pytest.raises(CapabilityError, match=r"^turned: features in another order between spikes and a convolution"):
        weighted_sources(graph, "turned")
