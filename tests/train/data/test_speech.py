import numpy as np
import pytest

from avsnn.train.data import sources, speech

RATE = 16_000


def rng() -> np.random.Generator:
    return np.random.default_rng(1)


def tone(hertz: float, count: int = RATE) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(count) / RATE)


def pitch(wave: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave)), 1 << 17))
    return float(spectrum.argmax() * RATE / (1 << 17))


def test_mu_law_end_points_and_symmetry() -> None:
    wave = speech.decode_mu_law(np.arange(256, dtype=np.uint8))
    assert (wave[0], wave[255]) == (-1, 1)
    np.testing.assert_allclose(wave, -wave[::-1], atol=1e-15)
    assert (np.diff(wave) > 0).all()
    assert wave[191] == pytest.approx((256 ** (63.5 / 127.5) - 1) / 255)


def test_speed_changes_length_and_pitch_together() -> None:
    fast = speech.speed(tone(440), 1.25)
    assert len(fast) == RATE * 80 // 100
    assert pitch(fast) == pytest.approx(440 * 1.25, rel=2e-3)


@pytest.mark.parametrize("factor", [0.85, 1.0, 1.25])
def test_stretch_changes_length_and_keeps_pitch(factor: float) -> None:
    wave = speech.stretch(tone(440), factor, RATE)
    assert len(wave) == pytest.approx(RATE / factor, abs=512)
    assert pitch(wave) == pytest.approx(440, rel=5e-3)
    inner = wave[1000:-1000]
    assert np.abs(inner).max() == pytest.approx(1, abs=0.05)  # frames continue each other: no beats


@pytest.mark.parametrize("count", [1, 100, 3200])
def test_stretch_takes_any_length(count: int) -> None:
    assert np.isfinite(speech.stretch(tone(440, count), 1.1, RATE)).all()


def test_hann_windows_sum_to_one() -> None:
    window = speech.hann(512)
    np.testing.assert_allclose(window[:256] + window[256:], 1)


def test_a_room_keeps_the_direct_sound_and_adds_a_tail() -> None:
    click = np.zeros(4000)
    click[0] = 1
    wet = speech.room(click, rng(), RATE)
    assert wet[0] == pytest.approx(1)
    assert len(wet) > 4000
    assert 0 < np.abs(wet[1:400]).max() < 1.3
    assert np.abs(wet[1:400]).mean() > 3 * np.abs(wet[1500:1900]).mean()


def test_tilt_stays_within_its_gain() -> None:
    click = np.zeros(4096)
    click[0] = 1
    gain_db = 20 * np.log10(np.abs(np.fft.rfft(speech.tilt(click, rng()))))
    assert np.abs(gain_db).max() <= 4 + 1e-9
    assert np.ptp(gain_db) > 0.5


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_coloured_noise_falls_as_its_exponent(exponent: float) -> None:
    noise = speech.coloured_noise(1 << 15, rng(), exponent)
    assert noise.std() == pytest.approx(1)
    power = np.abs(np.fft.rfft(noise)) ** 2
    octaves = [np.log2(power[1 << k : 2 << k].mean()) for k in range(6, 13)]
    assert np.polyfit(range(7), octaves, 1)[0] == pytest.approx(-exponent, abs=0.15)


def test_placing_keeps_a_short_word_whole_and_cuts_a_long_one() -> None:
    word = np.arange(1.0, 101)
    scene = speech.place(word, 1000, rng())
    start = int(np.flatnonzero(scene)[0])
    np.testing.assert_array_equal(scene[start : start + 100], word)
    assert scene.sum() == word.sum()
    part = speech.place(word, 30, rng())
    assert np.diff(part).tolist() == [1] * 29
    np.testing.assert_array_equal(speech.place(word, 100, rng()), word)


@pytest.mark.parametrize("snr_db", [0.0, 20.0])
def test_a_recording_has_the_length_peak_and_noise_asked_for(snr_db: float) -> None:
    stock = sources.source("train")
    quiet = speech.record(stock.words[0], rng(), rate=RATE, snr_db=(200, 200), others=stock.words)
    noisy = speech.record(stock.words[0], rng(), rate=RATE, snr_db=(snr_db, snr_db), others=stock.words)
    for wave in (quiet, noisy):
        assert wave.shape == (RATE,)
        assert wave.dtype == np.int16
        assert np.abs(wave).max() == round(0.9 * 32767)
    # same draws, so noisy is a * quiet + noise: find a by least squares, compare powers over the word's length
    clean, mixed = quiet.astype(float), noisy.astype(float)
    scale = clean @ mixed / (clean @ clean)
    noise = mixed - scale * clean
    spoken = np.flatnonzero(quiet)
    power = ((scale * clean) ** 2).sum() / (spoken[-1] - spoken[0] + 1)
    assert 10 * np.log10(power / (noise**2).mean()) == pytest.approx(snr_db, abs=1.0)
