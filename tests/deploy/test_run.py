"""What a run of a bundle returns, whatever the back end calls or sorts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from avsnn.convert import pipeline
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.activity import Activity
from avsnn.deploy import run as running
from tests.strategies import inputs_for, spiking_graph


def test_the_answer_of_a_network_with_two_was_the_one_that_a_back_end_sorts_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph = spiking_graph(1, depth=2)
    last = graph["p1"]
    row = ir.Linear(name="row", inputs=(last.name,), shape=(2,), weight=np.ones((2, 50)), bias=np.zeros(2))
    more = ir.Readout(name="a", inputs=("row",), shape=(2,), bias=np.zeros(2))
    graph = replace(graph, nodes=(*graph.nodes, row, more), outputs=("out", "a"), stage="traced")
    x = inputs_for(graph, 0)
    bundle = pipeline.convert(graph, calibration=x)
    expected = running.run(bundle, x)
    assert expected.raw.shape == (3, 3)
    run = running._execute

    def sorting(*arguments: object) -> object:
        activity, seconds = run(*arguments)  # type: ignore[arg-type]
        outputs = dict(sorted(activity.outputs.items()))
        assert next(iter(outputs)) == "a"
        return Activity(outputs=outputs, spikes=activity.spikes, states=activity.states), seconds

    monkeypatch.setattr(running, "_execute", sorting)
    assert np.array_equal(running.run(bundle, x).raw, expected.raw)
