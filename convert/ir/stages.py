"""What may stand in a graph of each stage: a table, checked between all passes."""

from __future__ import annotations

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Node
from avsnn.errors import VerifyError

_FOLDED: tuple[type[Node], ...] = (
    ir.Input,
    ir.Conv2d,
    ir.Linear,
    ir.LIF,
    ir.MaxPool2d,
    ir.Add,
    ir.Scale,
    ir.Flatten,
    ir.Permute,
    ir.Attention,
    ir.AttentionMap,
    ir.MappedValues,
    ir.ProductOfMeans,
    ir.Concat,
    ir.MeanSpace,
    ir.MeanTime,
    ir.Unit,
    ir.LayerNorm,
    ir.StepGain,
    ir.Readout,
)
_INTEGER: tuple[type[Node], ...] = (
    fixed.FixedInput,
    fixed.HeldCurrent,
    fixed.FixedConv2d,
    fixed.FixedLinear,
    fixed.FixedAttention,
    fixed.FixedAttentionMap,
    fixed.FixedMappedValues,
    fixed.FixedProductOfSums,
    fixed.FixedUnitCurrent,
    fixed.FixedLayerNorm,
    fixed.FixedStepGain,
    fixed.FixedLIF,
    fixed.FixedReadout,
)
SPEC: dict[str, tuple[type[Node], ...]] = {
    "traced": (
        *_FOLDED,
        ir.Normalise,
        ir.BatchNorm,
        ir.DSLN,
        ir.LeakyIntegrator,
        ir.LastStep,
    ),
    "folded": _FOLDED,
    "quantised": _INTEGER,
    "scheduled": _INTEGER,
    "mapped": (*_INTEGER, fixed.Slice, fixed.Axons),
}


def check_stage(graph: Graph) -> Graph:
    """Return ``graph`` if it keeps the rules of its stage.

    Raises:
        VerifyError: a node that this stage does not know is left (a batch norm that nothing could fold, say).
    """
    allowed = SPEC[graph.stage]
    for node in graph:
        if not isinstance(node, allowed):
            reads = ", ".join(f"{s.name} ({s.kind})" for s in graph.sources(node))
            raise VerifyError(
                f"{node.kind} left in stage {graph.stage}; it reads {reads}",
                where=node.origin or node.name,
                remedy="a normalisation folds into a convolution or linear layer right before or after it",
            )
        if isinstance(node, fixed.Synapse) and len(node.inputs) != 1:
            raise VerifyError("a synapse has one source", where=node.name, found=node.inputs)
    return graph
