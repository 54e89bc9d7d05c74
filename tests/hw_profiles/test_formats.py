from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avsnn.errors import InputError
from avsnn.hw_profiles.formats import SIGN_MODES, Bits, WeightGrid, signed_core_grid


@given(st.booleans(), st.integers(2, 62))
def test_a_format_holds_exactly_two_to_the_width_integers(signed: bool, width: int) -> None:
    bits = Bits(signed=signed, width=width)
    assert bits.max - bits.min + 1 == 1 << width
    assert (bits.min < 0) is signed
    assert bits.contains([bits.min, 0, bits.max])
    assert not bits.contains([bits.max + 1])
    assert not bits.contains([bits.min - 1])


def test_unsigned_64_bit_values_are_not_compared_as_floats() -> None:
    top = np.array([2**63 - 1, 2**63], dtype=np.uint64)
    assert not Bits(signed=True, width=64).contains(top)
    assert Bits(signed=True, width=64).contains(top[:1])


def test_floats_are_no_integers_and_nothing_is_contained() -> None:
    assert not Bits(signed=True, width=8).contains([1.0])
    assert Bits(signed=True, width=8).contains(np.zeros(0))
    assert Bits(signed=False, width=1).contains(np.array([True, False]))


@pytest.mark.parametrize(("signed", "width"), [(True, 1), (False, 0)])
def test_a_format_without_numbers_is_refused(signed: bool, width: int) -> None:
    with pytest.raises(InputError, match="too few bits"):
        Bits(signed=signed, width=width)


@pytest.mark.parametrize(
    ("bits", "sign_mode", "grid"),
    [
        (8, "mixed", (-256, 254, 2)),
        (8, "excitatory", (0, 255, 1)),
        (8, "inhibitory", (-255, 0, 1)),
        (4, "mixed", (-256, 224, 32)),
    ],
)
def test_weights_of_a_signed_core(bits: int, sign_mode: str, grid: tuple[int, int, int]) -> None:
    low, high, step = grid
    assert signed_core_grid(max_bits=8, bits=bits, sign_mode=sign_mode) == WeightGrid(low=low, high=high, step=step)


@given(st.integers(1, 8), st.sampled_from(SIGN_MODES))
def test_a_grid_has_as_many_weights_as_its_bits_can_tell_apart(bits: int, sign_mode: str) -> None:
    grid = signed_core_grid(max_bits=8, bits=bits, sign_mode=sign_mode)
    weights = np.arange(grid.low, grid.high + 1, grid.step)
    assert len(weights) == 2**bits
    assert 0 in weights
    assert grid.contains(weights)
    assert not grid.contains([grid.high + grid.step])
    assert grid.step == 1 or not grid.contains([grid.low + 1])


def test_grids_are_checked_on_narrow_arrays() -> None:
    assert not signed_core_grid(max_bits=8, bits=1, sign_mode="mixed").contains(np.array([64], np.int8))


def test_unknown_sign_modes_and_widths_are_refused() -> None:
    with pytest.raises(InputError, match="limit mixed, excitatory, inhibitory"):
        signed_core_grid(max_bits=8, bits=8, sign_mode="both")
    with pytest.raises(InputError, match=r"found 9, limit 1\.\.8"):
        signed_core_grid(max_bits=8, bits=9, sign_mode="mixed")
