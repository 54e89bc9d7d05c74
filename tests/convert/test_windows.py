"""Parts of one network with windows of unequal length: each does what it does alone, run for its own steps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from avsnn.convert import equivalence as eq
from avsnn.convert import integer_check
from avsnn.convert.bundle import Bundle
from avsnn.convert.integer_check import check_parameters
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir import storage
from avsnn.convert.ir.activity import Activity
from avsnn.convert.ir.fixed_interpreter import logical, to_integers, wall_clock
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.interpreter import interpret
from avsnn.convert.ir.node import Array
from avsnn.convert.ir.windows import windows
from avsnn.convert.isolate import isolate
from avsnn.convert.passes.quantise import Scale
from avsnn.convert.pipeline import convert
from avsnn.convert.tracer import trace, witness
from avsnn.deploy import lava_env
from avsnn.deploy.backends.cpu import simulate
from avsnn.deploy.backends.lava import LavaWorker
from avsnn.deploy.capability import capabilities
from avsnn.deploy.exports.lava import write_lava
from avsnn.deploy.reports.counts import count
from avsnn.deploy.reports.report import resting
from avsnn.deploy.run import run
from avsnn.errors import InputError, QuantizeError, TraceError, VerifyError
from avsnn.hw_profiles.profile import load_profile
from avsnn.train.attention import ProductOfMeans, SpikeAttention
from avsnn.train.layers import DirectCoding, TimeBatched
from avsnn.train.models.counting import Unit
from avsnn.train.neurons import LIF
from tests import networks
from tests.random_graphs import draw

FOUND = lava_env.doctor()
PAPER = networks.CASES["smlp windows"]
"""SMLP with the windows of its paper: 8 steps of the image, 4 of the sound, 8 of what joins them."""


@pytest.fixture(scope="module")
def worker() -> Iterator[LavaWorker]:
    if FOUND.missing:
        pytest.skip(f"no Lava interpreter: {FOUND.missing}")
    with LavaWorker(timeout_s=300) as running:
        yield running


@pytest.fixture(autouse=True)
def _fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integer_check, "SEQUENCES", 256)
    monkeypatch.setattr(integer_check, "TIED", 64)


class Branch(nn.Module):
    """(T, B, 2, 4, 4) to spikes (T, B, 6, 4, 4); ``kind``: what is between two populations."""

    def __init__(self, kind: str, **neurons: Any) -> None:
        super().__init__()
        self.conv, self.lif = TimeBatched(nn.Conv2d(2, 6, 3, padding=1)), LIF(v_threshold=0.5, **neurons)
        self.conv2, self.lif2 = TimeBatched(nn.Conv2d(6, 6, 1)), LIF(v_threshold=0.25, **neurons)
        self.kind, self.product, self.attention = kind, ProductOfMeans(), SpikeAttention(2, 0.25, over="time")
        self.lif3 = LIF(v_threshold=0.125)

    def forward(self, x: Tensor) -> Tensor:
        first = self.lif(self.conv(x))
        if self.kind == "attention":
            spikes: Tensor = self.lif3(self.attention(first, first, self.lif2(self.conv2(first))))
        elif self.kind == "product":
            spikes = self.lif2(self.conv2(self.product(first, first)))
        else:
            spikes = self.lif2(self.conv2(first))
        return spikes


class TwoWindows(nn.Module):
    """An image held for 5 steps and a sound of ``steps`` steps, which meet when both windows have ended."""

    def __init__(
        self, steps: int = 3, kind: str = "plain", joined: bool = False, coding: str = "direct", **neurons: Any
    ) -> None:
        super().__init__()
        self.hold, self.image, self.audio = DirectCoding(5), Branch("plain", **neurons), Branch(kind, **neurons)
        self.audio_hold, self.steps = DirectCoding(steps) if coding == "direct" else nn.Identity(), steps
        self.image_head, self.audio_head = nn.Linear(6, 3), TimeBatched(nn.Linear(96, 3))
        self.unit, self.joined, self.join = Unit(), joined, nn.Linear(102, 8)
        self.again, self.lif, self.head = DirectCoding(5), LIF(v_threshold=0.4), TimeBatched(nn.Linear(8, 3))

    def forward(self, image: Tensor, audio: Tensor) -> Tensor:
        a = self.image(self.hold(image)).mean((3, 4))
        b = self.audio(self.audio_hold(audio)).flatten(2)
        if self.joined:
            z = self.join(torch.cat((self.unit(a.mean(0)), self.unit(b.mean(0))), dim=1))
            answer: Tensor = self.head(self.lif(self.again(z))).mean(0)
        else:
            answer = self.image_head(a.mean(0)) + self.audio_head(b).sum(0)
        return answer


SEQUENCE = {"audio": {"coding": "sequence", "step": 1.0}}


def made(seed: int = 0, coding: str = "direct", **options: Any) -> tuple[nn.Module, dict[str, Array], dict[str, Any]]:
    """A network whose populations fire, inputs, and their spec."""
    torch.manual_seed(seed)
    module = TwoWindows(coding=coding, **options).eval()
    with torch.no_grad():
        for child in module.modules():
            if isinstance(child, nn.Conv2d | nn.Linear):
                child.weight.mul_(4.0)
                assert child.bias is not None
                child.bias.uniform_(0.2, 0.8)
    rng = np.random.default_rng(seed)
    inputs = {"image": rng.integers(0, 256, size=(4, 2, 4, 4)) / 255}
    if coding == "direct":
        inputs["audio"] = rng.integers(0, 256, size=(4, 2, 4, 4)) / 255
        return module, inputs, {}
    inputs["audio"] = rng.integers(0, 2, size=(module.steps, 4, 2, 4, 4)).astype(float)
    return module, inputs, SEQUENCE


def activity(graph: Graph, integers: dict[str, Array], **options: Any) -> Activity:
    found = simulate(graph, integers, record="all", **options)
    return Activity(outputs=found.outputs, spikes=found.spikes, states=found.states)


def in_lava(worker: LavaWorker, graph: Graph, integers: dict[str, Array]) -> Activity:
    with TemporaryDirectory() as place:
        write_lava(graph, Path(place) / "lava")
        return worker.run(Path(place) / "lava", integers, oracle=True).activity


def same(expected: Activity, found: Activity) -> None:
    assert expected.spikes.keys() == found.spikes.keys()
    eq.compare("back ends", "inputs", expected, found, exact=True)


def differs(expected: Activity, found: Activity) -> bool:
    with pytest.raises(VerifyError, match="differs"):
        same(expected, found)
    return True


CASES: dict[str, dict[str, Any]] = {
    "hard": {}, "subtract": {"reset": "subtract", "coding": "sequence"},
    "attention": {"kind": "attention", "coding": "sequence"}, "product": {"kind": "product"}, "one step": {"steps": 1},
    "joined": {"joined": True, "coding": "sequence", "reset": "subtract_delayed", "tau": 4.0},
    "the other is longer": {"steps": 7, "joined": True},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_two_windows_run_the_same_everywhere(request: pytest.FixtureRequest, case: str) -> None:
    """From PyTorch through every stage to the simulator and Lava, and a step too many is noticed by each."""
    module, inputs, spec = made(**CASES[case])
    bundle = convert(module, inputs, input_spec=spec, proof_samples=4)
    noticed = {name for check in bundle.record["checks"] for name in check["controls_noticed"]}
    assert "every shorter window: one step too long" in noticed
    folded, scheduled = bundle.graph("folded"), bundle.graph("scheduled")
    steps = {node.name: node.steps for node in folded.of(ir.LIF)}
    assert {n.name: n.steps for n in scheduled.of(fixed.FixedLIF) if n.role == "neuron"} == steps
    assert len(set(steps.values())) == 2
    integers = to_integers(scheduled, inputs)
    expected = logical(bundle.graph("quantised"), integers)
    for name, n in steps.items():
        assert expected.spikes[name][: n or None].any()
        assert not expected.spikes[name][n or folded.timesteps :].any()
    (longer,) = eq.longer_windows(scheduled).values()
    for run_it in (wall_clock, activity):
        same(expected, run_it(scheduled, integers))
        assert differs(expected, run_it(longer, integers))
    if not FOUND.missing:
        worker = request.getfixturevalue("worker")
        same(expected, in_lava(worker, scheduled, integers))
        assert differs(expected, in_lava(worker, longer, integers))


def test_the_papers_windows_convert_and_run_everywhere(request: pytest.FixtureRequest) -> None:
    """SMLP: 8, 4 and 8 steps."""
    module = networks.build(PAPER)
    inputs, spec = networks.inputs(module, batch=4, seed=3)
    bundle = convert(module, inputs, input_spec=spec, proof_samples=4)
    scheduled = bundle.graph("scheduled")
    steps = {node.name.split(".")[0]: node.steps for node in scheduled.of(fixed.FixedLIF) if node.role == "neuron"}
    assert (scheduled.timesteps, steps) == (8, {"image": 0, "audio": 4, "fusion": 0})
    integers = to_integers(scheduled, inputs)
    expected = logical(bundle.graph("quantised"), integers)
    assert 0.05 < expected.spikes["fusion.lif1"].mean() < 0.95
    same(expected, activity(scheduled, integers))
    if not FOUND.missing:
        same(expected, in_lava(request.getfixturevalue("worker"), scheduled, integers))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**20), st.integers(1, 4), st.integers(1, 4))
def test_a_window_inside_a_longer_one_means_what_it_means_alone(seed: int, n: int, more: int) -> None:
    """Any network of n steps, as part of one that has more: the same spikes, states and answers."""
    drawn = draw(seed, n, 2)
    kinds = (ir.Input, *eq.SHORTER)
    nodes = [replace(node, steps=node.steps or n) if isinstance(node, kinds) else node for node in drawn.graph]
    longer = replace(drawn.graph, nodes=tuple(nodes), timesteps=n + more)
    alone, inside = interpret(drawn.graph, drawn.inputs), interpret(longer, drawn.inputs)
    for name, spikes in alone.spikes.items():
        np.testing.assert_array_equal(inside.spikes[name][:n], spikes)
        np.testing.assert_allclose(inside.states[name]["v"][:n], alone.states[name]["v"], rtol=1e-9, atol=1e-9)
        assert not inside.spikes[name][n:].any()
        assert not inside.states[name]["v"][n:].any()
    for name, answer in alone.outputs.items():
        np.testing.assert_allclose(inside.outputs[name], answer, rtol=1e-9, atol=1e-9)


def test_the_integers_of_a_shorter_window_are_those_of_the_part_alone() -> None:
    """Thresholds and ties are chosen for the steps that a part has, not for those of the longest."""
    drawn = draw(5, 3, 2)
    nodes = [replace(n, steps=n.steps or 3) if isinstance(n, (ir.Input, *eq.SHORTER)) else n for n in drawn.graph]
    longer = replace(drawn.graph, nodes=tuple(nodes), timesteps=6)
    alone, inside = (convert(g, calibration=drawn.inputs, proof_samples=2) for g in (drawn.graph, longer))
    integers = to_integers(alone.graph("quantised"), drawn.inputs)
    one, other = logical(alone.graph("quantised"), integers), logical(inside.graph("quantised"), integers)
    for name, spikes in one.spikes.items():
        np.testing.assert_array_equal(other.spikes[name][:3], spikes)
        np.testing.assert_array_equal(other.states[name]["v"][:3], one.states[name]["v"])


def test_the_witness_is_silent_behind_its_window() -> None:
    module, inputs, spec = made()
    graph = trace(module, inputs, input_spec=spec)
    found = witness(module, inputs, graph=graph)
    alone = witness(module, inputs)
    assert found.spikes["audio.lif"].shape == (5, 4, 6, 4, 4)
    np.testing.assert_array_equal(found.spikes["audio.lif"][:3], alone.spikes["audio.lif"])
    assert not found.spikes["audio.lif"][3:].any()


def bundle_of(**options: Any) -> tuple[Bundle, dict[str, Array]]:
    module, inputs, spec = made(**options)
    return convert(module, inputs, input_spec=spec, proof_samples=2), inputs


def test_it_costs_no_operation_to_rest() -> None:
    """Counted are the operations of the part's own steps, and updates of neurons that are there all the time."""
    bundle, inputs = bundle_of(coding="sequence")
    scheduled = bundle.graph("scheduled")
    done = run(bundle, inputs, record="all")
    given = to_integers(scheduled, inputs)
    counts = count(scheduled, {**done.spikes, **given}, driven=True)
    rows = {row.source: row for row in counts.synapses}
    assert rows["audio.lif"].events == done.spikes["audio.lif"][:3].sum() > 0
    assert rows["audio"].events == np.count_nonzero(given["audio"])
    assert all(row.updates == row.neurons * 5 * 4 for row in counts.populations)


