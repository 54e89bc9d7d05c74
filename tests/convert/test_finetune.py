"""What is trained is what is deployed: the torch network against the interpreter, its grids, its budget, its state."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avsnn.convert import equivalence as eq
from avsnn.convert.certificate import certify
from avsnn.convert.equivalence import Check
from avsnn.convert.finetune import Retraining, moved_scales
from avsnn.convert.finetune_data import Given, blended, graph_teacher
from avsnn.convert.finetune_graph import IntegerNet, tensors
from avsnn.convert.finetune_grid import mantissa_grid
from avsnn.convert.finetune_hosts import HostCurrent
from avsnn.convert.finetune_layers import Threshold, Weights
from avsnn.convert.finetune_loop import Options, Problem, Tuner
from avsnn.convert.finetune_loss import TunedLoss
from avsnn.convert.finetune_operations import fanouts
from avsnn.convert.finetune_proof import activity, compare
from avsnn.convert.finetune_start import Start, start
from avsnn.convert.format_check import check_formats
from avsnn.convert.integer_check import check_neurons
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.fixed_interpreter import logical, to_integers
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.interpreter import interpret
from avsnn.convert.passes.integer_formats import Target
from avsnn.convert.passes.quantise import quantise
from avsnn.convert.pipeline import FOLDS, convert
from avsnn.convert.tuning import check_same_network
from avsnn.deploy.reports.counts import count
from avsnn.errors import CapabilityError, CertificateError, CheckpointError, InputError, VerifyError
from avsnn.hw_profiles.profile import load_profile
from tests.convert.test_quantise_products import KINDS, attending, spikes
from tests.random_graphs import draw
from tests.strategies import inputs_for, spiking_graph, spiking_graphs

BITS = (2, 4, 6, 8)


def target(bits: int = 8, profile: str = "loihi2") -> Target:
    return Target.of(load_profile(profile), weight_bits=bits)


def shaken(net: IntegerNet, seed: int) -> IntegerNet:
    """Latent numbers somewhere between integers, as training leaves them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter) * 0.1)
    net.project()
    return net


def same_as_its_integers(net: IntegerNet, formats: Target, x: dict[str, Any]) -> Check:
    graph = net.integers()
    check_formats(graph, formats)
    return compare(net, x, "samples")


@given(
    spiking_graphs(max_steps=9),
    st.sampled_from(BITS),
    st.sampled_from(["loihi2", "cpu"]),
    st.integers(0, 99),
    st.booleans(),
)
@settings(max_examples=5, deadline=None)
def test_the_network_that_trains_is_its_integers(graph: Graph, bits: int, profile: str, seed: int, rates: bool) -> None:
    formats, x = target(bits, profile), inputs_for(graph, 7, batch=6)
    quantised, scales = quantise(graph, target=formats, calibration=x)
    begun = start(graph, quantised, scales, formats, granularity=granularity_of(profile))
    check_neurons(graph, begun.graph, begun.scales)
    shifts = {scale.population: scale.shift for scale in scales}
    net = shaken(IntegerNet(begun.graph, formats, starts=begun.mantissas, shifts=shifts, rates=rates), seed)
    check_neurons(graph, net.integers(), moved_scales(begun, net.integers()))
    if not any(s.any() for s in activity(net, to_integers(quantised, x)).spikes.values()):
        return  # nothing to compare; `test_products_too` and the shipped networks fire
    assert same_as_its_integers(net, formats, x).compared > 0
    check_same_network(quantised, net.integers())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [4, 8])
