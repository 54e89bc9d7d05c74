"""A box-shaped room becomes the impulse responses from 72 directions to four microphones.

Image-source method (Allen and Berkley, J. Acoust. Soc. Am. 65, 1979) with windowed-sinc fractional delays.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft

from avsnn.train.data.speech import coloured_noise

Array = NDArray[np.float64]

RATE = 16_000
"""Samples per second."""

SPEED_M_S = 343.0
"""Of sound."""

AZIMUTHS = tuple(range(1, 361, 5))
"""Degrees, counter-clockwise from the x axis: 1, 6, .. 356 as in SLoClas."""

MICROPHONES = 4
RADIUS_M = 0.0457
"""Of the circle with the microphones at 45, 135, 225 and 315 degrees. SLoClas does not print its geometry."""

DISTANCE_M = 1.5
"""From the middle of the array to the source."""

TAPS = 1600
"""Length of a response: 100 ms."""

_ORDER = 6  # reflections that are followed; each later image lies more than 30 dB below the direct sound here
_HALF_WIDTH = 20  # samples of the sinc on either side
_LEAD = 24  # samples that the response starts early, so that no sinc is cut
_ELEVATION_M = 0.05  # of the source above the array
_DIRECTIONS = 12  # from which diffuse noise comes


@dataclass(frozen=True, kw_only=True)
class Room:
    """A box with the array somewhere in it.

    Args:
        size_m: length, width, height.
        rt60_s: time in which sound falls by 60 dB.
        array_m: middle of the microphones.
    """

    size_m: tuple[float, float, float]
    rt60_s: float
    array_m: tuple[float, float, float]


ROOMS = (
    Room(size_m=(7.0, 6.0, 3.0), rt60_s=0.25, array_m=(3.8, 2.8, 1.2)),
    Room(size_m=(5.0, 4.4, 2.6), rt60_s=0.20, array_m=(2.3, 2.3, 1.1)),
    Room(size_m=(9.0, 7.0, 3.4), rt60_s=0.35, array_m=(4.1, 3.9, 1.4)),
    Room(size_m=(6.0, 4.0, 2.8), rt60_s=0.30, array_m=(2.8, 1.9, 1.0)),
    Room(size_m=(8.0, 5.0, 3.2), rt60_s=0.28, array_m=(3.5, 2.7, 1.3)),
    Room(size_m=(5.6, 5.2, 2.7), rt60_s=0.33, array_m=(2.6, 2.9, 1.2)),
)
"""The first four are for training, validation and the usual test; the others are heard in `rooms=unseen` only."""

SEEN, UNSEEN = (0, 1, 2, 3), (4, 5)


@lru_cache(maxsize=len(ROOMS))
def responses(room: int) -> Array:
    """Impulse responses of room number `room`.

    Each of the sources mirrored up to six times adds ``g / d * sinc(t - d / c)``, with d its distance to the
    microphone and g = r^reflections; r follows from the reverberation time by Eyring's formula.

    Returns:
        (72, 4, 1600): azimuth, microphone, sample.
    """
    where = ROOMS[room]
    angle = np.deg2rad(AZIMUTHS)
    offset = np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)], axis=1) * DISTANCE_M
    source = np.asarray(where.array_m) + offset + [0, 0, _ELEVATION_M]
    image, reflections = _mirrored(source, np.asarray(where.size_m))
    distance = np.linalg.norm(image[:, :, None] - _microphones(where), axis=-1)  # (azimuth, image, microphone)
    gain = _reflection(where) ** reflections[None, :, None] / distance
    delay = distance * (RATE / SPEED_M_S) - (DISTANCE_M - RADIUS_M) * (RATE / SPEED_M_S) + _LEAD
    return np.stack([_sum_of_sincs(d, g) for d, g in zip(delay, gain, strict=True)])


@lru_cache(maxsize=2 * len(ROOMS))
def diffuse_noise(room: int, split: int, seed: int, seconds: int) -> Array:
    """(4, seconds * 16000) pink noise from 12 directions at once, unit variance."""
    rng = np.random.default_rng([seed, split, room, 77])
    length = seconds * RATE
    total = np.zeros((MICROPHONES, length))
    for k in rng.permutation(len(AZIMUTHS))[:_DIRECTIONS]:
        total += played(coloured_noise(length, rng, 1.0), responses(room)[k])
    return total / total.std()


def played(wave: Array, response: Array) -> Array:
    """What the microphones hear of `wave` (n,) through `response` (4, taps): (4, n)."""
    size = next_fast_len(len(wave) + response.shape[1], real=True)
    return np.asarray(irfft(rfft(wave, size) * rfft(response, size, axis=1), size, axis=1)[:, : len(wave)])


def _microphones(room: Room) -> Array:
    angle = np.deg2rad([45.0, 135.0, 225.0, 315.0])
    return np.asarray(room.array_m) + RADIUS_M * np.stack([np.cos(angle), np.sin(angle), np.zeros(4)], axis=1)


def _reflection(room: Room) -> float:
    """What remains of the pressure at a wall: Eyring, ``rt60 = 0.161 V / (-S ln(r^2))``."""
    x, y, z = room.size_m
    surface = 2 * (x * y + y * z + z * x)
    return float(np.exp(-0.161 * x * y * z / (2 * surface * room.rt60_s)))


def _mirrored(source: Array, size: Array) -> tuple[Array, NDArray[np.int64]]:
    """Places of the mirrored sources, (azimuths, images, 3), and how often each is reflected, (images,).

    Along one axis the image of index n lies at ``n L + s`` for even n and ``(n + 1) L - s`` for odd n, after abs(n)
    reflections.
    """
    index = np.arange(-_ORDER, _ORDER + 1)
    grid = np.stack(np.meshgrid(index, index, index, indexing="ij"), axis=-1).reshape(-1, 3)
    count = np.abs(grid).sum(axis=1)
    grid, count = grid[count <= _ORDER], count[count <= _ORDER]
    odd = grid % 2 == 1
    place = np.where(odd, (grid + 1) * size - source[:, None], grid * size + source[:, None])
    return place, count


def _sum_of_sincs(delay: Array, gain: Array) -> Array:
    """(4, 1600) from delays in samples and gains, both (images, 4); what arrives later than 100 ms is left out."""
    first = np.floor(delay).astype(np.int64) - _HALF_WIDTH + 1
    at = first[..., None] + np.arange(2 * _HALF_WIDTH)
    x = at - delay[..., None]
    value = gain[..., None] * np.sinc(x) * (0.5 + 0.5 * np.cos(np.pi * x / _HALF_WIDTH))
    inside = (at >= 0) & (at < TAPS)
    place = at + TAPS * np.arange(MICROPHONES)[None, :, None]
    total = np.bincount(place[inside], value[inside], minlength=MICROPHONES * TAPS)
    return np.asarray(total, np.float64).reshape(MICROPHONES, TAPS)
