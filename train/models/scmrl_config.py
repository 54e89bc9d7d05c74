"""Names and numbers to the checked configuration of the S-CMRL network and of the networks it is compared with.

Defaults that the paper leaves open are those of the authors' code (https://github.com/Brain-Cog-Lab/S-CMRL).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from avsnn.errors import InputError
from avsnn.train.surrogates import find_surrogate

_CHOICES = {
    "interaction": ("add", "concat"),
    "head": ("mean", "tokens"),
    "sao": ("off", "class", "instance"),
    "temporal": ("window",),
    "position": ("learned", "random"),
    "image_coding": ("direct", "sequence"),
    "audio_coding": ("direct", "sequence"),
}
_MODALITIES = (("image", "audio"), ("image",), ("audio",))
_COUNTS = ("timesteps", "dim", "stages", "image_size", "audio_size", "classes", "mlp_ratio", "heads")
_RESIDUAL = ("spatial", "temporal", "spatiotemporal")
_ATTENDS = (*_RESIDUAL, "self", "sca")
_TOKEN_BY_TOKEN = ("temporal", "spatiotemporal", "sca", "cmci")


@dataclass(frozen=True, kw_only=True)
class SCMRLConfig:
    """Everything that decides shapes and arithmetic of the network.

    ``dim`` is D; stage k of ``stages`` has ``D / 2 ** (stages - k)`` channels and halves height and width. ``head``
    ``"mean"`` averages tokens (the paper), ``"tokens"`` gives every token its own weights. ``interaction`` adds the
    averages of the modalities or gives each its own weights (equal to concatenating). ``alpha`` 0 means the
    surrogate's own steepness. ``head_gain`` multiplies the initial weights of the head.

    ``fusion``: what each modality learns of the other (see `avsnn.train.models.fusion`); ``residual_alpha`` is the
    paper's alpha. ``sao``: the layer and the features for semantic alignment, by class or by instance;
    ``sao_temperature`` is for its loss.
    ``attention_scale`` and ``attention_threshold`` act as their quotient. ``temporal``: ``"window"`` lets each step
    attend to all steps. ``image_pad`` and ``audio_pad``: pixels of 0 around the normalised input, to make the token
    grids of the modalities equal. ``*_coding``: one frame for all steps, or a sequence (T, B, C, H, W).
    ``linear_std``: initial weights of linear layers, a normal cut at 2; 0 means torch's own and biases of torch.
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
    image_pad: int = 0
    audio_pad: int = 0
    image_coding: str = "direct"
    audio_coding: str = "direct"
    image_mean: tuple[float, ...] = (0.0,)
    image_std: tuple[float, ...] = (1.0,)
    audio_mean: tuple[float, ...] = (0.0,)
    audio_std: tuple[float, ...] = (1.0,)
    classes: int = 10
    heads: int = 16
    attention_scale: float = 0.25
    attention_threshold: float = 1.0
    temporal: str = "window"
    residual_alpha: float = 1.5
    sao: str = "off"
    sao_temperature: float = 0.1
    interaction: str = "add"
    head: str = "mean"
    head_gain: float = 1.0
    linear_std: float = 0.0
    mlp_ratio: int = 4
    tau: float = 2.0
    v_threshold: float = 1.0
    surrogate: str = "atan"
    alpha: float = 0.0
    detach_membrane: bool = False
    bn_gamma_init: float = 1.0

    def __post_init__(self) -> None:
        self._check_choices()
        self._check_sizes()
        self._check_fusion()

    def _check_choices(self) -> None:
        for name, choices in {**_CHOICES, "fusion": _FUSIONS[type(self)]}.items():
            if getattr(self, name, choices[0]) not in choices:
                raise _bad(name, getattr(self, name), ", ".join(choices))
        if self.modalities not in _MODALITIES:
            raise _bad("modalities", ",".join(self.modalities), "image,audio or image or audio")
        find_surrogate(self.surrogate)

    def _check_sizes(self) -> None:
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise _bad(name, getattr(self, name), "1 or more")
        for name in ("image_pad", "audio_pad", "linear_std"):
            if getattr(self, name) < 0:
                raise _bad(name, getattr(self, name), "0 or more")
        for name in ("attention_scale", "sao_temperature"):
            if not getattr(self, name) > 0:
                raise _bad(name, getattr(self, name), "above 0")
        if self.dim % 2 ** (self.stages - 1):
            raise _bad("dim", self.dim, f"a multiple of {2 ** (self.stages - 1)} with {self.stages} stages")
        if self.interaction == "add" and self.head == "tokens" and len(self.modalities) > 1:
            raise _bad("interaction", "add", "concat with head=tokens, as token counts may differ")
        for name in self.modalities:
            channels, statistics = getattr(self, f"{name}_channels"), getattr(self, f"{name}_mean")
            if len(statistics) != channels:
                raise _bad(f"{name}_mean", list(statistics), f"{channels} channels")

    def _check_fusion(self) -> None:
        if self.fusion in _ATTENDS and self.dim % self.heads:
            raise _bad("heads", self.heads, f"a divisor of dim, {self.dim}")
        if self.sao != "off" and self.fusion not in _RESIDUAL:
            raise _bad("sao", self.sao, f"off with fusion={self.fusion}, which has no residual to align")
        if self.fusion == "self" and len(self.modalities) > 1:
            raise _bad("modalities", ",".join(self.modalities), "one of image, audio with fusion=self")
        if self.fusion not in ("none", "self") and len(self.modalities) < 2:
            raise _bad("fusion", self.fusion, f"none with the single modality {self.modalities[0]}")
        image, audio = self.side("image"), self.side("audio")
        if self.fusion in _TOKEN_BY_TOKEN and image != audio:
            name, less = ("image", audio - image) if image < audio else ("audio", image - audio)
            wider = getattr(self, f"{name}_pad") + less * 2 ** (self.stages - 1)
            found = f"tokens {image} x {image} (image) and {audio} x {audio} (audio)"
            raise InputError(
                f"fusion={self.fusion} combines token with token",
                where=type(self).__name__,
                found=found,
                limit="equal grids",
                remedy=f"set {name}_pad={wider}",
            )

    def side(self, modality: str) -> int:
        """Return the tokens per row and column of ``modality``."""
        side: int = getattr(self, f"{modality}_size") + 2 * getattr(self, f"{modality}_pad")
        for _ in range(self.stages):
            side = math.ceil(side / 2)  # 3x3 pool, stride 2, pad 1
        return side


