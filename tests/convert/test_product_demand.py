"""What a core that makes some results of a product must receive and hold; such cores run, and chips that have none."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avsnn.convert import equivalence as eq
from avsnn.convert.core_demand import Rules
from avsnn.convert.core_traffic import axons_out, emitted, messages, owners, sent_counts
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.fixed_interpreter import product, to_integers, wall_clock
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array, Node, Shape
from avsnn.convert.mapping_check import check_mapping
from avsnn.convert.passes.map_cores import map_cores
from avsnn.convert.product_demand import held_bits, reached
from avsnn.convert.proof_data import first_samples
from avsnn.convert.unproved import scheduled_integers
from avsnn.deploy.fit import fit
from avsnn.errors import CapabilityError, DomainError, VerifyError
from avsnn.hw_profiles.profile import load_profile
from tests.chips import chip
from tests.convert.mutants import NETWORKS, samples
from tests.convert.test_map_cores import conv, lif

LOIHI2 = load_profile("loihi2")


def around(node: fixed.Product, *shapes: Shape, T: int = 3) -> Graph:
    """A product of inputs that stand for populations, and a population that reads it."""
    sources = [
        fixed.FixedInput(name=name, shape=shape, coding="sequence", low=0, high=1, step=1.0)
        for name, shape in zip(dict.fromkeys(node.inputs), shapes, strict=True)
    ]
    last = lif("y", node.name, node.shape)
    return Graph(nodes=(*sources, node, last), outputs=("y",), timesteps=T, stage="scheduled")


def some(kind: str, heads: int, each: int, tokens: int, others: int, **options: Any) -> Graph:
    """A product of ``heads`` heads of ``each`` channels; ``others``: tokens of what attention within a step asks."""
    wide, common = heads * each, {"name": "p", **options}
    q, k = (wide, tokens), (wide, others)
    match kind:
        case "space":
            node: fixed.Product = fixed.FixedAttention(
                inputs=("q", "k", "v"), shape=q, heads=heads, over=kind, **common
            )
            return around(node, q, k, k)
        case "time":
            node = fixed.FixedAttention(inputs=("q", "k", "v"), shape=q, heads=heads, over=kind, offset=3, **common)
            return around(node, q, q, q)
        case "map":
            node = fixed.FixedAttentionMap(inputs=("q", "k"), shape=(heads, tokens, tokens), heads=heads, **common)
            return around(node, q, q)
        case "values":
            node = fixed.FixedMappedValues(inputs=("m", "v"), shape=q, **common)
            return around(node, (heads, tokens, tokens), q)
        case _:
            node = fixed.FixedProductOfSums(inputs=("x", "y0"), shape=q, offset=3, **common)
            return around(node, q, q)


KINDS = ("space", "time", "map", "values", "sums")


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(KINDS), st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.data())
def test_a_result_reaches_exactly_the_neurons_that_can_change_it(
    kind: str, heads: int, each: int, tokens: int, others: int, data: st.DataObject
) -> None:
    """Numbers above 0 in all sources: a result changes with each neuron it is made of, and with no other."""
    graph = some(kind, heads, each, tokens, others)
    node = graph["p"]
    assert isinstance(node, fixed.Product)
    result = data.draw(st.integers(0, math.prod(node.shape) - 1))
    rng = np.random.default_rng(0)
    x = {name: rng.integers(1, 9, size=(3, 1, *graph[name].shape)) for name in node.inputs}
    found = product(node, *x.values()).reshape(3, -1)[:, result]
    for name, here in reached(node, graph, np.array([result])).items():
        for i in range(math.prod(graph[name].shape)):
            other = {key: value.copy() for key, value in x.items()}
            other[name].reshape(3, -1)[:, i] += 1
            changed = product(node, *other.values()).reshape(3, -1)[:, result]
            assert (changed != found).any() == (i in here), (name, i)


def test_a_box_of_results_reaches_what_its_results_do_and_a_source_read_twice_counts_once() -> None:
    rng = np.random.default_rng(0)
    for kind in KINDS:
        graph = some(kind, 3, 2, 4, 5)
        node = graph["p"]
        assert isinstance(node, fixed.Product)
        whole = np.arange(math.prod(node.shape)).reshape(node.shape)
        box = whole[tuple(slice(*sorted(rng.choice(n + 1, 2, replace=False))) for n in node.shape)].ravel()
        alone = [reached(node, graph, np.array([i])) for i in box]
        for name, here in reached(node, graph, box).items():
            assert set(here) == set().union(*(each[name] for each in alone))
    node = fixed.FixedAttention(name="p", inputs=("q", "k", "k"), shape=(4, 3), heads=2, over="space")
    found = reached(node, around(node, (4, 3), (4, 3)), np.array([0]))
    assert {name: len(here) for name, here in found.items()} == {"q": 2, "k": 6}


@pytest.mark.parametrize(
    ("kind", "bits"),
    [  # 2 heads of 3 channels, 4 tokens, k and v of 5 tokens, T = 3; results: all
        ("space", (24 + 30 + 30) + 3 * 6 * 3 + 24 * 2),  # d counters to 5 for each channel of v; q waits 2 steps
        ("time", 3 * 72 + 3 * 24 * 2 + 24 * 2),  # d counters to 3 for each value neuron
        ("map", 2 * 24 + 24 * 2),
        ("values", 32 + 24 + 32 * 2),
        ("sums", 3 * 48 + 6 * 3 + 24 * 2 + 24 * 2),  # one to 4 for each channel, one to 3 for each result
    ],
)
def test_bits_that_a_core_holds_by_hand(kind: str, bits: int) -> None:
    graph = some(kind, 2, 3, 4, 5)
    node = graph["p"]
    assert isinstance(node, fixed.Product)
    node = replace(node, delays=(2, *(0,) * (len(node.inputs) - 1)))
    every = np.arange(math.prod(node.shape))
    assert held_bits(node, graph, every, reached(node, graph, every)) == bits
    none = np.array([], dtype=np.int64)
    assert held_bits(node, graph, none, reached(node, graph, none)) == 0


def scheduled(name: str) -> tuple[Graph, dict[str, Array]]:
    """Its scheduled integers, and two samples."""
    traced = NETWORKS[name]()
    data = samples(traced)
    return scheduled_integers(traced, LOIHI2, calibration=data), first_samples(traced, data, 2)


@pytest.mark.parametrize(("name", "most"), [("space", 10), ("time", 10), ("map", 9), ("sums", 5), ("sums", 8192)])
def test_products_are_made_core_by_core(name: str, most: int) -> None:
    graph, data = scheduled(name)
    profile = chip(neurons_per_core=most)
    mapped, mapping = map_cores(graph, profile)
    assert max(core.neurons for core in mapping.cores) <= most
    assert mapping.products
    assert {made.evidence for made in mapping.products} == {"assumed"}
    assert "memory that programs of products take" in mapping.not_checked
    results = {made.product: math.prod(graph[made.product].shape) for made in mapping.products}
    neurons = sum(math.prod(n.shape) for n in graph.of(fixed.FixedLIF)) + 3  # of the answer
    assert sum(core.neurons for core in mapping.cores) == neurons + sum(results.values())
    assert check_mapping(graph, mapped, profile) > neurons
    integers = to_integers(graph, data)
    expected = wall_clock(graph, integers)
    check = eq.compare("mapped = scheduled", "x", expected, wall_clock(mapped, integers), exact=True)
    assert not check.silent
    spoiled = eq.misplaced(mapped)
    assert len(spoiled) == 3
    for mistake in spoiled.values():
        with pytest.raises((VerifyError, DomainError)):
            eq.compare("mapped = scheduled", "x", expected, wall_clock(mistake, integers), exact=True)


def test_a_product_that_synapses_read_sends_messages_and_one_beside_neurons_does_not() -> None:
    graph, data = scheduled("sums")
    mapped, _ = map_cores(graph, chip(neurons_per_core=8))
    own = [part for part in mapped.of(fixed.Slice) if part.inputs == ("sums",)]
    assert len(own) == 2  # 16 results
    sent = emitted(graph, wall_clock(graph, to_integers(graph, data)).spikes)
    counts = sent_counts(sent)
    assert counts["sums"].sum() == np.count_nonzero(sent["sums"]) > 0
    flow, core_of = messages(mapped, counts), owners(mapped)["sums"]
    readers = [part.core for part in mapped.of(fixed.Slice) if part.inputs == ("a",)]
    sources = [part.core for part in mapped.of(fixed.Slice) if part.inputs[0] in ("q", "k")]
    for part in own:  # each result goes to the cores of its position, one at least
        assert flow[part.core][readers].sum() >= counts["sums"].reshape(-1)[core_of == part.core].sum() > 0
        assert flow[sources, part.core].sum() > 0
    assert axons_out(mapped, "neuron")[[part.core for part in own]].min() > 0
    beside, _ = map_cores(scheduled("space")[0], chip())
    assert not [part for part in beside.of(fixed.Slice) if part.inputs == ("attention",)]


def spoiled(mapped: Graph, kind: type[Node], pick: Any, **change: Any) -> Graph:
    node = next(n for n in mapped.of(kind) if pick(n))
    return replace(mapped, nodes=tuple(replace(n, **change) if n is node else n for n in mapped))


def test_broken_mappings_of_products_are_noticed() -> None:
    graph, _ = scheduled("space")
    profile = chip(neurons_per_core=16)
    mapped, _ = map_cores(graph, profile)

    def of_product(node: Any) -> bool:
        return node.inputs[0] == "attention"

    lost = spoiled(mapped, fixed.Axons, of_product, first=(0,), last=(3,), only=None, shape=(3,))
    with pytest.raises(VerifyError, match="attention: cores make another product than the whole"):
        check_mapping(graph, lost, profile)
    none = replace(mapped, nodes=tuple(n for n in mapped if not (isinstance(n, fixed.Axons) and of_product(n))))
    with pytest.raises(VerifyError, match="attention: no core makes this product"):
        check_mapping(graph, none, profile)
    with pytest.raises(VerifyError, match="breaks memory_bits_per_core"):
        check_mapping(graph, mapped, chip(neurons_per_core=16, memory_bits_per_core=1100))


def test_where_products_run_is_what_the_profile_says() -> None:
    graph, _ = scheduled("space")
    _, mapping = map_cores(graph, load_profile("loihi1"))
    assert mapping.products == ()
    assert mapping.elsewhere == ("attention (host)",)
    refused = replace(LOIHI2, capabilities={**LOIHI2.capabilities, "attention": "refused"})
    mapped, mapping = map_cores(graph, refused)
    assert mapping.elsewhere == ("attention (refused)",)
    check_mapping(graph, mapped, refused)
    _, mapping = map_cores(scheduled("units")[0], LOIHI2)
    assert mapping.elsewhere == ("c3 (host)",)
    found = fit(graph, LOIHI2).to_json()
    assert found["products"] == [
        {"product": "attention", "beside": "a", "cores": 1, "held_bits": 128, "evidence": "assumed"}
    ]


def test_a_product_of_which_no_result_fits_is_refused_with_layer_number_limit_and_remedy() -> None:
    graph = some("time", 1, 8, 1, 1)
    with pytest.raises(CapabilityError) as refused:
        map_cores(graph, chip(memory_bits_per_core=200))
    error = refused.value
    need = 3 * (8 + 8 + 1) + 8 * 2  # rounded up to words, and two neurons
    assert (error.where, error.found) == ("y", 2 * 64 + -(-need // 64) * 64)
    assert error.what == "one result of the product p, with all that it is made of, fits no core"
    assert error.limit == "200 (memory_bits_per_core)"
    assert error.remedy == "more heads, so that each has fewer channels, fewer tokens, or a shorter window"
    with pytest.raises(CapabilityError, match=r"result of the product p.* found 17, limit 16 \(axons_in_per_core\)"):
        map_cores(graph, chip(axons_in_per_core=16))
    mapped, mapping = map_cores(graph, chip(memory_bits_per_core=1200))  # 1,408 bits as a whole
    assert mapping.products[0].cores == 2
    check_mapping(graph, mapped, chip(memory_bits_per_core=1200))


def test_a_product_with_two_kinds_of_readers_has_no_place() -> None:
    graph = some("space", 1, 2, 3, 3)
    wire = conv("w", "p", (2, 1, 3), np.full((2, 1, 1, 1), 2))
    both = replace(graph, nodes=(*graph.nodes, wire, lif("z", "w", wire.shape)))
    with pytest.raises(CapabilityError, match=r"p: the cores of one population make a product.* found y, w"):
        map_cores(both, LOIHI2)
    assert Rules(profile=LOIHI2, graph=graph).made(graph["p"])
