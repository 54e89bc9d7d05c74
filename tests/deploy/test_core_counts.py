"""What each core did, against neurons and messages one by one, and against the counts of the whole network."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avsnn.convert.core_traffic import arriving, owners
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.fixed_interpreter import to_integers, wall_clock
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array
from avsnn.convert.passes.map_cores import map_cores
from avsnn.convert.passes.place_cores import place_cores
from avsnn.deploy.reports.core_counts import COUNTED, CoreCounts, core_counts, messages_sent
from avsnn.deploy.reports.cores import busiest_in_words
from avsnn.deploy.reports.counts import Counts, count
from avsnn.errors import InputError
from avsnn.hw_profiles.profile import Profile
from tests.chips import chip
from tests.convert.mutants import NETWORKS
from tests.convert.test_map_cores import events, layers
from tests.convert.test_product_demand import scheduled


def ran(graph: Graph, profile: Profile) -> tuple[Graph, dict[str, Array], Counts, CoreCounts]:
    """(mapped graph, messages of each source, counts of the whole, counts of the cores)."""
    x = events(graph)
    activity = {**x, **wall_clock(graph, x).spikes}
    mapped, _ = map_cores(graph, profile)
    sent = messages_sent(graph, activity)
    if profile.mesh is not None:
        mapped, placement = place_cores(mapped, profile, sent)
        assert placement.messages > 0
    counts = count(graph, activity)
    return mapped, sent, counts, core_counts(mapped, sent, profile, samples=counts.samples, steps=counts.steps)


@settings(max_examples=12)
@given(seed=st.integers(0, 99), neurons=st.sampled_from([7, 30, 300]), groups=st.sampled_from([1, 2]))
def test_cores_add_up_to_the_counts_of_the_network(seed: int, neurons: int, groups: int) -> None:
    _, _, counts, cores = ran(layers(seed, groups), chip(neurons_per_core=neurons))
    total = {name: sum(getattr(core, name) for core in cores.cores) for name in COUNTED}
    assert 0 < total["sop_nonzero"] <= total["sop_stored"]
    assert total["sop_stored"] == counts.sop_stored
    assert total["sop_nonzero"] == counts.sop_nonzero
    assert (total["updates"], total["spikes"]) == (counts.neuron_updates, counts.spikes)
    assert total["messages_out"] == cores.messages
    assert total["messages_in"] == cores.messages + cores.outside
    assert cores.outside > 0, "events come from outside"


@pytest.mark.parametrize("name", sorted(set(NETWORKS) - {"apart", "wide"}))  # one has no integers, one is slow
def test_cores_with_products_and_sums_for_hosts_add_up_as_well(name: str) -> None:
    graph, data = scheduled(name)
    profile = chip(neurons_per_core=20)
    integers = to_integers(graph, data)
    activity = {**integers, **wall_clock(graph, integers).spikes}
    counts, sent = count(graph, activity), messages_sent(graph, activity)
    mapped, _ = place_cores(map_cores(graph, profile)[0], profile, sent)
    cores = core_counts(mapped, sent, profile, samples=counts.samples, steps=counts.steps)
    total = {field: sum(getattr(core, field) for core in cores.cores) for field in COUNTED}
    assert total["sop_stored"] == counts.sop_stored > 0
    assert total["sop_nonzero"] == counts.sop_nonzero
    assert (total["updates"], total["spikes"]) == (counts.neuron_updates, counts.spikes)
    assert total["messages_in"] == cores.messages + cores.outside
    assert total["messages_out"] == cores.messages > 0


def test_synaptic_operations_of_each_core_one_weight_at_a_time() -> None:
    """A convolution with stride, padding and two groups, as a matrix from source to target."""
    graph = layers(3, 2)
    mapped, sent, _, cores = ran(graph, chip(neurons_per_core=11))
    wire = graph["b.w"]
    assert isinstance(wire, fixed.FixedConv2d)
    stored, nonzero = Counter[int](), Counter[int]()
    core_of = owners(mapped)["b"]
    outs, each = len(wire.weight_mant), wire.weight_mant.shape[1]
    for o, c, i, j, row, column in np.ndindex(outs, each, *wire.weight_mant.shape[2:], *wire.shape[1:]):
        y, x = 2 * row + i - 1, 2 * column + j
        if 0 <= y < 6 and 0 <= x < 7:
            source = (o // (outs // 2) * each + c, y, x)
            target = int(np.ravel_multi_index((o, row, column), wire.shape))
            stored[core_of[target]] += int(sent["a"][source])
            nonzero[core_of[target]] += int(sent["a"][source]) * bool(wire.weight_mant[o, c, i, j])
    mine = [core for core in cores.cores if core.population == "b"]
    assert len(mine) > 3
    assert {core.core: core.sop_stored for core in mine} == dict(stored)
    assert {core.core: core.sop_nonzero for core in mine} == {core.core: nonzero[core.core] for core in mine}


def walked(mapped: Graph, sent: dict[str, Array], tiles_x: int) -> tuple[Counter[Any], Counter[str]]:
    """Every message link by link: along x, then along y."""
    links, kinds = Counter[Any](), Counter[str]()
    core_of = owners(mapped)
    places = {part.core: part for part in mapped.of(fixed.Slice)}
    for axons in mapped.of(fixed.Axons):
        source, to = mapped[axons.inputs[0]].inputs[0], mapped[axons.inputs[1]]
        assert isinstance(to, fixed.Slice)
        if source not in core_of:
            continue
        for neuron in arriving(mapped, axons):
            size = int(sent[source].ravel()[neuron])
            part = places[int(core_of[source][neuron])]
            x, y, end = part.chip * tiles_x + part.x, part.y, to.chip * tiles_x + to.x
            kinds["local"] += size * ((x, y) == (end, to.y))
            while x != end:
                step = 1 if end > x else -1
                links[x, y, x + step, y] += size
                kinds["crossings" if x // tiles_x != (x + step) // tiles_x else "hops_x"] += size
                x += step
            while y != to.y:
                step = 1 if to.y > y else -1
                links[x, y, x, y + step] += size
                kinds["hops_y"] += size
                y += step
    return links, kinds


@pytest.mark.parametrize("seed", [0, 1])
def test_hops_and_the_busiest_link_message_by_message(seed: int) -> None:
    profile = chip(neurons_per_core=11, mesh=(4, 3, 2))
    mapped, sent, _, cores = ran(layers(seed), profile)
    rng = np.random.default_rng(seed)
    slices = {part.name: part for part in mapped.of(fixed.Slice)}  # scattered, so that every way is gone
    spots = rng.permutation(48)[: len(slices)]
    moved = {
        part.name: replace(part, chip=int(s) // 24, x=int(s) % 4, y=int(s) // 4 % 3)
        for s, part in zip(spots, slices.values(), strict=True)
    }
    mapped = replace(mapped, nodes=tuple(moved.get(node.name, node) for node in mapped))
    routes = core_counts(mapped, sent, profile, samples=cores.samples).routes
    assert routes is not None
    links, kinds = walked(mapped, sent, 4)
    found = {name: getattr(routes, name) for name in ("local", "hops_x", "hops_y", "crossings")}
    assert found == {name: kinds[name] for name in found}
    assert min(found["hops_x"], found["hops_y"], found["crossings"]) > 0
    assert routes.load == max(links.values())
    (x, y, x2, y2), _ = max(links.items(), key=lambda item: item[1])
    way = {(1, 0): "east", (-1, 0): "west", (0, 1): "south", (0, -1): "north"}[x2 - x, y2 - y]
    assert routes.busiest == f"{way} from tile ({x % 4}, {y}) of chip {x // 4}"


def test_what_is_not_known_is_refused_and_a_chip_without_a_mesh_has_no_routes() -> None:
    graph, profile = layers(), chip(neurons_per_core=11, mesh=None)
    mapped, sent, _, cores = ran(graph, profile)
    assert cores.routes is None
    assert cores.messages > 0
    with pytest.raises(InputError, match="no core is known"):
        core_counts(graph, sent, profile, samples=1)
    with pytest.raises(InputError, match="messages were not recorded"):
        core_counts(mapped, {name: each for name, each in sent.items() if name != "a"}, profile, samples=1)


def test_the_busiest_core_is_named() -> None:
    _, _, _, cores = ran(layers(), chip(neurons_per_core=30))
    spread = cores.to_json()["spread"]["sop_stored"]
    busiest = max(cores.cores, key=lambda core: core.sop_stored)
    assert (spread["most"], spread["core"]) == (busiest.sop_stored, busiest.name)
    assert spread["mean"] < spread["most"]


def test_the_terminal_names_the_busiest_cores_and_old_reports_do_not() -> None:
    _, _, _, cores = ran(layers(), chip(neurons_per_core=30))
    report = {"meta": {"target": "loihi2"}, "core_counts": {"loihi2": json.loads(json.dumps(cores.to_json()))}}
    (line,) = busiest_in_words(report)
    busiest = max(cores.cores, key=lambda core: core.sop_stored)
    assert f"most {busiest.sop_stored / cores.samples:,.0f} on core {busiest.core};" in line
    assert busiest_in_words({"meta": {"target": "loihi1"}, "core_counts": report["core_counts"]}) == []
    assert busiest_in_words({"meta": {"target": "loihi2"}}) == []
