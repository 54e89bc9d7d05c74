"""Counts that the host scales to length 1, in Lava: what populations hear, recomputed in whole numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.activity import Activity
from avsnn.convert.ir.fixed_interpreter import logical, product, to_integers, wall_clock
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array, Node, Shape
from avsnn.convert.passes.schedule import schedule
from avsnn.convert.pipeline import convert
from avsnn.deploy import lava_env
from avsnn.deploy.backends.cpu import simulate
from avsnn.deploy.backends.lava import LavaWorker
from avsnn.deploy.exports.lava import lower, write_lava
from avsnn.deploy.exports.lava_limits import needs_guard
from avsnn.deploy.exports.lava_products import message_range
from avsnn.errors import AvsnnError, CapabilityError, InputError, QuantizeError
from tests import networks

FOUND = lava_env.doctor()
T, SAMPLES, FLAT, TALL, OUT = 3, 4, (5,), (2, 3, 2), 6
ONE_MODALITY_EACH = {
    "image_values": '{"widths": [4], "blocks": 1, "stem_kernel": 3}',
    "audio_values": '{"channels": [4, 6], "bands": 8, "frames": 8}',
    "readout": "accumulate",
    "hidden": 16,
}


def population(name: str, *inputs: str, shape: Shape, **own: Any) -> fixed.FixedLIF:
    options: dict[str, Any] = {"threshold_mant": 20, "decay_v": 2048, "bias_mant": np.array([70])}
    return fixed.FixedLIF(name=name, inputs=inputs, shape=shape, **(options | own))


def wire(rng: np.random.Generator, name: str, source: str, shape: Shape, sent: int, **own: Any) -> fixed.FixedLinear:
    weight = 2 * rng.integers(-9, 14, (math.prod(shape), sent))
    return fixed.FixedLinear(name=name, inputs=(source,), shape=shape, **({"weight_mant": weight} | own))


def host(rng: np.random.Generator, sources: dict[str, Shape], pooled: tuple[bool, ...], **own: Any) -> Any:
    """A current of vectors of length 1 that is between about -60 and 60 before its gain."""
    counts = sum(s[0] if over else math.prod(s) for s, over in zip(sources.values(), pooled, strict=True))
    options: dict[str, Any] = {
        "weight": rng.integers(-9000, 15000, (OUT, counts)),
        "bias": rng.integers(-(1 << 22), 1 << 25, OUT),
        "shift": 23,
        "gain": 3,
    }
    return fixed.FixedUnitCurrent(name="join", inputs=tuple(sources), shape=(OUT,), pooled=pooled, **(options | own))


def network() -> Graph:
    """Two populations at unequal depth, tokens of one summed; a population and a synapse read their current."""
    rng = np.random.default_rng(4)
    nodes: tuple[Node, ...] = (
        fixed.FixedInput(name="x", shape=(7,), coding="sequence", low=0, high=1, step=1.0),
        wire(rng, "x.early", "x", FLAT, 7),
        population("early", "x.early", shape=FLAT),
        wire(rng, "early.late", "early", TALL, 5),
        population("late", "early.late", shape=TALL, threshold_mant=9),
        host(rng, {"late": TALL, "early": FLAT}, (True, False)),
        population("hears", "join", shape=(OUT,), threshold_mant=40),
        wire(rng, "join.graded", "join", (4,), OUT),
        population("graded", "join.graded", shape=(4,), threshold_mant=900),
        wire(rng, "out", "hears", (3,), OUT),
        wire(rng, "out.graded", "graded", (3,), 4),
        fixed.FixedReadout(name="head", inputs=("out", "out.graded"), shape=(3,), bias=np.arange(3), scale=1.0),
    )
    whole = Graph(nodes=nodes, outputs=("head",), timesteps=T, stage="quantised")
    return schedule(whole, delay_steps_max=62)[0]


def unit_of(graph: Graph) -> fixed.FixedUnitCurrent:
    node = graph["join"]
    assert isinstance(node, fixed.FixedUnitCurrent)
    return node


def with_unit(graph: Graph, **changes: Any) -> Graph:
    return graph.with_nodes(replace(n, **changes) if n.name == "join" else n for n in graph)


def nearest(count: int, square: int) -> int:
    """The integer nearest to ``2^15 count / sqrt(square)``, in whole numbers alone."""
    if not square:
        return 0
    low = math.isqrt((count << 15) ** 2 // square)
    return low + ((count << 16) ** 2 > (2 * low + 1) ** 2 * square)


def heard(graph: Graph, found: Activity) -> tuple[Array, Array]:
    """(what the population that reads the current heard, what the recorded spikes say that it should hear)."""
    node = unit_of(graph)
    expected = np.zeros((SAMPLES, OUT), dtype=np.int64)
    for b in range(SAMPLES):
        vector: list[int] = []
        for name, over in zip(node.inputs, node.pooled, strict=True):
            spikes = found.spikes[name][:, b].reshape(T, graph[name].shape[0], -1)
            counts = spikes.sum(axis=(0, 2)).tolist() if over else spikes.sum(axis=0).ravel().tolist()
            vector += [nearest(count, sum(c * c for c in counts)) for count in counts]
        for row, bias in enumerate(node.bias.tolist()):
            total = sum(w * e for w, e in zip(node.weight[row].tolist(), vector, strict=True)) + bias
            expected[b, row] = node.gain * math.floor((total + 2 ** (node.shift - 1)) / 2**node.shift)
    return found.states["hears"]["u"].astype(np.int64) // 64, np.broadcast_to(expected, (T, SAMPLES, OUT))


def same(one: Activity, other: Activity) -> bool:
    """Every spike, every state and every raw output."""
    assert one.spikes.keys() == other.spikes.keys()
    spikes = all((one.spikes[name] == other.spikes[name]).all() for name in one.spikes)
    states = all((one.states[n][kind] == other.states[n][kind]).all() for n in one.states for kind in "uv")
    outputs = one.outputs.keys() & other.outputs.keys()
    return spikes and states and all((one.outputs[n] == other.outputs[n]).all() for n in outputs)


def given_spikes() -> dict[str, Array]:
    return {"x": np.random.default_rng(2).integers(0, 2, (T, SAMPLES, 7))}


@pytest.fixture(scope="module")
def worker() -> Iterator[LavaWorker]:
    if FOUND.missing:
        pytest.skip(f"no Lava interpreter: {FOUND.missing}")
    with LavaWorker(timeout_s=120) as running:
        yield running


def driven(worker: LavaWorker, graph: Graph, integers: dict[str, Array], *, oracle: bool = True) -> Activity:
    with TemporaryDirectory() as place:
        write_lava(graph, Path(place) / "lava")
        return worker.run(Path(place) / "lava", integers, oracle=oracle).activity


@pytest.mark.lava
def test_a_population_hears_the_current_on_lavas_runtime(worker: LavaWorker) -> None:
    graph, x = network(), given_spikes()
    found = driven(worker, graph, x, oracle=False)
    current, expected = heard(graph, found)
    assert (current == expected).all()
    assert len(np.unique(expected)) > OUT, "samples do not differ"
    for name in ("early", "late", "hears", "graded"):
        assert 0.05 < found.spikes[name].mean() < 0.95, f"{name} proves little"
    assert same(wall_clock(graph, x), found)
    assert max(unit_of(graph).delays) > 0


@pytest.mark.lava
@pytest.mark.parametrize("fault", ["delays", "offset", "weight", "bias"])
def test_a_wrong_current_shows(worker: LavaWorker, fault: str) -> None:
    """And it is exported as it is: an export that repaired it would hide it from the proof."""
    graph, x = network(), given_spikes()
    node = unit_of(graph)
    changes: dict[str, Any] = {
        "delays": tuple(delay + 1 for delay in node.delays),
        "offset": node.offset + 1,
        "weight": node.weight + np.eye(OUT, node.weight.shape[1], dtype=np.int64) * 600,
        "bias": node.bias + (1 << 23),
    }
    altered = with_unit(graph, **{fault: changes[fault]})
    found = driven(worker, altered, x)
    current = found.states["hears"]["u"].astype(np.int64) // 64
    assert (current != heard(graph, found)[1]).any()
    assert same(wall_clock(altered, x), found)


@st.composite
def one_join(draw: st.DrawFn) -> tuple[Graph, Array]:
    """One or two populations of random shapes, silent ones too, joined at a random time."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    steps, offset, factors = draw(st.integers(1, 4)), draw(st.integers(0, 5)), draw(st.integers(1, 2))
    shapes = [tuple(rng.integers(1, 4, rng.integers(1, 4)).tolist()) for _ in range(factors)]
    nodes: list[Node] = [fixed.FixedInput(name="x", shape=(5,), coding="sequence", low=0, high=1, step=1.0)]
    for i, shape in enumerate(shapes):
        bias = (
            rng.integers(-1500, 400, shape) if draw(st.booleans()) else np.full(shape, -9000)
        )  # fires early, or never
        wired = wire(rng, f"w{i}", "x", shape, 5)
        nodes += [wired, population(f"p{i}", f"w{i}", shape=shape, bias_mant=bias)]
    node = host(
        rng,
        {f"p{i}": shape for i, shape in enumerate(shapes)},
        tuple(draw(st.booleans()) for _ in shapes),
        shift=draw(st.sampled_from([0, 1, 20, 24])),
        gain=draw(st.sampled_from([1, 2, -3])),
        delays=draw(st.sampled_from([(), tuple(rng.integers(0, 4, factors).tolist())])),
        offset=offset,
    )
    if node.shift < 20:
        node = replace(node, weight=node.weight >> 13, bias=node.bias >> 13)
    reset = {"reset_interval": steps, "reset_phase": offset % steps, "offset": offset}
    nodes += [node, population("z", "join", shape=(OUT,), **reset)]
    graph = Graph(nodes=tuple(nodes), outputs=("z",), timesteps=steps, stage="scheduled")
    return graph, rng.integers(0, 2, (steps, 2, 5))


