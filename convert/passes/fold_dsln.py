"""Fold norms with a dynamic mean and a frozen variance (DSLN) into the layer behind or before them.

The mean over channels is linear in x, so ``DSLN(x)[:, i] = s_i Gamma C x[:, i] + beta`` with ``s_i = 1 / sqrt(var_i +
eps)``, ``Gamma = diag(gamma)`` and ``C = I - (1/n) 1 1^T``. A layer behind it becomes, at position i::

    W DSLN(x) + b = s_i W1 x + b1,    W1 = W Gamma C (rows that sum to 0),    b1 = W beta + b

With one variance for all positions, W1 takes s. With one per position, weights stay shared and neurons behind the
layer take it: ``LIF(s_i a; th) = LIF(a; th / s_i)`` with bias ``b1 / s_i``, for every reset, as what is subtracted is
the threshold. Their membrane is then ``v / s_i``. A linear layer over all positions has columns of its own for each.

A layer before it becomes ``W2 = Gamma C W`` with bias ``Gamma C b + beta / s_i`` likewise. Layers behind come first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph, rewrite
from avsnn.convert.ir.kernels import per_channel
from avsnn.convert.ir.node import Array, Node
from avsnn.convert.passes.fold_forward import TAKES_IN
from avsnn.convert.passes.pointwise import Layer, absorb, centring, follow, pointwise
from avsnn.convert.passes.take_in import leads_to, take_in
from avsnn.errors import CapabilityError


@dataclass(frozen=True, kw_only=True)
class _PerPosition:
    """A convolution behind or before ``norm``, and 1 / s at each position of the neurons that read it."""

    norm: ir.DSLN
    layer: str
    deviation: Array


def fold_dsln(graph: Graph) -> Graph:
    """Return ``graph`` with every `DSLN` in a layer's weights, and per-position variances in thresholds.

    Raises:
        CapabilityError: variances per position in front of something else than a 1x1 convolution that exactly one
            population reads.
    """
    plans: dict[str, _PerPosition] = {}  # by population
    for node in graph:
        if isinstance(node, ir.DSLN):
            plans |= _plan(graph, node)
    behind = {plan.layer: plan for plan in plans.values() if graph[plan.layer].inputs[0] == plan.norm.name}
    ahead = {plan.norm.name: plan for plan in plans.values() if plan.layer not in behind}

    def fold(node: Node, before: dict[str, Node]) -> Node | None:
        if isinstance(node, ir.LIF) and node.name in plans:
            threshold = np.asarray(node.threshold, dtype=np.float64) * plans[node.name].deviation[None]
            return replace(node, threshold=threshold)
        if node.name in behind:
            return _behind(_layer(node), behind[node.name], before)
        if node.name in ahead:
            return _ahead(_layer(before[node.inputs[0]]), ahead[node.name])
        if isinstance(node, ir.Conv2d | ir.Linear):
            return take_in(node, before, (ir.DSLN, *TAKES_IN)) if leads_to(node.inputs[0], before, (ir.DSLN,)) else None
        if isinstance(node, ir.DSLN) and _takes_shared(graph, node):
            outer = pointwise(node)
            assert outer is not None
            return follow(_layer(before[node.inputs[0]]), outer)
        return None

    done = rewrite(graph, fold)
    for norm in done.of(ir.DSLN):
        reader = done.readers[norm.name][0] if done.readers[norm.name] else norm
        if not _answers(done, norm):
            raise _refusal(norm, f"it feeds {reader.name} ({reader.kind})", reader)
    return done


def _plan(graph: Graph, norm: ir.DSLN) -> dict[str, _PerPosition]:
    """Who takes the variances of ``norm``, where there is one per position."""
    if norm.var.size == 1:
        return {}
    deviation = np.sqrt(norm.var.astype(np.float64) + norm.eps)
    plans = {}
    convolutions = [reader for reader in graph.readers[norm.name] if isinstance(reader, ir.Conv2d)]
    for layer in convolutions:
        if layer.weight.shape[2:] != (1, 1) or layer.padding != (0, 0):
            raise _refusal(norm, f"it feeds {layer.name}, which sees several positions at once", layer)
        population = _only_population(graph, layer, norm)
        (down, across) = layer.stride
        plans[population] = _PerPosition(norm=norm, layer=layer.name, deviation=deviation[::down, ::across])
    source = graph[norm.inputs[0]]
    if not convolutions and _single(graph, norm, ir.LIF) and isinstance(source, ir.Conv2d):
        if not _single(graph, source, ir.DSLN):
            raise _refusal(norm, f"{source.name} in front of it feeds others as well", source)
        plans[graph.readers[norm.name][0].name] = _PerPosition(norm=norm, layer=source.name, deviation=deviation)
    return plans


def _only_population(graph: Graph, layer: ir.Conv2d, norm: ir.DSLN) -> str:
    if _single(graph, layer, ir.LIF):
        return graph.readers[layer.name][0].name
    readers = [f"{reader.name} ({reader.kind})" for reader in graph.readers[layer.name]]
    readers += ["the answer"] if layer.name in graph.outputs else []
    raise _refusal(norm, f"{layer.name} behind it feeds {', '.join(readers)}, not exactly one population", layer)


def _single(graph: Graph, node: Node, kind: type[Node]) -> bool:
    """Whether exactly one node of ``kind`` reads ``node``."""
    readers = graph.readers[node.name]
    return len(readers) == 1 and isinstance(readers[0], kind) and node.name not in graph.outputs


def _takes_shared(graph: Graph, norm: ir.DSLN) -> bool:
    """Whether the layer before takes ``norm``: it feeds nothing else, and no layer behind it wants to."""
    source = graph[norm.inputs[0]]
    behind = any(isinstance(reader, ir.Conv2d | ir.Linear | ir.Flatten) for reader in graph.readers[norm.name])
    return (
        norm.var.size == 1
        and not behind
        and isinstance(source, ir.Conv2d | ir.Linear)
        and _single(graph, source, ir.DSLN)
    )


def _behind(layer: Layer, plan: _PerPosition, before: dict[str, Node]) -> Node:
    new = absorb(layer, centring(plan.norm, 1.0), plan.norm.shape)
    bias = per_channel(new.bias, 1 + plan.deviation.ndim) * plan.deviation[None]
    new = replace(new, inputs=before[layer.inputs[0]].inputs, bias=bias)
    return take_in(new, before, (ir.DSLN, *TAKES_IN)) or new  # what is in front of the norm: W1 sees it, not s_i W1


def _ahead(layer: Layer, plan: _PerPosition) -> Layer:
    outer = centring(plan.norm, 1.0)
    centred = follow(layer, replace(outer, shift=np.zeros_like(outer.shift)))
    rank = 1 + plan.deviation.ndim
    return replace(
        centred, bias=per_channel(centred.bias, rank) + per_channel(outer.shift, rank) * plan.deviation[None]
    )


def _answers(graph: Graph, norm: ir.DSLN) -> bool:
    """Whether ``norm`` is on the way to an answer alone, which takes it in later."""
    found, todo = True, [norm.name]
    while todo:
        readers = graph.readers[todo.pop()]
        found &= not any(isinstance(reader, ir.LIF | ir.Conv2d | ir.MaxPool2d) for reader in readers)
        todo += [reader.name for reader in readers]
    return found


def _layer(node: Node) -> Layer:
    assert isinstance(node, ir.Conv2d | ir.Linear)
    return node


def _refusal(norm: ir.DSLN, what: str, layer: Node) -> CapabilityError:
    if norm.var.size == 1:
        return CapabilityError(
            f"a token norm folds into the layer behind it or before it, but {what}",
            where=norm.origin or norm.name,
            found=layer.origin or layer.name,
            remedy="put a layer right behind it",
        )
    return CapabilityError(
        f"a variance per position folds into thresholds, but {what}",
        where=norm.origin or norm.name,
        found=layer.origin or layer.name,
        limit="a 1x1 convolution that exactly one population reads",
        remedy="train with dsln_var='shared' (one variance for all positions), which folds into any layer",
    )
