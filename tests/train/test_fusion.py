"""Fusion of two modalities: every product equals its plain definition, every parameter learns, every network fits."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from avsnn.errors import InputError
from avsnn.train.attention import (
    AddScaled,
    MappedValues,
    Over,
    PositionedScores,
    ProductOfMeans,
    SpikeAttention,
    StepGain,
)
from avsnn.train.data import avdigits
from avsnn.train.models.fusion import CrossAttention, ResidualFusion
from avsnn.train.models.scmrl import FusedSCMRL
from avsnn.train.models.scmrl_config import SCMRLConfig
from avsnn.train.models.table import find_model, make_config
from avsnn.train.rates import SpikeRates

NETWORKS: list[tuple[str, str, dict[str, Any]]] = [
    ("scmrl", "tiny-fused", {}),
    ("scmrl", "tiny-fused", {"sao": "instance"}),
    ("scmrl", "tiny-fused", {"sao": "off", "interaction": "concat", "head": "tokens"}),
    ("scmrl", "tiny-fused", {"fusion": "spatial", "sao": "off"}),
    ("scmrl", "tiny-fused", {"fusion": "temporal", "sao": "off"}),
    ("spikformer", "tiny", {}),
    ("spikformer", "tiny", {"modalities": ["audio"]}),
    ("weight-attention", "tiny", {}),
    ("sca", "tiny", {}),
    ("sca", "tiny", {"position": "random"}),
    ("cmci", "tiny", {}),
]


def spikes(*shape: int, rate: float = 0.4, seed: int = 0) -> Tensor:
    rng = np.random.default_rng([seed, *shape])
    return torch.from_numpy((rng.random(shape) < rate).astype(np.float64))


def plain_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float, over: Over) -> Tensor:
    """Loops over samples, heads and what does not attend; one matrix product per case."""
    steps, batch, dim, tokens = q.shape
    size, found = dim // heads, torch.zeros_like(q)
    others = range(steps) if over == "space" else range(tokens)
    for b, h, other in itertools.product(range(batch), range(heads), others):
        part = slice(h * size, (h + 1) * size)
        where: Any = (other, b, part) if over == "space" else (slice(None), b, part, other)
        query, key, value = (x[where].T if over == "space" else x[where] for x in (q, k, v))
        answer = scale * (query @ key.T) @ value
        found[where] = answer.T if over == "space" else answer
    return found


@pytest.mark.parametrize("over", ["space", "time"])
@pytest.mark.parametrize(("dim", "heads"), [(8, 2), (8, 8), (6, 1)])
def test_attention_equals_loops(over: Over, dim: int, heads: int) -> None:
    keys = 5 if over == "space" else 7
    q, k, v = (spikes(4, 3, dim, n, seed=i).requires_grad_() for i, n in enumerate((7, keys, keys)))
    wanted = plain_attention(q, k, v, heads, 0.25, over)
    found = SpikeAttention(heads, 0.25, over=over)(q, k, v)
    assert torch.equal(found, wanted)  # counts, exact in any order
    assert 0.05 < (wanted > 0).double().mean() < 0.999
    weights = torch.rand(wanted.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for ours, plain in zip(
        torch.autograd.grad((found * weights).sum(), (q, k, v)),
        torch.autograd.grad((wanted * weights).sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)


def test_attention_keeps_height_and_width_apart() -> None:
    q, k, v = (spikes(2, 2, 4, 3, 5, seed=i) for i in range(3))
    for over in ("space", "time"):
        attend = SpikeAttention(2, 1.0, over=over)
        assert torch.equal(attend(q, k, v).flatten(3), attend(q.flatten(3), k.flatten(3), v.flatten(3)))


def test_attention_over_something_else() -> None:
    with pytest.raises(InputError, match="space, time"):
        SpikeAttention(2, 1.0, over="channels")  # type: ignore[arg-type]


def test_time_attends_to_later_steps_and_space_does_not() -> None:
    q, k, v = (spikes(3, 1, 4, 6, seed=i, rate=0.8) for i in range(3))
    silenced = v.clone()
    silenced[2] = 0
    cases: tuple[tuple[Over, bool], ...] = (("space", True), ("time", False))
    for over, same in cases:
        attend = SpikeAttention(2, 1.0, over=over)
        assert torch.equal(attend(q, k, v)[0], attend(q, k, silenced)[0]) == same


@pytest.mark.parametrize("seed", [None, 3])
def test_scores_with_positions_equal_loops(seed: int | None) -> None:
    height, width = 3, 2
    scores = PositionedScores(2, (height, width), seed=seed).double()
    assert isinstance(scores.table, nn.Parameter) == (seed is None)
    if seed is None:
        nn.init.normal_(scores.table)
    q, k = spikes(2, 3, 8, height, width), spikes(2, 3, 8, height, width, seed=1)
    found = scores(q, k)
    spots = list(itertools.product(range(height), range(width)))
    for (m, (row, column)), (n, (other_row, other_column)) in itertools.product(enumerate(spots), enumerate(spots)):
        bias = scores.table[row - other_row + height, column - other_column + width]
        for head in range(2):
            part = slice(4 * head, 4 * head + 4)
            dots = (q[:, :, part, row, column] * k[:, :, part, other_row, other_column]).sum(2)
            torch.testing.assert_close(found[:, :, head, m, n], dots + bias, rtol=1e-12, atol=1e-12)


def test_mapped_values_equal_attention_with_the_scores_as_map() -> None:
    q, k, v = (spikes(2, 3, 8, 2, 2, seed=i) for i in range(3))
    scores = PositionedScores(2, (2, 2)).double()(q, k)
    assert torch.equal(MappedValues(0.25)(scores, v), SpikeAttention(2, 0.25, over="space")(q, k, v))


def test_small_parts_by_hand() -> None:
    x = torch.tensor([[1.0, 0, 0, 1], [1, 1, 1, 1]]).reshape(2, 1, 1, 2, 2)  # token means 1/2 and 1
    y = torch.tensor([[1.0, 0, 0, 1], [1, 1, 0, 0]]).reshape(2, 1, 1, 2, 2)  # step means 1, 1/2, 0, 1/2
    wanted = torch.tensor([[0.5, 0.25, 0, 0.25], [1, 0.5, 0, 0.5]]).reshape(2, 1, 1, 2, 2)
    assert torch.equal(ProductOfMeans()(x, y), wanted)
    assert torch.equal(AddScaled(1.5)(x, y).flatten(), torch.tensor([2.5, 0, 0, 2.5, 2.5, 2.5, 1, 1]))
    gained = StepGain()(x, torch.tensor([2.0, -1.0]).reshape(2, 1, 1))
    assert torch.equal(gained.flatten(), torch.tensor([2.0, 0, 0, 2, -1, -1, -1, -1]))


def lively(config: SCMRLConfig) -> nn.Module:
    """A cross attention or fusion whose neurons fire: large norms that lean upwards."""
    torch.manual_seed(0)
    module = ResidualFusion(config).double().eval()
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            nn.init.constant_(child.weight, 3.0)
            nn.init.constant_(child.bias, 1.0)
    return module


@pytest.mark.parametrize("over", ["space", "time"])
def test_cross_attention_equals_its_equation(over: Over) -> None:
    config = SCMRLConfig(fusion="spatiotemporal", dim=8, heads=2, audio_size=28, attention_scale=1.0)
    fusion = lively(config)
    attention = fusion.get_submodule("spatial" if over == "space" else "temporal")
    assert isinstance(attention, CrossAttention)
    x, y = (spikes(4, 2, 8, 3, 3, seed=i) for i in range(2))

    def project(name: str, tokens: Tensor) -> Tensor:
        conv, norm = (attention.get_submodule(f"{name}.{part}.module") for part in ("conv", "norm"))
        current = torch.stack([norm(conv(step)) for step in tokens])
        fired = attention.get_submodule(f"{name}.lif")(current)
        assert 0.02 < fired.mean() < 0.98
        return torch.as_tensor(fired)

    q, k, v = (project(name, tokens).flatten(3) for name, tokens in (("query", x), ("key", y), ("value", y)))
    current = plain_attention(q, k, v, 2, 1.0, over)
    u, fired = torch.zeros_like(current[0]), []
    for step in current:
        u = u / 2 + step / 2
        fired.append((u >= 1).double())
        u = u * (1 - fired[-1])
    inner = torch.stack(fired).reshape(x.shape)
    assert inner.mean() > 0.01
    assert torch.equal(attention(x, y), project("project", inner))


def test_residual_is_the_product_of_means_and_alpha_scales_it() -> None:
    config = SCMRLConfig(
        fusion="spatiotemporal", dim=8, heads=2, audio_size=28, attention_scale=1.0, residual_alpha=0.5
    )
    fusion = lively(config)
    x, y = (spikes(4, 2, 8, 3, 3, seed=i) for i in range(2))
    spatial, temporal = (fusion.get_submodule(name)(x, y) for name in ("spatial", "temporal"))
    wanted = torch.einsum("tbchw,sbckl->tbckl", spatial, temporal) / (9 * 4)
    fused, r = fusion(x, y)
    torch.testing.assert_close(r, wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(fused, x + 0.5 * wanted, rtol=1e-12, atol=1e-12)
    assert wanted.max() > 0.1


def pairs(config: SCMRLConfig, count: int) -> tuple[dict[str, Tensor], Tensor]:
    made = avdigits.make(count, split="train", use_cache=False)
    inputs = made.inputs()
    return {name: torch.from_numpy(inputs[name]) for name in config.modalities}, torch.from_numpy(made.label)


def answers(network: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    outputs = getattr(network, "outputs", None)
    return outputs(**inputs) if outputs else {"scores": network(**inputs)}


def objective(found: Mapping[str, Tensor], labels: Tensor) -> Tensor:
    """Cross-entropy of all scores, and alignment of features by class."""
    loss = sum(
        (nn.functional.cross_entropy(x, labels) for name, x in found.items() if name.endswith("scores")),
        start=torch.zeros(()),
    )
    if "image_features" in found:
        image, audio = (
            found[f"{name}_features"].reshape(-1, len(labels), found[f"{name}_features"].shape[-1]).mean(0)
            for name in ("image", "audio")
        )
        same = (labels[:, None] == labels).float()
        loss = loss - (nn.functional.log_softmax(audio @ image.T / 0.08, 1) * same).mean()
    return loss


@pytest.mark.parametrize(("model", "preset", "values"), NETWORKS)
def test_every_parameter_learns_and_every_neuron_population_fires(
    model: str, preset: str, values: dict[str, Any]
) -> None:
    config = make_config(model, preset, {**values, "dim": 16, "bn_gamma_init": 3.0})
    torch.manual_seed(1)
    network = find_model(model).build(config)
    inputs, labels = pairs(config, 8)
    with SpikeRates(network) as meter:
        objective(answers(network, inputs), labels).backward()  # type: ignore[no-untyped-call]
    still = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []
    silent = [name for name, rate in meter.rates().items() if rate == 0]
    assert [name for name in silent if not name.endswith("align.lif")] == []


@pytest.mark.parametrize(
    ("model", "preset", "values"),
    [
        ("scmrl", "tiny-fused", {}),
        ("scmrl", "tiny", {}),
        ("scmrl", "tiny-fused", {"fusion": "temporal", "sao": "off"}),
        ("spikformer", "tiny", {}),
        ("weight-attention", "tiny", {}),
        ("sca", "tiny", {}),
        ("cmci", "tiny", {}),
    ],
)
def test_overfits_32_pairs(model: str, preset: str, values: dict[str, Any]) -> None:
    config = make_config(model, preset, {**values, "dim": 16, "timesteps": 2})
    torch.manual_seed(0)
    network = find_model(model).build(config)
    inputs, labels = pairs(config, 32)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _step in range(150):
        found = answers(network, inputs)
        if (found["scores"].argmax(1) == labels).double().mean() > 0.95:
            return
        optimiser.zero_grad()
        objective(found, labels).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    pytest.fail("150 updates were not enough")


def test_outputs_have_the_promised_names_and_shapes() -> None:
    def shapes(model: str, **values: Any) -> dict[str, tuple[int, ...]]:
        config = make_config(model, "tiny-fused" if model == "scmrl" else "tiny", values)
        network = find_model(model).build(config).eval()
        inputs, _ = pairs(config, 2)
        with torch.no_grad():
            found = network.outputs(**inputs)  # type: ignore[operator]
            assert torch.equal(found["scores"], network(**inputs))
        return {name: tuple(x.shape) for name, x in found.items()}

    assert shapes("scmrl") == {"scores": (2, 10), "image_features": (2, 32), "audio_features": (2, 32)}
    assert shapes("scmrl", sao="instance")["audio_features"] == (4, 2, 32)
    assert shapes("scmrl", sao="off") == {"scores": (2, 10)}
    assert shapes("cmci") == {"scores": (2, 10), "image_scores": (2, 10), "audio_scores": (2, 10)}
    assert shapes("weight-attention") == shapes("sca") == {"scores": (2, 10)}


def test_features_of_a_class_are_those_of_an_instance_averaged_over_time() -> None:
    inputs, _ = pairs(make_config("scmrl", "tiny-fused", {}), 2)
    networks = []
    for sao in ("class", "instance"):
        torch.manual_seed(0)
        networks.append(FusedSCMRL(make_config("scmrl", "tiny-fused", {"sao": sao})).train())
    for network in networks:
        nn.init.constant_(network.get_parameter("image.fusion.align.linear.module.bias"), 1.5)
    by_class, by_instance = (network.outputs(**inputs)["image_features"] for network in networks)
    torch.testing.assert_close(by_class, by_instance.mean(0))
    assert by_class.max() > 0


def test_populations_of_the_attention_are_named_by_branch() -> None:
    config = make_config("scmrl", "tiny-fused", {})
    network = find_model("scmrl").build(config)
    inputs, _ = pairs(config, 2)
    with torch.no_grad(), SpikeRates(network) as meter:
        network(**inputs)
    for modality, branch in itertools.product(("image", "audio"), ("spatial", "temporal")):
        assert f"{modality}.fusion.{branch}.attention_lif" in meter.rates()


def test_scale_and_threshold_of_the_attention_act_as_their_quotient() -> None:
    inputs, _ = pairs(make_config("scmrl", "tiny-fused", {}), 4)
    found = []
    for scale, threshold in ((0.25, 1.0), (0.125, 0.5), (0.5, 1.0)):
        torch.manual_seed(0)
        values = {"attention_scale": scale, "attention_threshold": threshold, "bn_gamma_init": 3.0}
        network = find_model("scmrl").build(make_config("scmrl", "tiny-fused", values))
        with torch.no_grad(), SpikeRates(network) as meter:
            network(**inputs)
        found.append(meter.rates())
    assert found[0] == found[1]
    for branch in ("spatial", "temporal"):
        name = f"image.fusion.{branch}.attention_lif"
        assert 0 < found[0][name] < found[2][name]


def test_event_frames_are_taken_as_a_sequence() -> None:
    config = make_config("scmrl", "events", {"timesteps": 3, "bn_gamma_init": 4.0})
    torch.manual_seed(0)
    network = find_model("scmrl").build(config).eval()
    image, audio = spikes(3, 2, 2, 28, 28, rate=0.2).float(), spikes(3, 2, 1, 28, 28, rate=0.2).float()
    with torch.no_grad():
        assert network(image=image, audio=audio).shape == (2, 10)
        early = network.get_submodule("image.patches")(image)
        later = image.clone()
        later[2] = 1 - later[2]
        changed = network.get_submodule("image.patches")(later)
    assert torch.equal(early[:2], changed[:2])
    assert not torch.equal(early[2], changed[2])