def test_products_too(kind: str, bits: int) -> None:
    graph, formats = attending(kind, 3), target(bits)
    quantised, _ = quantise(graph, target=formats, calibration=spikes(1))
    net = IntegerNet(quantised, formats)
    assert same_as_its_integers(net, formats, spikes(2)).controls
    before = net.integers()
    loss = next(iter(net(tensors(before, to_integers(before, spikes(2)), "cpu")).raw.values())).square().mean()
    loss.backward()
    reached = {k for k, p in net.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert any("q" in name.split("/")[0] for name in reached)  # through the product


def test_weights_do_not_grow_until_an_input_overflows_them() -> None:
    """What is graded and has a large exponent can add up to more than v holds, as no spikes do."""
    graph, x = attending("sums", 3), spikes(1)
    quantised, _ = quantise(graph, target=target(), calibration=x)
    coarse = replace(
        synapse(quantised, "w"), weight_exp=7, weight_mant=np.sign(synapse(quantised, "w").weight_mant) * 2
    )
    whole = replace(quantised, nodes=tuple(coarse if node.name == "w" else node for node in quantised))
    net = IntegerNet(whole, target())
    layer = net.layers["w"]
    assert isinstance(layer, Weights)
    with torch.no_grad():
        layer.latent.mul_(1e9)
    layer.project()  # in its own format, as if nobody looked at sums
    with pytest.raises(CertificateError):
        certify(net.integers(), to_integers(whole, x))
    net.project()
    assert all(row.verdict == "proved" for row in certify(net.integers(), to_integers(whole, x)))


@pytest.mark.parametrize("seed", range(8))
def test_resets_decays_shortcuts_and_lengths(seed: int) -> None:
    drawn = draw(seed, 3)
    graph = drawn.graph
    for _, fold in FOLDS:
        graph = fold(graph)
    quantised, _ = quantise(replace(graph, stage="folded"), target=target(), calibration=drawn.inputs)
    if quantised.of(fixed.Received):
        with pytest.raises(CapabilityError, match="no rule to fine-tune it"):
            IntegerNet(quantised, target())
        return
    net = IntegerNet(quantised, target())
    found = activity(net, to_integers(quantised, drawn.inputs))
    wanted = logical(quantised, to_integers(quantised, drawn.inputs))
    assert eq.compare("torch = reference", "drawn", wanted, found, exact=True).compared
    answers = net(tensors(quantised, to_integers(quantised, drawn.inputs), "cpu")).raw
    loss = torch.stack([raw.square().mean() for raw in answers.values()]).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(bool(p.grad.isfinite().all()) for p in net.parameters() if p.grad is not None)
    after = shaken(net, seed).integers()
    for node in quantised.of(fixed.FixedLIF):
        if node.role != "neuron":  # pools are no matter of training
            for part in (part for part in quantised.sources(node) if isinstance(part, fixed.Synapse)):
                assert np.array_equal(part.weight, synapse(after, part.name).weight)


def synapse(graph: Graph, name: str) -> fixed.Synapse:
    node = graph[name]
    assert isinstance(node, fixed.Synapse)
    return node


def small(seed: int = 3) -> tuple[Graph, dict[str, Any]]:
    graph = spiking_graph(seed, depth=3, skips=((0, 2),), pool=True)
    return graph, inputs_for(graph, 5, batch=64)


def problem(bits: int = 4, seed: int = 3) -> Problem:
    graph, x = small(seed)
    formats = target(bits)
    quantised, scales = quantise(graph, target=formats, calibration=inputs_for(graph, 1, batch=8))
    label = interpret(graph, x).outputs[graph.outputs[0]].argmax(axis=1)
    samples = Given.of(quantised, x, {"label": label})
    classes = graph[graph.outputs[0]].shape[0]
    begun = start(graph, quantised, scales, formats)
    teacher = graph_teacher(graph)
    return Problem(begun=begun, target=formats, classes=classes, train=samples, val=samples, teacher=teacher)


def test_training_teaches() -> None:
    tuner = Tuner(problem(2), Options(epochs=5, batch=8, lr=0.01))
    while not tuner.finished:
        tuner.run_epoch()
    losses = [row["loss"] for row in tuner.rows]
    assert min(losses[2:]) < 0.95 * losses[0]


def test_two_bits_are_three_weights() -> None:
    tuner = Tuner(problem(2), Options(epochs=1, batch=16, lr=0.1))
    tuner.run_epoch()
    mixed = [n for n in tuner.net.integers() if isinstance(n, fixed.Synapse) and n.sign_mode == "mixed"]
    assert mixed
    assert {int(w) for node in mixed for w in np.unique(node.weight_mant)} == {-2, 0, 2}
    assert mantissa_grid("mixed", target(4)) == (-16, 14, 2)
    assert mantissa_grid("mixed", target(4, "cpu")) == (-8, 7, 1)


def test_a_run_that_was_stopped_ends_with_the_same_bits(tmp_path: Path) -> None:
    options = Options(epochs=3, batch=16, lr=0.02, teacher=0.5)
    whole, first, second = (Tuner(problem(), options) for _ in range(3))
    for _ in range(3):
        whole.run_epoch()
    first.run_epoch()
    first.save_state(tmp_path)
    second.load_state(tmp_path)
    while not second.finished:
        second.run_epoch()
    assert [row["loss"] for row in second.rows] == [row["loss"] for row in whole.rows]
    for name, parameter in whole.net.named_parameters():
        assert torch.equal(parameter, dict(second.net.named_parameters())[name]), name
    other = Tuner(problem(), replace(options, lr=0.01))
    with pytest.raises(CheckpointError, match="other lr"):
        other.load_state(tmp_path)
    (tmp_path / "last.pt").write_bytes(b"half")
    with pytest.raises(CheckpointError, match="cannot resume"):
        second.load_state(tmp_path)


def test_operations_are_those_that_reports_count() -> None:
    for graph, x in (small(), (attending("sums", 3), spikes(2))):
        quantised, _ = quantise(graph, target=target(), calibration=x)
        net, integers = IntegerNet(quantised, target()), to_integers(quantised, x)
        with torch.no_grad():
            found = net(tensors(quantised, integers, "cpu"), operations=fanouts(net))
        counted = count(quantised, {**integers, **logical(quantised, integers).spikes})
        assert counted.sop_stored > 0
        assert float(found.operations) == pytest.approx(counted.sop_stored / counted.samples, rel=1e-6)


def test_operations_of_the_first_samples_alone() -> None:
    graph, x = small()
    quantised, _ = quantise(graph, target=target(), calibration=x)
    net = IntegerNet(quantised, target())
    whole, few = (tensors(quantised, to_integers(quantised, {"x": part}), "cpu") for part in (x["x"], x["x"][:5]))
    with torch.no_grad():
        found = net(whole, operations=fanouts(net), counted=5)
        assert float(found.operations) == float(net(few, operations=fanouts(net)).operations) > 0
        assert float(found.operations) != float(net(whole, operations=fanouts(net)).operations)
        assert len(found.raw["out"]) == len(x["x"])


def test_blends_lie_between_samples_and_sequences_stay_whole() -> None:
    values = {"held": np.arange(8.0).reshape(8, 1) * 10, "spikes": np.arange(8).repeat(3).reshape(8, 3).T}
    axes = {"held": 0, "spikes": 1}
    found = blended(values, 6, axes, np.random.default_rng(0))
    assert {name: x.shape for name, x in found.items()} == {"held": (2, 1), "spikes": (3, 2)}
    assert (found["held"] % 10 != 0).any(), "something between"
    assert ((found["held"] >= 0) & (found["held"] <= 70)).all()
    assert found["spikes"].dtype == values["spikes"].dtype
    assert (found["spikes"] == found["spikes"][0]).all(), "no sequence has steps of another"
    again = blended(values, 6, axes, np.random.default_rng(0))
    assert all(np.array_equal(found[name], again[name]) for name in found)


def test_labels_are_those_of_the_first_samples() -> None:
    loss = TunedLoss(classes=3, temperature=1.0, teacher=0.0)
    scores, label = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0])
    assert loss(scores, scores, {"label": label}) == loss(scores[:4], scores[:4], {"label": label})
    soft = TunedLoss(classes=3, temperature=1.0, teacher=1.0)
    assert soft(scores, scores, {"label": label}) != soft(scores[:4], scores[:4], {"label": label})


