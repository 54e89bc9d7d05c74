"""Layers that networks written elsewhere bring along, against the module itself, spike for spike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from avsnn.convert.equivalence import compare
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.interpreter import interpret
from avsnn.convert.pipeline import convert
from avsnn.convert.tracer import trace, witness
from avsnn.errors import TraceError
from avsnn.train.layers import DirectCoding, TimeBatched
from avsnn.train.neurons import LIF
from tests.strategies import images, randomise


class Pooled(nn.Module):
    """Neurons, an average pool, neurons, another one, a head."""

    def __init__(self, between: nn.Module, last: nn.Module, channels: int = 4, features: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, channels, 3, padding=1)
        self.code = DirectCoding(3)
        self.lif = LIF()
        self.between = TimeBatched(between)
        self.conv2 = TimeBatched(nn.Conv2d(channels, 4, 1))
        self.lif2 = LIF()
        self.last = TimeBatched(last)
        self.drop = nn.Dropout2d(0.5)
        self.head = nn.Linear(features, 3)
        randomise(self, 2)
        with torch.no_grad():
            self.conv2.module.weight.mul_(4.0)  # type: ignore[operator]

    def forward(self, image: Tensor) -> Tensor:
        x = self.lif(self.code(self.conv(image) * 1.5 / 2))
        x = self.lif2(self.conv2(self.between(x)))
        answer: Tensor = self.head(self.last(x).flatten(2).mean(0))
        return answer


@pytest.mark.parametrize(
    ("between", "last", "features"),
    [
        (nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), 4),
        (nn.AvgPool2d(3, stride=1, padding=1), nn.AdaptiveAvgPool2d((3, 2)), 24),
        (nn.AvgPool2d((2, 3), divisor_override=3), nn.AdaptiveAvgPool2d(1), 4),
        (nn.AdaptiveAvgPool2d(2), nn.AvgPool2d(2), 4),
    ],
)
def test_average_pools_are_fixed_convolutions(between: nn.Module, last: nn.Module, features: int) -> None:
    module = Pooled(between, last, features=features)
    graph = trace(module, images(0))
    expected, found = witness(module, images(0)), interpret(graph, images(0))
    assert not compare("pools", "data", expected, found, exact=False).silent
    assert isinstance(graph["between"], ir.Conv2d)
    assert convert(module, images(0)).record["checks"]


@pytest.mark.parametrize(
    ("between", "message"),
    [
        (nn.AvgPool2d(4, ceil_mode=True), "windows differ in size"),
        (nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False), "windows differ in size"),
        (nn.AdaptiveAvgPool2d(4), r"adaptive pooling of \(6, 6\) to \(4, 4\): parts that overlap"),
    ],
)
def test_pools_of_unequal_windows_are_refused(between: nn.Module, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        trace(Pooled(between, nn.AdaptiveAvgPool2d(1)), images(0))


class Changed(nn.Module):
    def __init__(self, change: Any) -> None:
        super().__init__()
        self.code, self.lif, self.change = DirectCoding(2), LIF(), change

    def forward(self, image: Tensor) -> Tensor:
        answer: Tensor = self.change(self.lif(self.code(image * 3))).mean(0)
        return answer


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x / 4,
        lambda x: torch.div(x, 3),
        lambda x: x.permute(0, 1, 4, 2, 3),
        lambda x: torch.permute(x, (0, 1, 3, 4, -3)),
        lambda x: x.permute(0, 1, 2, 3, 4),
    ],
)
def test_divisions_and_permutations(change: Any) -> None:
    module = Changed(change)
    graph = trace(module, images(0))
    expected, found = witness(module, images(0)), interpret(graph, images(0))
    compare("calls", "data", expected, found, exact=False)
    (answer,) = found.outputs.values()
    assert np.abs(answer).max() > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x / 0, "only the division by a number"),
        (lambda x: 1 / x, "divides a number by an activity"),
        (lambda x: torch.div(x, 2, rounding_mode="floor"), "a division that rounds"),
        (lambda x: x.permute(1, 0, 2, 3, 4), "moves time or samples|mixes features with time"),
    ],
)
def test_what_is_no_number_or_moves_time_is_refused(change: Any, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        trace(Changed(change), images(0))
