"""Networks and recordings that Intel ships inside the lava-dl 0.6.0 wheel, against the reader and the simulator.

The wheel is read as a zip, never installed or imported. ``$AVSNN_WHEELS`` or ``.cache/wheels`` holds it.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from avsnn.convert.ir.fixed_nodes import FixedLIF, FixedLinear, Synapse
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array
from avsnn.convert.mapping_check import check_mapping
from avsnn.convert.passes.map_cores import map_cores
from avsnn.deploy.backends.base import Execution
from avsnn.deploy.backends.cpu import simulate
from avsnn.deploy.formats.net import read_net
from avsnn.deploy.reports.counts import count
from avsnn.errors import CapabilityError
from tests.chips import chip

WHEEL = "lava_dl-0.6.0-py3-none-any.whl"
FOLDER = "tests/lava/lib/dl/netx"
pytestmark = pytest.mark.wheel

PILOTNET = {  # population: its recordings
    "layer1": "conv-0",
    "layer2": "conv-1",
    "layer3": "conv-2",
    "layer4": "conv-3",
    "layer5": "conv-4",
    "layer7": "fc-0",
    "layer8": "fc-1",
    "layer9": "fc-2",
}
REFRACTORY_MARK = 128  # the recordings hold this as v of a neuron that has just fired; the rules say 0
FIRST_IMAGE = 16  # wall steps; afterwards a second image, which is not shipped, drives the recordings
STEPS = 24
SOP = {  # over 24 steps: (spikes in, stored, non-zero)
    "layer1.conv": (843_085, 43_573_080, 40_614_411),
    "layer2.conv": (166_897, 12_704_184, 10_006_425),
    "layer3.conv": (63_672, 6_376_608, 4_670_929),
    "layer4.conv": (23_247, 5_880_064, 3_965_120),
    "layer5.conv": (14_567, 3_622_336, 2_217_076),
    "layer7.dense": (6_770, 677_000, 170_261),
    "layer8.dense": (226, 11_300, 8_983),
    "layer9.dense": (49, 490, 426),
    "layer10.dense": (8, 8, 8),
}


class Shipped:
    """The files of the wheel."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive

    def net(self, name: str) -> io.BytesIO:
        return io.BytesIO(self.archive.read(f"{FOLDER}/{name}"))

    def array(self, name: str) -> Array:
        """Time first and features as (C, H, W); the files have (W, H, C, T)."""
        values: Array = np.load(io.BytesIO(self.archive.read(f"{FOLDER}/gts/{name}.npy")), allow_pickle=False)
        return values.T


@pytest.fixture(scope="module")
def shipped(request: pytest.FixtureRequest) -> Iterator[Shipped]:
    folder = os.environ.get("AVSNN_WHEELS") or request.config.rootpath / ".cache" / "wheels"
    path = Path(folder) / WHEEL
    if not path.is_file():
        pytest.skip(f"no {WHEEL} in .cache/wheels or $AVSNN_WHEELS (make setup downloads it)")
    with zipfile.ZipFile(path) as archive:
        yield Shipped(archive)


def on_the_wall(graph: Graph) -> Graph:
    """The same network, its records not shifted into logical time: step t is wall step t for every layer."""
    return graph.with_nodes(replace(n, offset=0) if isinstance(n, FixedLIF) else n for n in graph)


