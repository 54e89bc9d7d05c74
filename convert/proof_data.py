"""Calibration data and a seed to what the proofs compare on: known inputs, generated ones, and random spikes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.interpreter import interpret
from avsnn.convert.ir.node import Array
from avsnn.errors import InputError

SHARES = (1.0, 0.5, 0.2, 0.05)  # of generated inputs that are not 0
DRIVE_RATE = 0.3  # of the random spikes that drive every population in turn

Inputs = Mapping[str, Array]
"""Arrays by input name."""


def proof_data(graph: Graph, calibration: Inputs, seed: int, samples: int) -> dict[str, dict[str, Array]]:
    """Return inputs of the comparisons by kind: a few of calibration, and random ones over the whole declared range.

    Some networks are silent on noise. Then a part of it is left out, more and more, until something fires.
    """
    known, generated = first_samples(graph, calibration, samples), {}
    for share in SHARES:
        rng = np.random.default_rng(seed)
        count = max(1, samples // 2)
        generated = {node.name: _noise(node, graph.timesteps, count, share, rng) for node in graph.of(ir.Input)}
        if any(spikes.any() for spikes in interpret(graph, generated).spikes.values()):
            break
    return {"calibration": known, "generated": generated}


def _noise(node: ir.Input, timesteps: int, count: int, share: float, rng: np.random.Generator) -> Array:
    """Random multiples of an input's step; all but a ``share`` of them are the value nearest to 0."""
    lead = (count,) if node.coding == "direct" else (node.steps or timesteps, count)
    low, high = round(node.low / node.step), round(node.high / node.step)
    drawn = rng.integers(low, high + 1, size=(*lead, *node.shape))
    if share < 1:
        drawn = np.where(rng.random(drawn.shape) < share, drawn, min(max(0, low), high))
    values: Array = drawn * node.step
    return values


def first_samples(graph: Graph, inputs: Mapping[str, Array], samples: int) -> dict[str, Array]:
    """Return the first samples of each input of the graph."""
    cut = {}
    for node in graph.of(ir.Input):
        if node.name not in inputs:
            raise InputError("calibration input missing", where=node.name, found=", ".join(inputs) or "none")
        x = np.asarray(inputs[node.name], dtype=np.float64)
        cut[node.name] = x[:samples] if node.coding == "direct" else x[:, :samples]
    return cut


def random_spikes(graph: Graph, like: Mapping[str, Array], seed: int) -> dict[str, Array]:
    """Return spikes of the same shapes that no layer caused, for populations that data leaves silent.

    A population of ``graph`` that rests in some steps stays silent in them.
    """
    rng = np.random.default_rng(seed + 1)
    driven = {name: rng.random(spikes.shape) < DRIVE_RATE for name, spikes in like.items()}
    for node in graph.of(ir.LIF):
        driven[node.name][node.steps or graph.timesteps :] = False
    return driven
