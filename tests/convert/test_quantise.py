from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given

from avsnn.convert.certificate import certify
from avsnn.convert.integer_check import check_neurons, check_parameters
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.fixed_interpreter import logical, to_integers
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.interpreter import interpret
from avsnn.convert.ir.node import Node
from avsnn.convert.ir.stages import check_stage
from avsnn.convert.ir.text import render
from avsnn.convert.passes.fold_forward import fold_forward
from avsnn.convert.passes.integer_formats import Target
from avsnn.convert.passes.quantise import Scale, quantise
from avsnn.errors import CapabilityError, InputError, QuantizeError
from avsnn.hw_profiles.formats import signed_core_grid
from avsnn.hw_profiles.profile import load_profile
from tests.strategies import inputs_for, spiking_graph, spiking_graphs

LOIHI2, CPU = (Target.of(load_profile(name)) for name in ("loihi2", "cpu"))


def quantised(graph: Graph, target: Target = LOIHI2) -> tuple[Graph, tuple[Scale, ...]]:
    return quantise(graph, target=target, calibration=inputs_for(graph, 7, batch=6))


def agreement(graph: Graph, integers: Graph) -> float:
    """Share of equal spikes, all populations together."""
    x = inputs_for(graph, 8, batch=6)
    real, whole = interpret(graph, x).spikes, logical(integers, to_integers(integers, x)).spikes
    assert sum(s.sum() for s in real.values())
    return float(np.mean(np.concatenate([(s == whole[name]).ravel() for name, s in real.items()])))


def swap(graph: Graph, node: Node) -> Graph:
    return replace(graph, nodes=tuple(node if old.name == node.name else old for old in graph.nodes))


@given(spiking_graphs())
def test_all_integers_are_proved_and_in_range(graph: Graph) -> None:
    text = render(graph)
    integers, scales = quantised(graph)
    assert render(graph) == text
    check_stage(integers)
    assert check_parameters(graph, integers, scales) > 0
    check_neurons(graph, integers, scales)
    assert [s.population for s in scales] == [n.name for n in graph if isinstance(n, ir.LIF | ir.Readout)]
    for node in integers:
        if isinstance(node, fixed.Synapse):
            assert signed_core_grid(max_bits=8, bits=8, sign_mode=node.sign_mode).contains(node.weight_mant)
            assert 0 <= node.exponents[0] <= node.exponents[-1] <= 7
            assert len(node.exponents) <= 4
        elif isinstance(node, fixed.FixedLIF):
            assert 0 <= node.threshold_mant < 2**17
            assert (np.abs(node.bias_mant) < 2**12).all()
            assert 0 <= node.bias_exp <= 7
        elif isinstance(node, fixed.HeldCurrent):
            assert np.abs(node.weight).max() < 2**15


def test_eight_bits_keep_most_spikes_and_wide_integers_nearly_all() -> None:
    graph = spiking_graph(3, depth=3, skips=((0, 2),), pool=True)
    assert agreement(graph, quantised(graph)[0]) > 0.95
    # the host's weights stay at 16 bits on the wide target, so a few spikes near the threshold may still turn
    assert agreement(graph, quantised(graph, CPU)[0]) > 0.99


@pytest.mark.parametrize("bits", [4, 8])
def test_groups_of_channels_lower_what_rounding_changes(bits: int) -> None:
    """Channels whose weights are an eighth of the largest lost three bits to them."""
    graph = spiking_graph(3, depth=3, skips=((0, 2),))
    uneven = replace(graph, nodes=tuple(_uneven(n) if n.name in ("c1", "c2") else n for n in graph))
    target = Target.of(load_profile("loihi2"), weight_bits=bits)
    one = replace(target, synapse_formats=1)
    lost, changed = [], []
    for formats in (target, one):
        integers, scales = quantised(uneven, formats)
        assert check_parameters(uneven, integers, scales) > 0
        check_neurons(uneven, integers, scales)
        weights = [n for n in integers if isinstance(n, fixed.Synapse)]
        assert any(len(n.exponents) > 1 for n in weights) == (formats is target)
        changed.append(sum(s.disagreement for s in scales))
        small, real = integers["c1"], uneven["c1"]
        assert isinstance(small, fixed.Synapse)
        assert isinstance(real, ir.Conv2d)
        lost.append(np.abs(small.weight / scales[1].scale - real.weight)[-1].mean())
    assert lost[0] < lost[1] / 2
    assert changed[0] <= changed[1]


