"""Normalisation, direct coding and per-step modules, each against its equation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from avsnn.errors import InputError
from avsnn.train.layers import DirectCoding, Normalise, TimeBatched


def test_normalise_is_per_channel_with_and_without_batch() -> None:
    layer = Normalise((1.0, 2.0), (4.0, 0.5))
    x = torch.tensor([[[5.0]], [[3.0]]])
    assert layer(x).flatten().tolist() == [1.0, 2.0]
    assert layer(x.expand(3, 2, 1, 1)).shape == (3, 2, 1, 1)
    assert set(layer.state_dict()) == {"mean", "std"}


@pytest.mark.parametrize(("mean", "std"), [((0.0,), (1.0, 1.0)), ((0.0,), (0.0,)), ((0.0,), (float("nan"),))])
def test_normalise_refuses(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="Normalise"):
        Normalise(mean, std)


def test_direct_coding_repeats_without_a_copy() -> None:
    x = torch.rand(2, 3)
    coded = DirectCoding(4)(x)
    assert coded.shape == (4, 2, 3)
    assert all(torch.equal(step, x) for step in coded)
    assert coded.data_ptr() == x.data_ptr()
    with pytest.raises(InputError, match="DirectCoding"):
        DirectCoding(0)


def test_time_batched_applies_to_each_step() -> None:
    pool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
    x = torch.rand(4, 2, 3, 7, 7)
    expected = torch.stack([pool(step) for step in x])
    assert torch.equal(TimeBatched(pool)(x), expected)
