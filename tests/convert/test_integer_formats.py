from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.fixed_interpreter import lif_step
from avsnn.convert.ir.kernels import conv2d
from avsnn.convert.passes.integer_formats import Target, bias_format, mantissas, reach, tie_rules
from avsnn.errors import QuantizeError
from avsnn.hw_profiles.formats import signed_core_grid
from avsnn.hw_profiles.profile import load_profile
from tests.strategies import SEEDS

LOIHI2 = Target.of(load_profile("loihi2"))


def test_the_formats_of_loihi2_are_those_of_its_profile() -> None:
    assert (LOIHI2.weight_bits, LOIHI2.weight_exp_max, LOIHI2.even) == (8, 7, True)
    assert (LOIHI2.bias_mant_bits, LOIHI2.threshold_bits, LOIHI2.state_bits) == (13, 17, 24)
    assert LOIHI2.threshold_room == 2**17 - 1
    assert LOIHI2.weight_room == 254


@pytest.mark.parametrize("bits", [1, 9])
def test_weight_bits_that_the_target_lacks_are_refused(bits: int) -> None:
    with pytest.raises(QuantizeError, match=rf"loihi2: weight bits out of range, found {bits}, limit 2 to 8"):
        Target.of(load_profile("loihi2"), weight_bits=bits)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("sign", ["mixed", "excitatory", "inhibitory"])
def test_mantissas_keep_every_value_of_their_grid_and_need_no_exponent(bits: int, sign: str) -> None:
    target = Target.of(load_profile("loihi2"), weight_bits=bits)
    grid = signed_core_grid(max_bits=bits, bits=bits, sign_mode=sign)
    values = np.arange(grid.low, grid.high + 1, grid.step)
    mant, exp, mode = mantissas(values.astype(float), target)
    assert (exp, mode) == (0, sign)
    np.testing.assert_array_equal(mant, values)


@given(SEEDS, st.integers(2, 8), st.floats(0.01, 2e4), st.sampled_from([-1.0, 0.0, 1.0]), st.booleans())
def test_mantissas_are_legal_and_within_half_a_step(seed: int, bits: int, size: float, sign: float, even: bool) -> None:
    target = Target(weight_bits=bits, weight_exp_max=7, bias_mant_bits=13, threshold_bits=17, state_bits=24, even=even)
    weight = np.random.default_rng(seed).normal(size=12) * size
    weight = np.abs(weight) * sign if sign else weight
    mant, exp, mode = mantissas(weight, target)
    grid = signed_core_grid(max_bits=bits, bits=bits, sign_mode=mode)
    if even or mode != "mixed":
        assert grid.contains(mant)
    else:
        assert (np.abs(mant) <= 2 ** (bits - 1)).all()
    step = (2 if even and mode == "mixed" else 1) << exp
    assert (np.abs((mant << exp) - weight) <= step / 2).all()
    if exp:  # the smallest exponent that fits: at half the step something would not
        smaller = np.abs(np.rint(weight * 2 / step) * step / 2).max() / 2 ** (exp - 1)
        assert smaller > (grid.high if mode != "inhibitory" else -grid.low) or not even


@pytest.mark.parametrize(
    ("weight", "mode"), [([0.0, 0.0], "excitatory"), ([-1.0, 0.0], "inhibitory"), ([-1.0, 1.0], "mixed")]
)
def test_the_sign_mode_follows_from_the_weights(weight: list[float], mode: str) -> None:
    assert mantissas(np.array(weight), LOIHI2)[2] == mode


def exact_and_integer(
    currents: list[list[int]], whole: int, theta: int, tie: str, T: int, strict: bool = False
) -> tuple[list[list[bool]], list[list[bool]]]:
    """Spikes of the rational neuron with decay 1/2 and of the integer neuron, (T, samples)."""
    lift = T - 1 if tie == "shift" else 0
    mant, exp = bias_format(np.array([whole]), T, tie)
    node = fixed.FixedLIF(
        name="p", shape=(1,), threshold_mant=(theta << lift) - (tie == "shift"), decay_v=2048, bias_mant=mant,
        bias_exp=exp,
    )  # fmt: skip
    exact = [Fraction(0)] * len(currents[0])
    u = v = np.zeros((len(exact), 1), dtype=np.int64)
    wanted, found = [], []
    for t in range(T):
        exact = [x / 2 + a + whole for x, a in zip(exact, currents[t], strict=True)]
        fires = [x > theta if strict else x >= theta for x in exact]
        exact = [Fraction(0) if s else x for x, s in zip(exact, fires, strict=True)]
        a = (np.array(currents[t], dtype=np.int64) << lift)[:, None]
        u, v, spikes = lif_step(node, u, v, a, mant << exp, t)
        wanted.append(fires)
        found.append(spikes[:, 0].tolist())
    return wanted, found


