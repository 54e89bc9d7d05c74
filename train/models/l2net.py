"""Image to class scores and to an embedding of length 1: L2-ActSpikeNet of Oikonomou et al. (2025).

A residual network of 18 layers whose blocks put neurons right after the first convolution, and after the addition
rather than before it ("ActAfterAddition"); the head of `avsnn.train.models.counting` compares angles. The image is
the same in all steps, so the first convolution is computed once.

The paper's ablations settle its figure: "LIF before addition" is a change, so nothing fires in the branch or the
shortcut before the sum; "LIF after BN" is a change, so the first convolution feeds neurons and these the norm.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from avsnn.train.layers import DirectCoding, Normalise, TimeBatched
from avsnn.train.models.counting import CosineHead, CountingConfig, lif

BLOCKS = ("act_after_addition", "lif_after_bn", "lif_before_add")
STEMS = ("bn_lif", "lif_bn")


@dataclass(frozen=True, kw_only=True)
class L2NetConfig(CountingConfig):
    """Everything that decides shapes and arithmetic of the network.

    ``widths`` are the channels of the stages, each of ``blocks`` blocks; every stage but the first halves height and
    width. ``block``: ``"act_after_addition"`` (the paper's), or its ablations ``"lif_after_bn"`` and
    ``"lif_before_add"``. ``stem`` ``"bn_lif"`` sends spikes into the first block, ``"lif_bn"`` follows the letter of
    the text and sends normalised spikes. ``stem_kernel`` 3 keeps the size (CIFAR images); 7 halves it twice, by
    stride and by a pool (ImageNet's stem). ``conv_gain`` multiplies the initial weights of convolutions that neurons
    read without a norm between.
    """

    image_channels: int = 3
    image_mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    image_std: tuple[float, ...] = (1.0, 1.0, 1.0)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    blocks: int = 2
    block: str = "act_after_addition"
    stem: str = "bn_lif"
    stem_kernel: int = 3
    conv_gain: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.demand_positive("image_channels", "widths", "blocks", "conv_gain")
        self.demand_choice("block", BLOCKS)
        self.demand_choice("stem", STEMS)
        self.demand_choice("stem_kernel", (3, 7))
        if len(self.image_mean) != self.image_channels:
            raise self.refusal("image_mean", f"{self.image_channels} channels")


PRESETS: dict[str, dict[str, object]] = {
    "tiny": {
        "timesteps": 4,
        "image_channels": 1,
        "image_mean": (0.22,),  # of avdigits training pairs
        "image_std": (0.25,),
        "widths": (16, 32, 64),
        "blocks": 1,
        "stem_kernel": 7,  # a fifth of the time, and no worse on images of 28x28
        "conv_gain": 3.0,
    },
    "reference": {},  # 32x32 colour images in 0..1
    "reference-128": {"stem_kernel": 7},  # 128x128 colour images
}


class _Stem(nn.Module):
    """(B, C, H, W) values -> (T, B, c, H', W') spikes (normalised spikes with ``lif_bn``)."""

    def __init__(self, config: L2NetConfig) -> None:
        super().__init__()
        kernel, width, self.spikes_last = config.stem_kernel, config.widths[0], config.stem == "bn_lif"
        stride = 1 if kernel == 3 else 2
        self.normalise = Normalise(config.image_mean, config.image_std)
        self.conv = nn.Conv2d(config.image_channels, width, kernel, stride, kernel // 2, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(width)
        if not self.spikes_last:
            self.norm = TimeBatched(self.norm)
            _scale(self.conv, config.conv_gain)
        self.repeat, self.lif = DirectCoding(config.timesteps), lif(config)
        self.pool = nn.Identity() if kernel == 3 else TimeBatched(nn.MaxPool2d(kernel_size=3, stride=2, padding=1))

    def forward(self, image: Tensor) -> Tensor:
        current = self.conv(self.normalise(image))
        if self.spikes_last:
            features = self.lif(self.repeat(self.norm(current)))
        else:
            features = self.norm(self.lif(self.repeat(current)))
        pooled: Tensor = self.pool(features)
        return pooled


class Block(nn.Module):
    """(T, B, C, H, W) -> (T, B, c, H / stride, W / stride) spikes: LIF(branch + shortcut).

    Branch: ``BN(conv(BN(LIF(conv x))))``, or with ``lif_after_bn`` ``BN(conv(LIF(BN(conv x))))``. Shortcut: x where
    shapes agree, else ``BN(conv1x1 x)``. With ``lif_before_add`` a LIF each ends branch and shortcut.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, config: L2NetConfig) -> None:
        super().__init__()
        conv1 = nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)
        self.norm_first = config.block == "lif_after_bn"
        if not self.norm_first:
            _scale(conv1, config.conv_gain)
        self.conv1, self.lif1, self.norm1 = TimeBatched(conv1), lif(config), _norm(outputs)
        self.conv2 = TimeBatched(nn.Conv2d(outputs, outputs, kernel_size=3, padding=1, bias=False))
        self.norm2 = _norm(outputs)
        before_add = config.block == "lif_before_add"
        self.branch_lif = lif(config) if before_add else nn.Identity()
        shortcut: list[nn.Module] = []
        if stride != 1 or inputs != outputs:
            shortcut += [TimeBatched(nn.Conv2d(inputs, outputs, kernel_size=1, stride=stride, bias=False))]
            shortcut += [_norm(outputs)]
        self.shortcut = nn.Sequential(*shortcut, *([lif(config)] if before_add else []))
        self.lif2 = lif(config)

    def forward(self, x: Tensor) -> Tensor:
        """Return the spikes of the block."""
        hidden = self.conv1(x)
        hidden = self.lif1(self.norm1(hidden)) if self.norm_first else self.norm1(self.lif1(hidden))
        branch = self.branch_lif(self.norm2(self.conv2(hidden)))
        spikes: Tensor = self.lif2(branch + self.shortcut(x))
        return spikes


class Backbone(nn.Module):
    """Everything before the head: (B, C, H, W) -> (T, B, D), spikes averaged over height and width."""

    def __init__(self, config: L2NetConfig) -> None:
        super().__init__()
        self.features = config.widths[-1]
        self.stem = _Stem(config)
        blocks, inputs = [], config.widths[0]
        for stage, width in enumerate(config.widths):
            for index in range(config.blocks):
                stride = 2 if stage and not index else 1
                blocks.append(Block(inputs, width, stride, config))
                inputs = width
        self.blocks = nn.Sequential(*blocks)

    def forward(self, image: Tensor) -> Tensor:
        """Return the features of every step, 0 to 1."""
        spikes: Tensor = self.blocks(self.stem(image))
        return spikes.mean((3, 4))


class L2Net(nn.Module):
    """``forward(image)`` -> (B, classes) scores; `outputs` adds ``counts``, ``logits`` and ``embedding``."""

    def __init__(self, config: L2NetConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        self.head = CosineHead(self.backbone.features, config)

    def outputs(self, image: Tensor) -> dict[str, Tensor]:
        """Return what `CosineHead.outputs` makes of ``image`` (B, C, H, W)."""
        return self.head.outputs(self.backbone(image))

    def forward(self, image: Tensor) -> Tensor:
        """Return the scores of ``image`` (B, C, H, W)."""
        scores: Tensor = self.head(self.backbone(image))
        return scores


def _norm(channels: int) -> TimeBatched:
    return TimeBatched(nn.BatchNorm2d(channels))


def _scale(conv: nn.Conv2d, gain: float) -> None:
    with torch.no_grad():
        conv.weight.mul_(gain)