def test_pools_rest_with_what_they_pool() -> None:
    """A maximum over windows of silence is silence; reports count the steps in which something could come."""
    module = networks.build(PAPER)
    inputs, spec = networks.inputs(module, batch=2, seed=3)
    graph = convert(module, inputs, input_spec=spec, proof_samples=2).graph("scheduled")
    steps = windows(graph)
    pools = {node.name: steps[node.name] for node in graph.of(fixed.FixedLIF) if node.role == "or"}
    assert pools == {"audio.blocks.0.pool.or": 4, "audio.blocks.1.pool.or": 4}
    audio = [node for node in graph.of(fixed.FixedLIF) if node.name.startswith("audio")]
    neurons = sum(math.prod(node.shape) for node in audio)
    note = f"{len(audio)} populations ({neurons:,} neurons) work in 4 of 8 steps and rest in the others"
    assert resting(graph) == [note]


def test_a_rest_takes_microcode_on_the_chip() -> None:
    bundle, _ = bundle_of()
    found = capabilities(bundle.graph("scheduled"), load_profile("loihi2"))
    resting = {c.node: c.answer for c in found if c.kind == "lif_rest"}
    assert resting == {"audio.lif": "microcode", "audio.lif2": "microcode"}


def test_a_layer_alone_rests_as_it_did() -> None:
    bundle, inputs = bundle_of(coding="sequence", kind="product")
    scheduled = bundle.graph("scheduled")
    done = run(bundle, inputs, record="all")
    layer = isolate(scheduled, "audio.lif2")
    (source,) = layer.of(fixed.FixedInput)
    assert (source.name, source.steps) == ("audio.lif", 3)
    found = simulate(layer, {"audio.lif": done.spikes["audio.lif"][:3].astype(np.int64)}, record="all")
    np.testing.assert_array_equal(found.spikes["audio.lif2"], done.spikes["audio.lif2"])


