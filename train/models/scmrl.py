"""Image and spectrogram to class scores: the S-CMRL network of He et al. (2025), so far without cross-modal fusion.

Each modality has its own trunk: spiking patch splitting (stages of conv, norm, LIF, pool), a convolution as relative
position embedding with a residual, and an MLP with a residual; averages over tokens and steps feed a linear head.
Sizes and order follow the authors' reference code (https://github.com/Brain-Cog-Lab/S-CMRL); the frame repeats in
all steps, so the first convolution is computed once and its current is repeated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from avsnn.errors import InputError
from avsnn.train.layers import DirectCoding, Normalise, TimeBatched
from avsnn.train.neurons import LIF
from avsnn.train.surrogates import find_surrogate

_CHOICES = {"fusion": ("none",), "interaction": ("add", "concat"), "head": ("mean", "tokens")}
_MODALITIES = (("image", "audio"), ("image",), ("audio",))


@dataclass(frozen=True, kw_only=True)
class SCMRLConfig:
    """Everything that decides shapes and arithmetic of the network.

    ``dim`` is D; stage k of ``stages`` has ``D / 2 ** (stages - k)`` channels and halves height and width. ``head``
    ``"mean"`` averages tokens (the paper), ``"tokens"`` gives every token its own weights. ``interaction`` adds the
    averages of the modalities or gives each its own weights (equal to concatenating). ``alpha`` 0 means the
    surrogate's own steepness. ``head_gain`` multiplies the initial weights of the head.
    """

    fusion: str = "none"
    timesteps: int = 4
    dim: int = 32
    stages: int = 2
    modalities: tuple[str, ...] = ("image", "audio")
    image_channels: int = 1
    audio_channels: int = 1
    image_size: int = 28
    audio_size: int = 32
    image_mean: tuple[float, ...] = (0.0,)
    image_std: tuple[float, ...] = (1.0,)
    audio_mean: tuple[float, ...] = (0.0,)
    audio_std: tuple[float, ...] = (1.0,)
    classes: int = 10
    interaction: str = "add"
    head: str = "mean"
    head_gain: float = 1.0
    mlp_ratio: int = 4
    tau: float = 2.0
    v_threshold: float = 1.0
    surrogate: str = "atan"
    alpha: float = 0.0
    detach_membrane: bool = False
    bn_gamma_init: float = 1.0

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise _bad(name, getattr(self, name), ", ".join(choices))
        if self.modalities not in _MODALITIES:
            raise _bad("modalities", ",".join(self.modalities), "image,audio or image or audio")
        for name in ("timesteps", "dim", "stages", "image_size", "audio_size", "classes", "mlp_ratio"):
            if getattr(self, name) < 1:
                raise _bad(name, getattr(self, name), "1 or more")
        if self.dim % 2 ** (self.stages - 1):
            raise _bad("dim", self.dim, f"a multiple of {2 ** (self.stages - 1)} with {self.stages} stages")
        if self.interaction == "add" and self.head == "tokens" and len(self.modalities) > 1:
            raise _bad("interaction", "add", "concat with head=tokens, as token counts may differ")
        for name in self.modalities:
            channels, statistics = getattr(self, f"{name}_channels"), getattr(self, f"{name}_mean")
            if len(statistics) != channels:
                raise _bad(f"{name}_mean", list(statistics), f"{channels} channels")
        find_surrogate(self.surrogate)


PRESETS: dict[str, dict[str, object]] = {
    "tiny": {
        "image_mean": (0.22,),  # of avdigits training pairs
        "image_std": (0.25,),
        "audio_mean": (0.33,),
        "audio_std": (0.18,),
        "bn_gamma_init": 1.5,
        "head_gain": 10.0,
    },
    "reference": {
        "dim": 64,
        "stages": 4,
        "image_channels": 3,
        "image_size": 128,
        "audio_size": 128,
        "image_mean": (0.485, 0.456, 0.406),  # ImageNet's, as in the authors' code
        "image_std": (0.229, 0.224, 0.225),
        "surrogate": "sigmoid",
        "detach_membrane": True,
    },
}
PRESETS["reference-256"] = {**PRESETS["reference"], "dim": 256, "classes": 6}


def _bad(name: str, found: object, limit: str) -> InputError:
    return InputError(f"{name} is not possible", where="SCMRLConfig", found=found, limit=limit)


def _lif(config: SCMRLConfig) -> LIF:
    return LIF(
        config.tau,
        config.v_threshold,
        surrogate=config.surrogate,
        alpha=config.alpha or None,
        detach_membrane=config.detach_membrane,
    )


def _norm(channels: int, config: SCMRLConfig) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    nn.init.constant_(norm.weight, config.bn_gamma_init)
    return norm


def _conv3(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False)


def _pool() -> TimeBatched:
    return TimeBatched(nn.MaxPool2d(kernel_size=3, stride=2, padding=1))


class _First(nn.Module):
    """(B, C, H, W) values -> (T, B, c, H/2, W/2) spikes."""

    def __init__(self, inputs: int, outputs: int, mean: Sequence[float], std: Sequence[float], config: SCMRLConfig):
        super().__init__()
        self.normalise = Normalise(mean, std)
        self.conv, self.norm = _conv3(inputs, outputs), _norm(outputs, config)
        self.repeat = DirectCoding(config.timesteps)
        self.lif, self.pool = _lif(config), _pool()

    def forward(self, x: Tensor) -> Tensor:
        current = self.norm(self.conv(self.normalise(x)))
        pooled: Tensor = self.pool(self.lif(self.repeat(current)))
        return pooled


class _Stage(nn.Module):
    """(T, B, C, H, W) spikes -> (T, B, c, H/2, W/2) spikes."""

    def __init__(self, inputs: int, outputs: int, config: SCMRLConfig):
        super().__init__()
        self.conv, self.norm = TimeBatched(_conv3(inputs, outputs)), TimeBatched(_norm(outputs, config))
        self.lif, self.pool = _lif(config), _pool()

    def forward(self, x: Tensor) -> Tensor:
        pooled: Tensor = self.pool(self.lif(self.norm(self.conv(x))))
        return pooled


class _Position(nn.Module):
    """x -> x + LIF(BN(conv(x))), values 0 to 2: the convolution is the position embedding."""

    def __init__(self, config: SCMRLConfig):
        super().__init__()
        self.conv = TimeBatched(_conv3(config.dim, config.dim))
        self.norm, self.lif = TimeBatched(_norm(config.dim, config)), _lif(config)

    def forward(self, x: Tensor) -> Tensor:
        spikes: Tensor = self.lif(self.norm(self.conv(x)))
        return x + spikes


class _MLP(nn.Module):
    """x -> x + LIF(BN(W2 LIF(BN(W1 x)))) at every token, with ``mlp_ratio * D`` hidden neurons."""

    def __init__(self, config: SCMRLConfig):
        super().__init__()
        hidden = config.dim * config.mlp_ratio
        self.conv1 = TimeBatched(nn.Conv2d(config.dim, hidden, kernel_size=1))
        self.norm1, self.lif1 = TimeBatched(_norm(hidden, config)), _lif(config)
        self.conv2 = TimeBatched(nn.Conv2d(hidden, config.dim, kernel_size=1))
        self.norm2, self.lif2 = TimeBatched(_norm(config.dim, config)), _lif(config)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.lif1(self.norm1(self.conv1(x)))
        spikes: Tensor = self.lif2(self.norm2(self.conv2(hidden)))
        return x + spikes


class Trunk(nn.Module):
    """One modality: (B, C, H, W) -> (T, B, D, H / 2**stages, W / 2**stages), values 0 to 3.

    Args:
        modality: ``"image"`` or ``"audio"``, which picks channels and statistics from ``config``.
        config: the whole network's configuration.
    """

    def __init__(self, modality: str, config: SCMRLConfig) -> None:
        super().__init__()
        widths = [config.dim >> shift for shift in range(config.stages - 1, -1, -1)]
        channels: int = getattr(config, f"{modality}_channels")
        mean, std = getattr(config, f"{modality}_mean"), getattr(config, f"{modality}_std")
        first = _First(channels, widths[0], mean, std, config)
        rest = [_Stage(wide // 2, wide, config) for wide in widths[1:]]
        self.patches = nn.Sequential(first, *rest)  # "SPS" in the paper
        self.position = _Position(config)
        self.mlp = _MLP(config)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of spikes per step and token."""
        features: Tensor = self.mlp(self.position(self.patches(x)))
        return features


