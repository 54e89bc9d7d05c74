"""A mapped graph and the messages of a run to what each core did, and what went over each link between tiles.

The rows add up to the totals of `avsnn.deploy.reports.counts.Counts`: every synaptic operation ends in one neuron, and
every neuron is on one core. A spike is one message to each core with an axon for its neuron, along x and then along y;
chips stand in a row, and the step from one to the next is a crossing, no hop.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from avsnn.convert.core_traffic import arriving, messages
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.cores import cut, grid_of, source_of, wires
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.kernels import conv2d
from avsnn.convert.ir.node import Array, Node, Shape
from avsnn.deploy.reports.counts import between_single_neurons
from avsnn.deploy.reports.dynamic import results
from avsnn.errors import InputError
from avsnn.hw_profiles.schema import Mesh, Profile

COUNTED = ("sop_stored", "sop_nonzero", "updates", "spikes", "messages_in", "messages_out")
"""What is counted of each core, over all samples and steps."""


@dataclass(frozen=True, kw_only=True)
class CoreCount:
    """One core over all samples and steps; ``x`` and ``y`` are those of its tile.

    ``messages_in`` arrive from cores and from outside, ``messages_out`` are spikes times the cores that they go to.
    ``population`` may also be a product that the core makes, or sums for a host; these have no updates, as in
    `avsnn.deploy.reports.rows.Counts`.
    """

    core: int
    population: str
    chip: int
    x: int
    y: int
    sop_stored: int
    sop_nonzero: int
    updates: int
    spikes: int
    messages_in: int
    messages_out: int

    @property
    def name(self) -> str:
        """``core 12 (conv2)``."""
        return f"core {self.core} ({self.population})"


@dataclass(frozen=True, kw_only=True)
class Routes:
    """Messages between placed cores: within a tile, hops along x and y inside chips, steps from chip to chip.

    ``busiest`` names the link that carries most, ``load`` is how many messages that is, over all samples and steps.
    """

    local: int
    hops_x: int
    hops_y: int
    crossings: int
    busiest: str
    load: int


@dataclass(frozen=True, kw_only=True)
class CoreCounts:
    """All cores of one chip type in one run.

    ``messages``: from core to core, also to itself; ``outside``: messages into cores from inputs, hosts and products
    on no core. ``mesh`` and ``routes`` are None where it is not known where cores are.
    """

    profile: str
    cores: tuple[CoreCount, ...]
    samples: int
    steps: int
    chips: int
    messages: int
    outside: int
    mesh: Mesh | None
    routes: Routes | None

    def to_json(self) -> dict[str, Any]:
        """Plain values; of each count the mean and the most of a core, with the name of that core."""
        spread = {}
        for name in COUNTED:
            values = [getattr(core, name) for core in self.cores]
            most = max(range(len(values)), key=values.__getitem__)
            spread[name] = {"mean": sum(values) / len(values), "most": values[most], "core": self.cores[most].name}
        return asdict(self) | {"cores": [asdict(core) for core in self.cores], "spread": spread}


def messages_sent(graph: Graph, activity: Mapping[str, Array]) -> dict[str, Array]:
    """Messages of each neuron over all steps and samples, int64 of the source's shape, by name.

    Args:
        graph: what ran.
        activity: inputs and populations as `avsnn.deploy.reports.counts.count` takes them.
    """
    emitted = {**activity, **results(graph, activity)}
    sent = {}
    for node in graph:
        if node.name in emitted:
            seen = np.asarray(emitted[node.name]) != 0
            held = seen.ndim == 1 + len(node.shape)  # a direct input, the same in every step
            sent[node.name] = np.count_nonzero(seen, axis=0 if held else (0, 1)) * (graph.timesteps if held else 1)
    return sent


def core_counts(
    mapped: Graph, sent: Mapping[str, Array], profile: Profile, *, samples: int, steps: int | None = None
) -> CoreCounts:
    """Count what each core did.

    Args:
        mapped: stage ``mapped``, placed if the profile has a mesh.
        sent: of `messages_sent`.
        profile: the chip that it was mapped for.
        samples: of the run.
        steps: of each sample, T if None.

    Raises:
        InputError: another stage, or messages of a source are missing.
    """
    steps = mapped.timesteps if steps is None else steps
    if mapped.stage != "mapped":
        raise InputError("no core is known", where="core_counts", found=mapped.stage, limit="mapped")
    for wire in mapped.of(fixed.Synapse):
        if wire.inputs[0] not in sent:
            raise InputError("messages were not recorded", where=wire.inputs[0], remedy="run with record='all'")
    parts, flow = mapped.of(fixed.Slice), messages(mapped, sent)
    taken = np.zeros(len(parts), dtype=np.int64)
    for axons in mapped.of(fixed.Axons):
        to = mapped[axons.inputs[1]]
        assert isinstance(to, fixed.Slice)
        taken[to.core] += int(sent[source_of(mapped, axons)].reshape(-1)[arriving(mapped, axons)].sum())
    rows = tuple(
        replace(row, messages_in=int(taken[row.core]), messages_out=int(flow[row.core].sum()))
        for row in _rows(mapped, sent, samples * steps)
    )
    return CoreCounts(
        profile=profile.id,
        cores=rows,
        samples=samples,
        steps=steps,
        chips=1 + max(part.chip for part in parts),
        messages=int(flow.sum()),
        outside=int(taken.sum() - flow.sum()),
        mesh=profile.mesh,
        routes=None if profile.mesh is None else _routes(parts, flow, profile.mesh.tiles_x, profile.mesh.tiles_y),
    )


def _rows(mapped: Graph, sent: Mapping[str, Array], times: int) -> Iterator[CoreCount]:
    received: dict[str, tuple[Array, Array]] = {}
    for part in mapped.of(fixed.Slice):
        node, shape, box = mapped[part.inputs[0]], grid_of(mapped, part), (part.first, part.last)
        if part.unit not in received:
            received[part.unit] = _received(mapped, wires(mapped, node, part.group), shape, sent)
        stored, nonzero = (each.reshape(shape)[cut(shape, box)] for each in received[part.unit])
        own = isinstance(node, fixed.FixedLIF)
        spikes = sent[node.name].reshape(shape)[cut(shape, box)] if own else np.zeros(1, np.int64)
        yield CoreCount(
            core=part.core, population=part.unit, chip=part.chip, x=part.x, y=part.y, sop_stored=int(stored.sum()),
            sop_nonzero=int(nonzero.sum()), updates=math.prod(part.shape) * times if own else 0,
            spikes=int(spikes.sum()), messages_in=0, messages_out=0,
        )  # fmt: skip


def _received(graph: Graph, sources: tuple[Node, ...], shape: Shape, sent: Mapping[str, Array]) -> tuple[Array, Array]:
    """Synaptic operations that end in each neuron: over stored connections, and over those that are not 0."""
    stored = nonzero = np.zeros(math.prod(shape), dtype=np.int64)
    for wire in sources:
        if isinstance(wire, fixed.Synapse):
            all_of_them, not_zero = operations(wire, sent[wire.inputs[0]])
            nonzero = nonzero + not_zero.ravel()
            stored = stored + (not_zero if between_single_neurons(wire, graph) else all_of_them).ravel()
    return stored, nonzero


def operations(wire: fixed.Synapse, sent: Array) -> tuple[Array, Array]:
    """(stored, non-zero) synaptic operations at each output of a connection, int64, for messages of each source.

    Sums are of whole numbers below 2^53, so float64 holds them exactly.
    """
    x = sent.astype(np.float64)[None]
    weight = wire.weight_mant
    if isinstance(wire, fixed.FixedConv2d):
        each, inputs = len(weight) // wire.groups, np.ones((wire.groups, *weight.shape[1:]))
        taps = wire.stride, wire.padding, wire.dilation, wire.groups
        found = np.repeat(conv2d(x, inputs, *taps)[0], each, axis=0), conv2d(x, (weight != 0).astype(float), *taps)[0]
    else:
        found = np.full(len(weight), x.sum()), (weight != 0) @ x.ravel()
    assert float(sent.sum()) * weight[0].size < 2**53
    return found[0].astype(np.int64), found[1].astype(np.int64)


def _routes(parts: tuple[fixed.Slice, ...], flow: Array, tiles_x: int, tiles_y: int) -> Routes:
    chip, x, y = (np.array([getattr(part, axis) for part in parts]) for axis in ("chip", "x", "y"))
    column = chip * tiles_x + x
    across, along, steps = (np.abs(each[:, None] - each) for each in (column, y, chip))
    load, busiest = _busiest(column, y, flow, tiles_x, tiles_y)
    return Routes(
        local=int(flow[across + along == 0].sum()),
        hops_x=int((flow * (across - steps)).sum()),
        hops_y=int((flow * along).sum()),
        crossings=int((flow * steps).sum()),
        busiest=busiest,
        load=load,
    )


def _busiest(column: Array, y: Array, flow: Array, tiles_x: int, tiles_y: int) -> tuple[int, str]:
    """Load and name of the link that carries most, messages going along x in their own row, then along y."""
    columns = int(column.max()) + 1
    i, j = np.nonzero(flow)
    size = flow[i, j]
    found: list[tuple[int, str]] = [(0, "none")]
    for name, here, there, row, span in (
        ("east", column[i], column[j], y[i], columns),
        ("south", y[i], y[j], column[j], tiles_y),
    ):
        opposite = {"east": "west", "south": "north"}[name]
        for way, keep in ((name, there > here), (opposite, there < here)):
            ends = np.minimum(here, there)[keep], np.maximum(here, there)[keep]
            change = np.zeros((max(columns, tiles_y), span + 1), dtype=np.int64)
            np.add.at(change, (row[keep], ends[0]), size[keep])
            np.add.at(change, (row[keep], ends[1]), -size[keep])
            load = change.cumsum(axis=1)
            at, first = np.unravel_index(int(load.argmax()), load.shape)
            link = (first + (way == "west"), at) if name == "east" else (at, first + (way == "north"))
            found.append((int(load.max()), f"{way} from {_tile(int(link[0]), int(link[1]), tiles_x)}"))
    return max(found, key=lambda each: each[0])


def _tile(column: int, y: int, tiles_x: int) -> str:
    chip, x = divmod(column, tiles_x)
    return f"tile ({x}, {y}) of chip {chip}"
