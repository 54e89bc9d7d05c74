import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avsnn.errors import InputError
from avsnn.train.data import features

RATE = 16_000


def tone(hertz: float, rate: int, seconds: float = 1.0, height: float = 1.0) -> np.ndarray:
    return height * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def band_centres(rate: int) -> np.ndarray:
    """By hand: 34 edges evenly spaced on the mel scale; the inner 32 are the centres."""
    top, bottom = 2595 * math.log10(1 + rate / 1400), 2595 * math.log10(1 + 60 / 700)
    mel = [bottom + (top - bottom) * k / 33 for k in range(1, 33)]
    return np.array([700 * (10 ** (m / 2595) - 1) for m in mel])


@pytest.mark.parametrize("hertz", [200.0, 440.0, 1000.0, 3000.0, 6500.0])
def test_a_tone_peaks_in_its_band_in_every_frame(hertz: float) -> None:
    mel = features.log_mel(tone(hertz, RATE), RATE)
    assert mel.shape == (32, 32)
    nearest = int(np.argmin(np.abs(band_centres(RATE) - hertz)))
    assert (np.abs(mel.argmax(axis=0) - nearest) <= 1).all()


def test_a_tone_in_a_bin_has_the_power_computed_by_hand() -> None:
    """48 bins of 20.83 Hz: 1,000 Hz. Hann: a quarter of the window (192) at the bin, half that beside it."""
    mel = features.log_mel(tone(1000, RATE), RATE)
    weight = features.mel_filters(RATE, 768)
    power = weight[:, 48] * 192.0**2 + (weight[:, 47] + weight[:, 49]) * 96.0**2
    expected = np.log(power + 1e-4)
    loud = power > 1
    assert loud.sum() == 3  # three triangles reach over the three bins
    np.testing.assert_allclose(mel[loud], np.broadcast_to(expected[loud, None], (3, 32)), rtol=1e-9)


def test_silence_is_the_floor_and_a_constant_the_loudest_bin() -> None:
    low, high = features.log_mel_range(RATE)
    assert (low, high) == (math.log(1e-4), math.log(384**2 + 1e-4))
    silence = features.log_mel(np.zeros(RATE), RATE)
    np.testing.assert_allclose(silence, low)
    assert (features.quantise_log_mel(silence, RATE) == 0).all()
    power = np.abs(np.fft.rfft(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(768) / 768))) ** 2
    assert power.max() == pytest.approx(384**2)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["noise", "square", "click", "constant"]))
def test_no_wave_within_full_scale_leaves_the_range(seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    wave = {
        "noise": rng.uniform(-1, 1, 2000),
        "square": np.sign(tone(float(rng.uniform(30, 7900)), RATE, 0.125)),
        "click": np.eye(1, 2000, int(rng.integers(2000)))[0],
        "constant": np.ones(2000),
    }[kind]
    code = features.quantise_log_mel(features.log_mel(wave, RATE), RATE)
    assert code.dtype == np.uint8


def test_too_loud_is_an_error_not_a_clip() -> None:
    with pytest.raises(InputError, match="outside the range"):
        features.quantise_log_mel(features.log_mel(tone(1000, RATE, height=100), RATE), RATE)
    with pytest.raises(InputError, match="outside the range"):
        features.quantise_log_mel(np.array([[np.nan]]), RATE)


def test_quantising_rounds_to_the_nearest_step() -> None:
    low, high = features.log_mel_range(RATE)
    step = (high - low) / 255
    code = features.quantise_log_mel(np.array([low, low + 0.49 * step, low + 0.51 * step, high]), RATE)
    assert code.tolist() == [0, 0, 1, 255]


def test_filters_sum_to_one_and_overlap_only_their_neighbours() -> None:
    weight = features.mel_filters(RATE, 768)
    assert weight.shape == (32, 385)
    np.testing.assert_allclose(weight.sum(axis=1), 1)
    assert (weight[:-2] * weight[2:] == 0).all()
    assert (np.diff(weight @ np.arange(385)) > 0).all()


@pytest.mark.parametrize(("seconds", "frames"), [(1, 63), (3, 188)])
def test_spectrogram_shape(seconds: int, frames: int) -> None:
    picture = features.s_cmrl_spectrogram(np.zeros(22_050 * seconds))
    assert picture.shape == (257, frames)
    assert picture.dtype == np.float32
    np.testing.assert_allclose(picture, math.log(1e-7), rtol=1e-6)


def test_spectrogram_of_a_tone_by_hand() -> None:
    """A cosine in bin 40 of height 1: |X| = 512 / 4 = 128 in every frame that touches no padding."""
    wave = np.cos(2 * np.pi * 40 * np.arange(22_050) / 512)
    picture = features.s_cmrl_spectrogram(wave)
    assert (picture[:, 1:-1].argmax(axis=0) == 40).all()
    np.testing.assert_allclose(picture[40, 1:-1], math.log(128 + 1e-7), rtol=1e-6)
    np.testing.assert_allclose(picture[[39, 41], 1:-1], math.log(64 + 1e-7), rtol=1e-6)


def test_spectrogram_is_centred_and_zero_padded() -> None:
    """Frame 0 sees a click at sample 0 in the middle of its window, where Hann is one."""
    click = np.zeros(22_050)
    click[0] = 1
    picture = features.s_cmrl_spectrogram(click)
    np.testing.assert_allclose(picture[:, 0], math.log(1 + 1e-7), atol=1e-6)
    np.testing.assert_allclose(picture[:, 1], math.log(1e-7), rtol=1e-6)


def test_resampling_keeps_a_tone() -> None:
    wave = features.resample(tone(1000, RATE), RATE, features.SPECTROGRAM_RATE)
    assert len(wave) == 22_050
    inner = slice(500, -500)
    np.testing.assert_allclose(wave[inner], tone(1000, 22_050)[inner], atol=2e-3)


@pytest.mark.parametrize("wave", [np.zeros(767), np.zeros((2, 16000)), np.zeros(0)])
def test_waves_that_cannot_be_framed_are_refused(wave: np.ndarray) -> None:
    with pytest.raises(InputError, match="one window"):
        features.log_mel(wave, RATE)


@pytest.mark.parametrize("wave", [np.zeros(0), np.zeros((2, 22_050))])
def test_spectrogram_refuses_what_is_no_wave(wave: np.ndarray) -> None:
    with pytest.raises(InputError):
        features.s_cmrl_spectrogram(wave)


def test_a_rate_too_low_for_the_bands_is_refused() -> None:
    with pytest.raises(InputError, match="rate too low"):
        features.log_mel(np.zeros(1000), 400)