class _Head(nn.Module):
    """(T, B, D, H, W) -> (B, classes) scores of one modality, linear in the spikes."""

    def __init__(self, modality: str, config: SCMRLConfig, *, bias: bool):
        super().__init__()
        side: int = getattr(config, f"{modality}_size")
        for _ in range(config.stages):
            side = math.ceil(side / 2)  # 3x3 pool, stride 2, pad 1
        self.by_token = config.head == "tokens"
        inputs = config.dim * side * side if self.by_token else config.dim
        self.linear = nn.Linear(inputs, config.classes, bias=bias)
        with torch.no_grad():
            self.linear.weight.mul_(config.head_gain)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2) if self.by_token else x.mean((3, 4))
        scores: Tensor = self.linear(tokens.mean(0))
        return scores


class SCMRL(nn.Module):
    """Image and audio together: ``forward(image, audio)`` -> (B, classes)."""

    def __init__(self, config: SCMRLConfig) -> None:
        super().__init__()
        self.config = config
        self.image, self.audio = Trunk("image", config), Trunk("audio", config)
        self.shared = config.interaction == "add"
        self.head = _Head("image", config, bias=True)
        if not self.shared:
            self.audio_head = _Head("audio", config, bias=False)  # its bias would be the same parameter again

    def forward(self, image: Tensor, audio: Tensor) -> Tensor:
        """Return the scores of ``image`` (B, C, H, W) with ``audio`` (B, C, H', W')."""
        seen, heard = self.image(image), self.audio(audio)
        if self.shared:
            tokens = seen.mean((3, 4)) + heard.mean((3, 4))
            scores: Tensor = self.head.linear(tokens.mean(0))
        else:
            scores = self.head(seen) + self.audio_head(heard)
        return scores


