"""`count` against a loop over single events, on random networks of everything that converts; and planted mistakes."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avsnn.convert.ir import fixed_nodes as ir
from avsnn.convert.ir.fixed_interpreter import logical, to_integers
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array
from avsnn.convert.passes.integer_formats import Target
from avsnn.convert.passes.lower_attention import lower_attention
from avsnn.convert.unproved import scheduled_integers
from avsnn.deploy.reports import counts as counting
from avsnn.deploy.reports import dynamic, fanout
from avsnn.deploy.reports.counts import Counts, count
from avsnn.errors import QuantizeError
from avsnn.hw_profiles.profile import load_profile
from tests.event_loop import Found, count_by_events
from tests.random_graphs import SAMPLES, draw

FIXED = 36  # networks that features and mistakes are looked for in
OF_SYNAPSE = ("events", "events_graded", "sop_stored", "sop_nonzero", "sop_graded")
OF_POPULATION = ("updates", "spikes", "driven")
OF_HOST = ("macs", "roots", "divisions", "answers", "messages")
OF_PRODUCT = ("ands", "accs", "muls", "nonzero")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network, what was in it when it was drawn, its spikes, and what the loop over events counts."""

    graph: Graph
    parts: frozenset[str]
    activity: Mapping[str, Array]
    events: list[Found]


def case(seed: int, T: int) -> Case | None:
    """None where its integers have no room. Odd seeds: products in stock neurons; every third: relays, no delays."""
    profile = load_profile("loihi2")
    if seed % 3 == 0:
        profile = replace(profile, limits=replace(profile.limits, delay_steps_max=0))
    drawn = draw(seed, T, 1 + seed % 5)
    try:
        graph = scheduled_integers(drawn.graph, profile, calibration=drawn.inputs)
    except QuantizeError:
        return None
    if seed % 2:
        graph, _ = lower_attention(graph, target=Target.of(profile), limit=400, keep=True)
    integers = to_integers(graph, drawn.inputs)
    activity = {**integers, **logical(graph, integers).spikes}
    events = count_by_events(graph, activity, SAMPLES)
    return Case(graph=graph, parts=drawn.parts, activity=activity, events=events)


@functools.cache
def cases() -> tuple[Case, ...]:
    found = [case(seed, 1 + seed % 6) for seed in range(FIXED)]
    alive = tuple(each for each in found if each is not None)
    assert len(alive) >= 0.8 * FIXED
    return alive


def differences(case: Case, counts: Counts) -> dict[str, tuple[Any, Any]]:
    """Quantity to (counted, by single events) where they differ; every number of every row is looked at."""
    pairs: dict[str, tuple[Any, Any]] = {}

    def look(name: str, field: str, counted: Any) -> None:
        assert f"{name}.{field}" not in pairs
        pairs[f"{name}.{field}"] = counted, sum(sample[name][field] for sample in case.events)

    for synapse in counts.synapses:
        for field in OF_SYNAPSE:
            look(synapse.name, field, getattr(synapse, field))
        look(synapse.name, "payload_bits", synapse.events_graded * synapse.payload_bits)
        for field, ours in (("sop_stored", synapse.sop_by_sample), ("sop_graded", synapse.graded_by_sample)):
            pairs[f"{synapse.name}.{field} by sample"] = ours, tuple(s[synapse.name][field] for s in case.events)
    for population in counts.populations:
        for field in OF_POPULATION:
            look(population.name, field, getattr(population, field))
        each = tuple(sample[population.name]["spikes"] for sample in case.events)
        pairs[f"{population.name}.by_sample"] = population.spikes_by_sample, each
    for host in counts.hosts:
        for field in OF_HOST:
            look(host.name, field, getattr(host, field))
        each = tuple(sample[host.name]["macs"] for sample in case.events)
        pairs[f"{host.name}.by_sample"] = (host.macs_per_sample,) * SAMPLES, each
    for product in counts.products:
        for field in OF_PRODUCT:
            look(product.name, field, getattr(product, field))
        each = tuple(sum(sample[product.name][f] for f in OF_PRODUCT[:3]) for sample in case.events)
        pairs[f"{product.name}.by_sample"] = product.operations_by_sample, each
    return {name: (ours, theirs) for name, (ours, theirs) in pairs.items() if ours != theirs}


