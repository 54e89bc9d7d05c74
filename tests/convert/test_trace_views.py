from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.interpreter import interpret
from avsnn.convert.pipeline import convert
from avsnn.convert.tracer import trace, witness
from avsnn.errors import TraceError
from avsnn.train.layers import DirectCoding
from avsnn.train.neurons import LIF

T, WIDTH, HEADS = 3, 8, 2


class Patches(nn.Module):
    """An image to spikes (T, B, 8, 2, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.repeat, self.lif = nn.Conv2d(3, WIDTH, 4, stride=4), DirectCoding(T), LIF(tau=2.0)
        self.head = nn.Linear(WIDTH, 5)

    def patches(self, image: Tensor) -> Tensor:
        """Return spikes of each patch."""
        spikes: Tensor = self.lif(self.repeat(self.patch(image)))
        return spikes

    def answer(self, tokens: Tensor) -> Tensor:
        """Return scores of tokens (T, B, N, 8)."""
        scores: Tensor = self.head(tokens.mean(2)).mean(0)
        return scores


class ChannelsFirst(nn.Module):
    """Self-attention as published spiking transformers write it: time and samples merged and split by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.patch_bn, self.patch_lif = (
            nn.Conv2d(3, WIDTH, 4, stride=4),
            nn.BatchNorm2d(WIDTH),
            LIF(tau=2.0),
        )
        self.convs = nn.ModuleList(nn.Conv1d(WIDTH, WIDTH, 1, bias=False) for _ in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm1d(WIDTH) for _ in range(3))
        self.lifs = nn.ModuleList(LIF(tau=2.0) for _ in range(3))
        self.attn_lif, self.proj = LIF(tau=2.0, v_threshold=0.25), nn.Conv1d(WIDTH, WIDTH, 1)
        self.proj_lif, self.mlp, self.mlp_lif = LIF(tau=2.0), nn.Conv2d(WIDTH, 2 * WIDTH, 1), LIF(tau=2.0)
        self.head = nn.Linear(2 * WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = x.unsqueeze(0).repeat(T, 1, 1, 1, 1)
        steps, samples = x.shape[:2]
        x = self.patch_bn(self.patch(x.flatten(0, 1)))
        _, C, H, W = x.shape
        x = self.patch_lif(x.reshape(steps, samples, C, H, W)).flatten(3)
        N = H * W
        heads = []
        for conv, norm, lif in zip(self.convs, self.norms, self.lifs, strict=True):
            y = lif(norm(conv(x.flatten(0, 1))).reshape(steps, samples, C, N).contiguous())
            y = y.transpose(-1, -2).reshape(steps, samples, N, HEADS, C // HEADS)
            heads.append(y.permute(0, 1, 3, 2, 4).contiguous())
        q, k, v = heads
        y = ((q @ k.transpose(-2, -1)) @ v) * 0.25
        y = self.attn_lif(y.transpose(3, 4).reshape(steps, samples, C, N)).flatten(0, 1)
        x = x + self.proj_lif(self.proj(y).reshape(steps, samples, C, N))
        x = self.mlp(x.reshape(steps, samples, C, H, W).flatten(0, 1))
        x = self.mlp_lif(x.reshape(steps, samples, -1, H, W))
        return self.head(x.flatten(3).mean(3)).mean(0)


class TokensLast(Patches):
    """(T, B, tokens, channels) all along, one layer for queries, keys and values, ``k^T v`` first."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.q, self.k, self.v = LIF(tau=2.0), LIF(tau=2.0), LIF(tau=2.0)
        self.attn, self.out = LIF(tau=2.0, v_threshold=0.5), LIF(tau=2.0)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(image).flatten(3).transpose(2, 3)
        steps, samples, N, C = x.shape
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        parts = (self.q(q), self.k(k), self.v(v))
        q, k, v = (y.reshape(steps, samples, N, HEADS, C // HEADS).transpose(2, 3) for y in parts)
        y = self.attn((q @ (k.transpose(-2, -1) @ v)) * 0.5)
        return self.answer(x + self.out(self.proj(y.transpose(2, 3).reshape(steps, samples, N, C))))


class Maps(TokensLast):
    """Neurons say which tokens attend to which."""

    def __init__(self) -> None:
        super().__init__()
        self.mapped = LIF(tau=2.0)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(image).flatten(3).transpose(2, 3)
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        chosen = self.attn(1.5 * (self.q(q) @ self.k(k).mT))
        return self.answer(self.out(self.proj(self.mapped(chosen @ self.v(v)))))


class Normed(TokensLast):
    """Layer norms over the channels of each token."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.last = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH, elementwise_affine=False)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(image).flatten(3).mT
        x = x + self.q(self.norm(self.proj(x)))
        return self.answer(self.out(self.last(self.proj(x))))


class Part(Patches):
    """A convolution that sees half of the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, WIDTH, 3, padding=1), LIF(tau=2.0)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(image)[:, :, 5:].flatten(0, 1)
        return self.answer(self.out(self.conv(x).unflatten(0, (T, -1))).flatten(3).transpose(2, 3))


class Gates(Patches):
    """Spikes that let others through, or do not; and a difference of spikes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 1) for _ in range(3))
        self.lifs = nn.ModuleList(LIF(tau=2.0) for _ in range(3))

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(image)
        y = self.lifs[0](self.conv[0](x.flatten(0, 1)).unflatten(0, (T, -1)))
        both, other = x * y, (1 - y) * x
        z = self.lifs[1](self.conv[1]((x - y).flatten(0, 1)).unflatten(0, (T, -1)))
        z = self.lifs[2](self.conv[2]((both + other * z).flatten(0, 1)).unflatten(0, (T, -1)))
        return self.answer(z.flatten(3).mT)


