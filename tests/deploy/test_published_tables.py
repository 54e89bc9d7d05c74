"""Published figures follow from what was published with them, and tables that contradict themselves are caught."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from avsnn.cli.main import main
from avsnn.deploy.audit import audit
from avsnn.deploy.reports.energy import price
from avsnn.hw_profiles.profile import load_profile
from tests.deploy.test_energy import made

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "published_tables.py"
CSV = SCRIPT.with_suffix(".csv")
COMPUTED = {  # worked out by hand from the publications, before there was any code
    "NeuroBench, keywords, SNN": 29_030_400,
    "NeuroBench, keywords, M5": 1_880_256,
    "NeuroBench, DVS gestures, SNN": 891_206_400,
    "Spikformer 8-384": 7.733,
    "Spikformer 6-512": 9.416,
    "Spikformer 8-512": 11.576,
    "Spikformer 10-512": 13.898,
    "Spikformer 8-768": 21.476,
    "Spikingformer 8-384": 4.689,
    "Spikingformer 8-512": 7.463,
    "Spikingformer 8-768": 13.679,
    "PilotNet SDNN on Loihi 2": 16.70,
    "Keyword spotter on Loihi 1": 0.272,
    "TrueNorth, energy of an operation": 26.82,
    "Loihi 1, static power, 32 chips": 104.4,
    "Loihi 1, static power, 512 chips": 104.3,
    "NxTF MobileNet on Loihi 1": 495,
    "BrainScaleS-2, ECG, power": 0.6957,
    "TrueNorth, CIFAR-10": 163.65,
    "N-DNS baseline, active synapses": 19.67,
    "N-DNS baseline, power-delay product": 0.4649,
}


@pytest.fixture(scope="module")
def pairs() -> dict[str, Any]:
    return {pair.name: pair for pair in runpy.run_path(str(SCRIPT))["pairs"]()}


def test_every_figure_is_computed_again(pairs: dict[str, Any]) -> None:
    assert pairs.keys() == COMPUTED.keys()
    for name, expected in COMPUTED.items():
        assert pairs[name].computed == pytest.approx(expected, rel=1e-3), name


def test_counts_are_equal_as_integers(pairs: dict[str, Any]) -> None:
    exact = [pair for pair in pairs.values() if pair.unit == ""]
    assert len(exact) == 3
    assert all(pair.computed == pair.published for pair in exact)


def test_deviations_from_what_was_published(pairs: dict[str, Any]) -> None:
    for name, pair in pairs.items():
        if name.startswith("Spik"):
            assert abs(pair.deviation) < 1e-3, name
        elif "MobileNet" not in name:
            assert abs(pair.deviation) < 0.04, name
    assert pairs["NxTF MobileNet on Loihi 1"].deviation > 3, "static power alone is more than the printed energy"


def test_padding_would_be_noticed() -> None:
    """Counted with the border, DVS gestures have 1,107,609,600."""
    module = runpy.run_path(str(SCRIPT))
    inner = module["_connections"]([((2, 32, 32), (16, 2, 5, 5), 1, 2)])
    assert inner == 154**2 * 32 != 160**2 * 32


def test_both_negative_examples_are_flagged_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", str(CSV)]) == 1
    capsys.readouterr()
    checked, found = audit(CSV)
    wrong: dict[str, list[tuple[str, str]]] = {}
    for each in found:
        if each.kind == "error":
            wrong.setdefault(each.row.split(" ")[0], []).append((each.check, each.text))
    assert checked == 11
    twice, below = wrong.pop("10.3389/fnins.2023.1091097"), wrong.pop("FWformer")
    assert not wrong
    assert twice[0][1].endswith("the rate is applied twice")
    assert "37.4" in dict(twice)["ratio"]
    assert dict(below)["constant"] == "0.44 pJ per operation, below its own 0.9 pJ"
    assert sum(each.kind == "note" for each in found) == 8, "first layers priced in every step"


@pytest.mark.parametrize("name", ["brainscales2", "xylo", "speck", "akida"])
def test_chips_whose_operations_have_no_price_get_no_total(name: str) -> None:
    assert price(made(stored=1000, nonzero=900, updates=160), load_profile(name)).dynamic is None
