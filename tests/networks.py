"""The networks of the papers with random weights that make every population fire, and inputs for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from avsnn.convert.ir.node import Array
from avsnn.train.attention import PositionedScores
from avsnn.train.models.table import find_model, make_config
from avsnn.train.norms import DSLN
from tests.strategies import STEP

Spec = dict[str, dict[str, Any]]
Case = tuple[str, str, dict[str, Any]]
"""A model of the table, one of its presets, and what differs from it."""
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, DSLN)

_FUSED, _SMALL = "tiny-fused", {"image_size": 9, "audio_size": 13}  # 13 = 9 + 2 * 2 of padding
_SEQUENCES = {"image_coding": "sequence", "audio_coding": "sequence"}
_ACCUMULATE = {"readout": "accumulate"}

CASES: dict[str, Case] = {
    "scmrl": ("scmrl", "tiny", {}),
    "scmrl concat": ("scmrl", "tiny", {"interaction": "concat", "head": "tokens", "audio_size": 19}),
    "scmrl image": ("scmrl", "tiny", {"modalities": ["image"], "stages": 3, "image_size": 21, "tau": 3.0}),
    "scmrl audio": ("scmrl", "tiny", {"modalities": ["audio"], "head": "tokens", "timesteps": 1, "mlp_ratio": 1}),
    "scmrl fused": ("scmrl", _FUSED, {}),
    "scmrl instance": ("scmrl", _FUSED, {**_SMALL, "sao": "instance", "timesteps": 3}),
    "scmrl without alignment": ("scmrl", _FUSED, {**_SMALL, "sao": "off", "timesteps": 3}),
    "scmrl spatial": ("scmrl", _FUSED, {**_SMALL, "fusion": "spatial"}),
    "scmrl spatial, other grids": ("scmrl", "tiny", {"fusion": "spatial", "image_size": 9, "audio_size": 12}),
    "scmrl spatial without alignment": ("scmrl", _FUSED, {**_SMALL, "fusion": "spatial", "sao": "off", "heads": 1}),
    "scmrl temporal": ("scmrl", _FUSED, {**_SMALL, "fusion": "temporal", "residual_alpha": 0.75}),
    "scmrl temporal without alignment": ("scmrl", _FUSED, {**_SMALL, "fusion": "temporal", "sao": "off"}),
    "scmrl events": ("scmrl", "events", {"timesteps": 4}),
    "scmrl one sequence": ("scmrl", _FUSED, {**_SMALL, "audio_coding": "sequence"}),
    "spikformer": ("spikformer", "tiny", {}),
    "spikformer audio": ("spikformer", "tiny", {"modalities": ["audio"], "dim": 24, "heads": 3}),
    "weight attention": ("weight-attention", "tiny", {}),
    "weight attention events": ("weight-attention", "tiny", {**_SMALL, **_SEQUENCES}),
    "sca": ("sca", "tiny", {}),
    "sca random": ("sca", "tiny", {**_SMALL, "position": "random", "position_seed": 3}),
    "cmci": ("cmci", "tiny", {}),
    "cmci concat": ("cmci", "tiny", {**_SMALL, "interaction": "concat", "head": "tokens"}),
    "spikslc": ("spikslc", "tiny", {}),
    "spikslc shared": ("spikslc", "tiny", {"dsln_var": "shared", "frames": 5, "dim": 12, "timesteps": 3}),
    "spikslc two blocks": ("spikslc", "tiny", {"blocks": 2, "heads": 1, "frames": 7}),
    "spikslc batch": ("spikslc", "tiny", {"norm": "batch"}),
    "spikslc layer": ("spikslc", "tiny", {"norm": "layer"}),
    "spikslc variant": ("spikslc", "tiny", {"norm": "variant"}),
    "spikslc gcc": ("spikslc", "tiny", {"modalities": ["gcc"]}),
    "spikslc mel": ("spikslc", "tiny", {"modalities": ["mel"]}),
    "l2net": ("l2net", "tiny", _ACCUMULATE),
    "l2net linear": ("l2net", "tiny", {**_ACCUMULATE, "head": "linear", "stem_kernel": 3, "widths": [8, 12]}),
    "l2net lif_bn": ("l2net", "tiny", {**_ACCUMULATE, "stem": "lif_bn", "blocks": 2, "widths": [8, 12]}),
    "l2net lif_after_bn": ("l2net", "tiny", {**_ACCUMULATE, "block": "lif_after_bn", "reset": "subtract"}),
    "l2net lif_before_add": ("l2net", "tiny", {**_ACCUMULATE, "block": "lif_before_add", "reset": "hard"}),
    "l2net all variants": (
        "l2net",
        "tiny",
        {**_ACCUMULATE, "block": "lif_before_add", "stem": "lif_bn", "stem_kernel": 3, "strict": False, "beta": 0.5},
    ),
    "audio-snn": ("audio-snn", "tiny", _ACCUMULATE),
    "audio-snn without pools": ("audio-snn", "tiny", {**_ACCUMULATE, "pool": False, "bands": 9, "frames": 7}),
    "audio-snn odd": ("audio-snn", "tiny", {**_ACCUMULATE, "head": "linear", "bands": 17, "frames": 35}),
    "smlp": ("smlp", "tiny", _ACCUMULATE),
    "smlp windows": (
        "smlp",
        "tiny",
        {
            **_ACCUMULATE,
            "timesteps": 8,
            "hidden": 16,
            "image_values": '{"timesteps": 8, "widths": [4], "blocks": 1, "stem_kernel": 3}',
            "audio_values": '{"timesteps": 4, "channels": [4, 6], "bands": 8, "frames": 8}',
        },
    ),
    "smlp projected": ("smlp", "tiny", {**_ACCUMULATE, "project": 6, "hidden": 16}),
}

REFUSED: dict[str, tuple[Case, tuple[str, ...]]] = {
    "slc-net": (
        ("slc-net", "tiny", {}),
        (
            "blocks.0.gcc.self_attention.query.neuron (ReLU): sends numbers",
            "blocks.0.mel.cross_attention.attend (SoftmaxAttention): a softmax divides",
        ),
    ),
    "gcc-phat-cnn": (
        ("gcc-phat-cnn-reimplementation", "tiny", {}),
        ("forward cannot be followed", "layers.2 (ReLU)"),
    ),
    "l2net counts": (("l2net", "tiny", {}), ("ranked: the answer counts spikes", "set readout=accumulate")),
    "audio-snn counts": (("audio-snn", "tiny", {}), ("ranked: the answer counts spikes", "set readout=accumulate")),
    "smlp counts": (("smlp", "tiny", {}), ("ranked: the answer counts spikes", "set readout=accumulate")),
}


def build(case: Case, seed: int = 0) -> nn.Module:
    """The network in evaluation mode, its statistics those of random inputs, gains and shifts such that layers fire."""
    model, preset, values = case
    torch.manual_seed(seed)
    module = find_model(model).build(make_config(model, preset, values))
    rng = np.random.default_rng(seed)

    def fill(tensor: Tensor, low: float, high: float) -> None:
        tensor.copy_(torch.from_numpy(rng.uniform(low, high, size=tuple(tensor.shape))))

    with torch.no_grad():
        for child in module.modules():
            if isinstance(child, NORMS):
                child.momentum = 1.0  # statistics of the one batch below
                fill(child.weight, 1.0, 2.0)
                fill(child.bias, 0.4, 1.2)
            elif isinstance(child, nn.Conv2d) and child.bias is not None:
                child.weight.mul_(8.0)
                fill(child.bias, 0.2, 1.2)
            elif isinstance(child, PositionedScores):
                fill(child.table, -1.0, 1.0)
        for name, child in module.named_modules():
            if name.endswith("attention_lif"):
                child.v_threshold = 0.25 if "temporal" in name else 0.5  # over time it hardly ever reaches 1
            elif name.endswith("align.linear.module"):
                child.weight.mul_(4.0)  # it reads products of means
        x, _ = inputs(module, batch=4, seed=seed + 1)
        module.train()(**{name: torch.from_numpy(array).float() for name, array in x.items()})
    return module.eval()


def inputs(module: nn.Module, batch: int = 2, seed: int = 0) -> tuple[dict[str, Array], Spec]:
    """Random inputs on a grid of 1/255 by name, and their codings."""
    config: Any = module.config
    rng, values, spec = np.random.default_rng(seed), {}, {}
    for name, shape in _shapes(config).items():
        coding = getattr(config, f"{name}_coding", "direct")
        lead = (batch,) if coding == "direct" else (config.timesteps, batch)
        values[name] = rng.integers(0, 256, size=(*lead, *shape)) * STEP
        spec[name] = {"coding": coding}
    return values, spec


def _shapes(config: Any) -> dict[str, tuple[int, ...]]:
    """Input name to shape without batch."""
    match type(config).__name__:
        case "SpikSLCConfig":
            shapes = {"gcc": (config.frames, config.pairs * config.lags), "mel": (config.frames, 4 * config.mels)}
            return {name: shapes[name] for name in config.modalities}
        case "GccCnnConfig":
            return {"gcc": (8, config.pairs * config.lags)}
        case "L2NetConfig":
            return {"image": (config.image_channels, 18, 18)}
        case "AudioSNNConfig":
            return {"audio": (config.audio_channels, config.bands, config.frames)}
        case "SMLPConfig":
            return {**_shapes(config.image), **_shapes(config.audio)}
        case _:
            return {
                name: (getattr(config, f"{name}_channels"), *[getattr(config, f"{name}_size")] * 2)
                for name in config.modalities
            }