def _uneven(node: Node) -> Node:
    assert isinstance(node, ir.Conv2d)
    size = 8.0 ** -np.linspace(0, 1, len(node.weight))
    return replace(node, weight=node.weight * size[:, None, None, None])


def test_the_profile_cpu_is_proved_as_well() -> None:
    graph = spiking_graph(4, depth=3, skips=((0, 2),))
    integers, scales = quantised(graph, CPU)
    assert check_parameters(graph, integers, scales) > 0
    assert all(check.mismatches == 0 for check in check_neurons(graph, integers, scales))


def test_graded_sequence_inputs_were_taken_as_if_their_step_were_one() -> None:
    graph = spiking_graph(5, depth=2, coding="sequence")
    integers, scales = quantised(graph, CPU)
    check_parameters(graph, integers, scales)
    assert agreement(graph, integers) > 0.97


def test_a_read_out_of_a_graded_sequence_forgot_its_step() -> None:
    rng = np.random.default_rng(0)
    row = ir.Linear(name="row", inputs=("x",), shape=(3,), weight=rng.normal(size=(3, 4)), bias=np.zeros(3))
    answer = ir.Readout(name="out", inputs=("row",), shape=(3,), bias=rng.normal(size=3))
    first = ir.Input(name="x", shape=(4,), coding="sequence")
    graph = Graph(nodes=(first, row, answer), outputs=("out",), timesteps=3, stage="folded")
    integers, scales = quantised(graph, CPU)
    check_parameters(graph, integers, scales)
    x, head = inputs_for(graph, 1), integers["out"]
    assert isinstance(head, fixed.FixedReadout)
    found = logical(integers, to_integers(integers, x)).outputs["out"] * head.scale
    np.testing.assert_allclose(found, interpret(graph, x).outputs["out"], atol=1e-5)  # 24-bit weights


def test_strict_neurons_get_no_tie_rule() -> None:
    graph = spiking_graph(6, strict=True)
    integers, scales = quantised(graph)
    assert {s.tie for s in scales} == {0.0}
    assert check_parameters(graph, integers, scales) > 0
    assert all(check.mismatches == 0 for check in check_neurons(graph, integers, scales))


@pytest.mark.parametrize("T", [1, 2, 4, 6, 8])
def test_thresholds_are_exact_at_any_length_of_the_window(T: int) -> None:
    graph = spiking_graph(8, T=T)
    integers, scales = quantised(graph)
    for scale in scales[:-1]:
        node, real = integers[scale.population], graph[scale.population]
        assert isinstance(node, fixed.FixedLIF)
        assert isinstance(real, ir.LIF)
        assert scale.tie == 2.0 ** -min(T - 1, 6)
        assert node.threshold_mant + scale.tie == pytest.approx(real.threshold / real.gain * scale.scale, rel=1e-12)


RESETS = ("hard", "subtract", "subtract_delayed")


def long(T: int, reset: str, strict: bool = False) -> Graph:
    graph = spiking_graph(3, T=T, depth=3, skips=((0, 2),), coding="sequence", strict=strict)
    return replace(graph, nodes=tuple(replace(n, reset=reset) if isinstance(n, ir.LIF) else n for n in graph))


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize(("T", "target"), [(7, LOIHI2), (8, LOIHI2), (10, LOIHI2), (16, CPU)])
def test_ties_of_long_windows_were_counted_where_k_more_bits_keep_them(T: int, target: Target, reset: str) -> None:
    graph = long(T, reset)
    integers, scales = quantised(graph, target)
    assert check_parameters(graph, integers, scales) > 0
    shifted = {s.population: s.shift for s in scales if s.shift}
    assert shifted.keys() >= ({"p1", "p2"} if T > 7 else set())
    assert set(shifted.values()) <= {T - 7}
    for check in check_neurons(graph, integers, scales):
        assert check.ties > 30
        assert not check.mismatches or (T > 7 and check.population not in shifted)
    # and without the shift they do differ
    plain = tuple(replace(s, shift=0) for s in scales)
    assert T == 7 or any(check.mismatches for check in check_neurons(graph, integers, plain))