@pytest.mark.parametrize("T", range(1, 7))
@pytest.mark.parametrize("tie", ["offset", "shift"])
def test_both_tie_rules_are_exact_for_every_small_current_up_to_six_steps(T: int, tie: str) -> None:
    """All sums of small currents, biases and thresholds meet the threshold exactly again and again."""
    rng = np.random.default_rng(T)
    wrong = 0
    for theta in (1, 2, 3, 5, 8, 13):
        for whole in (-3, -1, 0, 1, 2):
            wanted, found = exact_and_integer(rng.integers(-4, 9, size=(T, 60)).tolist(), whole, theta, tie, T)
            wrong += wanted != found
    assert wrong == 0


@pytest.mark.parametrize("T", range(1, 7))
def test_without_a_tie_rule_the_same_currents_differ(T: int) -> None:
    rng = np.random.default_rng(T)
    currents = rng.integers(-4, 9, size=(T, 300)).tolist()
    wanted, found = exact_and_integer(currents, 1, 3, "none", T)
    assert wanted != found
    strict, found = exact_and_integer(currents, 1, 3, "none", T, strict=True)
    assert strict == found  # which is why a neuron that fires on ">" needs no rule


@given(SEEDS, st.integers(1, 6), st.sampled_from(["offset", "shift"]))
def test_tie_rules_are_exact_over_random_biases_and_thresholds(seed: int, T: int, tie: str) -> None:
    rng = np.random.default_rng(seed)
    theta = int(rng.integers(1, 1500))
    room = LOIHI2.bias_room(T, tie)
    whole = int(rng.integers(-room, room + 1))
    currents = rng.integers(-theta, 2 * theta, size=(T, 40))
    currents[:, ::2] = theta - whole  # a tie at once, and after every reset
    currents[1:, ::4] //= 2  # and ties with what is left of steps before
    wanted, found = exact_and_integer(currents.tolist(), whole, theta, tie, T)
    assert wanted == found


@pytest.mark.parametrize("tie", ["offset", "shift", "none"])
@pytest.mark.parametrize("T", range(1, 10))
def test_the_largest_bias_of_each_rule_fits_thirteen_bits_and_the_next_power_does_not(T: int, tie: str) -> None:
    if tie == "shift" and T > 6:
        return
    room = LOIHI2.bias_room(T, tie)
    for whole in (-room, room):
        mant, exp = bias_format(np.array([whole]), T, tie)
        assert -(2**12) <= mant[0] < 2**12
        assert 0 <= exp <= 7
    beyond, _ = bias_format(np.array([2 * room + 2]), T, tie)
    assert beyond[0] >= 2**12


def test_a_neuron_that_fires_on_greater_needs_no_rule() -> None:
    lif = ir.LIF(name="p", decay=0.5, gain=0.5, threshold=1.0, strict=True)
    assert tie_rules(lif, 4) == ("none",)


@given(SEEDS, st.integers(0, 2), st.integers(-3, 0))
def test_no_input_goes_beyond_reach(seed: int, padding: int, low: int) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(3, 2, 3, 3))
    size = 3 + 2 * padding
    layer = ir.Conv2d(name="c", shape=(3, size, size), weight=weight, bias=np.zeros(3), padding=(padding, padding))
    bias = rng.normal(size=3)
    bound = reach(layer, weight, bias, low, 4)
    worst = 0.0
    for row in range(3):
        for sign in (1, -1):
            x = np.where(sign * weight[row] > 0, 4.0, float(low))[None]
            if padding == 0:
                y = conv2d(x, weight, (1, 1), (0, 0), (1, 1), 1) + bias[:, None, None]
                worst = max(worst, float(np.abs(y).max()))
            x = rng.integers(low, 5, size=(8, 2, 5, 5)).astype(float)
            y = conv2d(x, weight, (1, 1), (padding, padding), (1, 1), 1) + bias[:, None, None]
            assert np.abs(y).max() <= bound + 1e-9
    if padding == 0:  # and the bound is reached
        assert worst == pytest.approx(bound)
