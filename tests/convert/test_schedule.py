from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avsnn.convert import equivalence as eq
from avsnn.convert.idle_mistakes import idle_on
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.activity import Activity
from avsnn.convert.ir.fixed_interpreter import logical, to_integers, wall_clock
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array, Node
from avsnn.convert.ir.stages import check_stage
from avsnn.convert.ir.text import render
from avsnn.convert.passes.integer_formats import Target
from avsnn.convert.passes.quantise import quantise
from avsnn.convert.passes.schedule import Balance, depth, schedule
from avsnn.errors import CapabilityError, VerifyError
from avsnn.hw_profiles.profile import load_profile
from tests.strategies import inputs_for, spiking_graph, spiking_graphs

LOIHI2 = Target.of(load_profile("loihi2"))
LIMITS = (None, 62, 1, 0)


def integers_of(graph: Graph) -> tuple[Graph, dict[str, Array]]:
    """The quantised graph and inputs of a batch, as integers."""
    done, _ = quantise(graph, target=LOIHI2, calibration=inputs_for(graph, 7))
    return done, to_integers(done, inputs_for(graph, 8, batch=3))


def agree(quantised: Graph, scheduled: Graph, inputs: dict[str, Array]) -> eq.Check:
    return eq.compare("scheduled", "test", logical(quantised, inputs), wall_clock(scheduled, inputs), exact=True)


def swap(graph: Graph, node: Node) -> Graph:
    return replace(graph, nodes=tuple(node if old.name == node.name else old for old in graph.nodes))


def longest_paths(graph: Graph) -> dict[str, int]:
    """Synapses on the longest way from an input, by walking all ways backwards: not how the pass does it."""

    def steps(node: Node) -> int:
        own = 1 if isinstance(node, fixed.Synapse) else 0
        return own + max((steps(source) for source in graph.sources(node)), default=0)

    return {node.name: steps(node) for node in graph}


@given(spiking_graphs(), st.sampled_from(LIMITS))
def test_wall_clock_time_is_logical_time(graph: Graph, limit: int | None) -> None:
    quantised, inputs = integers_of(graph)
    text = render(quantised)
    scheduled, balances = schedule(quantised, delay_steps_max=limit)
    assert render(quantised) == text
    check_stage(scheduled)
    check = agree(quantised, scheduled, inputs)
    assert check.samples == 3
    assert any(p.fired for p in check.populations)
    paths = longest_paths(quantised)
    for node in scheduled:
        if isinstance(node, fixed.FixedLIF) and node.role != "relay":
            assert node.offset == paths[node.name]
            assert (node.reset_interval, node.reset_phase) == (graph.timesteps, node.offset % graph.timesteps)
        elif isinstance(node, fixed.Synapse) and limit is not None:
            assert 0 <= node.delay <= limit
    assert depth(scheduled) == max(paths.values())
    assert {b.synapse for b in balances} == {
        s.name
        for p in quantised
        if isinstance(p, fixed.FixedLIF | fixed.FixedReadout)
        for s in quantised.sources(p)
        if paths[s.name] < paths[p.name]
    }


def test_a_short_way_waits_for_the_long_one() -> None:
    quantised, _ = integers_of(spiking_graph(1, depth=4, skips=((0, 3),)))
    scheduled, balances = schedule(quantised, delay_steps_max=62)
    # p0 is reached at once (the host holds its current), p1 to p3 one synapse later each, the answer after p3
    offsets = {n.name: n.offset for n in scheduled if isinstance(n, fixed.FixedLIF | fixed.FixedReadout)}
    assert offsets == {"p0": 0, "p1": 1, "p2": 2, "p3": 3, "out": 4}
    assert balances == (Balance(synapse="c0to3", delay=2, relays=0),)
    assert depth(scheduled) == 4


@pytest.mark.parametrize(("limit", "delay", "relays"), [(3, 3, 0), (2, 2, 1), (1, 1, 1), (0, 0, 3)])
def test_what_synapses_cannot_wait_passes_through_relays(limit: int, delay: int, relays: int) -> None:
    """Three steps to wait: a relay costs one, and the wire to it waits as well."""
    quantised, inputs = integers_of(spiking_graph(1, depth=5, skips=((0, 4),)))
    scheduled, (balance,) = schedule(quantised, delay_steps_max=limit)
    made = [n for n in scheduled.of(fixed.FixedLIF) if n.role == "relay"]
    assert (balance.relays, len(made)) == (relays, relays)
    wires = [n.delay for n in scheduled.of(fixed.Synapse) if n.name.endswith(".wire")]
    assert balance.delay + sum(wires) + relays == 3
    assert max([balance.delay, *wires]) <= limit
    agree(quantised, scheduled, inputs)


