"""Tokens of two modalities to new tokens of one: the fusion that S-CMRL proposes and those it is compared with.

========================  ==========================================================  =======================
``fusion``                new tokens of x, given the other modality's tokens y        source
========================  ==========================================================  =======================
spatial, temporal         ``x + alpha S`` or ``x + alpha Tm``                         He et al., S-CMRL, 2025
spatiotemporal            ``x + alpha mean_n(S) mean_t(Tm)``                          the same
self                      ``x + alpha S`` with y = x                                  Zhou et al., 2023
weight                    ``w[t] x``, ``w[t] = fc2(fc1([mean_n x; mean_n y]))``       Liu et al., 2022
sca                       ``S`` instead of x                                          Guo et al., 2024
cmci                      ``MLP(LIF(fc1 x + fc2 y))``, a third stream                 Jiang et al., 2023
========================  ==========================================================  =======================

S and Tm are `CrossAttention` over space and over time. All but the last return, beside the new tokens, what they took
from the other modality.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from avsnn.train.attention import (
    AddScaled,
    MappedValues,
    Over,
    PositionedScores,
    ProductOfMeans,
    SpikeAttention,
    StepGain,
    TokenMean,
)
from avsnn.train.layers import TimeBatched
from avsnn.train.models.scmrl_config import SCAConfig, SCMRLConfig
from avsnn.train.models.scmrl_trunk import MLP, make_lif, make_norm, start_linear, token_linear

Fused = tuple[Tensor, Tensor]
"""New tokens, and what they owe to the other modality; both (T, B, D, H, W)."""


class _Spiking(nn.Module):
    """``LIF(BN(W x))`` at every token."""

    def __init__(self, config: SCMRLConfig) -> None:
        super().__init__()
        self.conv = TimeBatched(nn.Conv2d(config.dim, config.dim, kernel_size=1, bias=False))
        self.norm, self.lif = TimeBatched(make_norm(config.dim, config)), make_lif(config)

    def forward(self, x: Tensor) -> Tensor:
        spikes: Tensor = self.lif(self.norm(self.conv(x)))
        return spikes


class CrossAttention(nn.Module):
    """``LIF(BN(W_o LIF(a)))``, ``a = scale (q k^T) v``, queries from x, keys and values from y, all binary spikes.

    Args:
        over: ``"space"`` or ``"time"``, see `SpikeAttention`.
        config: heads, scale and threshold of the attention.
    """

    def __init__(self, over: Over, config: SCMRLConfig) -> None:
        super().__init__()
        self.query, self.key, self.value = _Spiking(config), _Spiking(config), _Spiking(config)
        self.attention = SpikeAttention(config.heads, config.attention_scale, over=over)
        self.attention_lif = make_lif(config, config.attention_threshold)
        self.project = _Spiking(config)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return spikes of the shape of ``x`` (T, B, D, H, W)."""
        current = self.attention(self.query(x), self.key(y), self.value(y))
        spikes: Tensor = self.project(self.attention_lif(current))
        return spikes


class Align(nn.Module):
    """``LIF(W r + b)``: the layer that semantic alignment adds, which makes the residual binary again."""

    def __init__(self, config: SCMRLConfig) -> None:
        super().__init__()
        self.linear, self.lif = token_linear(config), make_lif(config)

    def forward(self, r: Tensor) -> Tensor:
        """Return spikes of the shape of ``r``."""
        spikes: Tensor = self.lif(self.linear(r))
        return spikes


