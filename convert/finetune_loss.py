"""Answers of an integer network to one number to make small: what is right, and what the real network answered.

Scores are divided by the temperature at which the real network's own scores predict best (Guo et al., 2017), so that
read-outs of any unit can be compared; then the loss is cross-entropy with the labels and with the real network's
probabilities (Hinton et al., 2015). Outputs behind the classes say directions: there the targets of `SoundLocation`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from avsnn.convert.ir.node import Array
from avsnn.train.losses import gaussian_directions

TEMPERATURES = 2.0 ** np.arange(-8, 8.25, 0.25)
WIDTH_DEG = 5.0


@dataclass(frozen=True, kw_only=True)
class TunedLoss:
    """``share_teacher * distance to the teacher + (1 - share_teacher) * distance to the labels``, means over a batch.

    Attributes:
        classes: outputs that are scores of classes; those behind them are directions.
        temperature: that scores are divided by.
        teacher: share of the teacher.
    """

    classes: int
    temperature: float
    teacher: float

    def __call__(self, answers: Tensor, taught: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """Return the loss of answers (B, K), those of the teacher (B, K), and targets by name, of the first (b,)."""
        scores, wanted = (x[:, : self.classes] / self.temperature for x in (answers, taught))
        soft = functional.cross_entropy(scores, wanted.softmax(1))
        told = len(targets["label"])
        hard = functional.cross_entropy(scores[:told], targets["label"])
        if "azimuth" in targets and answers.shape[1] > self.classes:
            found, said = (x[:, self.classes :].sigmoid() for x in (answers, taught))
            truth = gaussian_directions(targets["azimuth"], WIDTH_DEG, found.shape[1]).to(found)
            soft = soft + (found - said).square().sum(1).mean()
            hard = hard + (found[:told] - truth).square().sum(1).mean()
        return self.teacher * soft + (1 - self.teacher) * hard


def best_temperature(scores: Array, label: Array) -> float:
    """Return the temperature at which ``softmax(scores / t)`` (N, K) gives labels (N,) the highest likelihood."""
    whole, wanted = torch.from_numpy(scores.astype(np.float64)), torch.from_numpy(label)
    losses = [float(functional.cross_entropy(whole / t, wanted)) for t in TEMPERATURES]
    return float(TEMPERATURES[int(np.argmin(losses))])
