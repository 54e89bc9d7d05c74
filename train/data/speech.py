"""A stored spoken word becomes one second of a new recording: other speaker, tempo, room, microphone, noise.

Everything is computed in float64 and leaves as int16, so that a recording is the same integers under every numpy
and scipy version.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft
from scipy.signal import resample_poly

Array = NDArray[np.float64]

PEAK = 0.9
"""Largest absolute value of a finished recording, full scale being 1."""

FULL_SCALE = 32767
"""int16 value of a sample of 1.0."""

_SPEED = (0.85, 1.18)
_TEMPO = (0.85, 1.25)
_ROOM_PROBABILITY = 0.5
_BABBLE_PROBABILITY = 0.4
_TALKERS = 4


def decode_mu_law(code: NDArray[np.uint8]) -> Array:
    """Expand 8-bit mu-law (mu = 255, offset binary): ``sign(x) (256^|x| - 1) / 255`` with ``x = code / 127.5 - 1``.

    Args:
        code: any shape.

    Returns:
        Same shape, -1..1.
    """
    x = np.arange(256) / 127.5 - 1
    table = np.sign(x) * (256 ** np.abs(x) - 1) / 255
    return np.asarray(table[code])


def speed(wave: Array, factor: float) -> Array:
    """Resample so that pitch, formants and tempo all rise by `factor` (in steps of about 1 %): a new speaker."""
    base = 100
    return np.asarray(resample_poly(wave, round(base / factor), base))


def stretch(wave: Array, factor: float, rate: int) -> Array:
    """Shorten (factor > 1) or lengthen a word without changing its pitch.

    Waveform-similarity overlap-add (Verhelst and Roelands 1993): frames of 32 ms, half overlapping, each taken up to
    8 ms from its nominal place where it best continues the frame before.

    Args:
        wave: (n,).
        factor: tempo, > 0.
        rate: samples per second.

    Returns:
        (about n / factor,).
    """
    frame, search = int(0.032 * rate), int(0.008 * rate)
    hop = frame // 2
    window = hann(frame)
    count = max(1, int(len(wave) / factor / hop))
    padded = np.pad(wave, (search, 2 * search + frame + hop))
    out = np.zeros(count * hop + frame)
    follow = padded[search : search + frame]
    for k in range(count):
        start = int(k * hop * factor)
        span = padded[start : start + frame + 2 * search]
        start += int(np.argmax(np.correlate(span, follow, "valid")))
        out[k * hop : k * hop + frame] += padded[start : start + frame] * window
        follow = padded[start + hop : start + hop + frame]
    return out[: int(len(wave) / factor) + hop]


def room(wave: Array, rng: np.random.Generator, rate: int) -> Array:
    """Add the echo of a random room: noise falling by 60 dB in 80..350 ms, 5..25 % of the direct sound."""
    length = int(rng.uniform(0.08, 0.35) * rate)
    echo = rng.standard_normal(length) * 10 ** (-3 * np.arange(length) / length) * rng.uniform(0.05, 0.25)
    echo[0] = 1.0
    size = next_fast_len(len(wave) + length, real=True)
    wet = irfft(rfft(wave, size) * rfft(echo, size), size)
    return np.asarray(wet[: len(wave) + length // 3])


def tilt(wave: Array, rng: np.random.Generator, *, gain_db: float = 4.0) -> Array:
    """Filter by a random smooth gain, 6 points within +-`gain_db` over the square root of frequency."""
    size = next_fast_len(len(wave), real=True)
    spectrum = rfft(wave, size)
    place = np.sqrt(np.linspace(0, 1, len(spectrum)))
    gain = np.interp(place, np.linspace(0, 1, 6), rng.uniform(-gain_db, gain_db, 6))
    return np.asarray(irfft(spectrum * 10 ** (gain / 20), size)[: len(wave)])


def coloured_noise(length: int, rng: np.random.Generator, exponent: float) -> Array:
    """Gaussian noise of unit variance whose power falls as 1 / frequency^`exponent`."""
    frequency = np.arange(length // 2 + 1) / length
    frequency[0] = frequency[1]
    real, imaginary = rng.standard_normal((2, len(frequency)))
    noise = irfft((real + 1j * imaginary) * frequency ** (-exponent / 2), length)
    return np.asarray(noise / noise.std())


def place(wave: Array, length: int, rng: np.random.Generator) -> Array:
    """Put a word at a random place in `length` samples; of a longer one, a random part of that length."""
    spare = length - len(wave)
    if spare < 0:
        start = int(rng.integers(0, -spare + 1))
        return wave[start : start + length]
    before = int(rng.integers(0, spare + 1))
    return np.pad(wave, (before, spare - before))


def record(
    word: Array, rng: np.random.Generator, *, rate: int, snr_db: tuple[float, float], others: Sequence[Array]
) -> NDArray[np.int16]:
    """Make one second of recording from a clean word.

    Speed 0.85..1.18, tempo 0.85..1.25, a room in half of the cases, a microphone, a random onset, then coloured
    noise or, in 40 % of the cases, the babble of four other words.

    Args:
        word: (n,), -1..1.
        rng: source of all draws.
        rate: samples per second.
        snr_db: range of the ratio of the word's mean power to the noise's.
        others: words to babble with.

    Returns:
        (rate,), peak `PEAK`.
    """
    wave = speed(word, rng.uniform(*_SPEED))
    wave = stretch(wave, rng.uniform(*_TEMPO), rate)
    if rng.random() < _ROOM_PROBABILITY:
        wave = room(wave, rng, rate)
    wave = tilt(wave, rng)
    wave = wave / np.abs(wave).max()
    power = np.mean(wave**2)
    scene = place(wave, rate, rng)
    ratio = 10 ** (rng.uniform(*snr_db) / 10)
    scene = scene + _noise(rate, rng, others) * np.sqrt(power / ratio)
    return np.rint(scene * (PEAK * FULL_SCALE / np.abs(scene).max())).astype(np.int16)


def _noise(length: int, rng: np.random.Generator, others: Sequence[Array]) -> Array:
    """(length,) of unit variance: babble or coloured noise."""
    if rng.random() >= _BABBLE_PROBABILITY:
        return coloured_noise(length, rng, rng.uniform(0, 2))
    babble = np.zeros(length)
    for _ in range(_TALKERS):
        babble += place(others[int(rng.integers(len(others)))], length, rng)
    return np.asarray(babble / babble.std())


def hann(length: int) -> Array:
    """(length,) periodic Hann window ``0.5 - 0.5 cos(2 pi n / length)``: at half overlap it sums to one."""
    return np.asarray(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length))
