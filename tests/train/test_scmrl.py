"""Sizes of the networks against the published ones, and configurations that cannot be."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from avsnn.errors import InputError
from avsnn.train.models.config import build_config, parse_overrides, plain
from avsnn.train.models.scmrl import build_scmrl
from avsnn.train.models.scmrl_config import SCMRLConfig
from avsnn.train.models.scmrl_trunk import Trunk
from avsnn.train.models.table import find_model, make_config


def size(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


NONE = {"fusion": "none", "sao": "off"}
COMMON_STREAM = 659_712, 42_048  # D = 256, D = 64: the one of the authors' code that nothing reads


@pytest.mark.parametrize(
    ("model", "values", "large", "small"),
    [
        ("scmrl", NONE, 3_015_686, 191_242),
        ("scmrl", {"fusion": "spatial", "sao": "off"}, 3_544_070, 225_034),
        ("scmrl", {"fusion": "temporal", "sao": "off"}, 3_544_070, 225_034),
        ("scmrl", {"sao": "off"}, 4_072_454, 258_826),
        ("scmrl", {}, 4_204_038, 267_146),
        ("scmrl", {"sao": "instance"}, 4_204_038, 267_146),
        ("weight-attention", {}, 3_278_856, 207_884),
        ("sca", {"position": "random"}, 3_544_070, 225_034),
        ("sca", {}, 3_544_070 + 17 * 17, 225_034 + 17 * 17),
        ("cmci", {}, 4_338_194 - COMMON_STREAM[0], 276_638 - COMMON_STREAM[1]),
        ("spikformer", {"modalities": ("audio",)}, 1_772_518, 112_770),
        ("spikformer", {"modalities": ("image",)}, 1_773_094, 112_914),
    ],
)
def test_published_sizes(model: str, values: dict[str, Any], large: int, small: int) -> None:
    for preset, parameters in (("reference-256", large), ("reference", small)):
        assert size(build_scmrl(make_config(model, preset, values))) == parameters


@pytest.mark.parametrize(("preset", "unread", "fused"), [("reference-256", 0, 3_675_398), ("reference", 1, 233_290)])
def test_sizes_of_the_common_stream(preset: str, unread: int, fused: int) -> None:
    network = build_scmrl(make_config("cmci", preset, {}))
    assert size(network.get_submodule("fusion")) == COMMON_STREAM[unread]
    heads = [network.get_submodule(name) for name in ("image_head", "audio_head")]
    assert size(network) - size(*heads) == fused


@pytest.mark.parametrize(("dim", "parameters"), [(32, 65_594), (64, 256_106), (128, 1_011_914), (256, 4_022_666)])
def test_published_sizes_for_events(dim: int, parameters: int) -> None:
    assert size(build_scmrl(make_config("scmrl", "events-reference", {"dim": dim}))) == parameters


@pytest.mark.parametrize(
    ("values", "parameters"),
    [
        ({}, 45_930),
        ({"modalities": ("image",)}, 23_130),
        ({"modalities": ("audio",)}, 23_130),
        ({"interaction": "concat"}, 45_930 + 320),
        ({"interaction": "concat", "head": "tokens"}, 45_930 - 320 + (49 + 64) * 320),
    ],
)
def test_sizes_without_fusion(values: dict[str, Any], parameters: int) -> None:
    assert size(build_scmrl(make_config("scmrl", "tiny", values))) == parameters


@pytest.mark.parametrize(
    ("preset", "audio", "image"), [("reference-256", 978_656, 979_232), ("reference", 61_496, 61_640)]
)
def test_patch_splitting_counts(preset: str, audio: int, image: int) -> None:
    config = make_config("scmrl", preset, {})
    for modality, expected in (("audio", audio), ("image", image)):
        trunk = Trunk(modality, config)
        assert size(trunk.patches, trunk.position) == expected


@pytest.mark.parametrize("preset", ["tiny", "reference"])
def test_forward_shapes(preset: str) -> None:
    config = make_config("scmrl", preset, {})
    module = build_scmrl(config).eval()
    image = torch.rand(1, config.image_channels, config.image_size, config.image_size)
    audio = torch.rand(1, config.audio_channels, config.audio_size, config.audio_size)
    assert module(image=image, audio=audio).shape == (1, config.classes)


def test_tokens_head_equals_one_linear_over_all_tokens() -> None:
    config = make_config("scmrl", "tiny", {"interaction": "concat", "head": "tokens"})
    torch.manual_seed(0)
    module = build_scmrl(config).double().eval()
    image, audio = torch.rand(3, 1, 28, 28).double(), torch.rand(3, 1, 32, 32).double()
    features = [module.get_submodule(name)(x).mean(0).flatten(1) for name, x in (("image", image), ("audio", audio))]
    heads = [module.get_submodule(name) for name in ("head.linear", "audio_head.linear")]
    weight = torch.cat([head.get_parameter("weight") for head in heads], dim=1)
    expected = nn.functional.linear(torch.cat(features, dim=1), weight, heads[0].get_parameter("bias"))
    torch.testing.assert_close(module(image, audio), expected, rtol=1e-12, atol=1e-12)


def test_repeating_the_current_equals_repeating_the_image() -> None:
    """Batch norm over one frame has the statistics of T equal frames, so one convolution suffices."""
    torch.manual_seed(0)
    config = make_config("scmrl", "tiny", {})
    first = Trunk("image", config).get_submodule("patches.0").double().train()
    image = torch.rand(4, 1, 28, 28).double()
    pooled = first(image)
    conv, norm, lif, pool = (first.get_submodule(name) for name in ("conv", "norm", "lif", "pool.module"))
    frames = first.get_submodule("normalise")(image).repeat(config.timesteps, 1, 1, 1)
    spikes = lif(norm(conv(frames)).unflatten(0, (config.timesteps, 4)))
    assert torch.equal(pooled, pool(spikes.flatten(0, 1)).unflatten(0, (config.timesteps, 4)))
    assert 0 < spikes.mean() < 1


def test_configuration_survives_json() -> None:
    config = make_config("scmrl", "reference", {**NONE, "modalities": ["audio"]})
    assert build_config(SCMRLConfig, plain(config)) == config


def test_overrides_have_the_type_of_their_field() -> None:
    values = parse_overrides(
        SCMRLConfig, ["dim=64", "tau=3", "modalities=image", "detach_membrane=true", "audio_mean=0.5"]
    )
    assert values == {"dim": 64, "tau": 3.0, "modalities": ("image",), "detach_membrane": True, "audio_mean": (0.5,)}


@pytest.mark.parametrize(
    ("pair", "word"),
    [
        ("timestep=4", "did you mean timesteps"),
        ("dim", "key=value"),
        ("dim=many", "not of type int"),
        ("detach_membrane=yes", "true or false"),
    ],
)
def test_overrides_that_make_no_sense(pair: str, word: str) -> None:
    with pytest.raises(InputError, match=word):
        parse_overrides(SCMRLConfig, [pair])


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"stagse": 2}, "did you mean stages"),
        ({"dim": "64"}, "not of type int"),
        ({"dim": True}, "not of type int"),
        ({"modalities": "image"}, "not a list"),
        ({"modalities": ("smell",)}, "image,audio"),
        ({"fusion": "ccssa"}, "limit none, spatial"),
        ({"fusion": "sca"}, "limit none, spatial"),
        ({"fusion": "temporal"}, "image_pad=2"),
        ({"fusion": "spatiotemporal", "stages": 1}, "image_pad=2"),
        ({"fusion": "temporal", "image_size": 48}, "audio_pad=8"),
        ({"fusion": "spatial", "heads": 3}, "divisor of dim, 32"),
        ({"fusion": "spatial", "modalities": ("audio",)}, "single modality audio"),
        ({"sao": "class"}, "no residual"),
        ({"temporal": "prefix"}, "limit window"),
        ({"attention_scale": 0.0}, "above 0"),
        ({"fusion": "spatial", "attention_threshold": 0.0}, "must be positive"),
        ({"image_pad": -1}, "0 or more"),
        ({"image_coding": "rate"}, "direct, sequence"),
        ({"head": "max"}, "mean, tokens"),
        ({"head": "tokens"}, "concat"),
        ({"dim": 33}, "multiple of 2"),
        ({"timesteps": 0}, "1 or more"),
        ({"image_channels": 3}, "3 channels"),
        ({"surrogate": "rectangle"}, "atan"),
    ],
)
def test_impossible_configurations(values: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=word):
        build_scmrl(make_config("scmrl", "tiny", values))


def test_the_padding_that_an_error_proposes_is_accepted() -> None:
    assert make_config("scmrl", "tiny", {"fusion": "temporal", "image_pad": 2}).side("image") == 8
    assert make_config("scmrl", "tiny", {"fusion": "temporal", "image_size": 48, "audio_pad": 8}).side("audio") == 12


def test_models_of_one_modality_or_one_fusion_refuse_others() -> None:
    with pytest.raises(InputError, match="one of image, audio"):
        make_config("spikformer", "tiny", {"modalities": ("image", "audio")})
    with pytest.raises(InputError, match="limit cmci"):
        make_config("cmci", "tiny", {"fusion": "sca"})
    with pytest.raises(InputError, match="learned, random"):
        make_config("sca", "tiny", {"position": "sine"})


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(InputError, match="limit scmrl"):
        find_model("resnet")
    with pytest.raises(InputError, match="did you mean tiny"):
        make_config("scmrl", "tinny", {})


def test_configurations_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SCMRLConfig().dim = 3  # type: ignore[misc]
