"""A scheduled graph to the folder ``lava/``: a network that runs on Python 3.10 with lava-nc alone.

The folder holds plain tables (``network.json``, ``weights.npz``) and the scripts that build stock Lava Processes from
them (``network.py``, ``tables.py``, ``recorder/``; see its README.txt)::

    FixedConv2d, FixedLinear   Sparse, or DelaySparse where delay > 0, one for each exponent of its weights
    FixedLIF                   LIFReset(reset_offset = reset_phase + 1: Lava counts steps from 1), or LIF; where the
                               reset subtracts or a window ends early, a Process of the export itself (``neurons/``)
    HeldCurrent, FixedInput    RingBuffer over wall-clock time, into a_in and s_in
    Product                    a Process of the export itself (``products/``), into a_in and s_in
    FixedReadout               a recorder; the host sums each window
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from avsnn import archive
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.kernels import image_shape, per_channel
from avsnn.convert.ir.node import Array, Node
from avsnn.deploy.exports.lava_groups import split_groups
from avsnn.deploy.exports.lava_limits import (
    check_host,
    check_population,
    check_readout,
    check_synapse,
    message_bits,
    needs_guard,
)
from avsnn.deploy.exports.lava_products import host_row, product_row
from avsnn.errors import BackendError, CapabilityError, InputError

FORMAT = 1
LAVA_VERSION = "0.10.0"
RUNTIME_FOLDER = Path(__file__).resolve().parent / "lava_runtime"
RUNTIME = (
    *("README.txt", "network.py", "tables.py"),
    *("neurons/__init__.py", "neurons/models.py", "neurons/process.py"),
    *("products/__init__.py", "products/models.py", "products/process.py"),
    *("recorder/__init__.py", "recorder/models.py", "recorder/process.py"),
)


def write_lava(graph: Graph, folder: Path) -> None:
    """Write ``graph`` to ``folder``, which must not exist; its parent must.

    Raises:
        InputError: the graph is not scheduled, or the folder exists or cannot be written.
        CapabilityError: a node or connection that stock Lava has no Process for.
        QuantizeError: an integer that Lava would change in silence.
    """
    tables, arrays = lower(graph)
    if folder.exists():
        raise InputError("exists already", where=str(folder), remedy="choose another folder")
    try:
        beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise InputError(f"cannot be written ({error.strerror})", where=str(folder)) from error
    try:
        beside.chmod(0o755)  # mkdtemp makes it private
        for name in RUNTIME:
            (beside / name).parent.mkdir(exist_ok=True)
            (beside / name).write_bytes((RUNTIME_FOLDER / name).read_bytes())
        text = json.dumps(tables, indent=1, sort_keys=True, allow_nan=False) + "\n"
        (beside / "network.json").write_text(text, encoding="utf-8")
        archive.write(beside / "weights.npz", {"format": FORMAT}, arrays)
        os.replace(beside, folder)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def lower(graph: Graph) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return (tables for network.json, arrays for weights.npz); errors as in `write_lava`."""
    if graph.stage != "scheduled":
        raise InputError("only a scheduled graph has wall-clock times", where="lava", found=graph.stage)
    graph = split_groups(graph)
    arrays = _Arrays()
    tables: dict[str, Any] = {"format": FORMAT, "lava": LAVA_VERSION, "timesteps": graph.timesteps}
    tables |= {name: [] for name in ("inputs", "currents", "synapses", "products", "populations", "readouts")}
    for order, node in enumerate(graph.nodes):
        match node:
            case fixed.FixedInput():
                table, row = "inputs", _input(graph, node)
            case fixed.HeldCurrent():
                table, row = "currents", _current(graph, node, arrays)
            case fixed.Synapse():
                table, row = "synapses", _synapse(graph, node, arrays)
            case fixed.Received():
                _sources(graph, node, (fixed.Synapse,))
                check_host(graph, node)
                table, row = "products", host_row(graph, node, arrays.add)
            case fixed.Product():
                _sources(graph, node, (fixed.FixedLIF,))
                table, row = "products", product_row(graph, node, arrays.add)
            case fixed.FixedLIF():
                table, row = "populations", _population(graph, node, arrays)
            case fixed.FixedReadout():
                table, row = "readouts", _readout(graph, node, arrays)
            case _:
                raise CapabilityError("no Lava Process for this node", where=node.name, found=node.kind)
        tables[table].append({"name": node.name, "shape": list(node.shape), "order": order} | row)
    return tables, arrays.by_name


class _Arrays:
    """Arrays under short names, in the smallest integer type that holds them; equal ones once."""

    def __init__(self) -> None:
        self.by_name: dict[str, Array] = {}
        self._known: dict[str, str] = {}  # digest to name

    def add(self, array: Array) -> str:
        whole = np.asarray(array)
        if not np.issubdtype(whole.dtype, np.integer):
            raise InputError("array is not of integers", where="lava", found=whole.dtype)
        small = next(t for t in (np.int16, np.int32, np.int64) if (whole.astype(t) == whole).all())
        array = np.ascontiguousarray(whole, dtype=small)
        digest = hashlib.sha256(f"{array.dtype.str}{whole.shape}".encode() + array.tobytes()).hexdigest()
        name = self._known.setdefault(digest, f"a{len(self.by_name):04d}")
        self.by_name.setdefault(name, array.reshape(whole.shape))
        return name


