from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avsnn.convert.core_traffic import axons_out, distances, messages, owners
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.fixed_interpreter import wall_clock
from avsnn.convert.ir.node import Array, Node
from avsnn.convert.mapping_check import check_mapping
from avsnn.convert.passes import place_cores as pass_
from avsnn.convert.passes.map_cores import map_cores
from avsnn.convert.passes.place_cores import place_cores
from avsnn.errors import CapabilityError, VerifyError
from tests.chips import chip
from tests.convert.test_map_cores import events, layers


def counts_of(seed: int = 0) -> dict[str, Array]:
    graph = layers(seed)
    return {name: spikes.sum(axis=(0, 1)) for name, spikes in wall_clock(graph, events(graph)).spikes.items()}


def test_every_spike_is_a_message_to_each_core_that_a_weight_leads_to() -> None:
    """Against the connections one by one: a spike of each neuron in turn, and the cores whose currents it changes."""
    graph = layers()
    mapped, _ = map_cores(graph, chip(neurons_per_core=40))
    counts = {name: np.zeros(graph[name].shape, dtype=np.int64) for name in ("a", "b", "c")}
    core_of = owners(mapped)
    for i in (0, 45, 130, 251):
        counts["a"] = np.zeros((6, 6, 7), dtype=np.int64)
        counts["a"].flat[i] = 3
        found = messages(mapped, counts)
        wire = graph["b.w"]
        assert isinstance(wire, fixed.FixedConv2d)
        y, x = divmod(i % 42, 7)
        hit = {  # outputs whose 3 x 2 window, stride (2, 2), padding (1, 0), holds the neuron
            int(core)
            for core, (row, column) in zip(core_of["b"], [divmod(k % 9, 3) for k in range(72)], strict=True)
            if 0 <= y - (2 * row - 1) < 3 and 0 <= x - 2 * column < 2
        }
        sends = np.zeros_like(found)
        for core in hit:
            sends[core_of["a"][i], core] = 3
        reached = found > 0
        assert (found[sends > 0] == 3).all()
        assert found[reached].tolist() == [3] * int(reached.sum())
        assert set(np.flatnonzero(reached.any(axis=0))) >= hit  # a core listens to all that its box of outputs spans


def test_placing_moves_cores_and_nothing_else() -> None:
    graph, profile = layers(), chip(neurons_per_core=11, mesh=(4, 3, 2))
    mapped, mapping = map_cores(graph, profile)
    assert len(mapping.cores) > 24  # two chips
    placed, placement = place_cores(mapped, profile, counts_of())
    check_mapping(graph, placed, profile)
    assert placement.hops < min(placement.packed_hops, placement.row_major_hops)
    assert 0 < placement.between_chips < placement.messages
    for old, new in zip(mapped, placed, strict=True):
        assert old is new or (isinstance(new, fixed.Slice) and replace(new, chip=0, x=0, y=0).first == old.first)  # type: ignore[attr-defined]


def test_hops_are_those_of_the_messages_on_the_tiles() -> None:
    profile = chip(neurons_per_core=40, mesh=(4, 4, 1))
    mapped, _ = map_cores(layers(), profile)
    counts = counts_of()
    placed, placement = place_cores(mapped, profile, counts)
    flow, parts = messages(placed, counts), placed.of(fixed.Slice)
    hops = sum(int(flow[a.core, b.core]) * (abs(a.x - b.x) + abs(a.y - b.y)) for a in parts for b in parts)
    assert hops == placement.hops > 0
    assert (distances(parts, 4) == distances(parts, 4).T).all()
    assert placement.row_major_hops == placement.packed_hops  # with one core to a tile they are the same
    again, _ = place_cores(mapped, profile, counts)
    assert [(p.x, p.y) for p in again.of(fixed.Slice)] == [(p.x, p.y) for p in parts]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(0, 3))
def test_the_change_that_a_swap_makes_is_the_change_of_the_cost(seed: int, used: int, chips: int) -> None:
    """Swaps stop where no single swap gains, tried one by one, and never at a higher cost."""
    rng = np.random.default_rng(seed)
    flow = np.zeros((10, 10))
    flow[:used, :used] = rng.integers(0, 9, size=(used, used))
    flow = np.triu(flow, 1) + np.triu(flow, 1).T
    y, x = np.divmod(np.arange(10), 5)
    hops = (abs(x[:, None] - x) + abs(y[:, None] - y)).astype(np.float64)
    pull = np.zeros((10, 10))
    pull[:used] = rng.integers(0, 5, size=(used, 10)) * chips
    start = rng.permutation(10)
    found = pass_._improved(flow, hops, pull, start, used)
    assert sorted(found) == list(range(10))
    cost = pass_._cost(flow, hops, pull, found)
    assert cost <= pass_._cost(flow, hops, pull, start)
    for i in range(10):
        for j in range(i):
            other = found.copy()
            other[[i, j]] = other[[j, i]]
            assert pass_._cost(flow, hops, pull, other) >= cost


def test_a_chip_without_a_mesh_cannot_be_placed_on() -> None:
    profile = replace(chip(), mesh=None)
    mapped, _ = map_cores(layers(), profile)
    with pytest.raises(CapabilityError, match="loihi2: no mesh is known"):
        place_cores(mapped, profile, counts_of())


def test_broken_mappings_are_noticed() -> None:
    graph, profile = layers(), chip(neurons_per_core=17)
    mapped, mapping = map_cores(graph, profile)
    most = max(core.neurons for core in mapping.cores)

    def spoiled(kind: type[Node], number: int, **change: Any) -> None:
        node = mapped.of(kind)[number]
        nodes = tuple(replace(n, **change) if n is node else n for n in mapped)
        check_mapping(graph, replace(mapped, nodes=nodes), profile)

    with pytest.raises(VerifyError, match="breaks neurons_per_core of loihi2"):
        check_mapping(graph, mapped, chip(neurons_per_core=most - 1))
    with pytest.raises(VerifyError, match="breaks synapse_memory_bits_per_core"):
        check_mapping(graph, mapped, chip(neurons_per_core=17, synapse_memory_bits_per_core=2000))
    with pytest.raises(VerifyError, match="breaks axons_out_per_core"):
        check_mapping(graph, mapped, chip(neurons_per_core=17, axons_out_per_core=1))
    first = mapped.of(fixed.Slice)[0]
    with pytest.raises(VerifyError, match=r"a: not on exactly one core, found neuron .* on 2"):
        spoiled(fixed.Slice, 1, first=first.first, last=first.last)
    with pytest.raises(VerifyError, match="more cores than are there"):
        spoiled(fixed.Slice, 4, x=0, y=0)
    axons = mapped.of(fixed.Axons)[-1]
    with pytest.raises(VerifyError, match=r"c.w on core \d+: a core computes another sum"):
        spoiled(fixed.Axons, -1, last=(axons.last[0] - 1,))
    assert axons_out(mapped, "neuron").sum() > axons_out(mapped, "core").sum()
