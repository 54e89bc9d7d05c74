"""Run a bundle: inputs as a user has them, answers and activity in logical time, whatever runs underneath."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from avsnn.convert.bundle import Bundle
from avsnn.convert.ir.activity import Activity
from avsnn.convert.ir.fixed_interpreter import logical, to_integers, wall_clock
from avsnn.convert.ir.fixed_nodes import FixedLIF, FixedReadout
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.interpreter import interpret
from avsnn.convert.ir.node import Array
from avsnn.deploy.backends.base import Progress
from avsnn.deploy.backends.cpu import simulate
from avsnn.errors import InputError

BackendName = Literal["cpu", "lava", "reference"]
BACKENDS: tuple[BackendName, ...] = ("cpu", "lava", "reference")
Record = Literal["all"] | Collection[str]


class _Named(dict[str, Array]):
    """A dict whose KeyError says which names there are."""

    def __missing__(self, key: str) -> Array:
        raise KeyError(f"no population {key!r} was recorded; there are: {', '.join(self) or 'none (pass record=)'}")


class _NamedStates(dict[str, Mapping[str, Array]]):
    def __missing__(self, key: str) -> Mapping[str, Array]:
        raise KeyError(f"no population {key!r} was recorded; there are: {', '.join(self) or 'none (pass record=)'}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """What a run answers.

    Attributes:
        outputs: (B, K) float64, ``raw * scale``.
        raw: (B, K) int64, the exact sum over the window (float stages: the answer itself).
        scale: of ``outputs``.
        spikes: population to bool (T, B, *shape), as far as recorded.
        states: population to {"u", "v"} after reset (T, B, *shape), as far as recorded.
        seconds: time per part.
    """

    outputs: Array
    raw: Array
    scale: float
    spikes: Mapping[str, Array]
    states: Mapping[str, Mapping[str, Array]]
    seconds: Mapping[str, float] = field(default_factory=dict)


def run(
    bundle: Bundle,
    inputs: Array | Mapping[str, Array],
    *,
    backend: BackendName = "cpu",
    record: Record = (),
    stage: str | None = None,
    timeout_s: float = 600.0,
    progress: Progress | None = None,
) -> Run:
    """Run inputs through a bundle.

    Args:
        bundle: converted network.
        inputs: by name; a single array will do for a single input.
        backend: "cpu" (fast, bit-exact), "lava" (needs the Lava environment), "reference" (slow, defines the meaning).
        record: names of populations whose spikes and states to keep, or "all".
        stage: another stage than ``scheduled``; only "reference" runs those.
        timeout_s: of the Lava process.
        progress: called with (samples done, samples in all).

    Raises:
        InputError: unknown back end, stage or population, or unusable inputs.
        BackendError: the back end is missing or failed.
    """
    stage = stage or "scheduled"
    graph = bundle.graph(stage)
    if backend not in BACKENDS:
        raise InputError("unknown back end", where="run", found=backend, limit=", ".join(BACKENDS))
    if stage != "scheduled" and backend != "reference":
        raise InputError(f"{backend} runs scheduled graphs", where="run", found=stage, remedy="use backend='reference'")
    named = _by_name(graph, inputs)
    wanted = _wanted(graph, record)
    activity, seconds = _execute(bundle, graph, named, backend, wanted, timeout_s, progress)
    raw = activity.outputs[graph.outputs[0]]  # back ends return answers in orders of their own
    readout = graph[graph.outputs[0]]
    scale = readout.scale if isinstance(readout, FixedReadout) else 1.0
    return Run(
        outputs=raw.astype(np.float64) * scale,
        raw=raw,
        scale=scale,
        spikes=_Named({name: activity.spikes[name] for name in wanted}),
        states=_NamedStates({name: activity.states[name] for name in wanted}),
        seconds=seconds,
    )


def _by_name(graph: Graph, inputs: Array | Mapping[str, Array]) -> dict[str, Array]:
    names = [node.name for node in graph if not node.inputs]
    if isinstance(inputs, Mapping):
        unknown = set(inputs) - set(names)
        if unknown:
            raise InputError("unknown input", where=", ".join(sorted(unknown)), limit=", ".join(names))
        return dict(inputs)
    if len(names) != 1:
        raise InputError("several inputs need a dict", where="run", found="one array", limit=", ".join(names))
    return {names[0]: inputs}


def _wanted(graph: Graph, record: Record) -> tuple[str, ...]:
    """Names to record; unknown ones are a KeyError, as any name that is not there."""
    kinds = _float_neurons() if graph.stage in ("traced", "folded") else (FixedLIF,)
    known = [node.name for node in graph if isinstance(node, kinds)]
    if record == "all":
        return tuple(known)
    unknown = [name for name in record if name not in known]
    if unknown:
        raise KeyError(f"no population {unknown[0]!r}; there are: {', '.join(known)}")
    return tuple(record)


def _float_neurons() -> tuple[type, ...]:
    from avsnn.convert.ir.nodes import LIF

    return (LIF,)


def _execute(
    bundle: Bundle,
    graph: Graph,
    inputs: Mapping[str, Array],
    backend: BackendName,
    wanted: tuple[str, ...],
    timeout_s: float,
    progress: Progress | None,
) -> tuple[Activity, Mapping[str, float]]:
    if graph.stage in ("traced", "folded"):
        return interpret(graph, inputs), {}
    integers = to_integers(graph, inputs)
    if backend == "cpu":
        return simulate(graph, integers, record=wanted, progress=progress), {}
    if backend == "reference":
        return (logical if graph.stage == "quantised" else wall_clock)(graph, integers), {}
    return run_in_lava(bundle, graph, integers, timeout_s)


def run_in_lava(
    bundle: Bundle, graph: Graph, integers: Mapping[str, Array], timeout_s: float
) -> tuple[Activity, Mapping[str, float]]:
    """Run the bundle's own ``lava/`` folder, or one written for this run if the bundle has none."""
    from avsnn.deploy.backends.lava import LavaWorker
    from avsnn.deploy.exports.lava import write_lava

    with tempfile.TemporaryDirectory(prefix="avsnn-") as scratch, LavaWorker(timeout_s=timeout_s) as worker:
        folder = Path(scratch) / "lava"
        if bundle.folder is not None and (bundle.folder / "lava").is_dir():
            folder = bundle.folder / "lava"
        else:
            write_lava(graph, folder)
        done = worker.run(folder, integers)
    return done.activity, done.seconds