def test_a_budget_takes_operations_away() -> None:
    free, bound = (Tuner(problem(8), Options(epochs=8, batch=8, lr=0.01, sop_budget=budget)) for budget in (1.0, 0.5))
    for tuner in (free, bound):
        while not tuner.finished:
            tuner.run_epoch()
    assert bound.rows[-1]["operations"] < 0.92 * bound.before["operations"]
    assert bound.rows[-1]["operations"] < 0.97 * free.rows[-1]["operations"]


def host(graph: Graph) -> fixed.HeldCurrent:
    (node,) = graph.of(fixed.HeldCurrent)
    return node


def test_a_budget_moves_thresholds_and_the_weights_of_the_host() -> None:
    for budget in (1.0, 0.5):
        tuner = Tuner(problem(8), Options(epochs=2, batch=8, lr=0.01, sop_budget=budget))
        before = tuner.net.integers()
        while not tuner.finished:
            tuner.run_epoch()
        after = tuner.net.integers()
        same = [np.array_equal(host(before).weight, host(after).weight), threshold(before) == threshold(after)]
        assert same == [budget == 1.0] * 2
        check_same_network(before, after)
        assert same_as_its_integers(tuner.net, target(8), small()[1]).controls


def test_a_higher_threshold_means_fewer_operations() -> None:
    graph, x = small()
    quantised, _ = quantise(graph, target=target(), calibration=x)
    net, integers = IntegerNet(quantised, target(), rates=True), to_integers(quantised, x)

    def operations() -> Any:
        return net(tensors(quantised, integers, "cpu"), operations=fanouts(net)).operations

    before = operations()
    before.backward()
    level = net.thresholds["p1"]
    assert isinstance(level, Threshold)
    assert level.latent.grad is not None
    assert level.latent.grad < 0
    with torch.no_grad():
        level.latent.add_(0.5)
        assert operations() < before
        level.latent.fill_(99.0)
        net.project()
    assert threshold(net.integers()) == target().threshold_room


