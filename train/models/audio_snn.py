"""Log-mel spectrogram to class scores and to an embedding of length 1: the audio network of Oikonomou et al. (2025).

Blocks of convolution, norm, LIF and pool; what is left is flattened, thinned by dropout, averaged over steps, and read
by the head of `avsnn.train.models.counting`. Its 27,136 features are 64 channels of 8 by 53: 64 mel bands and 431
frames (5 s at 44.1 kHz, 512 samples apart, centred) after three pools of two.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from avsnn.train.layers import DirectCoding, Normalise, TimeBatched
from avsnn.train.models.counting import CosineHead, CountingConfig, lif


@dataclass(frozen=True, kw_only=True)
class AudioSNNConfig(CountingConfig):
    """Everything that decides shapes and arithmetic of the network.

    ``channels`` has one number per block. The paper's ablations are ``dropout=0``, ``channels`` without its last, and
    ``pool=false``. ``bands`` and ``frames`` are height and width of the spectrogram.
    """

    timesteps: int = 4
    surrogate: str = "fast_sigmoid"
    high: float = 0.85
    low: float = 0.15
    audio_channels: int = 1
    audio_mean: tuple[float, ...] = (0.0,)
    audio_std: tuple[float, ...] = (1.0,)
    bands: int = 64
    frames: int = 431
    channels: tuple[int, ...] = (16, 32, 64)
    dropout: float = 0.5
    pool: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.demand_positive("audio_channels", "bands", "frames", "channels")
        if not 0 <= self.dropout < 1:
            raise self.refusal("dropout", "0 or more, below 1")
        if len(self.audio_mean) != self.audio_channels:
            raise self.refusal("audio_mean", f"{self.audio_channels} channels")
        if not self.features:
            raise self.refusal("channels", f"blocks that leave something of {self.bands} x {self.frames}")

    @property
    def features(self) -> int:
        """Length of the embedding."""
        halvings = len(self.channels) if self.pool else 0
        return self.channels[-1] * (self.bands >> halvings) * (self.frames >> halvings)


PRESETS: dict[str, dict[str, object]] = {
    "tiny": {
        "audio_mean": (0.33,),  # of avdigits training pairs
        "audio_std": (0.18,),
        "bands": 32,
        "frames": 32,
        "channels": (8, 16, 32),
        "dropout": 0.2,
    },
    "reference": {},
}


class _Block(nn.Module):
    """(T, B, C, H, W) -> (T, B, c, H / 2, W / 2) spikes; without ``pool`` the size stays."""

    def __init__(self, inputs: int, outputs: int, config: AudioSNNConfig) -> None:
        super().__init__()
        self.conv = TimeBatched(nn.Conv2d(inputs, outputs, kernel_size=3, padding=1))
        self.norm, self.lif = TimeBatched(nn.BatchNorm2d(outputs)), lif(config)
        self.pool = TimeBatched(nn.MaxPool2d(2)) if config.pool else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        pooled: Tensor = self.pool(self.lif(self.norm(self.conv(x))))
        return pooled


class _First(nn.Module):
    """(B, C, H, W) values -> (T, B, c, H / 2, W / 2) spikes: the current is computed once and repeated."""

    def __init__(self, config: AudioSNNConfig) -> None:
        super().__init__()
        self.normalise = Normalise(config.audio_mean, config.audio_std)
        self.conv = nn.Conv2d(config.audio_channels, config.channels[0], kernel_size=3, padding=1)
        self.norm = nn.BatchNorm2d(config.channels[0])
        self.repeat, self.lif = DirectCoding(config.timesteps), lif(config)
        self.pool = TimeBatched(nn.MaxPool2d(2)) if config.pool else nn.Identity()

    def forward(self, audio: Tensor) -> Tensor:
        current = self.norm(self.conv(self.normalise(audio)))
        pooled: Tensor = self.pool(self.lif(self.repeat(current)))
        return pooled


class Backbone(nn.Module):
    """Everything before the head: (B, C, bands, frames) -> (T, B, D), spikes; each step is thinned by itself."""

    def __init__(self, config: AudioSNNConfig) -> None:
        super().__init__()
        self.features = config.features
        pairs = zip(config.channels, config.channels[1:], strict=False)
        self.blocks = nn.Sequential(_First(config), *(_Block(inputs, outputs, config) for inputs, outputs in pairs))
        self.flatten, self.dropout = nn.Flatten(start_dim=2), nn.Dropout(config.dropout)

    def forward(self, audio: Tensor) -> Tensor:
        """Return the features of every step."""
        features: Tensor = self.dropout(self.flatten(self.blocks(audio)))
        return features


class AudioSNN(nn.Module):
    """``forward(audio)`` -> (B, classes) scores; `outputs` adds ``counts``, ``logits`` and ``embedding``."""

    def __init__(self, config: AudioSNNConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        self.head = CosineHead(self.backbone.features, config)

    def outputs(self, audio: Tensor) -> dict[str, Tensor]:
        """Return what `CosineHead.outputs` makes of ``audio`` (B, C, bands, frames)."""
        return self.head.outputs(self.backbone(audio))

    def forward(self, audio: Tensor) -> Tensor:
        """Return the scores of ``audio`` (B, C, bands, frames)."""
        scores: Tensor = self.head(self.backbone(audio))
        return scores
