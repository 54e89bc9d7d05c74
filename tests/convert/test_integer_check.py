from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from avsnn.convert.integer_check import check_neurons, check_parameters
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array, Node
from avsnn.convert.passes.integer_formats import Target
from avsnn.convert.passes.quantise import Scale, quantise
from avsnn.errors import VerifyError
from avsnn.hw_profiles.profile import load_profile
from tests.strategies import inputs_for, spiking_graph

FOLDED = spiking_graph(3, T=4, depth=3, skips=((0, 2),), read=(0,))
LOIHI2 = Target.of(load_profile("loihi2"))


@pytest.fixture(scope="module")
def done() -> tuple[Graph, tuple[Scale, ...]]:
    return quantise(FOLDED, target=LOIHI2, calibration=inputs_for(FOLDED, 7))


def swap(graph: Graph, node: Node) -> Graph:
    return replace(graph, nodes=tuple(node if old.name == node.name else old for old in graph.nodes))


def changed(values: Array, change: Callable[[Any], Any]) -> Array:
    """A copy in which the largest element is another."""
    copy = values.copy()
    place = np.unravel_index(int(np.abs(copy).argmax()), copy.shape)
    copy[place] = change(copy[place])
    return copy


MISTAKES: dict[str, tuple[str, Callable[[Any], dict[str, Any]], str]] = {
    "sign of one synaptic weight": ("c1", lambda n: {"weight_mant": changed(n.weight_mant, lambda w: -w)}, "weight"),
    "a synaptic weight, one step": ("c2", lambda n: {"weight_mant": changed(n.weight_mant, lambda w: w - 2)}, ""),
    "bias exponent": ("p1", lambda n: {"bias_exp": n.bias_exp - 1}, "bias"),
    "weight exponent": ("c1", lambda n: {"weight_exp": n.weight_exp + 1}, "weight"),
    "exponent of one row": (
        "c2", lambda n: {"weight_exp": n.row_exp + (np.arange(len(n.weight_mant)) == 0)}, "weight",
    ),
    "skip connection, sign": ("c0to2", lambda n: {"weight_mant": changed(n.weight_mant, lambda w: -w)}, "weight"),
    "sign of one held weight": ("c0", lambda n: {"weight": changed(n.weight, lambda w: -w)}, "weight"),
    "one held weight, one step": ("c0", lambda n: {"weight": changed(n.weight, lambda w: w + 1)}, "weight"),
    "held bias": ("c0", lambda n: {"bias": changed(n.bias, lambda b: b + 1)}, "bias"),
    "held shift": ("c0", lambda n: {"shift": n.shift - 1}, ""),
    "bias of the population": ("p1", lambda n: {"bias_mant": changed(n.bias_mant, lambda b: b + 1)}, "bias"),
    "bias of the population, down": ("p1", lambda n: {"bias_mant": changed(n.bias_mant, lambda b: b - 1)}, "bias"),
    "bias where there is none": ("p0", lambda n: {"bias_mant": n.bias_mant + 1}, "bias"),
    "threshold up": ("p1", lambda n: {"threshold_mant": n.threshold_mant + 1}, "threshold"),
    "threshold down": ("p1", lambda n: {"threshold_mant": n.threshold_mant - 1}, "threshold"),
    "threshold of the first population": ("p0", lambda n: {"threshold_mant": n.threshold_mant + 1}, "threshold"),
    "decay": ("p2", lambda n: {"decay_v": n.decay_v + 1}, "decay"),
    "bias of the read-out": ("out", lambda n: {"bias": changed(n.bias, lambda b: b + 1)}, "bias"),
    "scale of the read-out": ("out", lambda n: {"scale": n.scale * 1.01}, "scale"),
    "row of the read-out": ("out@p0", lambda n: {"weight_mant": changed(n.weight_mant, lambda w: -w)}, "weight"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_every_wrong_parameter_is_named(done: tuple[Graph, tuple[Scale, ...]], mistake: str) -> None:
    graph, scales = done
    layer, change, what = MISTAKES[mistake]
    assert check_parameters(FOLDED, graph, scales) > 0
    node = graph[layer]
    with pytest.raises(VerifyError, match=f"^{layer}: .*{what}") as caught:
        check_parameters(FOLDED, swap(graph, replace(node, **change(node))), scales)
    assert caught.value.where == layer


@pytest.mark.parametrize("mistake", ["up", "down"])
@pytest.mark.parametrize("population", ["p0", "p1", "p2"])
def test_a_neuron_whose_tie_rule_is_gone_is_named(
    done: tuple[Graph, tuple[Scale, ...]], population: str, mistake: str
) -> None:
    graph, scales = done
    node = graph[population]
    assert isinstance(node, fixed.FixedLIF)
    assert all(check.ties and not check.mismatches for check in check_neurons(FOLDED, graph, scales))
    gone = replace(node, threshold_mant=node.threshold_mant + (1 if mistake == "up" else -1))
    with pytest.raises(VerifyError, match=rf"^{population}: the integer neuron differs.*tie rule") as caught:
        check_neurons(FOLDED, swap(graph, gone), scales)
    assert caught.value.where == population


def test_a_scale_that_puts_the_threshold_on_an_integer_is_named(done: tuple[Graph, tuple[Scale, ...]]) -> None:
    """The tie rule removed at its root: S threshold / gain = h."""
    graph, scales = done
    node, real = graph["p1"], FOLDED["p1"]
    assert isinstance(node, fixed.FixedLIF)
    assert isinstance(real, ir.LIF)
    plain = replace(scales[1], scale=float(node.threshold_mant) / float(real.threshold / real.gain), tie=0.0)
    with pytest.raises(VerifyError, match=r"^p1: the integer neuron differs.*tie rule"):
        check_neurons(FOLDED, graph, (scales[0], plain, *scales[2:]))


@pytest.mark.parametrize("reset", ["subtract", "subtract_delayed"])
def test_a_missing_tie_rule_shows_at_large_thresholds_before_a_spike_too_few_leaves_the_state(
    done: tuple[Graph, tuple[Scale, ...]], reset: str
) -> None:
    """The control of the check, at thresholds close to half the state: two currents that just fire do not fit in it."""
    graph, scales = done
    node, real, h = graph["p1"], FOLDED["p1"], 57_552
    assert isinstance(node, fixed.FixedLIF)
    assert isinstance(real, ir.LIF)
    tie = 0.5
    large = replace(node, threshold_mant=h, decay_v=0, reset=reset, subtract=round((h + tie) * 64))
    scale = replace(scales[1], scale=(h + tie) / float(real.threshold / real.gain), tie=tie)
    folded = swap(FOLDED, replace(real, decay=1.0, reset=reset))
    (check,) = check_neurons(folded, swap(graph, large), (scale,))
    assert not check.mismatches
    assert check.ties


def test_a_neuron_that_keeps_its_current_is_named(done: tuple[Graph, tuple[Scale, ...]]) -> None:
    graph, scales = done
    node = graph["p2"]
    assert isinstance(node, fixed.FixedLIF)
    with pytest.raises(VerifyError, match=r"^p2: decay of its current"):
        check_parameters(FOLDED, swap(graph, replace(node, decay_u=2047)), scales)


def test_a_decay_that_does_not_halve_is_reported_not_refused() -> None:
    folded = spiking_graph(3, T=4, depth=2, decay=0.75)
    graph, scales = quantise(folded, target=LOIHI2, calibration=inputs_for(folded, 7))
    checks = check_neurons(folded, graph, scales)
    assert check_parameters(folded, graph, scales) > 0
    assert all(check.windows == 2048 for check in checks)
