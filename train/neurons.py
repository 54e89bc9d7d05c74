"""Currents over time to spikes over time: the leaky integrate-and-fire neuron of the papers.

One class with switches covers S-CMRL (tau 2, hard reset, ``>=``, ``surrogate="sigmoid", detach_membrane=True``),
SpikingJelly's LIF (the same with ``atan`` and full gradients) and snnTorch's Leaky (``beta=0.95, strict=True,
reset="subtract_delayed"``). The walk through time, forward and backward, is written out by hand: a tape of T small
operations is several times slower.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from avsnn.errors import InputError
from avsnn.train.surrogates import Surrogate, find_surrogate

Reset = Literal["hard", "subtract", "subtract_delayed"]


class Cell(Protocol):
    """One step of a neuron, as `walk` takes it: u is its potential before a reset, ``gain`` what a current counts."""

    @property
    def gain(self) -> float:
        """What a current is multiplied with."""

    @property
    def detach_membrane(self) -> bool:
        """Whether the gradient is cut between steps."""

    def fire(self, u: Tensor, spikes: Tensor) -> None:
        """Write the spikes of ``u``; may bound u in place."""

    def carry(self, u: Tensor, fired: Tensor) -> Tensor:
        """Return what the next potential starts from."""

    def slope(self, u: Tensor) -> Tensor:
        """Return the surrogate's ``ds/du``."""

    def add_back(self, by_u: Tensor, later: Tensor, u: Tensor, fired: Tensor, slope: Tensor) -> None:
        """Add to ``by_u`` what `carry` passes back of ``later``, the gradient one step on."""


@dataclass(frozen=True, kw_only=True)
class _Cell:
    """The numbers of `LIF` as its gradient needs them."""

    decay: float
    gain: float
    v_threshold: float
    reset: Reset
    strict: bool
    surrogate: Surrogate
    alpha: float
    detach_membrane: bool
    detach_reset: bool

    def fire(self, u: Tensor, spikes: Tensor) -> None:
        """Write the spikes of ``u``."""
        (torch.gt if self.strict else torch.ge)(u, self.v_threshold, out=spikes)

    def slope(self, u: Tensor) -> Tensor:
        """Return the surrogate's ``ds/du``."""
        return self.surrogate.slope(u - self.v_threshold, self.alpha)

    def carry(self, u: Tensor, fired: Tensor) -> Tensor:
        """Return what the next potential starts from: decayed rest, minus the threshold if that is still owed."""
        if self.reset == "subtract_delayed":
            return u.mul(self.decay).sub_(fired, alpha=self.v_threshold)
        if self.reset == "hard":
            return torch.addcmul(u, u, fired, value=-1).mul_(self.decay)
        return u.sub(fired, alpha=self.v_threshold).mul_(self.decay)

    def add_back(self, by_u: Tensor, later: Tensor, u: Tensor, fired: Tensor, slope: Tensor) -> None:
        """Add to ``by_u`` what `carry` passes back of ``later``, the gradient one step on."""
        if self.reset == "hard":
            by_u.add_(torch.addcmul(later, later, fired, value=-1), alpha=self.decay)
        else:
            by_u.add_(later, alpha=self.decay)
        if not self.detach_reset:
            lost = u if self.reset == "hard" else self.v_threshold
            factor = 1.0 if self.reset == "subtract_delayed" else self.decay
            by_u.sub_(slope.mul(lost).mul_(later), alpha=factor)


_BLOCK = 1 << 16
"""Values per step and thread that are walked through time together on a CPU: few enough to stay in its cache."""


