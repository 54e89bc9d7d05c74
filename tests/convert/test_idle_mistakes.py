"""What is said to matter in an integer graph does: the run differs. What is silent is idle."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from avsnn.convert import equivalence as eq
from avsnn.convert.idle_mistakes import idle_on
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.activity import Activity
from avsnn.convert.ir.fixed_interpreter import logical, to_integers, wall_clock
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array, Node
from avsnn.convert.passes.integer_formats import Target
from avsnn.convert.passes.quantise import quantise
from avsnn.convert.passes.schedule import schedule
from avsnn.convert.pipeline import FOLDS, convert
from avsnn.hw_profiles.profile import load_profile
from tests.convert.mutants import NETWORKS, samples
from tests.random_graphs import draw
from tests.strategies import inputs_for, spiking_graph, spiking_graphs

TARGET = Target.of(load_profile("loihi2"))


def scheduled(graph: Graph, x: dict[str, Array]) -> tuple[Graph, dict[str, Array]]:
    done, _ = quantise(graph, target=TARGET, calibration=x)
    return schedule(done, delay_steps_max=62)[0], to_integers(done, x)


def swapped(graph: Graph, node: Node) -> Graph:
    return replace(graph, nodes=tuple(node if old.name == node.name else old for old in graph))


def alone(graph: Graph) -> Iterator[Graph]:
    """Every single mistake that `equivalence` plants together with its like."""
    for node in graph:
        if eq.spoils(node):
            yield eq.negated(graph, [node.name])
    for whole in eq.shifted_time(graph).values():
        yield from (swapped(graph, whole[node.name]) for node in graph if whole[node.name] is not node)


def differs(a: Activity, b: Activity) -> bool:
    return bool(eq.differing(a, b, exact=True))


def judge(graph: Graph, integers: dict[str, Array]) -> list[bool]:
    """For each mistake whether it is idle; none that is not leaves the run as it was."""
    sound = wall_clock(graph, integers)
    idle = idle_on(graph, integers, sound)
    verdicts = []
    for spoiled in alone(graph):
        verdicts.append(idle(spoiled))
        assert verdicts[-1] or differs(sound, wall_clock(spoiled, integers))
    return verdicts


@settings(max_examples=8, deadline=None)
@given(spiking_graphs())
def test_what_is_said_to_matter_does(graph: Graph) -> None:
    judge(*scheduled(graph, inputs_for(graph, 1)))


@pytest.mark.parametrize("name", ["space", "time", "sums", "units", "subtract", "subtract_delayed"])
def test_in_products_and_other_resets_as_well(name: str) -> None:
    graph = NETWORKS[name]()
    for _, fold in FOLDS:
        graph = fold(graph)
    x = samples(graph)
    verdicts = judge(*scheduled(replace(graph, stage="folded"), x))
    assert sum(verdicts) <= len(verdicts) / 4  # hardly any is idle where everything fires


def test_what_is_silent_is_idle() -> None:
    graph = spiking_graph(1, depth=4, skips=((1, 3),), T=4)
    layer: Any = graph["c1"]
    graph = swapped(graph, replace(layer, bias=layer.bias - 200))
    timed, integers = scheduled(graph, inputs_for(graph, 1))
    idle = idle_on(timed, integers, wall_clock(timed, integers))
    assert idle(eq.negated(timed, ["c2", "c1to3"]))
    assert idle(eq.shifted_time(timed)["every balancing delay: short by one"])
    assert not idle(eq.negated(timed, ["c2", "c1"]))
    assert not idle(eq.shifted_time(timed)["every population: reset one step late"])


def test_a_coincidence_matters_where_one_spike_is_missing() -> None:
    wire: dict[str, Any] = {"shape": (2,), "weight_mant": np.ones((2, 2), int), "sign_mode": "excitatory"}
    common: dict[str, Any] = {"shape": (2,), "decay_v": fixed.MEMORYLESS, "bias_mant": np.zeros(1, int)}
    graph = Graph(
        nodes=(
            fixed.FixedInput(name="x", shape=(2,), coding="sequence", low=0, high=1, step=1.0),
            fixed.FixedLinear(name="w", inputs=("x",), **wire),
            fixed.FixedLIF(name="c", inputs=("w",), threshold_mant=1, role="coincidence", **common),
        ),
        outputs=("c",),
        timesteps=1,
        stage="quantised",
    )
    (hasty,) = eq.hasty_coincidences(graph).values()
    for spikes, matters in (((0, 0), False), ((1, 1), False), ((1, 0), True)):
        integers = {"x": np.array(spikes).reshape(1, 1, 2)}
        assert idle_on(graph, integers, logical(graph, integers))(hasty) is not matters


def test_a_gain_whose_sums_come_a_step_early_has_sums_of_two_shapes() -> None:
    drawn = draw(2267, 1)
    record = convert(drawn.graph, calibration=drawn.inputs, seed=2267, proof_samples=4).record
    assert any(check["name"] == "scheduled = quantised" for check in record["checks"])


def test_axons_that_a_product_lacks_are_idle_where_the_weights_behind_it_are_zero() -> None:
    drawn = draw(1063, 5)
    record = convert(drawn.graph, calibration=drawn.inputs, seed=1063, proof_samples=4).record
    mapped = [check for check in record["checks"] if check["name"] == "mapped = scheduled"]
    starved = "every product: axons left out"
    assert any(starved in check["controls_idle"] for check in mapped)


def test_delays_of_a_product_are_idle_where_the_weights_behind_it_hide_them() -> None:
    drawn = draw(5080, 1, 2)
    record = convert(drawn.graph, calibration=drawn.inputs, seed=5080, proof_samples=4).record
    idle = [name for check in record["checks"] for name in check["controls_idle"]]
    assert "every balancing delay: short by one" in idle
