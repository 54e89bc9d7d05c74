"""Turns a run's spikes into operation counts: what the network asks of any hardware, exact integers, no prices.

One synaptic operation (SOP) is one non-zero message arriving over one connection. ``stored`` counts every existing
connection, ``nonzero`` only those whose quantised weight is not 0; a chip pays for one or the other. Operations of
products (attention) are no SOPs and are counted apart, see `avsnn.deploy.reports.dynamic`. Where coincidences of stock
neurons stand for a product, and where a relay repeats a neuron, connections are those whose weight is not 0: zeros of
such a matrix are stored nowhere. Nothing here is derived from mean rates, and nothing is a float.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from avsnn.convert.ir.fixed_nodes import (
    FixedInput,
    FixedLayerNorm,
    FixedLIF,
    FixedReadout,
    FixedUnitCurrent,
    HeldCurrent,
    Product,
    Received,
    Synapse,
)
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array, Node
from avsnn.deploy.payload import payload_bits
from avsnn.deploy.reports.dynamic import ProductCount, product_count, results
from avsnn.deploy.reports.fanout import fanout, reached
from avsnn.deploy.reports.rows import TOTALS, Counts, HostCount, PopulationCount, SynapseCount
from avsnn.errors import InputError

__all__ = ["TOTALS", "Counts", "HostCount", "PopulationCount", "ProductCount", "SynapseCount", "count"]

HOSTED = (HeldCurrent, FixedUnitCurrent, Received)
Counts64 = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Seen:
    """Recorded values (T, B, *shape), whether results of products are not 0, numbers of messages (B, *shape)."""

    activity: Mapping[str, Array]
    emitted: Mapping[str, Array]
    messages: Mapping[str, Array]


def count(
    graph: Graph,
    activity: Mapping[str, Array],
    *,
    messages: Mapping[str, Array] | None = None,
    driven: bool = False,
) -> Counts:
    """Count the operations of a run of an integer graph (stage quantised or scheduled).

    Args:
        graph: what ran.
        activity: what each population and each input emitted, in logical time, by node name: (T, B, *shape), integer or
            bool; a direct input may be (B, *shape). Products are computed from their sources.
        messages: numbers of non-zero messages (B, *shape) as in ``Execution.counts``, for sources whose activity was
            not recorded. What numbers do not tell (coincidences in a product) is then absent from the counts.
        driven: also count neurons that received something (about one more pass over the network).

    Raises:
        InputError: a population's activity is missing, is not of integers, or has another shape.
    """
    if graph.stage not in ("quantised", "scheduled"):
        raise InputError(
            "only integer graphs have counts", where="count", found=graph.stage, limit="quantised, scheduled"
        )
    held = {name: _in_time(graph, name, array) for name, array in activity.items() if name in graph.by_name}
    emitters = {node.inputs[0] for node in graph.of(Synapse)} | {node.name for node in graph.of(FixedLIF)}
    spikes = {name for node in graph.of(Product) for name in node.inputs}
    for name in sorted((emitters | spikes) & set(held)):
        _check_recorded(graph[name], held[name])
    seen = _Seen(activity=held, emitted=results(graph, held), messages=messages or {})
    steps, samples = _sizes(graph, emitters, seen, driven)
    return Counts(
        synapses=tuple(_synapse(node, graph, seen) for node in graph.of(Synapse)),
        populations=tuple(_population(node, graph, seen, driven, steps * samples) for node in graph.of(FixedLIF)),
        hosts=tuple(host_count(n, graph, samples) for n in graph if isinstance(n, HOSTED)),
        products=tuple(
            _product(node, graph, seen, samples) for node in graph.of(Product) if not isinstance(node, Received)
        ),
        samples=samples,
        steps=steps,
    )


def _in_time(graph: Graph, name: str, array: Array) -> Array:
    """A direct input as the sequence that it is, a shorter sequence with the silence behind it."""
    node = graph[name]
    if isinstance(node, FixedInput) and node.coding != "direct" and len(array) == node.steps:
        return np.concatenate([array, np.zeros((graph.timesteps - len(array), *array.shape[1:]), array.dtype)])
    if isinstance(node, FixedInput) and node.coding == "direct" and array.ndim == 1 + len(node.shape):
        return np.broadcast_to(array, (graph.timesteps, *array.shape))
    return array


def _check_recorded(node: Node, array: Array) -> None:
    if array.dtype.kind not in "biu":
        raise InputError("activity must be integers", where=node.name, found=array.dtype)
    if array.ndim != 2 + len(node.shape) or array.shape[2:] != node.shape:
        raise InputError(
            "activity has another shape", where=node.name, found=array.shape, limit=("T", "B", *node.shape)
        )


def _sizes(graph: Graph, emitters: set[str], seen: _Seen, driven: bool) -> tuple[int, int]:
    """Return (T, B) after checking that every emitter is known."""
    sizes: set[tuple[int, int]] = set()
    for name in sorted(emitters):
        node = graph[name]
        if not isinstance(node, FixedLIF | FixedInput | Product):
            raise InputError("a connection must read a population or an input", where=name, found=node.kind)
        array = seen.emitted.get(name) if isinstance(node, Product) else seen.activity.get(name)
        if array is not None:
            sizes.add((array.shape[0], array.shape[1]))
        elif name not in seen.messages or driven:
            raise InputError("no recorded activity", where=name, remedy="run with record='all'")
        else:
            sizes.add((graph.timesteps, _check_messages(graph, node, seen.messages[name])))
    if len(sizes) != 1:
        raise InputError("activities differ in time and batch", where="count", found=sorted(sizes), limit="one (T, B)")
    return sizes.pop()


def _check_messages(graph: Graph, node: Node, array: Array) -> int:
    """Return B after checking numbers of messages."""
    if isinstance(node, FixedInput) and payload_bits(node, graph):
        raise InputError("numbers of messages do not tell which are graded", where=node.name, remedy="pass the inputs")
    if array.dtype.kind not in "iu" or array.ndim != 1 + len(node.shape) or array.shape[1:] != node.shape:
        limit = ("B", *node.shape)
        raise InputError("not numbers of messages", where=node.name, found=(array.dtype, array.shape), limit=limit)
    return int(array.shape[0])


def _synapse(node: Synapse, graph: Graph, seen: _Seen) -> SynapseCount:
    source = graph[node.inputs[0]]
    stored, nonzero = fanout(node, source.shape)
    kept = np.ones(node.weight_mant.shape, bool)
    if between_single_neurons(node, graph):
        stored, kept = nonzero, node.weight_mant != 0
    events, graded = _events(source, seen)
    by_sample = tuple(_weighted(row, stored) for row in events)
    graded_by_sample = tuple(_weighted(row, stored) for row in graded)
    return SynapseCount(
        name=node.name,
        source=source.name,
        targets=tuple(reader.name for reader in graph.readers[node.name]),
        role=role_of(node, graph),
        weights=int(np.count_nonzero(kept)),
        connections=int(stored.sum()),
        connections_nonzero=int(nonzero.sum()),
        events=int(events.sum()),
        events_graded=int(graded.sum()),
        sop_stored=sum(by_sample),
        sop_nonzero=_weighted(events.sum(axis=0), nonzero),
        sop_graded=sum(graded_by_sample),
        sop_by_sample=by_sample,
        graded_by_sample=graded_by_sample,
        payload_bits=payload_bits(source, graph),
        groups=tuple((exp, int(np.count_nonzero(kept[node.row_exp == exp]))) for exp in node.exponents),
    )


def _events(source: Node, seen: _Seen) -> tuple[Counts64, Counts64]:
    """Messages that are not 0, and those of them that are graded: (B, *shape) each."""
    if isinstance(source, Product):
        found = seen.emitted.get(source.name)
        events = seen.messages[source.name].astype(np.int64) if found is None else _count(found)
        return events, events
    values = seen.activity.get(source.name)
    if values is not None:
        return _count(values != 0), _count(_is_graded(values))
    events = seen.messages[source.name].astype(np.int64)
    return events, np.zeros_like(events)


def _product(node: Product, graph: Graph, seen: _Seen, samples: int) -> ProductCount:
    """A product's row; its messages are known from their numbers too, its operations only from its sources' spikes."""
    row = product_count(node, graph, seen.activity, seen.emitted, samples)
    if row.nonzero is None and node.name in seen.messages:
        return replace(row, nonzero=int(seen.messages[node.name].sum()))
    return row


def _population(node: FixedLIF, graph: Graph, seen: _Seen, driven: bool, times: int) -> PopulationCount:
    neurons = math.prod(node.shape)
    spikes = seen.activity.get(node.name)
    sent = seen.messages[node.name] if spikes is None else _count(spikes != 0)
    by_sample = tuple(int(each.sum()) for each in sent)
    return PopulationCount(
        name=node.name,
        role=node.role,
        neurons=neurons,
        updates=neurons * times,
        driven=_driven(node, graph, seen) if driven else None,
        spikes=sum(by_sample),
        spikes_by_sample=by_sample,
    )


def host_count(node: Node, graph: Graph, samples: int) -> HostCount:
    """What the host computes of one node, whatever fires."""
    if isinstance(node, Received):
        return _in_every_step(node, graph.timesteps, samples)
    if not isinstance(node, FixedUnitCurrent):
        assert isinstance(node, HeldCurrent)
        macs = int(fanout(node, graph[node.inputs[0]].shape)[0].sum())
        return HostCount(name=node.name, macs_per_sample=macs, macs=macs * samples)
    counts = node.weight.shape[1]
    macs = node.weight.size + counts  # each count is squared once
    roots, divisions = len(node.pooled) * samples, counts * samples
    return HostCount(name=node.name, macs_per_sample=macs, macs=macs * samples, roots=roots, divisions=divisions)


def _in_every_step(node: Received, timesteps: int, samples: int) -> HostCount:
    """A layer norm squares and centres each channel and divides it (the variant multiplies); a gain multiplies."""
    each, tokens, steps = math.prod(node.shape), math.prod(node.shape[1:]), timesteps * samples
    roots = divisions = 0
    macs = each * timesteps
    if isinstance(node, FixedLayerNorm):
        macs, roots = (3 if node.variant else 2) * macs, tokens * steps
        divisions = 0 if node.variant else each * steps
    row = HostCount(name=node.name, macs_per_sample=macs, macs=macs * samples, roots=roots, divisions=divisions)
    return replace(row, answers=steps, messages=each * steps)


def _driven(node: FixedLIF, graph: Graph, seen: _Seen) -> int:
    """Updates of neurons that a synapse's message or a product's result reached."""
    total = 0
    for step in range(len(seen.activity[node.name])):
        hit = np.zeros((seen.activity[node.name].shape[1], *node.shape), bool)
        for source in graph.sources(node):
            if isinstance(source, Product):
                hit |= seen.emitted[source.name][step].reshape(hit.shape)
            elif isinstance(source, Synapse):
                sent = seen.emitted if isinstance(graph[source.inputs[0]], Product) else seen.activity
                hit |= reached(source, sent[source.inputs[0]][step] != 0).reshape(hit.shape)
        total += int(np.count_nonzero(hit))
    return total


def between_single_neurons(node: Synapse, graph: Graph) -> bool:
    """Whether a 0 in its matrix is no connection at all: to coincidences, from them, and from a neuron to its relay."""
    roles = {end.role for end in graph.readers[node.name] if isinstance(end, FixedLIF)}
    source = graph[node.inputs[0]]
    return bool(roles & {"coincidence", "relay"}) or (isinstance(source, FixedLIF) and source.role == "coincidence")


def role_of(node: Synapse, graph: Graph) -> str:
    """What the connection is for: the common role of its readers, "neuron" where they differ."""
    roles = {_role_of_target(reader) for reader in graph.readers[node.name]}
    return roles.pop() if len(roles) == 1 else "neuron"


def _role_of_target(node: Node) -> str:
    match node:
        case FixedLIF():
            return node.role
        case FixedReadout():
            return "readout"
        case Received():
            return "host"
        case _:
            raise InputError("a connection must feed a population or the read-out", where=node.name, found=node.kind)


def _is_graded(messages: Array) -> npt.NDArray[np.bool_]:
    if messages.dtype.kind == "b":
        return np.zeros_like(messages)
    graded: npt.NDArray[np.bool_] = (messages != 0) & (messages != 1)
    return graded & (messages != -1) if messages.dtype.kind == "i" else graded


def _count(flags: npt.NDArray[np.bool_]) -> Counts64:
    """Sum over time: (T, B, *shape) to (B, *shape), int64."""
    return np.count_nonzero(flags, axis=0).astype(np.int64)


def _weighted(events: Counts64, connections: Counts64) -> int:
    return int((events * connections).sum())