def totals(case: Case) -> dict[str, int]:
    """The sums of the report, from single events."""
    sums: Counter[str] = Counter()
    kinds: dict[type, str] = {ir.Synapse: "", ir.FixedLIF: "", ir.Product: "product.", ir.HeldCurrent: "host."}
    for node in case.graph:
        prefix = next((prefix for kind, prefix in kinds.items() if isinstance(node, kind)), "")
        for sample in case.events:
            sums.update({prefix + field: n for field, n in sample[node.name].items()})
    same = ("events", "sop_stored", "sop_nonzero", "sop_graded", "payload_bits", "spikes")
    return {name: sums[name] for name in same} | {
        "sop_spike": sums["sop_stored"] - sums["sop_graded"],
        "neuron_updates": sums["updates"],
        "driven": sums["driven"],
        "dynamic_and": sums["product.ands"],
        "dynamic_acc": sums["product.accs"],
        "dynamic_mul": sums["product.muls"],
        "host_macs": sums["host.macs"] + sums["product.macs"],
    }


@given(st.integers(1000, 2**32 - 1), st.integers(1, 6))
@settings(max_examples=20)
def test_counts_of_random_networks_equal_a_loop_over_single_events(seed: int, T: int) -> None:
    found = case(seed, T)
    if found is not None:
        agrees(found)


def test_counts_of_the_fixed_networks_equal_a_loop_over_single_events() -> None:
    for found in cases():
        agrees(found)


def agrees(found: Case) -> None:
    counts = count(found.graph, found.activity, driven=True)
    assert differences(found, counts) == {}
    assert {name: getattr(counts, name) for name in totals(found)} == totals(found)
    assert (counts.samples, counts.steps) == (SAMPLES, found.graph.timesteps)


def features(case: Case) -> Iterator[str]:
    """What is in the integers, wherever it changes a count."""
    spikes = {name: int(np.count_nonzero(values)) for name, values in case.activity.items()}
    yield from case.parts & {"Concat", "shortcut", "sum", "shorter window", "two answers", "space, other grids"}
    for node in case.graph:
        match node:
            case ir.FixedConv2d() if spikes.get(node.inputs[0], 1):
                yield from (
                    name
                    for name, there in (
                        ("padding", node.padding != (0, 0)),
                        ("stride", node.stride != (1, 1)),
                        ("dilation", node.dilation != (1, 1)),
                        ("groups", node.groups > 1),
                        ("zero weights", not node.weight_mant.all()),
                    )
                    if there
                )
            case ir.FixedLinear() if isinstance(case.graph[node.inputs[0]], ir.Product):
                yield "a product read as numbers"
            case ir.FixedLIF():
                yield node.role
            case ir.FixedAttention():
                yield f"attention over {node.over}"
            case ir.Product():
                yield node.kind
            case ir.FixedInput():
                values = case.activity[node.name]
                if node.coding == "sequence" and np.abs(values).max() > 1:
                    yield "graded input"
                if node.coding == "sequence" and values.min() < 0:
                    yield "negative messages"
            case ir.HeldCurrent():
                yield "held current"


WANTED = (
    "padding", "stride", "dilation", "groups", "zero weights", "Concat", "shortcut", "sum", "shorter window",
    "attention over space", "attention over time", "space, other grids", "FixedAttentionMap", "FixedMappedValues",
    "FixedProductOfSums", "FixedUnitCurrent", "FixedLayerNorm", "FixedStepGain", "a product read as numbers",
    "graded input", "negative messages", "held current", "relay", "coincidence", "or", "two answers",
)  # fmt: skip


