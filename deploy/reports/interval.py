"""Intervals of energies and how to print them without claiming more than they hold."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from avsnn.errors import InputError
from avsnn.hw_profiles.schema import Constant

DIGITS = 2  # no constant here deserves more
_UNITS = (("J", 1e12), ("mJ", 1e9), ("uJ", 1e6), ("nJ", 1e3), ("pJ", 1.0))
_TIMES = (("s", 1e9), ("ms", 1e6), ("us", 1e3), ("ns", 1.0))


@dataclass(frozen=True, kw_only=True)
class Interval:
    """``lo <= value <= hi``, pJ unless its owner says otherwise. Sums add corners, products multiply them.

    >>> Interval(value=2.0, lo=1.0, hi=4.0) + Interval(value=1.0, lo=1.0, hi=1.0)
    Interval(value=3.0, lo=2.0, hi=5.0)

    Raises:
        InputError: out of order, negative, or not finite.
    """

    value: float
    lo: float
    hi: float

    def __post_init__(self) -> None:
        if not 0 <= self.lo <= self.value <= self.hi < math.inf:
            raise InputError("not an interval", where="Interval", found=(self.lo, self.value, self.hi))

    def __add__(self, other: Interval) -> Interval:
        return Interval(value=self.value + other.value, lo=self.lo + other.lo, hi=self.hi + other.hi)

    def __mul__(self, other: Interval) -> Interval:
        return Interval(value=self.value * other.value, lo=self.lo * other.lo, hi=self.hi * other.hi)

    def scaled(self, factor: float) -> Interval:
        """All three times a factor that is not negative."""
        return Interval(value=self.value * factor, lo=self.lo * factor, hi=self.hi * factor)

    @property
    def width(self) -> float:
        """``hi - lo``."""
        return self.hi - self.lo

    @property
    def inverse(self) -> Interval | None:
        """``1 / x``, None if that has no end."""
        return None if self.lo == 0 else Interval(value=1 / self.value, lo=1 / self.hi, hi=1 / self.lo)

    def holds(self, value: float) -> bool:
        """Whether a value lies inside, ends included."""
        return self.lo <= value <= self.hi

    def to_json(self) -> dict[str, float]:
        """All digits, for programs."""
        return {"value": self.value, "lo": self.lo, "hi": self.hi}


ZERO = Interval(value=0.0, lo=0.0, hi=0.0)


def exactly(count: int | float) -> Interval:
    """A number without width."""
    return Interval(value=float(count), lo=float(count), hi=float(count))


def largest(intervals: Iterable[Interval]) -> Interval:
    """What is known of the largest of some numbers: each corner is the largest of theirs; 0 of none."""
    values, lows, highs = zip(*((each.value, each.lo, each.hi) for each in (ZERO, *intervals)), strict=True)
    return Interval(value=max(values), lo=max(lows), hi=max(highs))


def interval_of(constant: Constant) -> Interval | None:
    """The interval of a declared constant, None if it is not published."""
    if constant.value is None or constant.lo is None or constant.hi is None:
        return None
    return Interval(value=constant.value, lo=constant.lo, hi=constant.hi)


def format_energy(picojoules: float, *, rounding: str = "nearest") -> str:
    """At most two significant digits with a unit; "down" and "up" round outward for the ends of an interval.

    >>> format_energy(1.0935e9), format_energy(1.0905e9, rounding="down"), format_energy(999.0), format_energy(1e6)
    ('1.1 mJ', '1 mJ', '1 nJ', '1 uJ')
    """
    return _in_units(picojoules, _UNITS, rounding)


def unit_of(picojoules: float) -> tuple[str, float]:
    """The unit that `format_energy` writes an energy in, and its size in pJ, for numbers that share an axis."""
    return next((unit, size) for unit, size in _UNITS if picojoules >= size or size == 1)


def format_time(nanoseconds: float, *, rounding: str = "nearest") -> str:
    """The same for a time.

    >>> format_time(555_515.6), format_time(4e6)
    ('560 us', '4 ms')
    """
    return _in_units(nanoseconds, _TIMES, rounding)


def _in_units(value: float, units: tuple[tuple[str, float], ...], rounding: str) -> str:
    last = units[-1][0]
    if value == 0:
        return f"0 {last}"
    places = DIGITS - 1 - math.floor(math.log10(value))
    rounded = _round(value, places, rounding)
    for unit, size in units:
        if rounded >= size or unit == last:
            return f"{float(f'{rounded / size:.{DIGITS}g}'):g} {unit}"
    raise AssertionError("the last unit takes what is left")


def format_interval(interval: Interval) -> str:
    """``1.1 mJ (0.72 mJ to 1.6 mJ)``; the ends are rounded outward, so that what is inside stays inside."""
    lo, hi = format_energy(interval.lo, rounding="down"), format_energy(interval.hi, rounding="up")
    value = format_energy(interval.value)
    return value if lo == hi else f"{value} ({lo} to {hi})"


def _round(value: float, places: int, rounding: str) -> float:
    size = 10.0 ** abs(places)  # exact, which 10.0**-5 is not: 1e6 times it and back was no longer 1e6
    shifted = value * size if places >= 0 else value / size
    match rounding:
        case "nearest":
            whole = round(shifted)
        case "down":
            whole = math.floor(shifted)
        case "up":
            whole = math.ceil(shifted)
        case _:
            raise InputError("unknown rounding", where="format_energy", found=rounding, limit="nearest, down, up")
    return whole / size if places >= 0 else whole * size
