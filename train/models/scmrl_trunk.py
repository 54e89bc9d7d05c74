"""One modality to token features, and token features to scores: the parts that all networks of the family share.

Spiking patch splitting (stages of conv, norm, LIF, pool), a convolution as relative position embedding with a
residual, whatever the fusion adds, and an MLP with a residual. Sizes and order follow the authors' code
(https://github.com/Brain-Cog-Lab/S-CMRL). A directly coded frame repeats in all steps, so its convolution is computed
once and the current is repeated.
"""

from __future__ import annotations

from torch import Tensor, nn

from avsnn.train.layers import DirectCoding, Normalise, TimeBatched
from avsnn.train.models.scmrl_config import SCMRLConfig
from avsnn.train.neurons import LIF


def make_lif(config: SCMRLConfig, v_threshold: float | None = None) -> LIF:
    """Return the neurons of ``config``, with another threshold if one is given."""
    return LIF(
        config.tau,
        config.v_threshold if v_threshold is None else v_threshold,
        surrogate=config.surrogate,
        alpha=config.alpha or None,
        detach_membrane=config.detach_membrane,
    )


def make_norm(channels: int, config: SCMRLConfig) -> nn.BatchNorm2d:
    """Return batch normalisation with the initial gain of ``config``."""
    norm = nn.BatchNorm2d(channels)
    nn.init.constant_(norm.weight, config.bn_gamma_init)
    return norm


def start_linear(layer: nn.Linear | nn.Conv2d, config: SCMRLConfig) -> None:
    """Set the initial weights of a linear layer as ``config.linear_std`` says."""
    if config.linear_std:
        nn.init.trunc_normal_(layer.weight, std=config.linear_std)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def token_linear(config: SCMRLConfig) -> TimeBatched:
    """Return a linear layer D -> D with bias, the same at every token: (T, B, D, H, W) -> (T, B, D, H, W)."""
    layer = nn.Conv2d(config.dim, config.dim, kernel_size=1)
    start_linear(layer, config)
    return TimeBatched(layer)


def _conv3(inputs: int, outputs: int, pad: int = 0) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size=3, padding=1 + pad, bias=False)


def _pool() -> TimeBatched:
    return TimeBatched(nn.MaxPool2d(kernel_size=3, stride=2, padding=1))


class _First(nn.Module):
    """(B, C, H, W) values -> (T, B, c, H/2, W/2) spikes."""

    def __init__(self, modality: str, outputs: int, config: SCMRLConfig):
        super().__init__()
        self.normalise = _normalise(modality, config)
        self.conv = _conv3(getattr(config, f"{modality}_channels"), outputs, getattr(config, f"{modality}_pad"))
        self.norm = make_norm(outputs, config)
        self.repeat = DirectCoding(config.timesteps)
        self.lif, self.pool = make_lif(config), _pool()

    def forward(self, x: Tensor) -> Tensor:
        current = self.norm(self.conv(self.normalise(x)))
        pooled: Tensor = self.pool(self.lif(self.repeat(current)))
        return pooled


class _Stage(nn.Module):
    """(T, B, C, H, W) spikes -> (T, B, c, H/2, W/2) spikes."""

    def __init__(self, inputs: int, outputs: int, config: SCMRLConfig, pad: int = 0):
        super().__init__()
        self.conv, self.norm = TimeBatched(_conv3(inputs, outputs, pad)), TimeBatched(make_norm(outputs, config))
        self.lif, self.pool = make_lif(config), _pool()

    def forward(self, x: Tensor) -> Tensor:
        pooled: Tensor = self.pool(self.lif(self.norm(self.conv(x))))
        return pooled


class _FirstOfSequence(_Stage):
    """(T, B, C, H, W) values -> (T, B, c, H/2, W/2) spikes."""

    def __init__(self, modality: str, outputs: int, config: SCMRLConfig):
        super().__init__(
            getattr(config, f"{modality}_channels"), outputs, config, pad=getattr(config, f"{modality}_pad")
        )
        self.normalise = TimeBatched(_normalise(modality, config))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.normalise(x))


