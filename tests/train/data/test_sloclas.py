from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.fft import irfft, rfft

from avsnn.errors import InputError
from avsnn.train.data import array_features, cache, rooms, sloclas, sounds
from avsnn.train.data.dataset import Dataset


def make(count: int, *, split: str = "train", seed: int | None = None, **config: Any) -> Dataset:
    return sloclas.make(count, split=split, seed=seed, config=sloclas.SloclasConfig(**config), use_cache=False)


@pytest.fixture(scope="module")
def some() -> Dataset:
    return make(20)


def test_the_integers_are_those_of_every_other_version(some: Dataset) -> None:
    """Made alike under numpy 1.26 and scipy 1.15, numpy 2.4 and scipy 1.17, numpy 2.5 and scipy 1.18."""
    assert cache.digest(some.arrays())[:16] == "1128b18a91a8683e"


def test_shapes_targets_and_declared_ranges(some: Dataset) -> None:
    inputs, spec, targets = some.inputs(), some.input_spec(), some.targets()
    assert inputs["gcc"].shape == (20, 16, 306)
    assert inputs["mel"].shape == (20, 16, 204)
    assert some.coding == {"gcc": "direct", "mel": "direct"}
    assert spec["gcc"] == {"shape": [16, 306], "coding": "direct", "low": -1.0, "high": 1.0, "step": 1 / 128}
    assert spec["mel"] == {"shape": [16, 204], "coding": "direct", "low": 0.0, "high": 1.0, "step": 1 / 256}
    for name, value in inputs.items():
        assert value.dtype == np.float32
        assert spec[name]["low"] <= value.min()
        assert 0.5 < value.max() <= spec[name]["high"]
        assert (value / spec[name]["step"] % 1 == 0).all()
    assert inputs["gcc"].min() < 0
    assert np.bincount(targets["label"]).tolist() == [2] * 10
    assert set(targets["azimuth"].tolist()) <= set(range(1, 361, 5))
    assert len(set(targets["azimuth"].tolist())) > 10
    assert some.labels == sounds.CLASSES


def test_fewer_scenes_are_the_beginning_of_more(some: Dataset) -> None:
    assert cache.digest(make(5).arrays()) == cache.digest(some[:5].arrays())


def test_seed_split_rooms_and_noise_all_matter() -> None:
    changes: list[dict[str, Any]] = [{}, {"seed": 1}, {"split": "val"}, {"rooms": "unseen"}, {"snr_high_db": 20.0}]
    assert len({make(2, frames=2, **change).inputs()["gcc"].tobytes() for change in changes}) == len(changes)


def test_the_loudest_lag_points_at_the_source() -> None:
    """Steered response: lags that the array's geometry predicts for each azimuth, written anew here."""
    angle = np.deg2rad(np.arange(1, 361, 5))
    source = 1.5 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    corners = np.deg2rad([45, 135, 225, 315])
    mic = 0.0457 * np.stack([np.cos(corners), np.sin(corners)], axis=1)
    arrival = np.linalg.norm(source[:, None] - mic, axis=2) / 343 * 16000
    lag = np.stack([arrival[:, i] - arrival[:, j] for i in range(4) for j in range(i + 1, 4)], axis=1)
    data = make(40, snr_low_db=30.0, snr_high_db=30.0)
    gcc = data.inputs()["gcc"].mean(axis=1).reshape(40, 6, 51)
    index = np.rint(lag * 4).astype(int) + 25
    score = np.stack([gcc[:, np.arange(6), place].sum(axis=1) for place in index], axis=1)
    found = np.arange(1, 361, 5)[score.argmax(axis=1)]
    error = np.abs((found - data.targets()["azimuth"] + 180) % 360 - 180)
    assert np.median(error) <= 5
    assert (error <= 10).mean() > 0.8


