from __future__ import annotations

from typing import Any

import pytest

from avsnn.convert import pipeline, proofs
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.interpreter import interpret
from avsnn.convert.ir.node import Array
from avsnn.convert.passes.currents import Sent, terms
from avsnn.convert.passes.fold_identity import HOSTED
from avsnn.convert.passes.quantise_products import ATTENDING, normed
from avsnn.convert.tracer import trace
from tests.networks import CASES, build, inputs

# One of each kind of fold; the ones left out differ in sizes, or fold as these do.
FOLDED = (
    "scmrl instance", "scmrl spatial, other grids", "sca random", "cmci concat", "spikslc shared", "spikslc gcc",
    "l2net lif_bn", "l2net lif_after_bn", "audio-snn odd", "smlp projected",
    "weight attention events", "spikslc layer", "spikslc variant",
)  # fmt: skip


def folded(name: str) -> tuple[Graph, Graph, dict[str, Array], Any]:
    """(traced, folded, inputs, log) of a case, each fold proved by the pipeline's own comparison and controls."""
    module = build(CASES[name])
    x, spec = inputs(module)
    traced = trace(module, x, input_spec=spec)
    log = proofs.Log(progress=lambda _text: None)
    return traced, pipeline._fold(traced, {"generated": x}, 0, log), x, log


@pytest.mark.parametrize("name", FOLDED)
def test_the_papers_networks_fold_without_changing_a_spike(name: str) -> None:
    traced, graph, x, log = folded(name)
    checked = {check.name for check in log.checks}
    assert len(checked) >= 3
    assert all(check.controls for check in log.checks)
    expected, found = interpret(traced, x), interpret(graph, x)  # freely running: ties may differ, here none does
    for population, spikes in expected.spikes.items():
        assert (spikes == found.spikes[population]).all(), population
    sent = {node.name: Sent(step=1.0, levels=1) for node in graph if isinstance(node, HOSTED)}
    for node in graph.of(ir.LIF):
        if not isinstance(graph[node.inputs[0]], ATTENDING) and normed(graph, node) is None:
            assert terms(graph, node.inputs[0], sent)
