from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.fixed_interpreter import held, lif_step, logical, to_integers, wall_clock
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array
from avsnn.convert.passes.integer_formats import Target
from avsnn.convert.passes.quantise import quantise
from avsnn.errors import DomainError, InputError
from avsnn.hw_profiles.profile import load_profile
from tests.strategies import SEEDS, inputs_for, spiking_graph


def quantised(coding: str = "direct") -> Graph:
    graph = spiking_graph(0, T=4, coding=coding)
    target = Target.of(load_profile("loihi2"))
    return quantise(graph, target=target, calibration=inputs_for(graph, 1))[0]


def by_hand(u: int, v: int, a: int, b: int, decay_u: int, decay_v: int, threshold: int) -> tuple[int, int, bool]:
    """The equation of `FixedLIF` for one neuron; ``int`` of a fraction rounds toward zero."""
    u = int(Fraction(u * (4096 - (decay_u + 1)), 4096)) + 64 * a
    v = int(Fraction(v * (4096 - decay_v), 4096)) + u + b
    v = max(-(2**23) + 1, min(2**23 - 1, v))
    return (u, 0, True) if v > 64 * threshold else (u, v, False)


@given(SEEDS, st.integers(-1, 4095), st.integers(0, 4096))
def test_the_neuron_is_its_equation(seed: int, decay_u: int, decay_v: int) -> None:
    rng = np.random.default_rng(seed)
    node = fixed.FixedLIF(
        name="p", shape=(40,), threshold_mant=900, decay_u=decay_u, decay_v=decay_v, bias_mant=np.zeros(1),
        saturates=True,
    )  # fmt: skip
    u, v = rng.integers(-(2**20), 2**20, size=(2, 1, 40))
    a, b = rng.integers(-(2**14), 2**14, size=(1, 40)), rng.integers(1 - 2**23, 2**23, size=(1, 40))
    found = np.stack([part[0] for part in lif_step(node, u, v, a, b, 0)], axis=1).tolist()
    start = zip(u[0].tolist(), v[0].tolist(), a[0].tolist(), b[0].tolist(), strict=True)
    assert found == [list(by_hand(*values, decay_u, decay_v, 900)) for values in start]


def test_division_rounds_toward_zero_and_v_saturates_where_it_may() -> None:
    node = fixed.FixedLIF(name="p", shape=(1,), threshold_mant=2**17 - 1, decay_v=2048, bias_mant=np.zeros(1))
    zero = np.zeros((1, 1), dtype=np.int64)
    _, v, _ = lif_step(node, zero, zero - 3, zero, zero, 0)
    assert v.item() == -1
    deep = zero, zero - 2**23 + 1, zero, zero - 2**22
    _, v, spikes = lif_step(replace(node, saturates=True), *deep, 0)
    assert (v.item(), spikes.item()) == (-(2**23) + 1, False)
    _, v, _ = lif_step(node, zero, deep[1] + 2, *deep[2:], 0)
    assert v.item() == -(2**23) + 2, "one less is inside"
    with pytest.raises(DomainError) as left:
        lif_step(node, *deep, 4)
    error = left.value
    assert (error.where, error.quantity, error.step, error.sample, error.neuron) == ("p", "v", 4, 0, (0,))


@pytest.mark.parametrize("reset", ["hard", "subtract", "subtract_delayed"])
def test_v_may_saturate_above_where_it_is_forgotten(reset: str) -> None:
    node = fixed.FixedLIF(
        name="p", shape=(1,), threshold_mant=9, decay_v=0, bias_mant=np.zeros(1), reset=reset, subtract=9 << 6
    )
    zero = np.zeros((1, 1), dtype=np.int64)
    step = (zero, zero + 2**23 - 99, zero, zero + 100)
    if reset == "hard":
        _, v, spikes = lif_step(node, *step, 0)
        assert (v.item(), spikes.item()) == (0, True)
        with pytest.raises(DomainError):
            lif_step(replace(node, threshold_mant=2**17), *step, 0)
    else:
        with pytest.raises(DomainError):
            lif_step(node, *step, 0)
        lif_step(replace(node, saturates=True), *step, 0)


def test_a_bias_beyond_the_state_is_named() -> None:
    node = fixed.FixedLIF(name="p", shape=(2,), threshold_mant=9, decay_v=0, bias_mant=np.zeros(1))
    zero = np.zeros((1, 2), dtype=np.int64)
    with pytest.raises(DomainError) as left:
        lif_step(node, zero, zero, zero, zero + np.array([5, -(2**23)]), 0)
    assert (left.value.quantity, left.value.neuron, left.value.found) == ("bias", (1,), -(2**23))


