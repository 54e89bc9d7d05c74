"""GCC-PHAT and log-mel frames to scores of event class and azimuth: SpikSLC-Net, with both streams or one.

Each stream is encoded in spikes; L blocks of hybrid attention fusion (`avsnn.train.models.shaf`) follow; means over
frames and sums over steps of both streams feed two linear heads. Source: Spiking Hybrid Attentive Mechanism with
Decoupled Layer Normalization for Joint Sound Localization and Classification (anonymous, 2023).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from avsnn.train.models.shaf import SHAF, Encoder, Mix
from avsnn.train.models.spikslc_config import SpikSLCConfig


class Heads(nn.Module):
    """Means over frames, summed over steps, to class scores (B, classes) and raw azimuth scores (B, azimuths).

    Args:
        features: of all streams together.
        classes: of events.
        azimuths: directions, in order.
        azimuth_bias: initial bias of the azimuths. Targets are nearly all 0, so that a start at 0 (sigmoid 0.5) spends
            the first updates on saturating every output, from which training may not come back.
    """

    def __init__(self, features: int, classes: int, azimuths: int, *, azimuth_bias: float) -> None:
        super().__init__()
        self.event, self.azimuth = nn.Linear(features, classes), nn.Linear(features, azimuths)
        nn.init.constant_(self.azimuth.bias, azimuth_bias)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return ``scores`` and ``azimuth`` of ``x`` (T, B, features, F, 1)."""
        pooled = x.mean((3, 4)).sum(0)
        return {"scores": self.event(pooled), "azimuth": self.azimuth(pooled)}


def joined(outputs: dict[str, Tensor]) -> Tensor:
    """Return the one answer (B, classes + azimuths) of a network with two heads, classes first."""
    return torch.cat((outputs["scores"], outputs["azimuth"]), dim=1)


class SpikSLC(nn.Module):
    """Both streams: ``forward(gcc, mel)`` -> (B, classes + azimuths)."""

    def __init__(self, config: SpikSLCConfig) -> None:
        super().__init__()
        self.config = config
        self.gcc = Encoder(config.pairs * config.lags, config)
        self.mel = Encoder(config.microphones * config.mels, config)
        self.blocks = nn.ModuleList(SHAF(config) for _ in range(config.blocks))
        features = 2 * config.dim
        self.heads = Heads(features, config.classes, config.azimuths, azimuth_bias=config.azimuth_bias_init)

    def outputs(self, gcc: Tensor, mel: Tensor) -> dict[str, Tensor]:
        """Return ``scores`` (B, classes) and ``azimuth`` (B, azimuths) of ``gcc`` and ``mel`` (B, F, features)."""
        left, right = self.gcc(gcc), self.mel(mel)
        for block in self.blocks:
            left, right = block(left, right)
        answers: dict[str, Tensor] = self.heads(torch.cat((left, right), dim=2))
        return answers

    def forward(self, gcc: Tensor, mel: Tensor) -> Tensor:
        """Return class scores, then azimuth scores."""
        return joined(self.outputs(gcc, mel))


class _Single(nn.Module):
    """One stream without cross attention: (B, F, features) -> scores."""

    def __init__(self, features: int, config: SpikSLCConfig):
        super().__init__()
        self.encoder = Encoder(features, config)
        self.blocks = nn.ModuleList(Mix(config) for _ in range(config.blocks))
        self.heads = Heads(config.dim, config.classes, config.azimuths, azimuth_bias=config.azimuth_bias_init)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        stream = self.encoder(x)
        for block in self.blocks:
            stream = block(stream, stream)
        answers: dict[str, Tensor] = self.heads(stream)
        return answers


class SpikSLCGcc(nn.Module):
    """GCC-PHAT alone: ``forward(gcc)`` -> (B, classes + azimuths)."""

    def __init__(self, config: SpikSLCConfig) -> None:
        super().__init__()
        self.config, self.gcc = config, _Single(config.pairs * config.lags, config)

    def outputs(self, gcc: Tensor) -> dict[str, Tensor]:
        """Return ``scores`` (B, classes) and ``azimuth`` (B, azimuths) of ``gcc`` (B, F, features)."""
        answers: dict[str, Tensor] = self.gcc(gcc)
        return answers

    def forward(self, gcc: Tensor) -> Tensor:
        """Return class scores, then azimuth scores."""
        return joined(self.outputs(gcc))


class SpikSLCMel(nn.Module):
    """Log-mel alone: ``forward(mel)`` -> (B, classes + azimuths)."""

    def __init__(self, config: SpikSLCConfig) -> None:
        super().__init__()
        self.config, self.mel = config, _Single(config.microphones * config.mels, config)

    def outputs(self, mel: Tensor) -> dict[str, Tensor]:
        """Return ``scores`` (B, classes) and ``azimuth`` (B, azimuths) of ``mel`` (B, F, features)."""
        answers: dict[str, Tensor] = self.mel(mel)
        return answers

    def forward(self, mel: Tensor) -> Tensor:
        """Return class scores, then azimuth scores."""
        return joined(self.outputs(mel))


def build_spikslc(config: SpikSLCConfig) -> nn.Module:
    """Return the network for the modalities of ``config``; its ``forward`` takes exactly these by name."""
    if config.modalities == ("gcc",):
        return SpikSLCGcc(config)
    return SpikSLCMel(config) if config.modalities == ("mel",) else SpikSLC(config)
