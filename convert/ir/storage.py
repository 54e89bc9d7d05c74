"""Graphs as JSON plus arrays, and back. Arrays with equal content are stored once."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from avsnn import archive
from avsnn.convert.ir import fixed_nodes, nodes
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array, Node
from avsnn.errors import InputError

FORMAT = 1
KINDS: dict[str, type[Node]] = {
    kind.__name__: kind
    for kind in (
        nodes.Input,
        nodes.Normalise,
        nodes.Conv2d,
        nodes.Linear,
        nodes.BatchNorm,
        nodes.LIF,
        nodes.MaxPool2d,
        nodes.Add,
        nodes.Concat,
        nodes.Flatten,
        nodes.MeanSpace,
        nodes.MeanTime,
        nodes.Attention,
        nodes.AttentionMap,
        nodes.MappedValues,
        nodes.ProductOfMeans,
        nodes.StepGain,
        nodes.Scale,
        nodes.DSLN,
        nodes.LayerNorm,
        nodes.Permute,
        nodes.Unit,
        nodes.LeakyIntegrator,
        nodes.LastStep,
        nodes.Readout,
        fixed_nodes.FixedInput,
        fixed_nodes.HeldCurrent,
        fixed_nodes.FixedConv2d,
        fixed_nodes.FixedLinear,
        fixed_nodes.FixedAttention,
        fixed_nodes.FixedAttentionMap,
        fixed_nodes.FixedMappedValues,
        fixed_nodes.FixedProductOfSums,
        fixed_nodes.FixedUnitCurrent,
        fixed_nodes.FixedLayerNorm,
        fixed_nodes.FixedStepGain,
        fixed_nodes.FixedLIF,
        fixed_nodes.FixedReadout,
        fixed_nodes.Slice,
        fixed_nodes.Axons,
    )
}


def pack(graph: Graph) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return (JSON object, arrays by name). Array fields become ``{"array": name}``."""
    arrays: dict[str, Array] = {}
    names: dict[str, str] = {}

    def store(value: object) -> object:
        if not isinstance(value, np.ndarray):
            return list(value) if isinstance(value, tuple) else value
        array = np.ascontiguousarray(value)
        digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode() + array.tobytes()).hexdigest()
        if digest not in names:
            names[digest] = f"a{len(names):04d}"
            arrays[names[digest]] = array
        return {"array": names[digest]}

    table = [{"kind": n.kind} | {f.name: store(getattr(n, f.name)) for f in fields(n)} for n in graph.nodes]
    meta = {
        "format": FORMAT,
        "stage": graph.stage,
        "timesteps": graph.timesteps,
        "outputs": list(graph.outputs),
        "nodes": table,
    }
    return meta, arrays


def unpack(meta: dict[str, Any], arrays: dict[str, Array], *, where: str = "graph") -> Graph:
    """Inverse of `pack`.

    Raises:
        InputError: unknown format, node kind or field, or an array that is missing.
    """
    if meta.get("format") != FORMAT:
        raise InputError("unknown graph format", where=where, found=meta.get("format"), limit=FORMAT)
    try:
        built = tuple(_node(dict(row), arrays) for row in meta["nodes"])
        return Graph(
            nodes=built,
            outputs=tuple(meta["outputs"]),
            timesteps=int(meta["timesteps"]),
            stage=str(meta["stage"]),
        )
    except (KeyError, TypeError) as error:
        raise InputError(f"damaged graph ({error})", where=where) from error


def _node(row: dict[str, Any], arrays: dict[str, Array]) -> Node:
    kind = KINDS[row.pop("kind")]
    values: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            values[name] = arrays[value["array"]]
        else:
            values[name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


def save(graph: Graph, stem: Path) -> None:
    """Write ``stem.json`` (nodes, for people and programs) and ``stem.npz`` (arrays)."""
    meta, arrays = pack(graph)
    stem.with_suffix(".json").write_text(json.dumps(meta, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    archive.write(stem.with_suffix(".npz"), {}, arrays)


def load(stem: Path) -> Graph:
    """Read what `save` wrote."""
    path = stem.with_suffix(".json")
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the graph ({error})", where=str(path)) from error
    return unpack(meta, archive.read(stem.with_suffix(".npz"))[1], where=str(path))
