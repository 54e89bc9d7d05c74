"""Spike counts scaled to length 1 by the host: float meaning, integers, and both kinds of time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avsnn.convert.equivalence import negated_row, shifted_time
from avsnn.convert.integer_check import check_neurons, check_parameters
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.fixed_interpreter import logical, to_integers, wall_clock
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.interpreter import interpret
from avsnn.convert.ir.node import Node
from avsnn.convert.ir.products import unit_integers
from avsnn.convert.passes.integer_formats import Target
from avsnn.convert.passes.quantise import quantise
from avsnn.convert.passes.schedule import schedule
from avsnn.errors import CapabilityError, VerifyError
from avsnn.hw_profiles.profile import load_profile

TARGET = Target.of(load_profile("loihi2"))
T, D, SIDE, HIDDEN = 4, 6, 3, 12


def joined(seed: int) -> Graph:
    """Two populations at unequal depth; tokens of the first are averaged, those of the second are not."""
    rng = np.random.default_rng(seed)
    nodes: list[Node] = [ir.Input(name="x", shape=(2, SIDE, SIDE), coding="sequence", step=1.0)]
    for name, source, channels in (("first", "x", 2), ("a", "first.lif", D), ("b", "x", 2)):
        weight, shape = rng.normal(size=(D, channels, 1, 1)) * 1.5, (D, SIDE, SIDE)
        nodes.append(ir.Conv2d(name=name, inputs=(source,), shape=shape, weight=weight, bias=rng.normal(size=D) + 1))
        nodes.append(ir.LIF(name=f"{name}.lif", inputs=(name,), shape=shape, decay=0.5, gain=0.5, threshold=1.0))
    flat = D * SIDE * SIDE
    nodes += [
        ir.MeanSpace(name="a.mean", inputs=("a.lif",), shape=(D,)),
        ir.MeanTime(name="a.rate", inputs=("a.mean",), shape=(D,)),
        ir.Unit(name="a.unit", inputs=("a.rate",), shape=(D,)),
        ir.Flatten(name="b.flat", inputs=("b.lif",), shape=(flat,)),
        ir.MeanTime(name="b.rate", inputs=("b.flat",), shape=(flat,)),
        ir.Unit(name="b.unit", inputs=("b.rate",), shape=(flat,)),
        ir.Concat(name="both", inputs=("a.unit", "b.unit"), shape=(D + flat,)),
        ir.Linear(name="join", inputs=("both",), shape=(HIDDEN,), weight=rng.normal(size=(HIDDEN, D + flat)) * 2,
                  bias=rng.normal(size=HIDDEN) + 1),
        ir.LIF(name="join.lif", inputs=("join",), shape=(HIDDEN,), decay=0.5, gain=0.5, threshold=1.0),
        ir.Linear(name="head", inputs=("join.lif",), shape=(3,), weight=rng.normal(size=(3, HIDDEN)), bias=np.zeros(3)),
        ir.Readout(name="y", inputs=("head",), shape=(3,), bias=np.zeros(3)),
    ]  # fmt: skip
    return Graph(nodes=tuple(nodes), outputs=("y",), timesteps=T, stage="folded")


def samples(seed: int, batch: int) -> dict[str, np.ndarray]:
    return {"x": (np.random.default_rng(seed).random((T, batch, 2, SIDE, SIDE)) < 0.6).astype(float)}


def test_windows_follow_each_other_and_equal_logical_time() -> None:
    graph, inputs = joined(0), samples(1, 16)
    whole, scales = quantise(graph, target=TARGET, calibration=inputs)
    assert check_parameters(graph, whole, scales) > 0
    check_neurons(graph, whole, scales)
    integers = to_integers(whole, inputs)
    expected = logical(whole, integers)
    assert 0.05 < expected.spikes["join.lif"].mean() < 0.95
    done, _ = schedule(whole, delay_steps_max=62)
    found = wall_clock(done, integers)
    for name, spikes in expected.spikes.items():
        assert (found.spikes[name] == spikes).all(), name
    assert (found.outputs["y"] == expected.outputs["y"]).all()
    late = done.with_nodes(
        [replace(n, offset=n.offset + 1) if isinstance(n, fixed.FixedUnitCurrent) else n for n in done.nodes]
    )
    assert (wall_clock(late, integers).spikes["join.lif"] != expected.spikes["join.lif"]).any()


def test_the_join_is_as_good_as_float_on_the_same_counts() -> None:
    graph, inputs = joined(0), samples(2, 64)
    whole, _ = quantise(graph, target=TARGET, calibration=inputs)
    real = interpret(graph, inputs)
    found = logical(whole, to_integers(whole, inputs))
    same = [(found.spikes[f"{n}.lif"] == real.spikes[f"{n}.lif"]).all(axis=(0, 2, 3, 4)) for n in ("a", "b")]
    both = np.logical_and(*same)
    assert both.sum() > 5
    assert (found.spikes["join.lif"][:, both] == real.spikes["join.lif"][:, both]).mean() > 0.999


@pytest.mark.parametrize("factor", [0.0, 1e-12])
def test_a_join_of_weights_around_zero_left_the_hosts_integers(factor: float) -> None:
    graph, inputs = joined(0), samples(1, 4)
    join = graph["join"]
    assert isinstance(join, ir.Linear)
    graph = graph.with_nodes([replace(join, weight=factor * join.weight) if n is join else n for n in graph.nodes])
    whole, scales = quantise(graph, target=TARGET, calibration=inputs)
    assert check_parameters(graph, whole, scales) > 0
    real, found = interpret(graph, inputs).spikes["join.lif"], logical(whole, to_integers(whole, inputs)).spikes
    assert real.any()
    assert (found["join.lif"] == real).all()


def test_one_weight_of_the_host_off_is_noticed() -> None:
    graph, inputs = joined(0), samples(1, 8)
    whole, scales = quantise(graph, target=TARGET, calibration=inputs)
    host = whole["join"]
    assert isinstance(host, fixed.FixedUnitCurrent)
    weight = host.weight.copy()
    weight[3, 5] += 2
    wrong = whole.with_nodes([replace(host, weight=weight) if n is host else n for n in whole.nodes])
    with pytest.raises(VerifyError, match="weight"):
        check_parameters(graph, wrong, scales)


def test_a_norm_of_anything_but_a_mean_of_spikes_is_refused() -> None:
    graph = joined(0)
    unit = graph["a.unit"]
    wrong = graph.with_nodes([replace(n, inputs=("a.mean",)) if n is unit else n for n in graph.nodes])
    with pytest.raises(CapabilityError, match=r"a\.unit"):
        quantise(wrong, target=TARGET, calibration=samples(0, 4))


@given(st.lists(st.integers(0, 400), min_size=1, max_size=40))
def test_unit_integers_are_the_nearest(counts: list[int]) -> None:
    found = unit_integers(np.array([counts]))[0]
    square = sum(c * c for c in counts)
    for count, whole in zip(counts, found.tolist(), strict=True):
        if not square:
            assert whole == 0
        else:  # |e - 2^15 z / |z|| <= 1/2, in whole numbers: (2 e - 1)^2 S <= (2^16 z)^2 <= (2 e + 1)^2 S
            assert max(0, 2 * whole - 1) ** 2 * square <= (count << 16) ** 2 <= (2 * whole + 1) ** 2 * square


def test_planted_mistakes_reach_the_host() -> None:
    graph, inputs = joined(0), samples(1, 8)
    whole, _ = quantise(graph, target=TARGET, calibration=inputs)
    done, _ = schedule(whole, delay_steps_max=62)
    (spoiled,) = negated_row(done).values()
    host, other = done["join"], spoiled["join"]
    assert isinstance(host, fixed.FixedUnitCurrent)
    assert isinstance(other, fixed.FixedUnitCurrent)
    assert ((host.weight + other.weight == 0).all(axis=1)).sum() == 1
    short = shifted_time(done)["every balancing delay: short by one"]["join"]
    assert isinstance(short, fixed.FixedUnitCurrent)
    assert (host.delays, short.delays) == ((0, 1), (0, 0))
