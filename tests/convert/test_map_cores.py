from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avsnn.convert import equivalence as eq
from avsnn.convert.core_demand import LIMITS, Rules, width
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir import storage
from avsnn.convert.ir.fixed_interpreter import to_integers, wall_clock
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array, Shape
from avsnn.convert.ir.stages import check_stage
from avsnn.convert.mapping_check import check_mapping
from avsnn.convert.passes.map_cores import map_cores
from avsnn.convert.unproved import scheduled_integers
from avsnn.errors import AvsnnError, CapabilityError, DomainError, VerifyError
from avsnn.hw_profiles.profile import load_profile
from tests.chips import chip
from tests.random_graphs import draw


def conv(name: str, source: str, shape: Shape, weight: Array, **options: Any) -> fixed.FixedConv2d:
    return fixed.FixedConv2d(name=name, inputs=(source,), shape=shape, weight_mant=weight, **options)


def lif(name: str, source: str | tuple[str, ...], shape: Shape, **options: Any) -> fixed.FixedLIF:
    inputs = (source,) if isinstance(source, str) else source
    given: dict[str, Any] = {"threshold_mant": 3, "decay_v": 2048, "bias_mant": np.zeros(1, np.int64), **options}
    return fixed.FixedLIF(name=name, inputs=inputs, shape=shape, **given)


def network(*nodes: Any, T: int = 3, shape: Shape = (4, 6, 7)) -> Graph:
    """Events into what is given, its last node the answer."""
    x = fixed.FixedInput(name="x", shape=shape, coding="sequence", low=0, high=1, step=1.0)
    return Graph(nodes=(x, *nodes), outputs=(nodes[-1].name,), timesteps=T, stage="scheduled")