def one_weight_off_by_two(graph: Graph, name: str, run: Execution) -> Graph:
    """The same network but for the smallest change that one weight can have, where the source does fire in ``run``."""
    wire = graph[name]
    assert isinstance(wire, Synapse)
    source, target = run.counts[wire.inputs[0]][0], run.counts[graph.readers[name][0].name][0]
    busiest = [int(counts.reshape(len(counts), -1).sum(axis=1).argmax()) for counts in (target, source)]
    mant = wire.weight_mant.copy()
    middle = [size // 2 for size in mant.shape[2:]]  # the middle tap, if there is a kernel
    mant[tuple(busiest + middle)] -= 2
    return graph.with_nodes(replace(n, weight_mant=mant) if n is wire else n for n in graph)


@pytest.fixture(scope="module")
def pilotnet(shipped: Shipped) -> Graph:
    return on_the_wall(read_net(shipped.net("gts/pilotnet_lif/network.net"), timesteps=STEPS, reset_interval=16))


def drive(graph: Graph, shipped: Shipped, copies: int = 1) -> Execution:
    image = shipped.array("pilotnet_lif/image")
    return simulate(graph, {"input": np.repeat(image[None], copies, axis=0)}, record="all")


@pytest.mark.parametrize(("neurons", "cores"), [(8192, 32), (3168, 74)])
def test_pilotnet_takes_no_more_cores_than_intels_compiler(pilotnet: Graph, neurons: int, cores: int) -> None:
    """It took 74, none with more than 3,168 neurons; every weight and axon of our cut is checked."""
    profile = chip(neurons_per_core=neurons)
    mapped, mapping = map_cores(pilotnet, profile)
    assert len(mapping.cores) <= cores
    assert sum(core.neurons for core in mapping.cores) == 158_509
    assert check_mapping(pilotnet, mapped, profile) > 200_000


@pytest.fixture(scope="module")
def pilotnet_run(pilotnet: Graph, shipped: Shipped) -> Execution:
    return drive(pilotnet, shipped)


def pilotnet_mismatches(run: Execution, shipped: Shipped) -> tuple[dict[str, int], dict[str, int]]:
    """(values compared, mismatches) of spikes, u and v over all layers in their valid windows."""
    compared = dict.fromkeys(("spikes", "u", "v"), 0)
    wrong = dict(compared)

    def compare(kind: str, ours: Array, theirs: Array) -> None:
        assert ours.shape == theirs.shape
        compared[kind] += ours.size
        wrong[kind] += int(np.count_nonzero(ours != theirs))

    compare("spikes", run.spikes["layer0"][:, 0], shipped.array("pilotnet_lif/input-s") != 0)
    for depth, (name, file) in enumerate(PILOTNET.items(), start=1):
        valid = slice(0, min(STEPS, FIRST_IMAGE + depth))
        spikes = run.spikes[name][valid, 0]
        v = np.where(spikes, REFRACTORY_MARK, run.states[name]["v"][valid, 0])
        compare("spikes", spikes, shipped.array(f"pilotnet_lif/{file}")[valid])
        compare("u", run.states[name]["u"][valid, 0], shipped.array(f"pilotnet_lif/{file}-u")[valid])
        compare("v", v, shipped.array(f"pilotnet_lif/{file}-v")[valid])
    return compared, wrong


def test_pilotnet_every_shipped_spike_and_state(pilotnet_run: Execution, shipped: Shipped) -> None:
    compared, wrong = pilotnet_mismatches(pilotnet_run, shipped)
    assert wrong == {"spikes": 0, "u": 0, "v": 0}, f"of {compared}"
    assert compared == {"spikes": 3_042_430, "u": 2_092_030, "v": 2_092_030}
    silent = [name for name in PILOTNET if not pilotnet_run.spikes[name].any()]
    assert silent == []


@pytest.mark.parametrize("name", ["layer5.conv", "layer8.dense"])
def test_pilotnet_notices_one_weight(pilotnet: Graph, pilotnet_run: Execution, shipped: Shipped, name: str) -> None:
    _, wrong = pilotnet_mismatches(drive(one_weight_off_by_two(pilotnet, name, pilotnet_run), shipped), shipped)
    assert wrong["u"] > 0


def test_pilotnet_notices_a_reset_phase_off_by_one(pilotnet: Graph, shipped: Shipped) -> None:
    late = pilotnet.with_nodes(
        replace(n, reset_phase=n.reset_phase + 1) if isinstance(n, FixedLIF) and n.name == "layer2" else n
        for n in pilotnet
    )
    assert pilotnet_mismatches(drive(late, shipped), shipped)[1]["spikes"] > 0


def test_pilotnet_in_logical_time_with_images_back_to_back(shipped: Shipped) -> None:
    graph = read_net(shipped.net("gts/pilotnet_lif/network.net"), reset_interval=16)
    run = drive(graph, shipped, copies=2)
    assert graph.timesteps == 16
    for depth, (name, file) in enumerate(PILOTNET.items(), start=1):
        theirs = shipped.array(f"pilotnet_lif/{file}")[depth : depth + FIRST_IMAGE]
        for sample in range(2):
            ours = run.spikes[name][: len(theirs), sample]
            assert np.array_equal(ours, theirs), (name, sample)


def test_pilotnet_operations_are_the_known_integers(pilotnet: Graph, shipped: Shipped) -> None:
    recorded = {"layer0": shipped.array("pilotnet_lif/input")}
    recorded |= {name: shipped.array(f"pilotnet_lif/{file}") for name, file in PILOTNET.items()}
    activity = {name: spikes[:, None].astype(bool) for name, spikes in recorded.items()}
    activity["layer10"] = np.zeros((STEPS, 1, 1), bool)  # its recording comes from another run; nothing reads it
    counts = count(pilotnet, activity)
    found = {row.name: (row.events, row.sop_stored, row.sop_nonzero) for row in counts.synapses}
    assert found == SOP
    assert (counts.sop_stored, counts.sop_nonzero) == (72_845_070, 61_653_639)
    assert counts.neuron_updates == 24 * 158_509


def digits(shipped: Shipped, graph: Graph) -> Execution:
    spikes = shipped.array("ntidigits/input").astype(np.int64)
    return simulate(on_the_wall(graph), {"input": spikes.reshape(len(spikes), 1, 1, 1, -1)}, record=["layer4"])


def test_ntidigits_with_axonal_delays(shipped: Shipped) -> None:
    graph = read_net(shipped.net("gts/ntidigits/ntidigits.net"), layers=5)
    theirs = shipped.array("ntidigits/output")
    ours = digits(shipped, graph).spikes["layer4"][:, 0]
    assert theirs[1:].shape == ours[:-1].shape == (2999, 242)
    assert np.array_equal(theirs[1:], ours[:-1])  # the recording has one more step of delay
    assert ours.sum() == theirs.sum() == 22_572


def test_ntidigits_notices_one_weight_and_one_delay(shipped: Shipped) -> None:
    graph = read_net(shipped.net("gts/ntidigits/ntidigits.net"), layers=5)
    good = digits(shipped, graph)
    heavier = digits(shipped, one_weight_off_by_two(graph, "layer4.dense", good))
    assert not np.array_equal(good.spikes["layer4"], heavier.spikes["layer4"])
    wire = graph["layer3.dense"]
    assert isinstance(wire, FixedLinear)
    assert wire.output_delay is not None
    delays = wire.output_delay.copy()
    delays[int(good.counts["layer3"][0].argmax())] += 1
    later = digits(shipped, graph.with_nodes(replace(wire, output_delay=delays) if n is wire else n for n in graph))
    assert not np.array_equal(good.spikes["layer4"], later.spikes["layer4"])


def test_the_average_at_the_end_of_ntidigits_is_refused_by_name(shipped: Shipped) -> None:
    with pytest.raises(CapabilityError, match=r"layer 5: unknown layer type, found average.*layers="):
        read_net(shipped.net("gts/ntidigits/ntidigits.net"))


def test_tinynet_in_logical_time(shipped: Shipped) -> None:
    graph = read_net(shipped.net("tiny.net"), timesteps=17, reset_interval=17)
    image = shipped.array("tinynet/input_bias").astype(np.int64)
    run = simulate(graph, {"input": np.repeat(image[None], 3, axis=0)}, record="all")
    for name, file in (("layer0", "input"), ("layer1", "layer1"), ("layer2", "output")):
        values = shipped.array(f"tinynet/{file}").T[0]  # (C, H, W, T): not turned round, unlike the others
        theirs = np.moveaxis(values, -1, 0).reshape(16, *graph[name].shape)[1:]  # one more step of delay
        assert theirs.any()
        for sample in range(3):
            assert np.array_equal(run.spikes[name][:15, sample], theirs), (name, sample)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("gts/pilotnet_sdnn/network.net", "layer 0: unknown neuron, found SDNN, limit LOIHI, CUBA"),
        ("mnist.net", "layer 3: a layer without neuron"),
    ],
)
def test_other_shipped_networks_are_refused_by_layer(shipped: Shipped, name: str, match: str) -> None:
    with pytest.raises(CapabilityError, match=match):
        read_net(shipped.net(name), timesteps=4)


def test_mnist_runs_without_its_last_layer(shipped: Shipped) -> None:
    graph = read_net(shipped.net("mnist.net"), timesteps=16, reset_interval=16, layers=3)
    pixels = np.random.default_rng(0).integers(0, 140, (2, 784, 1, 1))
    run = simulate(graph, {"input": pixels})
    assert run.outputs["layer2"].shape == (2, 512)
    assert run.counts["layer1"].any()
