"""Integer neurons and weights as torch computes them: exact in floats, with gradients that only training needs.

Forward, everything is an integer held in float32 or float64, and no sum may pass the integers that the type holds
(`float_for`), so that no order of summation rounds. Backward, rounding is passed over (a straight-through estimator:
Bengio et al., 2013), and a spike has the slope of a surrogate, in units of its threshold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.errors import CapabilityError, DomainError
from avsnn.hw_profiles import fixed_point
from avsnn.train.surrogates import Surrogate, find_surrogate

PER_ACTIVATION = 1 << fixed_point.ACTIVATION_SHIFT  # units of v per unit of current
WIDEST_STATE = 50  # bits that the sum of two states leaves exact in float64


def float_for(bound: int, *, where: str) -> torch.dtype:
    """Return the narrowest float type in which integers up to ``bound``, and sums of them up to it, are exact.

    Raises:
        DomainError: there is none.
    """
    if bound < 1 << 24:
        return torch.float32
    if bound >= 1 << 53:
        raise DomainError("sums too large to be trained exactly", where=where, found=bound, limit=(1 << 53) - 1)
    return torch.float64


class _OnGrid(torch.autograd.Function):
    """``clamp(step round(x / step), low, high)``, half to even; the gradient passes as if nothing had been rounded."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float, step: float) -> Tensor:
        """Return the nearest integer of the grid."""
        return x.div(step).round_().mul_(step).clamp_(low, high)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        """Return the gradient as it is."""
        return grads[0], None, None, None


def on_grid(x: Tensor, low: float, high: float, step: float = 1.0) -> Tensor:
    """Return the nearest of ``low, low + step, ..., high``, differentiable as if it were x."""
    found: Tensor = _OnGrid.apply(x, low, high, step)  # type: ignore[no-untyped-call]
    return found


class _Rounded(torch.autograd.Function):
    """``floor(x + 1/2)`` or ``rint(x)``, the gradient of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, even: bool) -> Tensor:
        """Return integers."""
        return torch.round(x) if even else torch.floor(x + 0.5)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Return the gradient as it is."""
        return grads[0], None


def rounded(x: Tensor, *, even: bool) -> Tensor:
    """Return x rounded, halves to even or up, differentiable as if it were x."""
    found: Tensor = _Rounded.apply(x, even)  # type: ignore[no-untyped-call]
    return found


