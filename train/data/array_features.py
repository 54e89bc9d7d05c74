"""What four microphones recorded becomes, per 64 ms, where the sound comes from (GCC-PHAT) and what it is (log-mel).

Source of both features: SpikSLC-Net and SLoClas (Qian et al., O-COCOSDA 2021): 51 lags for each of 6 pairs, 51 bands.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations
from math import log

import numpy as np
from numpy.typing import NDArray
from scipy.fft import rfft

from avsnn.errors import InputError
from avsnn.train.data.rooms import MICROPHONES, RATE
from avsnn.train.data.speech import hann

Array = NDArray[np.float64]

FRAME = 1024
"""Samples per frame: 64 ms, not overlapping."""

PAIRS = tuple(combinations(range(MICROPHONES), 2))
LAGS = 51
INTERPOLATION = 4
"""Lags per sample: 51 lags reach 6.25 samples (13 cm) either way; in whole samples they would reach 54 cm."""

BANDS = 51
LOWEST_HZ, HIGHEST_HZ = 250.0, 8000.0

GCC_STEP = 1 / 128
"""GCC-PHAT is rounded to this; it lies within -1..1."""

MEL_STEP = 1 / 256
"""Log-mel, brought to 0..1, is rounded to this."""

POWER_FLOOR = 1e-4


def features(recording: NDArray[np.floating]) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """Both features of a recording as integers.

    Args:
        recording: (4, n), -1..1, at 16 kHz, at least one frame.

    Returns:
        ``gcc`` (F, 306) in units of `GCC_STEP` and ``mel`` (F, 204) in units of `MEL_STEP`, F = n // 1024.

    Raises:
        InputError: another number of microphones, or too short.
    """
    if recording.ndim != 2 or recording.shape[0] != MICROPHONES or recording.shape[1] < FRAME:
        raise InputError(
            "a recording must have four microphones and at least one frame",
            where="avsnn.train.data.array_features",
            found=f"shape {recording.shape}",
            limit=f"({MICROPHONES}, {FRAME} or more)",
        )
    count = recording.shape[1] // FRAME
    pieces = np.asarray(recording, np.float64)[:, : count * FRAME].reshape(MICROPHONES, count, FRAME)
    spectrum = rfft(pieces * hann(FRAME), axis=2).transpose(1, 0, 2)
    low, high = mel_range()
    mel = (log_mel(spectrum) - low) / (high - low)
    return (
        np.rint(gcc_phat(spectrum) / GCC_STEP).astype(np.int16).reshape(count, -1),
        np.rint(mel / MEL_STEP).astype(np.int16).reshape(count, -1),
    )


def gcc_phat(spectrum: NDArray[np.complex128]) -> Array:
    """Cross-correlation of phases: ``R = X_i conj(X_j) / |X_i X_j|``, back to time at a quarter of a sample.

    Args:
        spectrum: (F, 4, 513) of frames of 1024.

    Returns:
        (F, 6, 51) within -1..1; index 25 is lag 0, index 25 + k lag k / 4 samples: by so much microphone i hears
        later than j. Knapp and Carter, IEEE Trans. ASSP 24, 1976.
    """
    first, second = (list(side) for side in zip(*PAIRS, strict=True))
    cross = spectrum[:, first] * np.conj(spectrum[:, second])
    phase = cross / np.maximum(np.abs(cross), np.finfo(np.float64).tiny)  # a bin without sound stays 0
    cosine, sine = _delays()
    return np.asarray(phase.real @ cosine - phase.imag @ sine)


def log_mel(spectrum: NDArray[np.complex128]) -> Array:
    """Log power in 51 mel bands of each microphone: ``ln(F |X|^2 + 1e-4)``, filters F of unit sum.

    Args:
        spectrum: (F, 4, 513).

    Returns:
        (F, 4, 51), within `mel_range`.
    """
    return np.log((np.abs(spectrum) ** 2) @ _filters().T + POWER_FLOOR)


def mel_range() -> tuple[float, float]:
    """Least and greatest value of `log_mel` for samples within -1..1: silence, and half a window squared."""
    return log(POWER_FLOOR), log((FRAME / 2) ** 2 + POWER_FLOOR)


@lru_cache(maxsize=1)
def _delays() -> tuple[Array, Array]:
    """(513, 51) cosines and sines of the inverse transform at fractional lags; inner bins count twice."""
    bins = np.arange(FRAME // 2 + 1)
    lag = (np.arange(LAGS) - LAGS // 2) / INTERPOLATION
    weight = np.where((bins == 0) | (bins == FRAME // 2), 1.0, 2.0)[:, None] / FRAME
    angle = 2 * np.pi * bins[:, None] * lag / FRAME
    return weight * np.cos(angle), weight * np.sin(angle)


@lru_cache(maxsize=1)
def _filters() -> Array:
    """(51, 513) triangles on the mel scale, each summing to one."""
    bottom, top = (2595 * np.log10(1 + hz / 700) for hz in (LOWEST_HZ, HIGHEST_HZ))
    edge = 700 * (10 ** (np.linspace(bottom, top, BANDS + 2) / 2595) - 1)
    frequency = np.arange(FRAME // 2 + 1) * (RATE / FRAME)
    low, middle, high = edge[:-2, None], edge[1:-1, None], edge[2:, None]
    triangle = np.maximum(0, np.minimum((frequency - low) / (middle - low), (high - frequency) / (high - middle)))
    return np.asarray(triangle / triangle.sum(axis=1, keepdims=True))
