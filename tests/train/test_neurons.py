"""The hand-written walk through time against a tape of small operations, and surrogates against their formulas."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from avsnn.errors import InputError
from avsnn.train import neurons
from avsnn.train.neurons import LIF, Reset
from avsnn.train.surrogates import SURROGATES, spike

RESETS = ("hard", "subtract", "subtract_delayed")
LEAKS: dict[str, dict[str, Any]] = {
    "tau": {"tau": 3.0},
    "tau, current unscaled": {"tau": 3.0, "decay_input": False},
    "beta": {"beta": 0.9},
}
SWITCHES = list(itertools.product(RESETS, LEAKS, (False, True), (False, True), (False, True)))


def by_tape(lif: LIF, currents: Tensor) -> Tensor:
    """The equations of the class docstring, one autograd operation each."""
    carried, spikes = torch.zeros_like(currents[0]), []
    for current in currents:
        u = carried + lif.gain * current
        fired = spike(u - lif.v_threshold, lif.surrogate, lif.alpha, lif.strict)
        reset = fired.detach() if lif.detach_reset else fired
        if lif.reset == "hard":
            carried = lif.decay * (u * (1 - reset))
        elif lif.reset == "subtract":
            carried = lif.decay * (u - lif.v_threshold * reset)
        else:
            carried = lif.decay * u - lif.v_threshold * reset
        if lif.detach_membrane:
            carried = carried.detach()
        spikes.append(fired)
    return torch.stack(spikes)


def gradient(walk: Any, values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Spikes of ``values``, and the gradient of their weighted sum."""
    currents = values.clone().requires_grad_()
    spikes = walk(currents)
    (by_current,) = torch.autograd.grad((spikes * weights).sum(), currents)
    return spikes.detach(), by_current


@pytest.mark.parametrize(("reset", "leak", "strict", "detach_membrane", "detach_reset"), SWITCHES)
def test_walk_equals_tape(reset: Any, leak: str, strict: bool, detach_membrane: bool, detach_reset: bool) -> None:
    """Windows of 1 to 16 steps, float64, every spike and every gradient; the surrogates take turns."""
    switches = {"strict": strict, "detach_membrane": detach_membrane, "detach_reset": detach_reset}
    rng = torch.Generator().manual_seed(1)
    fired, crossed = 0.0, 0.0
    for steps in range(1, 17):
        lif = LIF(
            v_threshold=0.8, reset=reset, surrogate=[*SURROGATES][steps % len(SURROGATES)], **LEAKS[leak], **switches
        )
        grid = torch.randint(-4, 8, (steps, 3, 5), generator=rng).double() / 5  # coarse: u meets 0.8 exactly
        values = grid / lif.gain
        weights = torch.randn(steps, 3, 5, generator=rng, dtype=torch.float64)
        spikes, found = gradient(lif, values, weights)
        wanted_spikes, wanted = gradient(lambda x, lif=lif: by_tape(lif, x), values, weights)
        assert torch.equal(spikes, wanted_spikes)
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-14)  # order of sums only
        fired += float(spikes.mean()) / 16
        only_last = torch.zeros_like(weights)
        only_last[-1] = 1
        crossed += float(gradient(lif, values, only_last)[1][:-1].abs().sum())
    assert 0.05 < fired < 0.95
    assert (crossed == 0) == detach_membrane


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("reset", RESETS)
def test_every_surrogate_through_every_reset(reset: Any, surrogate: str) -> None:
    lif = LIF(beta=0.8, v_threshold=0.7, reset=reset, surrogate=surrogate, alpha=1.5, detach_reset=False)
    rng = torch.Generator().manual_seed(2)
    values = torch.randn(9, 40, generator=rng, dtype=torch.float64)
    weights = torch.randn(9, 40, generator=rng, dtype=torch.float64)
    found, wanted = (gradient(walk, values, weights) for walk in (lif, lambda x: by_tape(lif, x)))
    assert torch.equal(found[0], wanted[0])
    torch.testing.assert_close(found[1], wanted[1], rtol=1e-12, atol=1e-14)
    assert bool(found[1].any())


def test_threshold_itself_fires_unless_strict() -> None:
    exact = torch.tensor([[[2.0]]])  # gain 1/2: u is the threshold, 1
    assert LIF()(exact).item() == 1
    assert LIF(strict=True)(exact).item() == 0


def test_hand_worked_sequences() -> None:
    currents = torch.tensor([1.2, 1.2, 1.2, 3.4, 0.8]).double()[:, None]
    # hard: u = .6 .9 1.05 1.7 .4; subtract: u = .6 .9 1.05 1.725 .7625
    assert LIF(reset="hard")(currents).flatten().tolist() == [0, 0, 1, 1, 0]
    assert LIF(reset="subtract")(currents).flatten().tolist() == [0, 0, 1, 1, 0]
    # delayed: u = .6 .9 1.05 (1.05 / 2 - 1 + 1.7) = 1.225 and (1.225 / 2 - 1 + .4) = .0125
    assert LIF(reset="subtract_delayed")(currents).flatten().tolist() == [0, 0, 1, 1, 0]
    rising = torch.tensor([5.0, 0.0, 0.0]).double()[:, None]  # u = 2.5, then 0 or .75, then 0 or .375
    assert LIF(reset="hard", v_threshold=0.7)(rising).flatten().tolist() == [1, 0, 0]
    assert LIF(reset="subtract", v_threshold=0.7)(rising).flatten().tolist() == [1, 1, 0]
    # delayed: u = 2.5, then 1.25 - .7 = .55, then .275
    assert LIF(reset="subtract_delayed", v_threshold=0.7)(rising).flatten().tolist() == [1, 0, 0]


