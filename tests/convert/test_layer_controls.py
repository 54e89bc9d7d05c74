"""One planted mistake per weighted layer: each must be noticed, unless it can change nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from avsnn.convert import equivalence as eq
from avsnn.convert import layer_controls
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.interpreter import interpret
from avsnn.convert.ir.node import Array
from avsnn.convert.layer_controls import with_layer_controls
from avsnn.convert.proof_data import random_spikes
from avsnn.errors import VerifyError
from tests.strategies import inputs_for, spiking_graph

WHAT = ": weights of the strongest output negated"


def network() -> Graph:
    return spiking_graph(1, depth=4, skips=((0, 2),), read=(0,))


def judged(graph: Graph, x: dict[str, Array], force: dict[str, Array] | None = None) -> eq.Check:
    expected = interpret(graph, x, force=force)
    sent = expected.spikes if force is None else force
    check = eq.compare("n", "d", expected, interpret(graph, x, force=sent), exact=False)
    return with_layer_controls(check, expected, graph, x, sent)


def test_every_layer_is_tried_and_noticed() -> None:
    graph = network()
    layers = [n.name for n in graph if isinstance(n, ir.Conv2d | ir.Linear)]
    x = inputs_for(graph, 2, batch=7)
    for force in (None, random_spikes(graph, interpret(graph, x).spikes, 0)):
        check = judged(graph, x, force)
        assert set(check.controls) == {layer + WHAT for layer in layers}
        assert (check.planted, check.idle) == (len(layers), ())


def test_layers_that_meet_are_tried_one_at_a_time() -> None:
    ends = layer_controls._ends(network(), [f"p{i}" for i in range(4)])
    assert layer_controls._ends(network(), ["p3"])["c0"] == {"p3", eq.ANSWER}  # others are looked through
    assert ends["c2"] == ends["c0to2"] == {"p2"}
    assert ends["out@p0"] == ends["out@p3"] == {eq.ANSWER}
    assert list(layer_controls._apart(ends)) == [["c0", "c1", "c2", "c3", "out@p0"], ["c0to2", "out@p3"]]


def test_a_layer_that_receives_nothing_is_idle_and_its_neighbours_are_not() -> None:
    graph = network()
    layer = graph["c1"]
    assert isinstance(layer, ir.Conv2d)
    silent = replace(layer, bias=layer.bias - 200)
    graph = replace(graph, nodes=tuple(silent if n is layer else n for n in graph))
    x = inputs_for(graph, 2)
    check = judged(graph, x)
    assert check.idle == ("c2" + WHAT,)
    assert check.planted == len(check.controls) + 1
    driven = judged(graph, x, random_spikes(graph, interpret(graph, x).spikes, 0))
    assert not driven.idle


@pytest.mark.parametrize("blind", ["p1", eq.ANSWER])
def test_a_comparison_that_does_not_look_at_one_place_stops(monkeypatch: pytest.MonkeyPatch, blind: str) -> None:
    def differing(*arguments: Any, **options: Any) -> set[str]:
        return seen(*arguments, **options) - {blind}

    seen = eq.differing
    monkeypatch.setattr(eq, "differing", differing)
    graph = network()
    with pytest.raises(VerifyError, match="n on d did not notice a planted mistake") as stopped:
        judged(graph, inputs_for(graph, 2))
    assert stopped.value.where == {"p1": "c1", eq.ANSWER: "out@p0"}[blind]


def test_mistakes_that_change_nothing_at_all_prove_nothing() -> None:
    graph = network()
    x = {"x": np.zeros((3, 2, 5, 5))}
    layers = [n for n in graph if isinstance(n, ir.Conv2d | ir.Linear)]
    weak = {n.name: replace(n, weight=1e-12 * n.weight, bias=0 * n.bias + 5) for n in layers}
    always = replace(graph, nodes=tuple(weak.get(n.name, n) for n in graph))
    with pytest.raises(VerifyError, match="no planted mistake changes anything"):
        judged(always, x)


def test_the_liveliest_samples_are_taken() -> None:
    graph = network()
    x = {"x": np.concatenate([np.zeros((9, 2, 5, 5)), inputs_for(graph, 2, batch=2)["x"]])}
    nodes = tuple(replace(n, bias=0 * n.bias) if isinstance(n, ir.Conv2d) else n for n in graph)
    assert not judged(replace(graph, nodes=nodes), x).idle