def test_windows_are_stored_with_the_graph() -> None:
    bundle, _ = bundle_of(coding="sequence")
    for graph in bundle.graphs.values():
        back = storage.unpack(*storage.pack(graph))
        steps = [getattr(node, "steps", None) for node in graph]
        assert [getattr(node, "steps", None) for node in back] == steps
        assert 3 in steps


@pytest.mark.parametrize("shape", [(5, 4, 2, 4, 4), (2, 4, 2, 4, 4), (4, 2, 4, 4)])
def test_a_sequence_of_other_steps_is_refused(shape: tuple[int, ...]) -> None:
    bundle, inputs = bundle_of(coding="sequence")
    with pytest.raises(InputError, match=r"^audio: wrong input shape, found .*limit \(3, 'batch', 2, 4, 4\)"):
        run(bundle, inputs | {"audio": np.zeros(shape)})


class Meeting(TwoWindows):
    """Both are added, step by step, before either window has ended."""

    def forward(self, image: Tensor, audio: Tensor) -> Tensor:
        answer: Tensor = (self.image(self.hold(image)) + self.audio(self.audio_hold(audio))).mean(0)
        return answer


@pytest.mark.parametrize("steps", [1, 3])  # torch stretches a single step to all five
def test_windows_that_meet_too_early_are_named_with_a_remedy(steps: int) -> None:
    _, inputs, _ = made()
    with pytest.raises(TraceError) as caught:
        trace(Meeting(steps), inputs)
    text = str(caught.value)
    assert f"windows of different length meet, found {{'image.lif2': 5, 'audio.lif2': {steps}}}" in text
    assert "end each window before, with a mean over time" in text


