"""One layer of a network, with the spikes that reached it, as a bundle of its own: the smallest thing that shows a bug.

The layer's sources become sequence inputs. In wall-clock time these emit from step 0 on, so every delay behind a
source grows by what that source was late, and all times shrink by what the earliest one was.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from avsnn.convert.bundle import Bundle, staged
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array, Node
from avsnn.deploy.diff import Comparison, Difference, Side, compare
from avsnn.deploy.run import Run
from avsnn.errors import AvsnnError, InputError

COUNT = "spikes"  # the answer of a layer: how many spikes it fires in a window
INPUTS = "inputs.npz"


def isolate(graph: Graph, name: str) -> Graph:
    """The population or readout ``name`` with its connections alone; what it reads of others becomes inputs.

    Args:
        graph: of any stage.
        name: of a population (the answer is then the number of its spikes) or of the readout.

    Raises:
        InputError: no such node.
    """
    if name not in graph.by_name:
        raise InputError("no such population", where=graph.stage, found=name)
    kept = _behind(graph, name)
    multiplied = {s for n in kept if isinstance(graph[n], fixed.Product) for s in graph[n].inputs}
    late = {n: _offset(graph[n]) for n in kept if _is_source(graph[n], name)}
    early = min(late.values(), default=0) - bool(multiplied) if graph.stage == "scheduled" else 0
    nodes: list[Node] = []
    for n in kept:
        node = graph[n]
        if _is_source(node, name):
            nodes.append(_as_input(node))
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


def _behind(graph: Graph, name: str) -> list[str]:
    """``name`` and what it reads, up to populations and inputs, in the order of the graph."""
    wanted: set[str] = set()

    def visit(n: str) -> None:
        if n in wanted:
            return
        wanted.add(n)
        if not _is_source(graph[n], name):
            for source in graph[n].inputs:
                visit(source)

    visit(name)
    return [node.name for node in graph if node.name in wanted]


def _is_source(node: Node, name: str) -> bool:
    """Whether a node becomes, or is, an input of the repro of ``name``; relays and pools belong to the layer."""
    if isinstance(node, ir.Input | fixed.FixedInput):
        return True
    mine = isinstance(node, fixed.FixedLIF) and node.role != "neuron"
    return isinstance(node, fixed.FixedLIF | ir.LIF) and not mine and node.name != name


def _offset(node: Node) -> int:
    """Wall steps by which a source is behind the samples; inputs are not."""
    return node.offset if isinstance(node, fixed.FixedLIF) else 0


def _as_input(node: Node) -> Node:
    if isinstance(node, ir.Input | fixed.FixedInput):
        return node
    if isinstance(node, ir.LIF):
        return ir.Input(name=node.name, shape=node.shape, origin=node.origin, coding="sequence", step=1.0)
    return fixed.FixedInput(
        name=node.name, shape=node.shape, origin=node.origin, coding="sequence", low=0, high=1, step=1.0
    )


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


def write_repro(
    folder: str | Path,
    a: Side,
    b: Side,
    inputs: Mapping[str, Array],
    runs: tuple[Run, Run],
    difference: Difference,
    *,
    timeout_s: float = 600.0,
) -> tuple[Path, Comparison]:
    """Write ``a/``, ``b/`` (one layer each) and ``inputs.npz``, having seen that they part at the same place.

    The inputs are those of the one sample; if that does not show it, also the samples before it.

    Args:
        folder: to make; must not exist.
        a: first side.
        b: second side.
        inputs: what both ran on.
        runs: of both, everything recorded.
        difference: where they part.
        timeout_s: of a run in Lava.

    Raises:
        InputError: the folder exists, or the layer alone does not show the difference.
    """
    sides = []
    with staged(folder) as work:
        for side, which in ((a, "a"), (b, "b")):
            bundle = _small(side, a, difference.node, which)
            bundle.save(work / which)
            loaded = Bundle.load(work / which)
            sides.append(replace(side, bundle=loaded, text=str(Path(folder) / which)))
        sample = difference.sample
        for first in dict.fromkeys((sample, max(0, sample - 1), 0)):
            given = _recorded(sides[0].graph, runs[0], inputs, slice(first, sample + 1))
            try:
                found, *_ = compare(sides[0], sides[1], given, timeout_s=timeout_s)
            except AvsnnError as error:
                reason = str(error)
                continue
            if found.difference is not None and found.difference.place == difference.place:
                np.savez(work / INPUTS, **given)  # type: ignore[arg-type]  # numpy's stub mixes up its keywords
                return Path(folder), found
            reason = "the layer alone agrees" if found.difference is None else f"it parts at {found.difference.place}"
        raise InputError(f"the layer alone does not show the difference ({reason})", where=difference.node)


def _small(side: Side, a: Side, name: str, which: str) -> Bundle:
    """The layer in the stages that are compared; a bundle always has ``scheduled``."""
    graphs: dict[str, Graph] = {}
    for stage in dict.fromkeys((side.stage, "scheduled")):
        graph = side.bundle.graph(stage)
        wanted = name if name in graph.by_name else graph.outputs[0]
        graphs[stage] = isolate(graph, wanted)
    meta: dict[str, Any] = {
        **side.bundle.meta,
        "labels": [],
        "name": f"{name} of {side.bundle.meta.get('name', which)}",
    }
    return Bundle(graphs=graphs, meta=meta)


def _recorded(small: Graph, run: Run, inputs: Mapping[str, Array], samples: slice) -> dict[str, Array]:
    """What reached the layer: its inputs as they were, and its sources' spikes."""
    given = {}
    for node in small:
        if node.inputs or not isinstance(node, ir.Input | fixed.FixedInput):
            continue
        if node.name in run.spikes:
            given[node.name] = run.spikes[node.name][:, samples]
        else:
            x = np.asarray(inputs[node.name])
            given[node.name] = x[samples] if node.coding == "direct" else x[:, samples]
    return given
