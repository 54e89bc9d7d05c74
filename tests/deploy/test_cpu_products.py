"""Products of spikes in the simulator against the reference interpreter, on random graphs and random schedules."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avsnn.convert.ir import fixed_interpreter as reference
from avsnn.convert.ir import fixed_nodes as ir
from avsnn.convert.ir.activity import Activity
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array, Node, Shape
from avsnn.convert.passes.schedule import schedule
from avsnn.deploy.backends import exact_products
from avsnn.deploy.backends.cpu import simulate
from avsnn.deploy.backends.exact_products import ExactProduct
from avsnn.errors import CapabilityError, DomainError, InputError

Rng = np.random.Generator
POPULATIONS = ("q", "k", "v", "chosen", "mix", "late", "joined")
PRODUCTS = ("space", "time", "map", "mapped", "sums", "near", "far", "unit")


def population(rng: Rng, name: str, inputs: tuple[str, ...], shape: Shape, *, threshold: int) -> ir.FixedLIF:
    return ir.FixedLIF(
        name=name,
        inputs=inputs,
        shape=shape,
        threshold_mant=threshold,
        decay_u=int(rng.choice([4095, 4095, 2047])),
        decay_v=int(rng.choice([0, 2048, 4096])),
        bias_mant=rng.integers(-40, 80, shape[:1]),
    )


def conv(rng: Rng, name: str, source: str, shape: Shape) -> ir.FixedConv2d:
    weight = rng.integers(-5, 8, (shape[0], shape[0], 3, 3)) * 2
    return ir.FixedConv2d(name=name, inputs=(source,), shape=shape, weight_mant=weight, padding=(1, 1))


def linear(rng: Rng, name: str, source: str, size: int, out: int) -> ir.FixedLinear:
    weight = rng.integers(-5, 8, (out, size)) * 2
    return ir.FixedLinear(name=name, inputs=(source,), shape=(out,), weight_mant=weight)


def network(seed: int) -> Graph:
    """Stage ``quantised``: q, k and v at three depths, every product, what reads them, one read-out."""
    rng = np.random.default_rng(seed)
    heads, d, T = (int(i) for i in rng.integers((1, 1, 1), (4, 5, 5)))
    shape = (heads * d, *(int(i) for i in rng.integers(1, 4, 2)))
    size, tokens = int(np.prod(shape)), int(np.prod(shape[1:]))
    gains = [int(i) for i in rng.choice([1, 1, 2, -3], 7)]
    common: dict[str, Any] = {"shape": shape}
    nodes: Iterable[Node] = (
        ir.FixedInput(name="flow", shape=shape, coding="sequence", low=0, high=1, step=1.0),
        conv(rng, "flow.q", "flow", shape),
        population(rng, "q", ("flow.q",), shape, threshold=8),
        conv(rng, "q.k", "q", shape),
        population(rng, "k", ("q.k",), shape, threshold=12),
        conv(rng, "flow.v", "flow", shape),
        conv(rng, "k.v", "k", shape),
        population(rng, "v", ("flow.v", "k.v"), shape, threshold=20),
        ir.FixedAttention(name="space", inputs=("q", "k", "v"), **common, heads=heads, over="space", gain=gains[0]),
        ir.FixedAttention(name="time", inputs=("v", "q", "k"), **common, heads=heads, over="time", gain=gains[1]),
        ir.FixedAttentionMap(name="map", inputs=("k", "q"), shape=(heads, tokens, tokens), heads=heads),
        population(rng, "chosen", ("map",), (heads, tokens, tokens), threshold=2),
        ir.FixedMappedValues(name="mapped", inputs=("chosen", "v"), **common, gain=gains[2]),
        ir.FixedProductOfSums(name="sums", inputs=("q", "v"), **common, gain=gains[3]),
        ir.FixedProductOfSums(name="near", inputs=("v", "k"), **common, gain=gains[4]),
        ir.FixedAttention(name="far", inputs=("q", "q", "k"), **common, heads=heads, over="space", gain=gains[5]),
        ir.FixedUnitCurrent(
            name="unit",
            inputs=("q", "v"),
            shape=(5,),
            weight=rng.integers(-9000, 10000, (5, size + shape[0])),
            bias=rng.integers(-(1 << 26), 1 << 26, 5),
            shift=22,
            pooled=(False, True),
            gain=gains[6],
        ),
        population(rng, "joined", ("unit",), (5,), threshold=30),
        conv(rng, "k.mix", "k", shape),
        population(rng, "mix", ("space", "mapped", "time", "k.mix"), shape, threshold=6),
        conv(rng, "sums.late", "sums", shape),
        population(rng, "late", ("sums.late", "near"), shape, threshold=40),
        linear(rng, "mix.out", "mix", size, 3),
        linear(rng, "joined.out", "joined", 5, 3),
        linear(rng, "sums.out", "sums", size, 3),
        linear(rng, "far.out", "far", size, 3),
        linear(rng, "late.out", "late", size, 3),
        ir.FixedReadout(
            name="out",
            inputs=("mix.out", "sums.out", "far.out", "late.out", "joined.out"),
            shape=(3,),
            bias=rng.integers(-5, 5, 3),
            scale=1.0,
        ),
    )
    return Graph(nodes=tuple(nodes), outputs=("out",), timesteps=T, stage="quantised")


def at_random(graph: Graph, seed: int) -> Graph:
    """Offsets, delays and reset phases that make no sense: what the wall clock does with them is still defined."""
    rng = np.random.default_rng(seed)
    T = graph.timesteps
    nodes: list[Node] = []
    for node in graph:
        some = int(rng.integers(0, 2 * T + 3))
        match node:
            case ir.Product():
                delays = tuple(int(i) for i in rng.integers(0, T + 2, len(node.inputs)))
                nodes.append(replace(node, offset=some, delays=delays))
            case ir.Synapse():
                nodes.append(replace(node, delay=int(rng.integers(0, 3))))
            case ir.FixedLIF():
                nodes.append(replace(node, offset=some, reset_interval=T, reset_phase=int(rng.integers(0, T))))
            case ir.FixedReadout():
                nodes.append(replace(node, offset=some))
            case _:
                nodes.append(node)
    return replace(graph, nodes=tuple(nodes), stage="scheduled")


def frames(graph: Graph, batch: int, seed: int) -> dict[str, Array]:
    return {"flow": np.random.default_rng(seed).integers(0, 2, (graph.timesteps, batch, *graph["flow"].shape))}


def differences(left: Activity, right: Activity) -> list[str]:
    """Everything in which two runs disagree."""
    assert left.outputs.keys() == right.outputs.keys()
    assert left.spikes.keys() == right.spikes.keys() == left.states.keys() == right.states.keys()
    pairs = {name: (left.outputs[name], right.outputs[name]) for name in left.outputs}
    pairs |= {f"{name}.s": (left.spikes[name], right.spikes[name]) for name in left.spikes}
    pairs |= {f"{n}.{x}": (left.states[n][x], right.states[n][x]) for n in left.states for x in left.states[n]}
    return [name for name, (a, b) in pairs.items() if not np.array_equal(a, b)]


def changed(graph: Graph, name: str, change: Callable[[Any], Node]) -> Graph:
    return replace(graph, nodes=tuple(change(n) if n.name == name else n for n in graph))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_every_state_equals_the_wall_clock_of_any_schedule(seed: int) -> None:
    graph = at_random(network(seed), seed)
    inputs = frames(graph, 3, seed)
    assert differences(simulate(graph, inputs, record="all", streams=1), reference.wall_clock(graph, inputs)) == []


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 3, 5, None]))
def test_a_right_schedule_gives_logical_time_whatever_the_streams(seed: int, streams: int | None) -> None:
    graph = network(seed)
    inputs = frames(graph, 5, seed)
    meant = reference.logical(graph, inputs)
    run = simulate(schedule(graph, delay_steps_max=None)[0], inputs, record="all", streams=streams)
    assert differences(run, meant) == []
    for name in ("far", "sums"):  # the products that synapses read
        node = graph[name]
        assert isinstance(node, ir.Product)
        messages = reference.product(node, *(meant.spikes[source] for source in node.inputs))
        assert np.array_equal(run.counts[name], np.count_nonzero(messages, axis=0))
    assert run.counts.keys() == {"flow", *POPULATIONS, "far", "sums"}


def test_the_random_networks_are_not_silent() -> None:
    rates, busy = [], []
    for seed in range(20):
        graph = network(seed)
        inputs = frames(graph, 4, seed)
        meant = reference.logical(graph, inputs)
        rates.append([meant.spikes[name].mean() for name in POPULATIONS])
        products = [node for node in graph.of(ir.Product)]
        busy.append([(reference.product(p, *(meant.spikes[n] for n in p.inputs)) != 0).mean() for p in products])
    assert (np.mean(rates, axis=0) > 0.05).all()
    assert (np.mean(rates, axis=0) < 0.95).all()
    assert (np.mean(busy, axis=0) > 0.1).all()


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("what", ["delay", "offset", "gain"])
def test_the_comparison_sees_one_wrong_step_of_one_product(name: str, what: str) -> None:
    """The offset of a product of single steps says only when its messages are counted."""
    noticed = False
    for seed in (4, 6, 7):
        graph = schedule(network(seed), delay_steps_max=None)[0]
        node = graph[name]
        assert isinstance(node, ir.Product)
        later = (node.delays[0] + 1, *node.delays[1:])
        wrong = {"delay": {"delays": later}, "offset": {"offset": node.offset + 1}, "gain": {"gain": node.gain + 1}}
        bad = changed(graph, name, lambda n, new=wrong[what]: replace(n, **new))  # type: ignore[misc]
        inputs = frames(graph, 6, seed)
        right, run = reference.wall_clock(graph, inputs), simulate(bad, inputs, record="all", streams=2)
        noticed = noticed or bool(differences(run, right))
        if noticed:
            break
    assert noticed == (what != "offset" or name in ("time", "sums", "near", "unit"))


def test_blocks_of_wall_steps_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = at_random(network(3), 3)
    inputs = frames(graph, 4, 3)
    whole = simulate(graph, inputs, record="all", streams=1)
    monkeypatch.setattr(exact_products, "BLOCK_BYTES", 1)
    assert differences(simulate(graph, inputs, record="all", streams=1), whole) == []


@pytest.mark.parametrize("tokens", [2, 9])
@pytest.mark.parametrize("over", ["space", "time"])
def test_full_spikes_reach_the_bound(tokens: int, over: str) -> None:
    """Both orders of the product: fewer tokens (steps) than channels of a head, and more."""
    T, shape = 5 if tokens == 2 else 2, (6, tokens)
    node = ir.FixedAttention(name="a", inputs=("q", "k", "v"), shape=shape, heads=2, over=over, gain=-7, offset=T)
    exact = ExactProduct(node=node, source_shapes=(shape,) * 3, timesteps=T)
    ones = np.ones((T, 1, *shape), bool)
    found = exact.on_the_wall([ones] * 3, 2 * T)
    assert exact.bound == 7 * 3 * (tokens if over == "space" else T)
    assert exact.message_dtype == (np.int8 if exact.bound < 128 else np.int16)
    assert found[T:].min() == -exact.bound if over == "time" else found[1 : T + 1].max() == -exact.bound


@pytest.mark.parametrize("tokens", [127, 128, 129, 1 << 15])
def test_messages_are_as_narrow_as_the_bound_and_no_narrower(tokens: int) -> None:
    node = ir.FixedProductOfSums(name="p", inputs=("x", "x"), shape=(1, tokens), offset=1)
    exact = ExactProduct(node=node, source_shapes=((1, tokens),) * 2, timesteps=1)
    ones = np.ones((2, 1, 1, tokens), bool)
    found = exact.on_the_wall([ones, ones], 2)
    assert (found[1] == tokens).all()
    assert found.itemsize == {127: 1, 128: 2, 129: 2, 1 << 15: 4}[tokens]


@pytest.mark.parametrize("gain", [1 << 20, 1 << 40])
def test_large_gains_are_exact_and_too_large_ones_refused(gain: int) -> None:
    shape = (3, 8)
    node = ir.FixedProductOfSums(name="p", inputs=("x", "y"), shape=shape, gain=gain + 1, offset=2)
    x = np.random.default_rng(0).integers(0, 2, (2, 1, *shape)).astype(bool)
    found = ExactProduct(node=node, source_shapes=(shape,) * 2, timesteps=2).on_the_wall([x, x], 4)
    assert np.array_equal(found[2:], reference.product(node, x, x))
    with pytest.raises(DomainError, match="p: products exceed what float64 holds"):
        ExactProduct(node=replace(node, gain=1 << 49), source_shapes=(shape,) * 2, timesteps=2)


def test_connections_and_populations_know_how_large_a_product_can_be() -> None:
    """Taken for spikes, these messages would be summed in float32, which rounds them, and u would not be watched."""
    graph = schedule(network(1), delay_steps_max=None)[0]
    inputs = frames(graph, 3, 1)
    heavy = changed(graph, "far", lambda n: replace(n, gain=(1 << 25) + 1))
    run = simulate(heavy, inputs)
    assert differences(run, replace(reference.wall_clock(heavy, inputs), spikes={}, states={})) == []
    assert np.abs(run.outputs["out"]).max() > 1 << 25
    wide = changed(graph, "unit", lambda n: replace(n, weight=(n.weight << 30) + 1, bias=n.bias << 30, shift=52))
    assert differences(simulate(wide, inputs, record="all"), reference.wall_clock(wide, inputs)) == []
    wide = changed(graph, "unit", lambda n: replace(n, weight=n.weight << 33))
    with pytest.raises(DomainError, match="unit: sums exceed what int64 holds"):
        simulate(wide, inputs)
    with pytest.raises(DomainError, match="late: u leaves the 24-bit state at sample"):
        simulate(changed(graph, "near", lambda n: replace(n, gain=1 << 17)), inputs)


@pytest.mark.parametrize(
    ("name", "change", "match"),
    [
        ("space", {"shape": (1, 1, 1)}, "space: shapes, heads or axis do not fit"),
        ("space", {"heads": 5}, "space: shapes, heads or axis do not fit"),
        ("space", {"over": "colour"}, "space: shapes, heads or axis do not fit"),
        ("space", {"inputs": ("q", "k")}, "space: shapes, heads or axis do not fit"),
        ("mapped", {"inputs": ("v", "chosen")}, "mapped: shapes, heads or axis do not fit"),
        ("sums", {"inputs": ("q", "chosen")}, "sums: shapes, heads or axis do not fit"),
        ("unit", {"pooled": (True, True)}, "unit: shapes, heads or axis do not fit"),
        ("unit", {"pooled": (True,)}, "unit: shapes, heads or axis do not fit"),
        ("unit", {"bias": np.zeros(4, np.int64)}, "unit: shapes, heads or axis do not fit"),
        ("unit", {"shift": -1}, "unit: shapes, heads or axis do not fit"),
        ("time", {"delays": (0, 1)}, "time: a product needs one delay per input"),
        ("time", {"delays": (0, 1, -1)}, "time: a product needs one delay per input"),
        ("time", {"offset": -1}, "time: negative offset"),
        ("time", {"inputs": ("flow", "k", "v")}, r"time: reads what it cannot, found flow \(FixedInput\)"),
        ("mapped", {"inputs": ("map", "v")}, r"mapped: reads what it cannot, found map \(FixedAttentionMap\)"),
        ("mix", {"inputs": ("map",)}, "mix: a product feeds neuron by neuron"),
        ("out", {"inputs": ("sums",)}, r"out: reads what it cannot, found sums \(FixedProductOfSums\)"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, change: dict[str, Any], match: str) -> None:
    graph = schedule(network(2), delay_steps_max=None)[0]
    with pytest.raises((InputError, CapabilityError), match=match):
        simulate(changed(graph, name, lambda n: replace(n, **change)), frames(graph, 2, 0))


def test_windows_need_resets_and_products_are_no_answers() -> None:
    graph = schedule(network(2), delay_steps_max=None)[0]
    inputs = frames(graph, 2, 0)
    imported = replace(
        graph, nodes=tuple(replace(n, reset_interval=0) if isinstance(n, ir.FixedLIF) else n for n in graph)
    )
    with pytest.raises(CapabilityError, match="time: a product over the window needs populations that are reset"):
        simulate(imported, inputs)
    with pytest.raises(CapabilityError, match="sums: only populations and read-outs answer"):
        simulate(replace(graph, outputs=("out", "sums")), inputs)
    with pytest.raises(CapabilityError, match="space: the simulator knows no such product, found Product"):
        simulate(changed(graph, "space", lambda n: ir.Product(name="space", inputs=n.inputs, shape=n.shape)), inputs)
