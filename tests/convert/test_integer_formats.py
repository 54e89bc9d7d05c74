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
from avsnn.convert.passes.integer_formats import Target, check_range, grid, mantissas, reach, shift
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


@given(SEEDS, st.integers(2, 8), st.integers(1, 4), st.integers(1, 6), st.sampled_from([0, 1]))
def test_groups_round_no_worse_and_stay_within_their_formats(
    seed: int, bits: int, most: int, spread: int, sign: int
) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(6, 3, 2)) * 2.0 ** rng.uniform(-spread, spread, size=(6, 1, 1)) * 50
    weight = np.abs(weight) if sign else weight
    target = Target.of(load_profile("loihi2"), weight_bits=bits)
    mant, exp, mode = mantissas(weight, target, most)
    exps = np.broadcast_to(exp, (6,))
    assert mant.shape == weight.shape
    assert signed_core_grid(max_bits=bits, bits=bits, sign_mode=mode).contains(mant)
    assert exps.max() - exps.min() < most
    assert np.ndim(exp) == (len(set(exps.tolist())) > 1)
    steps = (2 if mode == "mixed" else 1) << exps
    assert (np.abs((mant << exps[:, None, None]) - weight) <= steps[:, None, None] / 2).all()
    one, shared, _ = mantissas(weight, target)
    assert isinstance(shared, int)
    assert shared == exps.max()  # the largest weights are as without groups
    errors = [np.abs((m << e) - weight).sum() for m, e in ((mant, exps[:, None, None]), (one, shared))]
    assert errors[0] <= errors[1] + 1e-9 or most == 1


def test_rows_of_small_weights_get_a_finer_step_where_it_rounds_otherwise() -> None:
    weight = np.array([[500.0, -3.3], [62.0, -3.3], [0.0, 0.0], [100.0, 40.0]])
    mant, exp, mode = mantissas(weight, LOIHI2, 4)
    assert mode == "mixed"
    assert isinstance(exp, np.ndarray)
    assert exp.tolist() == [1, 0, 0, 0]
    assert mant.tolist() == [[250, -2], [62, -4], [0, 0], [100, 40]]
    rest = mantissas(weight[[0, 2, 3]], LOIHI2, 4)  # on both grids: one format is enough
    assert (rest[0].tolist(), rest[1]) == ([[250, -2], [0, 0], [50, 20]], 1)


@pytest.mark.parametrize(("most", "wanted"), [(1, [6, 6, 6, 6]), (2, [6, 5, 5, 5]), (3, [6, 5, 4, 4])])
def test_the_exponents_of_a_connection_are_consecutive(most: int, wanted: list[int]) -> None:
    weight = 2.0 ** -np.array([[0, 1], [1, 2], [2, 3], [9, 9]]) * np.array([1, -1]) * 251 * 64
    assert np.broadcast_to(mantissas(weight, LOIHI2, most)[1], (4,)).tolist() == wanted


def test_few_formats_are_shared_by_all_connections_of_a_population() -> None:
    assert [LOIHI2.exponents(n) for n in (1, 2, 3, 4, 9)] == [4, 3, 2, 1, 1]
    assert Target.of(load_profile("cpu")).exponents(1) == 1


@pytest.mark.parametrize(
    ("weight", "mode"), [([0.0, 0.0], "excitatory"), ([-1.0, 0.0], "inhibitory"), ([-1.0, 1.0], "mixed")]
)
def test_the_sign_mode_follows_from_the_weights(weight: list[float], mode: str) -> None:
    assert mantissas(np.array(weight), LOIHI2)[2] == mode


def exact_and_integer(
    currents: list[list[int]], whole: int, h: int, threshold: Fraction, *, strict: bool = False
) -> tuple[list[list[bool]], list[list[bool]]]:
    """Spikes of the rational neuron with decay 1/2 and this threshold, and of the integer one with h: (T, samples)."""
    node = fixed.FixedLIF(name="p", shape=(1,), threshold_mant=h, decay_v=2048, bias_mant=np.array([whole]), bias_exp=6)
    exact = [Fraction(0)] * len(currents[0])
    u = v = np.zeros((len(exact), 1), dtype=np.int64)
    wanted, found = [], []
    for t, row in enumerate(currents):
        exact = [x / 2 + a + whole for x, a in zip(exact, row, strict=True)]
        fires = [x > threshold if strict else x >= threshold for x in exact]
        exact = [Fraction(0) if s else x for x, s in zip(exact, fires, strict=True)]
        u, v, spikes = lif_step(node, u, v, np.array(row, dtype=np.int64)[:, None], np.int64(whole << 6), t)
        wanted.append(fires)
        found.append(spikes[:, 0].tolist())
    return wanted, found


