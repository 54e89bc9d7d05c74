from __future__ import annotations

from typing import Any

import pytest

from avsnn.convert import pipeline, proofs
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.interpreter import interpret
from avsnn.convert.ir.node import Array
from avsnn.convert.passes.currents import terms
from avsnn.convert.passes.quantise_products import ATTENDING, normed
from avsnn.convert.tracer import trace
from avsnn.errors import CapabilityError
from tests.networks import CASES, build, inputs

# One of each kind of fold; the ones left out differ in sizes, or fold as these do.
FOLDED = (
    "scmrl instance", "scmrl spatial, other grids", "sca random", "cmci concat", "spikslc shared", "spikslc gcc",
    "l2net lif_bn", "l2net lif_after_bn", "audio-snn odd", "smlp projected",
)  # fmt: skip
REFUSED = {
    "weight attention": r"^image.fusion.weigh \(StepGain\): a gain that the network computes at every step",
    "spikslc layer": r"^blocks.0.gcc.fls1.norm \(LayerNorm\): a layer norm divides by a deviation of the moment",
}


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
    for node in graph.of(ir.LIF):
        if not isinstance(graph[node.inputs[0]], ATTENDING) and normed(graph, node) is None:
            assert terms(graph, node.inputs[0])


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_cannot_fold_is_named_with_a_remedy(name: str) -> None:
    with pytest.raises(CapabilityError, match=REFUSED[name]):
        folded(name)
