"""Counts of right answers to shares with intervals: alone (Wilson) and as the difference of two on the same samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avsnn.errors import InputError

Z95 = 1.959963984540054
"""Two-sided 95 % point of the normal distribution."""


@dataclass(frozen=True, kw_only=True)
class Proportion:
    """``correct`` out of ``count`` samples."""

    correct: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.count or self.count < 1:
            raise InputError("not a share", where="Proportion", found=f"{self.correct} of {self.count}")

    @property
    def value(self) -> float:
        """``correct / count``."""
        return self.correct / self.count

    def interval(self, z: float = Z95) -> tuple[float, float]:
        """Return Wilson's score interval (Wilson, 1927, JASA 22), 95 % by default.

        ``(p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)``

        >>> [round(edge, 4) for edge in Proportion(correct=90, count=100).interval()]
        [0.8256, 0.9448]
        """
        n, p = self.count, self.value
        centre = p + z * z / (2 * n)
        half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        scale = 1 + z * z / n
        return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)

    def __str__(self) -> str:
        low, high = self.interval()
        return f"{self.value:.4f} ({self.correct} of {self.count}; 95 % interval {low:.4f} to {high:.4f})"

    def record(self) -> dict[str, Any]:
        """Return correct, count, accuracy and 95 % interval as JSON values."""
        low, high = self.interval()
        return {
            "correct": self.correct,
            "count": self.count,
            "accuracy": round(self.value, 6),
            "interval95": [round(low, 6), round(high, 6)],
        }


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """Right answers of B minus those of A on the same ``count`` samples, which A or B alone got right."""

    only_a: int
    only_b: int
    count: int

    @staticmethod
    def of(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> PairedDifference:
        """Compare which samples A and B got right."""
        return PairedDifference(only_a=int((a & ~b).sum()), only_b=int((b & ~a).sum()), count=len(a))

    @property
    def value(self) -> float:
        """``(only_b - only_a) / count``."""
        return (self.only_b - self.only_a) / self.count

    def interval(self, z: float = Z95) -> tuple[float, float]:
        """Return the interval of a paired difference with Agresti and Min's correction (2005, Stat. Med. 24).

        Half a sample is added to each of the four cells, then ``d -+ z sqrt((b + c) - (b - c)^2 / n) / n``.

        >>> [round(edge, 4) for edge in PairedDifference(only_a=10, only_b=4, count=1000).interval()]
        [-0.0136, 0.0016]
        """
        n, b, c = self.count + 2.0, self.only_a + 0.5, self.only_b + 0.5
        half = z * math.sqrt(b + c - (b - c) ** 2 / n) / n
        return (c - b) / n - half, (c - b) / n + half

    def record(self) -> dict[str, Any]:
        """Return counts, difference and 95 % interval as JSON values."""
        low, high = self.interval()
        return {
            "only_a": self.only_a,
            "only_b": self.only_b,
            "count": self.count,
            "difference": round(self.value, 6),
            "interval95": [round(low, 6), round(high, 6)],
        }
