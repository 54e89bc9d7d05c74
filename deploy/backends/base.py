"""What every back end hands back: the activity of a batch and the spikes of every source, counted per sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from avsnn.convert.ir.activity import Activity
from avsnn.convert.ir.node import Array

Progress = Callable[[int, int], None]
"""Called with (samples done, samples in all)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Execution(Activity):
    """An `Activity` whose spikes and states are those that were asked for, and counts that are always there.

    Attributes:
        counts: population or sequence input to messages that are not zero, summed over the window: int64 (B, *shape).
    """

    counts: Mapping[str, Array]
