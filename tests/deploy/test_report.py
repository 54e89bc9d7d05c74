"""The report of a network with products: what it holds as JSON, and how it reads."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from avsnn.convert.ir import fixed_nodes as ir
from avsnn.convert.ir.fixed_interpreter import wall_clock
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Node
from avsnn.convert.passes.schedule import depth, schedule
from avsnn.deploy.capability import capabilities
from avsnn.deploy.executions import execute_all
from avsnn.deploy.reports.compare import compare_table, summary
from avsnn.deploy.reports.counts import count
from avsnn.deploy.reports.prices import prices
from avsnn.deploy.reports.render import render_report
from avsnn.deploy.reports.report import approximations, build_report, warnings
from avsnn.deploy.reports.tally import MemoryWords
from avsnn.hw_profiles.profile import load_profile
from tests.report_schema import problems

SHAPE = (4, 3)


def network() -> Graph:
    """x -> q -> attention over tokens and over time -> p; their product of sums -> dense -> read-out."""
    rng = np.random.default_rng(5)

    def wire(name: str, source: str, out: int) -> ir.FixedLinear:
        return ir.FixedLinear(
            name=name, inputs=(source,), shape=(out,), weight_mant=rng.integers(-3, 6, (out, 12)) * 2
        )  # fmt: skip

    def lif(name: str, *inputs: str, **options: Any) -> ir.FixedLIF:
        common: dict[str, Any] = {"shape": SHAPE, "threshold_mant": 2, "decay_v": 2048, "bias_mant": np.full(1, 8)}
        return ir.FixedLIF(name=name, inputs=inputs, **(common | options))

    nodes: tuple[Node, ...] = (
        ir.FixedInput(name="x", shape=SHAPE, coding="sequence", low=0, high=1, step=1.0),
        wire("q.conv", "x", 12), lif("q", "q.conv"),
        ir.FixedAttention(name="over_tokens", inputs=("q", "q", "q"), shape=SHAPE, heads=2, over="space"),
        ir.FixedAttention(name="over_time", inputs=("q", "q", "q"), shape=SHAPE, heads=2, over="time"),
        lif("s", "over_tokens"), lif("t", "over_time"),
        ir.FixedProductOfSums(name="gate", inputs=("s", "t"), shape=SHAPE),
        wire("head.conv", "gate", 12), lif("head", "head.conv", threshold_mant=20, reset="subtract", subtract=1280),
        wire("answer", "head", 3),
        ir.FixedReadout(name="y", inputs=("answer",), shape=(3,), bias=np.zeros(3, np.int64), scale=1.0),
    )  # fmt: skip
    return Graph(nodes=nodes, outputs=("y",), timesteps=4, stage="quantised")


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    """A report of four samples for loihi2, without proofs and accuracy."""
    graph, balances = schedule(network(), delay_steps_max=62)
    x = (np.random.default_rng(6).random((4, 4, *SHAPE)) < 0.4).astype(np.int64)
    activity = wall_clock(graph, {"x": x})
    ran = {"x": x, **activity.spikes}
    counts = count(graph, ran, driven=True)
    record = {"checks": [], "integers_checked": 0, "neurons": [], "agreement": {}}
    record |= {"delays": [asdict(b) for b in balances], "latency_steps": depth(graph) + graph.timesteps}
    loihi2 = load_profile("loihi2")
    profiles = [load_profile(name) for name in ("loihi2", "loihi1", "cmos45")]
    priced = prices(graph, counts, ran, profiles, words=MemoryWords(weight_bits=8, state_bits=24))
    return build_report(
        meta={"name": "net", "target": "loihi2", "weight_bits": 8},
        record=record,
        graph=graph,
        activity=activity,
        executions=[],
        accuracy={},
        counts=counts,
        energy=priced.energy,
        cores=priced.cores,
        capabilities=capabilities(graph, loihi2),
    )


def shown(report: dict[str, Any]) -> str:
    out = io.StringIO()
    render_report(report, {}, Console(file=out, width=120))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def test_the_report_of_attention_reads_as_before(report: dict[str, Any], golden: Callable[[str, str], None]) -> None:
    golden("products.report.txt", shown(report))


def test_side_by_side_a_chip_that_cannot_hold_the_network_says_so(report: dict[str, Any]) -> None:
    found = summary(report)
    assert found["cannot_hold"] == ["loihi1"]
    out = io.StringIO()
    Console(file=out, width=140).print(compare_table({"a": found, "b": found}))
    lines = {line.split(", ")[1].split()[0]: line for line in out.getvalue().splitlines() if "energy per" in line}
    assert lines["loihi1"].count("cannot hold it; ") == 2
    assert out.getvalue().count(">= 1.3 us") == 2, "time per sample"
    assert compare_table({"a": found, "b": found | {"time": None}})
    assert "cannot hold" not in lines["loihi2"]


def test_a_report_of_attention_keeps_the_schema(report: dict[str, Any]) -> None:
    assert problems(report) == []


def test_windows_of_the_path_explain_the_first_answer(report: dict[str, Any]) -> None:
    first = report["first_answer"]
    assert first["steps"] == report["latency_steps"] == first["depth"] + 4
    assert (first["windows"], first["non_causal"]) == (2, ["over_time", "gate"])
    assert first["depth"] == 1 + 4 + 4 + 1 + 1  # wire, two windows, two wires
    assert "non-causal: 2 windows (8 of these steps" in shown(report)


def test_what_scaling_counts_takes_of_the_host_is_shown(report: dict[str, Any]) -> None:
    counts = report["counts"]
    assert "square roots" not in shown(report)
    rooted = counts["hosts"] + [{"name": "unit", "macs_per_sample": 90, "macs": 360, "roots": 8, "divisions": 120}]
    text = " ".join(shown(report | {"counts": counts | {"hosts": rooted}}).split())
    assert "counts scaled to length 1: 2 square roots, 30 divisions" in text


def test_the_report_is_json_and_an_old_one_without_products_is_shown(report: dict[str, Any]) -> None:
    old = json.loads(json.dumps(report))
    del old["first_answer"], old["counts"]["products"], old["warnings"]
    for need in old["capabilities"]["nodes"]:
        del need["reason"]
    text = shown(old)
    assert "Products of activity" not in text
    assert "non-causal" not in text
    assert "attention on microcode: over_tokens\n" in text


def test_a_connection_that_quantising_emptied_is_named() -> None:
    graph, _ = schedule(network(), delay_steps_max=62)
    x = (np.random.default_rng(6).random((4, 1, *SHAPE)) < 0.4).astype(np.int64)
    sparse = np.zeros((12, 12), np.int64)
    sparse[0] = 2
    empty = [
        replace(n, weight_mant=sparse) if isinstance(n, ir.Synapse) and n.name == "head.conv" else n for n in graph
    ]
    counts = count(graph.with_nodes(empty), {"x": x, **wall_clock(graph, {"x": x}).spikes})
    assert warnings(counts, ()) == ["head.conv: 91.7 % of its connections have weight 0 after quantising"]


def test_executions_keep_the_events_that_went_in_so_that_they_can_be_counted() -> None:
    graph, _ = schedule(network(), delay_steps_max=62)
    x = (np.random.default_rng(6).random((4, 2, *SHAPE)) < 0.4).astype(np.int64)
    done = execute_all(graph, {"x": x}, data="random", lava=None)
    counts = count(graph, {**done.inputs, **done.activity.spikes}, driven=True)
    assert next(row.events for row in counts.synapses if row.name == "q.conv") == int(x.sum())


def test_what_was_not_counted_is_not_shown_as_zero(report: dict[str, Any]) -> None:
    partial = json.loads(json.dumps(report))
    for row in (partial["counts"]["total"], *partial["counts"]["products"]):
        for name in ("ands", "accs", "muls", "dynamic_and", "dynamic_acc", "dynamic_mul"):
            row.pop(name, None)
    rows = [line for line in shown(partial).splitlines() if line.startswith(("over_t", "gate "))]
    assert all(line.count("not counted") == 3 for line in rows[-3:])


def test_neurons_that_are_not_exact_are_named_and_not_called_equal(report: dict[str, Any]) -> None:
    """The report once called all windows equal to exact fractions, whatever had been counted."""
    exact = {"population": "a", "windows": 2048, "ties": 500, "mismatches": 0}
    scales = [
        {"population": "a", "decay_error": 0.0, "threshold_error": 0.0},
        {"population": "b", "decay_error": -4.9e-05, "threshold_error": 0.49},
    ]
    assert approximations({"neurons": [exact], "scales": scales[:1]}) == []
    notes = approximations({"neurons": [exact, {**exact, "population": "b", "mismatches": 13}], "scales": scales})
    assert [note.split(" ")[0] for note in notes] == ["decay", "one", "b:"]
    assert "13 of 2,048" in notes[-1]
    wrong = {**report, "tie_windows_checked": 4096, "tie_windows_differing": 13}
    assert "4,096 windows full of ties compared with exact fractions, 13 differ" in " ".join(shown(wrong).split())
    assert "equal to exact fractions" in " ".join(shown(report).split())


def test_mistakes_that_went_unnoticed_are_counted(report: dict[str, Any]) -> None:
    """Three of three once stood for all that were noticed, however many had been planted."""
    row = {"name": "x", "data": "y", "samples": 1, "compared": 1, "mismatches": 0, "ties": 0}
    row |= {"controls_noticed": ["one"], "controls_planted": 3}
    assert "1 of 3" in shown({**report, "proofs": [row]})
