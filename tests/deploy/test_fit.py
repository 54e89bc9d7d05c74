from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.passes.map_cores import map_cores
from avsnn.deploy.fit import DOES_NOT, FITS, NO_CORES, cautious, fit
from avsnn.deploy.reports.cores import beside_in_words, cores_table, in_words, utilisation
from avsnn.hw_profiles.profile import load_profile
from tests.chips import chip
from tests.convert.test_map_cores import conv, layers, lif, network


def test_every_shipped_profile_answers() -> None:
    graph = layers()
    found = {name: fit(graph, load_profile(name)) for name in ("cmos45", "cpu", "loihi1", "loihi2")}
    assert [each.verdict for each in found.values()] == [NO_CORES, NO_CORES, FITS, FITS]
    mapping = map_cores(graph, load_profile("loihi2"))[1]
    assert found["loihi2"].to_json() == {
        "profile": "loihi2", "verdict": FITS, "cores": 3, "cores_at_most": 3, "chips": 1,
        "elsewhere": [], "products": [],
        "not_checked": ["axons_in_per_core", "axons_out_per_core", "memory that axons take"],
        "utilisation": utilisation(asdict(mapping)),
    }  # fmt: skip
    assert "ability lif_hard" in found["loihi1"].not_checked  # the profile only prices, and does not say


def test_what_does_not_fit_names_layer_number_limit_and_remedy() -> None:
    found = fit(layers(), chip(fan_in_max=60))
    assert found.verdict == DOES_NOT
    refusal = found.to_json()["refusal"]
    assert (refusal["where"], refusal["found"], refusal["limit"]) == ("c", 72, "60 (fan_in_max)")
    assert "at most about 60 of its 72 inputs" in refusal["remedy"]


@pytest.mark.parametrize(
    ("limits", "where", "found", "limit"),
    [
        ({"weight_bits": 4}, "a.w", 5, "4 (weight_bits)"),
        ({"delay_steps_max": 1}, "b.w", 2, "1 (delay_steps_max)"),
        ({"threshold_bits": 3}, "a", 4, "3 (threshold_bits)"),
        ({"state_bits": 16}, "a", 24, "16 (state_bits)"),
    ],
)
def test_integers_that_the_chip_does_not_hold(limits: dict[str, Any], where: str, found: int, limit: str) -> None:
    error = fit(layers(delay=2), chip(**limits)).refusal
    assert error is not None
    assert (error.where, error.found, error.limit) == (where, found, limit)
    assert error.remedy


def test_weight_exponents_and_delays_of_targets_count() -> None:
    graph = layers()
    (_, b), (c,) = graph.of(fixed.FixedConv2d), graph.of(fixed.FixedLinear)
    wires = {
        "b.w": replace(b, weight_exp=np.array([0, 9, 1, 1, 1, 1, 1, 1])),
        "c.w": replace(c, output_delay=np.array([0, 1, 2, 3, 70])),
    }
    for name, found in (("b.w", 9), ("c.w", 70)):
        wrong = replace(graph, nodes=tuple(wires[n.name] if n.name == name else n for n in graph))
        error = fit(wrong, load_profile("loihi2")).refusal
        assert error is not None
        assert (error.where, error.found) == (name, found)


def test_refused_abilities_and_wide_messages() -> None:
    graph = layers()
    profile = load_profile("loihi1")
    wide = replace(graph.of(fixed.FixedInput)[0], high=255)
    graded = replace(graph, nodes=(wide, *graph.nodes[1:]))
    error = fit(graded, profile).refusal
    assert error is not None
    assert error.where == "a.w"
    assert "the chip cannot do this (graded_message: messages are spikes)" in error.what
    assert fit(graded, load_profile("loihi2")).verdict == FITS
    error = fit(graded, chip(message_bits=4)).refusal
    assert error is not None
    assert error.found == "8 bits"


def test_chips_that_are_there() -> None:
    profile = chip(neurons_per_core=10, mesh=(2, 2, 2))
    assert fit(layers(), profile, chips=9).verdict == FITS
    found = fit(layers(), profile, chips=1)
    assert found.verdict == DOES_NOT
    assert found.mapping is not None
    assert found.refusal is not None
    assert found.refusal.where == "a"
    assert found.refusal.found == f"{found.mapping.chips} chips"
    assert found.refusal.limit == "1 (8 cores)"
    assert f"save {len(found.mapping.cores) - 8} cores" in found.refusal.remedy


def test_intervals_of_a_profile_are_an_interval_of_cores() -> None:
    loihi2 = load_profile("loihi2")
    worst = cautious(loihi2)
    assert (loihi2.limits.neurons_per_core, worst.limits.neurons_per_core) == (8192, 3168)
    assert loihi2.storage is not None
    assert worst.storage is not None
    assert (loihi2.storage.neuron_bits.value, worst.storage.neuron_bits.value) == (64, 128)
    assert worst.storage.axon_bits.value is None
    assert worst.limits.cores_per_chip == loihi2.limits.cores_per_chip
    assert cautious(worst) == worst
    wide = lif("y", "x.w", (4, 40, 40))
    graph = network(conv("x.w", "x", wide.shape, np.full((4, 4, 1, 1), 2)), wide, shape=wide.shape)
    found = fit(graph, loihi2)
    assert found.mapping is not None
    assert (len(found.mapping.cores), found.most_cores) == (1, 3)
    assert fit(graph, chip(synapse_memory_bits_per_core=16 * 72, kernel_list_bits=64)).most_cores == 3


def test_shares_are_of_limits_that_are_known() -> None:
    cores = [{"neurons": 4, "synapse_bits": 30, "axons_in": 9}, {"neurons": 8, "synapse_bits": 10, "axons_in": 9}]
    mapping: dict[str, Any] = {"cores": cores, "limits": {"neurons": 8, "synapse_bits": 40}, "chips": 2}
    assert utilisation(mapping) == {
        "neurons": {"mean": 0.75, "most": 1.0},
        "synapse_bits": {"mean": 0.5, "most": 0.75},
    }
    assert in_words(mapping) == (
        "2 cores on 2 chips; neurons 75 % of a core (most 100 %), synaptic memory 50 % of a core (most 75 %)"
    )
    assert beside_in_words(mapping) == []  # of older bundles
    made = {"product": "attend", "beside": "a", "cores": 2, "held_bits": 1280, "evidence": "assumed"}
    host = {"host": "norm", "sums": 12, "messages": 1000, "arriving": 3000}
    assert beside_in_words(mapping | {"products": [made], "hosts": [host], "elsewhere": ["norm (host)"]}) == [
        "products of activity on these cores, by a demand that is assumed: attend beside a (1,280 bits held)",
        "norm: the host reads 12 sums and sends 1,000 messages back, 3,000 to single cores",
        "on no core: norm (host)",
    ]
    assert cores_table({}) is None
    assert "does not fit. c: too large" in str(cores_table({"mapping": {"refused": "c: too large"}}))
