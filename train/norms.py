"""Activities over time to activities of like size: the norms that stand before the linear layers of SpikSLC-Net.

All take (T, B, C, *positions), channels on axis 2, and are told apart by where their variance comes from:

==============  ====================================================================  ===============================
kind            variance                                                              at inference
==============  ====================================================================  ===============================
``dsln``        per sample and position (or per sample), over steps and channels      a running mean: folds into weights
``layer``       per sample, position and step, over channels                          dynamic: does not fold
``variant``     as ``layer``, but multiplied by the deviation instead of divided      dynamic: does not fold
``batch``       per channel, over steps, samples and positions                        a running mean: folds into weights
==============  ====================================================================  ===============================

Source: Spiking Hybrid Attentive Mechanism with Decoupled Layer Normalization (SpikSLC-Net), equations 5, 6 and 14, and
the rows of its comparison of norms.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from avsnn.errors import InputError
from avsnn.train.layers import TimeBatched

VARIANCES = ("position", "shared")


class DSLN(nn.Module):
    """Decoupled spiking layer norm: the mean is dynamic, the variance is fixed after training.

    ``y[t, b, c, i] = (x[t, b, c, i] - m[t, b, i]) / sqrt(v[i] + eps) * weight[c] + bias[c]`` with ``m`` the mean over
    channels. In training ``v[b, i]`` is the mean over steps and channels of ``(x - m) ** 2`` (``"shared"``: over
    positions too), and ``running_var = (1 - momentum) * running_var + momentum * mean over b of v``; in evaluation
    ``v = running_var``. So in evaluation a linear layer W behind it sees ``W1 x / sqrt(v[i] + eps) + W bias`` with
    ``W1 = W diag(weight) (I - 1/C)``, whose rows sum to 0.

    Args:
        channels: C.
        positions: the axes behind the channels, such as (frames, 1); not used by ``"shared"``.
        variance: one running variance per position, or one for all (then the number of positions may vary).
        momentum: weight of the newest batch in ``running_var``, above 0 up to 1.
        eps: added to the variance.

    Raises:
        InputError: an argument outside its range; in use, other positions than ``positions``.
    """

    running_var: Tensor

    def __init__(
        self,
        channels: int,
        positions: tuple[int, ...] = (),
        *,
        variance: str = "position",
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        if variance not in VARIANCES:
            limit = ", ".join(VARIANCES)
            raise InputError("unknown kind of variance", where="DSLN", found=repr(variance), limit=limit)
        if not 0 < momentum <= 1:
            raise InputError("momentum is not a share", where="DSLN", found=momentum, limit="above 0, up to 1")
        if not eps > 0:
            raise InputError("eps must be positive", where="DSLN", found=eps)
        self.channels, self.variance, self.momentum, self.eps = channels, variance, momentum, eps
        self.positions = positions if variance == "position" else ()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(self.positions))

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised ``x`` (T, B, C, *positions)."""
        if self.variance == "position" and x.shape[3:] != self.running_var.shape:
            found, limit = tuple(x.shape[3:]), tuple(self.running_var.shape)
            remedy = "use the shared variance where the number varies"
            raise InputError(
                "positions differ from those built for", where="DSLN", found=found, limit=limit, remedy=remedy
            )
        centred = x - x.mean(2, keepdim=True)
        scale = (self._variance(centred) + self.eps).rsqrt()
        return centred * scale * _channels(self.weight, x) + _channels(self.bias, x)

    def _variance(self, centred: Tensor) -> Tensor:
        """Return what broadcasts to ``centred``: of its samples in training (and follow it), else the running one."""
        if not self.training:
            return self.running_var
        behind = tuple(range(3, centred.ndim)) if self.variance == "shared" else ()
        variance = centred.square().mean((0, 2, *behind), keepdim=True)
        with torch.no_grad():
            batch = variance.mean(1).to(self.running_var.dtype).reshape(self.running_var.shape)
            self.running_var.lerp_(batch, self.momentum)
        return variance

    def extra_repr(self) -> str:
        """Return sizes and kind for `repr`."""
        return f"{self.channels}, positions={self.positions}, variance={self.variance}, eps={self.eps}"


class LayerNorm(nn.Module):
    """Layer norm of each step: ``y = (x - mean) / d * weight + bias``, ``d = sqrt(variance + eps)`` over channels.

    Args:
        channels: C.
        variant: multiply by ``d`` instead of dividing ("variance in the numerator").
        eps: added to the variance.
    """

    def __init__(self, channels: int, *, variant: bool = False, eps: float = 1e-5) -> None:
        super().__init__()
        self.channels, self.variant, self.eps = channels, variant, eps
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised ``x`` (T, B, C, *positions)."""
        centred = x - x.mean(2, keepdim=True)
        variance = centred.square().mean(2, keepdim=True) + self.eps
        scale = variance.sqrt() if self.variant else variance.rsqrt()
        return centred * scale * _channels(self.weight, x) + _channels(self.bias, x)

    def extra_repr(self) -> str:
        """Return size and kind for `repr`."""
        return f"{self.channels}, variant={self.variant}, eps={self.eps}"


def _channels(values: Tensor, x: Tensor) -> Tensor:
    """Return ``values`` (C,) shaped to broadcast to ``x`` (T, B, C, *)."""
    return values.reshape(-1, *[1] * (x.ndim - 3))


def _dsln(channels: int, positions: tuple[int, ...], variance: str, momentum: float) -> nn.Module:
    return DSLN(channels, positions, variance=variance, momentum=momentum)


def _layer(channels: int, _positions: tuple[int, ...], _variance: str, _momentum: float) -> nn.Module:
    return LayerNorm(channels)


def _variant(channels: int, _positions: tuple[int, ...], _variance: str, _momentum: float) -> nn.Module:
    return LayerNorm(channels, variant=True)


def _batch(channels: int, _positions: tuple[int, ...], _variance: str, momentum: float) -> nn.Module:
    return TimeBatched(nn.BatchNorm2d(channels, momentum=momentum))


NORMS: dict[str, Callable[[int, tuple[int, ...], str, float], nn.Module]] = {
    "dsln": _dsln,
    "layer": _layer,
    "variant": _variant,
    "batch": _batch,
}


def make_norm(
    kind: str,
    channels: int,
    positions: tuple[int, int],
    *,
    variance: str = "position",
    momentum: float = 0.1,
) -> nn.Module:
    """Return the norm called ``kind`` for (T, B, channels, *positions).

    Args:
        kind: a name in `NORMS`.
        channels: C; every kind has C weights and C biases.
        positions: the two axes behind the channels, such as (frames, 1).
        variance: of ``dsln``.
        momentum: of the running statistics of ``dsln`` and ``batch``.

    Raises:
        InputError: no such norm; the message lists all.
    """
    if kind not in NORMS:
        raise InputError("unknown norm", where="make_norm", found=repr(kind), limit=", ".join(NORMS))
    return NORMS[kind](channels, positions, variance, momentum)
