"""Ordinary processors beside the spikes: two numbers at least, each with its power, and no way to mix them in."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.fixed_interpreter import wall_clock
from avsnn.deploy.reports.comparators import comparators_table, compared, compared_json
from avsnn.deploy.reports.counts import count
from avsnn.deploy.reports.energy import price
from avsnn.deploy.reports.literature import literature_json, rate_flops
from avsnn.errors import ProfileError
from avsnn.hw_profiles.profile import load_profile, profile_names
from avsnn.hw_profiles.schema import MAC_SCOPES
from tests.convert.test_map_cores import events, layers

DEVICES = profile_names("comparator")
MACS = {"dense": 4_000_000, "twin": 1_000_000}


def shown(report: dict[str, Any]) -> str:
    part = comparators_table(report)
    assert part is not None
    out = io.StringIO()
    Console(file=out, width=140).print(part)
    return out.getvalue()


@pytest.mark.parametrize("name", DEVICES)
def test_every_device_has_both_prices_and_says_which_power_is_in_them(name: str) -> None:
    profile = load_profile(name)
    assert set(profile.mac_pj) == set(MAC_SCOPES)
    rows = compared(profile, MACS)
    assert [(row.load, row.price) for row in rows] == [(load, key) for load in MACS for key in MAC_SCOPES]
    for row in rows:
        each = profile.mac_pj[row.price]
        assert row.energy is not None
        assert each.value is not None
        assert row.energy.value == pytest.approx(each.value * MACS[row.load])
        assert row.power == MAC_SCOPES[row.price]
    peak, idle, total = (profile.mac_pj[key] for key in ("peak", "batch1", "batch1_total"))
    assert idle.lo == total.lo == peak.lo, "a large network comes near the peak"
    assert idle.value is not None
    assert total.value is not None
    assert total.value > idle.value > 1000 * (peak.value or 0)


def test_prices_of_one_sample_at_a_time_are_those_of_the_published_table() -> None:
    """Power over inferences per second and 172,800 multiply-accumulates (390 x 256 + 256 x 256 + 256 x 29)."""
    macs = 390 * 256 + 256 * 256 + 256 * 29
    table = {
        "cpu-xeon": (11.47, 28.48, 1813.63),
        "gpu-a100": (22.86, 37.83, 770.39),
        "jetson-orin-nano": (2.34, 4.98, 419.0),
    }
    assert set(table) == set(DEVICES)
    for name, (above_idle, running, rate) in table.items():
        found = load_profile(name).mac_pj
        assert found["batch1"].value == pytest.approx(above_idle / rate / macs * 1e12, rel=3e-3)
        assert found["batch1_total"].value == pytest.approx(running / rate / macs * 1e12, rel=3e-3)


def test_the_table_shows_all_of_them_and_old_reports_none() -> None:
    report = {"comparators": compared_json([load_profile(name) for name in DEVICES], MACS)}
    text = shown(json.loads(json.dumps(report)))
    row = next(line for line in text.splitlines() if line.startswith("gpu-a100"))
    assert re.split(r"\s{2,}", row.strip()) == ["gpu-a100", "5.2 uJ", "690 mJ", "1.1 J", "1.3 uJ", "170 mJ", "280 mJ"]
    assert "dense: 4,000,000 products, all steps; quantised ANN twin: 1,000,000, once" in text
    assert "nobody has trained the twin" in text
    assert comparators_table({}) is None
    assert compared_json([], MACS) == {}


def test_what_compares_prices_no_spikes_and_what_prices_spikes_compares_nothing() -> None:
    with pytest.raises(ProfileError, match="prices no products of ordinary networks"):
        compared(load_profile("loihi2"), MACS)
    graph = layers()
    x = events(graph)
    counts = count(graph, {**x, **wall_clock(graph, x).spikes})
    report = price(counts, load_profile("gpu-a100"))
    assert report.dynamic is None
    assert not report.terms
    assert not report.static
    with pytest.raises(ProfileError, match="no compilation target"):
        load_profile("gpu-a100").capability("conv2d")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[mac_pj.batch1]", "[mac_pj.batch2]", "found 'batch1_total, batch2, peak'"),
        ("[mac_pj.batch1]", "[mac_pj.batch1_total]", "not a TOML file|twice"),
        ("[mac_pj.peak]", "[energy_pj.mac]", "prices products of ordinary networks and nothing else"),
        ('uses = ["comparator"]', 'uses = ["pricing"]', "limits: missing|goes together with use 'comparator'"),
        ("lo = 1.3\nhi = 2.6", "lo = 1.4\nhi = 2.6", "not inside its interval"),
        ('source = "a100"', 'source = "h100"', r"no \[\[source"),
    ],
)
def test_a_comparator_is_read_as_strictly_as_a_chip(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = Path(load_profile("gpu-a100").path).read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ProfileError, match=f"(?s){message}"):
        load_profile(path)


def test_one_price_alone_is_refused(tmp_path: Path) -> None:
    text = Path(load_profile("gpu-a100").path).read_text(encoding="utf-8")
    alone = re.sub(r"\[mac_pj\.batch1.*?(?=\[\[source)", "", text, flags=re.S)
    path = tmp_path / "mine.toml"
    path.write_text(re.sub(r'\[\[source\]\]\nid = "blouw.*', "", alone, flags=re.S), encoding="utf-8")
    with pytest.raises(ProfileError, match="peak and batch1: one alone says nothing, found 'peak'"):
        load_profile(path)


def test_rate_times_flops_ignores_borders_and_strides() -> None:
    graph = layers()
    x = events(graph)
    counts = count(graph, {**x, **wall_clock(graph, x).spikes})
    by_layer = {row.name: row for row in counts.synapses}
    events_of = {name: by_layer[name].events for name in ("a.w", "b.w", "c.w")}
    # out positions x kernel volume x out channels, over neurons of the source
    expected = (
        events_of["a.w"] * 42 * 36 * 6 / 168 + events_of["b.w"] * 9 * 36 * 8 / 252 + events_of["c.w"] * 72 * 5 / 72
    )
    assert float(rate_flops(counts, graph)) == pytest.approx(expected)
    assert rate_flops(counts, graph) > counts.sop_stored, "padding"
    one = graph["c.w"]
    assert isinstance(one, fixed.FixedLinear)
    assert by_layer["c.w"].sop_stored == events_of["c.w"] * 5, "a linear layer has no border"
    found = literature_json(counts, graph)
    assert found["rate_flops_pj_per_sample"] == pytest.approx(0.9 * expected / counts.samples)
    assert found["pj_per_sample"] == pytest.approx(0.9 * counts.sop_stored / counts.samples)
    assert np.isfinite(found["rate_flops_per_sample"])
