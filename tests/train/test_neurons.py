"""The hand-written walk through time against a tape of small operations, and surrogates against their formulas."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from avsnn.errors import InputError
from avsnn.train.neurons import LIF
from avsnn.train.surrogates import SURROGATES, spike

SWITCHES = list(
    itertools.product(("hard", "subtract"), (False, True), (False, True), (False, True), ("atan", "sigmoid"))
)


def by_tape(lif: LIF, currents: Tensor) -> Tensor:
    """The equations of the class docstring, one autograd operation each."""
    rest, spikes = torch.zeros_like(currents[0]), []
    for current in currents:
        before = rest.detach() if lif.detach_membrane else rest
        u = lif.decay * before + lif.gain * current
        fired = spike(u - lif.v_threshold, lif.surrogate, lif.alpha, lif.strict)
        reset = fired.detach() if lif.detach_reset else fired
        rest = u * (1 - reset) if lif.reset == "hard" else u - lif.v_threshold * reset
        spikes.append(fired)
    return torch.stack(spikes)


@pytest.mark.parametrize(("reset", "strict", "detach_membrane", "detach_reset", "surrogate"), SWITCHES)
def test_walk_equals_tape(reset: str, strict: bool, detach_membrane: bool, detach_reset: bool, surrogate: str) -> None:
    lif = LIF(
        3.0,
        0.8,
        reset,  # type: ignore[arg-type]
        strict=strict,
        decay_input=False,
        detach_membrane=detach_membrane,
        detach_reset=detach_reset,
        surrogate=surrogate,
    )
    rng = torch.Generator().manual_seed(1)
    values = torch.randint(-4, 8, (7, 3, 5), generator=rng).double() / 5  # a coarse grid: u meets 0.8 exactly
    weights = torch.randn(7, 3, 5, generator=rng, dtype=torch.float64)
    gradients = []
    for walk in (lif, lambda x: by_tape(lif, x)):
        currents = values.clone().requires_grad_()
        spikes = walk(currents)
        (spikes * weights).sum().backward()
        gradients.append((spikes.detach(), currents.grad))
    assert torch.equal(gradients[0][0], gradients[1][0])
    assert 0 < gradients[0][0].mean() < 1
    assert gradients[0][1] is not None
    assert gradients[1][1] is not None
    torch.testing.assert_close(gradients[0][1], gradients[1][1], rtol=1e-12, atol=1e-14)  # order of sums only


def test_threshold_itself_fires_unless_strict() -> None:
    exact = torch.tensor([[[2.0]]])  # gain 1/2: u is the threshold, 1
    assert LIF()(exact).item() == 1
    assert LIF(strict=True)(exact).item() == 0


def test_hand_worked_sequences() -> None:
    currents = torch.tensor([1.2, 1.2, 1.2, 3.4, 0.8]).double()[:, None]
    # hard: u = .6 .9 1.05 1.7 .4; subtract: u = .6 .9 1.05 1.725 .7625
    assert LIF(reset="hard")(currents).flatten().tolist() == [0, 0, 1, 1, 0]
    assert LIF(reset="subtract")(currents).flatten().tolist() == [0, 0, 1, 1, 0]
    rising = torch.tensor([5.0, 0.0, 0.0]).double()[:, None]  # u = 2.5, then 0 or .75, then 0 or .375
    assert LIF(reset="hard", v_threshold=0.7)(rising).flatten().tolist() == [1, 0, 0]
    assert LIF(reset="subtract", v_threshold=0.7)(rising).flatten().tolist() == [1, 1, 0]


def test_repeated_current_needs_no_copy_and_gets_its_gradient() -> None:
    current = torch.rand(2, 3, requires_grad=True)
    spikes = LIF()(current.expand(4, 2, 3))
    spikes.sum().backward()
    assert current.grad is not None
    assert bool((current.grad > 0).all())


def test_keeps_the_precision_it_is_given() -> None:
    for dtype in (torch.float32, torch.float64):
        assert LIF()(torch.rand(2, 1, 3, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize(
    ("name", "alpha", "formula"),
    [
        ("sigmoid", 4.0, lambda x, a: a * math.exp(-a * x) / (1 + math.exp(-a * x)) ** 2),
        ("atan", 2.0, lambda x, a: a / 2 / (1 + (math.pi * a * x / 2) ** 2)),
    ],
)
def test_surrogate_slopes(name: str, alpha: float, formula: object) -> None:
    assert callable(formula)
    assert SURROGATES[name].alpha == alpha
    for steepness in (None, 3.0):
        x = torch.linspace(-2, 2, 41, dtype=torch.float64, requires_grad=True)
        fired = spike(x, name, steepness)
        (gradient,) = torch.autograd.grad(fired.sum(), x)
        expected = torch.tensor([formula(v, steepness or alpha) for v in x.tolist()], dtype=torch.float64)
        torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-14)
        assert torch.equal(fired.detach(), (x.detach() >= 0).double())


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"tau": 0.5}, "tau"),
        ({"v_threshold": 0.0}, "v_threshold"),
        ({"reset": "soft"}, "hard, subtract"),
        ({"surrogate": "step"}, "sigmoid, atan"),
    ],
)
def test_impossible_switches_are_refused(options: dict[str, object], word: str) -> None:
    with pytest.raises(InputError, match=word):
        LIF(**options)  # type: ignore[arg-type]