def test_relays_carry_flat_populations_too() -> None:
    """A read-out reads p0 and p3: the way from p0 waits, before flat features and images alike."""
    quantised, inputs = integers_of(spiking_graph(2, depth=4, read=(0,)))
    scheduled, (balance,) = schedule(quantised, delay_steps_max=0)
    assert (balance.synapse, balance.relays) == ("out@p0", 3)
    agree(quantised, scheduled, inputs)


MISTAKES: dict[str, Callable[[Any], Node]] = {
    "delay short by one": lambda g: replace(g["c0to3"], delay=g["c0to3"].delay - 1),
    "delay long by one": lambda g: replace(g["c0to3"], delay=g["c0to3"].delay + 1),
    "delay where none belongs": lambda g: replace(g["c2"], delay=1),
    "phase one later": lambda g: replace(g["p3"], reset_phase=(g["p3"].reset_phase + 1) % 4),
    "phase one earlier": lambda g: replace(g["p2"], reset_phase=(g["p2"].reset_phase - 1) % 4),
    "no reset": lambda g: replace(g["p1"], reset_interval=0),
    "offset one later": lambda g: replace(g["p3"], offset=g["p3"].offset + 1),
    "offset one earlier": lambda g: replace(g["p2"], offset=g["p2"].offset - 1),
    "read-out one later": lambda g: replace(g["out"], offset=g["out"].offset + 1),
    "read-out one earlier": lambda g: replace(g["out"], offset=g["out"].offset - 1),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_every_mistake_in_time_is_caught(mistake: str) -> None:
    quantised, inputs = integers_of(spiking_graph(1, depth=4, skips=((0, 3),)))
    scheduled, _ = schedule(quantised, delay_steps_max=62)
    agree(quantised, scheduled, inputs)
    node = MISTAKES[mistake](scheduled)
    with pytest.raises(VerifyError) as caught:
        agree(quantised, swap(scheduled, node), inputs)
    assert caught.value.where


def test_a_batch_is_one_stream_in_which_samples_do_not_touch() -> None:
    """Each sample alone gives what it gives between others."""
    quantised, inputs = integers_of(spiking_graph(3, depth=3, skips=((0, 2),)))
    scheduled, _ = schedule(quantised, delay_steps_max=62)
    together = wall_clock(scheduled, inputs)
    for sample in range(3):
        alone = wall_clock(scheduled, {k: x[sample : sample + 1] for k, x in inputs.items()})
        for name, spikes in alone.spikes.items():
            np.testing.assert_array_equal(spikes[:, 0], together.spikes[name][:, sample])
        np.testing.assert_array_equal(alone.outputs["out"][0], together.outputs["out"][sample])


def test_the_controls_of_the_pipeline_are_noticed() -> None:
    quantised, inputs = integers_of(spiking_graph(1, depth=4, skips=((0, 3),)))
    scheduled, _ = schedule(quantised, delay_steps_max=62)

    def run(graph: Graph) -> Activity:
        return wall_clock(graph, inputs)

    spoiled = eq.shifted_time(scheduled)
    assert len(spoiled) == 2
    expected = logical(quantised, inputs)
    check = eq.compare("scheduled", "test", expected, run(scheduled), exact=True)
    idle = idle_on(scheduled, inputs, run(scheduled))
    assert eq.with_controls(check, expected, run, spoiled, idle).controls == tuple(spoiled)


def test_a_held_current_cannot_wait_and_was_let_through_early() -> None:
    """Nothing can delay what the host holds, so a population that also reads spikes of later layers is refused."""
    quantised, _ = integers_of(spiking_graph(1, depth=3))
    late = quantised["p2"]
    graph = swap(quantised, replace(late, inputs=(*late.inputs, "c0")))
    with pytest.raises(CapabilityError, match=r"^c0: .*p2"):
        schedule(graph, delay_steps_max=62)
