"""What a network answers and what it should have answered, to one number to make small.

A loss is a frozen dataclass of its parameters, called with the ``outputs`` of a model and the targets of a data set,
both by name. Parameters that the network's configuration also has (``timesteps``, ``sao`` ...) are taken from there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from avsnn.errors import InputError
from avsnn.train.models.config import build_config, parse_overrides, unknown_name

CIRCLE_DEG = 360

Named = Mapping[str, Tensor]


class Loss(Protocol):
    """Outputs and targets by name to a scalar."""

    def __call__(self, outputs: Named, targets: Named) -> Tensor:
        """Return the mean over the batch."""


@dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    """``-mean_i sum_k q[i, k] log softmax(scores[i])[k]``.

    ``q`` is 1 - e + e / K at the label and e / K elsewhere, ``e = label_smoothing`` (Szegedy et al., 2016).
    """

    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        _check_share("label_smoothing", self.label_smoothing)

    def __call__(self, outputs: Named, targets: Named) -> Tensor:
        """Return the mean over the batch of ``outputs["scores"]`` (B, K) with ``targets["label"]`` (B,)."""
        return self.of("scores", outputs, targets)

    def of(self, name: str, outputs: Named, targets: Named) -> Tensor:
        """Return the same of the output called ``name``."""
        scores = _output(outputs, name)
        return functional.cross_entropy(scores, targets["label"], label_smoothing=self.label_smoothing)


def class_alignment(audio: Tensor, image: Tensor, label: Tensor, temperature: float) -> Tensor:
    """Return SAO as in S-CMRL's reference code: ``-mean_ij [y_i = y_j] log softmax_j(a_i . v_j / temperature)``.

    The mean is over all B x B entries, those of other classes (zeros) included, audio rows only, nothing normalised.

    Args:
        audio: (B, D) features, averages over steps and tokens.
        image: (B, D).
        label: (B,) classes; all pairs of one class are positives.
        temperature: above 0.
    """
    scores = functional.log_softmax(audio @ image.T / temperature, dim=1)
    return -(scores * (label[:, None] == label[None, :])).mean()


def instance_alignment(audio: Tensor, image: Tensor, temperature: float) -> Tensor:
    """Return SAO as in eq. 17 of He et al. (2025): ``-mean_ti log softmax_j(a_ti . v_tj / temperature)[i]``.

    The printed denominator repeats the index i, which would make the loss constant: it is read as j.

    Args:
        audio: (T, B, D) features, averages over tokens.
        image: (T, B, D).
        temperature: above 0.
    """
    scores = functional.log_softmax(audio @ image.mT / temperature, dim=2)
    return -scores.diagonal(dim1=1, dim2=2).mean()


@dataclass(frozen=True, kw_only=True)
class AlignedCrossEntropy:
    """``cross entropy + sao_weight * SAO`` (S-CMRL), the features being ``audio_features`` and ``image_features``.

    ``sao`` is ``"class"`` (`class_alignment`), ``"instance"`` (`instance_alignment`) or ``"off"``.
    """

    label_smoothing: float = 0.1
    sao: str = "class"
    sao_weight: float = 1.0
    sao_temperature: float = 0.1

    def __post_init__(self) -> None:
        _check_share("label_smoothing", self.label_smoothing)
        _check_choice("sao", self.sao, ("off", "class", "instance"))
        _check_positive("sao_temperature", self.sao_temperature)

    def __call__(self, outputs: Named, targets: Named) -> Tensor:
        """Return the mean over the batch."""
        loss = CrossEntropy(label_smoothing=self.label_smoothing)(outputs, targets)
        if self.sao == "off":
            return loss
        audio, image = (_output(outputs, f"{name}_features") for name in ("audio", "image"))
        if audio.ndim != (wanted := 2 if self.sao == "class" else 3):
            raise InputError(
                f"features of sao={self.sao} have other axes", where="loss", found=audio.ndim, limit=wanted
            )
        if self.sao == "class":
            extra = class_alignment(audio, image, targets["label"], self.sao_temperature)
        else:
            extra = instance_alignment(audio, image, self.sao_temperature)
        return loss + self.sao_weight * extra


@dataclass(frozen=True, kw_only=True)
class ThreeHeads:
    """CMCI: the cross-entropies of ``scores``, ``image_scores`` and ``audio_scores`` added (Jiang et al., 2023)."""

    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        _check_share("label_smoothing", self.label_smoothing)

    def __call__(self, outputs: Named, targets: Named) -> Tensor:
        """Return the mean over the batch."""
        one = CrossEntropy(label_smoothing=self.label_smoothing)
        return (
            one(outputs, targets) + one.of("image_scores", outputs, targets) + one.of("audio_scores", outputs, targets)
        )


@dataclass(frozen=True, kw_only=True)
class SpikeCount:
    """Mean squared difference of ``counts`` (B, K) from r T: ``high`` of the steps for the label, ``low`` else.

    ``target="integer"`` is what snnTorch computes: r T truncated to whole spikes, the mean divided by T.
    ``"real"`` is what is usually printed: r T as it is, not divided.
    """

    timesteps: int = 8
    high: float = 0.9
    low: float = 0.1
    target: str = "integer"

    def __post_init__(self) -> None:
        _check_choice("target", self.target, ("integer", "real"))
        if self.timesteps < 1:
            raise InputError("there must be a step", where="loss.timesteps", found=self.timesteps)
        if not 0 <= self.low < self.high <= 1:
            raise InputError(
                "rates must rise", where="loss.low, loss.high", found=(self.low, self.high), limit="0 to 1"
            )

    def wanted(self) -> tuple[float, float]:
        """Return the spikes wanted of the right and of a wrong class."""
        high, low = self.high * self.timesteps, self.low * self.timesteps
        if self.target == "real":
            return high, low
        return float(int(high + 1e-9)), float(int(low + 1e-9))  # 0.7 * 10 is 7 spikes, not 6.999...

    def __call__(self, outputs: Named, targets: Named) -> Tensor:
        """Return the mean over batch and classes."""
        counts = _output(outputs, "counts")
        high, low = self.wanted()
        wanted = torch.full_like(counts, low).scatter_(1, targets["label"][:, None], high)
        loss = functional.mse_loss(counts, wanted)
        return loss / self.timesteps if self.target == "integer" else loss


@dataclass(frozen=True, kw_only=True)
class SoundLocation:
    """``weight * sum_k (p_k - o_k)^2 + (1 - weight) * cross entropy``: where a sound comes from, and what it is.

    ``o`` is ``sigmoid(outputs["azimuth"])`` (B, 360) (or the output itself without ``squash``),
    ``p_k = exp(-d(k, azimuth)^2 / width^2)`` with d the circular distance in degrees; the sum is over directions, of
    which output k of K stands for ``(k + 1) 360 / K`` degrees.
    """

    weight: float = 0.99
    width: float = 5.0
    squash: bool = True
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise InputError("is not a share", where="loss.weight", found=self.weight, limit="0 to 1")
        _check_positive("width", self.width)
        _check_share("label_smoothing", self.label_smoothing)

    def __call__(self, outputs: Named, targets: Named) -> Tensor:
        """Return the mean over the batch, ``targets["azimuth"]`` (B,) being degrees 1 to 360."""
        found = _output(outputs, "azimuth")
        wanted = gaussian_directions(targets["azimuth"], self.width, found.shape[1])
        where = ((found.sigmoid() if self.squash else found) - wanted).square().sum(1).mean()
        what = CrossEntropy(label_smoothing=self.label_smoothing)(outputs, targets)
        return self.weight * where + (1 - self.weight) * what


def gaussian_directions(azimuth: Tensor, width: float, directions: int = CIRCLE_DEG) -> Tensor:
    """Return ``exp(-d^2 / width^2)`` (B, K), d the circular distance in degrees of each direction from ``azimuth``.

    Args:
        azimuth: (B,) degrees.
        width: in degrees.
        directions: K; number k stands for ``(k + 1) 360 / K`` degrees.
    """
    degrees = torch.arange(1, directions + 1, device=azimuth.device) * (CIRCLE_DEG / directions)
    apart = (degrees - azimuth[:, None]).abs() % CIRCLE_DEG
    apart = torch.minimum(apart, CIRCLE_DEG - apart)
    return torch.exp(-apart.square() / width**2)


LOSSES: dict[str, type[Any]] = {
    "cross_entropy": CrossEntropy,
    "aligned_cross_entropy": AlignedCrossEntropy,
    "three_heads": ThreeHeads,
    "spike_count": SpikeCount,
    "sound_location": SoundLocation,
}


def find_loss(name: str) -> type[Any]:
    """Return the class of the loss called ``name``.

    Raises:
        InputError: no such loss; the message lists all.
    """
    if name not in LOSSES:
        raise unknown_name(name, LOSSES, where="loss")
    return LOSSES[name]


def make_loss(name: str, values: Mapping[str, Any], config: Any = None) -> Loss:
    """Return the loss called ``name``: its parameters from ``values``, else from ``config``, else its own.

    Args:
        name: a key of `LOSSES`.
        values: parameters by name.
        config: the configuration of the network, of which fields with the name of a parameter count.

    Raises:
        InputError: an unknown loss or parameter (with the nearest), or a value that cannot be.
    """
    kind = find_loss(name)
    known = [part.name for part in dataclasses.fields(kind) if hasattr(config, part.name)]
    loss: Loss = build_config(kind, {**{part: getattr(config, part) for part in known}, **values})
    return loss


def parse_loss(name: str, texts: list[str]) -> dict[str, Any]:
    """Return the values that texts such as ``sao_weight=0.5`` give to parameters of the loss called ``name``.

    Raises:
        InputError: an unknown loss or parameter (with the nearest), or a text that is no value of it.
    """
    return parse_overrides(find_loss(name), texts)


def _output(outputs: Named, name: str) -> Tensor:
    if name not in outputs:
        raise InputError(
            f"needs an output called {name}", where="loss", found=", ".join(outputs), remedy="choose another loss"
        )
    return outputs[name]


def _check_share(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise InputError("is not a share", where=f"loss.{name}", found=value, limit="0 to below 1")


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise InputError("must be positive", where=f"loss.{name}", found=value)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError("unknown choice", where=f"loss.{name}", found=repr(value), limit=", ".join(choices))
