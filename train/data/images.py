"""An 8x8 digit of 17 grey levels becomes a 28x28 image in MNIST framing, then a distorted, degraded one.

Everything is computed in float64: across numpy and scipy versions results then differ by units in the last place
only, which rounding to 8 bits removes. (In float32 whole pixels flip.)
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates, zoom

Array = NDArray[np.float64]

SIDE = 28
"""Pixels per side of an image."""

INK_THRESHOLDS = (0.40, 0.55, 0.68)
"""Grey value at which a stroke's edge is put; lower gives wider strokes."""

_SOURCE_SIDE, _SOURCE_MAX = 8, 16.0
_ZOOM = 2.4  # 8x8 with one pixel of margin: 10x10 -> 24x24
_EDGE_STEEPNESS = 12.0


def enlarge(digit: NDArray[np.uint8], threshold: float) -> Array:
    """Bring one scanned digit into MNIST framing: 20x20 body, centre of mass in the middle, crisp strokes.

    The original is a box average and therefore soft: cubic interpolation z, then ``1 / (1 + exp(-12 (z -
    threshold)))`` stretched to 0..1.

    Args:
        digit: (8, 8), 0..16, as in the UCI optdigits set.
        threshold: one of `INK_THRESHOLDS`.

    Returns:
        (28, 28), 0..1, ink is bright.
    """
    spline = _spline()
    soft = spline @ np.pad(digit / _SOURCE_MAX, 1) @ spline.T
    ink = 1 / (1 + np.exp(-(soft - threshold) * _EDGE_STEEPNESS))
    ink -= ink.min()
    ink /= max(float(ink.max()), 1e-6)
    image = np.zeros((SIDE, SIDE))
    margin = (SIDE - len(ink)) // 2
    image[margin:-margin, margin:-margin] = ink
    row, column = np.indices(image.shape)
    mass = image.sum() + 1e-6
    middle = (SIDE - 1) / 2
    shift = (round(middle - (row * image).sum() / mass), round(middle - (column * image).sum() / mass))
    return np.roll(image, shift, (0, 1))


@lru_cache(maxsize=1)
def _spline() -> Array:
    """(24, 10) matrix of the cubic zoom: it is linear and separable, so one matrix serves all images."""
    return np.stack([zoom(unit, _ZOOM, order=3) for unit in np.eye(_SOURCE_SIDE + 2)], axis=1)


def warp(
    image: Array,
    rng: np.random.Generator,
    *,
    rotation_deg: float = 15.0,
    shear: float = 0.45,
    scale: tuple[float, float] = (0.8, 1.15),
    shift_px: float = 2.0,
    elastic_px: float = 1.5,
) -> Array:
    """Rotate, shear, scale, shift and bend an image at random; outside is black, interpolation is linear.

    Source point of pixel g: ``A (g - c) + c + t + e(g)`` with ``A = R(rotation) [[1, shear], [0, 1]] / scale`` and a
    smooth displacement e of at most `elastic_px`.

    Args:
        image: (n, n), 0..1.
        rng: source of all draws.
        rotation_deg: largest angle either way.
        shear: largest shear either way.
        scale: smallest and largest enlargement.
        shift_px: largest shift either way.
        elastic_px: largest local displacement.

    Returns:
        (n, n), 0..1.
    """
    side = image.shape[0]
    angle = np.deg2rad(rng.uniform(-rotation_deg, rotation_deg))
    size = rng.uniform(*scale)
    slant = rng.uniform(-shear, shear)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.array([[1.0, slant], [0.0, 1.0]]) / size
    centre = (side - 1) / 2
    grid = np.indices((side, side), dtype=np.float64).reshape(2, -1)
    points = matrix @ (grid - centre) + centre + rng.uniform(-shift_px, shift_px, (2, 1))
    bend = gaussian_filter(rng.standard_normal((2, side, side)), (0, 4, 4))
    bend *= elastic_px / (np.abs(bend).max() + 1e-6)
    return np.asarray(map_coordinates(image, points + bend.reshape(2, -1), order=1)).reshape(side, side)


def degrade(
    image: Array,
    rng: np.random.Generator,
    *,
    noise: tuple[float, float],
    occlusion: float,
    occlusion_px: tuple[int, int],
    contrast: tuple[float, float],
    background: float,
) -> Array:
    """Make an image harder to read: contrast, a grey bar or block, smooth background, blur, Gaussian noise.

    Args:
        image: (n, n), 0..1.
        rng: source of all draws.
        noise: range of the noise's standard deviation.
        occlusion: probability that a bar (half of the cases full width) hides a part.
        occlusion_px: smallest and largest side of what hides it, both included.
        contrast: range of the factor on the digit.
        background: largest height of the smooth background.

    Returns:
        (n, n), limited to 0..1 as a camera would.
    """
    side = image.shape[0]
    out = occlude(image * rng.uniform(*contrast), rng, probability=occlusion, size_px=occlusion_px)
    ground = gaussian_filter(rng.standard_normal((side, side)), 5)
    out += background * rng.uniform(0, 1) * (ground - ground.min()) / (np.ptp(ground) + 1e-6)
    blur_px = rng.uniform(0, 1)
    if blur_px > 0.2:  # narrower kernels change nothing that 8 bits could hold
        out = gaussian_filter(out, blur_px)
    out = out + rng.standard_normal((side, side)) * rng.uniform(*noise)
    return np.clip(out, 0, 1)


def occlude(image: Array, rng: np.random.Generator, *, probability: float, size_px: tuple[int, int]) -> Array:
    """Hide a part behind a grey bar (half of the cases full width) or block.

    Args:
        image: (n, n), 0..1.
        rng: source of all draws.
        probability: that anything is hidden.
        size_px: smallest and largest side of what hides it, both included.
    """
    if rng.random() >= probability:
        return image
    side = image.shape[0]
    out = image.copy()
    height, width = (int(v) for v in rng.integers(size_px[0], size_px[1] + 1, 2))
    if rng.random() < 0.5:
        width = side
    top, left = rng.integers(0, side - height + 1), rng.integers(0, side - width + 1)
    out[top : top + height, left : left + width] = rng.uniform(0, 0.6)
    return out
