"""Populations to slices that each fit a core: a ``scheduled`` graph to a ``mapped`` one.

A population is cut along the axes of its grid, ``(channel, height, width)`` behind convolutions, into
``k_c k_h k_w`` even boxes, one for each core, as published compilers do (one layer per core). Every core stores the
kernels of its output channels once, and the rows of linear layers that lead to its neurons. The cut with the fewest
cores whose boxes keep every limit is taken, and of those the one whose cores receive the fewest messages. Sums of a
read-out are held by one neuron each. Held currents are written by the host; products have no published program, so
they are on no core, and named.

A neuron's arithmetic reads its own state and the currents of its synapses, and a current is a sum over source neurons:
both are the same wherever the neuron is, if each message that has a weight arrives. So no cut can change a spike.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise, product

from avsnn.convert.core_demand import LIMITS, Rules, not_checked
from avsnn.convert.core_traffic import axons_out, place_on
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.cores import Box, grid, needed
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array, Node, Shape
from avsnn.errors import CapabilityError
from avsnn.hw_profiles.profile import Profile

ROUNDS = 32  # of finer cuts for the sake of output axons


@dataclass(frozen=True, kw_only=True)
class Core:
    """What one core holds; bits are lower bounds where the profile does not publish a size."""

    core: int
    population: str
    neurons: int
    synapses: int
    synapse_bits: int
    memory_bits: int
    formats: int
    axons_in: int
    axons_out: int


@dataclass(frozen=True, kw_only=True)
class Mapping:
    """Cores in order and how many chips hold them.

    ``limits``: those that were checked, by the field of `Core` that they bound; ``not_checked``: what nobody has
    published; ``elsewhere``: nodes that are on no core.
    """

    cores: tuple[Core, ...]
    chips: int
    limits: dict[str, int]
    not_checked: tuple[str, ...]
    elsewhere: tuple[str, ...]


def map_cores(graph: Graph, profile: Profile) -> tuple[Graph, Mapping]:
    """Cut every population and every read-out; cores are numbered in the order of the graph, tiles filled row by row.

    Args:
        graph: stage ``scheduled``.
        profile: of a chip with cores.

    Raises:
        CapabilityError: a neuron that fits no core (layer, number, limit, remedy), the chip has no cores, or a node of
            a kind that nobody knows how to place.
    """
    if profile.limits.cores_per_chip is None:
        raise CapabilityError("the profile has no cores", where=profile.id, remedy="map for a chip")
    rules = Rules(profile=profile, graph=graph)
    units: list[Node] = [node for node in graph if isinstance(node, fixed.FixedLIF | fixed.FixedReadout)]
    _check_kinds(graph)
    least = dict.fromkeys((node.name for node in units), 1)
    for _ in range(ROUNDS):
        rules.cut_into.clear()
        for node in units:
            rules.cut_into[node.name] = _boxes(rules, node, least[node.name])
        mapped = _with_slices(graph, rules, units)
        storage = profile.storage
        sent = axons_out(mapped, "neuron" if storage is None else storage.kernel_axons)
        if not _finer(rules, mapped, sent, least):
            break
    else:
        raise CapabilityError("no cut keeps the output axons", where=profile.id, found=f"{ROUNDS} tries")
    cores = tuple(_cores(rules, mapped, sent))
    chips = -(-len(cores) // profile.limits.cores_per_chip)
    elsewhere = tuple(n.name for n in graph if isinstance(n, fixed.Product | fixed.HeldCurrent))
    bounds = {field: rules.limit(name) for name, field in {**LIMITS, "axons_out_per_core": "axons_out"}.items()}
    limits = {field: bound for field, bound in bounds.items() if bound is not None and field in Core.__annotations__}
    unknown = not_checked(graph, profile)
    mapping = Mapping(cores=cores, chips=chips, limits=limits, not_checked=unknown, elsewhere=elsewhere)
    return mapped, mapping


def _check_kinds(graph: Graph) -> None:
    known = fixed.FixedInput | fixed.HeldCurrent | fixed.Synapse | fixed.Product | fixed.FixedLIF | fixed.FixedReadout
    for node in graph:
        if not isinstance(node, known):
            raise CapabilityError("no core can hold this", where=node.name, found=node.kind)
        if isinstance(node, fixed.Synapse):
            readers = graph.readers[node.name]
            if len(readers) != 1 or not isinstance(readers[0], fixed.FixedLIF | fixed.FixedReadout):
                found = ", ".join(reader.name for reader in readers)
                if any(isinstance(reader, fixed.Received) for reader in readers):
                    what = "neurons that add up what a host receives have no core yet"
                    raise CapabilityError(what, where=node.name, found=found)
                raise CapabilityError("a connection leads to one population", where=node.name, found=found)


def _boxes(rules: Rules, node: Node, least: int) -> list[Box]:
    """The cut into the fewest boxes, at least ``least``, that each fit a core."""
    shape = grid(rules.graph, node)
    middle = tuple(n // 2 for n in shape), tuple(n // 2 + 1 for n in shape)
    if name := rules.broken(demand := rules.demand(node, middle)):  # no box with this neuron in it can do with less
        raise rules.refusal(node, demand, name, getattr(demand, LIMITS[name]))
    best: tuple[int, list[Box]] | None = None
    size = 0
    for counts in _cuts(shape, least, rules.limit("neurons_per_core")):
        if best is not None and math.prod(counts) > size:
            break
        if rules.broken(rules.demand(node, _widest(shape, counts))):
            continue
        boxes = [*_pieces(shape, counts)]
        demands = [rules.demand(node, box) for box in boxes]
        if any(rules.broken(demand) for demand in demands):
            continue
        received = sum(demand.received for demand in demands)
        if best is None or received < best[0]:
            best, size = (received, boxes), len(boxes)
    if best is None:
        raise _too_big(rules, node, shape, least)
    return best[1]


def _too_big(rules: Rules, node: Node, shape: Shape, least: int) -> CapabilityError:
    """Why not even single neurons fit, though the one in the middle does."""
    for box in _pieces(shape, shape):
        demand = rules.demand(node, box)
        if name := rules.broken(demand):
            return rules.refusal(node, demand, name, getattr(demand, LIMITS[name]))
    found = math.prod(shape)
    return CapabilityError("cannot be cut finer", where=node.name, found=f"{found} neurons", limit=f"{least} cores")


def _cuts(shape: Shape, least: int, most_neurons: int | None) -> Iterator[tuple[int, ...]]:
    """Numbers of pieces along each axis, fewest pieces in all first; only those that give pieces of another size."""
    options = [sorted({-(-n // size) for size in range(1, n + 1)}) for n in shape]
    found = []
    for counts in product(*options):
        neurons = math.prod(-(-n // k) for n, k in zip(shape, counts, strict=True))
        if math.prod(counts) >= least and (most_neurons is None or neurons <= most_neurons):
            found.append(counts)
    return iter(sorted(found, key=lambda counts: (math.prod(counts), counts)))


def _edges(shape: Shape, counts: tuple[int, ...]) -> list[list[int]]:
    """Where even pieces begin and end, along each axis."""
    return [[i * n // k for i in range(k + 1)] for n, k in zip(shape, counts, strict=True)]


def _pieces(shape: Shape, counts: tuple[int, ...]) -> Iterator[Box]:
    """Even boxes, the last axis fastest."""
    for ends in product(*(pairwise(axis) for axis in _edges(shape, counts))):
        yield tuple(a for a, _ in ends), tuple(b for _, b in ends)


def _widest(shape: Shape, counts: tuple[int, ...]) -> Box:
    """The largest of them."""
    ends = [max(pairwise(axis), key=lambda end: end[1] - end[0]) for axis in _edges(shape, counts)]
    return tuple(a for a, _ in ends), tuple(b for _, b in ends)


def _with_slices(graph: Graph, rules: Rules, units: list[Node]) -> Graph:
    """The graph with a slice for every box and the axons that it needs; cores in order, tile by tile."""
    added: list[Node] = []
    number = 0
    for node in units:
        for box in rules.cut_into[node.name]:
            shape = tuple(b - a for a, b in zip(*box, strict=True))
            name = f"{node.name}@core{number}"
            place = fixed.Slice(
                name=name, inputs=(node.name,), shape=shape, origin=node.origin, first=box[0], last=box[1], core=number
            )
            added.append(place_on(place, rules.profile, number))
            added += _axons(graph, node, name, box)
            number += 1
    return replace(graph, nodes=(*graph.nodes, *added), stage="mapped")


def _axons(graph: Graph, node: Node, place: str, box: Box) -> Iterator[fixed.Axons]:
    for wire in graph.sources(node):
        if isinstance(wire, fixed.Synapse):
            (first, last), only = needed(wire, graph[wire.inputs[0]].shape, grid(graph, node), box)
            shape = tuple(b - a for a, b in zip(first, last, strict=True)) if only is None else (len(only),)
            yield fixed.Axons(
                name=f"{wire.name}>{place}", inputs=(wire.name, place), shape=shape, first=first, last=last, only=only
            )


def _finer(rules: Rules, mapped: Graph, sent: Array, least: dict[str, int]) -> bool:
    """Whether a core has too many output axons; its population is then to be cut into more boxes."""
    limit, again = rules.limit("axons_out_per_core"), False
    if limit is None:
        return False
    for part in mapped.of(fixed.Slice):
        found, name = int(sent[part.core]), part.inputs[0]
        if found <= limit:
            continue
        if math.prod(part.shape) == 1:
            demand = rules.demand(mapped[name], (part.first, part.last))
            raise rules.refusal(mapped[name], demand, "axons_out_per_core", found)
        boxes = len(rules.cut_into[name])
        least[name] = max(least[name], boxes + 1, -(-boxes * found // limit))
        least[name] = min(least[name], math.prod(grid(mapped, mapped[name])))
        again = True
    return again


def _cores(rules: Rules, mapped: Graph, sent: Array) -> Iterator[Core]:
    for part in mapped.of(fixed.Slice):
        demand = rules.demand(mapped[part.inputs[0]], (part.first, part.last))
        yield Core(
            core=part.core,
            population=part.inputs[0],
            neurons=demand.neurons,
            synapses=demand.synapses,
            synapse_bits=demand.synapse_bits,
            memory_bits=demand.memory_bits,
            formats=demand.formats,
            axons_in=demand.axons_in,
            axons_out=int(sent[part.core]),
        )
