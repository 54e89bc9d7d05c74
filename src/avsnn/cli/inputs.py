"""What the user names on the command line to arrays: checkpoints, modules, labelled samples."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from avsnn.convert.bundle import Bundle
from avsnn.convert.ir.fixed_interpreter import to_integers
from avsnn.convert.ir.fixed_nodes import FixedInput
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.interpreter import check_input
from avsnn.convert.ir.node import Array
from avsnn.convert.ir.nodes import Input
from avsnn.errors import InputError

EMBEDDED = ("avdigits", "avdigits-events", "sloclas-sim")
TARGETS = ("label", "azimuth")
TEST_SAMPLES, TEST_SEED = 500, 2  # of embedded data without a frozen test set
UNREADABLE = (ValueError, OSError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True, kw_only=True, eq=False)
class Labelled:
    """Inputs by name with their labels (B,), and directions in degrees (B,) where they are to be found as well."""

    name: str
    inputs: Mapping[str, Array]
    labels: Array
    azimuth: Array | None = None

    def right(self, scores: Array, classes: int) -> Array:
        """Which answers (B, K) are right: the best of the first ``classes``, and the direction among the others."""
        from avsnn.train.metrics import right_answers

        return right_answers(scores, classes, self.labels, self.azimuth)

    def part(self, count: int) -> Labelled:
        """The first samples' labels and directions, without inputs."""
        azimuth = None if self.azimuth is None else self.azimuth[:count]
        return Labelled(name=self.name, inputs={}, labels=self.labels[:count], azimuth=azimuth)

    @classmethod
    def generated(cls, graph: Graph, samples: int) -> Labelled:
        """Random inputs over the declared ranges, for networks that come without data."""
        rng = np.random.default_rng(0)
        inputs = {}
        for node in graph.of(FixedInput):
            lead = (samples,) if node.coding == "direct" else (node.steps or graph.timesteps, samples)
            inputs[node.name] = rng.integers(node.low, node.high + 1, size=(*lead, *node.shape)) * node.step
        return cls(name="generated inputs", inputs=inputs, labels=np.zeros(samples, dtype=np.int64))


@dataclass(frozen=True, kw_only=True)
class TrainedOn:
    """The embedded data set of a training record, if it was one, its options, and how many samples were drawn."""

    name: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    pairs: int | None = None

    @classmethod
    def of(cls, training: Mapping[str, Any]) -> TrainedOn:
        """What ``training`` says, as far as it says it properly: nothing that a checkpoint holds is trusted."""
        data = training.get("data")
        if not isinstance(data, dict) or data.get("name") not in EMBEDDED:
            return cls()
        values, pairs = data.get("values"), data.get("pairs")
        return cls(
            name=str(data["name"]),
            values=values if isinstance(values, dict) else {},
            pairs=pairs if isinstance(pairs, int) and pairs > 0 else None,
        )


def labelled(
    name: str | None, *, values: Mapping[str, Any] | None = None, steps: Mapping[str, float] | None = None
) -> Labelled | None:
    """Test samples of embedded data, or an .npz with the inputs by name and ``label``.

    Args:
        name: a data set or a file.
        values: options of an embedded data set.
        steps: of the network's inputs, see `as_values`; what it does not take of embedded data is left out.

    Raises:
        InputError: no such file or data set, or arrays that do not fit together.
    """
    if name is None:
        return None
    if name in EMBEDDED:
        known = _embedded(name, values or {})
        taken = {key: x for key, x in known.inputs.items() if steps is None or key in steps}
        return replace(known, inputs=taken)  # a network may see or hear only
    arrays = load_npz(name)
    if "label" not in arrays:
        remedy = "add it: one class number per sample"
        raise InputError("no array 'label'", where=name, found=", ".join(arrays) or "nothing", remedy=remedy)
    targets = {key: arrays.pop(key) for key in TARGETS if key in arrays}
    for key, target in targets.items():
        if target.ndim != 1 or target.dtype.kind not in "iu":
            what, remedy = f"{key}s must be a row of integers", "give one per sample"
            raise InputError(what, where=f"{name}: {key}", found=f"{target.dtype} {target.shape}", remedy=remedy)
    azimuth = targets.get("azimuth")
    if azimuth is not None and len(azimuth) != len(targets["label"]):
        found = f"{len(azimuth)} directions, {len(targets['label'])} labels"
        raise InputError("numbers of samples do not fit", where=name, found=found)
    labels = targets["label"].astype(np.int64)
    return Labelled(name=Path(name).name, inputs=as_values(arrays, steps), labels=labels, azimuth=azimuth)


