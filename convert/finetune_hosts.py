"""Currents that a host computes, in wide integers, as torch modules: what of them trains, and back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from avsnn.convert.finetune_cells import float_for, rounded
from avsnn.convert.finetune_layers import convolved, latent, whole
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.kernels import per_channel
from avsnn.convert.ir.products import UNIT_BITS
from avsnn.convert.passes.integer_formats import Target
from avsnn.errors import CapabilityError

WIDEST_SUM = 52  # bits of a sum that the host may reach, exact in float64


class HostCurrent(nn.Module):
    """A `HeldCurrent`: whole units of current added to each channel train, and its wide weights, if ``rates`` do.

    ``a = (weight x + bias + (delta << shift) + half) >> shift`` is what it would be without delta, plus delta. No input
    in range may make a current that the bias of a neuron cannot hold: `project` shrinks rows of weights that could, and
    bounds delta to what they leave.
    """

    bounds: Tensor
    bias: Tensor

    def __init__(
        self, graph: Graph, node: fixed.HeldCurrent, target: Target, unit: float, most_current: int, *, rates: bool
    ) -> None:
        super().__init__()
        if node.port != "current":
            raise CapabilityError("only currents can be fine-tuned", where=node.name, found=node.port)
        self.held, self.unit = node, unit
        (source,) = graph.sources(node)
        assert isinstance(source, fixed.FixedInput)
        self.source = source
        wide = max(-source.low, source.high) * np.abs(node.weight).reshape(len(node.weight), -1).sum(axis=1).max()
        most = int(wide) + int(np.abs(node.bias).max(initial=0)) + (1 << node.shift)
        float_for(most, where=node.name)  # float64 always holds what the host's formats allow
        self.room = min(target.bias_room, most_current, (1 << WIDEST_SUM) >> node.shift)
        self.largest = float(np.abs(node.weight).max(initial=1))
        self.latent = latent(np.zeros(len(node.weight)))
        self.kernel = latent(node.weight / self.largest, torch.float64).requires_grad_(rates)
        bias = per_channel(node.bias, len(node.shape)).astype(np.float64)
        self.register_buffer("bias", torch.from_numpy(np.array(bias)), persistent=False)
        self.register_buffer("bounds", torch.zeros(2, len(node.weight)), persistent=False)
        self.project()

    def delta(self) -> Tensor:
        """Return the whole units of current that each channel gets more."""
        low, high = self.bounds[0], self.bounds[1]
        return rounded(torch.minimum(torch.maximum(self.latent * self.unit, low), high), even=True)

    def weights(self) -> Tensor:
        """Return the integers that act, float64."""
        return rounded(self.kernel * self.largest, even=True)

    def forward(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """(B, *source) integers -> (B, *shape) of the type of the population's states."""
        current = self._shifted(self._sums(x.double(), self.weights())).to(dtype)
        return current + self.delta().to(dtype).reshape(-1, *(1,) * (current.ndim - 2))

    def _sums(self, x: Tensor, weight: Tensor) -> Tensor:
        return convolved(x, weight, self.held) if weight.ndim == 4 else functional.linear(x.flatten(1), weight)

    def _shifted(self, sums: Tensor) -> Tensor:
        return rounded((sums + self.bias) / (1 << self.held.shift), even=False)

    def _ends(self) -> tuple[Tensor, Tensor]:
        """The (smallest, largest) current of each channel without delta, for any input in range, (out,)."""
        shape, weight = (1, *self.source.shape), self.weights()
        low, high = (weight.new_full(shape, end) for end in (self.source.low, self.source.high))
        up, down = weight.clamp(min=0), weight.clamp(max=0)
        least, most = self._sums(low, up) + self._sums(high, down), self._sums(high, up) + self._sums(low, down)
        rows = (self._shifted(end).reshape(len(weight), -1) for end in (least, most))
        return next(rows).amin(1), next(rows).amax(1)

    @torch.no_grad()
    def project(self) -> None:
        """Keep every current inside what neurons can hold."""
        smallest, largest = self._ends()
        peaks = torch.maximum(largest, -smallest)
        if bool((peaks > self.room).any()):
            one, levels = 1 << self.held.shift, max(-self.source.low, self.source.high)
            given = float(self.bias.abs().max()) / one
            margin = 1 + levels * self.kernel[0].numel() / (2 * one)  # what rounding may add
            factors = ((self.room - margin - given) / (peaks + given)).clamp(min=0.0)
            factors = torch.where(peaks > self.room, factors, torch.ones_like(factors))
            self.kernel.mul_(factors.reshape(-1, *(1,) * (self.kernel.ndim - 1)))
            smallest, largest = self._ends()
        self.bounds.copy_(torch.stack([-self.room - smallest, self.room - largest]))
        low, high = self.bounds / self.unit
        self.latent.copy_(torch.minimum(torch.maximum(self.latent, low), high))

    @torch.no_grad()
    def node(self) -> fixed.HeldCurrent:
        """Return the current with its weights, and what was added to each channel."""
        added = whole(self.delta()) << self.held.shift
        bias = per_channel(self.held.bias, len(self.held.shape)) + per_channel(added, len(self.held.shape))
        return replace(self.held, weight=whole(self.weights()), bias=bias)


class UnitCurrent(nn.Module):
    """A `FixedUnitCurrent`: counts of a window scaled to length 1 by the host; its wide weights stay as they are."""

    weight: Tensor
    bias: Tensor

    def __init__(self, node: fixed.FixedUnitCurrent) -> None:
        super().__init__()
        self.current = node
        self.register_buffer("weight", torch.from_numpy(node.weight.astype(np.float64)), persistent=False)
        self.register_buffer("bias", torch.from_numpy(node.bias.astype(np.float64)), persistent=False)
        self.fixed = True

    def forward(self, sources: list[Tensor]) -> Tensor:
        """Windows (T, B, *shape) -> (T, B, *shape) of the node, float64."""
        parts = []
        for x, pooled in zip(sources, self.current.pooled, strict=True):
            counts = x.double().sum(0)
            counts = counts.flatten(2).sum(2) if pooled else counts.flatten(1)
            squares = counts.square().sum(1, keepdim=True)
            length = torch.where(squares > 0, squares, torch.ones_like(squares)).sqrt()  # a root of 0 has no slope
            scaled = counts * float(1 << UNIT_BITS) / length
            parts.append(rounded(scaled, even=True))
        total = functional.linear(torch.cat(parts, 1), self.weight, self.bias)
        shifted = rounded(total / (1 << self.current.shift), even=False) * self.current.gain
        return shifted.reshape(1, -1, *self.current.shape).expand(len(sources[0]), -1, *self.current.shape)
