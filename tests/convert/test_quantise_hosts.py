"""Layer norms and gains per step by a host: float meaning, integers, both kinds of time, mistakes and refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avsnn.convert.bundle import Bundle
from avsnn.convert.current_check import check_currents
from avsnn.convert.format_check import check_formats
from avsnn.convert.integer_check import check_parameters
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.fixed_interpreter import connect, logical, product, to_integers, wall_clock
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.interpreter import interpret, values
from avsnn.convert.ir.node import Array, Node
from avsnn.convert.ir.products import layer_norm, step_gain
from avsnn.convert.passes.integer_formats import Target
from avsnn.convert.passes.quantise import quantise
from avsnn.convert.passes.schedule import schedule
from avsnn.convert.pipeline import FOLDS, convert
from avsnn.deploy.capability import capabilities
from avsnn.deploy.reports.latency import first_answer
from avsnn.errors import AvsnnError, CapabilityError, QuantizeError, VerifyError
from avsnn.hw_profiles.profile import load_profile
from tests.convert.mutants import NETWORKS, Net, answered, samples

TARGET = Target.of(load_profile("loihi2"))
KINDS = ("norms", "variants", "gains")


@pytest.fixture(scope="module")
def converted() -> dict[str, tuple[Bundle, dict[str, Array]]]:
    made = {}
    for name in KINDS:
        graph = NETWORKS[name]()
        x = samples(graph, 12)
        made[name] = convert(graph, calibration=x, proof_samples=4), x
    return made


@pytest.mark.parametrize("name", KINDS)
def test_wall_clock_equals_logical_time_and_a_host_a_step_late_does_not(converted: Any, name: str) -> None:
    bundle, x = converted[name]
    whole, done = bundle.graph("quantised"), bundle.graph("scheduled")
    integers = to_integers(whole, x)
    expected, found = logical(whole, integers), wall_clock(done, integers)
    for population, spikes in expected.spikes.items():
        assert 0 < spikes.mean() < 1
        assert (found.spikes[population] == spikes).all(), population
    assert all((found.outputs[name] == answer).all() for name, answer in expected.outputs.items())
    host = done.of(fixed.Received)[0]
    for arrives in host.inputs:  # each of its synapses a step late, alone
        late = replace(done[arrives], delay=done[arrives].delay + 1)
        wrong = wall_clock(done.with_nodes(late if n.name == arrives else n for n in done), integers)
        assert any((wrong.spikes[name] != spikes).any() for name, spikes in expected.spikes.items())


@pytest.mark.parametrize("name", KINDS)
def test_a_host_takes_a_step_to_answer_and_its_synapses_wait_for_each_other(converted: Any, name: str) -> None:
    done = converted[name][0].graph("scheduled")
    for host in done.of(fixed.Received):
        arrivals = {getattr(done[s.inputs[0]], "offset", 0) + 1 + s.delay for s in done.sources(host)}
        assert arrivals == {host.offset - 1}
        assert not any(host.delays)
        assert all(isinstance(reader, fixed.Synapse) for reader in done.readers[host.name])
    assert first_answer(done).windows == 0


@pytest.mark.parametrize("name", KINDS)
def test_messages_are_as_good_as_float_on_the_same_spikes(converted: Any, name: str) -> None:
    """What a host sends is real within a few units, which are small."""
    bundle, x = converted[name]
    folded, whole = bundle.graph("folded"), bundle.graph("quantised")
    spikes = interpret(folded, x).spikes
    host = whole.of(fixed.Received)[0]
    real = values(folded, x, spikes)[host.name]
    arrives = []
    for synapse in whole.sources(host):
        assert isinstance(synapse, fixed.Synapse)
        sent = spikes[synapse.inputs[0]]
        flat = sent.reshape(-1, *sent.shape[2:]).astype(np.int64)
        arrives.append(connect(synapse, flat).reshape(*sent.shape[:2], *synapse.shape))
    found = product(host, *arrives)
    assert found.std() > 3
    assert (
        np.abs(found * host.step - real).max() <= (0.12 if name == "gains" else 0.03) * np.abs(real).max()
    )  # weights have 8 bits, gains fewer
    assert np.abs(found).max() <= host.levels


def _folded(graph: Graph) -> Graph:
    for _, fold in FOLDS:
        graph = fold(graph)
    return replace(graph, stage="folded")


def spoilt(name: str) -> list[tuple[str, Callable[[Any], Node]]]:
    norm: list[tuple[str, Callable[[Any], Node]]] = [
        ("eps", lambda n: replace(n, eps=n.eps + 1)),
        ("bias", lambda n: replace(n, bias=n.bias + 1)),
        ("step", lambda n: replace(n, step=n.step * 2)),
        ("kind", lambda n: replace(n, variant=not n.variant)),
    ]
    gain: list[tuple[str, Callable[[Any], Node]]] = [
        ("bias", lambda n: replace(n, bias=n.bias + 1)),
        ("step", lambda n: replace(n, step=n.step / 4)),
    ]
    return gain if name == "gains" else norm


@pytest.mark.parametrize(("name", "what"), [(n, w) for n in KINDS for w, _ in spoilt(n)])
def test_one_integer_off_is_noticed(converted: Any, name: str, what: str) -> None:
    bundle, x = converted[name]
    folded = bundle.graph("folded")
    whole, scales = quantise(folded, target=TARGET, calibration=x)
    assert check_parameters(folded, whole, scales) > 0
    wrong = dict(spoilt(name))[what]
    host = whole.of(fixed.Received)[0]
    with pytest.raises(VerifyError):
        check_parameters(folded, whole.with_nodes(wrong(n) if n is host else n for n in whole), scales)


@pytest.mark.parametrize("name", KINDS)
def test_messages_that_outgrow_what_is_declared_are_noticed(converted: Any, name: str) -> None:
    bundle, x = converted[name]
    folded = bundle.graph("folded")
    whole, scales = quantise(folded, target=TARGET, calibration=x)
    assert check_formats(whole, TARGET) > 0
    host = whole.of(fixed.Received)[0]
    low = replace(host, levels=host.levels // 2)
    with pytest.raises(VerifyError, match="message does not fit"):
        check_formats(whole.with_nodes(low if n is host else n for n in whole), TARGET)
    other = replace(host, gain=-1)
    wrong = whole.with_nodes(other if n is host else n for n in whole)
    with pytest.raises(VerifyError, match="message differs"):
        check_currents(folded, wrong, scales, x, interpret(folded, x).spikes)


def test_a_held_input_and_a_gain_on_biases_are_refused() -> None:
    net = Net(3, 3, (2, 4, 4))
    net.lif("a", net.layer_norm("n", net.conv("c", "x", 4)))
    graph = answered(net, "a")
    with pytest.raises(CapabilityError, match=r"^n.*: .*held for a window.*put neurons before it"):
        convert(graph, calibration=samples(graph), proof_samples=2)
    net = Net(3, 3, (2, 4, 4), coding="sequence", step=1.0)
    net.lif("a", net.conv("c", "x", 4))
    w = net.linear("w", net.add(ir.MeanSpace, "m", "a", (4,)), 1)
    net.add(ir.StepGain, "gain", (net.conv("biased", "a", 4), w), (4, 4, 4))
    net.lif("b", net.conv("d", "gain", 4))
    graph = answered(net, "b")
    with pytest.raises(CapabilityError, match=r"^gain: a gain multiplies spikes"):
        convert(graph, calibration=samples(graph), proof_samples=2)


def test_sums_whose_squares_floats_do_not_hold_are_refused() -> None:
    net = Net(3, 2, (8, 2, 2), coding="sequence")  # of 255 levels
    net.lif("b", net.layer_norm("n", net.conv("wide", "x", 6000, 3, padding=(1, 1))))
    graph = answered(net, "b")
    with pytest.raises(QuantizeError, match=r"^n.plain: sums are too large for an exact norm, found 6000 channels"):
        quantise(_folded(graph), target=TARGET, calibration=samples(graph, 2))


def test_a_target_without_a_host_in_every_step_is_refused_with_a_remedy(converted: Any) -> None:
    loihi2 = load_profile("loihi2")
    for name, kind in (("norms", "layer_norm"), ("gains", "step_gain")):
        done = converted[name][0].graph("scheduled")
        answer = {a.kind: a for a in capabilities(done, loihi2)}[kind]
        assert answer.answer == "host"
        assert "every step" in answer.reason
        without = replace(loihi2, capabilities={k: v for k, v in loihi2.capabilities.items() if k != kind})
        with pytest.raises(CapabilityError) as refused:
            capabilities(done, without)
        assert kind in str(refused.value.found)
        assert refused.value.remedy.startswith(("train with norm='dsln'", "fuse by addition"))


@given(
    st.lists(st.integers(-(2**15), 2**15), min_size=2, max_size=24),
    st.integers(0, 1000),
    st.integers(0, 15),
)
def test_norms_are_the_nearest_integers(x: list[int], eps: int, shift: int) -> None:
    found = layer_norm(np.array(x).reshape(1, 1, -1), eps, shift, False).ravel().tolist()
    n, total = len(x), sum(x)
    square = n * sum(v * v for v in x) - total**2 + eps
    for value, whole in zip(x, found, strict=True):
        z = n * value - total
        if not square:
            assert whole == 0
            continue
        assert (whole > 0) <= (z > 0)
        assert (whole < 0) <= (z < 0)
        size, apart = abs(whole), abs(z) << (shift + 1)  # |e - 2^shift z / r| <= 1/2, in whole numbers, but for the
        slack = 1 + 1e-12  # three roundings of 2^-53 on the way
        assert max(0, 2 * size - 1) ** 2 * square <= apart**2 * slack
        assert apart**2 <= (2 * size + 1) ** 2 * square * slack


def test_equal_channels_give_nothing_and_gains_round_half_up() -> None:
    assert not layer_norm(np.full((2, 1, 5, 3), 7), 0, 8, False).any()
    assert not layer_norm(np.full((2, 1, 5, 3), 7), 0, 8, True).any()
    x, w = np.array([[[1, -2, 0]]]), np.array([[[5]], [[-5]]])
    assert step_gain(np.repeat(x, 2, axis=0), w, 1).tolist() == [[[3, -6, 0]], [[-2, 4, 0]]]
    assert step_gain(x, w[:1], 0).tolist() == [[[5, -10, 0]]]


def test_an_unknown_host_has_no_meaning() -> None:
    odd = fixed.Received(name="odd", shape=(1,), step=1.0, levels=1, bias=np.zeros(1))
    with pytest.raises(AvsnnError, match="odd: no integer meaning, found Received"):
        product(odd, np.zeros((1, 1, 1)))


def test_layers_behind_a_norm_keep_more_of_their_weights_than_the_worst_case_would_leave() -> None:
    """By Cauchy and Schwarz the messages of a position are bounded together, not one by one."""
    graph: Graph = NETWORKS["norms"]()
    bundle = convert(graph, calibration=samples(graph), proof_samples=2)
    whole = bundle.graph("quantised")
    host = whole.of(fixed.FixedLayerNorm)[0]
    (reader,) = (n for n in whole if host.name in n.inputs)
    assert isinstance(reader, fixed.Synapse)
    assert np.abs(reader.weight).max() >= 8
    done = schedule(whole, delay_steps_max=62)[0]
    assert wall_clock(done, to_integers(done, samples(graph, 24))).spikes["d"].any()