def _blocks(currents: Tensor) -> list[slice]:
    """Parts of the batch to walk one after the other; a GPU is better off with one."""
    batch, size = currents.shape[1], currents[0].numel()
    each = max(1, batch)
    if currents.device.type == "cpu":
        each = max(1, _BLOCK * torch.get_num_threads() * batch // max(1, size))
    return [slice(start, start + each) for start in range(0, batch, each)]


def _like(currents: Tensor) -> Tensor:
    """Memory for all steps, each laid out as a step of ``currents`` is (whose steps may be one and the same)."""
    one = torch.empty_like(currents[0])
    return one.new_empty_strided(currents.shape, (one.numel(), *one.stride()))


def walk(currents: Tensor, cell: Cell) -> Tensor:
    """Return the spikes of all steps, (T, B, *) as ``currents``, differentiable by the slope of ``cell``."""
    spikes: Tensor = _Walk.apply(currents, cell)  # type: ignore[no-untyped-call]
    return spikes


class _Walk(torch.autograd.Function):
    """All steps of a cell: keeps u and the spikes of every step, from which slopes follow again."""

    @staticmethod
    def forward(ctx: Any, currents: Tensor, cell: Cell) -> Tensor:
        """(T, B, *) currents -> (T, B, *) spikes."""
        potentials, spikes = _like(currents), _like(currents)
        for part in _blocks(currents):
            carried: Tensor | None = None
            steps = zip(currents[:, part], potentials[:, part], spikes[:, part], strict=True)
            for current, u, fired in steps:  # views: what is written stays
                torch.mul(current, cell.gain, out=u)
                if carried is not None:
                    u += carried
                cell.fire(u, fired)
                carried = cell.carry(u, fired)
        ctx.save_for_backward(potentials, spikes)
        ctx.cell = cell
        return spikes

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Gradient of the loss with respect to the currents, by the chain rule from the last step to the first."""
        (potentials, spikes), cell = ctx.saved_tensors, ctx.cell
        by_current = torch.empty_like(potentials)
        for part in _blocks(potentials):
            later: Tensor | None = None  # gradient with respect to the potential one step later
            for step in range(len(potentials) - 1, -1, -1):
                u = potentials[step, part]
                slope = cell.slope(u)
                by_u = grads[0][step, part] * slope
                if later is not None:
                    cell.add_back(by_u, later, u, spikes[step, part], slope)
                torch.mul(by_u, cell.gain, out=by_current[step, part])
                later = None if cell.detach_membrane else by_u
        return by_current, None


class LIF(nn.Module):
    """Leaky integrate-and-fire neurons without state between calls: (T, B, *) currents -> (T, B, *) spikes.

    ``u[t] = c[t-1] + gain * I[t]``, ``s[t] = 1 if u[t] >= v_threshold else 0``, ``c[-1] = 0``, and by ``reset``:

    - ``"hard"``: ``c[t] = decay * u[t] * (1 - s[t])``, to zero in the step of the spike;
    - ``"subtract"``: ``c[t] = decay * (u[t] - v_threshold * s[t])``, by the threshold in the step of the spike;
    - ``"subtract_delayed"``: ``c[t] = decay * u[t] - v_threshold * s[t]``, one step later, so that what is
      subtracted has not decayed (snnTorch).

    ``decay = 1 - 1 / tau`` and ``gain = 1 / tau`` (1 without ``decay_input``), or ``decay = beta`` and ``gain = 1``.

    Args:
        tau: membrane time constant in steps, at least 1; 2 where neither ``tau`` nor ``beta`` is given.
        v_threshold: above 0, in units of u.
        reset: one of the above.
        beta: the decay per step itself, 0 to 1, in place of ``tau``; the current then enters unscaled.
        strict: fire on ``u > v_threshold`` rather than ``u >= v_threshold``.
        decay_input: scale the current by ``1 / tau``; without effect on ``beta``.
        surrogate: a name in `avsnn.train.surrogates.SURROGATES`.
        alpha: steepness of the surrogate, above 0; its authors' value if None.
        detach_membrane: cut the gradient between steps (S-CMRL's reference code).
        detach_reset: leave the reset out of the gradient.

    Raises:
        InputError: a switch outside its range, or both ``tau`` and ``beta``.
    """

    def __init__(
        self,
        tau: float | None = None,
        v_threshold: float = 1.0,
        reset: Reset = "hard",
        *,
        beta: float | None = None,
        strict: bool = False,
        decay_input: bool = True,
        surrogate: str = "atan",
        alpha: float | None = None,
        detach_membrane: bool = False,
        detach_reset: bool = True,
    ) -> None:
        super().__init__()
        self.decay, self.gain = _leak(tau, beta, decay_input)
        self.tau, self.beta = (2.0 if tau is None else float(tau)) if beta is None else None, beta
        if not v_threshold > 0:
            raise InputError("v_threshold must be positive", where="LIF", found=v_threshold)
        if reset not in get_args(Reset):
            raise InputError("unknown reset", where="LIF", found=repr(reset), limit=", ".join(get_args(Reset)))
        chosen = find_surrogate(surrogate)
        if alpha is not None and not alpha > 0:
            raise InputError("alpha must be positive", where="LIF", found=alpha)
        self.v_threshold, self.reset, self.strict = float(v_threshold), reset, strict
        self.surrogate, self.alpha = surrogate, chosen.alpha if alpha is None else float(alpha)
        self.detach_membrane, self.detach_reset = detach_membrane, detach_reset

    def forward(self, currents: Tensor) -> Tensor:
        """Return the spikes (0 or 1, the dtype of ``currents``) of ``currents`` (T, B, *).

        Membranes are float32 where currents are of half precision: 8 bits would lose what leaks from step to step.
        """
        cell = _Cell(
            decay=self.decay,
            gain=self.gain,
            v_threshold=self.v_threshold,
            reset=self.reset,
            strict=self.strict,
            surrogate=find_surrogate(self.surrogate),
            alpha=self.alpha,
            detach_membrane=self.detach_membrane,
            detach_reset=self.detach_reset,
        )
        wide = currents.float() if currents.dtype in (torch.bfloat16, torch.float16) else currents
        return walk(wide, cell).to(currents.dtype)

    def extra_repr(self) -> str:
        """Return the switches for `repr`."""
        fire = ">" if self.strict else ">="
        return f"decay={self.decay:g}, gain={self.gain:g}, u {fire} {self.v_threshold:g}, reset={self.reset}"


def _leak(tau: float | None, beta: float | None, decay_input: bool) -> tuple[float, float]:
    """Return (decay, gain) of a `LIF` with these arguments."""
    if beta is not None:
        if tau is not None:
            raise InputError("tau and beta are both given", where="LIF", found=f"{tau} and {beta}", remedy="give one")
        if not 0 <= beta <= 1:
            raise InputError("beta is no decay", where="LIF", found=beta, limit="0 to 1")
        return float(beta), 1.0
    tau = 2.0 if tau is None else tau
    if not tau >= 1:
        raise InputError("tau is below one step", where="LIF", found=tau, limit="1 or more")
    return 1.0 - 1.0 / tau, 1.0 / tau if decay_input else 1.0
