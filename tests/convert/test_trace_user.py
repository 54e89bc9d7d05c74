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


class Lines(nn.Module):
    """Sound as (channels, samples), one dimension all the way."""

    def __init__(self, last: str, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 4, 3, padding=1, stride=2, groups=groups, bias=False)
        self.bn = nn.BatchNorm1d(4)
        self.code = DirectCoding(3)
        self.lif = LIF()
        self.pool = TimeBatched(nn.MaxPool1d(2))
        self.conv2 = TimeBatched(nn.Conv1d(4, 4, 3, dilation=2, padding=2, groups=2))
        self.skip = TimeBatched(nn.Conv1d(4, 4, 1))
        self.lif2 = LIF()
        self.average = TimeBatched(nn.AvgPool1d(2))
        self.head = nn.Linear(4 if last == "mean" else 16, 3)
        self.last = last
        randomise(self, 4)
        rng = np.random.default_rng(6)
        with torch.no_grad():
            for layer in self.modules():
                if isinstance(layer, nn.Conv1d):
                    layer.weight.copy_(torch.from_numpy(rng.uniform(-0.5, 2.0, size=tuple(layer.weight.shape))))

    def forward(self, sound: Tensor) -> Tensor:
        x = self.pool(self.lif(self.code(self.bn(self.conv(sound)))))
        x = self.average(self.lif2(self.conv2(x) + self.skip(x)))
        x = x.mean(-1) if self.last == "mean" else x.flatten(2)
        answer: Tensor = self.head(x.mean(0))
        return answer


SOUND = {"sound": np.random.default_rng(5).integers(0, 256, size=(6, 2, 32)) / 255}


@pytest.mark.parametrize(("last", "groups"), [("mean", 1), ("flatten", 2)])
def test_layers_of_one_dimension_are_images_of_height_one(last: str, groups: int) -> None:
    module = Lines(last, groups)
    graph = trace(module, SOUND)
    assert graph["lif2"].shape == (4, 1, 8)
    expected, found = witness(module, SOUND, graph=graph), interpret(graph, SOUND)
    assert not compare("lines", "data", expected, found, exact=False).silent
    bundle = convert(module, SOUND)
    assert {"lif", "lif2"} <= set(bundle.graph("scheduled").by_name)


def test_lines_in_another_order_are_refused() -> None:
    class Turned(Lines):
        def forward(self, sound: Tensor) -> Tensor:
            answer: Tensor = self.head(self.lif(self.code(self.conv(sound))).permute(0, 1, 3, 2).flatten(2).mean(0))
            return answer

    module = Turned("flatten")
    module.head = nn.Linear(64, 3)
    with pytest.raises(TraceError, match="axes of a line"):
        trace(module, SOUND)