class LastOfTheShorter(TwoWindows):
    """The answer of one step, when others go on."""

    def forward(self, image: Tensor, audio: Tensor) -> Tensor:
        spikes = self.audio(self.audio_hold(audio)).flatten(2)
        answer: Tensor = (
            self.image_head(self.image(self.hold(image)).mean((3, 4)).mean(0)) + self.audio_head(spikes)[-1]
        )
        return answer


def test_the_last_step_of_a_shorter_window_is_refused() -> None:
    _, inputs, _ = made()
    with pytest.raises(TraceError, match="reads the last step of a window shorter than T; average over its steps"):
        trace(LastOfTheShorter(3), inputs)


def test_another_t_than_the_longest_window_is_refused() -> None:
    module, inputs, _ = made()
    assert trace(module, inputs, timesteps=5).timesteps == 5
    for steps in (3, 8):
        with pytest.raises(InputError, match="several numbers of steps"):
            trace(module, inputs, timesteps=steps)


def test_a_window_longer_than_the_sample_or_without_a_reset_is_refused(tmp_path: Path) -> None:
    bundle, inputs = bundle_of()
    scheduled = bundle.graph("scheduled")
    population = scheduled["audio.lif"]
    assert isinstance(population, fixed.FixedLIF)

    def swapped(**change: Any) -> Graph:
        return replace(scheduled, nodes=tuple(replace(n, **change) if n is population else n for n in scheduled))

    with pytest.raises(InputError, match=r"^audio.lif: impossible window, found 6, limit 0 to 5"):
        swapped(steps=6)
    endless = swapped(reset_interval=0)
    with pytest.raises(InputError, match=r"^audio.lif: a window that ends, and none that begins"):
        simulate(endless, to_integers(endless, inputs))
    with pytest.raises(QuantizeError, match=r"^audio.lif: end of a window that Lava would change"):
        write_lava(endless, tmp_path / "lava")


def test_another_window_in_the_integers_is_noticed() -> None:
    bundle, _ = bundle_of()
    quantised = bundle.graph("quantised")
    (longer,) = eq.longer_windows(quantised).values()
    scales = tuple(Scale(**scale) for scale in bundle.record["scales"])
    assert check_parameters(bundle.graph("folded"), quantised, scales)
    with pytest.raises(VerifyError, match=r"^audio.lif: another window"):
        check_parameters(bundle.graph("folded"), longer, scales)


def test_what_a_resting_neuron_computed_with_can_be_asked() -> None:
    from avsnn.deploy.operands import operands

    bundle, inputs = bundle_of()
    for stage in ("folded", "scheduled"):
        done = run(bundle, inputs, backend="reference", record="all", stage=stage)
        graph = bundle.graph(stage)
        working, resting = (operands(graph, done, inputs, "audio.lif2", t, 0, (0, 0, 0)) for t in (2, 3))
        assert working.potential is not None
        assert (resting.potential, resting.spike) == (None, False)
