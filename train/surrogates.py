"""Membrane distance to threshold to a spike, with a smooth stand-in for the derivative that a step lacks.

Forward: ``s = H(x)``, ``x = u - v_threshold``, 1 at ``x >= 0`` (or ``x > 0`` if strict). Backward: ``ds/dx = h'(x)``:

=========================  ================================================  =====================
name                       h'(x)                                             origin
=========================  ================================================  =====================
``sigmoid``, alpha 4       ``alpha * sig(alpha x) * (1 - sig(alpha x))``     S-CMRL, SpikingJelly
``atan``, alpha 2          ``alpha / 2 / (1 + (pi / 2 * alpha * x) ** 2)``   SpikingJelly, snnTorch
``atan_printed``, alpha 2  ``1 / pi / (1 + (pi / 2 * alpha * x) ** 2)``      Oikonomou et al., eq. 19
``fast_sigmoid``, alpha 5  ``1 / (1 + alpha |x|) ** 2``                      snnTorch
``rectangular``, alpha 1   ``alpha`` where ``|x| < 1 / (2 alpha)``, else 0   Wu et al. (2018)
=========================  ================================================  =====================

Oikonomou et al. (L2-ActSpikeNet) print the arctan as in snnTorch's documentation, ``pi * alpha / 2`` times below what
that library computes; both are here. Their eq. 22 has one ``x`` too many in the fast sigmoid, which would make its
slope 0 at the threshold and negative below: only the library's form is here, with their slope of 5. SpikSLC-Net's
``arctan(pi x) / pi + 1 / 2`` is ``atan`` with alpha 2, and the rectangle that its text names is ``rectangular``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from avsnn.errors import InputError


def sigmoid_slope(x: Tensor, alpha: float) -> Tensor:
    """Return ``alpha * sig(alpha x) * (1 - sig(alpha x))``, of the shape of ``x``."""
    half = torch.sigmoid(x * alpha)
    return half.mul(1.0 - half).mul_(alpha)


def atan_slope(x: Tensor, alpha: float) -> Tensor:
    """Return ``alpha / 2 / (1 + (pi / 2 * alpha * x) ** 2)``, of the shape of ``x``."""
    return x.mul(math.pi / 2 * alpha).square_().add_(1.0).reciprocal_().mul_(alpha / 2)


def atan_printed_slope(x: Tensor, alpha: float) -> Tensor:
    """Return ``1 / pi / (1 + (pi / 2 * alpha * x) ** 2)``, of the shape of ``x``."""
    return x.mul(math.pi / 2 * alpha).square_().add_(1.0).reciprocal_().mul_(1 / math.pi)


def fast_sigmoid_slope(x: Tensor, alpha: float) -> Tensor:
    """Return ``1 / (1 + alpha |x|) ** 2``, of the shape of ``x``."""
    return x.abs().mul_(alpha).add_(1.0).square_().reciprocal_()


def rectangular_slope(x: Tensor, alpha: float) -> Tensor:
    """Return ``alpha`` where ``|x| < 1 / (2 alpha)``, else 0: area 1, of the shape of ``x``."""
    return (x.abs() < 0.5 / alpha).to(x.dtype).mul_(alpha)


@dataclass(frozen=True, kw_only=True)
class Surrogate:
    """A derivative ``slope(x, alpha)`` and the steepness that its authors use."""

    slope: Callable[[Tensor, float], Tensor]
    alpha: float


SURROGATES = {
    "sigmoid": Surrogate(slope=sigmoid_slope, alpha=4.0),
    "atan": Surrogate(slope=atan_slope, alpha=2.0),
    "atan_printed": Surrogate(slope=atan_printed_slope, alpha=2.0),
    "fast_sigmoid": Surrogate(slope=fast_sigmoid_slope, alpha=5.0),
    "rectangular": Surrogate(slope=rectangular_slope, alpha=1.0),
}


def find_surrogate(name: str) -> Surrogate:
    """Return the surrogate called ``name``.

    Raises:
        InputError: no such surrogate; the message lists all.
    """
    if name not in SURROGATES:
        raise InputError("unknown surrogate", found=repr(name), limit=", ".join(SURROGATES))
    return SURROGATES[name]


class Spike(torch.autograd.Function):
    """``Spike.apply(x, slope, alpha, strict)``: the step function of ``x`` with ``slope`` as derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Callable[[Tensor, float], Tensor], alpha: float, strict: bool) -> Tensor:
        """Return 1 where ``x >= 0`` (``x > 0`` if strict), else 0, in the dtype of ``x``."""
        ctx.save_for_backward(x)
        ctx.slope, ctx.alpha = slope, alpha
        return (x > 0 if strict else x >= 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        """Return ``grad * slope(x, alpha)``."""
        (x,) = ctx.saved_tensors
        return grads[0] * ctx.slope(x, ctx.alpha), None, None, None


def spike(x: Tensor, surrogate: str = "atan", alpha: float | None = None, strict: bool = False) -> Tensor:
    """Return ``H(x)`` of the shape and dtype of ``x``, differentiable by ``surrogate``.

    Args:
        x: membrane potential minus threshold.
        surrogate: a name in `SURROGATES`.
        alpha: its steepness; the authors' value if None.
        strict: fire on ``x > 0`` rather than ``x >= 0``.
    """
    chosen = find_surrogate(surrogate)
    steepness = chosen.alpha if alpha is None else alpha
    spikes: Tensor = Spike.apply(x, chosen.slope, steepness, strict)  # type: ignore[no-untyped-call]
    return spikes
