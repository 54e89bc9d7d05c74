"""Image and spectrogram to class scores: S-CMRL (He et al., 2025) and the networks that it is compared with.

Each modality has its own trunk; nothing is shared but the head. `avsnn.train.models.fusion` lists what happens between
the trunks. Averages over tokens and steps feed a linear head.
"""

from __future__ import annotations

from torch import Tensor, nn

from avsnn.train.models.fusion import CommonStream, make_fusion
from avsnn.train.models.scmrl_config import SCMRLConfig
from avsnn.train.models.scmrl_trunk import Head, Trunk

__all__ = ["SCMRL", "CommonSCMRL", "FusedSCMRL", "SCMRLAudio", "SCMRLConfig", "SCMRLImage", "build_scmrl", "scmrl_loss"]


class SCMRL(nn.Module):
    """Image and audio together, the trunks apart: ``forward(image, audio)`` -> (B, classes)."""

    def __init__(self, config: SCMRLConfig) -> None:
        super().__init__()
        self.config = config
        self.image, self.audio = (Trunk(name, config, make_fusion(name, config)) for name in ("image", "audio"))
        self.shared = config.interaction == "add"
        self.head = Head("image", config)
        if not self.shared:
            self.audio_head = Head("audio", config, bias=False)  # its bias would be the same parameter again

    def forward(self, image: Tensor, audio: Tensor) -> Tensor:
        """Return the scores of ``image`` (B, C, H, W) with ``audio`` (B, C, H', W')."""
        return self._scores(self.image(image), self.audio(audio))

    def _scores(self, seen: Tensor, heard: Tensor) -> Tensor:
        if self.shared:
            tokens = seen.mean((3, 4)) + heard.mean((3, 4))
            scores: Tensor = self.head.linear(tokens.mean(0))
        else:
            scores = self.head(seen) + self.audio_head(heard)
        return scores


class FusedSCMRL(SCMRL):
    """Each trunk learns of the other between position embedding and MLP: ``forward(image, audio)`` -> (B, classes)."""

    def forward(self, image: Tensor, audio: Tensor) -> Tensor:
        """Return the scores of ``image`` (B, C, H, W) with ``audio`` (B, C, H', W'), or (T, B, ...) as configured."""
        return self._parts(image, audio)[0]

    def outputs(self, image: Tensor, audio: Tensor) -> dict[str, Tensor]:
        """Return ``scores`` and, with semantic alignment, ``image_features`` and ``audio_features``.

        Features are the residuals averaged over tokens and steps, (B, D), or over tokens only, (T, B, D), for
        alignment by instance.
        """
        scores, *residuals = self._parts(image, audio)
        found = {"scores": scores}
        if self.config.sao != "off":
            for name, r in zip(("image_features", "audio_features"), residuals, strict=True):
                by_step = r.mean((3, 4))
                found[name] = by_step.mean(0) if self.config.sao == "class" else by_step
        return found

    def _parts(self, image: Tensor, audio: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores, and what image took from audio and audio from image."""
        seen, heard = self.image.embed(image), self.audio.embed(audio)
        seen_features, seen_part = self.image.finish(seen, heard)
        heard_features, heard_part = self.audio.finish(heard, seen)
        return self._scores(seen_features, heard_features), seen_part, heard_part


class CommonSCMRL(nn.Module):
    """A third stream made of both trunks' tokens gives the answer: ``forward(image, audio)`` -> (B, classes).

    The MLPs and heads of the trunks only teach: they appear in `outputs`, and `forward` does without them. The
    authors' code computes a second common stream that nothing reads; it is left out.
    """

    def __init__(self, config: SCMRLConfig) -> None:
        super().__init__()
        self.config = config
        self.image, self.audio = Trunk("image", config), Trunk("audio", config)
        self.fusion, self.head = CommonStream(config), Head("image", config)
        self.image_head, self.audio_head = Head("image", config), Head("audio", config)

    def forward(self, image: Tensor, audio: Tensor) -> Tensor:
        """Return the scores of ``image`` (B, C, H, W) with ``audio`` (B, C, H', W'), or (T, B, ...) as configured."""
        scores: Tensor = self.head(self.fusion(self.audio.embed(audio), self.image.embed(image)))
        return scores

    def outputs(self, image: Tensor, audio: Tensor) -> dict[str, Tensor]:
        """Return ``scores``, ``image_scores`` and ``audio_scores``, each (B, classes)."""
        seen, heard = self.image.embed(image), self.audio.embed(audio)
        return {
            "scores": self.head(self.fusion(heard, seen)),
            "image_scores": self.image_head(self.image.mlp(seen)),
            "audio_scores": self.audio_head(self.audio.mlp(heard)),
        }


class SCMRLImage(nn.Module):
    """The image trunk alone: ``forward(image)`` -> (B, classes)."""

    def __init__(self, config: SCMRLConfig) -> None:
        super().__init__()
        self.config = config
        self.image, self.head = Trunk("image", config, make_fusion("image", config)), Head("image", config)

    def forward(self, image: Tensor) -> Tensor:
        """Return the scores of ``image`` (B, C, H, W), or (T, B, C, H, W) as configured."""
        scores: Tensor = self.head(self.image(image))
        return scores


class SCMRLAudio(nn.Module):
    """The audio trunk alone: ``forward(audio)`` -> (B, classes)."""

    def __init__(self, config: SCMRLConfig) -> None:
        super().__init__()
        self.config = config
        self.audio, self.head = Trunk("audio", config, make_fusion("audio", config)), Head("audio", config)

    def forward(self, audio: Tensor) -> Tensor:
        """Return the scores of ``audio`` (B, C, H, W), or (T, B, C, H, W) as configured."""
        scores: Tensor = self.head(self.audio(audio))
        return scores


def build_scmrl(config: SCMRLConfig) -> nn.Module:
    """Return the network for the modalities and fusion of ``config``; its ``forward`` takes the modalities by name."""
    if config.modalities == ("image",):
        return SCMRLImage(config)
    if config.modalities == ("audio",):
        return SCMRLAudio(config)
    match config.fusion:
        case "none":
            return SCMRL(config)
        case "cmci":
            return CommonSCMRL(config)
        case _:
            return FusedSCMRL(config)


def scmrl_loss(config: SCMRLConfig) -> str:
    """Return the name of the loss that the network of ``config`` is trained with."""
    if config.fusion == "cmci":
        return "three_heads"
    return "cross_entropy" if config.sao == "off" else "aligned_cross_entropy"