class _Leaky(torch.autograd.Function):
    """``u[t] = leak(u[t-1]) + 64 a[t]`` for all steps (T, B, *), in units of v; backward, a leak is not rounded."""

    @staticmethod
    def forward(ctx: Any, currents: Tensor, leak: Leak) -> Tensor:
        """Return u of every step."""
        ctx.keep = leak.keep / fixed_point.UNITY
        u = currents * PER_ACTIVATION
        for t in range(1, len(u)):
            u[t] += leak(u[t - 1].clone())
        return u

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the currents, from the last step to the first."""
        by_u = grads[0].clone()
        for t in range(len(by_u) - 2, -1, -1):
            by_u[t] += ctx.keep * by_u[t + 1]
        return by_u * PER_ACTIVATION, None


@dataclass(frozen=True, kw_only=True)
class Leak:
    """``sign(x) (|x| keep >> 12)``, exact for states of 24 bits, or of WIDEST_STATE where ``wide``."""

    keep: int
    wide: bool

    def __call__(self, x: Tensor) -> Tensor:
        """Return what is left of x, which may be written over."""
        if self.keep in (0, fixed_point.UNITY):
            return x.mul_(self.keep // fixed_point.UNITY)
        if self.wide:
            whole = x.to(torch.int64)
            return (whole.sign() * (whole.abs() * self.keep >> fixed_point.FRACTION_BITS)).to(x.dtype)
        if self.keep & (self.keep - 1) == 0:  # a power of two: the product is exact in float32
            return x.mul_(self.keep / fixed_point.UNITY).trunc_()
        return x.double().mul_(self.keep / fixed_point.UNITY).trunc_().to(x.dtype)  # |x keep| < 2^35

    def through(self, currents: Tensor) -> Tensor:
        """Return u of all steps of currents (T, B, *), in units of v."""
        found: Tensor = _Leaky.apply(currents, self)  # type: ignore[no-untyped-call]
        return found


@dataclass(frozen=True, kw_only=True)
class IntegerCell:
    """`avsnn.convert.ir.fixed_nodes.FixedLIF` for `avsnn.train.neurons.walk`; u is its v before the reset.

    What drives it holds u and the bias, in units of v, as do ``subtract`` and ``threshold``, numbers or tensors that
    broadcast to a step; the gradient of the reset is left out.
    """

    threshold: Tensor | float
    subtract: Tensor | float
    leak: Leak
    reset: str
    top: float
    surrogate: Surrogate
    alpha: float
    gain: float = 1.0
    detach_membrane: bool = False

    @staticmethod
    def of(node: fixed.FixedLIF, surrogate: str, device: torch.device | str) -> tuple[IntegerCell, torch.dtype]:
        """Return the cell of a population and the type of its states.

        Raises:
            CapabilityError: states that no float holds.
        """
        if node.state_bits > WIDEST_STATE:
            raise CapabilityError("states too wide", where=node.name, found=node.state_bits, limit=WIDEST_STATE)
        dtype = torch.float32 if node.state_bits <= 24 else torch.float64

        def in_v(value: Any, scale: int) -> Tensor | float:
            wide = torch.tensor(np.array(value, dtype=np.float64)) * scale
            return wide.to(dtype).to(device) if wide.ndim else float(wide)

        chosen = find_surrogate(surrogate)
        cell = IntegerCell(
            threshold=in_v(node.threshold_mant, PER_ACTIVATION),
            subtract=in_v(node.subtract, 1),
            leak=Leak(keep=fixed_point.UNITY - node.decay_v, wide=node.state_bits > 24),
            reset=node.reset,
            top=float(fixed_point.state_limit(node.state_bits) - 1),
            surrogate=chosen,
            alpha=chosen.alpha,
        )
        return cell, dtype

    def fire(self, u: Tensor, spikes: Tensor) -> None:
        """Saturate u and write its spikes."""
        u.clamp_(-self.top, self.top)
        torch.gt(u, self.threshold, out=spikes)

    def carry(self, u: Tensor, fired: Tensor) -> Tensor:
        """Return the decayed rest, as the integer neuron rounds it."""
        if self.reset == "subtract_delayed":
            return self.leak(u.clone()).sub_(fired * self.subtract)
        return self.leak(self.rest(u, fired))

    def rest(self, u: Tensor, fired: Tensor) -> Tensor:
        """Return v after the reset: what runs record."""
        if self.reset == "subtract_delayed":
            return u
        return u - u * fired if self.reset == "hard" else u - fired * self.subtract

    def slope(self, u: Tensor) -> Tensor:
        """Return the surrogate's slope at the distance to the threshold, both in units of it."""
        unit = self.threshold
        unit = unit.clamp(min=PER_ACTIVATION) if isinstance(unit, Tensor) else max(unit, PER_ACTIVATION)
        return self.surrogate.slope((u - self.threshold) / unit, self.alpha) / unit

    def add_back(self, by_u: Tensor, later: Tensor, u: Tensor, fired: Tensor, slope: Tensor) -> None:
        """Add what the next potential passes back: the decay, and nothing where a hard reset cut it."""
        kept = torch.addcmul(later, later, fired, value=-1) if self.reset == "hard" else later
        by_u.add_(kept, alpha=self.leak.keep / fixed_point.UNITY)


def recorded(drive: Tensor, cell: IntegerCell) -> tuple[Tensor, Tensor]:
    """Return spikes and v after resets of all steps of a drive (T, B, *), without gradients."""
    v, fired, carried = [], [], None
    for step in drive:
        before = step.clone() if carried is None else step + carried
        spikes = torch.empty_like(before)
        cell.fire(before, spikes)
        v.append(cell.rest(before, spikes))
        fired.append(spikes)
        carried = cell.carry(before.clone(), spikes)
    return torch.stack(fired), torch.stack(v)
