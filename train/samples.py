"""A data set and a module to batches: the inputs that ``forward`` names, and the targets, as tensors of one device.

Samples stay in the data set's own compact form until they are wanted, as sequences of whole sets would fill memory.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from avsnn.errors import InputError
from avsnn.train.data.dataset import Data


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Inputs and targets by name, on one device."""

    inputs: dict[str, Tensor]
    targets: dict[str, Tensor]


def input_names(module: nn.Module) -> tuple[str, ...]:
    """Return the names of the parameters of ``forward``."""
    return tuple(inspect.signature(module.forward).parameters)


def batch_of(data: Data, names: tuple[str, ...], device: str | torch.device = "cpu") -> Batch:
    """Return all of ``data`` as tensors, of the inputs only those called ``names``.

    Raises:
        InputError: the data set lacks one of them.
    """
    values = data.inputs()
    for name in names:
        if name not in values:
            raise InputError("the data set has no such input", where="data", found=name, limit=", ".join(values))
    return Batch(
        inputs={name: torch.from_numpy(np.ascontiguousarray(values[name])).to(device) for name in names},
        targets={name: torch.from_numpy(value).to(device) for name, value in data.targets().items()},
    )


def lay_out(module: nn.Module) -> nn.Module:
    """Store the weights of convolutions with channels last, in place: pooling and norms then take half the time.

    Activations follow the weights, so nothing else has to be done; values stay, but rounding may differ.
    """
    for parameter in module.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return module


def answers(module: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return all that ``module`` answers by name: its ``outputs(**inputs)``, or what it returns as ``scores``."""
    named = getattr(module, "outputs", None)
    return {"scores": module(**inputs)} if named is None else dict(named(**inputs))
