"""What a run leaves behind: answers, spikes and states, in logical time whatever ran it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from avsnn.convert.ir.node import Array


@dataclass(frozen=True, kw_only=True, eq=False)
class Activity:
    """Activity of one batch. Shapes are (time, batch, *features).

    Attributes:
        outputs: name to answer (B, K): float64 in float stages, the raw int64 sum in integer stages.
        spikes: population name to bool (T, B, *shape).
        states: population name to {"u": ..., "v": ...} after reset; float stages have v alone.
        ties: population name to bool (T, B, *shape), true where |u - threshold| is within rounding (float stages).
    """

    outputs: Mapping[str, Array]
    spikes: Mapping[str, Array]
    states: Mapping[str, Mapping[str, Array]]
    ties: Mapping[str, Array] = field(default_factory=dict)
