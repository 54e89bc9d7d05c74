"""The simulator against a loop over wall time that is too simple to be wrong, on random graphs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avsnn.convert.ir.fixed_interpreter import wall_clock
from avsnn.convert.ir.fixed_nodes import FixedConv2d, FixedInput, FixedLIF, FixedLinear, FixedReadout, HeldCurrent
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array, Node
from avsnn.deploy.backends.cpu import simulate
from avsnn.errors import CapabilityError, DomainError, InputError
from avsnn.hw_profiles.fixed_point import RESETS

Rng = np.random.Generator


def dense(node: Any, source: tuple[int, ...]) -> Array:
    """Any connection as a matrix (targets, sources) of Python integers, one multiplication at a time."""
    weight = node.weight
    if weight.ndim == 2:
        return weight.astype(object)
    matrix = np.zeros((*node.shape, *source), dtype=object)
    per_group = node.shape[0] // node.groups
    for o, y, x in np.ndindex(*node.shape):
        for c, i, j in np.ndindex(*weight.shape[1:]):
            row = y * node.stride[0] + i * node.dilation[0] - node.padding[0]
            column = x * node.stride[1] + j * node.dilation[1] - node.padding[1]
            if 0 <= row < source[1] and 0 <= column < source[2]:
                matrix[o, y, x, o // per_group * weight.shape[1] + c, row, column] += int(weight[o, c, i, j])
    return matrix.reshape(int(np.prod(node.shape)), -1)


def spread(values: Array, shape: tuple[int, ...]) -> Array:
    """(C,) or a full map to one value per neuron."""
    return np.broadcast_to(values if values.ndim == len(shape) else values.reshape(-1, 1, 1), shape).ravel()


def toward_zero(x: int, keep: int) -> int:
    return (1 if x >= 0 else -1) * (abs(x) * keep // 4096)


def plain(graph: Graph, inputs: dict[str, Array], samples: list[int]) -> dict[str, dict[str, list[list[int]]]]:
    """Every node at every wall step of one stream of samples: {name: {"x" | "u" | "v": [step][neuron]}}."""
    T = graph.timesteps
    matrices = {n.name: dense(n, graph[n.inputs[0]].shape) for n in graph if hasattr(n, "weight")}
    seen: dict[str, dict[str, list[Any]]] = {n.name: {"x": [], "u": [], "v": []} for n in graph}
    for w in range(len(samples) * T + max(getattr(n, "offset", 0) for n in graph)):
        for node in graph:
            size = int(np.prod(node.shape))
            out: list[int] = [0] * size
            match node:
                case FixedInput() if w < len(samples) * T:
                    x = inputs[node.name]
                    k, t = samples[w // T], w % T
                    out = [int(i) for i in (x[k] if node.coding == "direct" else x[t, k]).ravel()]
                case HeldCurrent() if w < len(samples) * T:
                    total = matrices[node.name] @ np.array(seen[node.inputs[0]]["x"][w], dtype=object)
                    bias = spread(node.bias, node.shape)
                    half = 2 ** (node.shift - 1) if node.shift else 0
                    out = [(int(a) + int(b) + half) // 2**node.shift for a, b in zip(total, bias, strict=True)]
                case FixedConv2d() | FixedLinear():
                    delays = getattr(node, "output_delay", None)
                    for i in range(size):
                        when = w - 1 - node.delay - (0 if delays is None else int(delays[i]))
                        if when >= 0:
                            out[i] = int(
                                matrices[node.name][i] @ np.array(seen[node.inputs[0]]["x"][when], dtype=object)
                            )
                case FixedLIF() | FixedReadout():
                    port = {n: getattr(graph[n], "port", "current") for n in node.inputs}
                    a = [sum(seen[n]["x"][w][i] for n in node.inputs if port[n] == "current") for i in range(size)]
                    b = [64 * sum(seen[n]["x"][w][i] for n in node.inputs if port[n] == "bias") for i in range(size)]
                    out = a if isinstance(node, FixedReadout) else neuron(node, seen[node.name], a, b, w)
            seen[node.name]["x"].append(out)
    return seen


def neuron(node: FixedLIF, past: dict[str, list[Any]], a: list[int], b: list[int], w: int) -> list[int]:
    u, v = (past["u"][-1], past["v"][-1]) if w else ([0] * len(a), [0] * len(a))
    if node.reset_interval and w % node.reset_interval == node.reset_phase:
        u = v = [0] * len(a)
    bias = spread(node.bias_mant, node.shape)
    u = [toward_zero(x, 4096 - (node.decay_u + 1)) + 64 * y for x, y in zip(u, a, strict=True)]
    sums = [
        toward_zero(x, 4096 - node.decay_v) + y + int(c) * 2**node.bias_exp + d
        for x, y, c, d in zip(v, u, bias, b, strict=True)
    ]
    v = [max(-(2**23 - 1), min(2**23 - 1, x)) for x in sums]
    past["u"].append(u)
    past["v"].append([0 if x > 64 * node.threshold_mant else x for x in v])
    return [int(x > 64 * node.threshold_mant) for x in v]


def population(rng: Rng, name: str, inputs: tuple[str, ...], shape: tuple[int, ...], T: int, offset: int) -> FixedLIF:
    return FixedLIF(
        name=name,
        inputs=inputs,
        shape=shape,
        threshold_mant=int(rng.integers(0, 12)),
        decay_u=int(rng.choice([4095, 4095, 2047, 1000])),
        decay_v=int(rng.choice([0, 415, 2048, 4096])),
        bias_mant=rng.integers(-40, 80, shape[:1]),
        bias_exp=int(rng.integers(0, 4)),
        reset_interval=T,
        reset_phase=int(rng.integers(0, T)),
        offset=offset,
    )


def conv(rng: Rng, name: str, source: Node, *, grouped: bool = False) -> dict[str, Any]:
    """Arguments of a random convolution that reads ``source``."""
    channels, height, width = source.shape
    groups = channels if grouped else 1
    kernel, stride, padding, dilation = (
        tuple(int(i) for i in rng.integers(lo, hi, 2)) for lo, hi in ((1, 4), (1, 3), (0, 3), (1, 3))
    )
    size = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip((height, width), padding, dilation, kernel, stride, strict=True)
    ]
    if min(size) < 1:
        return conv(rng, name, source, grouped=grouped)
    out = groups * int(rng.integers(1, 3))
    return {
        "name": name,
        "inputs": (source.name,),
        "shape": (out, *size),
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "groups": groups,
        "weight": rng.integers(-9, 10, (out, channels // groups, *kernel)),
    }


def synapse(arguments: dict[str, Any], rng: Rng) -> FixedConv2d:
    weight = arguments.pop("weight")
    return FixedConv2d(
        **arguments, weight_mant=weight, weight_exp=exponents(rng, weight), delay=int(rng.integers(0, 4))
    )


def exponents(rng: Rng, weight: Array) -> int | Array:
    """One for all rows, or one each."""
    return rng.integers(0, 3, len(weight)) if rng.random() < 0.5 else int(rng.integers(0, 3))


def linear(rng: Rng, name: str, source: Node, out: int, *, delayed: bool = False) -> FixedLinear:
    return FixedLinear(
        name=name,
        inputs=(source.name,),
        shape=(out,),
        weight_mant=rng.integers(-12, 14, (out, int(np.prod(source.shape)))),
        weight_exp=rng.integers(0, 3, out),
        delay=int(rng.integers(0, 3)),
        output_delay=rng.integers(0, 7, out) if delayed else None,
    )


def random_graph(seed: int) -> Graph:
    """Two inputs, held and sequence, a convolution, a grouped one, a skip with delays; offsets and phases at random."""
    rng = np.random.default_rng(seed)
    T = int(rng.integers(2, 6))
    still = FixedInput(name="still", shape=(2, 5, 4), coding="direct", low=-9, high=9, step=1.0)
    flow = FixedInput(name="flow", shape=(6,), coding="sequence", low=-1, high=3, step=1.0)
    first = conv(rng, "held", still)
    shape = first["shape"]
    held = HeldCurrent(**first, bias=rng.integers(-9, 9, shape[:1]), shift=int(rng.integers(0, 3)))
    drive = HeldCurrent(**{**first, "name": "drive"}, bias=rng.integers(-9, 9, shape), port="bias")
    a = population(rng, "a", ("held", "drive"), shape, T, 0)
    there = synapse(conv(rng, "a.b", a, grouped=bool(rng.integers(2))), rng)
    b = population(rng, "b", ("a.b",), there.shape, T, int(rng.integers(1, 6)))
    skip, side = linear(rng, "a.c", a, 5), linear(rng, "b.c", b, 5, delayed=True)
    more = linear(rng, "flow.c", flow, 5)
    c = population(rng, "c", ("a.c", "b.c", "flow.c"), (5,), T, int(rng.integers(1, 6)))
    last = linear(rng, "c.out", c, 3)
    out = FixedReadout(
        name="out",
        inputs=("c.out",),
        shape=(3,),
        bias=rng.integers(-5, 5, 3),
        scale=1.0,
        offset=int(rng.integers(1, 6)),
    )
    nodes = (still, flow, held, drive, a, there, b, skip, side, more, c, last, out)
    return Graph(nodes=nodes, outputs=("out", "c"), timesteps=T, stage="scheduled")


def random_inputs(graph: Graph, batch: int, seed: int) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {
        n.name: rng.integers(
            n.low, n.high + 1, (batch, *n.shape) if n.coding == "direct" else (graph.timesteps, batch, *n.shape)
        )
        for n in graph.of(FixedInput)
    }


def cut(seen: list[Any], node: Node, T: int, samples: int) -> Array:
    """[wall step][neuron] to (T, samples, *shape)."""
    offset = getattr(node, "offset", 0)
    return np.array(seen[offset : offset + samples * T], dtype=np.int64).reshape(samples, T, *node.shape).swapaxes(0, 1)


def expect(graph: Graph, inputs: dict[str, Array], samples: list[int]) -> dict[str, Array]:
    seen = plain(graph, inputs, samples)
    expected = {}
    for node in graph.of(FixedLIF):
        for key in "xuv":
            expected[f"{node.name}.{key}"] = cut(seen[node.name][key], node, graph.timesteps, len(samples))
    out = graph["out"]
    assert isinstance(out, FixedReadout)
    expected["out"] = cut(seen["out"]["x"], out, graph.timesteps, len(samples)).sum(axis=0) + out.bias
    return expected


def found(graph: Graph, inputs: dict[str, Array], streams: int | None) -> dict[str, Array]:
    run = simulate(graph, inputs, record="all", streams=streams)
    values: dict[str, Array] = {"out": run.outputs["out"]}
    for name, spikes in run.spikes.items():
        values |= {f"{name}.x": spikes, f"{name}.u": run.states[name]["u"], f"{name}.v": run.states[name]["v"]}
        assert run.counts[name].tolist() == spikes.sum(axis=0).tolist()
    assert run.outputs["c"].tolist() == run.counts["c"].tolist()
    assert run.counts["flow"].tolist() == (inputs["flow"] != 0).sum(axis=0).tolist()
    return values


def differences(left: dict[str, Array], right: dict[str, Array]) -> dict[str, int]:
    assert left.keys() == right.keys()
    return {name: int((left[name] != right[name]).sum()) for name in left if (left[name] != right[name]).any()}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_every_state_of_random_graphs_equals_the_plain_loop(seed: int) -> None:
    graph = random_graph(seed)
    inputs = random_inputs(graph, 3, seed)
    assert differences(expect(graph, inputs, [0, 1, 2]), found(graph, inputs, 1)) == {}


def test_streams_are_runs_of_their_own() -> None:
    graph = random_graph(5)
    inputs = random_inputs(graph, 6, 5)
    halves = [expect(graph, inputs, part) for part in ([0, 1, 2], [3, 4, 5])]
    joined = {n: np.concatenate([h[n] for h in halves], axis=0 if n == "out" else 1) for n in halves[0]}
    assert differences(joined, found(graph, inputs, 2)) == {}


def test_the_random_graphs_are_not_silent_and_the_comparison_sees_one_wrong_weight() -> None:
    rates, noticed = [], 0
    for seed in range(12):
        graph = random_graph(seed)
        inputs = random_inputs(graph, 4, seed)
        good = found(graph, inputs, 1)
        rates.append([good[f"{name}.x"].mean() for name in "abc"])
        wire = graph["a.b"]
        assert isinstance(wire, FixedConv2d)
        mant = wire.weight_mant.copy()
        mant.flat[mant.size // 2] += 2
        bad = graph.with_nodes(replace(wire, weight_mant=mant) if n is wire else n for n in graph)
        noticed += bool(differences(good, found(bad, inputs, 1)))
    assert (np.mean(rates, axis=0) > 0.05).all()
    assert (np.mean(rates, axis=0) < 0.95).all()
    assert noticed >= 8  # the tap may meet only padding or silence


def scheduled(T: int = 4, phase: int = 1) -> Graph:
    """A correct two-layer network whose bias fires during the warm-up."""
    rng = np.random.default_rng(0)
    flow = FixedInput(name="flow", shape=(8,), coding="sequence", low=0, high=1, step=1.0)
    wire = replace(linear(rng, "wire", flow, 7), delay=0)
    one = replace(population(rng, "one", ("wire",), (7,), T, 1), reset_phase=phase % T, decay_v=400, decay_u=3000)
    exit_ = replace(linear(rng, "exit", one, 4), delay=0)
    out = FixedReadout(name="out", inputs=("exit",), shape=(4,), bias=np.zeros(4, np.int64), scale=1.0, offset=2)
    return Graph(nodes=(flow, wire, one, exit_, out), outputs=("out",), timesteps=T, stage="scheduled")


@pytest.mark.parametrize("streams", [1, 2, 3, 7, None])
def test_a_right_schedule_makes_samples_independent_of_their_neighbours(streams: int | None) -> None:
    graph = scheduled()
    inputs = random_inputs(graph, 7, 3)
    alone = [simulate(graph, {"flow": inputs["flow"][:, k : k + 1]}, record=["one"]) for k in range(7)]
    run = simulate(graph, inputs, record=["one"], streams=streams)
    assert run.spikes["one"].any()
    assert np.array_equal(run.spikes["one"], np.concatenate([a.spikes["one"] for a in alone], axis=1))
    assert np.array_equal(run.outputs["out"], np.concatenate([a.outputs["out"] for a in alone]))


@pytest.mark.parametrize("phase", [0, 2, 3])
def test_a_wrong_reset_phase_leaks_into_the_next_sample(phase: int) -> None:
    inputs = random_inputs(scheduled(), 6, 3)
    right, wrong = (simulate(scheduled(phase=p), inputs, record="all") for p in (1, phase))
    assert not np.array_equal(right.states["one"]["v"], wrong.states["one"]["v"])


def test_without_resets_there_are_no_windows() -> None:
    graph = scheduled(T=50)
    graph = graph.with_nodes(replace(n, reset_interval=0) if isinstance(n, FixedLIF) else n for n in graph)
    inputs = random_inputs(graph, 3, 1)
    alone = [simulate(graph, {"flow": inputs["flow"][:, k : k + 1]}) for k in range(3)]
    assert np.array_equal(simulate(graph, inputs).outputs["out"], np.concatenate([a.outputs["out"] for a in alone]))


def test_float32_is_left_where_it_would_round() -> None:
    big = (1 << 20) + 1
    flow = FixedInput(name="flow", shape=(64,), coding="sequence", low=0, high=1 << 20, step=1.0)
    wire = FixedLinear(name="wire", inputs=("flow",), shape=(1,), weight_mant=np.full((1, 64), big, np.int64))
    out = FixedReadout(name="out", inputs=("wire",), shape=(1,), bias=np.zeros(1, np.int64), scale=1.0, offset=1)
    graph = Graph(nodes=(flow, wire, out), outputs=("out",), timesteps=1, stage="scheduled")
    x = np.arange(64)[None, None, :] + (1 << 18)
    assert simulate(graph, {"flow": x}).outputs["out"].item() == big * int(x.sum()) > 1 << 24
    heavy = replace(wire, weight_mant=wire.weight_mant << 9)
    with pytest.raises(DomainError, match="wire: sums exceed what float64 holds"):
        simulate(graph.with_nodes([flow, heavy, out]), {"flow": x})


def test_a_current_that_leaves_24_bits_names_population_sample_step_and_neuron() -> None:
    graph = scheduled()
    wire = graph["wire"]
    assert isinstance(wire, FixedLinear)
    mant = np.zeros_like(wire.weight_mant)
    mant[5, 2] = 1 << 17
    bad = graph.with_nodes(replace(wire, weight_mant=mant, weight_exp=0) if n is wire else n for n in graph)
    x = np.zeros((4, 5, 8), np.int64)
    x[2, 3, 2] = 1
    with pytest.raises(
        DomainError, match=r"one: u leaves the 24-bit state at sample 3, step 2, neuron \(5,\), found 8388608"
    ):
        simulate(bad, {"flow": x})


def loaded(reset: str, decay_v: int, each: int, threshold: int = 1000) -> Graph:
    """One neuron behind one input of weight ``each``."""
    flow = FixedInput(name="flow", shape=(1,), coding="sequence", low=-1, high=1, step=1.0)
    wire = FixedLinear(name="wire", inputs=("flow",), shape=(1,), weight_mant=np.array([[each]]))
    cell = FixedLIF(
        name="cell", inputs=("wire",), shape=(1,), threshold_mant=threshold, decay_v=decay_v, reset=reset,
        bias_mant=np.zeros(1, np.int64), subtract=threshold << 6, offset=1, reset_interval=4, reset_phase=1,
    )  # fmt: skip
    return Graph(nodes=(flow, wire, cell), outputs=("cell",), timesteps=4, stage="scheduled")


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("decay_v", [0, 205])
def test_a_state_that_saturates_is_named_by_both_unless_a_reset_forgets_it(reset: str, sign: int, decay_v: int) -> None:
    x = np.full((4, 2, 1), sign)
    x[:, 0] = 0
    heavy = loaded(reset, decay_v, 60_000)
    if sign > 0 and reset == "hard":
        assert simulate(heavy, {"flow": x}).outputs["cell"].tolist() == [[0], [4]]
        return
    for run in (simulate, wall_clock):
        with pytest.raises(DomainError) as left:
            run(heavy, {"flow": x})
        error = left.value
        assert (error.where, error.quantity, error.neuron) == ("cell", "v", (0,))
        assert (error.found, error.limit) == (sign * (2**23 - 1), 2**23 - 2)
        assert error.step == (2 if run is simulate else 4 + 1 + 2)
    allowed = heavy.with_nodes(replace(n, saturates=True) if isinstance(n, FixedLIF) else n for n in heavy)
    found, expected = simulate(allowed, {"flow": x}, record="all"), wall_clock(allowed, {"flow": x})
    assert np.array_equal(found.states["cell"]["v"], expected.states["cell"]["v"])


def test_a_bias_that_leaves_24_bits_is_named() -> None:
    graph = scheduled()
    bad = graph.with_nodes(
        replace(n, bias_mant=np.array([0, 0, 1, 0, 0, 0, 0]) << 23) if isinstance(n, FixedLIF) else n for n in graph
    )
    with pytest.raises(DomainError, match=r"one: bias leaves the 24-bit state at sample 0, step 0, neuron \(2,\)"):
        simulate(bad, random_inputs(graph, 2, 0))


def test_wide_states_run_in_64_bits() -> None:
    graph = scheduled()
    wide = graph.with_nodes(replace(n, state_bits=48) if isinstance(n, FixedLIF) else n for n in graph)
    inputs = random_inputs(graph, 4, 2)
    narrow_run, wide_run = simulate(graph, inputs, record="all"), simulate(wide, inputs, record="all")
    assert wide_run.states["one"]["v"].dtype == np.int64
    assert np.array_equal(narrow_run.states["one"]["v"], wide_run.states["one"]["v"])


def test_progress_counts_samples() -> None:
    seen: list[tuple[int, int]] = []
    simulate(scheduled(), random_inputs(scheduled(), 9, 0), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (9, 9)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda x: {}, "inputs do not match"),
        (lambda x: {"flow": x[:3]}, "wrong input shape"),
        (lambda x: {"flow": x[:, :, :7]}, "wrong input shape"),
        (lambda x: {"flow": x * 2}, "input out of range, found 0 to 2, limit 0 to 1"),
        (lambda x: {"flow": x / 2}, "takes integers"),
        (lambda x: {"flow": x[:, :0]}, "number of samples"),
    ],
)
def test_wrong_inputs_are_refused(change: Any, match: str) -> None:
    with pytest.raises(InputError, match=match):
        simulate(scheduled(), change(random_inputs(scheduled(), 2, 0)["flow"]))


def test_what_cannot_be_simulated_is_refused() -> None:
    graph, inputs = scheduled(), random_inputs(scheduled(), 2, 0)
    wire, one = graph["wire"], graph["one"]
    assert isinstance(wire, FixedLinear)
    assert isinstance(one, FixedLIF)

    def with_node(node: Node) -> Graph:
        return graph.with_nodes(node if n.name == node.name else n for n in graph)

    with pytest.raises(InputError, match="only scheduled graphs"):
        simulate(replace(graph, stage="quantised"), inputs)
    with pytest.raises(KeyError, match="no population 'two'; there are: one"):
        simulate(graph, inputs, record=["two"])
    with pytest.raises(InputError, match="number of streams, found 3, limit 1 to 2"):
        simulate(graph, inputs, streams=3)
    with pytest.raises(CapabilityError, match="negative weight exponent"):
        simulate(with_node(replace(wire, weight_exp=-1)), inputs)
    with pytest.raises(CapabilityError, match="negative bias exponent"):
        simulate(with_node(replace(one, bias_exp=-1)), inputs)
    with pytest.raises(InputError, match="negative delay"):
        simulate(with_node(replace(wire, delay=-1)), inputs)
    with pytest.raises(InputError, match="does not fit"):
        simulate(with_node(replace(wire, weight_mant=wire.weight_mant[:, :5])), inputs)
    with pytest.raises(CapabilityError, match="knows no such node"):
        simulate(with_node(Node(name="wire", inputs=("flow",), shape=(7,))), inputs)
