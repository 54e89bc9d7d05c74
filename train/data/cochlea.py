"""A recording becomes the events of a silicon cochlea with 64 channels: which channel fired when.

Pre-emphasis, 64 band-passes, half-wave rectification, compression, and one integrate-and-fire unit per channel with
a refractory time, after the dynamic audio sensor (Anumula et al., "Feature representations for neuromorphic audio
spike streams", Frontiers in Neuroscience 12, 2018, who recorded N-TIDIGITS with it). One ear.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, sosfilt

from avsnn.train.data.camera import EVENT, after_refractory, bin_of

Array = NDArray[np.float64]

CHANNELS = 64
"""Channel 0 hears the highest frequency, as on the chip."""

REFRACTORY_US = 2_000
"""A channel that has fired is deaf for this long; it bounds how many events a time bin can hold."""

_LOWEST_HZ, _HIGHEST_HZ = 100.0, 7000.0
_PRE_EMPHASIS = 0.85  # without it the high channels stay silent
_LEVEL = 0.1  # root mean square after gain control
_COMPRESSION = 0.6
_RATE_HZ, _OFFSET_HZ = 1560.0, 18.7
_MISMATCH = 0.25
_SPONTANEOUS_HZ = 1.0


def listen(wave: NDArray[np.floating], rate: int, rng: np.random.Generator) -> NDArray[np.void]:
    """Record a wave.

    Channel k fires each time the integral of ``max(0, 1560 g_k max(0, y_k)^0.6 - 18.7)`` events per second
    reaches a whole number; y_k is the output of its band-pass, g_k its gain, ``exp`` of a normal draw with standard
    deviation 0.25.

    Args:
        wave: (n,), not silent; brought to a root mean square of 0.1.
        rate: samples per second, above 14 kHz.
        rng: source of all draws: gains and spontaneous events.

    Returns:
        (events,) of type `camera.EVENT` with x the channel, y 0, p 1; 0 <= t < n / rate; ordered by t, then x.
    """
    x = np.asarray(wave, np.float64)
    x = np.append(x[0], x[1:] - _PRE_EMPHASIS * x[:-1])
    x *= _LEVEL / (np.sqrt(np.mean(x**2)) + 1e-9)
    gain = np.exp(rng.standard_normal(CHANNELS) * _MISMATCH)
    length_us = round(len(x) * 1_000_000 / rate)
    channel, time_us = [], []
    for k, band in enumerate(_bands(rate)):
        heard = sosfilt(band, x)
        loud = np.flatnonzero(heard > (_OFFSET_HZ / (_RATE_HZ * gain[k])) ** (1 / _COMPRESSION))
        drive = heard[loud] ** _COMPRESSION * (_RATE_HZ * gain[k]) - _OFFSET_HZ
        fired = loud[np.diff(np.floor(np.cumsum(drive) / rate), prepend=0) > 0]
        extra = rng.integers(0, length_us, rng.poisson(_SPONTANEOUS_HZ * len(x) / rate))
        when = np.sort(np.concatenate([fired * 1_000_000 // rate, extra]))
        channel.append(np.full(len(when), k))
        time_us.append(when)
    return _events(np.concatenate(channel), np.concatenate(time_us))


def histogram(events: NDArray[np.void], bins: int, duration_us: int) -> NDArray[np.int64]:
    """Count events per bin and channel: (bins, 64)."""
    place = bin_of(events["t"], duration_us, bins) * CHANNELS + events["x"]
    return np.bincount(place, minlength=bins * CHANNELS).reshape(bins, CHANNELS)


def _events(channel: NDArray[np.int64], time_us: NDArray[np.int64]) -> NDArray[np.void]:
    keep = after_refractory(channel, time_us, REFRACTORY_US)
    channel, time_us = channel[keep], time_us[keep]
    order = np.lexsort((channel, time_us))
    out = np.zeros(len(order), EVENT)
    out["x"], out["t"], out["p"] = channel[order], time_us[order], 1
    return out


@lru_cache(maxsize=4)
def _bands(rate: int) -> tuple[Array, ...]:
    """First-order Butterworth band-passes, a third of an octave wide, 7 kHz to 100 Hz in equal ratios."""
    middle = np.geomspace(_HIGHEST_HZ, _LOWEST_HZ, CHANNELS)
    edges = [(0.89 * f, min(1.12 * f, 0.495 * rate)) for f in middle]
    return tuple(butter(1, edge, "bandpass", fs=rate, output="sos") for edge in edges)