class ResidualFusion(nn.Module):
    """``x + alpha r``: r from attention over space, over time, or the product of their means."""

    def __init__(self, config: SCMRLConfig) -> None:
        super().__init__()
        self.spatial = CrossAttention("space", config) if config.fusion != "temporal" else None
        self.temporal = CrossAttention("time", config) if "temporal" in config.fusion else None
        self.product = ProductOfMeans() if config.fusion == "spatiotemporal" else None
        self.align = Align(config) if config.sao != "off" else None
        self.add = AddScaled(config.residual_alpha)

    def forward(self, x: Tensor, y: Tensor) -> Fused:
        """Return ``x + alpha r`` and r."""
        parts = [branch(x, y) for branch in (self.spatial, self.temporal) if branch is not None]
        r: Tensor = parts[0] if self.product is None else self.product(*parts)
        if self.align is not None:
            r = self.align(r)
        return self.add(x, r), r


class WeightFusion(nn.Module):
    """``w[t] x``: one gain per step and sample, linear in the token means of both."""

    def __init__(self, config: SCMRLConfig) -> None:
        super().__init__()
        self.mean = TokenMean()
        self.fc1 = TimeBatched(nn.Linear(2 * config.dim, config.dim))
        self.fc2 = TimeBatched(nn.Linear(config.dim, 1))
        self.weigh = StepGain()
        for layer in (self.fc1.module, self.fc2.module):
            assert isinstance(layer, nn.Linear)
            start_linear(layer, config)

    def forward(self, x: Tensor, y: Tensor) -> Fused:
        """Return ``w x``, twice."""
        both = torch.cat((self.mean(x), self.mean(y)), dim=2)
        weighted: Tensor = self.weigh(x, self.fc2(self.fc1(both)))
        return weighted, weighted


class MappedAttention(nn.Module):
    """`CrossAttention` over space whose map ``LIF(q k^T + bias)`` is binary and knows relative positions."""

    def __init__(self, config: SCAConfig) -> None:
        super().__init__()
        self.query, self.key, self.value = _Spiking(config), _Spiking(config), _Spiking(config)
        side, seed = config.side("image"), config.position_seed if config.position == "random" else None
        self.scores = PositionedScores(config.heads, (side, side), seed=seed)
        self.map_lif = make_lif(config)
        self.attention = MappedValues(config.attention_scale)
        self.attention_lif = make_lif(config, config.attention_threshold)
        self.project = _Spiking(config)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return spikes of the shape of ``x`` (T, B, D, H, W)."""
        chosen = self.map_lif(self.scores(self.query(x), self.key(y)))
        spikes: Tensor = self.project(self.attention_lif(self.attention(chosen, self.value(y))))
        return spikes


class ReplacingFusion(nn.Module):
    """S instead of x: the image branch attends through a binary map with positions, the audio branch plainly."""

    def __init__(self, modality: str, config: SCAConfig) -> None:
        super().__init__()
        self.spatial = MappedAttention(config) if modality == "image" else CrossAttention("space", config)

    def forward(self, x: Tensor, y: Tensor) -> Fused:
        """Return S, twice."""
        spikes: Tensor = self.spatial(x, y)
        return spikes, spikes


class CommonStream(nn.Module):
    """``z + MLP(z)``, ``z = LIF(fc1 x + fc2 y)``: (T, B, D, H, W) of both -> (T, B, D, H, W), values 0 to 2."""

    def __init__(self, config: SCMRLConfig) -> None:
        super().__init__()
        self.fc1, self.fc2 = token_linear(config), token_linear(config)
        self.lif, self.mlp = make_lif(config), MLP(config)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the common tokens of ``x`` and ``y``."""
        tokens: Tensor = self.mlp(self.lif(self.fc1(x) + self.fc2(y)))
        return tokens


def make_fusion(modality: str, config: SCMRLConfig) -> nn.Module | None:
    """Return what stands in the trunk of ``modality``, or nothing where the trunks stay apart."""
    match config.fusion:
        case "none" | "cmci":
            return None
        case "spatial" | "temporal" | "spatiotemporal" | "self":
            return ResidualFusion(config)
        case "weight":
            return WeightFusion(config)
        case "sca":
            assert isinstance(config, SCAConfig)
            return ReplacingFusion(modality, config)
        case _:
            raise AssertionError(config.fusion)
