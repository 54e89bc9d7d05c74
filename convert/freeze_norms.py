"""Layer norms to norms with a frozen variance, which fold: an approximation, measured, for whoever asks for it.

``1 / d`` of each token and step becomes that of the mean variance on calibration data (the mean stays dynamic, which
costs nothing). What differs is ``s = 1 / d`` against ``s_t`` of the moment: the spread of the variances.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.interpreter import interpret, values
from avsnn.convert.ir.node import Array


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """What freezing one norm costs on calibration data, everything else being as it was.

    Attributes:
        norm: its name.
        spread: mean of ``|s_t - s| / s`` over tokens, steps and samples; for the variant of ``|d_t - d| / d``.
        largest: the largest.
        changed: share of the spikes of all populations that differ.
    """

    norm: str
    spread: float
    largest: float
    changed: float


def freeze_norms(graph: Graph, inputs: Mapping[str, Array]) -> tuple[Graph, tuple[Frozen, ...]]:
    """Return a ``traced`` graph without layer norms, and what each costs.

    Args:
        graph: stage ``traced``; ``convert(frozen, calibration=inputs)`` converts what is returned.
        inputs: calibration data by name.
    """
    run = interpret(graph, inputs)
    sent = values(graph, inputs, run.spikes)
    done, found = graph, []
    for norm in graph.of(ir.LayerNorm):
        x = sent[norm.inputs[0]]
        squares = x.var(axis=2) + norm.eps
        factor = np.sqrt(squares) if norm.variant else 1 / np.sqrt(squares)
        whole = float(squares.mean())
        kept = np.sqrt(whole) if norm.variant else 1 / np.sqrt(whole)
        off = np.abs(factor - kept) / kept
        dsln = ir.DSLN(
            name=norm.name, inputs=norm.inputs, shape=norm.shape, origin=norm.origin, gamma=norm.gamma, beta=norm.beta,
            var=np.asarray(1 / whole if norm.variant else whole), eps=0.0,
        )  # fmt: skip
        alone = interpret(_with(graph, dsln), inputs).spikes
        changed = sum(int((alone[name] != s).sum()) for name, s in run.spikes.items())
        size = sum(s.size for s in run.spikes.values())
        found.append(Frozen(norm=norm.name, spread=float(off.mean()), largest=float(off.max()), changed=changed / size))
        done = _with(done, dsln)
    return done, tuple(found)


def _with(graph: Graph, norm: ir.DSLN) -> Graph:
    return replace(graph, nodes=tuple(norm if node.name == norm.name else node for node in graph))