NETWORKS = (ChannelsFirst, TokensLast, Maps, Normed, Part, Gates)


def make(kind: type[nn.Module]) -> tuple[nn.Module, dict[str, np.ndarray]]:
    torch.manual_seed(0)
    module = kind()
    for child in module.modules():
        if isinstance(child, nn.Conv1d | nn.Conv2d | nn.Linear):
            child.weight.data *= 4  # else deep layers are silent
            if child.bias is not None:
                nn.init.uniform_(child.bias, 0.5, 1.5)
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm) and child.weight is not None:
            nn.init.uniform_(child.weight, 1.0, 3.0)  # so that channels in another order would show
            nn.init.uniform_(child.bias, 0.0, 0.8)
    image = np.random.default_rng(0).integers(0, 256, size=(6, 3, 8, 8)) / 255
    return module.eval(), {next(iter(trace_names(module))): image}


def trace_names(module: nn.Module) -> tuple[str, ...]:
    return tuple(name for name in module.forward.__annotations__ if name != "return")


def differences(module: nn.Module, graph: Graph, inputs: dict[str, np.ndarray]) -> int:
    seen, made = witness(module, inputs, graph=graph), interpret(graph, inputs)
    assert all(spikes.any() for spikes in seen.spikes.values()), "silent"
    assert {node.name for node in graph.of(ir.LIF)} - seen.spikes.keys() <= {"mul", "mul_1", "mul_2"}, "gates"
    return sum(int((made.spikes[name] != spikes).sum()) for name, spikes in seen.spikes.items())


