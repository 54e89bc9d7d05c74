"""Who runs each node of a graph with products, and what the profiles say about those who cannot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avsnn.convert.ir import fixed_nodes as ir
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Node
from avsnn.deploy.capability import Capability, capabilities, needs
from avsnn.errors import CapabilityError, ProfileError
from avsnn.hw_profiles.profile import load_profile
from avsnn.hw_profiles.schema import ABILITIES, CAPABILITY_KINDS

SHAPE = (4, 2)


def lif(name: str, inputs: tuple[str, ...] = (), **options: Any) -> ir.FixedLIF:
    fields: dict[str, Any] = {"shape": SHAPE, "threshold_mant": 1, "decay_v": 0, "bias_mant": np.zeros(1, np.int64)}
    return ir.FixedLIF(name=name, inputs=inputs, **(fields | options))


def graph() -> Graph:
    three: dict[str, Any] = {"inputs": ("a", "a", "a"), "shape": SHAPE, "heads": 2}
    two: dict[str, Any] = {"inputs": ("a", "a")}
    wire = ir.FixedLinear(name="w", inputs=("sums",), shape=(3,), weight_mant=np.ones((3, 8), int), delay=1)
    nodes: tuple[Node, ...] = (
        lif("a"),
        ir.FixedAttention(name="space", **three, over="space"),
        ir.FixedAttention(name="time", **three, over="time"),
        ir.FixedAttentionMap(name="map", **two, shape=(2, 2, 2), heads=2),
        lif("chosen", ("map",), shape=(2, 2, 2), threshold_mant=np.array([1, 2]).reshape(2, 1, 1)),
        ir.FixedMappedValues(name="mapped", inputs=("chosen", "a"), shape=SHAPE),
        ir.FixedProductOfSums(name="sums", **two, shape=SHAPE),
        wire,
        lif("soft", ("w",), shape=(3,), reset="subtract", subtract=64),
        lif("later", ("space", "time", "mapped"), reset="subtract_delayed", subtract=64),
        ir.FixedUnitCurrent(
            name="unit", inputs=("later",), shape=(2,), weight=np.ones((2, 8), int), bias=np.zeros(2, int), shift=0,
            pooled=(False,),
        ),
        lif("end", ("unit",), shape=(2,), threshold_mant=np.array([5])),
    )  # fmt: skip
    return Graph(nodes=nodes, outputs=("end",), timesteps=3, stage="scheduled")


def test_every_node_asks_for_what_it_is() -> None:
    found = {node.name: needs(node, graph()) for node in graph()}
    assert found == {
        "a": ("lif_hard",), "space": ("attention",), "time": ("attention_window",), "map": ("attention",),
        "chosen": ("lif_hard", "lif_threshold_array"), "mapped": ("attention",), "sums": ("product",),
        "w": ("linear", "axon_delay", "graded_message"), "soft": ("lif_subtract",), "later": ("lif_subtract",),
        "unit": ("unit_length",), "end": ("lif_hard",),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("low", "high", "asked"), [(0, 1, False), (0, 2, True), (-1, 1, True)], ids=["spikes", "counts", "signed"]
)
def test_messages_of_an_input_are_graded_by_its_range(low: int, high: int, asked: bool) -> None:
    source = ir.FixedInput(name="x", shape=(3,), coding="sequence", low=low, high=high, step=1.0)
    wire = ir.FixedLinear(name="w", inputs=("x",), shape=(2,), weight_mant=np.ones((2, 3), int))
    small = Graph(nodes=(source, wire, lif("p", ("w",), shape=(2,))), outputs=("p",), timesteps=1, stage="scheduled")
    assert ("graded_message" in needs(small["w"], small)) is asked


def test_loihi2_needs_microcode_for_products_and_says_why() -> None:
    answers = capabilities(graph(), load_profile("loihi2"))
    by_kind = {(a.kind, a.answer) for a in answers}
    for kind in ("attention", "attention_window", "product", "lif_subtract", "lif_threshold_array"):
        assert (kind, "microcode") in by_kind
    assert ("unit_length", "host") in by_kind
    assert ("graded_message", "native") in by_kind
    assert all(a.reason for a in answers if a.answer != "native")
    assert answers[1] == Capability(
        node="space", kind="attention", answer="microcode", reason="no stock process multiplies two spike tensors"
    )


def test_the_wide_target_runs_everything() -> None:
    assert {a.answer for a in capabilities(graph(), load_profile("cpu"))} == {"native"}


def test_loihi1_leaves_attention_to_the_host() -> None:
    profile = load_profile("loihi1")
    for kind in ("attention", "attention_window", "product", "unit_length"):
        assert profile.capability(kind) == "host"
        assert profile.capability_reasons[kind]
    assert profile.capability("graded_message") == "refused"
    with pytest.raises(ProfileError, match="no compilation target"):
        profile.capability("conv2d")


def test_a_refusal_names_every_node() -> None:
    loihi2 = load_profile("loihi2")
    without = replace(loihi2, capabilities={k: v for k, v in loihi2.capabilities.items() if k != "attention"})
    with pytest.raises(CapabilityError, match=r"space \(attention\), map \(attention\), mapped \(attention\)"):
        capabilities(graph(), without)


def test_a_payload_wider_than_the_messages_of_the_target_is_refused() -> None:
    loihi2 = load_profile("loihi2")
    narrow = replace(loihi2, limits=replace(loihi2.limits, message_bits=2))
    with pytest.raises(CapabilityError, match="w: message is too wide, found 3 bits, limit 2 bits of loihi2"):
        capabilities(graph(), narrow)  # two tokens, three steps: up to 6
    assert capabilities(graph(), replace(loihi2, limits=replace(loihi2.limits, message_bits=3)))


def test_unknown_neurons_are_no_neurons() -> None:
    with pytest.raises(CapabilityError, match="p: no ability is known for this neuron, found sideways"):
        needs(lif("p", reset="sideways"), graph())


@pytest.mark.parametrize("name", ["loihi1", "loihi2", "cpu"])
def test_what_is_not_native_has_a_reason(name: str) -> None:
    profile = load_profile(name)
    assert set(profile.capabilities) <= set(CAPABILITY_KINDS)
    assert set(profile.capabilities.values()) <= set(ABILITIES)
    for kind, ability in profile.capabilities.items():
        assert ability == "native" or profile.capability_reasons[kind]


@pytest.mark.parametrize(
    ("new", "message"),
    [
        ('product = "microcode"', "capabilities.product.reason: what is not native says why"),
        ('product = { ability = "host", reason = "" }', "capabilities.product.reason: what is not native says why"),
        ('product = { ability = "host", reason = 3 }', "capabilities.product.reason: what is not native says why"),
        ('product = { ability = "hst", reason = "x" }', "capabilities.product: unknown value, found 'hst'"),
        ('product = { reason = "x" }', "capabilities.product.ability: missing"),
        ('product = { ability = "host", reson = "x" }', "capabilities.product.reson: unknown key.*'reason'"),
        ('product = { ability = "native", source = "nobody" }', r"product.source: no \[\[source\]\]"),
        ("product = 3", "capabilities.product: a table is needed"),
    ],
)
def test_an_answer_without_a_reason_or_source_is_refused(tmp_path: Path, new: str, message: str) -> None:
    lines = Path(load_profile("loihi2").path).read_text(encoding="utf-8").splitlines()
    path = tmp_path / "chip.toml"
    path.write_text("\n".join(new if line.startswith("product =") else line for line in lines), encoding="utf-8")
    with pytest.raises(ProfileError, match=f"(?s){message}"):
        load_profile(path)