def small_currents(T: int) -> list[list[int]]:
    """So small that sums meet small thresholds, and the next grid point, again and again."""
    return np.random.default_rng(T).integers(-4, 9, size=(T, 200)).tolist()


@pytest.mark.parametrize("T", range(1, 8))
def test_one_grid_step_above_an_integer_keeps_every_tie_up_to_seven_steps(T: int) -> None:
    for h in (1, 2, 3, 5, 8, 13):
        for whole in (-3, -1, 0, 1, 2):
            wanted, found = exact_and_integer(small_currents(T), whole, h, h + Fraction(grid(T)))
            assert wanted == found, (h, whole)


@pytest.mark.parametrize("T", range(1, 8))
def test_at_the_integer_itself_ties_are_lost_unless_the_neuron_is_strict(T: int) -> None:
    wanted, found = exact_and_integer(small_currents(T), 1, 3, Fraction(3))
    assert wanted != found
    wanted, found = exact_and_integer(small_currents(T), 1, 3, Fraction(3), strict=True)
    assert wanted == found


@given(SEEDS, st.integers(1, 7))
def test_the_tie_rule_is_exact_over_random_biases_and_thresholds(seed: int, T: int) -> None:
    rng = np.random.default_rng(seed)
    h, whole = int(rng.integers(1, 30_000)), int(rng.integers(-4095, 4096))
    currents = rng.integers(-h, 2 * h, size=(T, 40))
    currents[:, ::2] = h - whole + rng.integers(0, 2, size=(T, 20))  # at the integer, or one above, after every reset
    currents[0, 1::4] = 1 - whole  # a rest that halves down to the finest fraction
    currents[1:-1, 1::4] = -whole
    currents[-1, 1::4] = h - whole  # and meets the threshold with it in the last step
    wanted, found = exact_and_integer(currents.tolist(), whole, h, h + Fraction(grid(T)))
    assert wanted == found


@given(SEEDS, st.integers(8, 16))
def test_multiples_of_the_shift_keep_the_ties_of_long_windows(seed: int, T: int) -> None:
    rng = np.random.default_rng(seed)
    k = shift(T, 2048)
    h, whole = int(rng.integers(8 << k, 60_000)), int(rng.integers(-3, 4)) << k
    currents = rng.integers(-h >> k, (2 * h) >> k, size=(T, 40)) << k
    goal = ((h << (T - 1)) >> k) + rng.integers(0, 2, size=40)  # at h, or the next thing a membrane can be
    currents[:-1, ::2] = [((goal[::2] >> t & 1) << k) - whole for t in range(T - 1)]
    currents[-1, ::2] = ((goal[::2] >> (T - 1)) << k) - whole
    wanted, found = exact_and_integer(currents.tolist(), whole, h, h + Fraction(grid(T)))
    assert wanted == found
    assert any(wanted[-1][::2])
    assert not all(wanted[-1][::2])


def test_the_grid_halves_with_every_step_until_v_has_no_more_fractional_bits() -> None:
    assert [grid(T) for T in (1, 2, 4, 7, 8, 20)] == [1, 1 / 2, 1 / 8, 1 / 64, 1 / 64, 1 / 64]


def test_the_largest_bias_fits_thirteen_bits_with_its_sign() -> None:
    layer = ir.Linear(name="l", origin="head (Linear)", weight=np.zeros((1, 1)), bias=np.zeros(1))
    check_range(np.array([-LOIHI2.bias_room, LOIHI2.bias_room]), 13, "bias", layer)
    for value in (4096, -4096):
        with pytest.raises(
            QuantizeError, match=rf"^head \(Linear\): bias out of range, found {value} to {value}, limit"
        ):
            check_range(np.array([value]), 13, "bias", layer)


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
