"""A report as a conversion makes it, for all tests of what reports become."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from avsnn.convert import pipeline
from avsnn.convert.ir.fixed_interpreter import to_integers
from avsnn.deploy.capability import capabilities
from avsnn.deploy.executions import execute_all
from avsnn.deploy.reports.counts import count
from avsnn.deploy.reports.prices import prices
from avsnn.deploy.reports.report import accuracy_table, build_report
from avsnn.deploy.reports.tally import MemoryWords
from avsnn.hw_profiles.profile import load_profile
from tests.strategies import inputs_for, spiking_graph


@pytest.fixture(scope="session")
def report() -> dict[str, Any]:
    """Of a small network, with accuracy, cores, a certificate and three profiles."""
    graph = replace(spiking_graph(1, depth=3), stage="traced")
    x = inputs_for(graph, 0)
    bundle = pipeline.convert(graph, calibration=x, target="loihi2")
    scheduled, loihi2 = bundle.graph("scheduled"), load_profile("loihi2")
    done = execute_all(scheduled, to_integers(scheduled, x), data="random", lava=None)
    seen = {**done.inputs, **done.activity.spikes}
    counts = count(scheduled, seen, driven=True)
    found = prices(
        scheduled,
        counts,
        seen,
        [load_profile(name) for name in ("loihi2", "loihi1", "cmos45", "akida")],
        words=MemoryWords(weight_bits=8, state_bits=24),
        mapped=("loihi2", bundle.graph("mapped")),
    )
    right = {"float": np.arange(40) > 3, "quantised": np.arange(40) > 5}
    made = build_report(
        meta=bundle.meta,
        record=bundle.record,
        graph=scheduled,
        activity=done.activity,
        executions=done.checks,
        accuracy=accuracy_table(right, data="made up"),
        counts=counts,
        energy=found.energy,
        cores=found.cores,
        capabilities=capabilities(scheduled, loihi2),
    )
    plain: dict[str, Any] = json.loads(json.dumps(made))
    assert plain["mapping"]["cores"]
    assert plain["certificate"]
    assert plain["counts"]["total"]["spikes"] > 0
    return plain
