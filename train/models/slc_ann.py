"""The ordinary networks beside SpikSLC-Net: its twin SLC-Net, and a re-implementation of GCC-PHAT-CNN.

SLC-Net is SpikSLC-Net in one step with ReLU for LIF, softmax attention and layer norm. Its paper says no more than
"an ANN version of our model".

GCC-PHAT-CNN is a **re-implementation of ours**: the network that Qian et al. published with the SLoClas database (2021)
was not to be found, so its layers are chosen here. Never quote its accuracy as that of the original.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from avsnn.errors import InputError
from avsnn.train.models.spikslc import Heads, joined
from avsnn.train.models.spikslc_config import PRESETS

_ORDINARY: dict[str, object] = {"neuron": "relu", "attention": "softmax", "norm": "layer", "timesteps": 1}

SLC_NET_PRESETS: dict[str, dict[str, object]] = {name: {**values, **_ORDINARY} for name, values in PRESETS.items()}
"""Presets of `avsnn.train.models.spikslc_config.SpikSLCConfig` that make it the ordinary network."""


@dataclass(frozen=True, kw_only=True)
class GccCnnConfig:
    """Everything that decides shapes of the re-implemented GCC-PHAT-CNN.

    ``widths`` are the channels of the convolutions, each of which halves the lags. ``pool`` ``"global"`` averages over
    frames and lags, which leaves little of where over the lags a peak stood; ``"frames"`` averages over frames alone.
    """

    modalities: tuple[str, ...] = ("gcc",)
    pairs: int = 6
    lags: int = 51
    widths: tuple[int, ...] = (32, 64, 128)
    pool: str = "global"
    classes: int = 10
    azimuths: int = 360
    azimuth_bias_init: float = -3.7

    def __post_init__(self) -> None:
        if self.modalities != ("gcc",):
            raise _bad("modalities", ",".join(self.modalities), "gcc")
        if self.pool not in ("global", "frames"):
            raise _bad("pool", self.pool, "global, frames")
        if not self.widths or min(self.widths) < 1:
            raise _bad("widths", list(self.widths), "one or more, each 1 or more")
        for name in ("pairs", "lags", "classes", "azimuths"):
            if getattr(self, name) < 1:
                raise _bad(name, getattr(self, name), "1 or more")


GCC_CNN_PRESETS: dict[str, dict[str, object]] = {
    "tiny": {"widths": (8, 16, 32), "pool": "frames"},
    "reference": {},
}


def _bad(name: str, found: object, limit: str) -> InputError:
    return InputError(f"{name} is not possible", where="GccCnnConfig", found=found, limit=limit)


class GccCnn(nn.Module):
    """Re-implemented GCC-PHAT-CNN: ``forward(gcc)`` (B, F, pairs * lags) -> (B, classes + azimuths).

    Pairs are channels, frames and lags the plane of 3x3 convolutions with batch norm and ReLU, stride 2 over lags.
    """

    def __init__(self, config: GccCnnConfig) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        inputs, lags = config.pairs, config.lags
        for width in config.widths:
            layers += [nn.Conv2d(inputs, width, kernel_size=3, stride=(1, 2), padding=1, bias=False)]
            layers += [nn.BatchNorm2d(width), nn.ReLU()]
            inputs, lags = width, (lags + 1) // 2
        self.layers = nn.Sequential(*layers)
        features = inputs if config.pool == "global" else inputs * lags
        self.heads = Heads(features, config.classes, config.azimuths, azimuth_bias=config.azimuth_bias_init)

    def outputs(self, gcc: Tensor) -> dict[str, Tensor]:
        """Return ``scores`` (B, classes) and ``azimuth`` (B, azimuths) of ``gcc`` (B, F, pairs * lags)."""
        pairs, lags = self.config.pairs, self.config.lags
        x = self.layers(gcc.reshape(*gcc.shape[:2], pairs, lags).transpose(1, 2))  # (B, width, F, lags)
        if self.config.pool == "frames":
            x = x.transpose(2, 3).flatten(1, 2).unsqueeze(3)  # (B, width * lags, F, 1)
        answers: dict[str, Tensor] = self.heads(x.unsqueeze(0))
        return answers

    def forward(self, gcc: Tensor) -> Tensor:
        """Return class scores, then azimuth scores."""
        return joined(self.outputs(gcc))


def build_gcc_cnn(config: GccCnnConfig) -> nn.Module:
    """Return the re-implemented GCC-PHAT-CNN of ``config``."""
    return GccCnn(config)
