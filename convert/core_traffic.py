"""Spikes of a run to messages between cores, and those to hops on the mesh, of a ``mapped`` graph.

A spike is one message to every core that has an axon for its neuron. It passes ``|x - x'| + |y - y'|`` links between
tiles; chips stand in a row along x, as how boards join them is not published.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.cores import grid, seen, targets
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array
from avsnn.hw_profiles.profile import Profile


def owners(graph: Graph) -> dict[str, Array]:
    """Population to the core of each of its neurons, flat; -1 where no slice has it."""
    found: dict[str, Array] = {}
    for part in graph.of(fixed.Slice):
        shape = grid(graph, graph[part.inputs[0]])
        core = found.setdefault(part.inputs[0], np.full(int(np.prod(shape)), -1))
        core[targets(shape, (part.first, part.last))] = part.core
    return found


def arriving(graph: Graph, axons: fixed.Axons) -> Array:
    """Flat indices of the source neurons whose messages these axons take."""
    if axons.only is not None:
        return axons.only
    wire = graph[axons.inputs[0]]
    assert isinstance(wire, fixed.Synapse)
    return targets(seen(wire, graph[wire.inputs[0]].shape), (axons.first, axons.last))


def messages(graph: Graph, counts: Mapping[str, Array]) -> Array:
    """Messages from core to core, (cores, cores) int64.

    Args:
        graph: stage ``mapped``.
        counts: population to the spikes of each neuron, over all steps and samples. What comes from outside the cores
            (inputs, products) is not counted.
    """
    core_of, number = owners(graph), len(graph.of(fixed.Slice))
    found = np.zeros((number, number), dtype=np.int64)
    for axons in graph.of(fixed.Axons):
        source = graph[axons.inputs[0]].inputs[0]
        if source in core_of:
            here, to = arriving(graph, axons), graph[axons.inputs[1]]
            assert isinstance(to, fixed.Slice)
            spikes = counts[source].reshape(-1)[here].astype(np.int64)
            np.add.at(found[:, to.core], core_of[source][here], spikes)
    return found


def axons_out(graph: Graph, kernel_axons: str) -> Array:
    """Output axons of each core: one for each core behind and each sender, as `Storage.kernel_axons` counts senders."""
    core_of, number = owners(graph), len(graph.of(fixed.Slice))
    found = np.zeros(number, dtype=np.int64)
    for axons in graph.of(fixed.Axons):
        wire = graph[axons.inputs[0]]
        if wire.inputs[0] not in core_of:
            continue
        here = arriving(graph, axons)
        cores = core_of[wire.inputs[0]][here]
        if isinstance(wire, fixed.FixedConv2d) and kernel_axons != "neuron":
            _, *size = seen(wire, graph[wire.inputs[0]].shape)
            position = here % int(np.prod(size)) if kernel_axons == "position" else np.zeros_like(here)
            cores = np.unique(np.stack([cores, position]), axis=1)[0]
        found += np.bincount(cores, minlength=number)
    return found


def place_on(part: fixed.Slice, profile: Profile, location: int) -> fixed.Slice:
    """The slice at a location: chips one after the other, tiles row by row, all cores of a tile together."""
    per_chip = profile.limits.cores_per_chip
    assert per_chip is not None
    chip, place = divmod(location, per_chip)
    if profile.mesh is None:
        return replace(part, chip=chip)
    y, x = divmod(place // profile.mesh.cores_per_tile, profile.mesh.tiles_x)
    return replace(part, chip=chip, x=x, y=y)


def distances(parts: tuple[fixed.Slice, ...], tiles_x: int) -> Array:
    """Hops from each slice's tile to each other's."""
    x = np.array([part.chip * tiles_x + part.x for part in parts])
    y = np.array([part.y for part in parts])
    return np.abs(x[:, None] - x) + np.abs(y[:, None] - y)
