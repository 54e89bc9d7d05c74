"""The integer arithmetic against Python's unbounded integers, densely where it is small and at every edge."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avsnn.errors import DomainError
from avsnn.hw_profiles import fixed_point as fx

TOP = (1 << 23) - 1
EDGES = [0, 1, 63, 64, 4095, 4096, 4097, 1 << 22, TOP]
STATES = np.array(sorted({sign * (x + d) for x in EDGES for d in (-1, 0, 1) for sign in (1, -1) if abs(x + d) <= TOP}))


def toward_zero(x: int, keep: int) -> int:
    return (x * keep) // 4096 if x >= 0 else -((-x * keep) // 4096)


def test_truncate12_rounds_toward_zero_everywhere() -> None:
    x = np.arange(-20_000, 20_001)
    assert fx.truncate12(x).tolist() == [toward_zero(int(i), 1) for i in x]
    assert fx.truncate12(x).tolist() != (x >> 12).tolist()  # control: floor is something else


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_decay_is_exact_for_every_keep(dtype: type[np.generic]) -> None:
    x = STATES.astype(dtype)
    for keep in range(4097):
        result = fx.decay(x, keep)
        assert result.dtype == dtype
        sign, size = np.sign(STATES), np.abs(STATES)
        assert np.array_equal(result, sign * (size * keep >> 12)), keep


@given(st.lists(st.integers(-(2**31) + 1, 2**31 - 1), min_size=1), st.integers(0, 4096))
def test_decay_is_exact_for_every_int32(values: list[int], keep: int) -> None:
    expected = [toward_zero(x, keep) for x in values]
    assert fx.decay(np.array(values, np.int32), keep).tolist() == expected
    assert fx.decay(np.array(values, np.int64), keep).tolist() == expected


@pytest.mark.parametrize("keep", [-1, 4097])
def test_decay_refuses_what_is_no_fraction(keep: int) -> None:
    with pytest.raises(DomainError, match="decay"):
        fx.decay(STATES, keep)


def test_clip_saturates_symmetrically() -> None:
    x = np.array([-TOP - 2, -TOP - 1, -TOP, 0, TOP, TOP + 1])
    assert fx.clip24(x).tolist() == [-TOP, -TOP, -TOP, 0, TOP, TOP]
    assert fx.clip_state(x, 8).tolist() == [-127, -127, -127, 0, 127, 127]


def plain_step(u: int, v: int, a: int, b: int, du: int, dv: int, theta: int) -> tuple[int, int, bool]:
    u = toward_zero(u, 4096 - (du + 1)) + 64 * a
    v = max(-TOP, min(TOP, toward_zero(v, 4096 - dv) + u + b))
    return u, 0 if v > 64 * theta else v, v > 64 * theta


state = st.integers(-TOP, TOP) | st.sampled_from(STATES.tolist())
current = st.integers(-(1 << 24) + 1, (1 << 24) - 1)


@given(
    st.lists(st.tuples(state, state, current, state), min_size=1),
    st.integers(-1, 4095) | st.just(4095),
    st.integers(0, 4096) | st.just(2048),
    st.integers(0, 131071) | st.integers(0, 20),
)
def test_a_step_equals_unbounded_integers_in_both_dtypes(
    rows: list[tuple[int, int, int, int]], du: int, dv: int, theta: int
) -> None:
    expected = [plain_step(*row, du, dv, theta) for row in rows]
    for dtype in (np.int32, np.int64):
        u, v, a, b = (np.array(column, dtype) for column in zip(*rows, strict=True))
        result = fx.lif_step(u, v, a, b, du, dv, theta)
        assert result[0].dtype == result[1].dtype == dtype
        assert list(zip(*(part.tolist() for part in result), strict=True)) == expected
        assert u.tolist() == [row[0] for row in rows]  # what is given stays as it was


def test_the_threshold_is_strict() -> None:
    one = np.array([1])
    for v, spikes in ((25 * 64, False), (25 * 64 + 1, True)):
        assert fx.lif_step(0 * one, 0 * one, 0 * one, v * one, 4095, 4096, 25)[2].tolist() == [spikes]


def test_the_bound_that_proves_the_domain_is_tight() -> None:
    for du in (4095, 2047, 100, 0):
        largest = next(a for a in range(1 << 17, -1, -1) if fx.never_leaves(a, du))
        u = np.zeros(1, np.int64)
        for _ in range(60_000 if du == 0 else 2_000):
            u = fx.decay(u, 4095 - du) + (largest << 6)
        fx.check_state(u, where="n")
        assert u[0] > 0.96 * TOP  # a whole number of units: 31 of 32 at du = 0
    assert fx.never_leaves(0, -1)
    assert not fx.never_leaves(1, -1)


def test_the_narrow_dtype_is_only_chosen_where_it_is_safe() -> None:
    assert fx.safe_dtype((1 << 24) - 1) is np.int32
    assert fx.safe_dtype(1 << 24) is np.int64
    assert fx.safe_dtype(1, state_bits=25) is np.int64
    with pytest.raises(DomainError):
        fx.safe_dtype(1 << 50)


def test_leaving_the_state_says_where() -> None:
    u = np.zeros((2, 3), np.int64)
    fx.check_state(u + TOP, where="conv1")
    fx.check_state(u - TOP, where="conv1")
    u[1, 2] = -TOP - 1
    with pytest.raises(
        DomainError, match=r"conv1: u leaves the 24-bit state at index \(1, 2\), found -8388608, limit 8388607"
    ):
        fx.check_state(u, where="conv1")
    fx.check_state(u, where="conv1", state_bits=25)
    assert fx.first_outside(u[:0]) is None
