"""Give a connection of weight 1 to what a population reads without weights: shortcuts, and norms on them.

A chip's neuron receives through synapses alone. ``LIF(W a + s)`` with spikes s becomes ``LIF(W a + I s)``, I a
depthwise 1x1 convolution (a diagonal matrix where features have no positions). A norm on the shortcut becomes its gain
and bias. What a host computes with (a layer norm, a gain per step) reaches it through synapses as well.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph, rewrite
from avsnn.convert.ir.node import Node
from avsnn.convert.passes.fold_forward import TAKES_IN
from avsnn.convert.passes.pointwise import Layer
from avsnn.convert.passes.take_in import leads_to, take_in
from avsnn.errors import CapabilityError

WEIGHTED = (ir.Conv2d, ir.Linear, ir.Attention, ir.AttentionMap, ir.MappedValues)
HOSTED = (ir.LayerNorm, ir.StepGain)
UNWEIGHTED = (ir.LIF, ir.MaxPool2d, ir.Input, ir.ProductOfMeans, ir.Permute, ir.Unit, *HOSTED)
TAKEN_IN = (*TAKES_IN, ir.DSLN, ir.Conv2d, ir.Linear)
MATRIX_LIMIT = 4096  # features that a diagonal may have, which is stored as a matrix


def fold_identity(graph: Graph) -> Graph:
    """Return ``graph`` with every population and host node reading sums of weighted layers and products alone.

    Raises:
        CapabilityError: features of two axes, or too many for a matrix.
    """

    def connect(node: Node, before: dict[str, Node]) -> Node | None:
        if not isinstance(node, ir.LIF | ir.LayerNorm | ir.StepGain):
            return None
        parts = _operands(node.inputs[0], before)
        if all(isinstance(before[part], WEIGHTED) for part in parts):
            return None
        if len(parts) == 1 and _folds_backward(graph, before[parts[0]]):
            return None
        made = [_connected(node, part, len(parts) == 1, before) for part in parts]
        if len(made) == 1:
            return replace(node, inputs=(made[0], *node.inputs[1:]))
        total = ir.Add(name=f"{node.name}.current", inputs=tuple(made), shape=node.shape, origin=node.origin)
        before[total.name] = total
        return replace(node, inputs=(total.name, *node.inputs[1:]))

    return rewrite(graph, connect)


def _operands(name: str, before: dict[str, Node]) -> list[str]:
    """What is summed up to ``name``, sums within sums opened."""
    node = before[name]
    return (
        [part for source in node.inputs for part in _operands(source, before)] if isinstance(node, ir.Add) else [name]
    )


def _connected(node: Node, part: str, only: bool, before: dict[str, Node]) -> str:
    """``part`` itself where it is weighted, else a connection of weight 1 that reads it."""
    source = before[part]
    if isinstance(source, WEIGHTED):
        return part
    if not isinstance(source, UNWEIGHTED) and not leads_to(part, before, (*TAKEN_IN, *UNWEIGHTED)):
        return part  # nothing that a connection could read: named once the folds are done
    name = f"{node.name}.identity" if only else f"{node.name}.identity@{part}"
    if name not in before:
        layer = _identity(name, part, node, source.shape)
        before[name] = take_in(layer, before, TAKES_IN) or layer
    return name


def _folds_backward(graph: Graph, norm: Node) -> bool:
    """Whether the layer before a token norm takes it: neither feeds anything else."""
    if not isinstance(norm, ir.DSLN) or not isinstance(graph[norm.inputs[0]], ir.Conv2d | ir.Linear):
        return False
    return len(graph.readers[norm.name]) == len(graph.readers[norm.inputs[0]]) == 1


def _identity(name: str, source: str, node: Node, shape: tuple[int, ...]) -> Layer:
    channels = node.shape[0]
    if len(node.shape) == 3 and shape == node.shape:
        weight = np.ones((channels, 1, 1, 1))
        return ir.Conv2d(
            name=name, inputs=(source,), shape=shape, origin=node.origin, weight=weight, bias=np.zeros(channels),
            groups=channels,
        )  # fmt: skip
    if len(node.shape) != 1 or math.prod(shape) > MATRIX_LIMIT:
        raise CapabilityError(
            "neurons read spikes without weights",
            where=node.origin or node.name,
            found=f"features {shape} of {source}",
            limit=f"(channels, height, width), or up to {MATRIX_LIMIT} features",
            remedy="put a layer between",
        )
    return ir.Linear(
        name=name, inputs=(source,), shape=node.shape, origin=node.origin, weight=np.eye(channels),
        bias=np.zeros(channels),
    )  # fmt: skip
