"""SpikSLC-Net and the ordinary networks beside it: sizes of the paper, blocks against plain code, learning."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from avsnn.errors import InputError
from avsnn.train.losses import SoundLocation
from avsnn.train.models.shaf import SHAF, SoftmaxAttention
from avsnn.train.models.spikslc import SpikSLC
from avsnn.train.models.spikslc_config import SpikSLCConfig
from avsnn.train.models.table import find_model, make_config
from avsnn.train.neurons import LIF
from avsnn.train.norms import DSLN, LayerNorm

FRAMES = 7
CNN = "gcc-phat-cnn-reimplementation"
ROWS = {
    (1, 64): 166_514,
    (1, 128): 496_498,
    (2, 64): 252_274,
    (2, 128): 831_858,
    (2, 256): 2_974_066,
    (2, 512): 11_190_642,
    (3, 128): 1_167_218,
    (4, 64): 423_794,
    (4, 128): 1_502_578,
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "both": ("spikslc", {}),
    "gcc": ("spikslc", {"modalities": ("gcc",)}),
    "mel": ("spikslc", {"modalities": ("mel",)}),
    "batch": ("spikslc", {"norm": "batch"}),
    "layer": ("spikslc", {"norm": "layer"}),
    "variant": ("spikslc", {"norm": "variant"}),
    "shared": ("spikslc", {"dsln_var": "shared"}),
    "twin": ("slc-net", {}),
    "cnn": (CNN, {}),
    "cnn global": (CNN, {"pool": "global"}),
}


def build(model: str, preset: str = "tiny", **values: Any) -> nn.Module:
    torch.manual_seed(0)
    if model != CNN and preset == "tiny":
        values = {"frames": FRAMES, **values}  # fewer are faster
    return find_model(model).build(make_config(model, preset, values))


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def inputs_of(module: nn.Module, batch: int = 32) -> dict[str, Tensor]:
    """Random frames for every input of ``module``."""
    rng = torch.Generator().manual_seed(1)
    config: Any = module.config
    made = {
        "gcc": 0.2 * torch.randn(batch, FRAMES, 306, generator=rng),
        "mel": torch.rand(batch, FRAMES, 204, generator=rng),
    }
    return {name: made[name] for name in config.modalities}


def outputs_of(module: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    outputs: Any = module.outputs
    found: dict[str, Tensor] = outputs(**inputs)
    return found


@pytest.mark.parametrize("model", ["spikslc", "slc-net"])
@pytest.mark.parametrize("row", ROWS)
def test_parameter_counts_of_the_paper(row: tuple[int, int], model: str) -> None:
    blocks, dim = row
    with torch.device("meta"):
        assert size(build(model, "reference", blocks=blocks, dim=dim)) == ROWS[row]


@pytest.mark.parametrize(
    ("model", "preset", "values", "parameters"),
    [
        ("spikslc", "reference", {}, 831_858),
        ("spikslc", "reference", {"norm": "batch"}, 831_858),
        ("spikslc", "tiny", {}, 62_962),
        ("spikslc", "tiny", {"modalities": ("gcc",)}, 28_818),
        (CNN, "reference", {}, 142_066),
    ],
)
def test_parameter_counts_of_presets(model: str, preset: str, values: dict[str, Any], parameters: int) -> None:
    assert size(build(model, preset, **values)) == parameters


@pytest.mark.parametrize("case", CASES)
def test_shapes_and_order_of_answers(case: str) -> None:
    model, values = CASES[case]
    module = build(model, **values).eval()
    inputs = inputs_of(module, 3)
    answers = outputs_of(module, inputs)
    assert {name: x.shape for name, x in answers.items()} == {"scores": (3, 10), "azimuth": (3, 360)}
    assert torch.equal(module(**inputs), torch.cat((answers["scores"], answers["azimuth"]), dim=1))


@pytest.mark.parametrize("case", CASES)
def test_every_parameter_learns(case: str) -> None:
    """All but biases in front of batch norm, which takes them out again (the paper counts them all the same)."""
    model, values = CASES[case]
    module = build(model, **values).train()
    for child in module.modules():
        if isinstance(child, (nn.BatchNorm2d, DSLN, LayerNorm)):
            nn.init.constant_(child.weight, 3.0)  # so that every neuron fires
            nn.init.constant_(child.bias, 0.5)
    answers = outputs_of(module, inputs_of(module))
    (answers["scores"].square().sum() + answers["azimuth"].square().sum()).backward()  # type: ignore[no-untyped-call]
    idle = {name for name, p in module.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-4}
    before_norm = ("encoder.linear.bias", *(f"{name}.linear.bias" for name in ("gcc", "mel")))
    projections = tuple(f"{name}.linear.module.bias" for name in ("query", "key", "value", "project"))
    assert {name for name in idle if not name.endswith((*before_norm, *projections))} == set()


def spiking(currents: Tensor, threshold: float) -> Tensor:
    """LIF of one sequence: tau 2, hard reset, ``>=``."""
    rest, spikes = torch.zeros_like(currents[0]), []
    for current in currents:
        u = rest + (current - rest) / 2
        spikes.append((u >= threshold).to(u.dtype))
        rest = u * (1 - spikes[-1])
    return torch.stack(spikes)


class Obvious:
    """A SHAF block of ``state`` in evaluation, on (T, B, F, E), matrices multiplied as the equations are printed."""

    def __init__(self, block: SHAF, config: SpikSLCConfig) -> None:
        self.state, self.config = block.state_dict(), config

    def linear(self, x: Tensor, name: str) -> Tensor:
        weight = self.state[f"{name}.linear.module.weight"][:, :, 0, 0]
        return x @ weight.T + self.state[f"{name}.linear.module.bias"]

    def projection(self, x: Tensor, name: str) -> Tensor:
        mean, var, gamma, beta = (
            self.state[f"{name}.norm.module.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return spiking((self.linear(x, name) - mean) / (var + 1e-5).sqrt() * gamma + beta, 1.0)

    def attention(self, x: Tensor, y: Tensor, name: str) -> Tensor:
        q, k, v = (self.projection(z, f"{name}.{part}") for z, part in ((x, "query"), (y, "key"), (y, "value")))
        d, attended = q.shape[3] // self.config.heads, torch.zeros_like(q)
        for t in range(q.shape[0]):
            for b in range(q.shape[1]):
                for h in range(self.config.heads):
                    part = slice(h * d, (h + 1) * d)
                    scores = q[t, b, :, part] @ k[t, b, :, part].T
                    attended[t, b, :, part] = scores @ v[t, b, :, part] * self.config.scale
        return self.projection(spiking(attended, self.config.attention_threshold), f"{name}.project")

    def fls(self, x: Tensor, name: str) -> Tensor:
        weight, bias, var = (self.state[f"{name}.norm.{part}"] for part in ("weight", "bias", "running_var"))
        normed = (x - x.mean(3, keepdim=True)) / (var + 1e-5).sqrt() * weight + bias  # var is (F, 1)
        return spiking(self.linear(normed, name), 1.0)

    def stream(self, x: Tensor, y: Tensor, name: str) -> Tensor:
        mixed = x + self.attention(x, x, f"{name}.self_attention") + self.attention(x, y, f"{name}.cross_attention")
        return mixed + self.fls(self.fls(mixed, f"{name}.fls1"), f"{name}.fls2")


def test_a_block_is_equations_8_to_13() -> None:
    torch.manual_seed(0)
    config = make_config("spikslc", "tiny", {"dim": 8, "heads": 2, "timesteps": 3, "frames": FRAMES})
    block = SHAF(config).double().train()
    rates: dict[str, float] = {}
    for name, child in block.named_modules():
        if isinstance(child, (nn.BatchNorm2d, DSLN)):
            nn.init.uniform_(child.weight, 1.0, 3.0)
            nn.init.uniform_(child.bias, 0.0, 0.5)
            child.momentum = 1.0
        if isinstance(child, LIF):
            child.register_forward_hook(lambda _m, _i, spikes, name=name: rates.update({name: spikes.mean().item()}))
    for _ in range(2):  # running statistics of what fires
        block(*torch.randint(0, 2, (2, 3, 4, 8, 7, 1)).double())
    gcc, mel = torch.randint(0, 2, (2, 3, 4, 8, 7, 1)).double()
    with torch.no_grad():
        found = block.eval()(gcc, mel)
    obvious = Obvious(block, config)
    x, y = (z[..., 0].transpose(2, 3) for z in (gcc, mel))
    for value, expected in zip(found, (obvious.stream(x, y, "gcc"), obvious.stream(y, x, "mel")), strict=True):
        assert torch.equal(value[..., 0].transpose(2, 3), expected)
    assert len(rates) == 24
    assert all(0.005 < rate < 0.995 for rate in rates.values()), rates


def test_softmax_attention_is_that_of_torch() -> None:
    rng = torch.Generator().manual_seed(0)
    q, k, v = torch.rand(3, 1, 2, 12, 7, 1, generator=rng, dtype=torch.float64)
    heads = [x.reshape(2, 3, 4, 7).transpose(2, 3) for x in (q, k, v)]
    expected = nn.functional.scaled_dot_product_attention(*heads).transpose(2, 3).reshape(1, 2, 12, 7, 1)
    torch.testing.assert_close(SoftmaxAttention(3)(q, k, v), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", ["both", "gcc", "twin", "cnn"])
def test_overfits_32_samples(case: str) -> None:
    """Class and direction of noise, in evaluation too: running statistics must have followed."""
    model, values = CASES[case]
    module = build(model, **values).train()
    inputs, rng = inputs_of(module), torch.Generator().manual_seed(2)
    targets = {
        "label": torch.randint(0, 10, (32,), generator=rng),
        "azimuth": torch.randint(1, 361, (32,), generator=rng),
    }
    optimiser, loss = torch.optim.AdamW(module.parameters(), lr=1e-2), SoundLocation(weight=0.5)
    for _ in range(80):
        optimiser.zero_grad()
        loss(outputs_of(module, inputs), targets).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    with torch.no_grad():
        answers = outputs_of(module.eval(), inputs)
    assert (answers["scores"].argmax(1) == targets["label"]).all()
    apart = (answers["azimuth"].argmax(1) + 1 - targets["azimuth"]).abs()
    assert (torch.minimum(apart, 360 - apart) < 2.5).double().mean() > 0.9


def test_the_cnn_that_averages_over_frames_alone_sees_which_lag_it_was() -> None:
    """Averages over lags lose it, but for the borders: the reason for the other pool."""
    spread = {}
    for pool in ("frames", "global"):
        module = build(CNN, pool=pool).eval()
        gcc = torch.zeros(2, 7, 6, 51)
        gcc[0, :, :, 17], gcc[1, :, :, 33] = 1.0, 1.0
        near, far = module(gcc=gcc.reshape(2, 7, 306)).detach()
        spread[pool] = (near - far).abs().max()
    assert spread["frames"] > 10 * spread["global"]


def test_shared_variance_takes_any_number_of_frames() -> None:
    longer = {"gcc": torch.rand(2, 9, 306), "mel": torch.rand(2, 9, 204)}
    assert build("spikslc", dsln_var="shared").eval()(**longer).shape == (2, 370)
    with pytest.raises(InputError, match="positions differ"):
        build("spikslc").eval()(**longer)


def test_one_value_of_frames_for_all_steps() -> None:
    module = build("spikslc", timesteps=4)
    assert isinstance(module, SpikSLC)
    spikes = module.gcc(torch.randn(2, 7, 306))
    assert spikes.shape == (4, 2, 32, 7, 1)
    assert set(spikes.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize(
    ("model", "values", "word"),
    [
        ("spikslc", {"norm": "group"}, "dsln, layer, variant, batch"),
        ("spikslc", {"dsln_var": "frame"}, "position, shared"),
        ("spikslc", {"modalities": ("mel", "gcc")}, "gcc,mel or gcc or mel"),
        ("spikslc", {"heads": 5}, "divisor of dim 32"),
        ("spikslc", {"scale": 0.0}, "above 0"),
        ("spikslc", {"norm_momentum": 1.5}, "up to 1"),
        ("spikslc", {"neuron": "relu"}, "nothing would change over time"),
        ("spikslc", {"frame": 3}, "did you mean frames"),
        ("slc-net", {"attention": "linear"}, "spike, softmax"),
        (CNN, {"pool": "max"}, "global, frames"),
        (CNN, {"modalities": ("gcc", "mel")}, "limit gcc"),
        (CNN, {"widths": ()}, "one or more"),
    ],
)
def test_impossible_configurations(model: str, values: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=word):
        make_config(model, "tiny", values)
