"""Spikes of a run to messages between cores and with hosts, and those to hops on the mesh, of a ``mapped`` graph.

A spike is one message to every core that has an axon for its neuron. It passes ``|x - x'| + |y - y'|`` links between
tiles; chips stand in a row along x, as how boards join them is not published.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.cores import grid_of, seen, source_of, targets
from avsnn.convert.ir.fixed_interpreter import connect, product
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array
from avsnn.hw_profiles.profile import Profile

NEVER = fixed.Received | fixed.FixedReadout
"""What cores hold for a host to read."""


@dataclass(frozen=True, kw_only=True)
class HostTraffic:
    """Messages of a run between the chip and what a host computes in every step; where they enter the mesh is unknown.

    Attributes:
        host: its name.
        sums: those that are not 0, from cores to the host.
        messages: from the host, not 0.
        arriving: the same, once for each core that takes them.
    """

    host: str
    sums: int
    messages: int
    arriving: int


def emitted(graph: Graph, activity: Mapping[str, Array]) -> dict[str, Array]:
    """``activity`` and what products, hosts and the synapses into hosts make of it, where all sources are known.

    Args:
        graph: stage ``quantised`` or later.
        activity: populations, and inputs where something here reads them, (T, B, *shape).
    """
    known = dict(activity)
    for node in graph:
        if isinstance(node, fixed.Slice | fixed.Axons) or not set(node.inputs) <= set(known):
            continue
        if isinstance(node, fixed.Product):
            known[node.name] = product(node, *(known[name] for name in node.inputs))
        elif isinstance(node, fixed.Synapse) and any(isinstance(r, fixed.Received) for r in graph.readers[node.name]):
            x = known[node.inputs[0]]
            known[node.name] = connect(node, x.reshape(-1, *x.shape[2:])).reshape(*x.shape[:2], *node.shape)
    return known


def sent_counts(sent: Mapping[str, Array]) -> dict[str, Array]:
    """How many messages each neuron has sent: what is not 0 of (T, B, *shape), over all steps and samples."""
    return {name: np.count_nonzero(x, axis=(0, 1)) for name, x in sent.items()}


def host_traffic(graph: Graph, sent: Mapping[str, Array]) -> tuple[HostTraffic, ...]:
    """Messages to and from each host of a mapped graph; ``sent``: what `emitted` found."""
    counts, found = sent_counts(sent), []
    for node in graph.of(fixed.Received):
        sums = (sum((sent[name] for name in names[1:]), start=sent[names[0]]) for names in node.sums)
        taken = (axons for axons in graph.of(fixed.Axons) if source_of(graph, axons) == node.name)
        found.append(
            HostTraffic(
                host=node.name,
                sums=sum(int(np.count_nonzero(each)) for each in sums),
                messages=int(counts[node.name].sum()),
                arriving=sum(int(counts[node.name].ravel()[arriving(graph, axons)].sum()) for axons in taken),
            )
        )
    return tuple(found)


def owners(graph: Graph) -> dict[str, Array]:
    """Unit (population, sum of a host, product) to the core of each of its neurons, flat; -1 where no slice has it."""
    found: dict[str, Array] = {}
    for part in graph.of(fixed.Slice):
        shape = grid_of(graph, part)
        core = found.setdefault(part.unit, np.full(int(np.prod(shape)), -1))
        core[targets(shape, (part.first, part.last))] = part.core
    return found


def senders(graph: Graph) -> dict[str, Array]:
    """`owners` of what sends messages from core to core: a host's sums are read, and its messages come from outside."""
    found = owners(graph)
    return {node.name: found[node.name] for node in graph if node.name in found and not isinstance(node, NEVER)}


def arriving(graph: Graph, axons: fixed.Axons) -> Array:
    """Flat indices of the source neurons whose messages these axons take."""
    if axons.only is not None:
        return axons.only
    wire, source = graph[axons.inputs[0]], graph[source_of(graph, axons)].shape
    return targets(seen(wire, source), (axons.first, axons.last))


def messages(graph: Graph, counts: Mapping[str, Array]) -> Array:
    """Messages from core to core, (cores, cores) int64.

    Args:
        graph: stage ``mapped``.
        counts: population or product to the messages of each neuron, over all steps and samples (`sent_counts`). What
            comes from outside the cores (inputs, hosts) is not counted.
    """
    core_of, number = senders(graph), len(graph.of(fixed.Slice))
    found = np.zeros((number, number), dtype=np.int64)
    for axons in graph.of(fixed.Axons):
        source = source_of(graph, axons)
        if source in core_of:
            here, to = arriving(graph, axons), graph[axons.inputs[1]]
            assert isinstance(to, fixed.Slice)
            spikes = counts[source].reshape(-1)[here].astype(np.int64)
            np.add.at(found[:, to.core], core_of[source][here], spikes)
    return found


def axons_out(graph: Graph, kernel_axons: str) -> Array:
    """Output axons of each core: one for each core behind and each sender, as `Storage.kernel_axons` counts senders."""
    core_of, number = senders(graph), len(graph.of(fixed.Slice))
    found = np.zeros(number, dtype=np.int64)
    for axons in graph.of(fixed.Axons):
        wire, source = graph[axons.inputs[0]], source_of(graph, axons)
        if source not in core_of:
            continue
        here = arriving(graph, axons)
        cores = core_of[source][here]
        if isinstance(wire, fixed.FixedConv2d) and kernel_axons != "neuron":
            _, *size = seen(wire, graph[source].shape)
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
