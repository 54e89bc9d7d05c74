from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from avsnn.convert import pipeline, sources
from avsnn.convert.accuracy import accuracy_of_stages
from avsnn.convert.bundle import Bundle
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.interpreter import interpret
from avsnn.convert.ir.node import Array, Node
from avsnn.convert.ir.text import render
from avsnn.convert.passes.fold_backward import fold_backward
from avsnn.convert.passes.quantise import Scale, quantise
from avsnn.convert.passes.schedule import Balance, schedule
from avsnn.errors import InputError, TraceError, VerifyError
from tests.strategies import Small, images, inputs_for, spiking_graph


def converted(**options: Any) -> Bundle:
    return pipeline.convert(Small(seed=3), images(0, 8), **options)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    labels = np.arange(8) % 3
    return converted(calibration=images(1, 8), evaluation=(images(2, 8), labels))


def swap(graph: Graph, node: Node) -> Graph:
    return replace(graph, nodes=tuple(node if old.name == node.name else old for old in graph.nodes))


def test_every_stage_is_there_and_proved(bundle: Bundle) -> None:
    assert list(bundle.graphs) == ["traced", "folded", "quantised", "scheduled", "mapped"]
    names = {check["name"] for check in bundle.record["checks"]}
    assert names == {
        "traced = module (float64)", "fold_forward changes nothing", "fold_backward changes nothing",
        "fold_readout changes nothing", "scheduled = quantised", "mapped = scheduled",
    }  # fmt: skip
    for check in bundle.record["checks"]:
        assert check["mismatches"] == 0
        assert check["compared"] > 0
        if not check["name"].startswith(("scheduled", "mapped")) or check["data"] == "calibration":
            assert check["controls_noticed"]
    assert {c["data"] for c in bundle.record["checks"]} == {"calibration", "generated", "random spikes"}


def test_the_record_says_what_was_lost_and_what_it_costs_in_time(bundle: Bundle) -> None:
    record = bundle.record
    assert set(record["agreement"]) == {"lif1", "lif2", "lif3"}
    assert all(0.8 < share <= 1 for share in record["agreement"].values())
    assert record["accuracy"]["samples"] == 8
    assert [s["population"] for s in record["scales"]] == ["lif1", "lif2", "lif3", "head"]
    assert all(n["mismatches"] == 0 and n["ties"] for n in record["neurons"])
    # one synapse each: lif1 held at 0, lif2 at 1, lif3 at 2, the pools one later, the answer after the last pool
    assert record["latency_steps"] == 4 + 4
    assert {b["synapse"]: b["delay"] for b in record["delays"]}["skip"] == 1
    assert bundle.meta["target"] == "loihi2"
    assert len(bundle.meta["calibration_sha256"]) == 64
    assert set(bundle.seconds) >= {"trace", "fold_forward", "quantise", "schedule", "verify schedule"}


def test_the_same_network_gives_the_same_bytes(bundle: Bundle, tmp_path: Path) -> None:
    again = converted(calibration=images(1, 8), evaluation=(images(2, 8), np.arange(8) % 3))
    one, two = bundle.save(tmp_path / "one"), again.save(tmp_path / "two")
    files = sorted(p.relative_to(one) for p in one.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(two) for p in two.rglob("*") if p.is_file())
    assert len(files) == 5 * 3 + 3
    for name in files:
        if name.name != "timing.json":
            assert (one / name).read_bytes() == (two / name).read_bytes(), name


def test_the_module_is_left_as_it_was() -> None:
    module = Small(seed=3)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    pipeline.convert(module, images(0, 4))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_fewer_bits_and_the_wide_target_convert_as_well() -> None:
    assert converted(weight_bits=4).meta["weight_bits"] == 4
    assert converted(target="cpu").meta["target"] == "cpu"


def test_a_graph_converts_without_the_code_that_made_it(bundle: Bundle) -> None:
    again = pipeline.convert(bundle.graph("traced"), calibration=images(1, 8))
    assert render(again.graph("scheduled")) == render(bundle.graph("scheduled"))


@pytest.mark.parametrize("T", [1, 6])
def test_a_sequence_was_cut_in_time_where_samples_were_meant(T: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "CALIBRATION_SAMPLES", 2)
    monkeypatch.setattr(pipeline, "PROOF_SAMPLES", 2)
    graph = replace(spiking_graph(1, T=T, depth=2, coding="sequence", step=1.0), stage="traced")
    done = pipeline.convert(graph, calibration=inputs_for(graph, 1, batch=5))
    assert done.graph("scheduled").timesteps == T


