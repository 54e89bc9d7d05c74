"""Embeddings of image and sound, or the two inputs themselves, to class scores: the SMLP of Oikonomou et al. (2025).

`SMLP` takes the two embeddings of length 1, which do not change over the window: they are concatenated, normalised
and weighted once, and the hidden neurons see the same current in every step. `AudioVisualSMLP` has the backbones of
L2-ActSpikeNet and of the audio network in front, as they were trained (by the paper frozen), each with its own window.

The paper's text speaks of projections into a common space, its sizes of a plain concatenation; ``project`` has both.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from avsnn.errors import CheckpointError, InputError
from avsnn.train.layers import TimeBatched
from avsnn.train.models import audio_snn, l2net
from avsnn.train.models.config import build_config, plain, unknown_name
from avsnn.train.models.counting import CountingConfig, SpikeCounts, Unit, lif, ranked

INCLUDED = "included"
"""In place of a checkpoint's path in the configuration of a network that has taken the weights over."""

BACKBONES: dict[str, Any] = {"l2net": l2net, "audio-snn": audio_snn}
_CONFIGS: dict[str, type[Any]] = {"l2net": l2net.L2NetConfig, "audio-snn": audio_snn.AudioSNNConfig}


@dataclass(frozen=True, kw_only=True)
class SMLPConfig(CountingConfig):
    """Everything that decides shapes and arithmetic of the network.

    ``hidden`` neurons read the concatenated embeddings; with ``project`` above 0 each embedding is first projected to
    that many numbers. ``image_preset`` and ``audio_preset`` say which backbones, ``image_values`` and
    ``audio_values`` (a JSON object each) what differs in them. ``image_checkpoint`` and ``audio_checkpoint`` are files
    that decide configuration and weights of a backbone instead, ``"included"`` once these are part of the network.
    Backbones learn only without ``frozen``; then they may start untrained, without a checkpoint.
    """

    hidden: int = 512
    project: int = 0
    image_preset: str = "reference"
    audio_preset: str = "reference"
    image_values: str = "{}"
    audio_values: str = "{}"
    image_checkpoint: str = ""
    audio_checkpoint: str = ""
    frozen: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.demand_positive("hidden")
        if self.project < 0:
            raise self.refusal("project", "0 or more")
        self.image, self.audio  # noqa: B018  # refuse what no backbone can be

    @property
    def image(self) -> l2net.L2NetConfig:
        """The configuration of the image backbone."""
        config: l2net.L2NetConfig = _backbone_config("l2net", self.image_preset, self.image_values)
        return config

    @property
    def audio(self) -> audio_snn.AudioSNNConfig:
        """The configuration of the audio backbone."""
        config: audio_snn.AudioSNNConfig = _backbone_config("audio-snn", self.audio_preset, self.audio_values)
        return config


PRESETS: dict[str, dict[str, object]] = {
    "tiny": {"timesteps": 4, "hidden": 64, "image_preset": "tiny", "audio_preset": "tiny", "frozen": False},
    "reference": {},
    "reference-projected": {"project": 256, "hidden": 256},
}


class SMLP(nn.Module):
    """``forward(image, audio)`` of two embeddings (B, D_image) and (B, D_audio) -> (B, classes) scores.

    ``counts = sum_t LIF(W2 LIF(BN(W1 BN([image; audio]))))``; with ``project``, each embedding by itself first
    becomes ``W x + b`` of that length.
    """

    def __init__(self, image_features: int, audio_features: int, config: SMLPConfig) -> None:
        super().__init__()
        self.config = config
        sizes = (image_features, audio_features)
        self.project = nn.ModuleList(nn.Linear(size, config.project) for size in sizes if config.project)
        joined = 2 * config.project or sum(sizes)
        self.norm_in = nn.BatchNorm1d(joined)
        self.linear1, self.norm1, self.lif1 = (
            nn.Linear(joined, config.hidden),
            nn.BatchNorm1d(config.hidden),
            lif(config),
        )
        self.linear2 = TimeBatched(nn.Linear(config.hidden, config.classes))
        self.output = SpikeCounts(config)

    def outputs(self, image: Tensor, audio: Tensor) -> dict[str, Tensor]:
        """Return ``scores``, ``counts`` and ``logits`` (mean current of the output neurons), each (B, classes)."""
        currents = self.currents(image, audio)
        counts, logits = self.output(currents), currents.mean(0)
        scores = logits if self.config.readout == "accumulate" else ranked(counts, logits)
        return {"scores": scores, "counts": counts, "logits": logits}

    def currents(self, image: Tensor, audio: Tensor) -> Tensor:
        """Return what the output neurons read, (T, B, classes)."""
        if self.config.project:
            image, audio = self.project[0](image), self.project[1](audio)
        current = self.norm1(self.linear1(self.norm_in(torch.cat((image, audio), dim=1))))
        read: Tensor = self.linear2(self.lif1(self.output.repeat(current)))
        return read

    def forward(self, image: Tensor, audio: Tensor) -> Tensor:
        """Return the scores alone; accumulated ones need no output neurons."""
        if self.config.readout == "accumulate":
            return self.currents(image, audio).mean(0)
        return self.outputs(image, audio)["scores"]


