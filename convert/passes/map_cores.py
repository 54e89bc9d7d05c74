"""Populations to slices that each fit a core: a ``scheduled`` graph to a ``mapped`` one.

A population is cut along the axes of its grid, ``(channel, height, width)`` behind convolutions, into
``k_c k_h k_w`` even boxes, one for each core, as published compilers do (one layer per core). Every core stores the
kernels of its output channels once, and the rows of linear layers that lead to its neurons. The cut with the fewest
cores whose boxes keep every limit is taken, and of those the one whose cores receive the fewest messages. Sums that a
host reads (of a read-out, or in every step) are held by one neuron each; what it makes of them comes from no core.

Products of activity that the chip makes as microcode cost the one step of a synapse, so a population's core makes what
its neurons read, and one that synapses read has cores of its own. No such program is published: what they ask for is
assumed (`avsnn.convert.product_demand`). Each result reads some heads, channels or tokens of its sources and nothing
else, so any box of results can be made by itself. Others run where the profile says.

A neuron's arithmetic reads its own state and the currents of its synapses, and a current is a sum over source neurons:
both are the same wherever the neuron is, if each message that has a weight arrives. So no cut can change a spike.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise, product

from avsnn.convert.core_demand import HOSTED, LIMITS, Rules, Unit, not_checked
from avsnn.convert.core_traffic import axons_out, place_on
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.cores import Box, grid, needed, targets, wires
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
class Made:
    """A product that cores make.

    Attributes:
        product: its name.
        beside: the population on whose cores it is made, or its own name.
        cores: how many.
        held_bits: what they hold for it besides neurons, all together.
        evidence: of this demand, one of `avsnn.hw_profiles.schema.EVIDENCE`.
    """

    product: str
    beside: str
    cores: int
    held_bits: int
    evidence: str = "assumed"


@dataclass(frozen=True, kw_only=True)
class Mapping:
    """Cores in order and how many chips hold them.

    ``limits``: those that were checked, by the field of `Core` that they bound; ``not_checked``: what nobody has
    published; ``elsewhere``: nodes that are on no core, and where they run; ``products``: those that cores make.
    """

    cores: tuple[Core, ...]
    chips: int
    limits: dict[str, int]
    not_checked: tuple[str, ...]
    elsewhere: tuple[str, ...]
    products: tuple[Made, ...] = ()


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
    _check_kinds(rules)
    units = rules.units()
    least = dict.fromkeys((unit.name for unit in units), 1)
    for _ in range(ROUNDS):
        rules.cut_into.clear()
        for unit in units:
            rules.cut_into[unit.name] = _boxes(rules, unit, least[unit.name])
        mapped = _with_slices(rules, units)
        storage = profile.storage
        sent = axons_out(mapped, "neuron" if storage is None else storage.kernel_axons)
        if not _finer(rules, mapped, sent, least):
            break
    else:
        raise CapabilityError("no cut keeps the output axons", where=profile.id, found=f"{ROUNDS} tries")
    cores = tuple(_cores(rules, mapped, sent))
    bounds = {field: rules.limit(name) for name, field in {**LIMITS, "axons_out_per_core": "axons_out"}.items()}
    return mapped, Mapping(
        cores=cores,
        chips=-(-len(cores) // profile.limits.cores_per_chip),
        limits={field: bound for field, bound in bounds.items() if bound is not None and field in Core.__annotations__},
        not_checked=not_checked(graph, profile),
        elsewhere=tuple(_elsewhere(rules)),
        products=tuple(_made(rules)),
    )


def _check_kinds(rules: Rules) -> None:
    known = fixed.FixedInput | fixed.HeldCurrent | fixed.Synapse | fixed.Product | fixed.FixedLIF | fixed.FixedReadout
    for node in rules.graph:
        readers = rules.graph.readers[node.name]
        found = ", ".join(reader.name for reader in readers)
        if not isinstance(node, known):
            raise CapabilityError("no core can hold this", where=node.name, found=node.kind)
        if isinstance(node, fixed.Synapse):
            if len(readers) != 1 or not isinstance(readers[0], fixed.FixedLIF | fixed.FixedReadout | fixed.Received):
                raise CapabilityError("a connection leads to one population", where=node.name, found=found)
        elif rules.made(node) and len(readers) > 1 and not all(isinstance(r, fixed.Synapse) for r in readers):
            what = "the cores of one population make a product, or synapses read it"
            raise CapabilityError(what, where=node.name, found=found, remedy="give each reader a product of its own")


def _elsewhere(rules: Rules) -> Iterator[str]:
    """What is on no core, and who does it."""
    for node in rules.graph:
        if isinstance(node, HOSTED | fixed.HeldCurrent):
            yield f"{node.name} (host)"
        elif isinstance(node, fixed.Product) and not rules.made(node):
            yield f"{node.name} ({rules.profile.capabilities.get(node.ability, 'not said')})"


def _made(rules: Rules) -> Iterator[Made]:
    for node in rules.graph.of(fixed.Product):
        if rules.made(node):
            unit = node if rules.sends(node) else rules.graph.readers[node.name][0]
            shape, boxes = grid(rules.graph, unit), rules.cut_into[unit.name]
            held = sum(rules.held(node, targets(shape, box))[1] for box in boxes)
            yield Made(product=node.name, beside=unit.name, cores=len(boxes), held_bits=held)


def _boxes(rules: Rules, unit: Unit, least: int) -> list[Box]:
    """The cut into the fewest boxes, at least ``least``, that each fit a core."""
    node, group = unit.node, unit.group
    shape = grid(rules.graph, node, group)
    middle = tuple(n // 2 for n in shape), tuple(n // 2 + 1 for n in shape)
    if name := rules.broken(demand := rules.demand(node, middle, group)):  # no box with this neuron can do with less
        raise rules.refusal(node, demand, name, getattr(demand, LIMITS[name]))
    best: tuple[int, list[Box]] | None = None
    size = 0
    for counts in _cuts(shape, least, rules.limit("neurons_per_core")):
        if best is not None and math.prod(counts) > size:
            break
        if rules.broken(rules.demand(node, _widest(shape, counts), group)):
            continue
        boxes = [*_pieces(shape, counts)]
        demands = [rules.demand(node, box, group) for box in boxes]
        if any(rules.broken(demand) for demand in demands):
            continue
        received = sum(demand.received for demand in demands)
        if best is None or received < best[0]:
            best, size = (received, boxes), len(boxes)
    if best is None:
        raise _too_big(rules, unit, shape, least)
    return best[1]


def _too_big(rules: Rules, unit: Unit, shape: Shape, least: int) -> CapabilityError:
    """Why not even single neurons fit, though the one in the middle does."""
    node = unit.node
    for box in _pieces(shape, shape):
        demand = rules.demand(node, box, unit.group)
        if name := rules.broken(demand):
            return rules.refusal(node, demand, name, getattr(demand, LIMITS[name]))
    found = math.prod(shape)
    return CapabilityError("cannot be cut finer", where=unit.name, found=f"{found} neurons", limit=f"{least} cores")


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


def _with_slices(rules: Rules, units: list[Unit]) -> Graph:
    """The graph with a slice for every box and the axons that it needs; cores in order, tile by tile."""
    added: list[Node] = []
    number = 0
    for unit in units:
        node = unit.node
        for box in rules.cut_into[unit.name]:
            shape = tuple(b - a for a, b in zip(*box, strict=True))
            place = fixed.Slice(
                name=f"{unit.name}@core{number}", inputs=(node.name,), shape=shape, origin=node.origin, first=box[0],
                last=box[1], core=number, group=unit.group,
            )  # fmt: skip
            added.append(place_on(place, rules.profile, number))
            added += _axons(rules, place)
            number += 1
    return replace(rules.graph, nodes=(*rules.graph.nodes, *added), stage="mapped")


def _axons(rules: Rules, place: fixed.Slice) -> Iterator[fixed.Axons]:
    graph, box = rules.graph, (place.first, place.last)
    node = graph[place.inputs[0]]
    for wire in wires(graph, node, place.group):
        if isinstance(wire, fixed.Synapse):
            ends, only = needed(wire, graph[wire.inputs[0]].shape, grid(graph, node, place.group), box)
            yield _taken(f"{wire.name}>{place.name}", (wire.name, place.name), ends, only)
        elif isinstance(wire, fixed.Product) and rules.made(wire):
            arriving, _ = rules.held(wire, targets(grid(graph, node), box))
            for source, here in arriving.items():
                size = math.prod(graph[source].shape)
                only = here if len(here) < size else None
                name = f"{source}>{wire.name}>{place.name}"
                yield _taken(name, (wire.name, place.name, source), ((0,), (size,)), only)


def _taken(name: str, inputs: tuple[str, ...], ends: Box, only: Array | None) -> fixed.Axons:
    first, last = ends
    shape = tuple(b - a for a, b in zip(first, last, strict=True)) if only is None else (len(only),)
    return fixed.Axons(name=name, inputs=inputs, shape=shape, first=first, last=last, only=only)


def _finer(rules: Rules, mapped: Graph, sent: Array, least: dict[str, int]) -> bool:
    """Whether a core has too many output axons; its population is then to be cut into more boxes."""
    limit, again = rules.limit("axons_out_per_core"), False
    if limit is None:
        return False
    for part in mapped.of(fixed.Slice):
        found, name = int(sent[part.core]), part.unit
        if found <= limit:
            continue
        node = mapped[part.inputs[0]]
        if math.prod(part.shape) == 1:
            raise rules.refusal(node, rules.demand(node, (part.first, part.last)), "axons_out_per_core", found)
        boxes = len(rules.cut_into[name])
        least[name] = max(least[name], boxes + 1, -(-boxes * found // limit))
        least[name] = min(least[name], math.prod(grid(mapped, node)))
        again = True
    return again


def _cores(rules: Rules, mapped: Graph, sent: Array) -> Iterator[Core]:
    for part in mapped.of(fixed.Slice):
        demand = rules.demand(mapped[part.inputs[0]], (part.first, part.last), part.group)
        yield Core(
            core=part.core,
            population=part.unit,
            neurons=demand.neurons,
            synapses=demand.synapses,
            synapse_bits=demand.synapse_bits,
            memory_bits=demand.memory_bits,
            formats=demand.formats,
            axons_in=demand.axons_in,
            axons_out=int(sent[part.core]),
        )
