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
from avsnn.deploy.reports.energy import price
from avsnn.deploy.reports.report import accuracy_table, build_report
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
    counts = count(scheduled, {**done.inputs, **done.activity.spikes}, driven=True)
    right = {"float": np.arange(40) > 3, "quantised": np.arange(40) > 5}
    made = build_report(
        meta=bundle.meta,
        record=bundle.record,
        graph=scheduled,
        activity=done.activity,
        executions=done.checks,
        accuracy=accuracy_table(right, data="made up"),
        counts=counts,
        energy=[price(counts, load_profile(name)) for name in ("loihi2", "loihi1", "cmos45")],
        capabilities=capabilities(scheduled, loihi2),
    )
    found: dict[str, Any] = json.loads(json.dumps(made))
    assert found["mapping"]["cores"]
    assert found["certificate"]
    assert found["counts"]["total"]["spikes"] > 0
    return found