def test_long_windows_keep_the_precision_of_their_weights() -> None:
    graph = long(10, "hard")
    for node, wanted in zip(quantised(graph)[0], quantised(long(7, "hard"))[0], strict=True):
        if isinstance(node, fixed.Synapse) and isinstance(wanted, fixed.Synapse):
            assert np.abs(node.weight_mant).max() >= 0.75 * np.abs(wanted.weight_mant).max()
            assert node.exponents[0] == (2 if node.name in ("c1", "c2", "c0to2") else 0)


def test_where_there_is_no_room_for_k_bits_ties_are_counted_as_before() -> None:
    graph = long(16, "hard")  # weights have 7 exponents and an even mantissa: 8 bits, and 9 are needed
    integers, scales = quantised(graph)
    assert {s.shift for s in scales} == {0}
    assert any(check.mismatches for check in check_neurons(graph, integers, scales))


def test_strict_neurons_of_long_windows_are_exact_as_well() -> None:
    graph = long(9, "hard", strict=True)
    integers, scales = quantised(graph)
    assert {s.shift for s in scales if s.population in ("p1", "p2")} == {2}
    assert {s.tie for s in scales} == {0.0}
    assert not any(c.mismatches for c in check_neurons(graph, integers, scales) if c.population in ("p1", "p2"))


def test_threshold_and_gain_together_are_one_number() -> None:
    """``u = decay r + gain x >= threshold`` fires as ``u = decay r + x >= threshold / gain``."""
    graph = spiking_graph(9, depth=2)
    scaled = replace(
        graph,
        nodes=tuple(
            replace(n, gain=1.0, threshold=n.threshold / n.gain) if isinstance(n, ir.LIF) else n for n in graph
        ),
    )
    x = inputs_for(graph, 1)
    for name, spikes in interpret(graph, x).spikes.items():
        np.testing.assert_array_equal(spikes, interpret(scaled, x).spikes[name])
    assert render(quantised(graph)[0]) == render(quantised(scaled)[0])


def test_or_equals_the_maximum_of_spikes() -> None:
    graph = spiking_graph(10, depth=2, pool=True)
    integers, _ = quantised(graph)
    spikes = logical(integers, to_integers(integers, inputs_for(graph, 2))).spikes
    p0 = spikes["p0"][:, :, :, :4, :4]
    windows = p0.reshape(*p0.shape[:3], 2, 2, 2, 2).any(axis=(4, 6))
    assert 0 < windows.mean() < 1
    np.testing.assert_array_equal(spikes["pool.or"], windows)


@pytest.mark.parametrize("reset", ["hard", "subtract", "subtract_delayed"])
@pytest.mark.parametrize(("T", "strict"), [(1, False), (4, False), (4, True), (6, False)])
def test_whole_weights_met_the_threshold_until_they_were_rounded(reset: str, T: int, strict: bool) -> None:
    """Networks of weights such as -1, 0, 1 live on ties; up to 5 % of the spikes of a layer were lost."""
    rng, width = np.random.default_rng(T), 12
    nodes: list[Node] = [ir.Input(name="x", shape=(width,), coding="sequence", low=0.0, high=1.0, step=1.0)]
    for i in range(3):
        weight, bias = rng.integers(-1, 3, (width, width)), rng.integers(-1, 2, width)
        shape, source = (width,), nodes[-1].name
        nodes.append(ir.Linear(name=f"c{i}", inputs=(source,), shape=shape, weight=weight * 1.0, bias=bias * 1.0))
        lif = {"decay": 0.5, "gain": 0.5, "threshold": 2.0, "reset": reset, "strict": strict}
        nodes.append(ir.LIF(name=f"p{i}", inputs=(f"c{i}",), shape=shape, **lif))  # type: ignore[arg-type]
    graph = Graph(nodes=tuple(nodes), outputs=("p2",), timesteps=T, stage="folded")
    integers, scales = quantised(graph)
    check_parameters(graph, integers, scales)
    check_neurons(graph, integers, scales)
    assert agreement(graph, integers) == 1.0
    x = inputs_for(graph, 8, batch=6)
    assert interpret(graph, x).ties["p0"].any()
    finer = graph.with_nodes(replace(n, weight=n.weight + 1e-5) if isinstance(n, ir.Linear) else n for n in graph)
    assert [s.scale for s in quantised(finer)[1]] != [s.scale for s in scales]  # others keep their own scales


