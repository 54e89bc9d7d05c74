"""Some neurons of a population to what they ask of a core: bits of memory, axons, connections; what breaks a limit.

What is cut is a `Unit`: a population, sums that a host reads (of a read-out, or of each step), or a product that
synapses read. A product that a population reads as its current is made where the population is, as it costs the one
step that a synapse does (`avsnn.convert.product_demand`).

How many bits a weight, a list of weights, a neuron take says the profile (`avsnn.hw_profiles.schema.Storage`). What it
does not say is left out of the sum and named by `not_checked`; nothing unknown counts as 0 in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.cores import Box, grid, needed, reads, seen, targets, wires
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array, Node, Shape
from avsnn.convert.product_demand import held_bits, reached
from avsnn.errors import CapabilityError
from avsnn.hw_profiles.profile import Constant, Profile

LIMITS: Mapping[str, str] = {
    "neurons_per_core": "neurons",
    "fan_in_max": "fan_in",
    "synapse_memory_bits_per_core": "synapse_bits",
    "memory_bits_per_core": "memory_bits",
    "axons_in_per_core": "axons_in",
    "synapse_formats_per_core": "formats",
}
"""Limit of a profile: the field of `Demand` that it bounds. Output axons depend on the cores behind: `axons_out`."""

WHAT: Mapping[str, str] = {
    "neurons_per_core": "neurons do not fit a core",
    "fan_in_max": "a neuron has too many inputs",
    "synapse_memory_bits_per_core": "the weights of one neuron do not fit a core's synaptic memory (bits)",
    "memory_bits_per_core": "one neuron with its weights does not fit a core's memory (bits)",
    "synapse_formats_per_core": "one neuron has connections of more formats (exponents, sign modes) than a core has",
    "axons_in_per_core": "one neuron needs more input axons than a core has",
    "axons_out_per_core": "one neuron needs more output axons than a core has",
}


HOSTED = fixed.Received | fixed.FixedUnitCurrent
"""What a host computes, whatever the chip can do."""


@dataclass(frozen=True)
class Unit:
    """What is cut: the neurons of a node, or one of the sums that a host reads."""

    node: Node
    group: int = 0

    @property
    def name(self) -> str:
        """As `fixed_nodes.Slice.unit`."""
        return fixed.unit_name(self.node.name, self.group)


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What some neurons ask of the core that holds them; bits are lower bounds where a size is not published.

    Attributes:
        neurons: how many, sums of a read-out and results of products included.
        fan_in: connections into one of them.
        synapses: weights stored; a shared kernel counts once.
        synapse_bits: memory that these take.
        memory_bits: with neurons and axons.
        axons_in: input axons.
        formats: pairs of weight exponent and sign mode among the connections.
        received: source neurons whose messages arrive, the measure of what a finer cut costs.
    """

    neurons: int
    fan_in: int
    synapses: int
    synapse_bits: int
    memory_bits: int
    axons_in: int
    formats: int
    received: int


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Limits and sizes of a profile.

    ``cut_into``: unit to the boxes that it was cut into, filled on the way; ``lists``: linear layer to how many
    of its lists differ, likewise.
    """

    profile: Profile
    graph: Graph
    cut_into: dict[str, list[Box]] = field(default_factory=dict)
    lists: dict[str, int] = field(default_factory=dict)

    def limit(self, name: str) -> int | None:
        """A limit, None where there is none or none is known."""
        value: int | None = getattr(self.profile.limits, name)
        return value

    def size(self, name: str) -> int:
        """A size of the profile's storage, 0 where it is not known (`not_checked` names it)."""
        storage = self.profile.storage
        constant: Constant | None = None if storage is None else getattr(storage, name)
        return 0 if constant is None or constant.value is None else int(constant.value)

    def round_up(self, bits: int) -> int:
        """To whole words."""
        word = max(1, self.size("word_bits"))
        return -(-bits // word) * word

    def made(self, node: Node) -> bool:
        """Whether cores make a product: the profile says that the chip can, and no host does."""
        if not isinstance(node, fixed.Product) or isinstance(node, HOSTED):
            return False
        return self.profile.capabilities.get(node.ability) in ("native", "microcode")

    def units(self) -> list[Unit]:
        """All that cores hold, in the order of the graph."""
        found: list[Unit] = []
        for node in self.graph:
            if isinstance(node, fixed.Received):
                found += [Unit(node, group) for group in range(len(node.sums))]
            elif isinstance(node, fixed.FixedLIF | fixed.FixedReadout) or (self.made(node) and self.sends(node)):
                found.append(Unit(node))
        return found

    def sends(self, node: Node) -> bool:
        """Whether synapses read a product."""
        return any(isinstance(reader, fixed.Synapse) for reader in self.graph.readers[node.name])

    def held(self, node: fixed.Product, results: Array) -> tuple[dict[str, Array], int]:
        """(source to the neurons of it that results of a product are made of, bits in words that their core holds)."""
        arriving = reached(node, self.graph, results)
        return arriving, self.round_up(held_bits(node, self.graph, results, arriving))

    def demand(self, node: Node, box: Box, group: int = 0) -> Demand:
        """What the neurons of ``node`` in ``box`` of its grid ask for."""
        shape = grid(self.graph, node, group)
        neurons = own = int(np.prod([b - a for a, b in zip(*box, strict=True)]))
        fan_in = synapses = bits = held = axons = received = 0
        formats: set[tuple[int, str]] = set()
        for wire in wires(self.graph, node, group):
            if isinstance(wire, fixed.Synapse):
                inputs, stored, taken = self._stored(wire, shape, box)
                ends, messages = self._axons(wire, shape, box)
                fan_in, synapses, bits = fan_in + inputs, synapses + stored, bits + taken
                axons, received = axons + ends, received + messages
                formats |= {(int(exp), wire.sign_mode) for exp in np.unique(wire.row_exp[_rows(wire, shape, box)])}
            elif isinstance(wire, fixed.Product) and self.made(wire):
                arriving, bits_held = self.held(wire, targets(shape, box))
                messages = sum(len(each) for each in arriving.values())
                axons, received, held = axons + messages, received + messages, held + bits_held
                neurons += 0 if wire is node else own
        memory = bits + held + neurons * self.size("neuron_bits") + axons * self.size("axon_bits")
        return Demand(
            neurons=neurons, fan_in=fan_in, synapses=synapses, synapse_bits=bits, memory_bits=memory, axons_in=axons,
            formats=len(formats), received=received,
        )  # fmt: skip

    def broken(self, demand: Demand) -> str | None:
        """The first limit that ``demand`` breaks."""
        for name, field_name in LIMITS.items():
            limit = self.limit(name)
            if limit is not None and getattr(demand, field_name) > limit:
                return name
        return None

    def refusal(self, node: Node, demand: Demand, name: str, found: int) -> CapabilityError:
        """The error of a neuron that fits no core: layer, what it asks for, limit, and what would make it fit."""
        limit = self.limit(name)
        assert limit is not None
        most = max(1, demand.fan_in * limit // max(1, found))
        remedy = f"give each neuron at most about {most} of its {demand.fan_in} inputs: fewer channels before the layer"
        remedy += f", or {-(-demand.fan_in // most)} groups in it"
        if name == "synapse_formats_per_core":
            remedy = "fewer connections into the layer, or weights of one exponent for each"
        if name == "axons_out_per_core":
            remedy = "smaller layers behind it, which fewer cores can hold"
        what, product = WHAT[name], next((w for w in wires(self.graph, node) if self.made(w)), None)
        if product is not None and name in ("memory_bits_per_core", "axons_in_per_core"):
            what = f"one result of the product {product.name}, with all that it is made of, fits no core"
            remedy = "more heads, so that each has fewer channels, fewer tokens, or a shorter window"
        where = f"{node.name} ({node.origin})" if node.origin else node.name
        return CapabilityError(what, where=where, found=found, limit=f"{limit} ({name})", remedy=remedy)

    def _stored(self, node: fixed.Synapse, shape: Shape, box: Box) -> tuple[int, int, int]:
        """(connections into one neuron, weights, bits) of a connection's part on a core."""
        each = width(node)
        if isinstance(node, fixed.FixedConv2d):
            taps = int(np.prod(node.weight_mant.shape[2:]))
            stored, bits, index = 0, 0, self.size("kernel_index_bits")
            for (a, b), (c, d), groups in reads(node, box).pieces:
                lists, length = (d - c) * taps, (b - a) // groups
                stored += lists * length
                bits += lists * self.round_up(length * (each + index) + self.size("kernel_list_bits"))
            return node.weight_mant.shape[1] * taps, stored, bits
        assert isinstance(node, fixed.FixedLinear)
        rows = targets(shape, box)
        each += self.size("index_bits")
        if node.entries is None:
            lists = self._different(node)
            bits = lists * self.round_up(len(rows) * each + self.size("list_bits"))
            return node.weight_mant.shape[1], lists * len(rows), bits
        across, along = node.entries
        here = np.isin(across, rows)
        lengths = np.bincount(along[here])
        bits = sum(self.round_up(int(long) * each + self.size("list_bits")) for long in lengths[lengths > 0])
        most = int(np.bincount(across[here]).max(initial=0))
        return most, int(lengths.sum()), bits

    def _different(self, node: fixed.FixedLinear) -> int:
        """Columns of a layer that differ; a mean over tokens, folded into it, repeats them for every token."""
        if node.name not in self.lists:
            columns = np.ascontiguousarray(node.weight_mant.T)
            self.lists[node.name] = len({column.tobytes() for column in columns})
        return self.lists[node.name]

    def _axons(self, node: fixed.Synapse, shape: Shape, box: Box) -> tuple[int, int]:
        """(input axons, source neurons) of a connection's part on a core."""
        source = self.graph[node.inputs[0]]
        (first, last), only = needed(node, source.shape, shape, box)
        sizes = [b - a for a, b in zip(first, last, strict=True)]
        messages = int(np.prod(sizes)) if only is None else len(only)
        storage = self.profile.storage
        if not isinstance(node, fixed.FixedConv2d) or storage is None or storage.kernel_axons == "neuron":
            return messages, messages
        if storage.kernel_axons == "position":
            return sizes[1] * sizes[2], messages
        boxes = [] if isinstance(source, HOSTED) else self.cut_into.get(source.name, [])  # from outside, one axon
        same = boxes and grid(self.graph, source) == seen(node, source.shape)
        return sum(not same or meet(each, (first, last)) for each in boxes) or 1, messages


def _rows(node: fixed.Synapse, shape: Shape, box: Box) -> Array | slice:
    """The rows of the weights that lead to a box."""
    return slice(box[0][0], box[1][0]) if isinstance(node, fixed.FixedConv2d) else targets(shape, box)


def meet(one: Box, other: Box) -> bool:
    """Whether two boxes of one grid share an index."""
    return all(max(a, c) < min(b, d) for a, b, c, d in zip(*one, *other, strict=True))


def width(node: fixed.Synapse) -> int:
    """Bits in which the layer's weights can be stored: of mixed signs as halves where all are even, else magnitudes."""
    low, high = int(node.weight_mant.min(initial=0)), int(node.weight_mant.max(initial=0))
    if node.sign_mode != "mixed":
        return max(1, max(-low, high).bit_length())
    if not (node.weight_mant % 2).any():
        low, high = low // 2, high // 2
    return max((-low - 1).bit_length() if low < 0 else 0, high.bit_length()) + 1


def not_checked(graph: Graph, profile: Profile) -> tuple[str, ...]:
    """What nobody can check, because the chip's maker has not published it."""
    found = [name for name in (*LIMITS, "axons_out_per_core") if name in profile.limits.unknown]
    if profile.storage is None:
        found.append("memory (the profile states no sizes)")
    else:
        sizes = [name for name, c in vars(profile.storage).items() if isinstance(c, Constant) and c.value is None]
        found += [f"memory that {name.removesuffix('_bits')}s take" for name in sizes]
    if any(node.delay for node in graph.of(fixed.Synapse)):
        found.append("memory that delays take")
    if any(Rules(profile=profile, graph=graph).made(node) for node in graph):
        found.append("memory that programs of products take")
    return tuple(found)