class AudioVisualSMLP(nn.Module):
    """``forward(image, audio)`` of pictures (B, C, H, W) and spectrograms (B, C, bands, frames) -> (B, classes).

    With ``frozen`` the backbones keep their weights and statistics and drop nothing, also while the rest trains.
    ``config`` needs no files to build the same network again: the backbones' own configurations are written into it.
    """

    def __init__(self, config: SMLPConfig) -> None:
        super().__init__()
        self.config = config
        self.image, self.audio = l2net.Backbone(config.image), audio_snn.Backbone(config.audio)
        self.unit = Unit()
        self.fusion = SMLP(self.image.features, self.audio.features, config)
        for backbone in (self.image, self.audio):
            backbone.requires_grad_(not config.frozen)
        self.train()

    def train(self, mode: bool = True) -> AudioVisualSMLP:
        """Set the mode; frozen backbones stay in evaluation mode."""
        super().train(mode)
        if self.config.frozen:
            self.image.eval()
            self.audio.eval()
        return self

    def embed(self, image: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Return the embeddings of length 1, (B, D_image) and (B, D_audio), that `SMLP` takes."""
        return self.unit(self.image(image).mean(0)), self.unit(self.audio(audio).mean(0))

    def outputs(self, image: Tensor, audio: Tensor) -> dict[str, Tensor]:
        """Return what `SMLP.outputs` makes of the embeddings."""
        return self.fusion.outputs(*self.embed(image, audio))

    def forward(self, image: Tensor, audio: Tensor) -> Tensor:
        """Return the scores of ``image`` with ``audio``."""
        scores: Tensor = self.fusion(*self.embed(image, audio))
        return scores


def build_smlp(config: SMLPConfig) -> AudioVisualSMLP:
    """Return the network, with the backbones of the checkpoints that ``config`` names.

    Raises:
        CheckpointError: a checkpoint that cannot be read, or is of another network.
        InputError: frozen backbones that nobody trained.
    """
    states: dict[str, dict[str, Tensor]] = {}
    for modality, name in (("image", "l2net"), ("audio", "audio-snn")):
        field = f"{modality}_checkpoint"
        path = getattr(config, field)
        if not path and config.frozen:
            remedy = f"pass {field}=<file>, or frozen=false to train all together"
            raise InputError("a backbone that never learnt would stay so", where=field, found="none", remedy=remedy)
        if path not in ("", INCLUDED):
            values, states[modality] = _read_backbone(Path(path), name)
            changes: dict[str, Any] = {f"{modality}_values": values, field: INCLUDED}
            config = replace(config, **changes)
    module = AudioVisualSMLP(config)
    for modality, state in states.items():
        module.get_submodule(modality).load_state_dict(state, strict=True)
    return module


def _read_backbone(path: Path, name: str) -> tuple[str, dict[str, Tensor]]:
    """Return the configuration (JSON) and the backbone's weights of the checkpoint at ``path``."""
    from avsnn.train import checkpoints  # here, because checkpoints know the table of models, and that this one

    checkpoint = checkpoints.load(path)
    if checkpoint.name != name:
        raise CheckpointError("is of another network", where=str(path), found=checkpoint.name, limit=name)
    state = checkpoint.build().get_submodule("backbone").state_dict()
    return json.dumps(plain(build_config(_CONFIGS[name], checkpoint.config)), sort_keys=True), state


def _backbone_config(name: str, preset: str, text: str) -> Any:
    presets = BACKBONES[name].PRESETS
    if preset not in presets:
        raise unknown_name(preset, presets, where=f"preset of {name}")
    try:
        values = json.loads(text)
    except ValueError as error:
        raise InputError(f"is no JSON ({error})", where=f"values of {name}", found=text) from None
    if not isinstance(values, dict):
        raise InputError("is no JSON object", where=f"values of {name}", found=text)
    return build_config(_CONFIGS[name], {**presets[preset], **values})