def _normalise(modality: str, config: SCMRLConfig) -> Normalise:
    return Normalise(getattr(config, f"{modality}_mean"), getattr(config, f"{modality}_std"))


class _Position(nn.Module):
    """x -> x + LIF(BN(conv(x))), values 0 to 2: the convolution is the position embedding."""

    def __init__(self, config: SCMRLConfig):
        super().__init__()
        self.conv = TimeBatched(_conv3(config.dim, config.dim))
        self.norm, self.lif = TimeBatched(make_norm(config.dim, config)), make_lif(config)

    def forward(self, x: Tensor) -> Tensor:
        spikes: Tensor = self.lif(self.norm(self.conv(x)))
        return x + spikes


class MLP(nn.Module):
    """x -> x + LIF(BN(W2 LIF(BN(W1 x)))) at every token, with ``mlp_ratio * D`` hidden neurons."""

    def __init__(self, config: SCMRLConfig):
        super().__init__()
        hidden = config.dim * config.mlp_ratio
        self.conv1 = TimeBatched(nn.Conv2d(config.dim, hidden, kernel_size=1))
        self.norm1, self.lif1 = TimeBatched(make_norm(hidden, config)), make_lif(config)
        self.conv2 = TimeBatched(nn.Conv2d(hidden, config.dim, kernel_size=1))
        self.norm2, self.lif2 = TimeBatched(make_norm(config.dim, config)), make_lif(config)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of ``x`` (T, B, D, H, W) and spikes."""
        hidden = self.lif1(self.norm1(self.conv1(x)))
        spikes: Tensor = self.lif2(self.norm2(self.conv2(hidden)))
        return x + spikes


class Trunk(nn.Module):
    """One modality: (B, C, H, W), or (T, B, C, H, W), -> (T, B, D, H / 2**stages, W / 2**stages).

    Args:
        modality: ``"image"`` or ``"audio"``, which picks channels and statistics from ``config``.
        config: the whole network's configuration.
        fusion: what the tokens go through between position embedding and MLP, if anything; takes the tokens of this
            modality and of the other, and returns new tokens and what it took from the other.
    """

    def __init__(self, modality: str, config: SCMRLConfig, fusion: nn.Module | None = None) -> None:
        super().__init__()
        widths = [config.dim >> shift for shift in range(config.stages - 1, -1, -1)]
        direct = getattr(config, f"{modality}_coding") == "direct"
        first = (_First if direct else _FirstOfSequence)(modality, widths[0], config)
        rest = [_Stage(wide // 2, wide, config) for wide in widths[1:]]
        self.patches = nn.Sequential(first, *rest)  # "SPS" in the paper
        self.position = _Position(config)
        self.fusion = fusion
        self.mlp = MLP(config)

    def embed(self, x: Tensor) -> Tensor:
        """Return the tokens before fusion and MLP, values 0 to 2."""
        tokens: Tensor = self.position(self.patches(x))
        return tokens

    def finish(self, tokens: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features of ``tokens`` given those of the other modality, and what was taken from these.

        Only a trunk with a fusion can.
        """
        assert self.fusion is not None
        fused, part = self.fusion(tokens, other)
        return self.mlp(fused), part

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of ``x`` alone: a fusion attends to the tokens themselves."""
        tokens = self.embed(x)
        if self.fusion is not None:
            return self.finish(tokens, tokens)[0]
        features: Tensor = self.mlp(tokens)
        return features


class Head(nn.Module):
    """(T, B, D, H, W) -> (B, classes) scores of one modality, linear in the spikes."""

    def __init__(self, modality: str, config: SCMRLConfig, *, bias: bool = True):
        super().__init__()
        self.by_token = config.head == "tokens"
        inputs = config.dim * config.side(modality) ** 2 if self.by_token else config.dim
        self.linear = nn.Linear(inputs, config.classes, bias=bias)
        start_linear(self.linear, config)
        self.linear.weight.data.mul_(config.head_gain)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores of ``x``."""
        tokens = x.flatten(2) if self.by_token else x.mean((3, 4))
        scores: Tensor = self.linear(tokens.mean(0))
        return scores
