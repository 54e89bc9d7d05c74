from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from avsnn.convert.balance_check import check_balance
from avsnn.convert.format_check import check_formats
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Node
from avsnn.convert.passes.integer_formats import Target
from avsnn.convert.passes.quantise import quantise
from avsnn.convert.passes.schedule import depth, schedule
from avsnn.convert.pipeline import FOLDS
from avsnn.errors import VerifyError
from avsnn.hw_profiles.profile import load_profile
from tests.convert.mutants import NETWORKS, samples

TARGET = Target.of(load_profile("loihi2"))


def quantised(name: str) -> Graph:
    graph = NETWORKS[name]()
    inputs = samples(graph)
    for _, fold in FOLDS:
        graph = fold(graph)
    return quantise(replace(graph, stage="folded"), target=TARGET, calibration=inputs)[0]


def changed(graph: Graph, name: str, fields: dict[str, Any]) -> Graph:
    node: Node = replace(graph[name], **fields)
    return replace(graph, nodes=tuple(node if old.name == name else old for old in graph))


TOO_LARGE: dict[str, tuple[str, str, Callable[[Any], dict[str, Any]], str]] = {
    "weight": ("hard", "c2", lambda n: {"weight_mant": n.weight_mant - 257}, "weight mantissa"),
    "weight of one sign": (
        "hard", "c2", lambda n: {"weight_mant": 1 + abs(n.weight_mant), "sign_mode": "inhibitory"}, "weight mantissa",
    ),
    "weight exponent": ("hard", "c2", lambda n: {"weight_exp": 9}, "weight exponent"),
    "host weight": ("hard", "c1", lambda n: {"weight": 2 * n.weight}, "current"),
    "host bias": ("hard", "c1", lambda n: {"bias": n.bias - (4096 << n.shift)}, "current"),
    "bias": ("hard", "b", lambda n: {"bias_mant": n.bias_mant + 4096}, "bias mantissa"),
    "threshold": ("hard", "b", lambda n: {"threshold_mant": 1 << 17}, "threshold"),
    "one of many thresholds": ("hard", "d", lambda n: {"threshold_mant": n.threshold_mant * 0 - 1}, "threshold"),
    "count": ("space", "attention", lambda n: {"gain": 1 << 14}, "count"),
    "length": ("units", "c3", lambda n: {"shift": n.shift - 2}, "current"),
}  # fmt: skip


@pytest.mark.parametrize("case", TOO_LARGE)
def test_what_is_too_large_for_the_target_is_named(case: str) -> None:
    network, name, change, what = TOO_LARGE[case]
    graph = quantised(network)
    assert check_formats(graph, TARGET) > 0
    with pytest.raises(VerifyError, match=rf"^{name}: {what} does not fit the target, expected "):
        check_formats(changed(graph, name, change(graph[name])), TARGET)


def test_more_synapse_formats_than_a_core_holds_are_noticed() -> None:
    graph = quantised("hard")
    node: Any = graph["c2"]
    rows = np.arange(len(node.weight_mant))
    assert len(rows) > 2
    fits = replace(TARGET, synapse_formats=len(rows))
    check_formats(changed(graph, "c2", {"weight_exp": rows}), fits)
    with pytest.raises(VerifyError, match=r"^b: synapse formats does not fit the target, expected 0 to 2"):
        check_formats(changed(graph, "c2", {"weight_exp": rows}), replace(TARGET, synapse_formats=2))


def test_padding_narrows_what_an_input_can_make() -> None:
    """Without it the bound would refuse scales that no input can exceed."""
    graph = quantised("hard")
    node: Any = graph["c1"]
    assert node.padding == (1, 1)
    full = np.abs(node.weight).sum() * 255  # of all channels and taps at once
    assert full >> node.shift > (1 << (TARGET.bias_mant_bits - 1)) - 1
    check_formats(graph, TARGET)


@pytest.mark.parametrize("name", ["skips", "time", "units", "sums"])
def test_every_connection_of_a_schedule_is_added_up(name: str) -> None:
    done, _ = schedule(quantised(name), delay_steps_max=1 if name == "skips" else 62)
    latency = depth(done) + done.timesteps
    assert check_balance(done, latency) >= len(done.nodes) - 1
    for node in done:
        for field in ("delay", "delays", "offset", "reset_phase"):
            value = getattr(node, field, None)
            if not value or (field == "reset_phase" and not getattr(node, "reset_interval", 0)):
                continue
            less: dict[str, Any] = {field: value - 1 if isinstance(value, int) else tuple(delay + 1 for delay in value)}
            with pytest.raises(VerifyError, match=r"at another step|comes at another"):
                check_balance(changed(done, node.name, less), latency)