@pytest.mark.parametrize("kind", NETWORKS)
def test_networks_that_look_at_tokens_in_many_ways_convert(kind: type[nn.Module]) -> None:
    module, inputs = make(kind)
    bundle = convert(module, inputs, timesteps=T, proof_samples=4)
    assert differences(module, bundle.graph("traced"), inputs) == 0
    assert not any(node.kind in ("View", "MatMul", "PointLinear", "MeanAxes") for node in bundle.graph("traced"))


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_view_that_takes_other_features_is_noticed(kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    module, inputs = make(kind)
    from avsnn.convert import trace_walk_views, view_graph

    right = view_graph.View

    def wrong(**given: object) -> object:
        index = given["index"]
        assert isinstance(index, np.ndarray)
        return right(**{**given, "index": np.roll(index.ravel(), 1).reshape(index.shape)})

    monkeypatch.setattr(trace_walk_views, "View", wrong)
    try:
        graph = trace(module, inputs, timesteps=T)
    except TraceError:
        return  # such features have no node
    assert differences(module, graph, inputs) > 0


def test_queries_keys_and_values_of_one_layer_become_three() -> None:
    module, inputs = make(TokensLast)
    graph = trace(module, inputs, timesteps=T)
    assert [node.shape for node in graph.of(ir.Conv2d)] == [(8, 2, 2)] * 5  # patch, q, k, v, proj
    assert graph.of(ir.Attention)[0].heads == HEADS
    assert graph.of(ir.Attention)[0].scale == 0.5
    population = graph["attn"]
    assert isinstance(population, ir.LIF)
    assert population.layout is not None, "tokens come last in the module"


class Viewed(Patches):
    """Any chain of views, then a linear layer over all features."""

    def __init__(self, views: list[tuple[str, tuple[int, ...]]]) -> None:
        super().__init__()
        self.views, self.last = views, nn.Linear(4 * WIDTH, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(image)
        for method, arguments in self.views:
            x = getattr(x, method)(*arguments)
        return self.last(x.flatten(2)).mean(0)


@st.composite
def chains(draw: st.DrawFn) -> list[tuple[str, tuple[int, ...]]]:
    shape, views = [WIDTH, 2, 2], []
    for _ in range(draw(st.integers(1, 4))):
        if len(shape) > 1 and draw(st.booleans()):
            order = draw(st.sampled_from(list(itertools.permutations(range(len(shape))))))
            views.append(("permute", (0, 1, *(axis + 2 for axis in order))))
            shape = [shape[axis] for axis in order]
        else:
            shape = draw(st.sampled_from([[8, 4], [4, 8], [2, 4, 4], [2, 2, 2, 4], [32], [16, 2], [8, 2, 2]]))
            views.append(("reshape", (T, -1, *shape)))
    return views


@settings(max_examples=25, deadline=None)
@given(views=chains())
def test_any_chain_of_views_is_what_torch_does(views: list[tuple[str, tuple[int, ...]]]) -> None:
    torch.manual_seed(0)
    module = Viewed(views).eval()
    image = np.random.default_rng(0).integers(0, 256, size=(2, 3, 8, 8)) / 255
    graph = trace(module, {"image": image})
    expected = witness(module, {"image": image}, graph=graph).outputs["output"]
    (made,) = interpret(graph, {"image": image}).outputs.values()
    np.testing.assert_allclose(made, expected, rtol=1e-9, atol=1e-12)
    assert np.ptp(expected) > 0


class Refused(Patches):
    """One thing that no view is."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.point = nn.Linear(4, 8)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(image)
        match self.way:
            case "time and samples swapped":
                x = x.transpose(0, 1)
            case "time and features mixed":
                x = x.reshape(x.shape[1], T, WIDTH, 2, 2)
            case "linear over positions":
                return self.answer(self.point(x.flatten(3)))
            case "part of a population":
                a, b = x.chunk(2, dim=2)
                return self.answer(torch.cat((self.lif(a + b), a), dim=2).flatten(3).transpose(2, 3))
            case "product alone":
                return self.answer(((x.flatten(3) @ x.flatten(3).mT) @ x.flatten(3)).mT)
            case "product of currents":
                x = x * self.repeat(self.patch(image))
            case "gate of silence":
                x = (1 - x) * (1 - x)
            case "silence alone":
                x = self.lif(1 - x)
            case "never repeated":
                return self.head(image.unsqueeze(0).flatten(2).mean(0)[:, :8])
            case "merged answer":
                return self.head(x.flatten(0, 1).flatten(2).mean(2))
        return self.answer(x.flatten(3).transpose(2, 3))


@pytest.mark.parametrize(
    ("way", "what"),
    [
        ("time and samples swapped", "mixes features with time or samples"),
        ("time and features mixed", "mixes features with time or samples"),
        ("linear over positions", "channels and positions are mixed"),
        ("part of a population", "reads a part of what lif"),
        ("product alone", "heads, tokens, channels of a head"),
        ("product of currents", "multiplies what are not spikes, found patch"),
        ("gate of silence", "a gate that opens in silence"),
        ("silence alone", "reads where spikes are missing"),
        ("never repeated", "axis of length 1 in front of the samples"),
        ("merged answer", "answer at every step"),
    ],
)
def test_what_only_looks_like_a_view_is_refused_by_name(way: str, what: str) -> None:
    with pytest.raises(TraceError, match=what):
        trace(Refused(way).eval(), {"image": np.zeros((2, 3, 8, 8))})
