from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from avsnn.convert import equivalence as eq
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.activity import Activity
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.interpreter import interpret
from avsnn.convert.ir.kernels import conv2d
from avsnn.convert.ir.node import Array
from avsnn.errors import VerifyError
from tests.strategies import inputs_for, spiking_graph

SHAPE = (3, 2, 4)  # (time, batch, neurons)


def activity() -> Activity:
    rng = np.random.default_rng(0)
    spikes = {name: rng.random(SHAPE) < 0.4 for name in ("a", "b")}
    states = {name: {"v": rng.normal(size=SHAPE)} for name in ("a", "b")}
    return Activity(outputs={"y": rng.normal(size=(2, 5))}, spikes=spikes, states=states)


def flipped(values: Array, place: tuple[int, ...]) -> Array:
    copy = values.copy()
    copy[place] = ~copy[place]
    return copy


def test_equal_runs_are_counted() -> None:
    run = activity()
    check = eq.compare("x = y", "data", run, run, exact=True)
    assert (check.name, check.data, check.samples, check.compared) == ("x = y", "data", 2, 96)
    assert [p.fired for p in check.populations] == [int(s.sum()) for s in run.spikes.values()]
    assert check.populations[0].rate == run.spikes["a"].mean()
    assert check.silent == ()


def test_the_first_spike_that_differs_is_named_by_step_sample_and_neuron() -> None:
    run = activity()
    wrong = flipped(flipped(run.spikes["b"], (2, 0, 1)), (1, 1, 3))
    with pytest.raises(
        VerifyError, match=r"^b sample 1 step 1 neuron \(3,\): x = y on data: spike differs in 2 of 24"
    ) as e:
        eq.compare("x = y", "data", run, replace(run, spikes=dict(run.spikes) | {"b": wrong}), exact=True)
    error = e.value
    assert (error.where, error.step, error.sample, error.neuron) == ("b", 1, 1, (3,))
    assert (error.expected, error.found) == (run.spikes["b"][1, 1, 3], wrong[1, 1, 3])
    assert error.exit_code == 1


def test_populations_are_judged_in_the_order_of_the_graph() -> None:
    run = activity()
    wrong = {"b": flipped(run.spikes["b"], (0, 0, 0)), "a": flipped(run.spikes["a"], (2, 1, 3))}
    with pytest.raises(VerifyError) as caught:
        eq.compare("n", "d", run, replace(run, spikes=wrong), exact=True)
    assert caught.value.where == "a"


@pytest.mark.parametrize(("size", "exact", "caught"), [(1e-12, False, False), (1e-6, False, True), (1e-12, True, True)])
def test_states_may_differ_by_rounding_in_float_stages_only(size: float, exact: bool, caught: bool) -> None:
    run = activity()
    v = run.states["a"]["v"].copy()
    v[1, 0, 2] += size
    found = replace(run, states=dict(run.states) | {"a": {"v": v}})
    if not caught:
        eq.compare("n", "d", run, found, exact=exact)
        return
    with pytest.raises(VerifyError, match=r"^a sample 0 step 1 neuron \(2,\): n on d: state v"):
        eq.compare("n", "d", run, found, exact=exact)


@pytest.mark.parametrize("value", [np.nan, 99.0])
def test_answers_count_and_nan_is_no_answer(value: float) -> None:
    run = activity()
    y = run.outputs["y"].copy()
    y[1, 4] = value
    with pytest.raises(VerifyError, match=r"^y sample 1 step 0 neuron \(4,\): n on d: answer differs in 1 of 10"):
        eq.compare("n", "d", run, replace(run, outputs={"y": y}), exact=False)


def test_two_answers_were_taken_for_each_other_where_a_back_end_sorts_them() -> None:
    run, other = activity(), np.random.default_rng(1).normal(size=(2, 5))
    first = replace(run, outputs={"n9": run.outputs["y"], "n10": other})
    second = replace(run, outputs={"n10": other, "n9": run.outputs["y"]})
    eq.compare("n", "d", first, second, exact=True)
    renamed = replace(run, outputs={"a": run.outputs["y"], "b": other})
    eq.compare("n", "d", first, renamed, exact=True)
    with pytest.raises(VerifyError, match=r"^n9 "):
        eq.compare("n", "d", first, replace(run, outputs={"n10": run.outputs["y"], "n9": other}), exact=True)


def test_silence_proves_nothing() -> None:
    run = activity()
    quiet = replace(run, spikes={name: np.zeros(SHAPE, dtype=bool) for name in "ab"})
    with pytest.raises(VerifyError, match=r"nothing fired, so nothing was compared"):
        eq.compare("n", "d", quiet, quiet, exact=True)
    half = replace(run, spikes={"a": run.spikes["a"], "b": np.zeros(SHAPE, dtype=bool)})
    assert eq.compare("n", "d", half, half, exact=True).silent == ("b",)


def test_a_missing_population_or_another_shape_is_named() -> None:
    run = activity()
    with pytest.raises(VerifyError, match=r"^b: n on d: population missing"):
        eq.compare("n", "d", run, replace(run, spikes={"a": run.spikes["a"]}), exact=True)
    with pytest.raises(VerifyError, match=r"^b: n on d: shapes differ"):
        eq.compare("n", "d", run, replace(run, spikes=dict(run.spikes) | {"b": run.spikes["b"][:, :, :2]}), exact=True)


