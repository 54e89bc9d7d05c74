"""Features over time to spike counts of classes: the answer that the networks of Oikonomou et al. (2025) share.

The mean over steps, scaled to length 1, meets one row of length 1 per class; the cosines are a constant current into
output neurons, and the class whose neuron fires most often wins. What the paper leaves open has the values that its
counts demand: with cosines of at most 1 and a threshold of 1, 7 spikes in 8 steps need a decay of at least 0.9 and a
reset that subtracts (hard reset ends at 4 of 8), fired on ``>`` and subtracted one step later as snnTorch does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from avsnn.errors import InputError
from avsnn.train.layers import DirectCoding
from avsnn.train.neurons import LIF, Reset

TIE_BREAK = 0.25
"""Share of one spike that the evidence, squeezed to -1..1, adds to the counts: it orders equal counts alone."""

READOUTS = ("counts", "accumulate")
HEADS = ("cosine", "linear")


@dataclass(frozen=True, kw_only=True)
class CountingConfig:
    """Neurons, window and answer.

    ``beta``, ``v_threshold``, ``reset``, ``strict``, ``surrogate``: see `avsnn.train.neurons.LIF`; ``alpha`` 0 means
    the surrogate's own steepness. ``logit_scale`` multiplies the cosines, for resets that let too few spikes through.
    ``readout`` ``"counts"`` answers with spikes of the output neurons, equal counts in the order of the evidence;
    ``"accumulate"`` with the mean over steps of what the output layer sends, without the features' length and
    without output neurons: same winner as the cosines, and all of it can be spikes and weights on a chip. ``head``
    ``"linear"`` is what the paper compares with: a plain linear layer, weights and features of any length. ``high``
    and ``low`` are the shares of steps in which the output neuron of the right class and of the others should fire
    (read by the loss ``spike_count``).
    """

    timesteps: int = 8
    classes: int = 10
    beta: float = 0.95
    v_threshold: float = 1.0
    reset: str = "subtract_delayed"
    strict: bool = True
    surrogate: str = "atan"
    alpha: float = 0.0
    detach_membrane: bool = False
    detach_reset: bool = True
    logit_scale: float = 1.0
    readout: str = "counts"
    head: str = "cosine"
    high: float = 0.9
    low: float = 0.1

    def __post_init__(self) -> None:
        self.demand_positive("timesteps", "classes", "logit_scale")
        self.demand_choice("reset", get_args(Reset))
        self.demand_choice("readout", READOUTS)
        self.demand_choice("head", HEADS)
        lif(self)  # refuses what no neuron can be

    def demand_positive(self, *names: str) -> None:
        """Refuse fields called ``names`` that are not positive, or hold a value that is not."""
        for name in names:
            value = getattr(self, name)
            if not (all(v > 0 for v in value) and value if isinstance(value, tuple) else value > 0):
                raise self.refusal(name, "above 0")

    def demand_choice(self, name: str, choices: tuple[object, ...]) -> None:
        """Refuse a field called ``name`` whose value is none of ``choices``."""
        if getattr(self, name) not in choices:
            raise self.refusal(name, ", ".join(map(str, choices)))

    def refusal(self, name: str, limit: str) -> InputError:
        """Return the error for the field called ``name``."""
        return InputError(f"{name} is not possible", where=type(self).__name__, found=getattr(self, name), limit=limit)


def lif(config: CountingConfig) -> LIF:
    """Return the neurons of ``config``."""
    return LIF(
        v_threshold=config.v_threshold,
        reset=cast(Reset, config.reset),
        beta=config.beta,
        strict=config.strict,
        surrogate=config.surrogate,
        alpha=config.alpha or None,
        detach_membrane=config.detach_membrane,
        detach_reset=config.detach_reset,
    )


def unit(x: Tensor) -> Tensor:
    """Return ``x / |x|`` along the last axis; a vector of zeros stays as it is, with a gradient that is finite."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / torch.where(length > 0, length, 1.0)


class Unit(nn.Module):
    """`unit` as a module: one node to the tracer."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x / |x|``."""
        return unit(x)


class _UnitRows(nn.Module):
    """A weight (classes, features) with every row scaled to length 1."""

    def forward(self, weight: Tensor) -> Tensor:
        return unit(weight)


class CosineHead(nn.Module):
    """Features (T, B, D) of all steps to evidence, counts and scores (B, classes).

    ``cosine[j] = w[j] . z / (|w[j]| |z|)``, ``z = mean_t x[t]``; ``counts[j] = sum_t LIF(logit_scale * cosine[j])``.
    ``linear.weight`` reads as the scaled rows; what is trained is ``linear.parametrizations.weight.original``. With
    ``head="linear"`` it is ``w[j] . z`` in place of the cosine, and rows are trained as they are.
    """

    def __init__(self, features: int, config: CountingConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(features, config.classes, bias=False)
        self.normalises = config.head == "cosine"
        if self.normalises:
            parametrize.register_parametrization(self.linear, "weight", _UnitRows())
        self.scale, self.accumulates = config.logit_scale, config.readout == "accumulate"
        self.output = SpikeCounts(config)

    def outputs(self, features: Tensor) -> dict[str, Tensor]:
        """Return ``embedding`` (B, D) of length 1, ``logits``, ``counts`` and ``scores``, each (B, classes)."""
        mean = features.mean(0)
        embedding = unit(mean)
        logits = self.scale * self.linear(embedding if self.normalises else mean)
        counts = self.output(self.output.repeat(logits))
        scores = self.accumulated(features) if self.accumulates else ranked(counts, logits)
        return {"scores": scores, "counts": counts, "logits": logits, "embedding": embedding}

    def accumulated(self, features: Tensor) -> Tensor:
        """Return ``w[j] . mean_t x[t] / |w[j]|``: the cosine times a length that is the same for all classes."""
        sums: Tensor = self.linear(features.mean(0))
        return sums

    def forward(self, features: Tensor) -> Tensor:
        """Return the scores alone."""
        return self.accumulated(features) if self.accumulates else self.outputs(features)["scores"]


class SpikeCounts(nn.Module):
    """Currents (T, B, classes) to how often each output neuron fires in the window, (B, classes)."""

    def __init__(self, config: CountingConfig) -> None:
        super().__init__()
        self.repeat, self.lif = DirectCoding(config.timesteps), lif(config)

    def forward(self, currents: Tensor) -> Tensor:
        """Return the counts, 0 to T."""
        spikes: Tensor = self.lif(currents)
        return spikes.sum(0)


def ranked(counts: Tensor, evidence: Tensor) -> Tensor:
    """Return ``counts`` plus less than half a spike of ``evidence``: equal counts are ordered by it, others kept."""
    return counts + TIE_BREAK * functional.softsign(evidence)