def test_weights_of_the_host_do_not_grow_until_an_input_overflows_them() -> None:
    graph, x = small()
    quantised, _ = quantise(graph, target=target(), calibration=x)
    net = IntegerNet(quantised, target(), rates=True)
    assert np.array_equal(host(net.integers()).weight, host(quantised).weight)
    layer = next(part for part in net.layers.values() if isinstance(part, HostCurrent))
    with torch.no_grad():
        layer.kernel.mul_(torch.tensor([1e4, -3.0]).reshape(-1, 1, 1, 1)[: len(layer.kernel)])
    with pytest.raises(VerifyError, match="current does not fit"):
        check_formats(net.integers(), target())
    net.project()
    check_formats(net.integers(), target())
    assert same_as_its_integers(net, target(), x).compared > 0


def granularity_of(profile: str) -> str:
    formats = load_profile(profile).formats
    assert formats is not None
    return formats.threshold_granularity


def threshold(graph: Graph) -> Any:
    node = graph["p1"]
    assert isinstance(node, fixed.FixedLIF)
    return node.threshold_mant


def begun_on(profile: str, bits: int) -> tuple[Graph, Graph, Start]:
    graph, x = small()
    formats = target(bits, profile)
    quantised, scales = quantise(graph, target=formats, calibration=x)
    granularity = granularity_of(profile)
    return graph, quantised, start(graph, quantised, scales, formats, granularity=granularity)


def test_equalising_needs_thresholds_per_channel() -> None:
    graph, _, begun = begun_on("cpu", 4)
    assert begun.equalised == ("p1", "p2")
    assert not begun.not_equalised
    check_formats(begun.graph, target(4, "cpu"))
    check_neurons(graph, begun.graph, begun.scales)
    assert np.ndim(threshold(begun.graph)) == 3
    _, _, shared = begun_on("loihi2", 4)
    assert not shared.equalised
    assert "one threshold per population" in shared.not_equalised
    assert np.ndim(threshold(shared.graph)) == 0
    assert sum(begun.errors.values()) < sum(shared.errors.values())


def test_a_start_loses_less_than_quantising() -> None:
    graph, quantised, begun = begun_on("loihi2", 3)
    x = inputs_for(graph, 9, batch=32)
    real = interpret(graph, x).outputs["out"]

    def off(integers: Graph) -> float:
        readout = integers["out"]
        assert isinstance(readout, fixed.FixedReadout)
        return float(np.abs(logical(integers, to_integers(integers, x)).outputs["out"] * readout.scale - real).mean())

    assert begun.errors["p1"] > 0
    assert off(begun.graph) < 1.5 * off(quantised)


def test_a_planted_difference_between_training_and_integers_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, x = small()
    quantised, _ = quantise(graph, target=target(), calibration=x)
    net = IntegerNet(quantised, target())
    compare(net, x, "samples")
    honest = Weights.node

    def one_off(self: Weights) -> fixed.Synapse:
        node = honest(self)
        mant = node.weight_mant.copy()
        mant.flat[0] += 2 if mant.flat[0] < 100 else -2
        return replace(node, weight_mant=mant)

    monkeypatch.setattr(Weights, "node", one_off)
    with pytest.raises(VerifyError, match="quantised = what was trained"):
        compare(net, x, "samples")


