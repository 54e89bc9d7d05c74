"""Norms against plain loops over their equations, and DSLN against the linear layer that it becomes at inference."""

from __future__ import annotations

from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from avsnn.errors import InputError
from avsnn.train.neurons import LIF, Reset
from avsnn.train.norms import DSLN, NORMS, LayerNorm, make_norm

T, B, C, F = 3, 2, 5, 4


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)  # float64 rounding of a few dozen operations


def activity(seed: int = 0, *, steps: int = T, channels: int = C, frames: int = F) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 4, (steps, B, channels, frames, 1), generator=rng).double()
    return x + torch.arange(frames).double()[:, None] * torch.rand(x.shape, generator=rng).double()


def affine(module: nn.Module, seed: int = 1) -> nn.Module:
    """Give ``module`` weights and biases that differ."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=rng) + 0.5)
    return module.double()


def dsln(variance: str = "position", **options: float) -> DSLN:
    norm = DSLN(C, (F, 1), variance=variance, **options)
    affine(norm)
    return norm


def obvious(x: Tensor, norm: DSLN, variances: list[list[float]]) -> Tensor:
    """Equation 14, one number after the other, with the variance of each sample and position given."""
    y = torch.empty_like(x)
    for t in range(x.shape[0]):
        for b in range(x.shape[1]):
            for i in range(x.shape[3]):
                mean = sum(float(x[t, b, c, i, 0]) for c in range(C)) / C
                for c in range(C):
                    deviation = (variances[b][i] + norm.eps) ** 0.5
                    y[t, b, c, i, 0] = (x[t, b, c, i, 0] - mean) / deviation * norm.weight[c] + norm.bias[c]
    return y


def variances_of(x: Tensor, variance: str) -> list[list[float]]:
    """Per sample and position, over all steps and channels, of the distance from the mean of that step."""
    found = []
    for b in range(x.shape[1]):
        squares: list[list[float]] = [[] for _ in range(x.shape[3])]
        for i in range(x.shape[3]):
            for t in range(x.shape[0]):
                mean = float(x[t, b, :, i, 0].mean())
                squares[i] += [(float(value) - mean) ** 2 for value in x[t, b, :, i, 0]]
        if variance == "shared":
            squares = [list(chain.from_iterable(squares))] * x.shape[3]
        found.append([sum(some) / len(some) for some in squares])
    return found


@pytest.mark.parametrize("variance", ["position", "shared"])
def test_dsln_in_training_is_equation_14(variance: str) -> None:
    x, norm = activity(), dsln(variance).train()
    close(norm(x), obvious(x, norm, variances_of(x, variance)))


@pytest.mark.parametrize("variance", ["position", "shared"])
def test_dsln_at_inference_has_the_running_variance_and_the_mean_of_now(variance: str) -> None:
    norm = dsln(variance, momentum=0.25).train()
    expected = [1.0] * F
    for seed in range(3):
        x = activity(seed)
        norm(x)
        by_sample = variances_of(x, variance)
        expected = [0.75 * old + 0.25 * sum(v[i] for v in by_sample) / B for i, old in enumerate(expected)]
    found = norm.running_var.expand(F, 1)[:, 0]
    close(found, torch.tensor(expected, dtype=torch.float64))
    assert len(set(expected)) == (F if variance == "position" else 1)
    x = activity(9)
    before = norm.running_var.clone()
    close(norm.eval()(x), obvious(x, norm, [expected] * B))
    torch.testing.assert_close(norm(x + 7.0), norm(x), rtol=0, atol=1e-11)  # a common offset is removed
    assert torch.equal(norm.running_var, before)


def test_dsln_gradient_goes_through_mean_and_variance() -> None:
    norm = dsln().train()
    x = activity().requires_grad_()
    assert torch.autograd.gradcheck(norm, (x,))


@settings(max_examples=25, deadline=None)
@given(
    channels=st.integers(1, 7),
    outputs=st.integers(1, 6),
    frames=st.integers(1, 5),
    variance=st.sampled_from(["position", "shared"]),
    seed=st.integers(0, 1000),
)
def test_linear_behind_dsln_is_a_linear_with_rows_that_sum_to_zero(
    channels: int, outputs: int, frames: int, variance: str, seed: int
) -> None:
    """W DSLN(x) + b = s_i W1 x + b1, W1 = W diag(weight) (I - 1/C), b1 = W bias + b."""
    norm, linear = DSLN(channels, (frames, 1), variance=variance), nn.Linear(channels, outputs).double()
    affine(norm, seed)
    norm.running_var.uniform_(0.1, 3.0)
    x = activity(seed, channels=channels, frames=frames)
    expected = linear(norm.eval()(x).movedim(2, -1)).movedim(-1, 2)
    with torch.no_grad():
        gained = linear.weight * norm.weight
        folded = gained - gained.sum(1, keepdim=True) / channels
        bias = linear.weight @ norm.bias + linear.bias
        scale = (norm.running_var + norm.eps) ** -0.5
        found = torch.einsum("oc,tbcfw->tbofw", folded, x) * scale + bias[:, None, None]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)  # 1/C summed back in another order
    torch.testing.assert_close(folded.sum(1), torch.zeros(outputs).double(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("reset", ["hard", "subtract"])
def test_variance_of_a_position_is_a_threshold_of_that_position(reset: Reset) -> None:
    """A neuron behind s_i W1 x + b1 fires as one behind W1 x + b1 / s_i whose threshold is divided by s_i."""
    torch.manual_seed(0)
    norm, linear, lif = dsln().eval(), nn.Linear(C, 40).double(), LIF(reset=reset)
    norm.running_var.uniform_(0.1, 3.0)
    x = activity(steps=8)
    with torch.no_grad():
        linear.weight *= 3  # so that enough of them fire
        expected = lif(linear(norm(x).movedim(2, -1)))
        gained = linear.weight * norm.weight
        folded = gained - gained.mean(1, keepdim=True)
        bias = linear.weight @ norm.bias + linear.bias
        wrong = 0.0
        for i in range(F):
            scale = float((norm.running_var[i, 0] + norm.eps) ** -0.5)
            current = x[:, :, :, i, 0] @ folded.T + bias / scale
            spikes = LIF(v_threshold=1.0 / scale, reset=reset)(current)
            assert torch.equal(spikes, expected[:, :, i, 0])
            wrong += (LIF(reset=reset)(current) != expected[:, :, i, 0]).double().mean().item()
    assert 0.05 < expected.mean() < 0.95
    assert wrong > 0.01, "with one threshold for all the spikes must differ"


@pytest.mark.parametrize("variant", [False, True])
def test_layer_norm_divides_and_its_variant_multiplies(variant: bool) -> None:
    x, norm = activity(), LayerNorm(C, variant=variant)
    affine(norm)
    expected = torch.empty_like(x)
    for t, b, i in ((t, b, i) for t in range(T) for b in range(B) for i in range(F)):
        token = x[t, b, :, i, 0]
        deviation = (((token - token.mean()) ** 2).mean() + norm.eps) ** 0.5
        factor = deviation if variant else 1 / deviation
        expected[t, b, :, i, 0] = (token - token.mean()) * factor * norm.weight + norm.bias
    close(norm(x), expected)
    last = nn.functional.layer_norm(x.movedim(2, -1), (C,), norm.weight, norm.bias, norm.eps).movedim(-1, 2)
    assert torch.allclose(norm(x), last) is not variant


def test_batch_norm_is_over_steps_samples_and_positions() -> None:
    x, norm = activity(), affine(make_norm("batch", C, (F, 1)))
    plain = affine(nn.BatchNorm1d(C))
    rows = plain(x.movedim(2, -1).reshape(-1, C))
    close(norm(x).movedim(2, -1).reshape(-1, C), rows)
    close(norm.get_buffer("module.running_var"), plain.get_buffer("running_var"))


@pytest.mark.parametrize("kind", NORMS)
def test_every_norm_has_a_weight_and_a_bias_per_channel(kind: str) -> None:
    norm = make_norm(kind, C, (F, 1)).double()
    assert sum(p.numel() for p in norm.parameters()) == 2 * C
    norm(activity()).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in norm.parameters())


def test_shared_variance_takes_any_number_of_positions() -> None:
    norm = make_norm("dsln", C, (F, 1), variance="shared").double().eval()
    assert norm(activity(frames=F + 2)).shape == (T, B, C, F + 2, 1)
    with pytest.raises(InputError, match="positions differ"):
        make_norm("dsln", C, (F, 1)).double()(activity(frames=F + 2))
    with pytest.raises(InputError, match="positions differ"):  # one would broadcast
        make_norm("dsln", C, (1, 1)).double()(activity())


def test_impossible_norms() -> None:
    with pytest.raises(InputError, match="limit dsln, layer, variant, batch"):
        make_norm("group", C, (F, 1))
    with pytest.raises(InputError, match="position, shared"):
        DSLN(C, (F, 1), variance="frame")
    with pytest.raises(InputError, match="momentum"):
        DSLN(C, momentum=0.0)
    with pytest.raises(InputError, match="eps"):
        DSLN(C, eps=0.0)