class SCMRLImage(nn.Module):
    """The image trunk alone: ``forward(image)`` -> (B, classes)."""

    def __init__(self, config: SCMRLConfig) -> None:
        super().__init__()
        self.config = config
        self.image, self.head = Trunk("image", config), _Head("image", config, bias=True)

    def forward(self, image: Tensor) -> Tensor:
        """Return the scores of ``image`` (B, C, H, W)."""
        scores: Tensor = self.head(self.image(image))
        return scores


class SCMRLAudio(nn.Module):
    """The audio trunk alone: ``forward(audio)`` -> (B, classes)."""

    def __init__(self, config: SCMRLConfig) -> None:
        super().__init__()
        self.config = config
        self.audio, self.head = Trunk("audio", config), _Head("audio", config, bias=True)

    def forward(self, audio: Tensor) -> Tensor:
        """Return the scores of ``audio`` (B, C, H, W)."""
        scores: Tensor = self.head(self.audio(audio))
        return scores


def build_scmrl(config: SCMRLConfig) -> nn.Module:
    """Return the network for the modalities of ``config``; its ``forward`` takes exactly these by name."""
    if config.modalities == ("image",):
        return SCMRLImage(config)
    return SCMRLAudio(config) if config.modalities == ("audio",) else SCMRL(config)
