"""Integer layers of a quantised graph as torch modules: latent numbers that train, integers that act, and back.

Each module holds numbers near 1 (``latent``), in units of what its integers may be, so that one learning rate suits
all. What acts are integers, made anew in every forward pass: weights on the mantissas of their format and sign mode,
biases whole. `Weights.node` and its like write them back. Exponents stay as quantised.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from avsnn.convert.finetune_cells import float_for, on_grid
from avsnn.convert.finetune_grid import mantissa_grid
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.kernels import image_shape
from avsnn.convert.ir.node import Array
from avsnn.convert.passes.integer_formats import Target
from avsnn.errors import CapabilityError


def latent(values: Array, dtype: torch.dtype = torch.float32) -> nn.Parameter:
    """Return numbers that train."""
    return nn.Parameter(torch.from_numpy(np.array(values, dtype=np.float64)).to(dtype))


def _row_shape(values: Array, ndim: int) -> Array:
    """Numbers per output, or one number, so that they meet weights (out, ...)."""
    return values.reshape(-1, *(1,) * (ndim - 1)) if values.ndim else values


class Weights(nn.Module):
    """A `Synapse`: ``a = weight (*) x`` with integer weights; x (N, *source), spikes or graded integers up to levels.

    Args:
        node: as quantised.
        target: formats, for the grid of the mantissas.
        levels: largest magnitude of the source, summed over as many steps as are summed before.
        start: real mantissas to start from; the node's own if None.
        fixed_weights: whether its weights are what they are, as in windows of pools.
    """

    scale: Tensor

    def __init__(
        self,
        node: fixed.Synapse,
        target: Target,
        levels: int,
        start: Array | None = None,
        *,
        fixed_weights: bool = False,
    ) -> None:
        super().__init__()
        self.synapse, self.fixed = node, fixed_weights
        mant = node.weight_mant
        if isinstance(node, fixed.FixedLinear) and node.output_delay is not None:
            raise CapabilityError("delays per neuron cannot be fine-tuned", where=node.name)
        self.low, self.high, self.grain = mantissa_grid(node.sign_mode, target)
        self.unit = 1.0 if self.fixed else float(max(-self.low, self.high))
        most = int(np.abs(mant).max(initial=1)) if self.fixed else int(self.unit)
        exponent = _row_shape(np.asarray(node.weight_exp), mant.ndim)
        sums = int((np.ones_like(mant, dtype=np.int64) << exponent).reshape(len(mant), -1).sum(axis=1).max())
        self.dtype = float_for(most * sums * levels, where=node.name)
        self.latent = latent((mant if start is None else start) / self.unit, self.dtype)
        self.latent.requires_grad_(not self.fixed)
        self.register_buffer("scale", torch.as_tensor(2.0**exponent, dtype=self.dtype), persistent=False)
        if not self.fixed:
            self.project()

    def mantissas(self) -> Tensor:
        """Return the integers of the format, differentiable in the latent numbers."""
        if self.fixed:
            return self.latent
        return on_grid(self.latent * self.unit, self.low, self.high, self.grain)

    def forward(self, x: Tensor) -> Tensor:
        """(N, *source) -> (N, *shape)."""
        weight = self.mantissas() * self.scale
        x = x.to(self.dtype)
        if isinstance(self.synapse, fixed.FixedConv2d):
            return convolved(x, weight, self.synapse)
        return functional.linear(x.flatten(1), weight)

    @torch.no_grad()
    def project(self) -> None:
        """Keep latent numbers where the format has integers, so that no gradient is lost behind its edge."""
        self.latent.clamp_(self.low / self.unit, self.high / self.unit)

    @torch.no_grad()
    def magnitudes(self) -> Tensor:
        """Sum of |weight| of each row, (out,), as the latent numbers are."""
        return (self.latent.abs() * self.unit * self.scale).flatten(1).sum(1)

    @torch.no_grad()
    def shrink(self, factors: Tensor) -> None:
        """Multiply each row by its factor (out,)."""
        self.latent.mul_(factors.reshape(-1, *(1,) * (self.latent.ndim - 1)).to(self.latent))

    @torch.no_grad()
    def node(self) -> fixed.Synapse:
        """Return the synapse with the integers that act now."""
        return replace(self.synapse, weight_mant=whole(self.mantissas()))


def convolved(x: Tensor, weight: Tensor, node: fixed.FixedConv2d | fixed.HeldCurrent) -> Tensor:
    """Convolution of x (N, *source) as the node has it; exact in floats that hold every sum."""
    x = x.reshape(len(x), *image_shape(tuple(x.shape[1:])))
    shape = (node.stride, node.padding, node.dilation, node.groups)
    if x.is_cuda:
        # No short mantissas; some algorithms multiply fractions, and whatever those leave is far below a half.
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            found = functional.conv2d(x, weight, None, *shape).round()
    else:
        found = functional.conv2d(x, weight, None, *shape)
    return found.reshape(len(x), *node.shape)


class Bias(nn.Module):
    """The bias of a population or read-out in units of current, mantissas in the width of its format.

    Args:
        values: mantissas.
        unit: of the latent numbers, in units of current: the threshold.
        room: largest mantissa.
        dtype: that holds them exactly.
        step: mantissas are multiples of it.
        per: units of current that a mantissa stands for.
    """

    def __init__(
        self,
        values: Array,
        unit: float,
        room: float,
        dtype: torch.dtype = torch.float32,
        *,
        step: int = 1,
        per: int = 1,
    ) -> None:
        super().__init__()
        self.unit, self.room, self.step, self.per = unit / per, room, float(step), float(per)
        self.latent = latent(values / self.unit, dtype)

    def mantissas(self) -> Tensor:
        """Return the integers of the format, of the shape of the values."""
        return on_grid(self.latent * self.unit, -self.room, self.room, self.step)

    def forward(self) -> Tensor:
        """Return units of current."""
        return self.mantissas() * self.per

    @torch.no_grad()
    def project(self) -> None:
        """Keep the latent numbers inside the format."""
        self.latent.clamp_(-self.room / self.unit, self.room / self.unit)

    @torch.no_grad()
    def integers(self) -> Array:
        """Return what acts now."""
        return whole(self.mantissas())


class Threshold(nn.Module):
    """The threshold of a population: ``h`` times ``e^latent``, one number, or one per channel where there are several.

    Neurons are homogeneous: ``v > c h`` under a drive d is ``v > h`` under ``d / c``. So the gradient of a threshold is
    that of the drive times the drive, negated, and no walk through time need know of it. What a reset subtracts moves
    with the threshold, and so does the scale S of the population, whose real threshold stays ``(h + tie) / S``.

    Args:
        node: as it begins.
        room: largest threshold.
        rates: whether it trains.
    """

    def __init__(self, node: fixed.FixedLIF, room: int, *, rates: bool) -> None:
        super().__init__()
        self.begun, self.room = np.asarray(node.threshold_mant, dtype=np.float64), room
        self.latent = latent(np.zeros(self.begun.shape), torch.float64).requires_grad_(rates)

    @torch.no_grad()
    def mantissa(self) -> int | Array:
        """Return the integers that act."""
        found = np.rint(self.begun * np.exp(self.latent.cpu().numpy()))
        whole: Array = np.clip(found, 1, self.room).astype(np.int64)
        return whole if whole.ndim else int(whole)

    def acting(self, node: fixed.FixedLIF) -> fixed.FixedLIF:
        """Return the population with the threshold that acts."""
        mantissa = self.mantissa()
        subtract = node.subtract if node.reset == "hard" else mantissa << fixed.ACTIVATION_SHIFT
        return replace(node, threshold_mant=mantissa, subtract=subtract)

    def felt(self, drive: Tensor) -> Tensor:
        """Return the drive (T, B, *shape) as it is, with the gradient of the threshold."""
        still = (self.latent - self.latent.detach()).to(drive)
        return drive - drive.detach() * still

    @torch.no_grad()
    def project(self) -> None:
        """Keep thresholds inside the format."""
        begun = torch.from_numpy(self.begun).to(self.latent)
        self.latent.clamp_(min=-torch.log(begun), max=np.log(self.room) - torch.log(begun))


def whole(x: Tensor) -> Array:
    """Return the integers that a tensor of floats holds."""
    found: Array = x.detach().cpu().double().numpy().astype(np.int64)
    return found


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(T, B, D, *tokens) -> (T, B, heads, d, N)."""
    tokens = math.prod(x.shape[3:])
    return x.reshape(*x.shape[:2], heads, x.shape[2] // heads, tokens)


def multiplied(node: fixed.Product, x: list[Tensor]) -> Tensor:
    """What a product makes of windows (T, B, *shape), as `avsnn.convert.ir.products` has it, differentiable.

    Raises:
        CapabilityError: a product without a rule here.
    """
    match node:
        case fixed.FixedAttention():
            q, k, v = (split_heads(each, node.heads) for each in x)
            if node.over == "space":
                found = (v @ k.transpose(-1, -2)) @ q
            else:
                steps, batch, heads, d, tokens = q.shape
                keys, values = (part.permute(1, 2, 4, 3, 0) for part in (k, v))  # (B, heads, N, d, T)
                pairs = keys @ values.transpose(-1, -2)
                asked = q.permute(1, 2, 4, 0, 3) @ pairs  # (B, heads, N, T, d)
                found = asked.permute(3, 0, 1, 4, 2).reshape(steps, batch, heads, d, tokens)
            found = found.reshape(x[0].shape)
        case fixed.FixedAttentionMap():
            found = split_heads(x[0], node.heads).transpose(-1, -2) @ split_heads(x[1], node.heads)
        case fixed.FixedMappedValues():
            found = (split_heads(x[1], x[0].shape[2]) @ x[0].transpose(-1, -2)).reshape(x[1].shape)
        case fixed.FixedProductOfSums():
            over_tokens = x[0].flatten(3).sum(-1).reshape(*x[0].shape[:3], *(1,) * (x[0].ndim - 3))
            found = over_tokens * x[1].sum(0, keepdim=True)
        case _:
            raise CapabilityError("no rule to fine-tune it", where=node.name, found=node.kind)
    return found * node.gain
