"""Logical time to wall-clock: offsets, delays that balance paths of unequal length, reset phases.

A synapse costs one step, as does a product, and a host that answers in the step it is asked; a product that needs the
whole window (attention over time) costs T. So a population receives step t of sample k at wall step
``k T + t + offset`` with::

    offset(population) = max over its connections of offset(source) + cost   (inputs and held currents: 0)
    delay(synapse)     = offset(population) - offset(source) - cost          (0 on the longest path)
    delays(product)    = likewise, towards the latest of its sources
    reset phase        = offset mod T, every T steps

Delays are absorbed in the synapse as far as the target's synapses can delay; the rest passes through relay
populations (identity synapse, memoryless neuron that fires on one spike), one step each, which count as neurons.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Node
from avsnn.errors import AvsnnError, CapabilityError, stop


@dataclass(frozen=True, kw_only=True)
class Balance:
    """One delay that the scheduler inserted: into a synapse, or as relay neurons in front of it."""

    synapse: str
    delay: int
    relays: int


def schedule(
    graph: Graph, *, delay_steps_max: int | None, refuse: Callable[[AvsnnError], None] = stop
) -> tuple[Graph, tuple[Balance, ...]]:
    """Return the scheduled graph and the delays inserted.

    Args:
        graph: stage ``quantised``.
        delay_steps_max: steps a synapse of the target can wait beyond its own one; None is unlimited.
        refuse: gets every error; if it returns, the graph is of use for finding more errors alone.

    Raises:
        CapabilityError: a held current and the spikes of a later layer meet in one population.
    """
    limit = np.iinfo(np.int32).max if delay_steps_max is None else delay_steps_max
    offsets: dict[str, int] = {}  # when step 0 of sample 0 arrives, or is emitted
    nodes: dict[str, Node] = {}
    inserted: list[Balance] = []
    for node in graph.nodes:
        if isinstance(node, fixed.Product) and not isinstance(node, fixed.Received):
            ready = max(offsets[name] for name in node.inputs)
            offsets[node.name] = ready + (graph.timesteps if node.windowed else 1)
            waits_of = tuple(ready - offsets[name] for name in node.inputs)
            nodes[node.name] = replace(node, delays=waits_of, offset=offsets[node.name])
        elif isinstance(node, fixed.FixedLIF | fixed.FixedReadout | fixed.Received):
            offset = max((offsets[name] for name in node.inputs), default=0)
            waits = {name: offset - offsets[name] for name in node.inputs}
            for name, wait in waits.items():
                synapse = nodes[name]
                if wait and isinstance(synapse, fixed.Product):
                    later = _delay_product(graph, nodes, offsets, synapse, wait, node.name)
                    node = replace(node, inputs=tuple(later if n == name else n for n in node.inputs))
                    inserted.append(Balance(synapse=later, delay=wait, relays=0))
                elif wait and isinstance(synapse, fixed.Synapse):
                    inserted.append(_delay(nodes, offsets, synapse, wait, limit))
                elif wait:
                    what = "a held current cannot wait for the spikes of later layers"
                    refuse(CapabilityError(what, where=name, found=node.name))
            placed = _place(node, offset, graph.timesteps)
            nodes[node.name], offsets[node.name] = placed, placed.offset
        else:
            step = 1 if isinstance(node, fixed.Synapse) else 0
            offsets[node.name] = max((offsets[name] for name in node.inputs), default=0) + step
            nodes[node.name] = node
    return graph.with_nodes(nodes.values(), stage="scheduled"), tuple(inserted)


def depth(graph: Graph) -> int:
    """Wall steps from the first input of a window to the first step of the last read-out."""
    return max((n.offset for n in graph if isinstance(n, fixed.FixedLIF | fixed.FixedReadout)), default=0)


def _place(
    node: fixed.FixedLIF | fixed.FixedReadout | fixed.Received, offset: int, T: int
) -> fixed.FixedLIF | fixed.FixedReadout | fixed.Received:
    if isinstance(node, fixed.Received):  # to the host and back
        return replace(node, offset=offset + 1)
    if isinstance(node, fixed.FixedReadout):
        return replace(node, offset=offset)
    return replace(node, offset=offset, reset_interval=T, reset_phase=offset % T)


def _delay(nodes: dict[str, Node], offsets: dict[str, int], synapse: fixed.Synapse, wait: int, limit: int) -> Balance:
    """Make ``synapse`` arrive ``wait`` steps later, relays first where its own delay does not reach."""
    source, relays = nodes[synapse.inputs[0]], 0
    while wait > limit:
        step = min(limit, wait - limit - 1)  # the wire to a relay can wait as well
        relays += 1
        name = f"{synapse.name}.relay{relays}"
        offsets[name] = offsets[source.name] + step + 1
        source = _relay(nodes, source, name, step, offsets[name])
        wait -= step + 1
    del nodes[synapse.name]  # moves behind its relays
    nodes[synapse.name] = replace(synapse, inputs=(source.name,), delay=wait)
    return Balance(synapse=synapse.name, delay=wait, relays=relays)


def _delay_product(
    graph: Graph, nodes: dict[str, Node], offsets: dict[str, int], product: fixed.Product, wait: int, reader: str
) -> str:
    """Make ``product`` arrive ``wait`` steps later at ``reader``; what others read as well is computed once more."""
    alone = len(graph.readers[product.name]) == 1
    name = product.name if alone else f"{product.name}@{reader}"
    later = offsets[product.name] + wait
    nodes[name] = replace(product, name=name, delays=tuple(d + wait for d in product.delays), offset=later)
    offsets[name] = later
    return name


def _relay(nodes: dict[str, Node], source: Node, name: str, delay: int, offset: int) -> Node:
    """An identity synapse and a memoryless population: what ``source`` sends, ``1 + delay`` steps later."""
    channels = source.shape[0]
    convolves = len(source.shape) == 3
    common: dict[str, Any] = {
        "name": f"{name}.wire",
        "inputs": (source.name,),
        "shape": source.shape,
        "origin": source.origin,
        "sign_mode": "excitatory",
        "delay": delay,
    }
    wire: fixed.Synapse
    if convolves:
        wire = fixed.FixedConv2d(**common, weight_mant=np.ones((channels, 1, 1, 1), dtype=np.int64), groups=channels)
    else:
        wire = fixed.FixedLinear(**common, weight_mant=np.eye(channels, dtype=np.int64))
    relay = fixed.FixedLIF(
        name=name,
        inputs=(wire.name,),
        shape=source.shape,
        origin=source.origin,
        threshold_mant=0,
        decay_v=fixed.MEMORYLESS,
        bias_mant=np.zeros(1, dtype=np.int64),
        offset=offset,
        role="relay",
        state_bits=source.state_bits if isinstance(source, fixed.FixedLIF) else 24,
    )
    nodes[wire.name], nodes[relay.name] = wire, relay
    return relay
