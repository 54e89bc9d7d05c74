"""A module and labelled samples to accuracy with its interval, and to how often each neuron population fires."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from avsnn.errors import InputError
from avsnn.train.neurons import LIF
from avsnn.train.proportion import Proportion


class SpikeRates:
    """Counts spikes of every `LIF` in a module while used as a context; ``rates()`` is spikes per neuron and step."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._spikes: dict[str, float] = {}
        self._chances: dict[str, int] = {}
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> SpikeRates:
        for name, child in self._module.named_modules():
            if isinstance(child, LIF):
                self._spikes[name], self._chances[name] = 0.0, 0
                self._handles.append(child.register_forward_hook(self._counter(name)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _counter(self, name: str) -> Any:
        def count(_module: nn.Module, _inputs: Any, spikes: Tensor) -> None:
            self._spikes[name] += float(spikes.detach().sum(dtype=torch.float64))
            self._chances[name] += spikes.numel()

        return count

    def rates(self) -> dict[str, float]:
        """Return spikes per neuron and step by the name of the population."""
        return {name: self._spikes[name] / max(1, self._chances[name]) for name in self._spikes}


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Accuracy, mean cross-entropy, and spikes per neuron and step of each population."""

    accuracy: Proportion
    loss: float
    rates: dict[str, float]


def evaluate(module: nn.Module, inputs: Mapping[str, Tensor], labels: Tensor, *, batch: int = 100) -> Evaluation:
    """Return how well ``module`` classifies, in evaluation mode; its mode is left as it was.

    Args:
        module: returns (B, classes) scores.
        inputs: (n, *shape) by parameter name of ``forward``.
        labels: (n,) classes.
        batch: samples at a time.

    Raises:
        InputError: no samples.
    """
    count = len(labels)
    if not count:
        raise InputError("there is nothing to evaluate", where="labels", found=0)
    was_training, correct, loss = module.training, 0, 0.0
    with torch.no_grad(), SpikeRates(module.eval()) as meter:
        for start in range(0, count, batch):
            chosen = slice(start, start + batch)
            scores = module(**{name: value[chosen] for name, value in inputs.items()})
            correct += int((scores.argmax(1) == labels[chosen]).sum())
            loss += float(nn.functional.cross_entropy(scores, labels[chosen], reduction="sum"))
    module.train(was_training)
    return Evaluation(accuracy=Proportion(correct=correct, count=count), loss=loss / count, rates=meter.rates())
