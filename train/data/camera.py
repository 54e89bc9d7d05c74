"""A still picture becomes the events of a dynamic vision sensor before which it moves.

A pixel keeps the logarithm of the intensity at its last event and fires again when it has changed by more than its
threshold (Lichtsteiner, Posch and Delbruck, IEEE J. Solid-State Circuits 43, 2008). The picture moves in three short
saccades along a triangle (Orchard et al., "Converting static image datasets to spiking neuromorphic datasets using
saccades", Frontiers in Neuroscience 9, 2015).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

EVENT = np.dtype([("x", "<i2"), ("y", "<i2"), ("t", "<i4"), ("p", "<i1")])
"""One event: column, row, time in microseconds, polarity (1 brighter, 0 darker)."""

DURATION_US = 300_000
"""Length of a recording: three saccades of 100 ms."""

REFRACTORY_US = 1_000
"""A pixel that has fired is deaf for this long; it bounds how many events a time bin can hold."""

_STEPS = 150
_AMPLITUDE_PX = 4.0
_MARGIN = 8  # pixels of empty scene around the picture: more than any movement
_THRESHOLD, _MISMATCH = 0.35, 0.08
_DARK = 0.1  # intensity of the empty scene
_JITTER_US = 800.0
_MOST = 3  # events that one pixel gives in one step of the simulation
_JUST_BELOW = 1 - 1e-9  # a pixel that returns to where it was has changed by exactly its threshold: not enough
_CORNERS = np.array([[-0.5, -0.5], [0.5, 0.0], [-0.5, 0.5], [-0.5, -0.5]])


def watch(picture: Array, rng: np.random.Generator, *, noise_hz: float) -> NDArray[np.void]:
    """Record a moving picture.

    Args:
        picture: (n, n), 0..1.
        rng: source of all draws: start, drift, thresholds (8 % mismatch), jitter, noise.
        noise_hz: events per pixel and second that nothing in the scene causes.

    Returns:
        (events,) of type `EVENT`, 0 <= t < `DURATION_US`, ordered by t, y, x, p.
    """
    side = picture.shape[0]
    scene = np.pad(picture, _MARGIN)
    threshold = _THRESHOLD * np.clip(1 + _MISMATCH * rng.standard_normal((side, side)), 0.5, 1.5)
    path = _path(rng)
    reference = np.log(_shifted(scene, path[0], side) + _DARK)
    step_us = (DURATION_US - _JITTER_US) / _STEPS  # so that the last jittered event is still inside
    pixel, time_us, polarity = [], [], []
    for k in range(1, _STEPS):
        change = np.log(_shifted(scene, path[k], side) + _DARK) - reference
        crossed = np.trunc(change / threshold * _JUST_BELOW)
        reference += crossed * threshold
        where = np.flatnonzero(crossed)
        times = np.minimum(np.abs(crossed.flat[where]), _MOST).astype(np.int64)
        pixel.append(np.repeat(where, times))
        polarity.append(np.repeat(crossed.flat[where] > 0, times))
        time_us.append((k + rng.random(len(pixel[-1]))) * step_us)
    extra = int(rng.poisson(noise_hz * side * side * DURATION_US * 1e-6))
    pixel.append(rng.integers(0, side * side, extra))
    polarity.append(rng.random(extra) < 0.5)
    time_us.append(rng.random(extra) * (DURATION_US - _JITTER_US))
    when = np.concatenate(time_us)
    when += rng.random(len(when)) * _JITTER_US
    return _events(np.concatenate(pixel), when.astype(np.int64), np.concatenate(polarity), side)


def after_refractory(group: NDArray[np.int64], time_us: NDArray[np.int64], refractory_us: int) -> NDArray[np.bool_]:
    """Which events survive when each group is deaf for `refractory_us` after an event that survived.

    Args:
        group: (n,) pixel or channel; the events of a group are neighbours.
        time_us: (n,) rising within a group.
        refractory_us: least distance of survivors of a group.

    Returns:
        (n,) of bool.
    """
    alive = np.arange(len(group))
    while True:
        close = (np.diff(group[alive]) == 0) & (np.diff(time_us[alive]) < refractory_us)
        late = np.flatnonzero(close) + 1
        # of a run of close events only the second has a predecessor that is sure to survive
        late = late[~np.isin(late - 1, late)]
        if not len(late):
            break
        alive = np.delete(alive, late)
    keep = np.zeros(len(group), np.bool_)
    keep[alive] = True
    return keep


def most_per_bin(duration_us: int, bins: int, refractory_us: int) -> int:
    """Greatest number of events of one pixel or channel in one of `bins` equal parts of a recording."""
    longest_us = -(-duration_us // bins)  # times are whole microseconds
    return (longest_us - 1) // refractory_us + 1


def bin_of(time_us: NDArray[np.integer], duration_us: int, bins: int) -> NDArray[np.int64]:
    """(n,) bin of each event: ``floor(t bins / duration)``."""
    return time_us.astype(np.int64) * bins // duration_us


def histogram(events: NDArray[np.void], bins: int, side: int) -> NDArray[np.int64]:
    """Count events per bin, polarity and pixel.

    Args:
        events: of type `EVENT`.
        bins: equal parts of the recording.
        side: pixels per side.

    Returns:
        (bins, 2, side, side), darker first.
    """
    when = bin_of(events["t"], DURATION_US, bins)
    place = ((when * 2 + events["p"]) * side + events["y"]) * side + events["x"]
    return np.bincount(place, minlength=bins * 2 * side * side).reshape(bins, 2, side, side)


def _path(rng: np.random.Generator) -> Array:
    """(steps, 2) where the picture is, (x, y) in pixels: smooth along a triangle, from a random start, with drift."""
    s = np.linspace(0, 3, _STEPS)
    leg = np.minimum(s.astype(np.int64), 2)
    part = s - leg
    part = part * part * (3 - 2 * part)
    corner = _CORNERS * _AMPLITUDE_PX
    path = corner[leg] + (corner[leg + 1] - corner[leg]) * part[:, None]
    return path + rng.uniform(-1, 1, 2) + np.cumsum(rng.standard_normal((_STEPS, 2)) * 0.03, axis=0)


def _shifted(scene: Array, offset: Array, side: int) -> Array:
    """(side, side) view of the scene moved by a fraction of pixels, bilinear."""
    limited = np.clip(offset, 1 - _MARGIN, _MARGIN - 2)  # drift is 8 standard deviations away from there
    whole = np.floor(limited).astype(np.int64)
    right, down = limited - whole
    x, y = (int(v) + _MARGIN for v in whole)
    piece = scene[y : y + side + 1, x : x + side + 1]
    rows = (1 - down) * piece[:-1] + down * piece[1:]
    return np.asarray((1 - right) * rows[:, :-1] + right * rows[:, 1:])


def _events(
    pixel: NDArray[np.int64], time_us: NDArray[np.int64], polarity: NDArray[np.bool_], side: int
) -> NDArray[np.void]:
    """Sort, apply the refractory time, and pack."""
    order = np.lexsort((polarity, time_us, pixel))
    order = order[after_refractory(pixel[order], time_us[order], REFRACTORY_US)]
    order = order[np.lexsort((pixel[order], time_us[order]))]
    out = np.empty(len(order), EVENT)
    out["x"], out["y"] = pixel[order] % side, pixel[order] // side
    out["t"], out["p"] = time_us[order], polarity[order]
    return out
