"""What the user names on the command line to arrays: checkpoints, modules, labelled samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from avsnn.convert.ir.fixed_nodes import FixedInput
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array
from avsnn.errors import InputError

EMBEDDED = ("avdigits",)


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
        raise InputError("no array 'label'", where=name, found=", ".join(arrays))
    labels = arrays.pop("label").astype(np.int64)
    return Labelled(name=Path(name).name, inputs=as_values(arrays), labels=labels)


def load_npz(name: str) -> dict[str, Array]:
    """Arrays of an .npz file; pickles in it are refused."""
    if not Path(name).is_file():
        raise InputError("no such file or data set", where=name, limit=", ".join((*EMBEDDED, "FILE.npz")))
    try:
        with np.load(name, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"not an .npz of plain arrays ({error})", where=name) from None


def as_values(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """uint8 arrays stand for 0 to 1 in steps of 1/255, as `avsnn data make` writes them; others stay as they are."""
    return {k: x.astype(np.float64) / 255 if x.dtype == np.uint8 else x for k, x in arrays.items()}


def load_source(model: str, factory: str | None, calibration: str | None) -> tuple[Any, Any, str | None]:
    """(what `convert` takes, calibration inputs or None, name of the data that the checkpoint was trained on)."""
    given = as_values(load_npz(calibration)) if calibration else None
    if factory is None:
        from avsnn.train.checkpoints import load

        checkpoint = load(model)
        trained_on = checkpoint.training.get("data")
        name = trained_on.get("name") if isinstance(trained_on, dict) else None
        return checkpoint, given, name if name in EMBEDDED else None
    if given is None:
        raise InputError("a module needs training inputs", where="--module", remedy="pass --calibration FILE.npz")
    from avsnn.train.user_modules import load_module

    return load_module(factory, model), given, None
