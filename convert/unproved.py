"""A checkpoint, module or graph to its scheduled integers, in seconds and unproved: for questions about their size.

Its integers are those that `avsnn.convert.pipeline.convert` proves, but nobody has proved these.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.stages import check_stage
from avsnn.convert.passes.integer_formats import Target
from avsnn.convert.passes.quantise import quantise
from avsnn.convert.passes.schedule import schedule
from avsnn.convert.pipeline import CALIBRATION_SAMPLES, FOLDS
from avsnn.convert.proof_data import Inputs, first_samples
from avsnn.convert.sources import traced_from
from avsnn.hw_profiles.profile import Profile


def scheduled_integers(
    source: Any, profile: Profile, *, calibration: Inputs | None = None, weight_bits: int | None = None
) -> Graph:
    """Fold, quantise for a target and schedule.

    Args:
        source: a checkpoint, a module or a traced graph.
        profile: the target.
        calibration: training inputs that set the scales; a checkpoint brings its own.
        weight_bits: fewer than the target stores, if wanted.

    Raises:
        AvsnnError: a stage is impossible; `avsnn.convert.check.check` lists all that is.
    """
    graph, _, inputs, _ = traced_from(source, calibration, calibration, None, None)
    for _, fold in FOLDS:
        graph = fold(graph)
    folded = check_stage(replace(graph, stage="folded"))
    some = first_samples(folded, inputs, CALIBRATION_SAMPLES)
    quantised, _ = quantise(folded, target=Target.of(profile, weight_bits=weight_bits), calibration=some)
    scheduled, _ = schedule(check_stage(quantised), delay_steps_max=profile.limits.delay_steps_max)
    return check_stage(scheduled)
