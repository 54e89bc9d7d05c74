"""A class number becomes a new dry sound of that class: bells, bottle, buzzer and so on, every parameter drawn.

Named after the classes of SLoClas (Qian et al., O-COCOSDA 2021), whose dry sounds are from the RWCP sound scene
database. Nothing of either is used; each class is a small physical or electronic model of its kind.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, sosfilt

from avsnn.train.data.rooms import RATE

Array = NDArray[np.float64]
Rng = np.random.Generator

_TOP_HZ = 7900.0
_FADE_S = 0.02


def sound(number: int, length: int, rng: Rng) -> Array:
    """Make a sound of class `number`: (length,) samples at 16 kHz, peak 1, faded out over the last 20 ms.

    Struck classes are struck again every 0.2 to 0.45 s, weaker or stronger.
    """
    name = CLASSES[number]
    wave = _struck(_STRUCK[name], length, rng) if name in _STRUCK else _LASTING[name](length, rng)
    wave = wave * np.minimum(1, np.arange(length)[::-1] / (_FADE_S * RATE))
    return np.asarray(wave / np.abs(wave).max())


def _struck(strike: Callable[[int, Rng], Array], length: int, rng: Rng) -> Array:
    one = strike(min(length, RATE // 2), rng)
    every = int(rng.uniform(0.2, 0.45) * RATE)
    wave = np.zeros(length + len(one))
    for start in range(0, length, every):
        wave[start : start + len(one)] += one * rng.uniform(0.5, 1)
    return wave[:length]


def _time(length: int) -> Array:
    return np.arange(length) / RATE


def _decay(length: int, attack_s: float, decay_s: float) -> Array:
    t = _time(length)
    return np.asarray(np.minimum(1, t / attack_s) * np.exp(-t / decay_s))


def _modes(length: int, hz: Array, decay_s: Array, gain: Array, rng: Rng) -> Array:
    """Sum of decaying sines with random phases; those above half the rate are left out."""
    phase = rng.uniform(0, 2 * np.pi, len(hz))
    good = hz < RATE / 2
    t = _time(length)[:, None]
    waves = np.sin(2 * np.pi * hz[good] * t + phase[good]) * np.exp(-t / decay_s[good])
    return np.asarray((waves * gain[good]).sum(axis=1))


def _noise(length: int, low_hz: float, high_hz: float, rng: Rng) -> Array:
    band = butter(2, (low_hz, min(high_hz, _TOP_HZ)), "bandpass", fs=RATE, output="sos")
    return np.asarray(sosfilt(band, rng.standard_normal(length)))


def _bells(length: int, rng: Rng) -> Array:
    partial = np.array([0.5, 1, 1.2, 1.5, 2, 2.66, 3.0, 4.1]) * (1 + 0.02 * rng.standard_normal(8))
    decay = rng.uniform(0.08, 0.5) / np.sqrt(partial)
    return _modes(length, rng.uniform(500, 1500) * partial, decay, rng.uniform(0.3, 1, 8), rng)


def _bottle(length: int, rng: Rng) -> Array:
    """Blown and struck glass: a Helmholtz tone, breath, a click."""
    hz, t = rng.uniform(180, 700), _time(length)
    tone = np.sin(2 * np.pi * hz * t * (1 + 0.003 * np.sin(2 * np.pi * rng.uniform(3, 7) * t)))
    tone *= _decay(length, rng.uniform(0.002, 0.03), rng.uniform(0.05, 0.3))
    breath = rng.uniform(0.05, 0.3) * _noise(length, hz, 6 * hz, rng) * _decay(length, 0.005, rng.uniform(0.03, 0.2))
    click = _modes(length, rng.uniform(2000, 4500, 1), rng.uniform(0.01, 0.05, 1), np.array([0.4]), rng)
    return np.asarray(tone + breath + click)


def _cymbals(length: int, rng: Rng) -> Array:
    ringing = _modes(length, rng.uniform(400, 7500, 40), rng.uniform(0.05, 0.5, 40), rng.uniform(0.1, 1, 40) / 6, rng)
    crash = _noise(length, 3000, _TOP_HZ, rng) * _decay(length, 0.002, rng.uniform(0.08, 0.4))
    return np.asarray(ringing + rng.uniform(0.5, 1.5) * crash)


def _metal(length: int, rng: Rng) -> Array:
    count = int(rng.integers(6, 14))
    ringing = _modes(
        length, rng.uniform(1200, 7500, count), rng.uniform(0.01, 0.12, count), rng.uniform(0.2, 1, count), rng
    )
    wave = ringing + 0.5 * _noise(length, 1000, _TOP_HZ, rng) * _decay(length, 0.0005, 0.006)
    later = int(rng.uniform(0.06, 0.25) * RATE)
    wave[later:] += rng.uniform(0.2, 0.6) * wave[:-later]
    return np.asarray(wave)


def _buzzer(length: int, rng: Rng) -> Array:
    t = _time(length)
    tone = np.sin(2 * np.pi * rng.uniform(90, 420) * t) + rng.uniform(-0.3, 0.3)
    wave = np.tanh(rng.uniform(2, 8) * tone)
    wave *= 1 + rng.uniform(0, 0.5) * np.where(np.sin(2 * np.pi * rng.uniform(5, 30) * t) >= 0, 1.0, -1.0)
    return np.asarray(sosfilt(butter(1, rng.uniform(1500, 5000), "low", fs=RATE, output="sos"), wave))


def _horn(length: int, rng: Rng) -> Array:
    """One or two notes with eleven harmonics each."""
    t, wave = _time(length), np.zeros(length)
    low, interval, roll_off = rng.uniform(220, 600), rng.uniform(1.2, 1.35), rng.uniform(0.6, 1.4)
    for hz in (low, low * interval)[: int(rng.integers(1, 3))]:
        for k in range(1, 12):
            phase = rng.uniform(0, 2 * np.pi)
            if hz * k < _TOP_HZ:
                wave += np.sin(2 * np.pi * hz * k * t + phase) * float(k) ** -roll_off
    return np.asarray(wave * np.minimum(1, t / rng.uniform(0.01, 0.06)))


def _particles(length: int, rng: Rng) -> Array:
    """A shower of short clicks, as of beans or gravel."""
    wave = 0.02 * _noise(length, 800, _TOP_HZ, rng)
    count = int(rng.uniform(50, 280) * length / RATE)
    for _ in range(count):
        size = int(rng.integers(30, 160))
        start, n = int(rng.integers(0, length - size)), np.arange(size)
        click = np.sin(2 * np.pi * rng.uniform(1500, 7000) * n / RATE) * np.exp(-5 * n / size)
        wave[start : start + size] += rng.uniform(0.1, 1) * click
    return np.asarray(wave)


def _phone(length: int, rng: Rng) -> Array:
    """An electronic ringer: two tones in alternation."""
    low, ratio = rng.uniform(900, 2200), rng.uniform(1.15, 1.35)
    high = np.sin(2 * np.pi * rng.uniform(10, 25) * _time(length)) > 0
    turns = np.cumsum(np.where(high, low * ratio, low)) / RATE
    return np.asarray(np.sin(2 * np.pi * turns) + 0.3 * np.sin(4 * np.pi * turns))


def _ring(length: int, rng: Rng) -> Array:
    """A mechanical bell, its hammer 14 to 30 times a second."""
    hz = rng.uniform(1800, 3200) * np.array([1, 1.51, 2.3])
    stroke = _modes(int(0.12 * RATE), hz, rng.uniform(0.02, 0.08, 3), np.array([1, 0.6, 0.4]), rng)
    wave = np.zeros(length + len(stroke))
    for start in np.arange(0, length, RATE / rng.uniform(14, 30)).astype(np.int64):
        wave[start : start + len(stroke)] += stroke * rng.uniform(0.7, 1)
    return wave[:length]


def _whistle(length: int, rng: Rng) -> Array:
    """With a pea: a narrow tone, a fast trill, breath."""
    t = _time(length)
    pitch = rng.uniform(2000, 4200) * (1 + rng.uniform(0.005, 0.03) * np.sin(2 * np.pi * rng.uniform(20, 60) * t))
    tone = np.sin(2 * np.pi * np.cumsum(pitch) / RATE)
    tone *= 1 + rng.uniform(0.1, 0.6) * np.sin(2 * np.pi * rng.uniform(20, 60) * t)
    return np.asarray(tone + rng.uniform(0.05, 0.3) * _noise(length, 1500, 7000, rng))


_STRUCK: dict[str, Callable[[int, Rng], Array]] = {
    "bells": _bells,
    "bottle": _bottle,
    "cymbals": _cymbals,
    "metal": _metal,
}
_LASTING: dict[str, Callable[[int, Rng], Array]] = {
    "buzzer": _buzzer,
    "horn": _horn,
    "particles": _particles,
    "phone": _phone,
    "ring": _ring,
    "whistle": _whistle,
}

CLASSES = tuple(sorted((*_STRUCK, *_LASTING)))
"""Names in alphabetical order; the label is the place."""