def job(tmp_path: Path, graph: Graph, **options: Any) -> Retraining:
    x = inputs_for(graph, 5, batch=32)
    label = interpret(graph, x).outputs["out"].argmax(axis=1)
    samples = Given.of(graph, x, {"label": label})
    return Retraining(
        train=samples,
        val=samples,
        classes=graph["out"].shape[0],
        options=Options(epochs=1, batch=16, lr=0.02, **options),
        folder=tmp_path / "state",
    )


def test_convert_proves_what_was_trained(tmp_path: Path) -> None:
    graph = replace(spiking_graph(3, depth=2), stage="traced")
    x, run = inputs_for(graph, 1, batch=8), job(tmp_path, graph)
    bundle = convert(graph, calibration=x, weight_bits=4, finetune=run)
    checks = [check["name"] for check in bundle.record["checks"]]
    assert checks.count("quantised = what was trained") == 2
    assert bundle.record["finetuned"]["samples"]["train"] == 32
    assert "seconds" not in str(bundle.record["finetuned"])
    folder = bundle.save(tmp_path / "net")
    again = convert(type(bundle).load(folder), calibration=x, start="quantised")
    assert again.record["finetuned"] == bundle.record["finetuned"]
    assert "quantised = what was trained" in [check["name"] for check in again.record["checks"]]
    with pytest.raises(InputError, match="fine-tuned already"):
        convert(type(bundle).load(folder), calibration=x, start="quantised", finetune=run)
    with pytest.raises(InputError, match="already holds a run"):
        convert(graph, calibration=x, weight_bits=4, finetune=run)


def test_only_numbers_may_change() -> None:
    graph, x = small()
    quantised, _ = quantise(graph, target=target(), calibration=x)
    with pytest.raises(VerifyError, match="nothing at all"):
        check_same_network(quantised, quantised)
    conv = quantised["c1"]
    assert isinstance(conv, fixed.FixedConv2d)
    for spoiled in (replace(conv, padding=(0, 0)), replace(conv, inputs=("p1",)), replace(conv, delay=1)):
        nodes = tuple(spoiled if node is conv else node for node in quantised)
        with pytest.raises(VerifyError, match="fine-tuning changed"):
            check_same_network(quantised, _unchecked(quantised, nodes))
    names = tuple(node for node in quantised if node.name != "c1")
    with pytest.raises(VerifyError, match="changed the network"):
        check_same_network(quantised, _unchecked(quantised, names))


def _unchecked(graph: Graph, nodes: tuple[Any, ...]) -> Graph:
    made = replace(graph)
    object.__setattr__(made, "nodes", nodes)
    return made


def test_a_ladder_falls_and_starts_where_the_rung_above_ended(tmp_path: Path) -> None:
    graph = replace(spiking_graph(3, depth=2), stage="traced")
    x, run = inputs_for(graph, 1, batch=8), job(tmp_path, graph, sop_budget=0.5)
    run.ladder = (1.0, 0.7)
    convert(graph, calibration=x, weight_bits=4, finetune=run)
    assert [rung.budget for rung in run.rungs] == [1.0, 0.7, 0.5]
    assert len({str(rung.graph) + str(threshold(rung.graph)) for rung in run.rungs}) > 1
    run.ladder, run.rungs, run.folder = (0.4,), [], tmp_path / "other"
    with pytest.raises(InputError, match="must fall"):
        convert(graph, calibration=x, weight_bits=4, finetune=run)


def test_what_cannot_be_trained_is_refused() -> None:
    graph, x = small()
    quantised, _ = quantise(graph, target=target(), calibration=x)
    nodes = [replace(n, bias_exp=2) if isinstance(n, fixed.FixedLIF) else n for n in quantised]
    with pytest.raises(CapabilityError, match="finer than currents"):
        IntegerNet(replace(quantised, nodes=tuple(nodes)), target())
    with pytest.raises(InputError, match="is not a share"):
        Options(sop_budget=1.5)
    with pytest.raises(InputError, match="larger than the training set"):
        Tuner(problem(), Options(batch=1000))
