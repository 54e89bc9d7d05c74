"""Products of activity in Lava: what populations hear, recomputed one term at a time from the spikes that Lava left."""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.activity import Activity
from avsnn.convert.ir.fixed_interpreter import wall_clock
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array, Node, Shape
from avsnn.convert.passes.schedule import schedule
from avsnn.deploy import lava_env
from avsnn.deploy.backends.lava import LavaWorker
from avsnn.deploy.exports.lava import write_lava

FOUND = lava_env.doctor()
pytestmark = [
    pytest.mark.lava,
    pytest.mark.skipif(bool(FOUND.missing), reason=f"no Lava interpreter: {FOUND.missing}"),
]
T, SAMPLES, HEADS, GAIN = 3, 3, 2, 5
SHAPE = (4, 2, 3)
N = 6


def population(name: str, *inputs: str, shape: Shape = SHAPE, **own: object) -> fixed.FixedLIF:
    options: dict[str, object] = {"threshold_mant": 20, "decay_v": 2048, "bias_mant": np.array([70])}
    return fixed.FixedLIF(name=name, inputs=inputs, shape=shape, **(options | own))  # type: ignore[arg-type]


def wire(rng: np.random.Generator, name: str, source: str, sizes: tuple[int, int], **own: object) -> fixed.FixedLinear:
    options: dict[str, object] = {"shape": SHAPE, "weight_mant": 2 * rng.integers(-9, 14, sizes)}
    return fixed.FixedLinear(name=name, inputs=(source,), **(options | own))  # type: ignore[arg-type]


def network() -> Graph:
    """Populations at depths 1 to 12; every kind of product of two or three of them; readers of both kinds."""
    rng = np.random.default_rng(5)
    timing = {"heads": HEADS, "gain": GAIN, "shape": SHAPE}
    nodes = (
        fixed.FixedInput(name="x", shape=(7,), coding="sequence", low=0, high=1, step=1.0),
        wire(rng, "x.q", "x", (24, 7)),
        population("q", "x.q"),
        wire(rng, "q.k", "q", (24, 24)),
        population("k", "q.k"),
        wire(rng, "k.v", "k", (24, 24)),
        wire(rng, "x.v", "x", (24, 7)),
        population("v", "k.v", "x.v"),
        fixed.FixedAttention(name="space", inputs=("k", "q", "v"), over="space", **timing),  # type: ignore[arg-type]
        population("hears.space", "space", threshold_mant=9),
        fixed.FixedAttention(name="time", inputs=("hears.space", "q", "q"), over="time", **timing),  # type: ignore[arg-type]
        population("hears.time", "time", threshold_mant=4),
        fixed.FixedAttentionMap(name="map", inputs=("v", "q"), heads=HEADS, gain=GAIN, shape=(HEADS, N, N)),
        population("hears.map", "map", shape=(HEADS, N, N), threshold_mant=6),
        fixed.FixedMappedValues(name="mapped", inputs=("hears.map", "v"), gain=GAIN, shape=SHAPE),
        population("hears.mapped", "mapped", threshold_mant=25),
        fixed.FixedProductOfSums(name="sums", inputs=("hears.mapped", "hears.time"), gain=GAIN, shape=SHAPE),
        population("hears.sums", "sums", threshold_mant=25),
        wire(rng, "sums.late", "sums", (24, 24)),
        wire(rng, "k.late", "k", (24, 24), weight_exp=2),
        population("both", "sums.late", "k.late", threshold_mant=900),
        wire(rng, "out.sums", "sums", (5, 24), shape=(5,)),
        wire(rng, "out.both", "both", (5, 24), shape=(5,)),
        fixed.FixedReadout(name="head", inputs=("out.sums", "out.both"), shape=(5,), bias=np.arange(5), scale=1.0),
    )
    graph = Graph(nodes=nodes, outputs=("head", "hears.sums"), timesteps=T, stage="quantised")
    return schedule(graph, delay_steps_max=62)[0]


def given_spikes() -> dict[str, Array]:
    return {"x": np.random.default_rng(2).integers(0, 2, (T, SAMPLES, 7))}


