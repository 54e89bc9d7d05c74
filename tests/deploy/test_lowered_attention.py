"""A network with attention, from its module to Lava, on stock processes alone; figures of it in record and report."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from avsnn.cli.main import main
from avsnn.convert import equivalence as eq
from avsnn.convert import pipeline
from avsnn.convert.bundle import Bundle
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.fixed_interpreter import to_integers, wall_clock
from avsnn.convert.ir.node import Array
from avsnn.deploy import lava_env
from avsnn.deploy.backends.cpu import simulate
from avsnn.deploy.backends.lava import LavaWorker
from avsnn.deploy.capability import capabilities
from avsnn.deploy.exports.lava import lower, write_lava
from avsnn.deploy.reports.counts import count
from avsnn.deploy.reports.render import render_report
from avsnn.deploy.reports.report import build_report, warnings
from avsnn.errors import CapabilityError, InputError
from avsnn.hw_profiles.profile import load_profile
from tests.networks import Case, build, inputs

FOUND = lava_env.doctor()
SMALL: Case = ("spikslc", "tiny", {"frames": 3, "dim": 8, "timesteps": 3})
NEURONS = 4 * 3**2 * 2**2  # heads N^2 d^2 of every product
PROOF = "attention in stock neurons = quantised"


def converted(case: Case, **options: Any) -> tuple[Bundle, Mapping[str, Array]]:
    module = build(case)
    x, spec = inputs(module, batch=3)
    return pipeline.convert(module, x, input_spec=spec, proof_samples=3, **options), x


@pytest.fixture(scope="module")
def stock() -> tuple[Bundle, Mapping[str, Array]]:
    return converted(SMALL, attention="stock")


def test_all_attention_of_spikslc_is_stock(stock: tuple[Bundle, Mapping[str, Array]]) -> None:
    bundle, x = stock
    products = bundle.graph("quantised").of(fixed.Product)
    assert len(products) == 4
    rows = bundle.record["attention"]
    assert [(row["product"], row["runs_on"], row["neurons"]) for row in rows] == [
        (product.name, "stock", NEURONS) for product in products
    ]
    scheduled = bundle.graph("scheduled")
    added = [node for node in scheduled.of(fixed.FixedLIF) if node.role == "coincidence"]
    assert [int(np.prod(node.shape)) for node in added] == [NEURONS] * 4
    tables, _ = lower(scheduled)
    assert tables["products"] == []
    assert {row["reset"] for row in tables["populations"]} == {"hard"}  # a stock LIF, too
    kinds = {need.kind for need in capabilities(scheduled, load_profile("loihi2"))}
    assert not kinds & {"attention", "attention_window", "product", "unit_length"}
    checks = [check for check in bundle.record["checks"] if check["name"] == PROOF]
    assert {check["data"] for check in checks} == {"calibration", "generated"}
    assert any("every coincidence: one spike may be missing" in check["controls_noticed"] for check in checks)
    assert all(check["mismatches"] == 0 and check["compared"] for check in checks)
    integers = to_integers(scheduled, x)
    expected = wall_clock(scheduled, integers)
    assert all(expected.spikes[node.name].any() for node in added)
    eq.compare("CPU = reference", "data", expected, simulate(scheduled, integers, record="all"), exact=True)


def test_the_report_says_what_became_of_attention(stock: tuple[Bundle, Mapping[str, Array]]) -> None:
    bundle, x = stock
    scheduled = bundle.graph("scheduled")
    integers = to_integers(scheduled, x)
    activity = wall_clock(scheduled, integers)
    counts = count(scheduled, {**integers, **activity.spikes})
    assert sum(row.neurons for row in counts.only("coincidence").populations) == 4 * NEURONS
    meeting = {row.name: row for row in counts.synapses if ".attend" in row.name}
    assert len(meeting) == 4 * (3 + 1)
    assert all(row.connections == NEURONS and row.sop_stored == row.sop_nonzero for row in meeting.values())
    abilities = capabilities(scheduled, load_profile("loihi2"))
    assert not [note for note in warnings(counts, abilities) if "attend" in note]
    parts: dict[str, Any] = {"accuracy": {}, "energy": [], "executions": []}
    parts |= {"meta": bundle.meta, "record": bundle.record, "counts": counts, "capabilities": abilities}
    report = build_report(graph=scheduled, activity=activity, **parts)
    assert report["attention"] == bundle.record["attention"]
    own = {"product": "fusion.attend", "kind": "FixedAttention", "runs_on": "own", "neurons": None}
    report["attention"] = [*report["attention"], own | {"reason": "needs the whole window"}]
    shown = io.StringIO()
    render_report(report, {}, Console(file=shown, width=200))
    assert f"products in stock neurons: 4, of {4 * NEURONS} coincidences" in shown.getvalue()
    assert "fusion.attend runs on its own process: needs the whole window" in shown.getvalue()


def test_limits_and_choices(stock: tuple[Bundle, Mapping[str, Array]]) -> None:
    done, x = stock

    def again(**options: Any) -> Bundle:
        return pipeline.convert(done, calibration=x, start="quantised", proof_samples=2, **options)

    with pytest.raises(InputError, match=r"^attention: unknown choice, found all, limit own, stock, small"):
        again(attention="all")
    with pytest.raises(
        CapabilityError, match=r"attend.*: attention is too large for stock neurons, found 144.*--attention small"
    ):
        again(attention="stock", attention_neurons=NEURONS - 1)
    bundle = again(attention="small", attention_neurons=NEURONS - 1)
    assert {row["runs_on"] for row in bundle.record["attention"]} == {"own"}
    assert len(bundle.graph("scheduled").of(fixed.Product)) == 4
    assert again().record["attention"] == []


def test_the_command_passes_the_choice_on(
    stock: tuple[Bundle, Mapping[str, Array]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done, x = stock
    done.save(tmp_path / "first")
    np.savez(tmp_path / "train.npz", **x)  # type: ignore[arg-type,unused-ignore]
    command = ["convert", str(tmp_path / "first"), "--from", "quantised", "--backend", "cpu", "--samples", "2"]
    command += ["--calibration", str(tmp_path / "train.npz"), "--attention", "stock"]
    assert main([*command, "--out", str(tmp_path / "again"), "--attention-neurons", str(NEURONS)]) == 0
    assert f"products in stock neurons: 4, of {4 * NEURONS} coincidences" in capsys.readouterr().out
    assert not Bundle.load(tmp_path / "again").graph("scheduled").of(fixed.Product)


@pytest.fixture(scope="module")
def worker() -> Iterator[LavaWorker]:
    with LavaWorker(timeout_s=120) as running:
        yield running


@pytest.mark.lava
@pytest.mark.skipif(bool(FOUND.missing), reason=f"no Lava interpreter: {FOUND.missing}")
def test_lava_runs_it_on_stock_processes(
    worker: LavaWorker, stock: tuple[Bundle, Mapping[str, Array]], tmp_path: Path
) -> None:
    bundle, x = stock
    scheduled = bundle.graph("scheduled")
    integers = to_integers(scheduled, x)
    write_lava(scheduled, tmp_path / "lava")
    run = worker.run(tmp_path / "lava", integers, oracle=True).activity
    eq.compare("Lava = reference", "data", wall_clock(scheduled, integers), run, exact=True)
