"""Two graphs and labelled samples to what quantising costs: spikes that differ, answers that become wrong or right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.fixed_interpreter import logical, to_integers
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.interpreter import interpret
from avsnn.convert.ir.node import Array


def agreement(folded: Graph, quantised: Graph, inputs: Mapping[str, Array]) -> dict[str, float]:
    """Share of spikes that quantising leaves as they were, per population, errors of earlier layers included."""
    real = interpret(folded, inputs).spikes
    whole = logical(quantised, to_integers(quantised, inputs)).spikes
    steps = {node.name: node.steps or folded.timesteps for node in folded.of(ir.LIF)}
    return {name: float((spikes == whole[name])[: steps[name]].mean()) for name, spikes in real.items()}


def accuracy_of_stages(
    folded: Graph, quantised: Graph, evaluation: tuple[Mapping[str, Array], Array]
) -> dict[str, Any]:
    """Correct answers of the float and of the integer graph on the same samples, and how many both get right."""
    inputs, labels = evaluation
    float_right, integer_right = [], []
    for batch, wanted in batches(quantised, inputs, labels):
        float_right.append(interpret(folded, batch).outputs[folded.outputs[0]].argmax(axis=1) == wanted)
        raw = logical(quantised, to_integers(quantised, batch)).outputs[quantised.outputs[0]]
        integer_right.append(raw.argmax(axis=1) == wanted)
    a, b = np.concatenate(float_right), np.concatenate(integer_right)
    return {
        "samples": len(labels),
        "folded": int(a.sum()),
        "quantised": int(b.sum()),
        "only_folded_right": int((a & ~b).sum()),
        "only_quantised_right": int((b & ~a).sum()),
    }


def batches(
    graph: Graph, inputs: Mapping[str, Array], labels: Array, size: int = 64
) -> Iterator[tuple[dict[str, Array], Array]]:
    """Cut inputs and labels along the batch axis, which is 0 where direct and 1 where a sequence."""
    coding = {node.name: getattr(node, "coding", "direct") for node in graph if not node.inputs}
    for start in range(0, len(labels), size):
        cut = slice(start, start + size)
        part = {k: np.asarray(x)[cut] if coding[k] == "direct" else np.asarray(x)[:, cut] for k, x in inputs.items()}
        yield part, np.asarray(labels)[cut]
