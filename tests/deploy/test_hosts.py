"""Hosts that answer in every step, on the simulator and in Lava: equal to the reference, and not by accident."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

from avsnn.convert import equivalence as eq
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.activity import Activity
from avsnn.convert.ir.fixed_interpreter import to_integers, wall_clock
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array
from avsnn.convert.pipeline import convert
from avsnn.deploy import lava_env
from avsnn.deploy.backends import cpu
from avsnn.deploy.backends.cpu import simulate
from avsnn.deploy.backends.lava import LavaWorker
from avsnn.deploy.backends.received import sends
from avsnn.deploy.exports.lava import lower, write_lava
from avsnn.deploy.payload import payload_bits
from avsnn.deploy.reports.counts import count
from avsnn.deploy.reports.energy import price
from avsnn.errors import AvsnnError, CapabilityError, DomainError, InputError, QuantizeError, VerifyError
from avsnn.hw_profiles.profile import load_profile
from tests.convert.mutants import NETWORKS, samples

FOUND = lava_env.doctor()
needs_lava = pytest.mark.skipif(bool(FOUND.missing), reason=f"no Lava interpreter: {FOUND.missing}")
KINDS = ("norms", "variants", "gains")
BATCH = 5
CHANGES: dict[str, Any] = {
    "as it is": lambda _n: {},
    "a gain of its own": lambda n: {"gain": -2, "levels": n.levels},
    "another bias": lambda n: {"bias": n.bias + 60 * np.arange(n.bias.size)[::-1] + 900},
    "another unit": lambda n: {
        "shift": n.shift + (-1 if getattr(n, "variant", True) else 1),
        "levels": 2 * n.levels + 9,
    },
}


@pytest.fixture(scope="module")
def made() -> dict[str, tuple[Graph, dict[str, Array]]]:
    found = {}
    for name in KINDS:
        graph = NETWORKS[name]()
        x = samples(graph, BATCH)
        done = convert(graph, calibration=x, proof_samples=2).graph("scheduled")
        found[name] = done, to_integers(done, x)
    return found


@pytest.fixture(scope="module")
def worker() -> Iterator[LavaWorker]:
    with LavaWorker(timeout_s=300) as running:
        yield running


def changed(graph: Graph, what: str) -> Graph:
    """One host altered; the others stay."""
    host = graph.of(fixed.Received)[0]
    other = replace(host, **CHANGES[what](host))
    return graph.with_nodes(other if node is host else node for node in graph)


def simulated(graph: Graph, x: dict[str, Array], streams: int | None) -> Activity:
    run = simulate(graph, x, record="all", streams=streams)
    return Activity(outputs=run.outputs, spikes=run.spikes, states=run.states)


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("name", KINDS)
def test_the_simulator_is_the_reference(made: Any, name: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, x = made[name]
    other = changed(graph, what)
    expected = wall_clock(other, x)
    for streams, block in ((1, cpu.BLOCK_BYTES), (3, 1 << 12), (BATCH, 1)):
        monkeypatch.setattr(cpu, "BLOCK_BYTES", block)
        check = eq.compare("simulator", "samples", expected, simulated(other, x, streams), exact=True)
    assert len(check.silent) < len(check.populations) / 2
    if what != "as it is":
        with pytest.raises(VerifyError):  # what was changed makes a difference
            eq.compare("another host", "samples", expected, simulated(graph, x, None), exact=True)


@pytest.mark.lava
@needs_lava
@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("name", KINDS)
def test_lava_is_the_reference(made: Any, worker: LavaWorker, name: str, what: str) -> None:
    graph, x = made[name]
    other = changed(graph, what)
    with TemporaryDirectory() as place:
        write_lava(other, Path(place) / "lava")
        found = worker.run(Path(place) / "lava", x, oracle=True).activity
    expected = wall_clock(other, x)
    assert eq.compare("Lava", "samples", expected, found, exact=True).compared > 1000
    if what != "as it is":
        with pytest.raises(VerifyError):
            eq.compare("another host", "samples", wall_clock(graph, x), found, exact=True)


@pytest.mark.lava
@needs_lava
def test_lavas_own_runtime_is_the_reference(made: Any, worker: LavaWorker) -> None:
    graph, x = made["gains"]
    few = {name: values[:, :2] for name, values in x.items()}
    with TemporaryDirectory() as place:
        write_lava(graph, Path(place) / "lava")
        found = worker.run(Path(place) / "lava", few).activity
    assert eq.compare("Lava", "samples", wall_clock(graph, few), found, exact=True).compared > 1000


@pytest.mark.parametrize("name", KINDS)
def test_what_a_host_does_is_counted_per_step_and_has_no_price(made: Any, name: str) -> None:
    graph, x = made[name]
    done = simulate(graph, x, record="all")
    counts = count(graph, {**done.spikes, **x})
    hosts = graph.of(fixed.Received)
    assert not counts.products
    assert [row.name for row in counts.hosts] == [node.name for node in hosts]
    steps = graph.timesteps * BATCH
    for row, node in zip(counts.hosts, hosts, strict=True):
        size, tokens = int(np.prod(node.shape)), int(np.prod(node.shape[1:]))
        assert (row.answers, row.messages) == (steps, size * steps)
        each = {"norms": (2, tokens, size), "variants": (3, tokens, 0), "gains": (1, 0, 0)}[name]
        assert (row.macs, row.roots, row.divisions) == (each[0] * size * steps, each[1] * steps, each[2] * steps)
    reading = [s for s in graph.of(fixed.Synapse) if isinstance(graph[s.inputs[0]], fixed.Received)]
    rows = {row.name: row for row in counts.synapses}
    for synapse in reading:
        source = graph[synapse.inputs[0]]
        sent = int(done.counts[source.name].sum())
        assert 0 < sent <= int(np.prod(source.shape)) * steps
        assert rows[synapse.name].events == rows[synapse.name].events_graded == sent
        assert rows[synapse.name].payload_bits == payload_bits(source, graph) > 4
    into = {name for node in hosts for name in node.inputs}
    assert {row.role for row in counts.synapses if row.name in into} == {"host"}
    report = price(counts, load_profile("loihi2"))
    assert any("round trips" in str(line) for line in report.to_json()["unpriced"])
    numbers = count(graph, x, messages=done.counts)
    assert [row.events for row in numbers.synapses] == [row.events for row in counts.synapses]


FAULTS: dict[str, tuple[str, Any, type[AvsnnError], str]] = {
    "a delay of its own": ("norms", lambda n: {"delays": (1,) * len(n.inputs)}, InputError, "does not fit"),
    "a gain that nobody sums": ("gains", lambda n: {"factors": len(n.inputs)}, InputError, "does not fit"),
    "sums of another shape": ("gains", lambda n: {"factors": n.factors + 1}, InputError, "does not fit"),
    "squares beyond floats": (
        "norms", lambda n: {"bias": np.array([1 << 26])}, (DomainError, QuantizeError), "exact|lose bits",  # type: ignore[dict-item]
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_fit_is_refused(made: Any, fault: str) -> None:
    name, change, kind, message = FAULTS[fault]
    graph, x = made[name]
    host = graph.of(fixed.Received)[0]
    wrong = graph.with_nodes(replace(node, **change(node)) if node is host else node for node in graph)
    for use in (lambda: simulate(wrong, x), lambda: lower(wrong)):
        with pytest.raises(kind, match=message):
            use()


def test_a_host_that_nobody_knows_is_refused(made: Any) -> None:
    class Odd(fixed.FixedStepGain):
        pass

    class Odder(fixed.Received):
        pass

    graph, x = made["gains"]
    host = graph["gain"]
    assert isinstance(host, fixed.FixedStepGain)
    odd = Odder(name="gain", inputs=host.inputs, shape=host.shape, step=1.0, levels=9, bias=host.bias)
    wrong = graph.with_nodes(odd if node is host else node for node in graph)
    for use in (lambda: simulate(wrong, x), lambda: lower(wrong)):
        with pytest.raises(CapabilityError, match="Odder"):
            use()
    far = replace(host, levels=1 << 31)
    with pytest.raises(QuantizeError, match="32 bits"):
        lower(graph.with_nodes(far if node is host else node for node in graph))


def test_messages_are_those_of_the_definition_in_whole_numbers(made: Any) -> None:
    """A layer norm of the simulator against integers alone: ``|2 y r - 2^(shift+1) z| <= r``."""
    host = made["norms"][0].of(fixed.FixedLayerNorm)[0]
    x = np.random.default_rng(0).integers(-4000, 4000, (4, 2, *host.shape))
    y = sends(host, [x])
    assert np.abs(y).max() <= host.levels
    total = (x + host.bias.reshape(-1, 1, 1)).astype(object)
    n = host.shape[0]
    z = n * total - total.sum(axis=2, keepdims=True)
    square = n * (total**2).sum(axis=2, keepdims=True) - total.sum(axis=2, keepdims=True) ** 2 + host.eps
    low, high = (2 * abs(y).astype(object) + by for by in (-1, 1))
    wanted = (abs(z) * 2 ** (host.shift + 1)) ** 2
    assert (np.maximum(low, 0) ** 2 * square <= wanted).all()
    assert (wanted <= high**2 * square).all()
    assert (np.sign(y) * np.sign(z.astype(float)) >= 0).all()