def _input(graph: Graph, node: fixed.FixedInput) -> dict[str, Any]:
    played = any(isinstance(reader, fixed.Synapse) for reader in graph.readers[node.name])
    steps = node.steps or graph.timesteps
    return {
        "coding": node.coding,
        "low": node.low,
        "high": node.high,
        "step": node.step,
        "steps": steps,
        "played": played,
    }


def _current(graph: Graph, node: fixed.HeldCurrent, arrays: _Arrays) -> dict[str, Any]:
    (source,) = _sources(graph, node, (fixed.FixedInput,))
    return _weights(node, node.weight, source, arrays) | {
        "input": source.name,
        "bias": arrays.add(_flat(node.bias, node)),
        "shift": node.shift,
        "port": node.port,
    }


def _synapse(graph: Graph, node: fixed.Synapse, arrays: _Arrays) -> dict[str, Any]:
    (source,) = _sources(graph, node, (fixed.FixedInput, fixed.FixedLIF, fixed.Product))
    check_synapse(node)
    late = node.output_delay if isinstance(node, fixed.FixedLinear) else None
    return _weights(node, node.weight_mant, source, arrays) | {
        "source": source.name,
        "weight_exp": int(node.weight_exp),
        "sign_mode": node.sign_mode,
        "delay": node.delay,
        "output_delay": None if late is None else arrays.add(late),
        "message_bits": message_bits(graph, source),
    }


def _population(graph: Graph, node: fixed.FixedLIF, arrays: _Arrays) -> dict[str, Any]:
    _sources(graph, node, (fixed.Synapse, fixed.HeldCurrent, fixed.Product))
    check_population(node)
    return {
        "inputs": list(node.inputs),
        "role": node.role,
        "threshold": _constant(node.threshold_mant, node, arrays),
        "reset": node.reset,
        "subtract": _constant(node.subtract, node, arrays),
        "decay_u": node.decay_u,
        "decay_v": node.decay_v,
        "bias": arrays.add(_flat(node.bias_mant, node)),
        "bias_exp": node.bias_exp,
        "reset_interval": node.reset_interval,
        "reset_offset": node.reset_phase + 1,
        "steps": node.steps,
        "offset": node.offset,
        "guard": needs_guard(graph, node),
    }


def _constant(value: int | Array, node: Node, arrays: _Arrays) -> int | str:
    """An integer for all neurons, or the name of an array with one for each."""
    return int(value) if np.ndim(value) == 0 else arrays.add(np.broadcast_to(value, node.shape).reshape(-1))


def _readout(graph: Graph, node: fixed.FixedReadout, arrays: _Arrays) -> dict[str, Any]:
    _sources(graph, node, (fixed.Synapse, fixed.FixedLIF))
    check_readout(graph, node)
    bias = arrays.add(np.broadcast_to(node.bias, node.shape))
    steps = None if node.step_weights is None else arrays.add(node.step_weights)
    row = {"inputs": list(node.inputs), "bias": bias, "scale": node.scale, "offset": node.offset}
    return row | {"step_weights": steps}


def _sources(graph: Graph, node: Node, allowed: tuple[type[Node], ...]) -> tuple[Node, ...]:
    """What ``node`` reads, if Lava can connect it.

    Raises:
        CapabilityError: another kind of source.
    """
    for source in graph.sources(node):
        if not isinstance(source, allowed):
            names = ", ".join(kind.__name__ for kind in allowed)
            raise CapabilityError(
                f"{node.kind} cannot read this in Lava", where=node.name, found=f"{source.name} ({source.kind})",
                limit=names,
            )  # fmt: skip
    return graph.sources(node)


def _weights(node: fixed.HeldCurrent | fixed.Synapse, weight: Array, source: Node, arrays: _Arrays) -> dict[str, Any]:
    """Matrix, or kernel and its geometry; the export expands kernels itself."""
    if weight.ndim == 2 or not isinstance(node, fixed.HeldCurrent | fixed.FixedConv2d):
        return {"kind": "linear", "weight": arrays.add(weight)}
    return {
        "kind": "conv",
        "weight": arrays.add(weight),
        "source_shape": list(image_shape(source.shape)),
        "stride": list(node.stride),
        "padding": list(node.padding),
        "dilation": list(node.dilation),
        "groups": node.groups,
    }


def _flat(bias: Array, node: Node) -> Array:
    """A bias for every neuron, flattened."""
    return np.broadcast_to(per_channel(np.asarray(bias), len(node.shape)), node.shape).reshape(-1)


def check_runtime(folder: Path) -> None:
    """Raise unless the code in an export is the code that this version writes: no other code is ever run.

    Raises:
        BackendError: a script is missing or differs.
    """
    for name in RUNTIME:
        path = folder / name
        if not path.is_file() or path.read_bytes() != (RUNTIME_FOLDER / name).read_bytes():
            raise BackendError(
                "is not the script that this version of avsnn writes, so it is not run",
                where=str(path),
                remedy="convert again, or run it yourself with Python 3.10 if you trust it",
            )
    known = {*RUNTIME, "network.json", "weights.npz"}
    extra = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()} - known
    if extra:  # Python and Lava would import it: a cache, an extension, a module beside a Process
        raise BackendError(
            "holds files that avsnn did not write", where=str(folder), found=", ".join(sorted(extra)[:5])
        )
