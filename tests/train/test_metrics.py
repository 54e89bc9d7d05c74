"""Accuracy, its interval, and spike rates, on cases that can be counted by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from avsnn.errors import InputError
from avsnn.train.metrics import SpikeRates, evaluate
from avsnn.train.neurons import LIF
from avsnn.train.proportion import Proportion


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


def test_evaluate_counts_every_sample_once() -> None:
    module = nn.Linear(3, 3, bias=False).train()
    with torch.no_grad():
        module.weight.copy_(torch.eye(3))
    scores = torch.eye(3)[[0, 1, 2, 0, 1, 2, 0]]
    seen = evaluate(module, {"input": scores}, torch.tensor([0, 1, 2, 0, 1, 0, 1]), batch=3)
    assert (seen.accuracy.correct, seen.accuracy.count) == (5, 7)
    assert module.training
    with pytest.raises(InputError, match="nothing to evaluate"):
        evaluate(module, {"input": scores[:0]}, torch.zeros(0, dtype=torch.int64))


def test_record_and_sentence() -> None:
    share = Proportion(correct=90, count=100)
    assert share.record() == {"correct": 90, "count": 100, "accuracy": 0.9, "interval95": [0.825634, 0.944771]}
    assert str(share) == "0.9000 (90 of 100; 95 % interval 0.8256 to 0.9448)"
