"""Accuracy, its interval, and spike rates, on cases that can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from avsnn.errors import InputError
from avsnn.train.data.dataset import Dataset, Format
from avsnn.train.metrics import Confusion, degrees_apart, evaluate, localise
from avsnn.train.neurons import LIF
from avsnn.train.proportion import Proportion
from avsnn.train.rates import SpikeRates


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_interval_solves_its_equation(case: tuple[int, int]) -> None:
    """Wilson's edges are the p0 with |p - p0| = z sqrt(p0 (1 - p0) / n)."""
    correct, count = case
    share = Proportion(correct=correct, count=count)
    low, high = share.interval()
    assert 0 <= low <= share.value + 1e-12
    assert share.value - 1e-12 <= high <= 1
    for edge in (low, high):
        assert (share.value - edge) ** 2 == pytest.approx(1.959963984540054**2 * edge * (1 - edge) / count, abs=1e-9)


def test_rates_count_spikes_over_neurons_and_steps() -> None:
    module = nn.Sequential(LIF(), LIF(v_threshold=9.0))
    currents = torch.tensor([4.0, 0.0, 4.0, 0.0])[:, None, None].expand(4, 2, 5)
    with SpikeRates(module) as meter:
        module(currents)
        module(0 * currents)
    assert meter.rates() == {"0": 0.25, "1": 0.0}
    module(currents)
    assert meter.rates()["0"] == 0.25  # no longer counting


def data(codes: Tensor, label: list[int], **goals: list[int]) -> Dataset:
    return Dataset(
        codes={"input": codes.numpy().astype(np.int64)},
        formats={"input": Format(coding="direct", low=0, high=360, step=1.0)},
        goals={name: np.array(values, np.int64) for name, values in {"label": label, **goals}.items()},
        labels=("a", "b", "c"),
    )


def test_evaluate_counts_every_sample_once() -> None:
    module = nn.Linear(3, 3, bias=False).train()
    with torch.no_grad():
        module.weight.copy_(torch.eye(3))
    found, label = [0, 1, 2, 0, 1, 2, 0], [0, 1, 2, 0, 1, 0, 1]
    seen = evaluate(module, data(torch.eye(3)[found], label), batch=3)
    assert (seen.accuracy.correct, seen.accuracy.count) == (5, 7)
    right, wrong = np.log(np.e + 2) - 1, np.log(np.e + 2)
    assert seen.loss == pytest.approx((5 * right + 2 * wrong) / 7, abs=1e-6)
    assert seen.confusion.counts.tolist() == [[2, 0, 1], [1, 2, 0], [0, 0, 1]]
    assert seen.localisation is None
    assert module.training
    with pytest.raises(InputError, match="nothing to evaluate"):
        evaluate(module, data(torch.zeros(0, 3), []))


def test_confusion_shares_are_by_row_and_empty_rows_zero() -> None:
    table = Confusion.of(np.array([0, 0, 0, 2]), np.array([0, 1, 1, 2]), 3)
    assert table.record() == {
        "samples": [3, 0, 1],
        "counts": [[1, 2, 0], [0, 0, 0], [0, 0, 1]],
        "shares": [[0.333333, 0.666667, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]],
    }


def test_directions_by_hand() -> None:
    found, wanted = np.array([359.0, 10.0, 90.0, 200.0]), np.array([2.0, 10.0, 92.5, 20.0])
    seen = localise(found, wanted, np.array([True, False, True, True]))
    assert seen.mae_deg == pytest.approx((3 + 0 + 2.5 + 180) / 4)
    assert seen.mae_plain_deg == pytest.approx((357 + 0 + 2.5 + 180) / 4)
    assert seen.within == Proportion(correct=1, count=4)  # an error of exactly 2.5 is too much
    assert seen.joint == Proportion(correct=0, count=4)
    wider = localise(found, wanted, np.array([True, False, True, True]), eta_deg=3.5)
    assert (wider.within.correct, wider.joint.correct) == (3, 2)


@given(st.integers(1, 360), st.integers(1, 360), st.integers(-3, 3))
def test_distance_round_the_circle(one: int, other: int, turns: int) -> None:
    a, b = np.array([float(one + 360 * turns)]), np.array([float(other)])
    apart = degrees_apart(a, b)
    assert apart == degrees_apart(b, a)
    assert apart == min(abs(one - other), 360 - abs(one - other))


class Compass(nn.Module):
    """Answers class 0 and the direction that it is given."""

    def outputs(self, input: Tensor) -> dict[str, Tensor]:
        azimuth = nn.functional.one_hot(input[:, 0].long() - 1, 360).float()
        return {"scores": torch.tensor([[1.0, 0.0]]).expand(len(input), 2), "azimuth": azimuth}

    def forward(self, input: Tensor) -> Tensor:
        return torch.cat(list(self.outputs(input).values()), 1)


def test_evaluate_reads_directions_as_degrees_from_one() -> None:
    seen = evaluate(Compass(), data(torch.tensor([[1], [360], [90]]), [0, 1, 0], azimuth=[1, 360, 95]))
    assert seen.localisation is not None
    assert seen.localisation.mae_deg == pytest.approx(5 / 3)
    assert (seen.localisation.within.correct, seen.score.correct) == (2, 1)


def test_record_and_sentence() -> None:
    share = Proportion(correct=90, count=100)
    assert share.record() == {"correct": 90, "count": 100, "accuracy": 0.9, "interval95": [0.825634, 0.944771]}
    assert str(share) == "0.9000 (90 of 100; 95 % interval 0.8256 to 0.9448)"