def _embedded(name: str, values: Mapping[str, Any]) -> Labelled:
    if name == "avdigits" and not values:
        from avsnn.train.data.avdigits import frozen

        pairs = frozen()
        return Labelled(name="avdigits (frozen test set)", inputs=pairs.inputs(), labels=pairs.label)
    from avsnn.train.data import catalogue

    data = catalogue.make(name, TEST_SAMPLES, split="test", seed=TEST_SEED, values=values)
    goals, steps = data.targets(), {key: spec["step"] for key, spec in data.input_spec().items()}
    arrays = {key: x for key, x in data.arrays().items() if key in steps}
    where = f"{name} (test split, seed {TEST_SEED})"
    return Labelled(name=where, inputs=as_values(arrays, steps), labels=goals["label"], azimuth=goals.get("azimuth"))


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


def as_values(arrays: Mapping[str, Array], steps: Mapping[str, float] | None = None) -> dict[str, Array]:
    """Integers of a network's input stand for multiples of its step, as `avsnn data make` writes them.

    Where no step is known, uint8 stands for 0 to 1 in steps of 1/255 and other arrays stay as they are.
    """
    known = steps or {}

    def value(name: str, x: Array) -> Array:
        if x.dtype.kind in "iu" and name in known:
            return x.astype(np.float64) * known[name]
        return x.astype(np.float64) / 255 if x.dtype == np.uint8 else x

    return {name: value(name, x) for name, x in arrays.items()}


def steps_of(graph: Graph) -> dict[str, float]:
    """What an integer 1 stands for, by input."""
    return {node.name: node.step for node in graph if isinstance(node, Input | FixedInput)}


def load_bundle(folder: str, calibration: str | None) -> tuple[Bundle, Any]:
    """(bundle to convert again, training inputs of a file or of the checkpoint that it came from).

    Raises:
        InputError: no bundle, one that was changed, or no training inputs, which a bundle does not hold.
    """
    bundle = Bundle.load(folder)
    if calibration is None:
        remedy = "pass --calibration FILE.npz, or the checkpoint it was made from"
        raise InputError("a bundle does not hold training inputs", where=folder, remedy=remedy)
    if Path(calibration).suffix == ".pt":
        from avsnn.train.checkpoints import load

        return bundle, load(calibration).calibration
    arrays = {key: array for key, array in load_npz(calibration).items() if key not in TARGETS}
    return bundle, as_values(arrays, steps_of(bundle.graph("traced")))


def load_source(model: str, factory: str | None, calibration: str | None) -> tuple[Any, Any, TrainedOn]:
    """(what `convert` takes, calibration inputs or None, the embedded data that the checkpoint was trained on)."""
    arrays = load_npz(calibration) if calibration else None
    if arrays is not None:  # training data that `avsnn data make` wrote
        arrays = {key: array for key, array in arrays.items() if key not in TARGETS}
    if factory is None:
        from avsnn.train.checkpoints import load

        checkpoint = load(model)
        steps = {name: float(spec.get("step", 1 / 255)) for name, spec in checkpoint.input_spec.items()}
        return checkpoint, None if arrays is None else as_values(arrays, steps), TrainedOn.of(checkpoint.training)
    given = None if arrays is None else as_values(arrays)
    if given is None:
        raise InputError("a module needs training inputs", where="--module", remedy="pass --calibration FILE.npz")
    _check_training(given, str(calibration))
    from avsnn.train.user_modules import load_module

    return load_module(factory, model), given, TrainedOn()


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
