"""Currents over time to spikes over time: the leaky integrate-and-fire neuron of the papers.

One class with switches covers S-CMRL (tau 2, hard reset, ``>=``, membrane detached), SpikingJelly's LIF (the same
with full gradients) and snnTorch's Leaky up to the moment of its reset (``strict=True, decay_input=False``). The walk
through time, forward and backward, is written out by hand: a tape of T small operations is several times slower.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from avsnn.errors import InputError
from avsnn.train.surrogates import Surrogate, find_surrogate

Reset = Literal["hard", "subtract"]


@dataclass(frozen=True, kw_only=True)
class _Cell:
    """The numbers of `LIF` as its gradient needs them."""

    decay: float
    gain: float
    v_threshold: float
    hard: bool
    strict: bool
    surrogate: Surrogate
    alpha: float
    detach_membrane: bool
    detach_reset: bool

    def fires(self, u: Tensor) -> Tensor:
        return u > self.v_threshold if self.strict else u >= self.v_threshold


class _Walk(torch.autograd.Function):
    """All steps of a LIF: keeps u of every step, from which spikes and slopes follow again."""

    @staticmethod
    def forward(ctx: Any, currents: Tensor, cell: _Cell) -> Tensor:
        """(T, B, *) currents -> (T, B, *) spikes."""
        potentials, spikes = (torch.empty(currents.shape, dtype=currents.dtype, device=currents.device) for _ in "us")
        rest: Tensor | None = None
        for current, u, fired in zip(currents, potentials, spikes, strict=True):  # views: what is written stays
            torch.mul(current, cell.gain, out=u)
            if rest is not None:
                u += rest.mul_(cell.decay)
            fired.copy_(cell.fires(u))
            rest = u - fired.mul(u if cell.hard else cell.v_threshold)
        ctx.save_for_backward(potentials)
        ctx.cell = cell
        return spikes

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Gradient of the loss with respect to the currents, by the chain rule from the last step to the first."""
        (potentials,), cell = ctx.saved_tensors, ctx.cell
        by_current = torch.empty_like(potentials)
        later: Tensor | None = None  # gradient with respect to the potential one step later
        for step in range(len(potentials) - 1, -1, -1):
            u = potentials[step]
            slope = cell.surrogate.slope(u - cell.v_threshold, cell.alpha)
            by_u = grads[0][step] * slope
            if later is not None:  # du[t + 1] / du[t] = decay * drest[t] / du[t]
                by_u += _rest_slope(cell, u, slope).mul_(later).mul_(cell.decay)
            torch.mul(by_u, cell.gain, out=by_current[step])
            later = None if cell.detach_membrane else by_u
        return by_current, None


def _rest_slope(cell: _Cell, u: Tensor, slope: Tensor) -> Tensor:
    """Return the derivative of what is left after the reset by what was there before."""
    if cell.hard:
        kept = 1.0 - cell.fires(u).to(u.dtype)
        return kept if cell.detach_reset else kept.sub_(u * slope)
    kept = torch.ones_like(u)
    return kept if cell.detach_reset else kept.sub_(slope * cell.v_threshold)


class LIF(nn.Module):
    """Leaky integrate-and-fire neurons without state between calls: (T, B, *) currents -> (T, B, *) spikes.

    ``u[t] = decay * r[t-1] + gain * I[t]``, ``s[t] = 1 if u[t] >= v_threshold else 0``, ``r[-1] = 0`` and
    ``r[t] = u[t] * (1 - s[t])`` (hard) or ``u[t] - v_threshold * s[t]`` (subtract);
    ``decay = 1 - 1 / tau``, ``gain = 1 / tau`` with ``decay_input``, else 1.

    Args:
        tau: membrane time constant in steps, at least 1.
        v_threshold: above 0, in units of u.
        reset: ``"hard"`` (to zero) or ``"subtract"`` (by the threshold), in the step of the spike.
        strict: fire on ``u > v_threshold`` rather than ``u >= v_threshold``.
        decay_input: scale the current by ``1 / tau``.
        surrogate: a name in `avsnn.train.surrogates.SURROGATES`.
        alpha: steepness of the surrogate; its authors' value if None.
        detach_membrane: cut the gradient between steps (S-CMRL's reference code).
        detach_reset: leave the reset out of the gradient.

    Raises:
        InputError: a switch outside its range.
    """

    def __init__(
        self,
        tau: float = 2.0,
        v_threshold: float = 1.0,
        reset: Reset = "hard",
        *,
        strict: bool = False,
        decay_input: bool = True,
        surrogate: str = "atan",
        alpha: float | None = None,
        detach_membrane: bool = False,
        detach_reset: bool = True,
    ) -> None:
        super().__init__()
        if not tau >= 1:
            raise InputError("tau is below one step", where="LIF", found=tau, limit="1 or more")
        if not v_threshold > 0:
            raise InputError("v_threshold must be positive", where="LIF", found=v_threshold)
        if reset not in get_args(Reset):
            raise InputError("unknown reset", where="LIF", found=repr(reset), limit=", ".join(get_args(Reset)))
        chosen = find_surrogate(surrogate)
        self.tau, self.v_threshold, self.reset, self.strict = float(tau), float(v_threshold), reset, strict
        self.decay, self.gain = 1.0 - 1.0 / tau, 1.0 / tau if decay_input else 1.0
        self.surrogate, self.alpha = surrogate, chosen.alpha if alpha is None else float(alpha)
        self.detach_membrane, self.detach_reset = detach_membrane, detach_reset

    def forward(self, currents: Tensor) -> Tensor:
        """Return the spikes (0 or 1, the dtype of ``currents``) of ``currents`` (T, B, *)."""
        cell = _Cell(
            decay=self.decay,
            gain=self.gain,
            v_threshold=self.v_threshold,
            hard=self.reset == "hard",
            strict=self.strict,
            surrogate=find_surrogate(self.surrogate),
            alpha=self.alpha,
            detach_membrane=self.detach_membrane,
            detach_reset=self.detach_reset,
        )
        spikes: Tensor = _Walk.apply(currents, cell)  # type: ignore[no-untyped-call]
        return spikes

    def extra_repr(self) -> str:
        """Return the switches for `repr`."""
        fire = ">" if self.strict else ">="
        return f"tau={self.tau}, u {fire} {self.v_threshold}, reset={self.reset}, gain={self.gain}"
