"""A waveform becomes a picture of its frequencies over time: 32x32 log-mel (8 bits), or S-CMRL's log-spectrogram."""

from __future__ import annotations

from functools import lru_cache
from math import gcd, log

import numpy as np
from numpy.typing import NDArray
from scipy.fft import rfft
from scipy.signal import resample_poly

from avsnn.errors import InputError
from avsnn.train.data.speech import hann

Array = NDArray[np.float64]

MELS = 32
"""Bands of `log_mel`; band 0 is the lowest."""

WINDOW_S, HOP_S = 0.048, 0.030
"""Window and hop of `log_mel`: 32 frames in one second."""

LOWEST_HZ = 60.0
"""Lower edge of the first mel band; the upper edge of the last one is half the rate."""

POWER_FLOOR = 1e-4
"""Added to each band's power before the logarithm."""

SPECTROGRAM_RATE = 22_050
"""Samples per second that `s_cmrl_spectrogram` expects."""

_FFT, _HOP, _OFFSET = 512, 353, 1e-7


def log_mel(wave: NDArray[np.floating], rate: int) -> Array:
    """Log power in 32 mel bands: ``ln(F |rfft(w x)|^2 + 1e-4)``, Hann window w of 48 ms, hop 30 ms, no padding.

    The filters F are triangles on the mel scale ``2595 log10(1 + f / 700)`` from 60 Hz to rate / 2, each summing
    to one.

    Args:
        wave: (n,), -1..1, at least one window long.
        rate: samples per second.

    Returns:
        (32, frames), (32, 32) for one second. Always within `log_mel_range(rate)`.

    Raises:
        InputError: the wave is too short or not one-dimensional, or the rate is too low for 32 bands.
    """
    window = round(WINDOW_S * rate)
    frames = _frames(np.asarray(wave, np.float64), window, round(HOP_S * rate), "avsnn.train.data.features.log_mel")
    power = np.abs(rfft(frames * hann(window), axis=1)) ** 2
    return np.log(mel_filters(rate, window) @ power.T + POWER_FLOOR)


def log_mel_range(rate: int) -> tuple[float, float]:
    """Least and greatest value that `log_mel` can have for samples within -1..1.

    The floor is ln 1e-4 (silence). No bin can exceed the sum of the window, half its length, and the filters
    average, so the top is ``ln((window / 2)^2 + 1e-4)``.
    """
    return log(POWER_FLOOR), log((round(WINDOW_S * rate) / 2) ** 2 + POWER_FLOOR)


def quantise_log_mel(mel: Array, rate: int) -> NDArray[np.uint8]:
    """Round to 256 equal steps over `log_mel_range`: 0 is silence, 255 the loudest possible.

    Raises:
        InputError: a value lies outside the range (nothing is clipped).
    """
    low, high = log_mel_range(rate)
    code = np.rint((mel - low) * (255 / (high - low)))
    if code.size and not (code.min() >= 0 and code.max() <= 255):
        raise InputError(
            "log-mel value outside the range of 8 bits",
            where="avsnn.train.data.features.quantise_log_mel",
            found=f"{mel.min():.3f}..{mel.max():.3f}",
            limit=f"{low:.3f}..{high:.3f}",
            remedy="give samples within -1..1",
        )
    return code.astype(np.uint8)


@lru_cache(maxsize=8)
def mel_filters(rate: int, window: int) -> Array:
    """(32, window // 2 + 1) triangles of unit sum, see `log_mel`.

    Raises:
        InputError: the rate is so low that a band holds no frequency bin.
    """
    top = 2595 * np.log10(1 + rate / 2 / 700)
    bottom = 2595 * np.log10(1 + LOWEST_HZ / 700)
    edge = 700 * (10 ** (np.linspace(bottom, top, MELS + 2) / 2595) - 1)
    frequency = np.arange(window // 2 + 1) * (rate / window)
    low, middle, high = edge[:-2, None], edge[1:-1, None], edge[2:, None]
    rise, fall = (frequency - low) / (middle - low), (high - frequency) / (high - middle)
    triangle = np.maximum(0, np.minimum(rise, fall))
    total = triangle.sum(1, keepdims=True)
    if not (total > 0).all():
        raise InputError(
            f"rate too low for {MELS} mel bands", where="avsnn.train.data.features.log_mel", found=f"{rate} Hz"
        )
    return np.asarray(triangle / total)


def resample(wave: NDArray[np.floating], rate: int, new_rate: int) -> Array:
    """Change the sampling rate by a rational factor (polyphase filter)."""
    common = gcd(rate, new_rate)
    return np.asarray(resample_poly(np.asarray(wave, np.float64), new_rate // common, rate // common))


def s_cmrl_spectrogram(wave: NDArray[np.floating]) -> NDArray[np.float32]:
    """Log-spectrogram as S-CMRL uses it: ``ln(|STFT| + 1e-7)``, 512-point Hann, hop 353, centred, zero padded.

    Source: He et al., "Enhancing audio-visual spiking neural networks through semantic-alignment and cross-modal
    residual learning", 2025, and its published loaders.

    Args:
        wave: (n,) at 22,050 Hz (see `resample`), -1..1.

    Returns:
        (257, 1 + n // 353): (257, 63) for one second, (257, 188) for three.

    Raises:
        InputError: the wave is empty or not one-dimensional.
    """
    where = "avsnn.train.data.features.s_cmrl_spectrogram"
    samples = np.asarray(wave, np.float64)
    if samples.size == 0:
        raise InputError("the wave is empty", where=where, found=f"shape {samples.shape}")
    if samples.ndim == 1:
        samples = np.pad(samples, _FFT // 2)
    spectrum = rfft(_frames(samples, _FFT, _HOP, where) * hann(_FFT), axis=1)
    return np.log(np.abs(spectrum).T + _OFFSET).astype(np.float32)


def _frames(wave: Array, window: int, hop: int, where: str) -> Array:
    """(1 + (n - window) // hop, window) view of overlapping pieces."""
    if wave.ndim != 1 or len(wave) < window:
        raise InputError(
            "a wave must have one dimension and at least one window",
            where=where,
            found=f"shape {wave.shape}",
            limit=f"({window},) or longer",
        )
    return np.lib.stride_tricks.sliding_window_view(wave, window)[::hop]
