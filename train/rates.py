"""A module at work to how often its neurons fire: counted, the silent ones named, or held near a target in training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from avsnn.train.neurons import LIF

DEAD_BELOW = 1e-3
"""A population with fewer spikes per neuron and step carries next to nothing."""


class SpikeRates:
    """Counts spikes of every `LIF` in a module while used as a context; ``rates()`` is spikes per neuron and step."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._spikes: dict[str, Any] = {}
        self._chances: dict[str, int] = {}
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> SpikeRates:
        for name, child in self._module.named_modules():
            if isinstance(child, LIF):
                self._spikes[name], self._chances[name] = 0, 0
                self._handles.append(child.register_forward_hook(self._counter(name)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _counter(self, name: str) -> Any:
        def count(_module: nn.Module, _inputs: Any, spikes: Tensor) -> None:
            self._spikes[name] += spikes.detach().sum(dtype=torch.float64)  # stays on its device: no waiting per layer
            self._chances[name] += spikes.numel()

        return count

    def rates(self) -> dict[str, float]:
        """Return spikes per neuron and step by the name of the population."""
        return {name: float(self._spikes[name]) / max(1, self._chances[name]) for name in self._spikes}


def dead(rates: Mapping[str, float]) -> list[str]:
    """Return the populations that fire in fewer than 0.1 % of their steps.

    >>> dead({"image.lif": 0.12, "attention.lif": 0.0004})
    ['attention.lif']
    """
    return [name for name, rate in rates.items() if rate < DEAD_BELOW]


class RatePenalty:
    """``mean over populations of (rate - target)^2``, differentiable, of the forward passes inside its context.

    Args:
        module: every `LIF` in it counts as one population, whatever its size.
        target: spikes per neuron and step.
    """

    def __init__(self, module: nn.Module, target: float) -> None:
        self._neurons = [child for child in module.modules() if isinstance(child, LIF)]
        self._target, self._terms = target, list[Tensor]()
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> RatePenalty:
        self._handles = [neuron.register_forward_hook(self._note) for neuron in self._neurons]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _note(self, _module: nn.Module, _inputs: Any, spikes: Tensor) -> None:
        self._terms.append((spikes.float().mean() - self._target).square())

    def value(self) -> Tensor:
        """Return the penalty; 0 where nothing fires because there are no neurons."""
        return torch.stack(self._terms).mean() if self._terms else torch.zeros(())
