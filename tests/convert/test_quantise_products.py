"""Attention through quantising, scheduling and both kinds of time, on spikes that make it fire."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avsnn.convert.integer_check import check_neurons, check_parameters
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.fixed_interpreter import logical, to_integers, wall_clock
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.interpreter import interpret
from avsnn.convert.ir.node import Node
from avsnn.convert.passes.integer_formats import Target
from avsnn.convert.passes.quantise import quantise
from avsnn.convert.passes.quantise_products import count_scale, misjudged
from avsnn.convert.passes.schedule import schedule
from avsnn.errors import QuantizeError, VerifyError
from avsnn.hw_profiles.profile import load_profile

TARGET = Target.of(load_profile("loihi2"))
D, SIDE, T, HEADS = 4, 2, 4, 2
SHAPE = (D, SIDE, SIDE)


def lif(name: str, *inputs: str, shape: tuple[int, ...] = SHAPE, threshold: float = 1.0) -> ir.LIF:
    return ir.LIF(name=name, inputs=inputs, shape=shape, decay=0.5, gain=0.5, threshold=threshold)


def conv(name: str, source: str, rng: np.random.Generator) -> ir.Conv2d:
    weight = rng.normal(size=(D, D, 1, 1)) * 1.5
    return ir.Conv2d(name=name, inputs=(source,), shape=SHAPE, weight=weight, bias=rng.normal(size=D) + 1.5)


def attending(kind: str, seed: int, *, scale: float = 0.5, threshold: float = 1.0) -> Graph:
    """Queries one layer deeper than keys and values, so that the product has to wait for them."""
    rng = np.random.default_rng(seed)
    nodes: list[Node] = [ir.Input(name="x", shape=SHAPE, coding="sequence", step=1.0)]
    for name, source in (("deep", "x"), ("q", "deep.lif"), ("k", "x"), ("v", "x"))[: 3 if kind == "sums" else 4]:
        nodes += [conv(name, source, rng), lif(f"{name}.lif", name)]
    qkv = ("q.lif", "k.lif", "v.lif")
    last, tokens = "a.lif", SIDE * SIDE
    if kind in ("space", "time"):
        nodes.append(ir.Attention(name="a", inputs=qkv, heads=HEADS, scale=scale, over=kind, shape=SHAPE))
        nodes.append(lif("a.lif", "a", threshold=threshold))
    elif kind == "map":
        bias = rng.normal(size=(tokens, tokens)) * 0.3
        shape = (HEADS, tokens, tokens)
        nodes.append(ir.AttentionMap(name="m", inputs=qkv[:2], heads=HEADS, bias=bias, shape=shape))
        nodes.append(lif("m.lif", "m", shape=shape, threshold=threshold))
        nodes.append(ir.MappedValues(name="a", inputs=("m.lif", "v.lif"), scale=scale, shape=SHAPE))
        nodes.append(lif("a.lif", "a", threshold=threshold))
    else:
        nodes.append(ir.ProductOfMeans(name="a", inputs=("q.lif", "k.lif"), shape=SHAPE))
        nodes += [conv("w", "a", rng), lif("a.lif", "w", threshold=0.5)]
    # the skip from k waits for what attention makes of it
    nodes += [
        conv("skip", "k.lif", rng),
        conv("last", last, rng),
        ir.Add(name="sum", inputs=("skip", "last"), shape=SHAPE),
    ]
    nodes += [lif("out.lif", "sum"), ir.Linear(name="head", inputs=("out.lif",), shape=(3,),
              weight=rng.normal(size=(3, D * tokens)), bias=np.zeros(3))]  # fmt: skip
    nodes.append(ir.Readout(name="y", inputs=("head",), shape=(3,), bias=np.zeros(3)))
    return Graph(nodes=tuple(nodes), outputs=("y",), timesteps=T, stage="folded")


def spikes(seed: int, batch: int = 5) -> dict[str, np.ndarray]:
    return {"x": (np.random.default_rng(seed).random((T, batch, *SHAPE)) < 0.6).astype(float)}


KINDS = ("space", "time", "map", "sums")


@pytest.mark.parametrize("kind", KINDS)
def test_products_keep_their_meaning_through_all_stages(kind: str) -> None:
    graph, inputs = attending(kind, seed=0), spikes(1, batch=24)
    whole, scales = quantise(graph, target=TARGET, calibration=inputs)
    assert check_parameters(graph, whole, scales) > 0
    check_neurons(graph, whole, scales)
    real = interpret(graph, inputs)
    assert all(0 < s.mean() < 1 for s in real.spikes.values()), {n: s.mean() for n, s in real.spikes.items()}
    integers = to_integers(whole, inputs)
    expected = logical(whole, integers)
    done, inserted = schedule(whole, delay_steps_max=62)
    assert inserted
    found = wall_clock(done, integers)
    for name, s in expected.spikes.items():
        assert (found.spikes[name] == s).all(), name
        assert (found.states[name]["v"] == expected.states[name]["v"]).all(), name
    assert (found.outputs["y"] == expected.outputs["y"]).all()
    late = done.of(fixed.Product)[0]
    spoiled = done.with_nodes(
        [replace(n, delays=tuple(d + 1 for d in n.delays)) if n is late else n for n in done.nodes]
    )
    assert any((wall_clock(spoiled, integers).spikes[n] != s).any() for n, s in expected.spikes.items())


@pytest.mark.parametrize("over", ["space", "time"])
@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), scale=st.sampled_from([0.125, 0.25, 0.3, 0.5, 1.0, 2.0]))
def test_attention_on_the_same_spikes_is_exact_ties_included(over: str, seed: int, scale: float) -> None:
    graph, inputs = attending(over, seed, scale=scale), spikes(seed)
    whole, _ = quantise(graph, target=TARGET, calibration=inputs)
    real = interpret(graph, inputs)
    population, product = whole["a.lif"], whole["a"]
    assert isinstance(population, fixed.FixedLIF)
    assert isinstance(product, fixed.FixedAttention)
    from avsnn.convert.ir.fixed_interpreter import lif_step
    from avsnn.convert.ir.fixed_interpreter import product as multiply

    current = multiply(product, *(real.spikes[name] for name in product.inputs))
    u = v = np.zeros(current.shape[1:], np.int64)
    for t in range(T):
        u, v, s = lif_step(population, u, v, current[t], np.zeros_like(v), t)[:3]
        assert (s == real.spikes["a.lif"][t]).all()


def test_a_threshold_one_off_is_noticed() -> None:
    graph, inputs = attending("space", seed=0), spikes(1)
    whole, scales = quantise(graph, target=TARGET, calibration=inputs)
    wrong = whole.with_nodes(
        [
            replace(n, threshold_mant=n.threshold_mant + 1)
            if isinstance(n, fixed.FixedLIF) and n.name == "a.lif"
            else n
            for n in whole.nodes
        ]
    )
    with pytest.raises(VerifyError, match=r"a\.lif"):
        check_parameters(graph, wrong, scales)


@given(
    threshold=st.fractions(min_value=Fraction(1, 8), max_value=20, max_denominator=64),
    T=st.integers(1, 7),
    strict=st.booleans(),
)
def test_no_attainable_state_lies_between_real_and_integer_threshold(threshold: Fraction, T: int, strict: bool) -> None:
    graph = replace(attending("space", 0), timesteps=T)
    plain = graph["a.lif"]
    assert isinstance(plain, ir.LIF)
    node = replace(plain, threshold=float(threshold), strict=strict)
    plan = count_scale(graph, node, graph["a"], TARGET)
    assert plan.exact
    assert not misjudged(node, 0.5, plan.gain, plan.threshold, T)
    grid = Fraction(plan.gain, 1 << (T - 1))
    real = Fraction(float(threshold)) / Fraction(0.5) / Fraction(0.5) * plan.gain
    for k in range(int(real / grid) - 2, int(real / grid) + 3):
        v = k * grid
        assert (v > plan.threshold) == (v > real if strict else v >= real)


def test_counts_of_long_windows_were_said_to_miss_ties_on_currents_that_no_count_is() -> None:
    graph, inputs = replace(attending("space", 0), timesteps=9), spikes(1)
    long = {name: np.concatenate([x, x, x])[:9] for name, x in inputs.items()}
    whole, scales = quantise(graph, target=TARGET, calibration=long)
    counts = next(s for s in scales if s.population == "a.lif")
    assert counts.shift == 2
    assert check_parameters(graph, whole, scales) > 0
    assert next(c for c in check_neurons(graph, whole, scales) if c.population == "a.lif").mismatches == 0
    more = [replace(n, gain=n.gain + 1) if isinstance(n, fixed.Product) else n for n in whole.nodes]
    with pytest.raises(VerifyError, match=r"a\.lif"):
        check_parameters(graph, whole.with_nodes(more), scales)


def test_counts_that_cannot_fit_are_refused() -> None:
    graph = attending("space", 0, threshold=1e6)
    node = graph["a.lif"]
    assert isinstance(node, ir.LIF)
    with pytest.raises(QuantizeError, match="counts"):
        count_scale(graph, node, graph["a"], TARGET)


def test_attention_that_two_depths_read_is_not_moved_for_both() -> None:
    """The second reader's wait once moved the product under the first reader."""
    graph, inputs = attending("time", seed=0), spikes(1, batch=6)
    whole, _ = quantise(graph, target=TARGET, calibration=inputs)
    wire = whole["last"]
    population = whole["a.lif"]
    assert isinstance(wire, fixed.FixedConv2d)
    nodes = list(whole.nodes)
    at = nodes.index(whole["last"]) + 1
    nodes[at:at] = [
        replace(wire, name="late.wire"),
        replace(population, name="late.lif", inputs=("a", "late.wire")),
    ]
    out = whole["y"]
    late = fixed.FixedLinear(
        name="late.head",
        inputs=("late.lif",),
        shape=(3,),
        weight_mant=np.ones((3, int(np.prod(SHAPE))), dtype=np.int64),
    )
    nodes[-1:] = [late, replace(out, inputs=(*out.inputs, "late.head"))]
    twice = replace(whole, nodes=tuple(nodes))
    integers = to_integers(twice, inputs)
    expected, found = logical(twice, integers), wall_clock(schedule(twice, delay_steps_max=62)[0], integers)
    assert expected.spikes["late.lif"].any()
    for name, s in expected.spikes.items():
        assert (found.spikes[name] == s).all(), name
