"""Networks with a host in every step on cores: sums are held like neurons, messages with the host are counted."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from avsnn.convert import equivalence as eq
from avsnn.convert.core_traffic import emitted, host_traffic, messages, owners, senders, sent_counts
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.fixed_interpreter import to_integers, wall_clock
from avsnn.convert.ir.graph import Graph
from avsnn.convert.mapping_check import check_mapping
from avsnn.convert.passes.map_cores import map_cores
from avsnn.convert.pipeline import convert
from avsnn.deploy.fit import FITS, fit
from avsnn.errors import DomainError, VerifyError
from avsnn.hw_profiles.profile import load_profile
from tests.chips import chip
from tests.convert.mutants import NETWORKS, samples
from tests.convert.test_map_cores import conv, lif, network
from tests.convert.test_product_demand import scheduled


@pytest.mark.parametrize("most", [20, 8192])
@pytest.mark.parametrize("name", ["norms", "gains"])
def test_networks_with_a_host_in_every_step_run_core_by_core(name: str, most: int) -> None:
    graph, data = scheduled(name)
    profile = chip(neurons_per_core=most)
    mapped, mapping = map_cores(graph, profile)
    sums = sum(math.prod(graph[names[0]].shape) for host in graph.of(fixed.Received) for names in host.sums)
    neurons = sum(math.prod(n.shape) for n in graph.of(fixed.FixedLIF)) + 3 + sums
    assert sum(core.neurons for core in mapping.cores) == neurons
    assert max(core.neurons for core in mapping.cores) <= most
    assert mapping.elsewhere == tuple(f"{host.name} (host)" for host in graph.of(fixed.Received))
    check_mapping(graph, mapped, profile)
    integers = to_integers(graph, data)
    expected = wall_clock(graph, integers)
    eq.compare("mapped = scheduled", "x", expected, wall_clock(mapped, integers), exact=True)
    for mistake in eq.misplaced(mapped).values():
        with pytest.raises((VerifyError, DomainError)):
            eq.compare("mapped = scheduled", "x", expected, wall_clock(mistake, integers), exact=True)


def test_the_sum_of_a_gain_has_a_core_of_its_own() -> None:
    graph, _ = scheduled("gains")
    mapped, mapping = map_cores(graph, chip())
    gain = next(core for core in mapping.cores if core.population == "gain[1]")
    assert gain.neurons == 1
    assert {"gain", "gain[1]"} <= set(owners(mapped))
    assert not {"gain", "gain[1]", "y"} & set(senders(mapped))


def hosted() -> Graph:
    """Two channels of two positions, normed over the channels by a host, and two neurons that read the norm."""
    weight = np.array([[2, 0], [0, 4]]).reshape(2, 2, 1, 1)
    given: dict[str, Any] = {"step": 1.0, "levels": 8, "bias": np.zeros(1, np.int64), "eps": 1, "shift": 2}
    host = fixed.FixedLayerNorm(name="norm", inputs=("in",), shape=(2, 1, 2), offset=3, **given)
    return network(
        conv("xa", "x", (2, 1, 2), weight),
        lif("a", "xa", (2, 1, 2), offset=1),
        conv("in", "a", (2, 1, 2), weight),
        host,
        conv("out", "norm", (2, 1, 2), weight),
        lif("b", "out", (2, 1, 2), offset=4),
        shape=(2, 1, 2),
    )


def test_messages_with_the_host_are_counted_by_hand() -> None:
    mapped, _ = map_cores(hosted(), chip(neurons_per_core=2))  # a core for each channel, or for each position
    spikes = np.zeros((3, 1, 2, 1, 2), dtype=bool)
    spikes[0, 0, 0, 0, 0] = spikes[1, 0, 0, 0, 0] = spikes[1, 0, 1, 0, 0] = spikes[2, 0, :, 0, 1] = True
    sent = emitted(mapped, {"a": spikes})
    assert np.count_nonzero(sent["in"]) == 5
    (found,) = host_traffic(mapped, sent)
    assert (found.host, found.sums) == ("norm", 5)
    assert found.messages == np.count_nonzero(sent["norm"]) == 6  # a norm of (2, 0) is not 0 in either channel
    cores_of_b = [part for part in mapped.of(fixed.Slice) if part.inputs == ("b",)]
    reached = {part.core: part.shape[0] for part in cores_of_b}  # channels of each
    assert found.arriving == sum(6 if shape == 1 else 3 for shape in reached.values())
    flow = messages(mapped, sent_counts(sent))
    assert flow[:, [part.core for part in cores_of_b]].sum() == 0  # what a host sends comes from no core


def test_conversion_maps_hosts_and_the_answer_of_fit_is_that_they_fit() -> None:
    traced = NETWORKS["norms"]()
    bundle = convert(traced, calibration=samples(traced), proof_samples=4)
    assert "mapped" in bundle.graphs
    (one, two) = bundle.record["mapping"]["hosts"]
    assert one["host"] == "n1.plain"
    assert two["sums"] > 0
    assert one["arriving"] >= one["messages"] > 0
    assert "mapped = scheduled" in [check["name"] for check in bundle.record["checks"]]
    found = fit(bundle.graph("scheduled"), load_profile("loihi2"))
    assert found.verdict == FITS
    assert found.to_json()["elsewhere"] == ["n1.plain (host)", "n2.plain (host)"]