@pytest.mark.parametrize("T", [2, 3, 6])
def test_minima_of_spikes_never_fired_as_integers(T: int) -> None:
    """A pool behind a norm of negative gain asks for an AND; its sums met the threshold only before rounding."""
    graph = spiking_graph(2, T=T, depth=2, pool=True)
    pool, layer = graph["pool"], graph["c1"]
    ones, signs = np.ones(2), np.array([-1.0, 1.0])
    norm = ir.BatchNorm(
        name="n", inputs=("p0",), shape=graph["p0"].shape, mean=0 * ones, var=ones, gamma=signs, beta=ones
    )
    nodes = [norm, replace(pool, inputs=("n",))]
    graph = graph.with_nodes(new for n in graph for new in (nodes if n is pool else [n]))
    graph = fold_forward(graph)
    assert not graph.of(ir.MaxPool2d)
    assert layer.name in graph.by_name
    integers, _ = quantised(graph)
    x = inputs_for(graph, 8, batch=6)
    whole = logical(integers, to_integers(integers, x)).spikes
    real = interpret(graph, x, force=whole).spikes["pool.extremes"]  # of the same spikes
    assert 0.02 < real[:, :, 0].mean() < 0.98
    assert (whole["pool.extremes"] == real).all()


def test_fewer_weight_bits_use_the_smaller_grid() -> None:
    graph = spiking_graph(11)
    target = Target.of(load_profile("loihi2"), weight_bits=4)
    integers, scales = quantised(graph, target)
    check_parameters(graph, integers, scales)
    for node in integers.of(fixed.Synapse):
        assert signed_core_grid(max_bits=4, bits=4, sign_mode=node.sign_mode).contains(node.weight_mant)


def test_weights_far_above_the_threshold_get_an_exponent() -> None:
    graph = spiking_graph(12, T=6, depth=2)
    layer = graph["c1"]
    assert isinstance(layer, ir.Conv2d)
    graph = swap(graph, replace(layer, weight=layer.weight * 60))
    integers, scales = quantised(graph)
    synapse = integers["c1"]
    assert isinstance(synapse, fixed.Synapse)
    assert 0 < synapse.weight_exp <= 7
    check_parameters(graph, integers, scales)
    check_neurons(graph, integers, scales)


def test_weights_a_thousand_times_the_threshold_left_their_exponent() -> None:
    """A scale was wanted that gives the threshold 64 levels, even where no exponent reaches that far, or no state."""
    graph = spiking_graph(12, T=6, depth=2)
    layer = graph["c1"]
    assert isinstance(layer, ir.Conv2d)
    large = swap(graph, replace(layer, weight=layer.weight * 2000))
    integers, scales = quantised(large)
    synapse, population = integers["c1"], integers["p1"]
    assert isinstance(synapse, fixed.Synapse)
    assert isinstance(population, fixed.FixedLIF)
    assert synapse.weight_exp == 7
    assert all(row.verdict == "proved" for row in certify(integers, {}))
    assert 4 < population.threshold_mant < 64
    check_parameters(large, integers, scales)
    check_neurons(large, integers, scales)
    with pytest.raises(QuantizeError, match=r"^p1: weights and bias do not fit one scale"):
        quantised(swap(graph, replace(layer, weight=layer.weight * 1e6)))


def test_a_threshold_beyond_all_weights_stopped_the_conversion() -> None:
    """It was set so high that u could not reach it against the bias: its neurons could not be checked."""
    graph = spiking_graph(13, T=1, depth=2)
    layer, node = graph["c1"], graph["p1"]
    assert isinstance(layer, ir.Conv2d)
    assert isinstance(node, ir.LIF)
    graph = swap(graph, replace(layer, bias=np.full(2, -0.03)))
    graph = swap(graph, replace(node, threshold=900.0))
    integers, scales = quantised(graph)
    check_parameters(graph, integers, scales)
    assert {check.population: check.ties > 0 for check in check_neurons(graph, integers, scales)} == dict.fromkeys(
        ("p0", "p1"), True
    )


