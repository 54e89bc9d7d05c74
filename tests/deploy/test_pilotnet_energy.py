"""The one validation of prices there is: PilotNet LIF, whose counts are golden and whose energy Intel measured."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from avsnn.hw_profiles.profile import load_profile

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
MEASURED_MJ = 1.093544


@pytest.fixture(scope="module")
def module() -> dict[str, Any]:
    return runpy.run_path(str(FOLDER / "pilotnet_energy.py"))


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "pilotnet_energy.json").read_text(encoding="utf-8"))
    return found


def test_the_priced_counts_are_the_golden_integers(result: dict[str, Any]) -> None:
    recorded = result["recorded"]
    assert (recorded["sop_stored"], recorded["sop_nonzero"], recorded["steps"]) == (72_845_070, 61_653_639, 24)
    assert (recorded["neuron_updates"], recorded["events"]) == (24 * 158_509, 1_118_521)
    record = load_profile("loihi2").measurements[0]
    assert (recorded["sop_stored"] * 16 // 24, recorded["sop_nonzero"] * 16 // 24) == (
        record.sop_stored,
        record.sop_nonzero,
    )
    assert result["measured"]["dynamic_mj"] == record.dynamic_mj == MEASURED_MJ


def test_the_recorded_prices_follow_from_the_counts(module: dict[str, Any], result: dict[str, Any]) -> None:
    again = module["evaluate"](result["recorded"], module["cores_of"](result["cores"]))
    assert again["literature_mj"] == pytest.approx(result["literature_mj"], rel=1e-12)
    for name, row in result["profiles"].items():
        assert again["profiles"][name]["dynamic_mj"] == pytest.approx(row["dynamic_mj"], rel=1e-12), name
    doubled = module["evaluate"](
        result["recorded"] | {"sop_stored": 2 * 72_845_070}, module["cores_of"](result["cores"])
    )
    assert doubled["profiles"]["loihi1"]["dynamic_mj"]["value"] > 1.5 * MEASURED_MJ


def test_each_figure_by_hand(result: dict[str, Any]) -> None:
    total, routes = result["recorded"], result["cores"]["routes"]
    stored, updates, driven, spikes = (
        total[key] * 16 / 24 for key in ("sop_stored", "neuron_updates", "driven", "spikes")
    )
    messages, local, x, y = (
        16 / 24 * n for n in (result["cores"]["messages"], routes["local"], routes["hops_x"], routes["hops_y"])
    )
    loihi1, sanafe, loihi2 = (result["profiles"][name]["dynamic_mj"] for name in ("loihi1", "loihi1-sanafe", "loihi2"))
    hops = 1.7 * local + 3 * x + 4 * y
    assert loihi1["value"] == pytest.approx((23.6 * stored + 81 * driven + 52 * (updates - driven) + hops) / 1e9)
    assert loihi1["lo"] == pytest.approx((23.6 * 41_102_426 + 47.5 * updates + hops) / 1e9)
    visits = 72.8 * driven + 51.2 * (updates - driven)
    sent = 69.3 * spikes + 111 * messages + 3 * x + 4.2 * y
    assert sanafe["value"] == pytest.approx((33.6 * stored + visits + sent) / 1e9)
    assert loihi2["value"] == pytest.approx((18 * stored + 90 * updates) / 1e9)
    assert MEASURED_MJ / result["literature_mj"] == pytest.approx(25, abs=0.1)
    assert result["measured"]["total_mj"] == pytest.approx(MEASURED_MJ + 0.232078 * 2.4455, abs=1e-4)


def test_where_the_measurement_lies(result: dict[str, Any]) -> None:
    """At the very start of Davies' interval, below SANA-FE's: the constants of Loihi 1 say more than Loihi 2 took."""
    loihi1, sanafe, loihi2 = (result["profiles"][name] for name in ("loihi1", "loihi1-sanafe", "loihi2"))
    assert loihi1["dynamic_mj"]["lo"] == pytest.approx(MEASURED_MJ, rel=1e-3)
    assert loihi1["dynamic_mj"]["value"] / MEASURED_MJ == pytest.approx(1.22, abs=0.01)
    assert sanafe["dynamic_mj"]["lo"] > 1.1 * MEASURED_MJ, "and nothing was widened to hide it"
    bound = loihi2["latency_bound_ms"]["value"]
    assert 0.5 * 2.4455 < bound < 2.4455, "a lower bound, on about as many cores as Intel's"


def test_no_constant_was_widened_to_hold_the_measurement() -> None:
    """Each end of an interval is a number of a source; whoever moves one names another source."""
    energy = load_profile("loihi1").energy_pj
    found = {key: (energy[key].lo, energy[key].value, energy[key].hi) for key in ("sop", "neuron_active")}
    assert found == {"sop": (23.6, 23.6, 35.5), "neuron_active": (47.5, 81.0, 236.0)}
    assert (energy["neuron_inactive"].lo, energy["neuron_inactive"].hi) == (47.5, 81.0)


def test_the_profile_that_was_fitted_here_says_so(module: dict[str, Any], result: dict[str, Any]) -> None:
    assert "no validation" in module["PROFILES"]["loihi2"]
    text = module["render"](result)
    assert text.count("no validation") == 1
    assert "25 times too little" in text