@pytest.mark.lava
@settings(max_examples=8, deadline=None)
@given(one_join())
def test_any_join_at_any_time_equals_the_interpreter(worker: LavaWorker, case: tuple[Graph, Array]) -> None:
    graph, x = case
    assert same(wall_clock(graph, {"x": x}), driven(worker, graph, {"x": x}))


@pytest.mark.lava
def test_image_and_sound_joined_run_the_same_everywhere(worker: LavaWorker) -> None:
    """Two backbones and the network that joins them, from PyTorch to Lava: every spike, state and sum."""
    module = networks.build(("smlp", "tiny", ONE_MODALITY_EACH))
    inputs, spec = networks.inputs(module, batch=4, seed=3)
    bundle = convert(module, example_inputs=inputs, input_spec=spec)
    whole, scheduled = bundle.graphs["quantised"], bundle.graphs["scheduled"]
    integers = to_integers(whole, inputs)
    expected = logical(whole, integers)
    run = simulate(scheduled, integers, record="all")
    simulated = Activity(outputs=run.outputs, spikes=run.spikes, states=run.states)
    assert same(expected, simulated)
    assert same(expected, driven(worker, scheduled, integers))
    joined = expected.spikes["fusion.lif1"]
    assert 0.05 < joined.mean() < 0.95
    assert (joined[:, :1] != joined).any()


