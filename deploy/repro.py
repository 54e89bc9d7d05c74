"""One layer of a network, with the spikes that reached it, as a bundle of its own: the smallest thing that shows a bug.

The layer is cut out by `avsnn.convert.isolate`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from avsnn.convert.bundle import Bundle, staged
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array
from avsnn.convert.isolate import isolate
from avsnn.convert.overflow_search import CounterExample
from avsnn.convert.passes.schedule import schedule
from avsnn.deploy.diff import Comparison, Difference, Side, compare
from avsnn.deploy.run import Run
from avsnn.errors import AvsnnError, InputError

INPUTS = "inputs.npz"
WHOLE = "network.npz"


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


def write_counter_example(folder: str | Path, example: CounterExample, meta: Mapping[str, Any]) -> Path:
    """Write an input that overflows one layer: ``a/``, the layer alone, and ``inputs.npz``, what its sources send.

    ``network.npz`` is the input of the whole network that makes them send it, if one was found. ``avsnn-run FOLDER/a
    --data FOLDER/inputs.npz`` then raises, and names the layer.

    Raises:
        InputError: the folder exists.
    """
    scheduled, _ = schedule(example.layer, delay_steps_max=None)
    name = f"{example.error.where} of {meta.get('name', 'a network')}, overflowing"
    layer = Bundle(
        graphs={"quantised": example.layer, "scheduled": scheduled}, meta={**meta, "name": name, "labels": []}
    )
    files = {INPUTS: (example.layer, example.spikes)}
    if example.inputs is not None:
        files[WHOLE] = (example.network, example.inputs)
    with staged(folder) as work:
        layer.save(work / "a")
        for file, (graph, integers) in files.items():
            values = {n.name: integers[n.name] * n.step for n in graph.of(fixed.FixedInput)}
            np.savez(work / file, **values)  # type: ignore[arg-type]  # numpy's stub mixes up its keywords
    return Path(folder)


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
            given[node.name] = run.spikes[node.name][: node.steps or None, samples]
        else:
            x = np.asarray(inputs[node.name])
            given[node.name] = x[samples] if node.coding == "direct" else x[:, samples]
    return given