def layers(seed: int = 0, groups: int = 1, **options: Any) -> Graph:
    """Two convolutions and a linear layer, thresholds and biases different for every neuron."""
    rng = np.random.default_rng(seed)

    def weights(*shape: int) -> Array:
        return rng.integers(-6, 12, size=shape) * 2

    a = conv("a.w", "x", (6, 6, 7), weights(6, 4 // groups, 3, 3), padding=(1, 1), groups=groups)
    window: dict[str, Any] = {"padding": (1, 0), "stride": (2, 2), **options}
    b = conv("b.w", "a", (8, 3, 3), weights(8, 6 // groups, 3, 2), groups=groups, **window)
    c = fixed.FixedLinear(name="c.w", inputs=("b",), shape=(5,), weight_mant=weights(5, 72))
    return network(
        a,
        lif("a", "a.w", a.shape, offset=1, threshold_mant=rng.integers(2, 9, size=a.shape)),
        b,
        lif("b", "b.w", b.shape, offset=2, bias_mant=rng.integers(-9, 9, size=b.shape[0]), bias_exp=3),
        c,
        lif("c", "c.w", c.shape, offset=3, bias_mant=rng.integers(-9, 9, size=5), bias_exp=5),
    )


def events(graph: Graph, seed: int = 1, batch: int = 2) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {n.name: rng.integers(0, 2, size=(graph.timesteps, batch, *n.shape)) for n in graph.of(fixed.FixedInput)}


def same(graph: Graph, mapped: Graph, integers: dict[str, Array]) -> eq.Check:
    return eq.compare(
        "mapped = scheduled", "events", wall_clock(graph, integers), wall_clock(mapped, integers), exact=True
    )


def cores_of(mapped: Graph, name: str) -> list[fixed.Slice]:
    return [part for part in mapped.of(fixed.Slice) if part.inputs == (name,)]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("most", [5, 17, 40, 1000])
def test_a_cut_network_is_the_network(groups: int, most: int) -> None:
    graph, profile = layers(groups=groups), chip(neurons_per_core=most)
    mapped, mapping = map_cores(graph, profile)
    check_stage(mapped)
    assert max(core.neurons for core in mapping.cores) <= most
    assert sum(core.neurons for core in mapping.cores) == 252 + 72 + 5
    assert len(mapping.cores) >= sum(-(-n // most) for n in (252, 72, 5))
    assert check_mapping(graph, mapped, profile) > 252
    check = same(graph, mapped, events(graph))
    assert not check.silent
    spoiled = eq.misplaced(mapped)
    assert len(spoiled) == 2
    for mistake in spoiled.values():
        with pytest.raises((VerifyError, DomainError)):
            same(graph, mistake, events(graph))


def test_populations_of_one_neuron_have_no_other_place() -> None:
    wire = conv("w", "x", (1, 1, 1), np.full((1, 4, 6, 7), 2))
    graph = network(wire, lif("y", "w", (1, 1, 1)))
    mapped, _ = map_cores(graph, chip())
    assert list(eq.misplaced(mapped)) == ["every core: axons left out"]
    with pytest.raises(VerifyError, match="mapped = scheduled on events"):
        same(graph, eq.misplaced(mapped)["every core: axons left out"], events(graph))


def test_the_mapped_stage_is_stored_and_read_back() -> None:
    graph = layers()
    mapped, _ = map_cores(graph, chip(neurons_per_core=17))
    again = storage.unpack(*storage.pack(mapped))
    assert again.stage == "mapped"
    assert [(n.name, n.inputs, n.shape) for n in again] == [(n.name, n.inputs, n.shape) for n in mapped]
    same(graph, again, events(graph))


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 10_000),
    st.fixed_dictionaries(
        {
            "neurons_per_core": st.sampled_from([2, 7, 30, 8_192]),
            "synapse_memory_bits_per_core": st.sampled_from([1_000, 6_000, 40_000, 10**6]),
            "axons_in_per_core": st.sampled_from([4, 60, 10**4, 10**4]),
            "axons_out_per_core": st.sampled_from([5, 60, 10**4, 10**4]),
            "fan_in_max": st.sampled_from([60, 10**4, 10**4, 10**4]),
            "memory_bits_per_core": st.sampled_from([9_000, 10**6, 10**6]),
            "word_bits": st.sampled_from([1, 64]),
            "kernel_axons": st.sampled_from(["core", "position", "neuron"]),
        }
    ),
)
def test_random_networks_on_tight_chips_are_cut_within_all_limits_or_refused_by_one(
    seed: int, limits: dict[str, Any]
) -> None:
    try:
        drawn = draw(seed, 1 + seed % 4, 1 + seed % 3)
        graph = scheduled_integers(drawn.graph, load_profile("loihi2"), calibration=drawn.inputs)
    except AvsnnError:
        return  # no integers, so nothing to map
    profile = chip(mesh=(3, 2, 2), **limits)
    refused: CapabilityError | None = None
    try:
        mapped, mapping = map_cores(graph, profile)
    except CapabilityError as error:
        refused = error
    if refused is not None:
        assert any(name in str(refused.limit) for name in (*LIMITS, "axons_out_per_core")), refused
        assert int(str(refused.found)) > int(str(refused.limit).split()[0])
        assert refused.remedy
        assert refused.where.split(" ")[0] in graph.by_name
        return
    check_mapping(graph, mapped, profile, seed=seed)
    assert mapping.chips == -(-len(mapping.cores) // 12)
    integers = to_integers(graph, drawn.inputs)
    expected = wall_clock(graph, integers)
    eq.compare("mapped = scheduled", "events", expected, wall_clock(mapped, integers), exact=True)


@pytest.mark.parametrize(
    ("limits", "name", "found"),
    [
        ({"synapse_memory_bits_per_core": 500}, "synapse_memory_bits_per_core", 72 * 64),
        ({"axons_in_per_core": 40}, "axons_in_per_core", 72),
        ({"fan_in_max": 60}, "fan_in_max", 72),
        ({"memory_bits_per_core": 4000}, "memory_bits_per_core", 72 * 64 + 64),
    ],
)
def test_a_neuron_that_fits_no_core_is_refused_with_layer_number_limit_and_remedy(
    limits: dict[str, Any], name: str, found: int
) -> None:
    *_, wire, last = layers().nodes
    only = network(replace(wire, inputs=("x",)), last, shape=(72,))
    with pytest.raises(CapabilityError) as refused:
        map_cores(only, chip(**limits))
    error = refused.value
    assert error.where == "c"
    assert error.found == found
    assert error.limit == f"{limits[name]} ({name})"
    most = 72 * limits[name] // found
    assert f"at most about {most} of its 72 inputs" in error.remedy
    assert f"{-(-72 // most)} groups" in error.remedy


def test_a_large_population_that_fits_no_core_is_refused_at_once() -> None:
    wire = conv("w", "x", (64, 96, 96), np.full((64, 32, 3, 3), 2), padding=(1, 1))
    graph = network(wire, lif("y", "w", wire.shape), shape=(32, 96, 96))
    start = time.perf_counter()
    with pytest.raises(CapabilityError, match=r"y: a neuron has too many inputs, found 288, limit 200 \(fan_in_max\)"):
        map_cores(graph, chip(fan_in_max=200))
    with pytest.raises(CapabilityError, match="weights of one neuron do not fit"):
        map_cores(graph, chip(synapse_memory_bits_per_core=20_000))
    assert time.perf_counter() - start < 5  # millions of boxes take minutes


def test_output_axons_cut_the_senders_finer() -> None:
    """Each neuron of ``b`` reaches the cores of ``c``; a core may hold no more of them than it has axons."""
    graph = layers()
    free, _ = map_cores(graph, chip())
    assert len(cores_of(free, "b")) == 1
    profile = chip(axons_out_per_core=40, kernel_axons="neuron", neurons_per_core=100)
    mapped, mapping = map_cores(graph, profile)
    assert 2 <= len(cores_of(mapped, "b")) <= 3
    assert len(cores_of(mapped, "a")) > 3
    assert max(core.axons_out for core in mapping.cores) <= 40
    check_mapping(graph, mapped, profile)
    with pytest.raises(CapabilityError, match=r"more output axons than a core has.*axons_out_per_core"):
        map_cores(graph, chip(axons_out_per_core=1, neurons_per_core=2, kernel_axons="neuron"))


def test_a_kernel_is_stored_once_for_all_positions_and_once_on_every_core() -> None:
    graph = layers()
    wire, rules = graph["a.w"], Rules(profile=chip(word_bits=1, kernel_list_bits=0, kernel_index_bits=0), graph=graph)
    assert isinstance(wire, fixed.FixedConv2d)
    each = width(wire)
    assert each == 5  # -6 to 11, stored as halves of even weights
    whole = rules.demand(graph["a"], ((0, 0, 0), (6, 6, 7)))
    assert (whole.synapses, whole.synapse_bits, whole.fan_in) == (6 * 36, 6 * 36 * each, 36)
    tile = rules.demand(graph["a"], ((0, 0, 0), (6, 3, 3)))
    assert tile.synapse_bits == whole.synapse_bits
    assert tile.received == 4 * 4 * 4  # a border below and on the right
    channels = rules.demand(graph["a"], ((0, 0, 0), (2, 6, 7)))
    assert channels.synapse_bits == whole.synapse_bits // 3


def test_equal_lists_are_stored_once() -> None:
    """A mean over tokens, folded into a linear layer, repeats the weights of a channel for every token."""
    rng = np.random.default_rng(0)
    weight = np.repeat(rng.integers(-9, 9, size=(5, 8)) * 2, 16, axis=1)
    wire = fixed.FixedLinear(name="w", inputs=("x",), shape=(5,), weight_mant=weight)
    graph = network(wire, lif("y", "w", (5,)), shape=(8, 4, 4))
    demand = Rules(profile=chip(), graph=graph).demand(graph["y"], ((0,), (5,)))
    assert (demand.synapses, demand.axons_in, demand.fan_in) == (8 * 5, 128, 128)


@pytest.mark.parametrize(("axons", "expected"), [("neuron", 4 * 5 * 4), ("position", 5 * 4), ("core", 2)])
def test_axons_of_a_convolution_are_counted_as_the_chip_shares_them(axons: str, expected: int) -> None:
    graph = layers()
    rules = Rules(profile=chip(kernel_axons=axons), graph=graph)
    rules.cut_into["a"] = [((0, 0, 0), (6, 3, 7)), ((0, 3, 0), (6, 6, 7))]
    if axons == "core":
        assert rules.demand(graph["b"], ((0, 0, 0), (8, 2, 3))).axons_in == expected
        assert rules.demand(graph["b"], ((0, 0, 0), (8, 1, 3))).axons_in == 1
    else:
        assert rules.demand(graph["a"], ((0, 1, 1), (6, 4, 3))).axons_in == expected


def test_a_core_has_few_formats_of_weights() -> None:
    """Channels of one exponent go to one core, where a core has one format; a neuron with two fits none."""
    *_, b, last = layers().nodes[:5]
    assert isinstance(b, fixed.FixedConv2d)
    shifted = replace(b, inputs=("x",), weight_exp=np.repeat([0, 2], 4))
    graph = network(shifted, last, shape=(6, 6, 7))
    _, mapping = map_cores(graph, chip())
    assert len(mapping.cores) == 1
    profile = chip(synapse_formats_per_core=1)
    mapped, mapping = map_cores(graph, profile)
    assert [(part.first[0], part.last[0]) for part in mapped.of(fixed.Slice)] == [(0, 4), (4, 8)]
    check_mapping(graph, mapped, profile)
    other = replace(b, name="other", inputs=("x",), sign_mode="excitatory", weight_mant=abs(b.weight_mant))
    both = replace(last, inputs=(b.name, "other"))
    with pytest.raises(CapabilityError, match=r"more formats .* found 2, limit 1 \(synapse_formats_per_core\); fewer"):
        map_cores(network(replace(b, inputs=("x",)), other, both, shape=(6, 6, 7)), profile)


def test_what_is_not_published_is_named() -> None:
    graph = layers(delay=2)
    _, mapping = map_cores(graph, load_profile("loihi2"))
    assert mapping.not_checked == (
        "axons_in_per_core",
        "axons_out_per_core",
        "memory that axons take",
        "memory that delays take",
    )
    _, mapping = map_cores(graph, chip(storage=False))
    assert "memory (the profile states no sizes)" in mapping.not_checked


def test_unknown_nodes_and_chips_without_cores_are_refused() -> None:
    graph = layers()
    with pytest.raises(CapabilityError, match="cpu: the profile has no cores"):
        map_cores(graph, load_profile("cpu"))
    odd = fixed.Slice(name="odd", inputs=("c",), shape=(5,), first=(0,), last=(5,), core=0)
    with pytest.raises(CapabilityError, match="odd: no core can hold this, found Slice"):
        map_cores(replace(graph, nodes=(*graph.nodes, odd), stage="mapped"), chip())
    twice = replace(graph, nodes=(*graph.nodes, lif("d", "c.w", (5,))))
    with pytest.raises(CapabilityError, match=r"c\.w: a connection leads to one population, found c, d"):
        map_cores(twice, chip())


@pytest.mark.parametrize(("neurons", "cores"), [(8192, 32), (3168, 74)])
def test_pilotnet_shaped_layers(neurons: int, cores: int) -> None:
    """PilotNet's sizes, weights of the widths of its file: Intel's compiler took 74 cores of at most 3,168 neurons."""
    shapes = [(3, 66, 200), (24, 32, 99), (36, 15, 49), (48, 7, 24), (64, 4, 22), (64, 2, 20)]
    strides, pads = [(2, 2), (2, 2), (2, 2), (2, 1), (1, 1)], [(0, 0), (0, 0), (0, 0), (1, 0), (0, 0)]
    held = fixed.HeldCurrent(
        name="image", inputs=("x",), shape=shapes[0], weight=np.ones((3, 1, 1, 1), np.int64), bias=np.zeros(1), groups=3
    )
    nodes: list[Any] = [held, lif("p0", "image", shapes[0])]
    for i, (shape, stride, pad) in enumerate(zip(shapes[1:], strides, pads, strict=True), start=1):
        weight = np.full((shape[0], shapes[i - 1][0], 3, 3), 6)
        nodes += [conv(f"w{i}", f"p{i - 1}", shape, weight, stride=stride, padding=pad), lif(f"p{i}", f"w{i}", shape)]
    rng, wide = np.random.default_rng(0), 2560
    for i, out in enumerate((100, 50, 10, 1), start=6):
        weight = rng.integers(-3, 4, size=(out, wide)) * 2
        nodes += [fixed.FixedLinear(name=f"w{i}", inputs=(f"p{i - 1}",), shape=(out,), weight_mant=weight)]
        nodes, wide = [*nodes, lif(f"p{i}", f"w{i}", (out,))], out
    x = fixed.FixedInput(name="x", shape=shapes[0], coding="direct", low=0, high=255, step=1.0)
    graph = Graph(nodes=(x, *nodes), outputs=("p9",), timesteps=16, stage="scheduled")
    _, mapping = map_cores(graph, chip(neurons_per_core=neurons))
    assert len(mapping.cores) <= cores
    assert mapping.chips == 1