def test_rows_name_their_arrays() -> None:
    tables, arrays = lower(network())
    (row,) = tables["products"]
    node = unit_of(network())
    assert (row["kind"], row["window"], row["start"]) == ("PairedUnitCurrent", T, node.offset)
    assert row["sizes"] == {"lengths": [12, 5], "summed": [6, 1], "shift": 23}
    assert (arrays[row["arrays"]["weight"]] == node.weight).all()
    assert (arrays[row["arrays"]["bias"]] == node.bias).all()


@given(st.integers(0, 2**32), st.sampled_from([1, -2]))
def test_currents_stay_in_their_range_and_can_come_near_its_end(seed: int, gain: int) -> None:
    rng, graph = np.random.default_rng(seed), with_unit(network(), gain=gain)
    node = unit_of(graph)
    low, high = message_range(graph, node).ends
    spikes = [rng.random((T, 40, *graph[name].shape)) < rng.random((1, 40, *(1,) * len(graph[name].shape)))
              for name in node.inputs]  # fmt: skip
    found = product(node, *spikes)
    assert low <= found.min() <= found.max() <= high
    row = node.weight.sum(axis=1).argmax()
    only = replace(node, gain=1, weight=np.abs(node.weight[row : row + 1]), bias=np.zeros(1, int), shape=(1,))
    top = message_range(graph, only).ends[1]
    parts = np.split(only.weight[0] / np.abs(only.weight).max(), [2])  # counts in proportion to weights
    ideal = [np.rint(1000 * part) for part in parts]
    reached = sum(float(w @ z / np.linalg.norm(z)) for w, z in zip(np.split(only.weight[0], [2]), ideal, strict=True))
    assert reached * 2.0 ** (15 - node.shift) - 1 <= top <= reached * 2.0 ** (15 - node.shift) * 1.001 + 2


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"pooled": (False, False)}, InputError),
        ({"pooled": (True,)}, InputError),
        ({"bias": np.zeros(OUT + 1, int)}, InputError),
        ({"weight": np.ones((OUT, 8), int)}, InputError),
        ({"shift": -1}, InputError),
        ({"delays": (1,)}, InputError),
        ({"gain": 1 << 26}, QuantizeError),
        ({"weight": np.full((OUT, 7), 1 << 46), "shift": 60}, QuantizeError),
        ({"inputs": ("late", "early", "early"), "pooled": (True, False, False)}, CapabilityError),
    ],
)
def test_currents_that_do_not_fit(changes: dict[str, Any], error: type[AvsnnError]) -> None:
    with pytest.raises(error) as caught:
        lower(with_unit(network(), **changes))
    assert caught.value.where == "join"


def test_a_population_that_the_current_could_overflow_is_watched() -> None:
    """Weights whose sum, but not whose length, is beyond the state need no guard."""
    graph = with_unit(network(), gain=1, weight=np.full((OUT, 7), 1 << 14), bias=np.zeros(OUT, int))
    assert 7 << (14 + 15 - 14) >= 2**17
    reader = graph["hears"]
    assert isinstance(reader, fixed.FixedLIF)
    for shift, watched in ((14, False), (13, True)):
        shifted = with_unit(graph, shift=shift)
        assert (message_range(shifted, unit_of(shifted)).ends[1] >= 2**17) is watched
        assert needs_guard(shifted, reader) is watched