def test_beta_is_the_decay_and_leaves_the_current_alone() -> None:
    lif = LIF(beta=0.5, v_threshold=10.0, strict=True, reset="subtract_delayed")
    assert (lif.decay, lif.gain) == (0.5, 1.0)
    currents = torch.tensor([8.0, 6.0, 5.0, 0.0, 18.0]).double()[:, None]
    # u = 8, 10 (not above 10), 10, 5, 20.5: the first spike is the last
    assert lif(currents).flatten().tolist() == [0, 0, 0, 0, 1]
    assert LIF(beta=0.9, decay_input=False).gain == LIF(beta=0.9).gain
    assert (LIF().decay, LIF().gain) == (0.5, 0.5)
    assert LIF(beta=1.0).decay == 1.0


def test_a_constant_cosine_reaches_the_counts_that_the_count_loss_asks_for() -> None:
    """A current of 1 fires 7 times in 8 steps with delayed subtraction (Oikonomou et al. ask for 0.9 of 8)."""
    for reset, most in (("subtract_delayed", 7), ("hard", 4)):
        lif = LIF(beta=0.95, strict=True, reset=reset)  # type: ignore[arg-type]
        assert lif(torch.ones(8, 1, 1, dtype=torch.float64)).sum() == most


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
        ("atan_printed", 2.0, lambda x, a: 1 / math.pi / (1 + (math.pi * x * a / 2) ** 2)),
        ("fast_sigmoid", 5.0, lambda x, a: 1 / (1 + a * abs(x)) ** 2),
        ("rectangular", 1.0, lambda x, a: a if abs(x) < 1 / a / 2 else 0.0),
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
        ({"surrogate": "step"}, "sigmoid, atan, atan_printed, fast_sigmoid, rectangular"),
        ({"alpha": 0.0}, "alpha must be positive"),
        ({"beta": 1.1}, "beta is no decay"),
        ({"beta": -0.1}, "beta is no decay"),
        ({"beta": float("nan")}, "beta is no decay"),
        ({"tau": 2.0, "beta": 0.5}, "give one"),
    ],
)
def test_impossible_switches_are_refused(options: dict[str, object], word: str) -> None:
    with pytest.raises(InputError, match=word):
        LIF(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("reset", ["hard", "subtract", "subtract_delayed"])
@pytest.mark.parametrize("last", [False, True])
def test_blocks_and_layout_change_no_bit(reset: Reset, last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = torch.Generator().manual_seed(7)
    currents = 3 * torch.rand(5, 7, 4, 3, 6, generator=rng) - 0.5
    wanted, weights = [], torch.rand(currents.shape, generator=rng)
    for block in (1 << 16, 2 * currents[0, 0].numel()):  # all at once; two samples at a time and one left over
        monkeypatch.setattr(neurons, "_BLOCK", block)
        given = currents
        if last:
            given = currents.flatten(0, 1).contiguous(memory_format=torch.channels_last).reshape(currents.shape)
        given = given.detach().requires_grad_()
        spikes = LIF(beta=0.9, reset=reset, detach_reset=False)(given)
        (spikes * weights).sum().backward()
        assert spikes[0].stride() == given[0].stride()
        assert given.grad is not None
        wanted.append((spikes.detach(), given.grad))
    assert 0.05 < wanted[0][0].mean() < 0.95
    assert torch.equal(wanted[0][0], wanted[1][0])
    assert torch.equal(wanted[0][1], wanted[1][1])


def test_currents_of_half_precision_have_membranes_of_single_precision() -> None:
    """Under autocast convolutions give bfloat16, whose 8 bits moved a part of the spikes."""
    torch.manual_seed(0)
    currents = (torch.rand(8, 64, 32) * 2.5).bfloat16().requires_grad_()
    spikes = LIF()(currents)
    assert spikes.dtype == torch.bfloat16
    assert 0.02 < float(spikes.detach().float().mean()) < 0.9
    wide = currents.detach().float().requires_grad_()
    expected = LIF()(wide)
    assert torch.equal(spikes.float(), expected)
    weights = torch.rand_like(expected)
    (spikes * weights.bfloat16()).sum().backward()
    (expected * weights.bfloat16().float()).sum().backward()
    assert currents.grad is not None
    assert wide.grad is not None
    assert torch.allclose(currents.grad.float(), wide.grad, rtol=1e-2, atol=1e-3)
