"""Learning rates at the corners of each schedule, and the optimiser's own rate at every update."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from avsnn.train.schedules import learning_rate, make_schedule

REFERENCE: dict[str, Any] = {"epochs": 100, "lr": 6.25e-4, "warmup": 5.0, "warmup_lr": 1e-6, "lr_min": 1e-5}


@pytest.mark.parametrize(
    ("epoch", "wanted"),
    [
        (0, 1e-6),
        (2.5, (1e-6 + 6.25e-4) / 2),
        (50, (1e-5 + 6.25e-4) / 2),
        (100, 1e-5),
    ],
)
def test_cosine_after_a_warm_up(epoch: float, wanted: float) -> None:
    assert learning_rate("cosine", epoch, **REFERENCE) == pytest.approx(wanted, rel=1e-9)


def test_cosine_goes_on_where_it_would_be_without_a_warm_up() -> None:
    assert learning_rate("cosine", 5, **REFERENCE) == learning_rate("cosine", 5, **{**REFERENCE, "warmup": 0.0})


@pytest.mark.parametrize(("epoch", "wanted"), [(149.9, 1.0), (150, 0.1), (275, 0.01)])
def test_multistep_divides_by_ten(epoch: float, wanted: float) -> None:
    assert learning_rate("multistep", epoch, epochs=300, lr=1.0, milestones=(150, 275)) == pytest.approx(wanted)


def test_constant_stays() -> None:
    assert {learning_rate("constant", epoch, epochs=9, lr=0.3) for epoch in range(9)} == {0.3}


@pytest.mark.parametrize("name", ["cosine", "multistep", "constant"])
def test_optimiser_has_the_rate_of_its_update(name: str) -> None:
    options = {"epochs": 4, "lr": 0.02, "warmup": 1.0, "warmup_lr": 0.001, "lr_min": 1e-4, "milestones": (2, 3)}
    optimiser = torch.optim.AdamW(nn.Linear(2, 2).parameters(), lr=0.02)
    schedule = make_schedule(name, optimiser, updates=5, **options)  # type: ignore[arg-type]
    for update in range(20):
        wanted = learning_rate(name, update / 5, **options)  # type: ignore[arg-type]
        assert optimiser.param_groups[0]["lr"] == pytest.approx(wanted, rel=1e-12)
        optimiser.step()
        schedule.step()