def test_a_population_with_tiny_weights_broke_the_check_of_its_neurons() -> None:
    graph = spiking_graph(13, T=1, depth=2)
    layer = graph["c1"]
    assert isinstance(layer, ir.Conv2d)
    node = graph["p1"]
    assert isinstance(node, ir.LIF)
    graph = swap(graph, replace(layer, weight=layer.weight * 1e-4, bias=layer.bias * 0))
    graph = swap(graph, replace(node, threshold=0.7, gain=0.3))
    for target in (LOIHI2, CPU):
        integers, scales = quantised(graph, target)
        assert check_parameters(graph, integers, scales) > 0
        assert all(check.mismatches == 0 and check.ties for check in check_neurons(graph, integers, scales))


@pytest.mark.parametrize("seed", range(8))
def test_thresholds_of_the_wide_target_were_compared_more_finely_than_floats_are(seed: int) -> None:
    graph = spiking_graph(seed, depth=2)
    layer, node = graph["c1"], graph["p1"]
    assert isinstance(layer, ir.Conv2d)
    assert isinstance(node, ir.LIF)
    graph = swap(graph, replace(layer, weight=layer.weight * 1e-5, bias=layer.bias * 0))
    threshold, gain = np.random.default_rng(seed).uniform(0.3, 1, size=2).tolist()
    graph = swap(graph, replace(node, threshold=threshold, gain=gain))
    integers, scales = quantised(graph, CPU)
    assert check_parameters(graph, integers, scales) > 0


def test_an_unknown_reset_is_refused_by_name() -> None:
    graph = spiking_graph(0)
    node = graph["p1"]
    assert isinstance(node, ir.LIF)
    with pytest.raises(InputError, match=r"^p1: unknown reset, found refractory"):
        quantised(swap(graph, replace(node, reset="refractory")))


def test_a_sum_of_neurons_and_a_held_input_is_refused() -> None:
    graph = spiking_graph(0, skips=((0, 1),))
    layer = graph["c0to1"]
    with pytest.raises(CapabilityError, match=r"^p1: spikes and a held input into one population"):
        quantised(swap(graph, replace(layer, inputs=("x",))))


def test_one_layer_for_two_populations_is_refused() -> None:
    graph = spiking_graph(0)
    with pytest.raises(CapabilityError, match=r"^c1: one layer feeds two populations"):
        quantised(swap(graph, replace(graph["p2"], inputs=("c1",))))


def test_a_neuron_on_a_pool_without_weights_is_refused() -> None:
    graph = spiking_graph(0, depth=2, pool=True)
    with pytest.raises(CapabilityError, match=r"^p1: a neuron must read weighted sums, found MaxPool2d|^pool: "):
        quantised(swap(graph, replace(graph["p1"], inputs=("pool",))))


@pytest.mark.parametrize("factor", [0.0, 1e-12])
@pytest.mark.parametrize("target", [LOIHI2, CPU])
def test_a_first_layer_of_weights_around_zero_left_the_hosts_integers(factor: float, target: Target) -> None:
    """Bits after the point were as many as such weights leave room for, and the bias lost all of its own."""
    graph = spiking_graph(0, depth=1)
    layer = graph["c0"]
    assert isinstance(layer, ir.Conv2d)
    graph = swap(graph, replace(layer, weight=factor * layer.weight, bias=layer.bias + 1.0))
    integers, scales = quantised(graph, target)
    assert check_parameters(graph, integers, scales) > 0
    held = integers["c0"]
    assert isinstance(held, fixed.HeldCurrent)
    assert 2**40 < np.abs(held.bias).max() < 2**53
    assert agreement(graph, integers) == 1.0


def test_currents_that_no_bias_of_the_host_can_hold_are_refused() -> None:
    graph = spiking_graph(0, depth=1)
    layer = graph["c0"]
    assert isinstance(layer, ir.Conv2d)
    with pytest.raises(QuantizeError, match=r"^p0: currents do not fit the host's bias"):
        quantised(swap(graph, replace(layer, bias=layer.bias + 1e5)))


def test_a_bias_beyond_every_scale_is_refused() -> None:
    graph = spiking_graph(0, depth=2)
    layer = graph["c1"]
    assert isinstance(layer, ir.Conv2d)
    with pytest.raises(QuantizeError, match=r"^p1: weights and bias do not fit one scale"):
        quantised(swap(graph, replace(layer, bias=layer.bias + 1e5)))
