"""Parts by input: against what a change of one input reaches, and adding up to the totals."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
from rich.console import Console

from avsnn.convert.ir import fixed_nodes as ir
from avsnn.convert.ir.fixed_interpreter import logical, to_integers
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array
from avsnn.convert.unproved import scheduled_integers
from avsnn.deploy.reports import modality
from avsnn.deploy.reports.counts import count
from avsnn.deploy.reports.html_layers import layers
from avsnn.deploy.reports.modality import by_modality, modality_rows, reaching
from avsnn.deploy.reports.render import render_report
from avsnn.hw_profiles.profile import load_profile
from tests.random_graphs import draw

SUMS = ("neurons", "spikes", "events", "sop_stored", "sop_nonzero", "sop_graded", "neuron_updates", "host_macs")


def two_inputs() -> list[tuple[Graph, dict[str, Array]]]:
    """Random networks with two inputs, and what goes in."""
    found, loihi2 = [], load_profile("loihi2")
    for seed in range(30):
        drawn = draw(seed, 2 + seed % 4, 3)
        if len(drawn.inputs) == 2:
            graph = scheduled_integers(drawn.graph, loihi2, calibration=drawn.inputs)
            found.append((graph, to_integers(graph, drawn.inputs)))
    return found


def test_a_part_is_deaf_to_other_inputs_and_the_parts_add_up() -> None:
    seen: Counter[str] = Counter()
    for graph, integers in two_inputs():
        spikes = logical(graph, integers).spikes
        counts = count(graph, {**integers, **spikes})
        rows = by_modality(graph, counts)
        assert {name: sum(getattr(row, name) for row in rows) for name in SUMS} == {n: getattr(counts, n) for n in SUMS}
        assert sum(row.weights for row in rows) == sum(row.weights for row in counts.synapses)
        assert sum(row.dynamic or 0 for row in rows) == sum(counts.dynamic_by_sample or ())
        for row in rows:
            assert (row.part == "fused") == (len(row.inputs) == 2)
        reach = reaching(graph)
        for changed in integers:
            other = integers | {changed: np.roll(integers[changed], 1, axis=-1)}
            for name, after in logical(graph, other).spikes.items():
                moved = bool((after != spikes[name]).any())
                assert not moved or changed in reach[name], name
                kind = "fused" if len(reach[name]) == 2 else "own"
                seen[f"{kind}, {'moved' if moved else 'still'}"] += changed in reach[name]
                seen["deaf"] += changed not in reach[name]
    assert min(seen[name] for name in ("own, moved", "fused, moved", "deaf")) >= 8, seen


def network(*, fused: bool = True) -> tuple[Graph, dict[str, Any]]:
    """Image and sound, each with a population; a third population reads both; a bias neuron stands beside sound."""
    none = np.zeros(1, np.int64)

    def lif(name: str, size: int, *inputs: str, role: str = "neuron") -> ir.FixedLIF:
        return ir.FixedLIF(
            name=name, inputs=inputs, shape=(size,), threshold_mant=1, decay_v=0, bias_mant=none, role=role
        )

    def wire(name: str, source: str, out: int, size: int) -> ir.FixedLinear:
        return ir.FixedLinear(name=name, inputs=(source,), shape=(out,), weight_mant=np.ones((out, size), np.int64))

    image = ir.FixedInput(name="image", shape=(6,), coding="direct", low=0, high=9, step=1.0)
    sound = ir.FixedInput(name="sound", shape=(4,), coding="sequence", low=0, high=1, step=1.0)
    held = ir.HeldCurrent(name="held", inputs=("image",), shape=(5,), weight=np.ones((5, 6), np.int64), bias=none)
    both = wire("see.f", "see", 2, 5), wire("hear.f", "hear", 2, 3), lif("both", 2, "see.f", "hear.f")
    nodes = (
        image, sound, held, lif("see", 5, "held"), wire("hearing", "sound", 3, 4), lif("b", 3, role="bias"),
        wire("b.wire", "b", 3, 3), lif("hear", 3, "hearing", "b.wire"),
        *(both if fused else ()),
        wire("y.w", "both" if fused else "hear", 2, 2 if fused else 3),
        ir.FixedReadout(name="y", inputs=("y.w",), shape=(2,), bias=np.zeros(2, np.int64), scale=1.0),
    )  # fmt: skip
    graph = Graph(nodes=nodes, outputs=("y",), timesteps=4, stage="scheduled")
    on = {n.name: np.ones((4, 2, *n.shape), bool) for n in graph.of(ir.FixedLIF)}
    return graph, {"image": np.ones((2, 6), int), "sound": np.ones((4, 2, 4), int), **on}


def test_connections_belong_to_who_sends_and_a_bias_to_who_reads_it() -> None:
    graph, activity = network()
    image, sound, fused = by_modality(graph, count(graph, activity))
    each = 4 * 2  # steps and samples
    assert (image.part, image.inputs, image.neurons, image.weights, image.host_macs) == ("image", ("image",), 5, 10, 60)
    assert (image.sop_stored, image.spikes, image.neuron_updates) == (10 * each, 5 * each, 5 * each)
    assert (sound.part, sound.inputs, sound.neurons, sound.weights) == ("sound", ("sound",), 6, 12 + 9 + 6)
    assert (sound.sop_stored, sound.spikes, sound.host_macs) == (27 * each, 6 * each, 0)
    assert (fused.part, fused.inputs, fused.neurons, fused.weights) == ("fused", ("image", "sound"), 2, 4)
    assert (fused.sop_stored, fused.events, fused.dynamic) == (4 * each, 2 * each, 0)


def test_without_fusion_there_is_no_such_part() -> None:
    graph, activity = network(fused=False)
    rows = by_modality(graph, count(graph, activity))
    assert [row.part for row in rows] == ["image", "sound"]
    assert sum(row.neurons for row in rows) == 5 + 6


def test_answers_that_a_host_adds_up_are_no_part() -> None:
    """Both inputs reach the read-out, but nothing of it is counted: late fusion costs nothing on the chip."""
    graph, activity = network(fused=False)
    late = ir.FixedLinear(name="see.y", inputs=("see",), shape=(2,), weight_mant=np.ones((2, 5), np.int64))
    nodes = [replace(n, inputs=("y.w", "see.y")) if n.name == "y" else n for n in graph]
    both = graph.with_nodes([late, *nodes])
    assert len(reaching(both)["y"]) == 2
    rows = by_modality(both, count(both, activity))
    assert [(row.part, row.weights) for row in rows] == [("image", 10), ("sound", 12 + 9 + 6)]


def test_reports_show_parts_where_there_are_several(report: dict[str, Any]) -> None:
    """One input: no table. Two: one in the terminal and one on the page. Older reports have none."""
    graph, activity = network()
    assert len(report["by_modality"]) == 1
    assert modality_rows(report) == modality_rows({"counts": report["counts"]}) == []
    parts = modality.to_json(by_modality(graph, count(graph, activity)))
    del parts[1]["dynamic"]  # spikes of a product's sources were not recorded
    several = report | {"by_modality": parts, "counts": report["counts"] | {"samples": 2}}
    rows = modality_rows(several)
    assert rows[0] == ("image", "5", "10", "20", "40", "40", "20", "0", "30")
    assert [row[7] for row in rows] == ["0", "not counted", "0"]
    out = io.StringIO()
    render_report(several, {}, Console(file=out, width=140))
    assert "Parts by the inputs that reach them" in out.getvalue()
    assert "Parts by the inputs that reach them" in "".join(layers(several))
    assert "Parts by the inputs" not in "".join(layers(report))
