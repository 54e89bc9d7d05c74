"""What the user names on the command line to arrays: checkpoints, modules, labelled samples."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from avsnn.convert.ir.fixed_interpreter import to_integers
from avsnn.convert.ir.fixed_nodes import FixedInput
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.interpreter import check_input
from avsnn.convert.ir.node import Array
from avsnn.convert.ir.nodes import Input
from avsnn.errors import InputError

EMBEDDED = ("avdigits",)
UNREADABLE = (ValueError, OSError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True, kw_only=True, eq=False)
class Labelled:
    """Inputs by name with their labels (B,)."""

    name: str
    inputs: Mapping[str, Array]
    labels: Array

    @classmethod
    def generated(cls, graph: Graph, samples: int) -> Labelled:
        """Random inputs over the declared ranges, for networks that come without data."""
        rng = np.random.default_rng(0)
        inputs = {}
        for node in graph.of(FixedInput):
            lead = (samples,) if node.coding == "direct" else (graph.timesteps, samples)
            inputs[node.name] = rng.integers(node.low, node.high + 1, size=(*lead, *node.shape)) * node.step
        return cls(name="generated inputs", inputs=inputs, labels=np.zeros(samples, dtype=np.int64))


def labelled(name: str | None) -> Labelled | None:
    """Embedded data (its frozen evaluation set) or an .npz with the inputs by name and ``label``.

    Raises:
        InputError: no such file or data set, or arrays that do not fit together.
    """
    if name is None:
        return None
    if name == "avdigits":
        from avsnn.train.data.avdigits import frozen

        pairs = frozen()
        return Labelled(name="avdigits (frozen test set)", inputs=pairs.inputs(), labels=pairs.label)
    arrays = load_npz(name)
    if "label" not in arrays:
        remedy = "add it: one class number per sample"
        raise InputError("no array 'label'", where=name, found=", ".join(arrays) or "nothing", remedy=remedy)
    labels = arrays.pop("label")
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        remedy = "give one class number per sample"
        found = f"{labels.dtype} {labels.shape}"
        raise InputError("labels must be a row of integers", where=f"{name}: label", found=found, remedy=remedy)
    return Labelled(name=Path(name).name, inputs=as_values(arrays), labels=labels.astype(np.int64))


def check_samples(graph: Graph, inputs: Mapping[str, Array], labels: Array | None, where: str) -> None:
    """Look at every sample before any is run.

    Args:
        graph: of any stage.
        inputs: by name.
        labels: (B,), or None if there are none.
        where: file or option that they came from, for messages.

    Raises:
        InputError: an array that the network does not know, lacks, or cannot take; counts or labels that do not fit.
    """
    nodes = [node for node in graph if isinstance(node, Input | FixedInput)]
    known = ", ".join(node.name for node in nodes)
    if unknown := sorted(set(inputs) - {node.name for node in nodes}):
        remedy = "name the arrays as the network's inputs"
        raise InputError("no such input", where=where, found=", ".join(unknown), limit=known, remedy=remedy)
    try:
        to_integers(graph, inputs)
        for source in graph.of(Input):
            check_input(source, inputs, graph.timesteps)
    except InputError as error:
        remedy = error.remedy or f"the network takes {known}"
        place = f"{where}: {error.where}"
        raise InputError(error.what, where=place, found=error.found, limit=error.limit, remedy=remedy) from None
    counts = {} if labels is None else {"label": len(labels)}
    for node in nodes:
        counts[node.name] = np.shape(inputs[node.name])[0 if node.coding == "direct" else 1]
    if len(set(counts.values())) > 1 or 0 in counts.values():
        listed = ", ".join(f"{count} of {name}" for name, count in counts.items())
        raise InputError("numbers of samples do not fit", where=where, found=listed, limit="1 or more, all the same")
    classes = graph[graph.outputs[0]].shape[0]
    if labels is not None and not (labels.min() >= 0 and labels.max() < classes):
        span = f"{labels.min()} to {labels.max()}"
        raise InputError("label of no class", where=f"{where}: label", found=span, limit=f"0 to {classes - 1}")


def check_count(option: str, value: float | None) -> None:
    """Refuse what is not above zero.

    Raises:
        InputError: naming the option.
    """
    if value is not None and not value > 0:  # NaN, too
        raise InputError("must be above zero", where=option, found=value, remedy=f"leave {option} out or raise it")


def load_npz(name: str) -> dict[str, Array]:
    """Arrays of an .npz file; pickles in it are refused."""
    if not Path(name).is_file():
        raise InputError("no such file or data set", where=name, limit=", ".join((*EMBEDDED, "FILE.npz")))
    remedy = "write it with numpy.savez"
    try:
        with zipfile.ZipFile(name):  # np.load takes other files as well
            pass
        with np.load(name, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (*UNREADABLE, MemoryError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"not an .npz of plain arrays ({reason})", where=name, remedy=remedy) from None
    for key, array in arrays.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
            found = getattr(array, "dtype", "no array")
            raise InputError("not an array of numbers", where=f"{name}: {key}", found=found, remedy=remedy)
    return arrays


def as_values(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """uint8 arrays stand for 0 to 1 in steps of 1/255, as `avsnn data make` writes them; others stay as they are."""
    return {k: x.astype(np.float64) / 255 if x.dtype == np.uint8 else x for k, x in arrays.items()}


def load_source(model: str, factory: str | None, calibration: str | None) -> tuple[Any, Any, str | None]:
    """(what `convert` takes, calibration inputs or None, name of the data that the checkpoint was trained on)."""
    given = as_values(load_npz(calibration)) if calibration else None
    if given is not None:
        given.pop("label", None)  # of training data that `avsnn data make` wrote
    if factory is None:
        from avsnn.train.checkpoints import load

        checkpoint = load(model)
        trained_on = checkpoint.training.get("data")
        name = trained_on.get("name") if isinstance(trained_on, dict) else None
        return checkpoint, given, name if name in EMBEDDED else None
    if given is None:
        raise InputError("a module needs training inputs", where="--module", remedy="pass --calibration FILE.npz")
    _check_training(given, str(calibration))
    from avsnn.train.user_modules import load_module

    return load_module(factory, model), given, None


def _check_training(inputs: Mapping[str, Array], where: str) -> None:
    """What can be said before the module is traced, which fails less clearly."""
    sizes = {name: x.shape for name, x in inputs.items()}
    listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
    if not sizes or any(len(size) < 2 or 0 in size for size in sizes.values()):
        raise InputError(
            "holds no samples", where=where, found=listed or "nothing", limit="(batch, ...) or (time, batch, ...)"
        )
    if len({size[0] for size in sizes.values()}) > 1:  # the batch, or T of sequences
        raise InputError("numbers of samples do not fit", where=where, found=listed, limit="all the same")
