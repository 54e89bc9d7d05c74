"""Every loss equals a value worked out by hand on a small case."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from avsnn.errors import InputError
from avsnn.train import losses
from avsnn.train.losses import LOSSES, SoundLocation, SpikeCount, gaussian_directions, make_loss, parse_loss

LABELS = {"label": torch.tensor([0, 1])}
EVEN = torch.zeros(2, 2)  # both classes alike: cross-entropy ln 2 whatever the smoothing


def value(name: str, outputs: dict[str, Tensor], targets: dict[str, Tensor] | None = None, **values: Any) -> float:
    return make_loss(name, values)(outputs, targets or LABELS).item()


def test_cross_entropy_with_and_without_smoothing() -> None:
    scores = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]])  # softmax: 3/4, 1/4 and 1/2, 1/2
    plain = (math.log(4 / 3) + math.log(2)) / 2
    assert value("cross_entropy", {"scores": scores}, label_smoothing=0.0) == pytest.approx(plain, abs=1e-6)
    smooth = (0.9 * math.log(4 / 3) + 0.1 * math.log(4) + math.log(2)) / 2  # 0.2 spread over both
    assert value("cross_entropy", {"scores": scores}, label_smoothing=0.2) == pytest.approx(smooth, abs=1e-6)


AUDIO, IMAGE = torch.eye(2), torch.tensor([[0.1 * math.log(3.0), 0.0], [0.0, 0.0]])
"""a_0 . v = (ln 3, 0) / 10, a_1 . v = (0, 0): at temperature 0.1 rows (3/4, 1/4) and (1/2, 1/2)."""


def test_class_alignment_counts_all_pairs_of_a_class_over_all_entries() -> None:
    apart = (math.log(4 / 3) + math.log(2)) / 4  # two positives of four entries
    assert losses.class_alignment(AUDIO, IMAGE, torch.tensor([0, 1]), 0.1).item() == pytest.approx(apart, abs=1e-6)
    alike = (math.log(4 / 3) + math.log(4) + 2 * math.log(2)) / 4  # all four are positives
    assert losses.class_alignment(AUDIO, IMAGE, torch.tensor([1, 1]), 0.1).item() == pytest.approx(alike, abs=1e-6)
    other_way = losses.class_alignment(IMAGE, AUDIO, torch.tensor([0, 1]), 0.1).item()
    assert other_way == pytest.approx(apart, abs=1e-6)  # this case is symmetric, the next is not
    one = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    rows = losses.class_alignment(one, AUDIO, torch.tensor([0, 1]), 1.0).item()
    columns = losses.class_alignment(AUDIO, one, torch.tensor([0, 1]), 1.0).item()
    high, low = math.log(1 + math.exp(-1)), math.log(1 + math.e)
    assert rows == pytest.approx((high + low) / 4, abs=1e-6)
    assert columns == pytest.approx(2 * math.log(2) / 4, abs=1e-6)


def test_instance_alignment_is_the_mean_over_steps_and_samples() -> None:
    audio, image = torch.stack([AUDIO, 0 * AUDIO]), torch.stack([IMAGE, IMAGE])
    wanted = ((math.log(4 / 3) + math.log(2)) / 2 + math.log(2)) / 2  # second step: nothing to tell apart
    assert losses.instance_alignment(audio, image, 0.1).item() == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(("sao", "share"), [("class", 4), ("instance", 2)])
def test_alignment_is_added_with_its_weight(sao: str, share: int) -> None:
    audio, image = (AUDIO, IMAGE) if sao == "class" else (AUDIO[None], IMAGE[None])
    outputs = {"scores": EVEN, "audio_features": audio, "image_features": image}
    extra = (math.log(4 / 3) + math.log(2)) / share
    found = value("aligned_cross_entropy", outputs, sao=sao, sao_weight=0.5)
    assert found == pytest.approx(math.log(2) + 0.5 * extra, abs=1e-6)
    assert value("aligned_cross_entropy", {"scores": EVEN}, sao="off") == pytest.approx(math.log(2), abs=1e-6)
    with pytest.raises(InputError, match="other axes"):
        value("aligned_cross_entropy", outputs, sao="class" if sao == "instance" else "instance")


def test_three_heads_add_up() -> None:
    sure = torch.tensor([[math.log(3.0), 0.0], [0.0, math.log(3.0)]])
    outputs = {"scores": EVEN, "image_scores": sure, "audio_scores": -sure}
    wanted = math.log(2) + math.log(4 / 3) + math.log(4)
    assert value("three_heads", outputs, label_smoothing=0.0) == pytest.approx(wanted, abs=1e-6)


def test_spike_count_with_whole_and_with_real_targets() -> None:
    counts = torch.tensor([[7.0, 1.0], [2.0, 7.0]])
    # targets 7 and 0: differences 0, 1, 2, 0
    assert value("spike_count", {"counts": counts}, timesteps=8) == pytest.approx((1 + 4) / 4 / 8, abs=1e-6)
    # targets 7.2 and 0.8: differences -0.2, 0.2, 1.2, -0.2
    real = (0.04 + 0.04 + 1.44 + 0.04) / 4
    assert value("spike_count", {"counts": counts}, timesteps=8, target="real") == pytest.approx(real, abs=1e-6)


@pytest.mark.parametrize(
    ("timesteps", "high", "low", "wanted"),
    [(8, 0.9, 0.1, (7, 0)), (4, 0.85, 0.15, (3, 0)), (10, 0.7, 0.3, (7, 3))],  # the third: floating point near 7
)
def test_whole_targets(timesteps: int, high: float, low: float, wanted: tuple[int, int]) -> None:
    assert SpikeCount(timesteps=timesteps, high=high, low=low).wanted() == wanted


def test_gaussian_goes_round_the_circle() -> None:
    p = gaussian_directions(torch.tensor([1, 360, 180]), 5.0)
    assert p.shape == (3, 360)
    for row, degrees in enumerate((1, 360, 180)):
        for step in (-7, -1, 0, 1, 5):
            at = (degrees - 1 + step) % 360
            assert p[row, at].item() == pytest.approx(math.exp(-(step**2) / 25), abs=1e-6)
    assert p[2, 359].item() == 0  # the far side


def test_sound_location_weighs_a_sum_over_directions_against_the_class() -> None:
    targets = {"label": torch.tensor([0, 1]), "azimuth": torch.tensor([10, 359])}
    p = gaussian_directions(targets["azimuth"], 5.0)
    outputs = {"scores": EVEN, "azimuth": p.clone()}
    outputs["azimuth"][0, 100] = 3.0  # sample 0 is 3 off in one direction, sample 1 right: mean 4.5
    loss = SoundLocation(weight=0.75, squash=False)
    assert loss(outputs, targets).item() == pytest.approx(0.75 * 4.5 + 0.25 * math.log(2), abs=1e-5)
    flat = {"scores": EVEN, "azimuth": torch.zeros(2, 360)}  # sigmoid 1/2 everywhere
    wanted = (p - 0.5).square().sum(1).mean().item()
    assert SoundLocation(weight=1.0)(flat, targets).item() == pytest.approx(wanted, rel=1e-6)


def test_parameters_come_from_the_values_then_from_the_network() -> None:
    class Config:
        timesteps = 4
        sao = "instance"

    assert make_loss("spike_count", {}, Config()) == SpikeCount(timesteps=4)
    assert make_loss("spike_count", {"timesteps": 6}, Config()) == SpikeCount(timesteps=6)
    assert getattr(make_loss("aligned_cross_entropy", {}, Config()), "sao", "") == "instance"
    assert parse_loss("spike_count", ["high=0.85"]) == {"high": 0.85}


@pytest.mark.parametrize("name", LOSSES)
def test_loss_reaches_every_output_that_it_uses(name: str) -> None:
    rng = torch.Generator().manual_seed(1)
    shapes = {"scores": (6, 3), "image_scores": (6, 3), "audio_scores": (6, 3), "counts": (6, 3), "azimuth": (6, 360)}
    outputs = {key: torch.rand(shape, generator=rng, requires_grad=True) for key, shape in shapes.items()}
    for key in ("image_features", "audio_features"):
        outputs[key] = torch.rand(6, 4, generator=rng, requires_grad=True)
    targets = {"label": torch.arange(6) % 3, "azimuth": torch.arange(1, 7)}
    make_loss(name, {})(outputs, targets).backward()  # type: ignore[no-untyped-call]
    used = {key for key, x in outputs.items() if x.grad is not None and x.grad.abs().sum() > 0}
    wanted = {
        "cross_entropy": {"scores"},
        "aligned_cross_entropy": {"scores", "image_features", "audio_features"},
        "three_heads": {"scores", "image_scores", "audio_scores"},
        "spike_count": {"counts"},
        "sound_location": {"scores", "azimuth"},
    }
    assert used == wanted[name]


@pytest.mark.parametrize(
    ("name", "values", "word"),
    [
        ("spike_counts", {}, "did you mean spike_count?"),
        ("cross_entropy", {"smoothing": 0.1}, "did you mean label_smoothing?"),
        ("cross_entropy", {"label_smoothing": 1.0}, "share"),
        ("aligned_cross_entropy", {"sao": "pairs"}, "off, class, instance"),
        ("aligned_cross_entropy", {"sao_temperature": 0.0}, "must be positive"),
        ("spike_count", {"high": 0.1, "low": 0.9}, "rates must rise"),
        ("sound_location", {"weight": 1.5}, "share"),
    ],
)
def test_impossible_losses(name: str, values: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError) as error:
        make_loss(name, values)
    assert word in str(error.value)


def test_network_without_the_output_is_refused() -> None:
    with pytest.raises(InputError, match=r"output called counts, found scores"):
        value("spike_count", {"scores": EVEN})