@pytest.mark.parametrize("shape", [(2, 1), (3, 2, 5), (2, 4)])
def test_an_answer_of_another_shape_was_broadcast_or_broke_in_numpy(shape: tuple[int, ...]) -> None:
    run = activity()
    with pytest.raises(VerifyError, match=r"^y: n on d: answer: shapes differ"):
        eq.compare("n", "d", run, replace(run, outputs={"y": np.zeros(shape)}), exact=False)


def test_ties_are_excused_and_counted() -> None:
    run = activity()
    ties = np.zeros(SHAPE, dtype=bool)
    ties[0, 1, 2] = True
    other = replace(run, spikes=dict(run.spikes) | {"a": flipped(run.spikes["a"], (0, 1, 2))}, ties={"a": ties})
    assert [p.ties for p in eq.compare("n", "d", run, other, exact=False).populations] == [1, 0]
    with pytest.raises(VerifyError):
        eq.compare("n", "d", run, replace(other, ties={}), exact=False)


def traced() -> tuple[Graph, dict[str, Array]]:
    graph = spiking_graph(1, depth=2)
    return graph, inputs_for(graph, 2)


def sometimes(answer: bool) -> Callable[[Graph], bool]:
    return lambda _graph: answer


def test_controls_that_are_noticed_are_listed() -> None:
    graph, x = traced()
    expected = interpret(graph, x)

    def run(g: Graph) -> Activity:
        return interpret(g, x, force=expected.spikes)

    check = eq.compare("n", "d", expected, run(graph), exact=False)
    spoiled = eq.negated_row(graph)
    done = eq.with_controls(check, expected, run, {**spoiled, "nothing": graph}, sometimes(True))
    assert (done.controls, done.idle, done.planted) == (tuple(spoiled), ("nothing",), 2)


def test_one_control_that_goes_unnoticed_stops_everything_though_others_are_noticed() -> None:
    graph, x = traced()
    expected = interpret(graph, x)

    def run(g: Graph) -> Activity:
        return interpret(g, x, force=expected.spikes)

    check = eq.compare("n", "d", expected, expected, exact=False)
    with pytest.raises(VerifyError, match=r"^c9: anything: n on d did not notice a planted mistake"):
        eq.with_controls(check, expected, run, {**eq.negated_row(graph), "c9: anything": graph}, sometimes(False))
    with pytest.raises(VerifyError, match=r"^c9: anything: n on d: no planted mistake changes anything"):
        eq.with_controls(check, expected, run, {"c9: anything": graph}, sometimes(True))


def test_a_planted_mistake_leaves_the_graph_as_it_was() -> None:
    graph, _ = traced()
    layer = graph["c0"]
    assert isinstance(layer, ir.Conv2d)
    before = layer.weight.copy()
    (mistake,) = eq.negated_row(graph).values()
    other = mistake["c0"]
    assert isinstance(other, ir.Conv2d)
    np.testing.assert_array_equal(layer.weight, before)
    assert sorted(np.unique((other.weight / before).round(9))) == [-1, 1]


def test_a_graph_without_weights_cannot_be_proved() -> None:
    graph, _ = traced()
    empty = replace(graph, nodes=graph.nodes[:1], outputs=("x",))
    with pytest.raises(VerifyError, match="no weighted layer"):
        eq.negated_row(empty)


def test_states_are_compared_in_the_units_of_the_later_thresholds() -> None:
    """A fold may scale a population's current and threshold alike; its membrane then scales, and nothing else does."""
    graph = spiking_graph(3, depth=2)
    scale = np.linspace(0.5, 2.0, 5)[:, None]
    neurons, layer = graph["p1"], graph["c1"]
    assert isinstance(neurons, ir.LIF)
    assert isinstance(layer, ir.Conv2d)
    scaled = replace(neurons, threshold=neurons.threshold * scale[None])
    per_row = ir.Linear(
        name="c1", inputs=("p0",), shape=(50,), weight=dense_rows(graph, np.tile(scale.repeat(5), 2)),
        bias=np.tile(scale.repeat(5), 2) * np.repeat(layer.bias, 25),
    )  # fmt: skip
    shaped = ir.Permute(name="shaped", inputs=("c1",), shape=neurons.shape, axes=(0,))
    table = {"c1": (per_row, shaped), "p1": (replace(scaled, inputs=("shaped",)),)}
    after = replace(graph, nodes=tuple(new for old in graph for new in table.get(old.name, (old,))))
    x = inputs_for(graph, 3)
    plain, found = interpret(graph, x), interpret(after, x)
    with pytest.raises(VerifyError, match=r"^p1 .*state v differs"):
        eq.compare("fold", "data", plain, found, exact=False)
    expected = eq.in_units_of(plain, graph, after)
    assert not eq.compare("fold", "data", expected, found, exact=False).silent
    assert expected.states["p0"] is plain.states["p0"]
    assert eq.in_units_of(plain, graph, graph).states["p1"] is plain.states["p1"]


def dense_rows(graph: Graph, scale: Array) -> Array:
    """The convolution c1 of ``graph`` as a matrix whose rows are scaled."""
    layer = graph["c1"]
    assert isinstance(layer, ir.Conv2d)
    pixels = np.eye(50).reshape(50, 2, 5, 5)
    rows = conv2d(pixels, layer.weight, layer.stride, layer.padding, layer.dilation, layer.groups)
    return scale[:, None] * rows.reshape(50, 50).T
