"""A model's name to what builds it. A new model is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from avsnn.train.models import audio_snn, l2net, scmrl_presets, slc_ann, smlp, spikslc_config
from avsnn.train.models.config import build_config, unknown_name
from avsnn.train.models.scmrl import build_scmrl, scmrl_loss
from avsnn.train.models.scmrl_config import (
    CMCIConfig,
    SCAConfig,
    SCMRLConfig,
    SpikformerConfig,
    WeightAttentionConfig,
)
from avsnn.train.models.spikslc import build_spikslc
from avsnn.train.models.spikslc_config import SpikSLCConfig


@dataclass(frozen=True, kw_only=True)
class Model:
    """The configuration class of a model, its named presets, and the function from one to a module.

    ``loss`` is the name in `avsnn.train.losses.LOSSES` that it is trained with unless another is asked for, or a
    function from a configuration to that name.
    """

    config: type[Any]
    presets: Mapping[str, Mapping[str, object]]
    build: Callable[[Any], nn.Module]
    loss: str | Callable[[Any], str] = "cross_entropy"

    def loss_of(self, config: Any) -> str:
        """Return the name of the loss for ``config``."""
        return self.loss if isinstance(self.loss, str) else self.loss(config)


MODELS = {
    "scmrl": Model(config=SCMRLConfig, presets=scmrl_presets.SCMRL, build=build_scmrl, loss=scmrl_loss),
    "spikformer": Model(config=SpikformerConfig, presets=scmrl_presets.SPIKFORMER, build=build_scmrl),
    "weight-attention": Model(config=WeightAttentionConfig, presets=scmrl_presets.RIVAL, build=build_scmrl),
    "sca": Model(config=SCAConfig, presets=scmrl_presets.RIVAL, build=build_scmrl),
    "cmci": Model(config=CMCIConfig, presets=scmrl_presets.RIVAL, build=build_scmrl, loss=scmrl_loss),
    "spikslc": Model(config=SpikSLCConfig, presets=spikslc_config.PRESETS, build=build_spikslc, loss="sound_location"),
    "slc-net": Model(config=SpikSLCConfig, presets=slc_ann.SLC_NET_PRESETS, build=build_spikslc, loss="sound_location"),
    "gcc-phat-cnn-reimplementation": Model(
        config=slc_ann.GccCnnConfig,
        presets=slc_ann.GCC_CNN_PRESETS,
        build=slc_ann.build_gcc_cnn,
        loss="sound_location",
    ),
    "l2net": Model(config=l2net.L2NetConfig, presets=l2net.PRESETS, build=l2net.L2Net, loss="spike_count"),
    "audio-snn": Model(
        config=audio_snn.AudioSNNConfig, presets=audio_snn.PRESETS, build=audio_snn.AudioSNN, loss="spike_count"
    ),
    "smlp": Model(config=smlp.SMLPConfig, presets=smlp.PRESETS, build=smlp.build_smlp, loss="spike_count"),
}


def find_model(name: str) -> Model:
    """Return the model called ``name``.

    Raises:
        InputError: no such model; the message lists all.
    """
    if name not in MODELS:
        raise unknown_name(name, MODELS, where="model")
    return MODELS[name]


def make_config(model: str, preset: str, values: Mapping[str, Any]) -> Any:
    """Return the configuration of ``preset`` of ``model`` with ``values`` in place of its own.

    Raises:
        InputError: an unknown model, preset or name (with the nearest), or an impossible value.
    """
    found = find_model(model)
    if preset not in found.presets:
        raise unknown_name(preset, found.presets, where=f"preset of {model}")
    return build_config(found.config, {**found.presets[preset], **values})