def test_what_is_missing_is_asked_for() -> None:
    with pytest.raises(InputError, match=r"^Small: a module needs example inputs; pass example_inputs="):
        pipeline.convert(Small())
    with pytest.raises(InputError, match=r"^convert: calibration inputs missing"):
        pipeline.convert(spiking_graph(0))
    with pytest.raises(InputError, match=r"^x: calibration input missing, found y"):
        pipeline.convert(replace(spiking_graph(0), stage="traced"), calibration={"y": np.zeros(1)})


class Timeless(Small):
    """Forgets to average over time."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.code(self.norm(image))
        answer: torch.Tensor = self.head(torch.cat([self.lif1(self.conv1(x))] * 2, dim=2).mean((3, 4)))
        return answer


def test_a_network_without_a_mean_over_time_is_told_so() -> None:
    with pytest.raises(TraceError, match=r"^Timeless: forward returns an answer at every step.*mean over time"):
        pipeline.convert(Timeless(), images(0))


def test_a_norm_that_nothing_can_take_is_named() -> None:
    graph = spiking_graph(0, depth=2)
    lonely = ir.BatchNorm(
        name="bn", inputs=("p0",), shape=(2, 5, 5), origin="bn (BatchNorm2d)", mean=np.zeros(2), var=np.ones(2),
        gamma=np.ones(2), beta=np.ones(2),
    )  # fmt: skip
    total = ir.Add(name="sum", inputs=("bn", "p0"), shape=(2, 5, 5))
    both = ir.MaxPool2d(name="both", inputs=("sum",), shape=(2, 5, 5), kernel=(1, 1), stride=(1, 1))
    layer = replace(graph["c1"], inputs=("both",))
    nodes = [layer if n.name == "c1" else n for n in graph]
    at = nodes.index(layer)
    broken = replace(graph, nodes=(*nodes[:at], lonely, total, both, *nodes[at:]), stage="traced")
    with pytest.raises(VerifyError, match=r"^bn \(BatchNorm2d\): BatchNorm left in stage folded; it reads p0 \(LIF\)"):
        pipeline.convert(broken, calibration=inputs_for(graph, 0))


# Networks that are odd, but not wrong: the planted mistakes of the proofs must not trip over them.


@pytest.mark.parametrize("bias", [-50.0, 80.0])
def test_a_dead_or_saturated_first_channel_stopped_the_conversion(bias: float) -> None:
    module = Small(seed=3)
    with torch.no_grad():
        module.get_parameter("conv1.module.weight")[0] *= 4
        module.get_parameter("bn1.module.bias")[0] = bias
    assert pipeline.convert(module, images(0, 8)).record["checks"]


def test_a_silent_source_of_a_skip_stopped_the_conversion() -> None:
    graph = change(spiking_graph(1, depth=4, skips=((1, 3),)), "c1", lambda n: {"bias": n.bias - 200})
    done = pipeline.convert(replace(graph, stage="traced"), calibration=inputs_for(graph, 1))
    (check,) = (c for c in done.record["checks"] if c["name"] == "scheduled = quantised" and c["data"] == "calibration")
    assert "p1" in check["silent"]
    assert not any("delay" in noticed for noticed in check["controls_noticed"])


def test_a_population_without_input_stopped_the_conversion() -> None:
    graph = change(spiking_graph(1, depth=2), "c1", lambda n: {"weight": n.weight * 0, "bias": n.bias * 0})
    assert pipeline.convert(replace(graph, stage="traced"), calibration=inputs_for(graph, 1)).record["checks"]


# What the issue of every compiler is about: one step that is slightly wrong must stop the conversion, by name.


def change(graph: Graph, name: str, alter: Callable[[Any], dict[str, Any]]) -> Graph:
    node: Any = graph[name]
    return swap(graph, replace(node, **alter(node)))


def altered(values: Array, alter: Callable[[Any], Any]) -> Array:
    copy = values.copy()
    place = np.unravel_index(int(np.abs(copy).argmax()), copy.shape)
    copy[place] = alter(copy[place])
    return copy


def wrong_fold(alter: Callable[[Graph], Graph]) -> tuple[tuple[str, Callable[[Graph], Graph]], ...]:
    """The folds, the backward one preceded by a mistake."""
    table = dict(pipeline.FOLDS)
    table["fold_backward"] = lambda graph: fold_backward(alter(graph))
    return tuple(table.items())


FOLDING_MISTAKES: dict[str, Callable[[Graph], Graph]] = {
    "running mean left out": lambda g: change(g, "bn2", lambda n: {"mean": np.zeros(4)}),
    "running variance left out": lambda g: change(g, "bn2", lambda n: {"var": np.ones(4)}),
    "epsilon of another layer": lambda g: change(g, "bn2", lambda n: {"eps": 1e-3}),
    "beta left out": lambda g: change(g, "bn2", lambda n: {"beta": np.zeros(4)}),
    "one gain of the wrong sign": lambda g: change(g, "bn2", lambda n: {"gamma": altered(n.gamma, lambda x: -x)}),
    "one weight of the wrong sign": lambda g: change(g, "conv2", lambda n: {"weight": altered(n.weight, lambda x: -x)}),
}


@pytest.mark.parametrize("mistake", FOLDING_MISTAKES)
def test_a_wrong_fold_stops_the_conversion_at_its_layer(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "FOLDS", wrong_fold(FOLDING_MISTAKES[mistake]))
    with pytest.raises(VerifyError, match=r"^lif2 .*fold_backward changes nothing on calibration") as caught:
        converted()
    assert caught.value.where == "lif2"
    assert caught.value.step is not None
    assert caught.value.exit_code == 1


def test_a_batch_norm_that_no_fold_took_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def lazy(graph: Graph) -> Graph:
        done, original = fold_backward(graph), graph["conv2"]
        nodes: list[Node] = []
        for node in done:
            nodes.append(original if node.name == "conv2" else node)
            if node.name == "conv2":
                nodes.append(graph["bn2"])
            if node.name == "lif2":
                nodes[-1] = replace(node, inputs=("bn2",))
        return replace(done, nodes=tuple(nodes))

    known = [each for each in pipeline.FOLDS if each[0] in ("fold_forward", "fold_backward", "fold_readout")]
    monkeypatch.setattr(pipeline, "FOLDS", tuple((n, lazy if n == "fold_backward" else f) for n, f in known))
    with pytest.raises(VerifyError, match=r"^bn2 \(BatchNorm2d\): BatchNorm left in stage folded"):
        converted()


QUANTISING_MISTAKES: dict[str, tuple[str, Callable[[Any], dict[str, Any]]]] = {
    "sign of one weight": ("conv2", lambda n: {"weight_mant": altered(n.weight_mant, lambda x: -x)}),
    "sign of one weight of the skip": ("skip", lambda n: {"weight_mant": altered(n.weight_mant, lambda x: -x)}),
    "sign of one held weight": ("conv1", lambda n: {"weight": altered(n.weight, lambda x: -x)}),
    "one bias": ("lif2", lambda n: {"bias_mant": altered(n.bias_mant, lambda x: x + 1)}),
    "threshold": ("lif3", lambda n: {"threshold_mant": n.threshold_mant + 1}),
    "decay": ("lif1", lambda n: {"decay_v": n.decay_v + 1}),
    "row of the answer": ("head", lambda n: {"bias": altered(n.bias, lambda x: x + 1)}),
}


@pytest.mark.parametrize("mistake", QUANTISING_MISTAKES)
def test_one_wrong_integer_stops_the_conversion_at_its_layer(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, alter = QUANTISING_MISTAKES[mistake]

    def wrong(graph: Graph, **options: Any) -> tuple[Graph, tuple[Scale, ...]]:
        done, scales = quantise(graph, **options)
        return change(done, layer, alter), scales

    monkeypatch.setattr(pipeline, "quantise", wrong)
    with pytest.raises(VerifyError) as caught:
        converted()
    assert caught.value.where == layer


def test_a_missing_tie_rule_stops_the_conversion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avsnn.convert.passes.thresholds.tie", lambda timesteps, reset: 0.0)
    with pytest.raises(VerifyError, match=r"^lif1: the integer neuron differs from the exact one .*tie rule"):
        converted()


SCHEDULING_MISTAKES: dict[str, tuple[str, Callable[[Any], dict[str, Any]]]] = {
    "delay of the skip short by one": ("skip", lambda n: {"delay": n.delay - 1}),
    "delay of the skip long by one": ("skip", lambda n: {"delay": n.delay + 1}),
    "reset one step early": ("lif3", lambda n: {"reset_phase": (n.reset_phase - 1) % 4}),
    "reset one step late": ("lif2", lambda n: {"reset_phase": (n.reset_phase + 1) % 4}),
    "reset forgotten": ("lif2", lambda n: {"reset_interval": 0}),
    "offset": ("lif2", lambda n: {"offset": n.offset + 1}),
}


@pytest.mark.parametrize("mistake", SCHEDULING_MISTAKES)
def test_one_wrong_step_stops_the_conversion_at_its_layer(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, alter = SCHEDULING_MISTAKES[mistake]

    def wrong(graph: Graph, **options: Any) -> tuple[Graph, tuple[Balance, ...]]:
        done, balances = schedule(graph, **options)
        return change(done, layer, alter), balances

    monkeypatch.setattr(pipeline, "schedule", wrong)
    with pytest.raises(VerifyError, match=r"scheduled = quantised on calibration") as caught:
        converted()
    assert caught.value.where == ("lif3" if layer == "skip" else layer)


def test_a_tracer_that_forgets_a_switch_is_caught_by_the_module_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    from avsnn.convert import tracer

    traced = tracer.trace

    def wrong(*args: Any, **options: Any) -> Graph:
        return change(traced(*args, **options), "lif2", lambda n: {"decay": 0.75})

    monkeypatch.setattr(tracer, "trace", wrong)
    with pytest.raises(VerifyError, match=r"traced = module \(float64\) on calibration") as caught:
        converted()
    assert caught.value.where == "lif2"


def test_accuracy_is_counted_in_batches_over_all_samples(bundle: Bundle) -> None:
    inputs = images(5, 70)
    folded, quantised = bundle.graph("folded"), bundle.graph("quantised")
    answers = interpret(folded, inputs).outputs["head"].argmax(axis=1)
    counted = accuracy_of_stages(folded, quantised, (inputs, answers))
    assert (counted["samples"], counted["folded"]) == (70, 70)
    assert counted["quantised"] == 70 - counted["only_folded_right"]
    assert counted["only_quantised_right"] == 0


def test_digests_depend_on_names_shapes_and_values() -> None:
    x = np.arange(6.0)
    variants: list[Mapping[str, Array]] = [{"x": x}, {"y": x}, {"x": x.reshape(2, 3)}, {"x": x + 1}]
    assert len({sources.digest(v) for v in variants}) == 4
    assert sources.digest({"a": x, "b": x}) == sources.digest({"b": x, "a": x})


def test_integer_types_differ_from_float_ones(bundle: Bundle) -> None:
    for stage in ("quantised", "scheduled"):
        for node in bundle.graph(stage):
            assert type(node).__module__ == fixed.__name__
            for value in vars(node).values():
                assert not isinstance(value, np.ndarray) or value.dtype == np.int64


def test_a_network_that_dense_noise_leaves_silent_converts() -> None:
    """It was refused with "nothing fired": its surround takes away more than uniform noise gives its centre."""
    kernel = np.full((2, 1, 3, 3), -2.0)
    kernel[:, :, 1, 1] = 6.0
    shape = (2, 10, 10)
    nodes: list[Node] = [
        ir.Input(name="image", shape=(1, 12, 12)),
        ir.Conv2d(name="edges", inputs=("image",), shape=shape, weight=kernel, bias=np.full(2, -2.0)),
        ir.LIF(name="lif", inputs=("edges",), shape=shape, decay=0.5, gain=1.0, threshold=0.6),
        ir.Flatten(name="flat", inputs=("lif",), shape=(200,)),
        ir.MeanTime(name="rate", inputs=("flat",), shape=(200,)),
        ir.Linear(name="head", inputs=("rate",), shape=(2,), weight=np.eye(2).repeat(100, axis=1), bias=np.zeros(2)),
    ]
    graph = Graph(nodes=tuple(nodes), outputs=("head",), timesteps=2, stage="traced")
    dots = np.zeros((4, 1, 12, 12))
    dots[:, :, 2, 3] = 1.0
    dense = {"image": np.random.default_rng(0).integers(0, 256, size=(8, 1, 12, 12)) / 255}
    assert not interpret(graph, dense).spikes["lif"].any()
    made = pipeline.convert(graph, calibration={"image": dots}, proof_samples=4)
    assert {check["data"] for check in made.record["checks"]} >= {"calibration", "generated"}
