"""The name of a level becomes the ranges that say how hard the pairs of `avdigits` are."""

from __future__ import annotations

from dataclasses import dataclass

_Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Level:
    """How hard the pairs are. Ranges are drawn from evenly; standard deviations and heights are in units of white.

    Args:
        snr_db: speech to noise.
        noise: standard deviation of image noise.
        occlusion: probability that a part of the digit is hidden.
        occlusion_px: side of what hides it, both ends included.
        contrast: factor on the digit.
        background: largest height of the smooth background.
    """

    snr_db: tuple[float, float]
    noise: tuple[float, float]
    occlusion: float
    occlusion_px: tuple[int, int]
    contrast: tuple[float, float]
    background: float


def _level(
    snr_db: _Range,
    noise: _Range,
    occlusion: float,
    occlusion_px: tuple[int, int],
    contrast: _Range,
    background: float,
) -> Level:
    """A row of the table below."""
    return Level(
        snr_db=snr_db,
        noise=noise,
        occlusion=occlusion,
        occlusion_px=occlusion_px,
        contrast=contrast,
        background=background,
    )


LEVELS = {
    "easy": _level((15, 30), (0.0, 0.1), 0.0, (6, 9), (0.8, 1.0), 0.1),
    "mid": _level((3, 20), (0.05, 0.3), 0.5, (6, 11), (0.5, 1.0), 0.25),
    "harder": _level((-3, 15), (0.05, 0.4), 0.6, (7, 14), (0.35, 1.0), 0.3),
    "hard": _level((-8, 8), (0.15, 0.55), 0.8, (8, 16), (0.3, 0.8), 0.4),
}
"""`mid` is the default: neither modality alone suffices, both together do well."""
