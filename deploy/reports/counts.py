"""Turns a run's spikes into operation counts: what the network asks of any hardware, exact integers, no prices.

One synaptic operation (SOP) is one non-zero message arriving over one connection. ``stored`` counts every existing
connection, ``nonzero`` only those whose quantised weight is not 0; a chip pays for one or the other. Nothing here is
derived from mean rates, and nothing is a float.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from avsnn.convert.ir.fixed_nodes import FixedInput, FixedLIF, FixedReadout, HeldCurrent, Synapse
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array, Node
from avsnn.deploy.reports.fanout import fanout, reached
from avsnn.errors import InputError

TOTALS = (
    "events",
    "sop_stored",
    "sop_nonzero",
    "sop_graded",
    "neurons",
    "neuron_updates",
    "driven",
    "spikes",
    "host_macs",
)


@dataclass(frozen=True, kw_only=True)
class SynapseCount:
    """One connection over all samples and steps.

    ``targets`` read it; ``role`` is that of the population it feeds: "neuron", "or", "relay" or "readout".
    ``sop_by_sample`` adds up to ``sop_stored``. ``graded`` counts are the subset whose message is neither 1 nor -1.
    ``weights`` are stored parameters.
    """

    name: str
    source: str
    targets: tuple[str, ...]
    role: str
    weights: int
    connections: int
    connections_nonzero: int
    events: int
    events_graded: int
    sop_stored: int
    sop_nonzero: int
    sop_graded: int
    sop_by_sample: tuple[int, ...]

    def __post_init__(self) -> None:
        if sum(self.sop_by_sample) != self.sop_stored or not self.sop_graded <= self.sop_stored >= self.sop_nonzero:
            raise InputError("counts contradict each other", where=self.name, found=asdict(self))


@dataclass(frozen=True, kw_only=True)
class PopulationCount:
    """One population over all samples and steps.

    ``updates`` = neurons x steps x samples; ``driven`` of them received at least one message over a weight that is
    not 0 (None: not asked for).
    """

    name: str
    role: str
    neurons: int
    updates: int
    driven: int | None
    spikes: int


@dataclass(frozen=True, kw_only=True)
class HostCount:
    """A directly coded first layer: products with real (not padded) inputs, computed once per sample by the host."""

    name: str
    macs_per_sample: int
    macs: int


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Everything counted in one run of ``samples`` samples, ``steps`` logical steps each."""

    synapses: tuple[SynapseCount, ...]
    populations: tuple[PopulationCount, ...]
    hosts: tuple[HostCount, ...]
    samples: int
    steps: int

    def only(self, role: str) -> Counts:
        """The same run, rows of one role only; ``only("relay")`` is what delays cost."""
        return replace(
            self,
            synapses=tuple(row for row in self.synapses if row.role == role),
            populations=tuple(row for row in self.populations if row.role == role),
            hosts=(),
        )

    @property
    def events(self) -> int:
        """Messages entering connections; one that enters two counts twice."""
        return sum(row.events for row in self.synapses)

    @property
    def sop_stored(self) -> int:
        """Synaptic operations over existing connections."""
        return sum(row.sop_stored for row in self.synapses)

    @property
    def sop_nonzero(self) -> int:
        """Synaptic operations over weights that are not 0."""
        return sum(row.sop_nonzero for row in self.synapses)

    @property
    def sop_graded(self) -> int:
        """Stored synaptic operations whose message is neither 1 nor -1."""
        return sum(row.sop_graded for row in self.synapses)

    @property
    def neurons(self) -> int:
        """Neurons, relays and pools included."""
        return sum(row.neurons for row in self.populations)

    @property
    def neuron_updates(self) -> int:
        """Neurons x steps x samples."""
        return sum(row.updates for row in self.populations)

    @property
    def driven(self) -> int | None:
        """Updates of neurons that received something, None if any population was not asked."""
        known = [row.driven for row in self.populations if row.driven is not None]
        return sum(known) if len(known) == len(self.populations) else None

    @property
    def spikes(self) -> int:
        """Spikes emitted by populations."""
        return sum(row.spikes for row in self.populations)

    @property
    def host_macs(self) -> int:
        """Multiply-accumulates of the host."""
        return sum(row.macs for row in self.hosts)

    @property
    def sop_by_sample(self) -> tuple[int, ...]:
        """Stored synaptic operations of each sample."""
        rows = [row.sop_by_sample for row in self.synapses]
        return tuple(sum(column) for column in zip(*rows, strict=True)) if rows else (0,) * self.samples

    def to_json(self) -> dict[str, Any]:
        """Plain values: rows, totals, and the spread of SOP over samples (the median is the lower one: an integer)."""
        by_sample = self.sop_by_sample
        return {
            "samples": self.samples,
            "steps": self.steps,
            "total": {name: getattr(self, name) for name in TOTALS},
            "relays": {name: getattr(self.only("relay"), name) for name in TOTALS if name != "host_macs"},
            "sop_per_sample": {
                "min": min(by_sample, default=0),
                "median": statistics.median_low(by_sample) if by_sample else 0,
                "max": max(by_sample, default=0),
            },
            "synapses": [{k: v for k, v in asdict(row).items() if k != "sop_by_sample"} for row in self.synapses],
            "populations": [asdict(row) for row in self.populations],
            "hosts": [asdict(row) for row in self.hosts],
        }

    @property
    def sha256(self) -> str:
        """Hash of the counts: two prices with the same hash priced the same work."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()


def count(graph: Graph, activity: Mapping[str, Array], *, driven: bool = False) -> Counts:
    """Count the operations of a run of an integer graph (stage quantised or scheduled).

    activity: what each population and each event input emitted, in logical time, by node name: (T, B, *shape), integer
    or bool. ``driven=True`` also counts neurons that received something (about one more pass over the network).

    Raises:
        InputError: a population's activity is missing, is not of integers, or has another shape.
    """
    if graph.stage not in ("quantised", "scheduled"):
        raise InputError(
            "only integer graphs have counts", where="count", found=graph.stage, limit="quantised, scheduled"
        )
    emitters = {graph[node.inputs[0]].name for node in graph.of(Synapse)} | {node.name for node in graph.of(FixedLIF)}
    steps, samples = _check(graph, emitters, activity)
    return Counts(
        synapses=tuple(_synapse(node, graph, activity[node.inputs[0]]) for node in graph.of(Synapse)),
        populations=tuple(_population(node, graph, activity, driven) for node in graph.of(FixedLIF)),
        hosts=tuple(_host(node, graph, samples) for node in graph.of(HeldCurrent)),
        samples=samples,
        steps=steps,
    )


def _check(graph: Graph, emitters: set[str], activity: Mapping[str, Array]) -> tuple[int, int]:
    """Return (T, B) after checking every needed array."""
    sizes: set[tuple[int, int]] = set()
    for name in sorted(emitters):
        node = graph[name]
        if not isinstance(node, FixedLIF | FixedInput):
            raise InputError("a connection must read a population or an input", where=name, found=node.kind)
        if name not in activity:
            raise InputError("no recorded activity", where=name, remedy="run with record='all'")
        array = activity[name]
        if array.dtype.kind not in "biu":
            raise InputError("activity must be integers", where=name, found=array.dtype)
        if array.ndim != 2 + len(node.shape) or array.shape[2:] != node.shape:
            raise InputError("activity has another shape", where=name, found=array.shape, limit=("T", "B", *node.shape))
        sizes.add((array.shape[0], array.shape[1]))
    if len(sizes) != 1:
        raise InputError("activities differ in time and batch", where="count", found=sorted(sizes), limit="one (T, B)")
    return sizes.pop()


def _synapse(node: Synapse, graph: Graph, messages: Array) -> SynapseCount:
    stored, nonzero = fanout(node, graph[node.inputs[0]].shape)
    events = _count(messages != 0)
    graded = _count(_is_graded(messages))
    by_sample = tuple(_weighted(row, stored) for row in events)
    return SynapseCount(
        name=node.name,
        source=node.inputs[0],
        targets=tuple(reader.name for reader in graph.readers[node.name]),
        role=_role(node, graph),
        weights=node.weight_mant.size,
        connections=int(stored.sum()),
        connections_nonzero=int(nonzero.sum()),
        events=int(events.sum()),
        events_graded=int(graded.sum()),
        sop_stored=sum(by_sample),
        sop_nonzero=_weighted(events.sum(axis=0), nonzero),
        sop_graded=_weighted(graded.sum(axis=0), stored),
        sop_by_sample=by_sample,
    )


def _population(node: FixedLIF, graph: Graph, activity: Mapping[str, Array], driven: bool) -> PopulationCount:
    spikes = activity[node.name]
    return PopulationCount(
        name=node.name,
        role=node.role,
        neurons=int(np.prod(node.shape)),
        updates=spikes.size,
        driven=_driven(node, graph, activity) if driven else None,
        spikes=int(np.count_nonzero(spikes)),
    )


def _host(node: HeldCurrent, graph: Graph, samples: int) -> HostCount:
    stored, _ = fanout(node, graph[node.inputs[0]].shape)
    macs = int(stored.sum())
    return HostCount(name=node.name, macs_per_sample=macs, macs=macs * samples)


def _driven(node: FixedLIF, graph: Graph, activity: Mapping[str, Array]) -> int:
    incoming = [source for source in graph.sources(node) if isinstance(source, Synapse)]
    total = 0
    for step in range(len(activity[node.name])):
        hit = np.zeros((activity[node.name].shape[1], *node.shape), bool)
        for synapse in incoming:
            hit |= reached(synapse, activity[synapse.inputs[0]][step] != 0)
        total += int(np.count_nonzero(hit))
    return total


def _role(node: Synapse, graph: Graph) -> str:
    """What the connection is for: the common role of its readers, "neuron" where they differ."""
    roles = {_role_of_target(reader) for reader in graph.readers[node.name]}
    return roles.pop() if len(roles) == 1 else "neuron"


def _role_of_target(node: Node) -> str:
    match node:
        case FixedLIF():
            return node.role
        case FixedReadout():
            return "readout"
        case _:
            raise InputError("a connection must feed a population or the read-out", where=node.name, found=node.kind)


def _is_graded(messages: Array) -> npt.NDArray[np.bool_]:
    if messages.dtype.kind == "b":
        return np.zeros_like(messages)
    graded: npt.NDArray[np.bool_] = (messages != 0) & (messages != 1)
    return graded & (messages != -1) if messages.dtype.kind == "i" else graded


def _count(flags: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Sum over time: (T, B, *shape) to (B, *shape), int64."""
    return np.count_nonzero(flags, axis=0).astype(np.int64)


def _weighted(events: npt.NDArray[np.int64], connections: npt.NDArray[np.int64]) -> int:
    return int((events * connections).sum())