def test_a_current_beyond_the_state_names_step_sample_and_neuron() -> None:
    node = fixed.FixedLIF(name="p", shape=(3,), threshold_mant=1, decay_v=2048, bias_mant=np.zeros(1))
    a = np.zeros((2, 3), dtype=np.int64)
    a[1, 2] = 2**17
    with pytest.raises(DomainError, match=r"^p: u leaves the 24-bit state at step 5, sample 1, neuron \(.*2.*\)"):
        lif_step(node, a * 0, a * 0, a, a * 0, 5)


@given(SEEDS, st.integers(0, 6))
def test_a_held_current_is_rounded_half_up(seed: int, shift: int) -> None:
    rng = np.random.default_rng(seed)
    weight, bias, x = rng.integers(-9, 9, size=(4, 5)), rng.integers(-9, 9, size=4), rng.integers(0, 9, size=(6, 5))
    node = fixed.HeldCurrent(name="h", shape=(4,), weight=weight, bias=bias, shift=shift)
    wanted = np.floor((x @ weight.T + bias) / 2**shift + (0.5 if shift else 0))
    np.testing.assert_array_equal(held(node, x), wanted)


def test_inputs_become_the_nearest_integers() -> None:
    graph = quantised()
    x = np.full((1, 2, 5, 5), 100.4 / 255)
    assert (to_integers(graph, {"x": x})["x"] == 100).all()


def bad(x: Array) -> dict[str, tuple[dict[str, Array], str]]:
    return {
        "missing": ({"other": x}, "^x: input missing, found other"),
        "one axis too few": ({"x": x[0]}, "^x: wrong input shape"),
        "nan": ({"x": x * np.nan}, "^x: input holds NaN or infinity"),
        "outside": ({"x": x + 1.01}, "^x: input outside its declared range, found .*, limit 0 to 1; scale the data"),
    }


@pytest.mark.parametrize("kind", bad(np.zeros(1)))
@pytest.mark.parametrize("coding", ["direct", "sequence"])
def test_inputs_that_cannot_be_meant_are_refused(kind: str, coding: str) -> None:
    graph = quantised(coding)
    lead = (3,) if coding == "direct" else (4, 3)
    inputs, message = bad(np.zeros((*lead, 2, 5, 5)))[kind]
    with pytest.raises(InputError, match=message):
        to_integers(graph, inputs)


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_a_sequence_of_another_length_broke_in_numpy(steps: int) -> None:
    with pytest.raises(InputError, match=r"^x: wrong input shape, .*limit \(4, 'batch', 2, 5, 5\)"):
        to_integers(quantised("sequence"), {"x": np.zeros((steps, 3, 2, 5, 5))})


def test_inputs_of_different_batch_sizes_are_refused() -> None:
    graph = quantised()
    first = graph["x"]
    two = replace(graph, nodes=(first, replace(first, name="y"), *graph.nodes[1:]))
    inputs = {"x": np.zeros((2, 2, 5, 5), dtype=np.int64), "y": np.zeros((3, 2, 5, 5), dtype=np.int64)}
    with pytest.raises(InputError, match=r"^x, y: inputs disagree on the number of samples"):
        logical(two, inputs)


def test_delays_per_neuron_make_each_target_wait_for_itself() -> None:
    nodes = (
        fixed.FixedInput(name="x", shape=(1,), coding="sequence", low=0, high=1, step=1.0),
        fixed.FixedLinear(
            name="w",
            inputs=("x",),
            shape=(3,),
            weight_mant=np.full((3, 1), 2),
            delay=1,
            output_delay=np.array([0, 2, 1]),
        ),
        fixed.FixedLIF(name="p", inputs=("w",), shape=(3,), threshold_mant=1, decay_v=4096, bias_mant=np.zeros(1)),
    )
    graph = Graph(nodes=nodes, outputs=("p",), timesteps=6, stage="scheduled")
    pulse = np.array([1, 0, 0, 0, 0, 0]).reshape(6, 1, 1)
    spikes = wall_clock(graph, {"x": pulse}).spikes["p"][:, 0]
    assert spikes.argmax(axis=0).tolist() == [2, 4, 3]  # 1 for the synapse, 1 delay, and each its own
    assert spikes.sum() == 3