def by_terms(node: fixed.Product, *factors: Array) -> Array:
    """A product from spikes (T, B, *shape), the sum written out."""
    flat = [x.reshape(*x.shape[:3], -1).astype(int) for x in factors]
    found = np.zeros((*flat[-1].shape[:2], node.shape[0], int(np.prod(node.shape[1:]))), dtype=np.int64)
    match node:
        case fixed.FixedAttention(over="space"):
            (q, k, v), d = flat, node.shape[0] // node.heads
            for t, b, c, m in np.ndindex(*found.shape):
                head = slice(c // d * d, c // d * d + d)
                found[t, b, c, m] = sum(q[t, b, head, m] @ k[t, b, head, n] * v[t, b, c, n] for n in range(N))
        case fixed.FixedAttention():
            (q, k, v), d = flat, node.shape[0] // node.heads
            for t, b, c, n in np.ndindex(*found.shape):
                head = slice(c // d * d, c // d * d + d)
                found[t, b, c, n] = sum(q[t, b, head, n] @ k[s, b, head, n] * v[s, b, c, n] for s in range(T))
        case fixed.FixedAttentionMap():
            (q, k), d = flat, flat[0].shape[2] // node.heads
            for t, b, h, pair in np.ndindex(*found.shape):
                m, n = divmod(pair, N)
                found[t, b, h, pair] = q[t, b, h * d : h * d + d, m] @ k[t, b, h * d : h * d + d, n]
        case fixed.FixedMappedValues():
            (chosen, v), d = flat, node.shape[0] // HEADS
            for t, b, c, m in np.ndindex(*found.shape):
                found[t, b, c, m] = sum(chosen[t, b, c // d, m * N + n] * v[t, b, c, n] for n in range(N))
        case _:
            x, y = flat
            for t, b, c, n in np.ndindex(*found.shape):
                found[t, b, c, n] = x[t, b, c].sum() * y[:, b, c, n].sum()
    return found.reshape(*found.shape[:2], *node.shape) * node.gain


def heard(graph: Graph, found: Activity, name: str) -> tuple[Array, Array]:
    """(what the population that reads a product heard, what the product of the recorded spikes is)."""
    node = graph[name]
    assert isinstance(node, fixed.Product)
    current = found.states[f"hears.{name}"]["u"].astype(np.int64) // 64  # u keeps nothing of the step before
    return current, by_terms(node, *(found.spikes[source] for source in node.inputs))


def same(one: Activity, other: Activity) -> bool:
    """Every spike, every state and the raw outputs that both have."""
    assert one.spikes.keys() == other.spikes.keys()
    equal = all((one.spikes[name] == other.spikes[name]).all() for name in one.spikes)
    states = all((one.states[n][kind] == other.states[n][kind]).all() for n in one.states for kind in "uv")
    return (
        equal and states and all((one.outputs[n] == other.outputs[n]).all() for n in one.outputs.keys() & other.outputs)
    )


@pytest.fixture(scope="module")
def worker() -> Iterator[LavaWorker]:
    with LavaWorker(timeout_s=120) as running:
        yield running


def driven(worker: LavaWorker, graph: Graph, integers: dict[str, Array]) -> Activity:
    with TemporaryDirectory() as place:
        write_lava(graph, Path(place) / "lava")
        return worker.run(Path(place) / "lava", integers, oracle=True).activity


PRODUCTS = ("space", "time", "map", "mapped", "sums")


def test_populations_hear_products_on_lavas_runtime(worker: LavaWorker, tmp_path: Path) -> None:
    graph, x = network(), given_spikes()
    write_lava(graph, tmp_path / "lava")
    found = worker.run(tmp_path / "lava", x).activity
    for name in PRODUCTS:
        current, expected = heard(graph, found, name)
        assert (current == expected).all(), name
        assert len(np.unique(expected)) > 2, f"{name} proves little"
        assert 0.05 < found.spikes[f"hears.{name}"].mean() < 0.95, f"{name} proves little"
    assert 0.05 < found.spikes["both"].mean() < 0.95
    assert same(wall_clock(graph, x), found)
    depths = {name: node.offset for name, node in graph.by_name.items() if isinstance(node, fixed.Product)}
    assert max(graph["time"].delays) > 1  # type: ignore[attr-defined]  # a Product
    assert len(set(depths.values())) > 3


@pytest.mark.parametrize(
    ("name", "fault"),
    [*((name, "delay") for name in PRODUCTS), ("time", "offset"), ("sums", "offset"), ("map", "gain")],
)
def test_a_wrong_product_shows(worker: LavaWorker, name: str, fault: str) -> None:
    """And it is exported as it is: an export that repaired it would hide it from the proof."""
    graph, x = network(), given_spikes()
    node = graph[name]
    assert isinstance(node, fixed.Product)
    changes = {"delay": {"delays": (node.delays[0] + 1, *node.delays[1:])}, "offset": {"offset": node.offset + 1}}
    wrong = replace(node, **(changes | {"gain": {"gain": GAIN + 1}})[fault])  # type: ignore[arg-type]
    altered = graph.with_nodes(wrong if n is node else n for n in graph)
    found = driven(worker, altered, x)
    current, expected = heard(graph, found, name)
    assert (current != expected).any()
    assert same(wall_clock(altered, x), found)


@st.composite
def one_product(draw: st.DrawFn) -> tuple[Graph, Array]:
    """Spikes as they come, in random formats and times, through one product of any kind to a population."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    heads, d, steps = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 4))
    tokens, keys = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    kind = draw(st.sampled_from(PRODUCTS))
    shape = (heads * d, tokens)
    chosen = (heads, tokens, tokens)
    shapes: dict[str, tuple[Shape, ...]] = {
        "space": (shape, (heads * d, keys), (heads * d, keys)),
        "time": (shape, shape, shape),
        "map": (shape, shape),
        "mapped": (chosen, shape),
        "sums": (shape, shape),
    }
    nodes: list[Node] = [fixed.FixedInput(name="x", shape=(5,), coding="sequence", low=0, high=1, step=1.0)]
    for i, each in enumerate(shapes[kind]):
        size = int(np.prod(each))
        own = {"shape": each, "sign_mode": "excitatory", "weight_mant": rng.integers(0, 20, (size, 5))}
        bias = rng.integers(-1500, 400, each)  # fires before the first sample, too
        nodes += [wire(rng, f"w{i}", "x", (size, 5), **own), population(f"p{i}", f"w{i}", shape=each, bias_mant=bias)]
    offset = draw(st.integers(0, 5))
    common: dict[str, object] = {
        "name": "y",
        "inputs": tuple(f"p{i}" for i in range(len(shapes[kind]))),
        "gain": draw(st.sampled_from([1, 2, 7])),
        "delays": draw(st.sampled_from([(), tuple(int(n) for n in rng.integers(0, 4, len(shapes[kind])))])),
        "offset": offset,
        "shape": chosen if kind == "map" else shape,
    }
    if kind == "space" and draw(st.booleans()):
        common["inputs"] = ("p0", "p1", "p1")  # one population in two places
    if kind in ("space", "time"):
        common |= {"over": kind}
    kinds = {"map": fixed.FixedAttentionMap, "mapped": fixed.FixedMappedValues, "sums": fixed.FixedProductOfSums}
    if kind in ("space", "time", "map"):
        common |= {"heads": heads}
    nodes.append(kinds.get(kind, fixed.FixedAttention)(**common))
    reset = {"reset_interval": steps, "reset_phase": offset % steps, "offset": offset}
    nodes.append(population("z", "y", shape=nodes[-1].shape, **reset))
    graph = Graph(nodes=tuple(nodes), outputs=("z",), timesteps=steps, stage="scheduled")
    return graph, rng.integers(0, 2, (steps, 2, 5))


@settings(max_examples=30, deadline=None)
@given(one_product())
def test_any_product_at_any_time_equals_the_interpreter(worker: LavaWorker, case: tuple[Graph, Array]) -> None:
    graph, x = case
    assert same(wall_clock(graph, {"x": x}), driven(worker, graph, {"x": x}))


def test_large_graded_messages_stay_exact(worker: LavaWorker) -> None:
    """Stock synapses multiply messages of 23 bits by weights of 8, with and without delay."""
    rng, steps = np.random.default_rng(1), 4
    nodes = (
        fixed.FixedInput(name="x", shape=(6,), coding="sequence", low=0, high=1, step=1.0),
        wire(rng, "w", "x", (8, 6), shape=(2, 4), sign_mode="excitatory", weight_mant=rng.integers(0, 60, (8, 6))),
        population("p", "w", shape=(2, 4), offset=1, reset_interval=steps, reset_phase=1),
        fixed.FixedProductOfSums(name="y", inputs=("p", "p"), shape=(2, 4), gain=520_001, delays=(0, 0), offset=5),
        wire(rng, "now", "y", (3, 8), shape=(3,), weight_mant=2 * rng.integers(-16, 16, (3, 8))),
        wire(rng, "late", "y", (3, 8), shape=(3,), weight_mant=2 * rng.integers(-4, 4, (3, 8)), weight_exp=2, delay=2),
        fixed.FixedReadout(name="a", inputs=("now",), shape=(3,), bias=np.zeros(3, int), scale=1.0, offset=6),
        fixed.FixedReadout(name="b", inputs=("late",), shape=(3,), bias=np.zeros(3, int), scale=1.0, offset=8),
    )
    graph = Graph(nodes=nodes, outputs=("a", "b"), timesteps=steps, stage="scheduled")
    x = {"x": rng.integers(0, 2, (steps, 3, 6))}
    expected, found = wall_clock(graph, x), driven(worker, graph, x)
    for name in ("a", "b"):
        assert np.abs(expected.outputs[name]).max() > 2**24  # float32 would round
        assert (expected.outputs[name] == found.outputs[name]).all()


def test_attention_of_the_size_of_scmrl_runs_alone(tmp_path: Path) -> None:
    """Cross attention of 32 channels and 8 x 8 tokens over time and over space; a plain interpreter, no avsnn."""
    rng, shape, steps = np.random.default_rng(8), (32, 8, 8), 4
    depthwise = {"groups": 32, "shape": shape, "sign_mode": "excitatory"}
    ones = np.ones((32, 1, 1, 1), dtype=np.int64)
    nodes: list[Node] = []
    for name in "xy":
        nodes.append(fixed.FixedInput(name=name, shape=shape, coding="sequence", low=0, high=1, step=1.0))
        for part in "qkv":
            conv = {"inputs": (name,), "weight_mant": ones * rng.integers(20, 45, (32, 1, 1, 1))}
            nodes.append(fixed.FixedConv2d(name=f"{name}.{part}.w", **depthwise, **conv))  # type: ignore[arg-type]
            nodes.append(population(f"{name}.{part}", f"{name}.{part}.w", shape=shape, bias_mant=np.zeros(1, int)))
    for over, threshold in (("space", 40), ("time", 6)):
        inputs = ("x.q", "y.k", "y.v")
        nodes.append(fixed.FixedAttention(name=over, inputs=inputs, heads=2, over=over, shape=shape))
        nodes.append(population(f"hears.{over}", over, shape=shape, threshold_mant=threshold))
    nodes.append(fixed.FixedProductOfSums(name="sums", inputs=("hears.space", "hears.time"), shape=shape))
    nodes.append(wire(rng, "w", "sums", (10, 2048), shape=(10,)))
    nodes.append(fixed.FixedReadout(name="head", inputs=("w",), shape=(10,), bias=np.zeros(10, int), scale=1.0))
    graph = schedule(
        Graph(nodes=tuple(nodes), outputs=("head",), timesteps=steps, stage="quantised"), delay_steps_max=62
    )[0]
    x = {name: (rng.random((steps, 2, *shape)) < 0.4).astype(np.int64) for name in "xy"}
    write_lava(graph, tmp_path / "lava")
    before = sorted((tmp_path / "lava").rglob("*"))
    np.savez(tmp_path / "in.npz", **x)  # type: ignore[arg-type]  # savez takes names as they come
    command = [
        str(FOUND.python),
        str(tmp_path / "lava" / "network.py"),
        str(tmp_path / "in.npz"),
        str(tmp_path / "out"),
    ]
    done = subprocess.run(command, env={}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert sorted((tmp_path / "lava").rglob("*")) == before
    files = json.loads((tmp_path / "out" / "run.json").read_text())
    expected = wall_clock(graph, x)
    assert (np.load(tmp_path / "out" / files["outputs"]["head"]) == expected.outputs["head"]).all()
    for name, spikes in expected.spikes.items():
        assert 0.02 < spikes.mean() < 0.98, f"{name} proves little"
        assert (np.load(tmp_path / "out" / files["spikes"][name]) == spikes).all()
        for kind in "uv":
            assert (np.load(tmp_path / "out" / files[kind][name]) == expected.states[name][kind]).all()