@dataclass(frozen=True, kw_only=True)
class SpikformerConfig(SCMRLConfig):
    """One modality that attends to itself: x + attention(x), then the MLP (Zhou et al., 2023)."""

    fusion: str = "self"
    modalities: tuple[str, ...] = ("image",)
    residual_alpha: float = 1.0


@dataclass(frozen=True, kw_only=True)
class WeightAttentionConfig(SCMRLConfig):
    """Each modality weighted per step by what both hold (Liu et al., 2022)."""

    fusion: str = "weight"


@dataclass(frozen=True, kw_only=True)
class SCAConfig(SCMRLConfig):
    """Spatial cross attention in place of the modality's own tokens (Guo et al., 2024).

    ``position``: the image branch's table of relative positions is learned, or drawn once from ``position_seed`` (the
    authors' code draws it anew in every call).
    """

    fusion: str = "sca"
    position: str = "learned"
    position_seed: int = 0


@dataclass(frozen=True, kw_only=True)
class CMCIConfig(SCMRLConfig):
    """A common representation of both modalities with a head of its own (Jiang et al., 2023)."""

    fusion: str = "cmci"


_FUSIONS: dict[type[SCMRLConfig], tuple[str, ...]] = {
    SCMRLConfig: ("none", *_RESIDUAL),
    SpikformerConfig: ("self",),
    WeightAttentionConfig: ("weight",),
    SCAConfig: ("sca",),
    CMCIConfig: ("cmci",),
}


def _bad(name: str, found: object, limit: str) -> InputError:
    return InputError(f"{name} is not possible", where="SCMRLConfig", found=found, limit=limit)
