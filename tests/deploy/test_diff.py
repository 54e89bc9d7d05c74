"""Planted differences are found where they are, and the layer alone shows them again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avsnn.convert.bundle import Bundle
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array, Node
from avsnn.convert.isolate import isolate
from avsnn.convert.passes.integer_formats import Target
from avsnn.convert.passes.quantise import quantise
from avsnn.convert.passes.schedule import schedule
from avsnn.convert.pipeline import convert
from avsnn.deploy.diff import Difference, Side, compare
from avsnn.deploy.repro import INPUTS, write_repro
from avsnn.deploy.run import BackendName
from avsnn.errors import InputError, VerifyError
from avsnn.hw_profiles.profile import load_profile
from tests.strategies import inputs_for, spiking_graph

Change = Callable[[Graph], Node]


@pytest.fixture(scope="module")
def folded() -> Graph:
    return replace(spiking_graph(3, depth=4, skips=((0, 2), (1, 3)), pool=True), stage="traced")


@pytest.fixture(scope="module")
def inputs(folded: Graph) -> dict[str, Array]:
    return inputs_for(folded, 5)


@pytest.fixture(scope="module")
def bundle(folded: Graph, inputs: dict[str, Array]) -> Bundle:
    return convert(folded, target="loihi2", calibration=inputs)


def planted(bundle: Bundle, node: Node) -> Side:
    graph = bundle.graph("scheduled")
    changed = replace(graph, nodes=tuple(node if old.name == node.name else old for old in graph.nodes))
    return Side(text="B", bundle=replace(bundle, graphs={**bundle.graphs, "scheduled": changed}))


def found(a: Side, b: Side, inputs: dict[str, Array]) -> tuple[Difference, Any]:
    result, *runs = compare(a, b, inputs)
    assert result.difference is not None
    return result.difference, tuple(runs)


def weight(graph: Graph) -> Node:
    node = graph["c2"]
    assert isinstance(node, fixed.FixedConv2d)
    mantissas = node.weight_mant.copy()
    mantissas[1] += 40
    return replace(node, weight_mant=mantissas)


def delay(graph: Graph) -> Node:
    node = graph["c0to2"]
    assert isinstance(node, fixed.Synapse)
    return replace(node, delay=node.delay + 1)


def threshold(graph: Graph) -> Node:
    node = graph["p2"]
    assert isinstance(node, fixed.FixedLIF)
    assert isinstance(node.threshold_mant, int)
    return replace(node, threshold_mant=node.threshold_mant - 30)


def reset(graph: Graph) -> Node:
    node = graph["p2"]
    assert isinstance(node, fixed.FixedLIF)
    return replace(node, reset_phase=(node.reset_phase + 1) % node.reset_interval)


@pytest.mark.parametrize("change", [weight, delay, threshold, reset])
def test_a_planted_difference_is_found_in_its_layer_and_in_the_layer_alone(
    change: Change, bundle: Bundle, inputs: dict[str, Array], tmp_path: Path
) -> None:
    a, b = Side(text="A", bundle=bundle), planted(bundle, change(bundle.graph("scheduled")))
    difference, runs = found(a, b, inputs)
    assert difference.node == "p2"
    folder, again = write_repro(tmp_path / "repro", a, b, inputs, runs, difference)
    assert again.difference is not None
    assert again.difference.place == difference.place
    assert again.populations[-1] == "p2"
    read = {name: Side.parse(str(folder / name)) for name in "ab"}
    assert {n.kind for n in read["a"].graph} == {"FixedInput", "FixedConv2d", "FixedLIF", "FixedLinear", "FixedReadout"}
    assert set(read["a"].graph.by_name) == {*_layer(bundle, "p2"), "spikes.row", "spikes"}
    with np.load(folder / INPUTS) as arrays:
        third, _ = found(read["a"], read["b"], dict(arrays))
    assert third == again.difference


def _layer(bundle: Bundle, name: str) -> set[str]:
    return {node.name for node in isolate(bundle.graph("scheduled"), name)} - {"spikes.row", "spikes"}


def test_what_a_neuron_computed_with_is_told(bundle: Bundle, inputs: dict[str, Array]) -> None:
    a = Side(text="A", bundle=bundle)
    difference, _ = found(a, planted(bundle, weight(bundle.graph("scheduled"))), inputs)
    one, two = difference.a, difference.b
    assert difference.neuron[0] == 1, "the channel that was changed"
    assert one.arrived == sum(one.delivered.values())
    assert two.arrived == sum(two.delivered.values())
    assert one.delivered["c0to2"] == two.delivered["c0to2"]
    assert one.delivered["c2"] != two.delivered["c2"]
    assert (one.bias, one.threshold, one.v_before) == (two.bias, two.threshold, two.v_before)
    difference, _ = found(a, planted(bundle, delay(bundle.graph("scheduled"))), inputs)
    assert difference.a.delivered == difference.b.delivered
    assert difference.a.arrived == sum(difference.a.delivered.values())
    assert difference.b.arrived != sum(difference.b.delivered.values()), "what came late is not of this step"
    difference, _ = found(a, planted(bundle, threshold(bundle.graph("scheduled"))), inputs)
    assert difference.a.threshold == (difference.b.threshold or 0) + (30 << 6)
    assert difference.what == "spike"
    assert difference.a.potential == difference.b.potential
    for side in (difference.a, difference.b):
        assert side.potential is not None
        assert side.threshold is not None
        assert side.spike == (side.potential > side.threshold)


def test_a_difference_in_the_answer_alone(bundle: Bundle, inputs: dict[str, Array], tmp_path: Path) -> None:
    node = bundle.graph("scheduled")["out"]
    assert isinstance(node, fixed.FixedReadout)
    a, b = Side(text="A", bundle=bundle), planted(bundle, replace(node, bias=node.bias + 1))
    difference, runs = found(a, b, inputs)
    assert (difference.node, difference.what, difference.step) == ("out", "answer", None)
    assert difference.b.answer == (difference.a.answer or 0) + 1
    assert write_repro(tmp_path / "repro", a, b, inputs, runs, difference)[1].difference is not None


@pytest.mark.parametrize("stage", ["traced", "folded", "quantised"])
def test_stages_that_must_be_equal_are(stage: str, bundle: Bundle, inputs: dict[str, Array]) -> None:
    after = {"traced": "folded", "folded": "traced", "quantised": "scheduled"}[stage]
    a, b = (Side(text=s, bundle=bundle, stage=s, backend="reference") for s in (stage, after))
    result, *_ = compare(a, b, inputs)
    assert result.difference is None
    assert result.spikes > 800
    assert result.states > 800
    assert ("pool.or" in result.populations) == (stage == "quantised")


def test_floats_and_integers_are_compared_by_spikes_and_the_layer_alone_shows_it(
    bundle: Bundle, inputs: dict[str, Array], tmp_path: Path
) -> None:
    node = bundle.graph("scheduled")["p2"]
    assert isinstance(node, fixed.FixedLIF)
    a = Side(text="A", bundle=bundle, stage="folded", backend="reference")
    b = planted(bundle, threshold(bundle.graph("scheduled")))
    difference, runs = found(a, b, inputs)
    assert difference.what == "spike"
    folder, again = write_repro(tmp_path / "repro", a, b, inputs, runs, difference)
    assert again.difference is not None
    assert set(Bundle.load(folder / "a").graphs) == {"folded", "scheduled"}


def test_silence_is_not_equality(bundle: Bundle, inputs: dict[str, Array]) -> None:
    graph = bundle.graph("scheduled")
    deaf = [replace(n, threshold_mant=1 << 16) if isinstance(n, fixed.FixedLIF) else n for n in graph]
    side = Side(text="A", bundle=replace(bundle, graphs={"scheduled": replace(graph, nodes=tuple(deaf))}))
    with pytest.raises(VerifyError, match="nothing fired, so nothing was compared"):
        compare(side, side, inputs)


def test_networks_without_a_common_population_are_refused(bundle: Bundle, inputs: dict[str, Array]) -> None:
    names = {n.name: f"other.{n.name}" if isinstance(n, fixed.FixedLIF) else n.name for n in bundle.graph("scheduled")}
    graph = bundle.graph("scheduled")
    renamed = [replace(n, name=names[n.name], inputs=tuple(names[i] for i in n.inputs)) for n in graph]
    other = replace(bundle, graphs={"scheduled": replace(graph, nodes=tuple(renamed))})
    with pytest.raises(InputError, match="no population in common"):
        compare(Side(text="A", bundle=bundle), Side(text="B", bundle=other), inputs)


def test_stages_and_back_ends_are_read_from_the_name(bundle: Bundle, tmp_path: Path) -> None:
    folder = bundle.save(tmp_path / "a:folded")
    assert (Side.parse(str(folder)).stage, Side.parse(str(folder)).backend) == ("scheduled", "cpu")
    side = Side.parse(f"{folder}:folded")
    assert (side.stage, side.backend, side.floats) == ("folded", "reference", True)
    assert Side.parse(f"{folder}@lava").backend == "lava"
    assert Side.parse(f"{folder}:quantised@reference").stage == "quantised"
    with pytest.raises(InputError, match="only scheduled graphs run there"):
        Side.parse(f"{folder}:folded@cpu")
    with pytest.raises(InputError, match="not a bundle"):
        Side.parse(f"{folder}@gpu")


@settings(max_examples=8)
@given(seed=st.integers(0, 1000))
def test_every_layer_alone_does_what_it_does_among_the_others(seed: int) -> None:
    graph = spiking_graph(seed, depth=3, skips=((0, 2),), pool=seed % 2 == 0, T=3)
    data = inputs_for(graph, seed)
    quantised, _ = quantise(graph, target=Target.of(load_profile("cpu")), calibration=data)
    scheduled, _ = schedule(quantised, delay_steps_max=62)
    graphs = {each.stage: each for each in (graph, quantised, scheduled)}
    for stage, whole in graphs.items():
        backend: BackendName = "cpu" if stage == "scheduled" else "reference"
        side = Side(text="A", bundle=Bundle(graphs=graphs, meta={}), stage=stage, backend=backend)
        done = side.run(data, 60.0)
        for name in done.spikes:
            alone = isolate(whole, name)
            given = {n.name: {**data, **done.spikes}[n.name] for n in alone if not n.inputs}
            again = replace(side, bundle=Bundle(graphs={stage: alone}, meta={})).run(given, 60.0)
            np.testing.assert_array_equal(again.spikes[name], done.spikes[name])
            np.testing.assert_array_equal(again.states[name]["v"], done.states[name]["v"])
            if stage != "folded":  # there the answer is a mean
                assert again.raw.sum() == done.spikes[name].sum()


def attending(kind: str) -> Graph:
    """A product of populations at two depths, read by a population or by a layer, beside a skip."""
    rng, shape = np.random.default_rng(3), (4, 2, 2)

    def layer(name: str, source: str) -> list[Node]:
        weight = rng.normal(size=(4, 4, 1, 1)) * 1.5
        made = ir.Conv2d(name=name, inputs=(source,), shape=shape, weight=weight, bias=rng.normal(size=4) + 1.5)
        return [made, lif(f"{name}.lif", name)]

    def lif(name: str, source: str) -> ir.LIF:
        return ir.LIF(name=name, inputs=(source,), shape=shape, decay=0.5, gain=0.5, threshold=1.0)

    nodes: list[Node] = [ir.Input(name="x", shape=shape, coding="sequence", step=1.0)]
    nodes += [*layer("deep", "x"), *layer("q", "deep.lif"), *layer("k", "x")]
    pair = ("q.lif", "k.lif")
    if kind == "sums":
        nodes += [ir.ProductOfMeans(name="a", inputs=pair, shape=shape), *layer("w", "a")]
    else:
        nodes.append(ir.Attention(name="a", inputs=(*pair, "k.lif"), shape=shape, heads=2, scale=0.5, over=kind))
        nodes.append(lif("w.lif", "a"))
    nodes += [layer("skip", "k.lif")[0], layer("last", "w.lif")[0]]
    nodes += [ir.Add(name="sum", inputs=("skip", "last"), shape=shape), lif("out.lif", "sum")]
    head = ir.Linear(name="head", inputs=("out.lif",), shape=(3,), weight=rng.normal(size=(3, 16)), bias=np.zeros(3))
    answer = ir.Readout(name="y", inputs=("head",), shape=(3,), bias=np.zeros(3))
    return Graph(nodes=(*nodes, head, answer), outputs=("y",), timesteps=4, stage="folded")


@pytest.mark.parametrize("kind", ["space", "time", "sums"])
def test_products_are_isolated_and_told_apart(kind: str, tmp_path: Path) -> None:
    graph = attending(kind)
    data = {"x": (np.random.default_rng(1).random((4, 5, 4, 2, 2)) < 0.6).astype(float)}
    quantised, _ = quantise(graph, target=Target.of(load_profile("loihi2")), calibration=data)
    scheduled, _ = schedule(quantised, delay_steps_max=62)
    whole = Bundle(graphs={each.stage: each for each in (graph, quantised, scheduled)}, meta={})
    a = Side(text="A", bundle=whole)
    done = a.run(data, 60.0)
    for name in done.spikes:
        alone = isolate(scheduled, name)
        given = {n.name: {**data, **done.spikes}[n.name] for n in alone if not n.inputs}
        again = replace(a, bundle=Bundle(graphs={"scheduled": alone}, meta={})).run(given, 60.0)
        np.testing.assert_array_equal(again.spikes[name], done.spikes[name])
    (product,) = scheduled.of(fixed.Product)
    b = planted(whole, replace(product, gain=product.gain + 1))
    difference, runs = found(a, b, data)
    assert difference.node == "w.lif"
    assert difference.a.arrived == sum(difference.a.delivered.values())
    assert difference.b.arrived == sum(difference.b.delivered.values())
    assert write_repro(tmp_path / "repro", a, b, data, runs, difference)[1].difference is not None
    b = planted(whole, replace(product, delays=tuple(d + 1 for d in product.delays or (0, 0, 0))))
    difference, runs = found(a, b, data)
    assert difference.node == "w.lif"
    assert difference.b.arrived != sum(difference.b.delivered.values())
