"""The layers around neurons: images to normalised images, one frame to T frames, a per-step module to a sequence.

Each is one node to the tracer, so models use these rather than the same arithmetic written out in ``forward``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from avsnn.errors import InputError


class Normalise(nn.Module):
    """``y = (x - mean) / std`` per channel, the axis before height and width: (*, C, H, W) -> (*, C, H, W).

    Args:
        mean: one value per channel.
        std: one value above 0 per channel.

    Raises:
        InputError: the two differ in length, or a ``std`` is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std):
            raise InputError("mean and std differ in length", where="Normalise", found=f"{len(mean)} and {len(std)}")
        if not all(value > 0 for value in std):
            raise InputError("std must be positive", where="Normalise", found=list(std))
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.get_default_dtype()))
        self.register_buffer("std", torch.tensor(std, dtype=torch.get_default_dtype()))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(x - mean) / std``."""
        return (x - self.mean[:, None, None]) / self.std[:, None, None]

    def extra_repr(self) -> str:
        """Return the number of channels for `repr`."""
        return f"channels={len(self.mean)}"


class DirectCoding(nn.Module):
    """The same value in every step: (B, *) -> (timesteps, B, *), without a copy."""

    def __init__(self, timesteps: int) -> None:
        super().__init__()
        if timesteps < 1:
            raise InputError("there must be a step", where="DirectCoding", found=timesteps, limit="1 or more")
        self.timesteps = timesteps

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` as a view with a new leading time axis."""
        return x.expand(self.timesteps, *x.shape)

    def extra_repr(self) -> str:
        """Return the number of steps for `repr`."""
        return f"timesteps={self.timesteps}"


class TimeBatched(nn.Module):
    """Apply ``module``, which knows no time, to each step: (T, B, *) -> (T, B, *') as one batch of T * B.

    Batch statistics are taken over steps and samples together.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """Return ``module(x[t])`` of every step t."""
        y: Tensor = self.module(x.flatten(0, 1))
        return y.reshape(*x.shape[:2], *y.shape[1:])
