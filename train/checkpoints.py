"""A trained module to one safe file that holds all a conversion needs, and back to a module.

The file (`avsnn.archive`) has the weights under ``state.``, the traced graph under ``graph.`` (so it converts without
the code that made it; a network of the table that the tracer has no rule for goes without), calibration samples under
``calibration.``, and as JSON the model's name and configuration, the input spec, labels and the training record.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from avsnn import archive
from avsnn.errors import CheckpointError
from avsnn.train.models.config import build_config
from avsnn.train.models.table import MODELS, find_model

Array = NDArray[Any]

KIND = "avsnn checkpoint"
VERSION = 1
_FIELDS: dict[str, type] = {
    "name": str,
    "config": dict,
    "input_spec": dict,
    "labels": list,
    "training": dict,
    "graph": dict,
}
_SPEC_FIELDS = {"shape", "coding", "low", "high", "step"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """What a checkpoint file holds.

    Attributes:
        path: the file it came from.
        version: version of the file format.
        name: the model's name in `avsnn.train.models.table.MODELS`, or the user's own.
        config: the model's configuration as JSON values.
        state: weights and statistics by their name in ``state_dict``.
        input_spec: per input ``shape`` (without batch), ``coding``, and ``low``, ``high``, ``step`` of its values.
        labels: class names in the order of the outputs.
        training: how it was trained and how good it is.
        calibration: training samples by input name, (B, *shape).
        graph_meta: the traced graph's JSON; empty if there is none, and ``training["no_graph"]`` says why.
        graph_arrays: the traced graph's arrays.
    """

    path: Path
    version: int
    name: str
    config: dict[str, Any]
    state: dict[str, Array]
    input_spec: dict[str, dict[str, Any]]
    labels: tuple[str, ...] = ()
    training: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, Array] = field(default_factory=dict)
    graph_meta: dict[str, Any]
    graph_arrays: dict[str, Array]

    def build(self) -> nn.Module:
        """Return the module with these weights, in evaluation mode.

        Raises:
            CheckpointError: an unknown model, or weights that do not fit it.
            InputError: a configuration that the model does not know.
        """
        try:
            model = find_model(self.name)
        except ValueError as error:
            raise CheckpointError(f"cannot build the module ({error})", where=str(self.path)) from None
        module = model.build(build_config(model.config, self.config))
        state = {name: torch.from_numpy(array.copy()) for name, array in self.state.items()}
        try:
            module.load_state_dict(state, strict=True)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(f"weights do not fit the configuration ({reason})", where=str(self.path)) from None
        return module.eval()


def save(
    path: str | Path,
    module: nn.Module,
    *,
    example_inputs: Mapping[str, Array | Tensor],
    name: str,
    config: Mapping[str, Any],
    input_spec: Mapping[str, Mapping[str, Any]] | None = None,
    timesteps: int | None = None,
    labels: Sequence[str] = (),
    training: Mapping[str, Any] | None = None,
    calibration: Mapping[str, Array] | None = None,
) -> Path:
    """Trace ``module`` and write it to ``path``; the same arguments give the same bytes.

    Args:
        path: the file; replaced at once or not at all.
        module: any module that the tracer knows; its training mode is left as it was.
        example_inputs: one array (B, *shape) per parameter of ``forward``.
        name: the model's name in `avsnn.train.models.table.MODELS`, or your own (converts, but `build` cannot).
        config: JSON values from which the model is built again.
        input_spec: per input; without it, shapes as in ``example_inputs``, directly coded, 0 to 1 in steps of 1/255.
        timesteps: T; needed only if ``module`` does not say it itself (no `DirectCoding` inside).
        labels: class names in the order of the outputs.
        training: record of how it was trained, JSON values.
        calibration: samples of the training set, (B, *shape) per input, in the units that ``forward`` takes.

    Raises:
        CheckpointError: weights that are not finite, or a file that cannot be written.
        TraceError: the module holds something that the tracer does not know, and ``name`` is not in the table. A
            network of the table is saved without a graph, as it can be built, and so traced, again.
    """
    state = {key: value.detach().cpu().contiguous().numpy() for key, value in module.state_dict().items()}
    arrays = {f"state.{key}": value for key, value in state.items()}
    _check_finite(arrays, str(path))
    spec = _spec(example_inputs, input_spec, str(path))
    graph_meta, graph_arrays, missing = _graph(module, example_inputs, spec, timesteps, must=name not in MODELS)
    arrays |= {f"graph.{key}": value for key, value in graph_arrays.items()}
    arrays |= {f"calibration.{key}": np.asarray(value) for key, value in (calibration or {}).items()}
    meta = {
        "kind": KIND,
        "version": VERSION,
        "name": name,
        "config": dict(config),
        "input_spec": spec,
        "labels": list(labels),
        "training": {**(training or {}), **missing},
        "graph": graph_meta,
    }
    return archive.write(path, meta, arrays)


def _graph(
    module: nn.Module,
    example_inputs: Mapping[str, Array | Tensor],
    spec: Mapping[str, Mapping[str, Any]],
    timesteps: int | None,
    *,
    must: bool,
) -> tuple[dict[str, Any], dict[str, Array], dict[str, str]]:
    """The packed graph of ``module`` and nothing, or nothing and, for the training record, why there is none."""
    from avsnn.convert.ir.storage import pack  # the one upward import: a checkpoint carries its own graph
    from avsnn.convert.tracer import trace

    on_cpu = copy.deepcopy(module).cpu().eval()
    try:
        graph = trace(on_cpu, example_inputs, input_spec=spec, timesteps=timesteps)
    except Exception as error:  # whatever stops the tracer must not lose a network that took hours to train
        if must:
            raise
        return {}, {}, {"no_graph": str(error) or type(error).__name__}
    graph_meta, graph_arrays = pack(graph)
    return graph_meta, graph_arrays, {}


def first(value: Array, spec: Mapping[str, Any], count: int) -> Array:
    """Return the first ``count`` samples of an input, whose axis follows time if ``spec`` says it is a sequence."""
    return value[:count] if spec["coding"] == "direct" else value[:, :count]


def load(path: str | Path) -> Checkpoint:
    """Return what the checkpoint file ``path`` holds; nothing in it is executed.

    Raises:
        CheckpointError: missing, damaged, unsafe, not a checkpoint, of another version, or with weights that are not
            finite.
    """
    path = Path(path)
    meta, arrays = archive.read(path)
    if meta.get("kind") != KIND:
        raise CheckpointError("is not a checkpoint", where=str(path), found=repr(meta.get("kind")), limit=repr(KIND))
    if meta.get("version") != VERSION:
        raise CheckpointError(
            "unknown format version", where=str(path), found=meta.get("version"), limit=VERSION, remedy="update avsnn"
        )
    for key, kind in _FIELDS.items():
        if not isinstance(meta.get(key), kind):
            raise CheckpointError(f"{key} is missing or of the wrong type", where=str(path), limit=kind.__name__)
    _check_finite(arrays, str(path))
    return Checkpoint(
        path=path,
        version=VERSION,
        name=meta["name"],
        config=meta["config"],
        state=_under("state.", arrays),
        input_spec=_spec({}, meta["input_spec"], str(path)),
        labels=tuple(meta["labels"]),
        training=meta["training"],
        calibration=_under("calibration.", arrays),
        graph_meta=meta["graph"],
        graph_arrays=_under("graph.", arrays),
    )


def _under(prefix: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {name[len(prefix) :]: array for name, array in arrays.items() if name.startswith(prefix)}


def _check_finite(arrays: Mapping[str, Array], where: str) -> None:
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            bad = int(array.size - np.isfinite(array).sum())
            raise CheckpointError(
                f"tensor {name.partition('.')[2]} holds NaN or infinity", where=where, found=f"{bad} values"
            )


def _spec(
    examples: Mapping[str, Array | Tensor], given: Mapping[str, Mapping[str, Any]] | None, where: str
) -> dict[str, dict[str, Any]]:
    """Return a complete input spec: as ``given``, or the default for each of ``examples``."""
    if given is None:
        return {
            name: {"shape": list(value.shape[1:]), "coding": "direct", "low": 0.0, "high": 1.0, "step": 1 / 255}
            for name, value in examples.items()
        }
    for name, entry in given.items():
        if not isinstance(entry, Mapping) or set(entry) != _SPEC_FIELDS:
            raise CheckpointError(
                f"input spec of {name} is incomplete", where=where, found=entry, limit=", ".join(sorted(_SPEC_FIELDS))
            )
    if examples and set(examples) != set(given):
        raise CheckpointError(
            "input spec names other inputs", where=where, found=", ".join(given), limit=", ".join(examples)
        )
    return {name: {**entry, "shape": list(entry["shape"])} for name, entry in given.items()}
