"""A population or read-out of a graph to a graph of its own: what it reads of others becomes inputs.

A layer's sources become sequence inputs. In wall-clock time these emit from step 0 on, so every delay behind a source
grows by what that source was late, and all times shrink by what the earliest one was.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Node
from avsnn.convert.ir.windows import windows
from avsnn.errors import InputError

COUNT = "spikes"  # the answer of a layer: how many spikes it fires in a window


def isolate(graph: Graph, name: str, *, alone: bool = False) -> Graph:
    """The population or readout ``name`` with its connections alone; what it reads of others becomes inputs.

    Args:
        graph: of any stage.
        name: of a population (the answer is then the number of its spikes) or of the readout.
        alone: without the relays and pools in front of it, which become inputs as well.

    Raises:
        InputError: no such node.
    """
    if graph.stage == "mapped":
        raise InputError("cores are not cut out", where=name, found=graph.stage, remedy="compare the scheduled stage")
    if name not in graph.by_name:
        raise InputError("no such population", where=graph.stage, found=name)
    ends = {node.name for node in graph if _is_source(node, name, alone)}
    kept = _behind(graph, name, ends)
    multiplied = {s for n in kept if isinstance(graph[n], fixed.Product) for s in graph[n].inputs if s in ends}
    late = {n: _offset(graph[n]) for n in kept if n in ends}
    early = min(late.values(), default=0) - bool(multiplied) if graph.stage == "scheduled" else 0
    steps = windows(graph)
    nodes: list[Node] = []
    for n in kept:
        node = graph[n]
        if n in ends:
            nodes.append(_as_input(node, steps[n] % graph.timesteps))
            nodes += _copy(node, graph) if n in multiplied else []
        elif graph.stage == "scheduled":
            nodes.append(_earlier(node, late, early))
        else:
            nodes.append(_of_copies(node, late) if isinstance(node, fixed.Product) else node)
    last = nodes[-1]
    if isinstance(last, fixed.FixedReadout | ir.Readout):
        return replace(graph, nodes=tuple(nodes), outputs=(name,))
    nodes += _counter(last, graph.stage)
    return replace(graph, nodes=tuple(nodes), outputs=(COUNT,))


def _behind(graph: Graph, name: str, ends: Collection[str]) -> list[str]:
    """``name`` and what it reads, up to ``ends``, in the order of the graph."""
    wanted: set[str] = set()

    def visit(n: str) -> None:
        if n in wanted:
            return
        wanted.add(n)
        if n not in ends:
            for source in graph[n].inputs:
                visit(source)

    visit(name)
    return [node.name for node in graph if node.name in wanted]


def _is_source(node: Node, name: str, alone: bool) -> bool:
    """Whether a node becomes, or is, an input of what is cut out; relays and pools belong to the layer, or do not."""
    if isinstance(node, ir.Input | fixed.FixedInput):
        return True
    mine = isinstance(node, fixed.FixedLIF) and node.role != "neuron" and not alone
    return isinstance(node, fixed.FixedLIF | ir.LIF) and not mine and node.name != name


def _offset(node: Node) -> int:
    """Wall steps by which a source is behind the samples; inputs are not."""
    return node.offset if isinstance(node, fixed.FixedLIF) else 0


def _as_input(node: Node, steps: int) -> Node:
    """A source as a sequence of its own window's steps (0: T)."""
    if isinstance(node, ir.Input | fixed.FixedInput):
        return node
    common: dict[str, Any] = {"name": node.name, "shape": node.shape, "origin": node.origin, "steps": steps}
    if isinstance(node, ir.LIF):
        return ir.Input(**common, coding="sequence", step=1.0)
    return fixed.FixedInput(**common, coding="sequence", low=0, high=1, step=1.0)


def _copy(source: Node, graph: Graph) -> list[Node]:
    """A population that repeats an input, one wall step later: a product reads populations alone."""
    if len(source.shape) == 3:
        ones = np.ones((source.shape[0], 1, 1, 1), dtype=np.int64)
        same: Node = fixed.FixedConv2d(
            name=f"{source.name}.same",
            inputs=(source.name,),
            shape=source.shape,
            weight_mant=ones,
            sign_mode="excitatory",
            groups=source.shape[0],
        )
    else:
        eye = np.eye(math.prod(source.shape), dtype=np.int64)
        same = fixed.FixedLinear(
            name=f"{source.name}.same",
            inputs=(source.name,),
            shape=source.shape,
            weight_mant=eye,
            sign_mode="excitatory",
        )
    scheduled = graph.stage == "scheduled"
    copy = fixed.FixedLIF(
        name=_copied(source.name),
        inputs=(same.name,),
        shape=source.shape,
        threshold_mant=0,
        decay_v=fixed.MEMORYLESS,
        bias_mant=np.zeros(1, dtype=np.int64),
        role="relay",
        state_bits=source.state_bits if isinstance(source, fixed.FixedLIF) else 24,
        offset=int(scheduled),
        reset_interval=graph.timesteps if scheduled else 0,
        reset_phase=1 % graph.timesteps if scheduled else 0,
    )
    return [same, copy]


def _of_copies(node: fixed.Product, sources: Collection[str]) -> fixed.Product:
    """The product, reading copies of inputs; relays inside the layer stay."""
    return replace(node, inputs=tuple(_copied(name) if name in sources else name for name in node.inputs))


def _copied(name: str) -> str:
    return f"{name}.copy"


def _earlier(node: Node, late: Mapping[str, int], early: int) -> Node:
    """A node in the wall-clock time of the repro."""
    match node:
        case fixed.Synapse() if node.inputs[0] in late:
            return replace(node, delay=node.delay + late[node.inputs[0]] - early)
        case fixed.Product():
            delays = node.delays or (0,) * len(node.inputs)
            moved = tuple(d + late[n] - early - 1 if n in late else d for d, n in zip(delays, node.inputs, strict=True))
            return replace(_of_copies(node, late), delays=moved, offset=node.offset - early)
        case fixed.FixedLIF():
            interval = node.reset_interval
            phase = (node.reset_phase - early) % interval if interval else node.reset_phase
            return replace(node, offset=node.offset - early, reset_phase=phase)
        case fixed.FixedReadout():
            return replace(node, offset=node.offset - early)
        case _:
            return node


def _counter(last: Node, stage: str) -> list[Node]:
    """A readout that counts the spikes of ``last``."""
    size, row = math.prod(last.shape), f"{COUNT}.row"
    if stage in ("traced", "folded"):
        dense = ir.Linear(name=row, inputs=(last.name,), shape=(1,), weight=np.ones((1, size)), bias=np.zeros(1))
        return [dense, ir.Readout(name=COUNT, inputs=(row,), shape=(1,), bias=np.zeros(1))]
    ones = np.ones((1, size), dtype=np.int64)
    synapse = fixed.FixedLinear(name=row, inputs=(last.name,), shape=(1,), weight_mant=ones, sign_mode="excitatory")
    offset = getattr(last, "offset", 0) + 1 if stage == "scheduled" else 0
    answer = fixed.FixedReadout(
        name=COUNT, inputs=(row,), shape=(1,), bias=np.zeros(1, dtype=np.int64), scale=1.0, offset=offset
    )
    return [synapse, answer]
