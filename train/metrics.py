"""A module and samples to how good its answers are: accuracy, directions, confusions, spikes per neuron."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from avsnn.errors import InputError
from avsnn.train.data.dataset import Data
from avsnn.train.losses import CIRCLE_DEG, CrossEntropy, Loss
from avsnn.train.proportion import Proportion
from avsnn.train.rates import SpikeRates
from avsnn.train.samples import answers, batch_of, input_names

ETA_DEG = 2.5
"""A direction counts as found if it is less than this away (SLoClas; 5 on the part of DCASE 2019)."""

Integers = NDArray[np.int64]
Degrees = NDArray[np.float64]


def degrees_apart(found: Degrees, wanted: Degrees, *, circular: bool = True) -> Degrees:
    """Return |found - wanted|, by default the shorter way round.

    >>> degrees_apart(np.array([359.0, 90.0]), np.array([2.0, 95.0])).tolist()
    [3.0, 5.0]
    """
    apart = np.abs(found - wanted)
    return np.minimum(apart % CIRCLE_DEG, -apart % CIRCLE_DEG) if circular else apart


def right_answers(
    scores: NDArray[Any], classes: int, label: Integers, azimuth: NDArray[Any] | None = None
) -> NDArray[np.bool_]:
    """Return which answers are right: the class, and the direction where the network says one.

    Args:
        scores: (n, K), of which the first ``classes`` are of classes, all others of directions.
        classes: how many.
        label: (n,) classes.
        azimuth: (n,) degrees, None where no direction is asked for.
    """
    right: NDArray[np.bool_] = scores[:, :classes].argmax(axis=1) == label
    if azimuth is None or scores.shape[1] <= classes:
        return right
    step = CIRCLE_DEG / (scores.shape[1] - classes)
    direction = (scores[:, classes:].argmax(axis=1) + 1) * step
    return right & (degrees_apart(direction, azimuth.astype(np.float64)) < ETA_DEG)


@dataclass(frozen=True, kw_only=True)
class Localisation:
    """Directions against the truth.

    Attributes:
        mae_deg: mean absolute error, the shorter way round.
        mae_plain_deg: mean of |found - wanted| (eq. 20 of SpikSLC-Net): 359 and 1 are 358 apart.
        within: samples strictly less than ``eta_deg`` off, the shorter way round.
        joint: of these, the ones whose class is right too.
        eta_deg: the tolerance.
    """

    mae_deg: float
    mae_plain_deg: float
    within: Proportion
    joint: Proportion
    eta_deg: float

    def record(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "mae_deg": round(self.mae_deg, 6),
            "mae_plain_deg": round(self.mae_plain_deg, 6),
            "eta_deg": self.eta_deg,
            "within": self.within.record(),
            "joint": self.joint.record(),
        }


def localise(found: Degrees, wanted: Degrees, right: NDArray[np.bool_], eta_deg: float = ETA_DEG) -> Localisation:
    """Return how good directions are.

    Args:
        found: (n,) degrees.
        wanted: (n,) degrees.
        right: (n,) whether the class is right.
        eta_deg: an error of exactly this much is too much.
    """
    apart = degrees_apart(found, wanted)
    near = apart < eta_deg
    return Localisation(
        mae_deg=float(apart.mean()),
        mae_plain_deg=float(degrees_apart(found, wanted, circular=False).mean()),
        within=Proportion(correct=int(near.sum()), count=len(near)),
        joint=Proportion(correct=int((near & right).sum()), count=len(near)),
        eta_deg=eta_deg,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Confusion:
    """``counts[i, k]``: samples of class i that were taken for class k."""

    counts: Integers

    @staticmethod
    def of(wanted: Integers, found: Integers, classes: int) -> Confusion:
        """Count the pairs of ``wanted`` and ``found`` (n,) classes."""
        flat = np.bincount(wanted * classes + found, minlength=classes * classes)
        return Confusion(counts=flat.reshape(classes, classes).astype(np.int64))

    def shares(self) -> NDArray[np.float64]:
        """Return the counts divided by their row's sum; a row without samples is 0."""
        return self.counts / np.maximum(1, self.counts.sum(axis=1, keepdims=True))

    def record(self) -> dict[str, Any]:
        """Return samples and counts per class and the shares as JSON values."""
        return {
            "samples": self.counts.sum(axis=1).tolist(),
            "counts": self.counts.tolist(),
            "shares": self.shares().round(6).tolist(),
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """Accuracy, mean loss, spikes per neuron and step of each population, confusions, and directions if there are.

    ``right[i]``: whether sample i counts in ``score``; `avsnn.train.proportion.PairedDifference` takes two networks'.
    """

    accuracy: Proportion
    right: NDArray[np.bool_]
    loss: float
    rates: dict[str, float]
    confusion: Confusion
    localisation: Localisation | None = None

    @property
    def score(self) -> Proportion:
        """What a run is judged by: class and direction right where there are directions, else the class."""
        return self.accuracy if self.localisation is None else self.localisation.joint


def evaluate(
    module: nn.Module,
    data: Data,
    *,
    loss: Loss | None = None,
    batch: int = 100,
    device: str | torch.device = "cpu",
    eta_deg: float = ETA_DEG,
) -> Evaluation:
    """Return how well ``module`` does on ``data``, in evaluation mode and full precision; its mode is left as it was.

    Args:
        module: answers by name, see `avsnn.train.samples.answers`; on ``device``.
        data: at least one sample.
        loss: cross-entropy without smoothing if None.
        batch: samples at a time.
        device: where to compute.
        eta_deg: tolerance of directions.

    Raises:
        InputError: no samples, or inputs that the data set lacks.
    """
    count = len(data)
    if not count:
        raise InputError("there is nothing to evaluate", where="data", found=0)
    judge, names = CrossEntropy(label_smoothing=0.0) if loss is None else loss, input_names(module)
    was_training, total, classes = module.training, 0.0, 0
    found: dict[str, list[NDArray[Any]]] = {"label": [], "azimuth": []}
    with torch.no_grad(), SpikeRates(module.eval()) as meter:
        for start in range(0, count, batch):
            one = batch_of(data[start : start + batch], names, device)
            outputs = answers(module, one.inputs)
            total += float(judge(outputs, one.targets)) * len(one.targets["label"])
            classes = outputs["scores"].shape[1]
            found["label"].append(outputs["scores"].argmax(1).cpu().numpy())
            if "azimuth" in outputs:
                step = CIRCLE_DEG / outputs["azimuth"].shape[1]
                found["azimuth"].append((outputs["azimuth"].argmax(1).cpu().numpy() + 1) * step)
    module.train(was_training)
    wanted, labels = data.targets(), np.concatenate(found["label"])
    right = labels == wanted["label"]
    place, both = None, right
    if found["azimuth"] and "azimuth" in wanted:
        directions, truth = np.concatenate(found["azimuth"]), wanted["azimuth"].astype(np.float64)
        place = localise(directions, truth, right, eta_deg)
        both = right & (degrees_apart(directions, truth) < eta_deg)
    return Evaluation(
        accuracy=Proportion(correct=int(right.sum()), count=count),
        right=both,
        loss=total / count,
        rates=meter.rates(),
        confusion=Confusion.of(wanted["label"], labels, classes),
        localisation=place,
    )