def test_the_networks_are_alive_and_of_everything() -> None:
    """Counts of silence, or of layers without a border, would agree whatever is wrong."""
    there = Counter(feature for case in cases() for feature in set(features(case)))
    assert {feature: there[feature] for feature in WANTED if there[feature] < 2} == {}
    for case in cases():
        counted = totals(case)
        assert counted["spikes"] > 0
        assert counted["sop_stored"] > 0
    everywhere: Counter[str] = Counter()
    for case in cases():
        everywhere.update(totals(case))
    assert all(everywhere.values()), everywhere
    assert everywhere["sop_nonzero"] < everywhere["sop_stored"]


Wrong = Callable[..., Any]


def borderless(node: Any, source: tuple[int, ...]) -> tuple[Array, Array]:
    """Taps as if there were targets beyond every border."""
    tables = []
    for axis in (0, 1):
        start = np.arange(source[1 + axis])[:, None] + node.padding[axis]
        start = start - node.dilation[axis] * np.arange(node.weight.shape[2 + axis])[None, :]
        tables.append(start % node.stride[axis] == 0)
    return tables[0], tables[1]


def without(**changed: Any) -> Callable[[Wrong], Wrong]:
    """A function of a node that does not see some of the node's fields."""
    return lambda right: (
        lambda node, *rest: right(
            replace(node, **{name: value for name, value in changed.items() if hasattr(node, name)}), *rest
        )
    )


def grouped(right: Wrong) -> Wrong:
    """Every channel connected to every channel."""
    return lambda node, shape: tuple(each * getattr(node, "groups", 1) for each in right(node, shape))


def spikes_only(right: Wrong) -> Wrong:
    """Messages below 0 forgotten."""

    def events(source: Any, seen: Any) -> Any:
        return right(source, replace(seen, activity={k: v * (v > 0) for k, v in seen.activity.items()}))

    return events


def every_step(right: Wrong) -> Wrong:
    """Held currents computed again in each step."""

    def host(node: Any, graph: Graph, samples: int) -> Any:
        row = right(node, graph, samples)
        return replace(row, macs=row.macs * (graph.timesteps if isinstance(node, ir.HeldCurrent) else 1))

    return host


def any_weight(right: Wrong) -> Wrong:
    """Neurons driven over weights of 0."""

    def reached(node: Any, active: Array) -> Any:
        return right(replace(node, weight_mant=np.ones_like(node.weight_mant)), active)

    return reached


MISTAKES: dict[str, tuple[Any, str, Callable[[Wrong], Wrong]]] = {
    "padding is a target": (fanout, "_taps", lambda _right: borderless),
    "stride ignored": (fanout, "_taps", without(stride=(1, 1))),
    "dilation ignored": (fanout, "_taps", without(dilation=(1, 1))),
    "groups ignored": (counting, "fanout", grouped),
    "zero weights in non-zero": (counting, "fanout", lambda right: lambda *of: (right(*of)[0],) * 2),
    "zero weights not stored": (counting, "fanout", lambda right: lambda *of: (right(*of)[1],) * 2),
    "zeros of coincidences and relays stored": (counting, "between_single_neurons", lambda _right: lambda *_of: False),
    "graded messages as spikes": (counting, "_is_graded", lambda _right: lambda x: np.zeros_like(x, bool)),
    "negative messages forgotten": (counting, "_events", spikes_only),
    "held currents in every step": (counting, "host_count", every_step),
    "driven over weights of 0": (counting, "reached", any_weight),
    "heads ignored": (dynamic, "operations", without(heads=1)),
    "payload of graded messages": (counting, "payload_bits", lambda _right: lambda *_of: 0),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_counting_is_noticed(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, name, wrong = MISTAKES[mistake]
    monkeypatch.setattr(where, name, wrong(getattr(where, name)))
    noticed = [case for case in cases() if differs(case)]
    assert len(noticed) >= 2, f"in {len(noticed)} of {len(cases())} networks"


def differs(case: Case) -> bool:
    counts = count(case.graph, case.activity, driven=True)
    return bool(differences(case, counts))
