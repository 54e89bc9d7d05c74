"""The recorded comparison with SANA-FE holds, and our side of it is still what it was. `make sanafe` makes it again."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from avsnn.hw_profiles.profile import load_profile

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    module = importlib.import_module("sanafe")
    assert str(module.__file__).startswith(str(FOLDER)), "the other program is never imported here"
    return module


@pytest.fixture(scope="module")
def rows() -> dict[str, dict[str, Any]]:
    return {row["network"]: row for row in json.loads((FOLDER / "sanafe.json").read_text(encoding="utf-8"))}


def test_energies_are_within_two_percent_and_the_rest_is_explained(
    script: ModuleType, rows: dict[str, dict[str, Any]]
) -> None:
    assert rows.keys() == script.networks().keys()
    for row in rows.values():
        assert script.holds(row), row
        assert row["spikes"] > 1000
        assert row["messages"]["ours"] == row["messages"]["theirs"] > 0
        assert sum(row["explained_pj"].values()) == pytest.approx(row["sanafe_pj"] - row["ours_pj"], abs=0.01)
    assert rows["skip"]["relays"] > 0
    broken = rows["skip"]
    for key, value in (
        ("same_spikes", False),
        ("noticed_a_changed_weight", False),
        ("difference", 0.03),
        ("left_pj", 1),
    ):
        assert not script.holds(broken | {key: value})


@pytest.mark.parametrize("name", ["linear", "skip"])
def test_our_side_is_still_what_was_compared(script: ModuleType, rows: dict[str, dict[str, Any]], name: str) -> None:
    mine = script.ours(script.networks()[name])
    assert mine.dynamic_pj == pytest.approx(rows[name]["ours_pj"], abs=0.01)
    assert mine.counts.spikes == rows[name]["spikes"]


def test_the_files_hold_every_connection_neuron_and_constant(script: ModuleType) -> None:
    mine = script.ours(script.networks()["skip"])
    text = script.network(mine.mapped, mine.x, mine.profile.mesh)
    assert sum("->" in line for line in text) == sum(row.connections for row in mine.counts.synapses)
    assert sum("soma: lif" in line for line in text) == mine.counts.neurons
    chip = json.loads(script.architecture(mine.profile, 128))["architecture"]
    core = chip["tile"][1]["core"][0]
    energy = load_profile("loihi1-sanafe").energy_pj
    assert core["synapse"][0]["attributes"]["energy_process_spike"] == pytest.approx(1e-12 * (energy["sop"].value or 0))
    soma = core["soma"][0]["attributes"]
    found = [1e12 * soma[f"energy_{key}"] for key in ("access_neuron", "update_neuron", "spike_out")]
    assert found == pytest.approx([51.2, 21.6, 69.3])