@pytest.mark.parametrize("shift", [-6, -1, 0, 3])
def test_a_delay_moves_the_peak_by_four_lags_per_sample(shift: int) -> None:
    wave = np.random.default_rng(0).standard_normal(2048) * 0.1
    recording = np.stack([np.roll(wave, shift), wave, wave, wave])
    gcc, _ = array_features.features(recording)
    peak = gcc.reshape(2, 6, 51).sum(axis=0).argmax(axis=1)
    assert peak[:3].tolist() == [25 + 4 * shift] * 3
    assert peak[3:].tolist() == [25] * 3


def test_gcc_phat_equals_a_zero_padded_inverse_transform() -> None:
    spectrum = rfft(np.random.default_rng(1).standard_normal((2, 4, 1024)), axis=2)
    found = array_features.gcc_phat(spectrum)
    for row, (i, j) in enumerate(array_features.PAIRS):
        cross = spectrum[:, i] * spectrum[:, j].conj()
        cross /= np.abs(cross)
        cross[:, -1] /= 2  # a padded transform sees the Nyquist bin on both sides
        long = irfft(cross, 4096, axis=1) * 4
        np.testing.assert_allclose(found[:, row], np.concatenate([long[:, -25:], long[:, :26]], axis=1), atol=1e-12)
    assert np.abs(found).max() <= 1


def test_a_silent_microphone_gives_zeros_not_nan() -> None:
    gcc, mel = array_features.features(np.zeros((4, 1024)))
    assert not gcc.any()
    assert not mel.any()
    with pytest.raises(InputError, match="four microphones"):
        array_features.features(np.zeros((2, 4096)))


@pytest.mark.parametrize("number", range(10))
def test_every_sound_lasts_and_differs_from_draw_to_draw(number: int) -> None:
    first, second = (sounds.sound(number, 16384, np.random.default_rng(seed)) for seed in (0, 1))
    assert np.abs(first).max() == pytest.approx(1)
    assert first.shape == (16384,)
    assert first[-1] == 0
    assert not np.array_equal(first, second)
    energy = (first.reshape(16, 1024) ** 2).mean(axis=1)
    assert (energy > 1e-7).sum() >= 6, "silent for most of the clip"


def test_the_direct_sound_arrives_first_and_rooms_differ() -> None:
    response = rooms.responses(0)
    assert response.shape == (72, 4, 1600)
    first = np.abs(response).argmax(axis=2)
    assert first.min() > 20
    assert first.max() < 40
    middle = (response**2).sum(axis=2)
    assert (middle > 0).all()
    assert not np.allclose(response, rooms.responses(1))
    np.testing.assert_array_less(np.abs(response[..., -1]).max(), np.abs(response).max() / 10)


def test_scenes_are_what_the_features_were_made_from(some: Dataset) -> None:
    recording, label, azimuth = sloclas.scene(7)
    assert recording.dtype == np.int16
    assert recording.shape == (4, 16384)
    assert np.abs(recording.astype(int)).max() == round(0.9 * 32767)
    gcc, mel = array_features.features(recording / 32767)
    np.testing.assert_array_equal(gcc, some.codes["gcc"][7])
    np.testing.assert_array_equal(mel, some.codes["mel"][7])
    assert (label, azimuth) == tuple(int(some.targets()[name][7]) for name in ("label", "azimuth"))


def test_the_cache_gives_the_same_scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVSNN_CACHE", str(tmp_path))
    config = sloclas.SloclasConfig(frames=1)
    first = sloclas.make(2, config=config)
    monkeypatch.setattr(sloclas, "_generate", None)
    assert cache.digest(sloclas.make(2, config=config).arrays()) == cache.digest(first.arrays())


@pytest.mark.parametrize(
    "config", [{"rooms": "all"}, {"frames": 0}, {"frames": 65}, {"snr_low_db": 11.0}, {"snr_low_db": float("nan")}]
)
def test_impossible_options_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        sloclas.SloclasConfig(**config)
    assert caught.value.limit
