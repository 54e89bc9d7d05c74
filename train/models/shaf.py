"""The layers of SpikSLC-Net: frames to spikes, and two streams to two streams by hybrid attention fusion (SHAF).

``X~ = X + SSA(X) + SCA(X, Y)``, ``X' = X~ + FLS(FLS(X~))``, ``FLS(z) = LIF(FC(norm(z)))``, with self attention SSA and
cross attention SCA (queries of the own stream, keys and values of the other), equations 8 to 13 of the paper named in
`avsnn.train.models.spikslc`. Tokens are (T, B, E, frames, 1) and a linear layer over E is a 1x1 convolution, so that
channels are where all other networks have them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from avsnn.train.attention import SpikeAttention
from avsnn.train.layers import DirectCoding, TimeBatched
from avsnn.train.models.spikslc_config import SpikSLCConfig
from avsnn.train.neurons import LIF
from avsnn.train.norms import make_norm


def _neuron(config: SpikSLCConfig, v_threshold: float) -> nn.Module:
    if config.neuron == "relu":
        return nn.ReLU()
    return LIF(
        config.tau,
        v_threshold,
        surrogate=config.surrogate,
        alpha=config.alpha or None,
        detach_membrane=config.detach_membrane,
    )


def _batch_norm(config: SpikSLCConfig) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(config.dim)
    nn.init.constant_(norm.weight, config.bn_gamma_init)
    return norm


class Frames(nn.Module):
    """Frames of features to channels with positions: (B, F, K) -> (B, K, F, 1), without a copy."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` with its features as channels."""
        return x.transpose(1, 2).unsqueeze(3)


class Encoder(nn.Module):
    """(B, F, K) values -> (T, B, E, F, 1) spikes: linear and norm once, their current repeated in all steps.

    Args:
        features: K.
        config: the whole network's configuration.
    """

    def __init__(self, features: int, config: SpikSLCConfig) -> None:
        super().__init__()
        self.frames, self.linear = Frames(), nn.Conv2d(features, config.dim, kernel_size=1)
        self.norm, self.repeat = _batch_norm(config), DirectCoding(config.timesteps)
        self.neuron = _neuron(config, config.v_threshold)

    def forward(self, x: Tensor) -> Tensor:
        """Return the spikes of ``x``."""
        spikes: Tensor = self.neuron(self.repeat(self.norm(self.linear(self.frames(x)))))
        return spikes


class _Projection(nn.Module):
    """x -> LIF(BN(W x + b)) at every token."""

    def __init__(self, config: SpikSLCConfig):
        super().__init__()
        self.linear = TimeBatched(nn.Conv2d(config.dim, config.dim, kernel_size=1))
        self.norm = TimeBatched(_batch_norm(config))
        self.neuron = _neuron(config, config.v_threshold)

    def forward(self, x: Tensor) -> Tensor:
        spikes: Tensor = self.neuron(self.norm(self.linear(x)))
        return spikes


class SoftmaxAttention(nn.Module):
    """``a[m] = sum_n softmax_n(q[m] . k[n] / sqrt(d)) v[n]`` per step, sample and head of d channels.

    Tokens m, n are the axes behind the channels of (T, B, D, *tokens), and ``d = D / heads``.

    Args:
        heads: divides D.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the attention of the queries ``q`` over the keys ``k`` with values ``v``, of the shape of ``q``."""
        query, key, value = (x.reshape(*x.shape[:2], self.heads, x.shape[2] // self.heads, -1) for x in (q, k, v))
        scores = key.transpose(-1, -2) @ query  # (..., keys, queries)
        weights = torch.softmax(scores * query.shape[3] ** -0.5, dim=-2)
        return (value @ weights).reshape(q.shape)

    def extra_repr(self) -> str:
        """Return the heads for `repr`."""
        return f"heads={self.heads}"


class Attention(nn.Module):
    """SSA of one stream, or SCA of two: queries of ``x``, keys and values of ``y``, all (T, B, E, F, 1)."""

    def __init__(self, config: SpikSLCConfig) -> None:
        super().__init__()
        self.query, self.key, self.value = (_Projection(config) for _ in "qkv")
        spiking = config.attention == "spike"
        self.attend = (
            SpikeAttention(config.heads, config.scale, over="space") if spiking else SoftmaxAttention(config.heads)
        )
        self.neuron = _neuron(config, config.attention_threshold)
        self.project = _Projection(config)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the spikes of the projected attention."""
        attended = self.neuron(self.attend(self.query(x), self.key(y), self.value(y)))
        spikes: Tensor = self.project(attended)
        return spikes


class _FLS(nn.Module):
    """x -> LIF(W norm(x) + b) at every token."""

    def __init__(self, config: SpikSLCConfig):
        super().__init__()
        self.norm = make_norm(
            config.norm, config.dim, (config.frames, 1), variance=config.dsln_var, momentum=config.norm_momentum
        )
        self.linear = TimeBatched(nn.Conv2d(config.dim, config.dim, kernel_size=1))
        self.neuron = _neuron(config, config.v_threshold)

    def forward(self, x: Tensor) -> Tensor:
        spikes: Tensor = self.neuron(self.linear(self.norm(x)))
        return spikes


class Mix(nn.Module):
    """One stream of a block: x -> x + SSA(x) + SCA(x, y), then + FLS(FLS(.)) of that; values grow by up to 3."""

    def __init__(self, config: SpikSLCConfig):
        super().__init__()
        self.self_attention = Attention(config)
        self.cross_attention = Attention(config) if len(config.modalities) > 1 else None
        self.fls1, self.fls2 = _FLS(config), _FLS(config)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the new ``x``; ``y`` is the other stream, not used without cross attention."""
        mixed = x + self.self_attention(x, x)
        if self.cross_attention is not None:
            mixed = mixed + self.cross_attention(x, y)
        spikes: Tensor = self.fls2(self.fls1(mixed))
        return mixed + spikes


class SHAF(nn.Module):
    """One block of hybrid attention fusion: both streams at once, each from both, (T, B, E, F, 1)."""

    def __init__(self, config: SpikSLCConfig) -> None:
        super().__init__()
        self.gcc, self.mel = Mix(config), Mix(config)

    def forward(self, gcc: Tensor, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Return the new streams."""
        return self.gcc(gcc, mel), self.mel(mel, gcc)
