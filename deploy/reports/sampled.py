"""Activity of the compared samples to what a page draws of it: a raster of a few neurons, spikes by step, rates.

Only a bounded part is kept, so that a report stays small; it says which. Nothing is chosen by how active it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.activity import Activity
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array

POPULATIONS, NEURONS, STEPS = 24, 8, 32
"""At most so many populations, neurons of each, and steps (of one sample or of several in a row) in a raster."""
KEPT = 64  # steps of a window that are counted one by one
RATE_EDGES = (1, 2, 5, 10, 20, 50)
"""Percent of the steps with a spike; see `neurons_by_rate`."""


def raster(graph: Graph, activity: Activity) -> dict[str, Any]:
    """Spikes of evenly spaced neurons of evenly spaced populations, in the first samples, in logical time.

    ``samples`` consecutive ones, ``steps`` of each. A neuron is its flat index, and its spikes are a text of 0 and 1,
    step after step and sample after sample. Relays are left out: they repeat others.
    """
    nodes = [node for node in graph.of(fixed.FixedLIF) if node.role != "relay"]
    steps = min(graph.timesteps, STEPS)
    batch = min((activity.spikes[node.name].shape[1] for node in nodes), default=0)
    samples = min(batch, max(1, STEPS // steps))
    rows = []
    for k in evenly(len(nodes), POPULATIONS):
        spikes = activity.spikes[nodes[k].name][:steps, :samples]
        flat = spikes.reshape(steps, samples, -1).astype(np.uint8)
        chosen = evenly(flat.shape[2], NEURONS)
        texts = ["".join(map(str, flat[:, :, i].T.reshape(-1).tolist())) for i in chosen]
        rows.append({"name": nodes[k].name, "neurons": chosen, "spikes": texts})
    return {"samples": samples, "steps": steps, "of_populations": len(nodes), "populations": rows}


def evenly(number: int, most: int) -> list[int]:
    """Indices of at most ``most`` of ``number`` things, the same distance apart.

    >>> evenly(3, 8), evenly(100, 4)
    ([0, 1, 2], [12, 37, 62, 87])
    """
    return [(2 * k + 1) * number // (2 * min(number, most)) for k in range(min(number, most))]


def by_step(spikes: Array) -> list[int]:
    """Spikes of a population (T, B, *shape) in each of the first steps of a window, over all samples."""
    return [int(step.sum()) for step in spikes[:KEPT]]


def by_rate(spikes: Array) -> list[int]:
    """Neurons of a population (T, B, *shape) by how often they fire.

    How many never do, in up to 1 % of the steps of all samples, in more than 1 % and up to 2 %, and so on
    (`RATE_EDGES`), in more than 50 % but not all, and in every step.
    """
    steps = spikes.shape[0] * spikes.shape[1]
    fired = spikes.reshape(steps, -1).sum(axis=0, dtype=np.int64)
    edges: Sequence[int] = (0, *RATE_EDGES, 100)
    places = np.searchsorted(np.array(edges) * steps, fired * 100)  # whole numbers: a rate of 1 % is no more than 1 %
    found = np.bincount(places, minlength=len(edges))
    always = int((fired == steps).sum()) if steps else 0
    return [*(int(n) for n in found[:-1]), int(found[-1]) - always, always]
