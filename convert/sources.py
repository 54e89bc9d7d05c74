"""Whatever a conversion may start from, a module, checkpoint or graph, to the traced graph and calibration inputs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from avsnn.convert.bundle import sha256_of
from avsnn.convert.ir import storage
from avsnn.convert.ir.graph import Graph
from avsnn.convert.proof_data import Inputs
from avsnn.errors import AvsnnError, InputError, TraceError


def traced_from(
    source: Any,
    example_inputs: Inputs | None,
    calibration: Inputs | None,
    timesteps: int | None,
    input_spec: Mapping[str, Mapping[str, Any]] | None,
) -> tuple[Graph, Any, Inputs, dict[str, Any]]:
    """(traced graph, module or None, calibration inputs, what the bundle should remember of the source)."""
    if isinstance(source, Graph):
        if calibration is None:
            raise InputError("calibration inputs missing", where="convert", remedy="pass calibration=")
        return source, None, calibration, {"name": "graph", "labels": []}
    from avsnn.convert import tracer
    from avsnn.train.checkpoints import Checkpoint
    from avsnn.train.models.table import MODELS

    if isinstance(source, Checkpoint):
        graph = graph_of(source)
        meta = {"name": source.name, "labels": list(source.labels), "checkpoint_sha256": sha256_of(source.path)}
        known = source.name in MODELS  # a network of the user's own comes with its graph, but without its code
        return graph, source.build() if known else None, calibration or source.calibration, meta
    if example_inputs is None:
        raise InputError("a module needs example inputs", where=type(source).__name__, remedy="pass example_inputs=")
    graph = tracer.trace(source, example_inputs, timesteps=timesteps, input_spec=input_spec)
    return graph, source, calibration or example_inputs, {"name": type(source).__name__, "labels": []}


def graph_of(checkpoint: Any) -> Graph:
    """Return the graph inside ``checkpoint``, or a new one if the tracer had no rule for it when it was saved.

    Raises:
        TraceError: it still has none; the message lists the operations.
    """
    from avsnn.convert import tracer

    if checkpoint.graph_meta:
        return storage.unpack(checkpoint.graph_meta, checkpoint.graph_arrays, where=str(checkpoint.path))
    try:
        return tracer.trace(checkpoint.build(), checkpoint.calibration, input_spec=checkpoint.input_spec)
    except AvsnnError:
        raise
    except Exception as error:  # torch raises many kinds where it cannot follow a forward
        raise TraceError(f"forward cannot be followed ({error})", where=checkpoint.name) from error


def digest(inputs: Inputs) -> str:
    """SHA-256 over names, shapes and values of arrays."""
    total = hashlib.sha256()
    for name in sorted(inputs):
        x = np.ascontiguousarray(inputs[name], dtype=np.float64)
        total.update(f"{name}{x.shape}".encode() + x.tobytes())
    return total.hexdigest()
