"""Reading ``.net`` files: what the keys come to mean, and that nothing is ignored in silence."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avsnn.convert.ir.fixed_nodes import FixedConv2d, FixedInput, FixedLIF, FixedLinear, HeldCurrent
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array
from avsnn.deploy.backends.cpu import simulate
from avsnn.deploy.formats.net import read_net
from avsnn.errors import AvsnnError, CapabilityError, InputError

h5py = pytest.importorskip("h5py")

NEURON = {"type": b"CUBA", "iDecay": 1024, "vDecay": 512, "vThMant": 10, "refDelay": 1, "gradedSpike": False}
Layers = dict[int, dict[str, Any]]


def layers() -> Layers:
    """Input (2, 5, 6) with a neuron, conv, flatten, dense with delays: every key that means something, once."""
    rng = np.random.default_rng(0)
    return {
        0: {"type": [b"input"], "shape": [2, 5, 6], "neuron": NEURON | {"iDecay": 4096}, "weight": 40.0, "bias": 36.0},
        1: {
            "type": [b"conv"],
            "shape": [4, 3, 5],
            "weight": (rng.integers(-9, 10, (4, 1, 3, 2)) * 2).astype(np.float32),
            "bias": np.array([1, -2, 3, -4], np.float32),
            "stride": [2, 1],
            "padding": [1, 0],
            "dilation": 1,
            "groups": 2,
            "inChannels": 2,
            "outChannels": 4,
            "kernelSize": [3, 2],
            "neuron": NEURON | {"theta": 640, "wgtExp": 0},
        },
        2: {"type": "flatten", "shape": [60, 1, 1]},
        3: {
            "type": [b"dense"],
            "shape": [7],
            "weight": rng.integers(0, 40, 7 * 60).astype(np.float32),
            "delay": np.arange(7, dtype=np.float32) * 10,
            "inFeatures": 60,
            "outFeatures": 7,
            "neuron": NEURON,
        },
    }


def stored(content: Layers, **simulation: int) -> io.BytesIO:
    file = io.BytesIO()
    with h5py.File(file, "w") as net:
        for index, layer in content.items():
            group = net.create_group(f"layer/{index}")
            for key, value in layer.items():
                if isinstance(value, dict):
                    for name, item in value.items():
                        group[f"{key}/{name}"] = item
                else:
                    group[key] = np.array(value, "S10") if isinstance(value, list) and key == "type" else value
        for key, number in simulation.items():
            net[f"simulation/{key}"] = number
    return io.BytesIO(file.getvalue())


def read(content: Layers, **options: Any) -> Graph:
    return read_net(stored(content), **({"timesteps": 5} | options))


def changed(layer: int, key: str, value: Any) -> Layers:
    """The good file with one key of one layer set, or removed by None; ``neuron/x`` reaches into the neuron."""
    content = layers()
    target, name = content[layer], key
    if key.startswith("neuron/"):
        target[(name := "neuron")] = dict(target["neuron"])
        target, name = target["neuron"], key.split("/")[1]
    if value is None:
        del target[name]
    else:
        target[name] = value
    return content


def test_every_key_means_what_netx_makes_of_it() -> None:
    graph = read(layers(), reset_interval=4)
    picture, image, first, conv, second, dense, third = graph.nodes
    assert isinstance(picture, FixedInput)
    assert (picture.name, picture.shape, picture.coding) == ("input", (2, 5, 6), "direct")
    assert isinstance(image, HeldCurrent)
    assert (image.port, image.shape) == ("bias", (2, 5, 6))
    assert isinstance(first, FixedLIF)
    assert (first.decay_u, first.decay_v, first.threshold_mant, first.offset, first.reset_phase) == (
        4095,
        512,
        10,
        0,
        0,
    )
    assert isinstance(conv, FixedConv2d)
    assert (conv.stride, conv.padding, conv.dilation, conv.groups, conv.sign_mode) == (
        (2, 1),
        (1, 0),
        (1, 1),
        2,
        "mixed",
    )
    assert isinstance(second, FixedLIF)
    assert (second.name, second.shape, second.decay_u, second.bias_exp) == ("layer1", (4, 3, 5), 1023, 6)
    assert second.bias_mant.tolist() == [1, -2, 3, -4]
    assert isinstance(dense, FixedLinear)
    assert dense.weight_mant.tolist() == layers()[3]["weight"].reshape(7, 60).tolist()
    assert dense.output_delay is not None
    assert (dense.delay, dense.output_delay.tolist(), dense.sign_mode) == (0, [0, 10, 20, 30, 40, 50, 60], "excitatory")
    assert isinstance(third, FixedLIF)
    assert (third.offset, third.reset_interval, third.reset_phase) == (2, 4, 2)
    assert graph.outputs == ("layer3",)
    assert graph.timesteps == 5
    assert graph.stage == "scheduled"


def test_an_image_drives_the_chain_like_the_equations_by_hand() -> None:
    graph = read({k: v for k, v in layers().items() if k < 2})
    image = np.random.default_rng(1).integers(-5, 30, (1, 2, 5, 6))
    run = simulate(graph, {"input": image}, record="all")
    v, spikes = np.zeros((2, 5, 6), np.int64), []
    for _ in range(5):
        v = np.sign(v) * (np.abs(v) * (4096 - 512) // 4096) + 64 * image[0]
        spikes.append(v > 640)
        v = np.where(spikes[-1], 0, v)
    assert np.array_equal(run.spikes["layer0"][:, 0], spikes)
    assert run.spikes["layer1"].any()


def test_without_an_input_neuron_spikes_go_in() -> None:
    content = {0: {"type": [b"input"], "shape": [1, 1, 60]}, 1: layers()[2], 2: layers()[3]}
    graph = read(content, timesteps=90)
    spikes = (np.random.default_rng(0).random((90, 2, 1, 1, 60)) < 0.2).astype(np.int64)
    run = simulate(graph, {"input": spikes}, record="all")
    first = [int(run.spikes["layer2"][:, 0, i].argmax()) for i in range(7)]
    assert run.spikes["layer2"].any(axis=0).all()
    assert (np.diff(first) > 5).all()  # ten steps of delay from each to the next


def test_a_flat_input_with_a_neuron_is_a_column() -> None:
    content = {0: {"type": [b"input"], "shape": [60], "neuron": NEURON}, 1: layers()[3]}
    run = simulate(read(content), {"input": np.full((2, 60, 1, 1), 20)})
    assert run.counts["layer0"].all()


def test_one_delay_and_full_bias_maps() -> None:
    content = changed(3, "delay", 4.0)
    content[1]["bias"] = np.arange(60.0).reshape(4, 3, 5)
    graph = read(content)
    dense, biased, last = graph["layer3.dense"], graph["layer1"], graph["layer3"]
    assert isinstance(dense, FixedLinear)
    assert isinstance(biased, FixedLIF)
    assert isinstance(last, FixedLIF)
    assert (dense.delay, dense.output_delay, last.offset) == (4, None, 6)
    assert biased.bias_mant.shape == (4, 3, 5)


def test_timesteps_come_from_the_file_unless_given() -> None:
    assert read_net(stored(layers(), Ts=1, tSample=16)).timesteps == 16
    assert read_net(stored(layers(), Ts=1, tSample=16), timesteps=3).timesteps == 3
    with pytest.raises(InputError, match="timesteps >= 1"):
        read_net(stored(layers()))


def test_later_layers_can_be_left_out() -> None:
    content = layers() | {4: {"type": [b"average"], "shape": [1]}}
    with pytest.raises(CapabilityError, match=r"layer 4: unknown layer type, found average.*pass layers="):
        read(content)
    assert read(content, layers=4).outputs == ("layer3",)
    assert read(content, layers=3).outputs == ("layer1",)
    with pytest.raises(InputError, match="cannot read so many layers, found 6, limit 1 to 5"):
        read(content, layers=6)


@pytest.mark.parametrize("kind", [b"pool", b"concat", b"dense_rec", b"convT", b"upsample", b"anything"])
def test_unknown_layers_are_named(kind: bytes) -> None:
    with pytest.raises(CapabilityError, match=f"layer 3: unknown layer type, found {kind.decode()}"):
        read(changed(3, "type", [kind]))


@pytest.mark.parametrize(
    ("layer", "key", "value", "match"),
    [
        (1, "delay", np.ones(4), "layer 1: delay is not supported"),
        (3, "delay", np.arange(60.0), "layer 3: delays by source neuron"),
        (3, "delay", np.full(7, 63.0), "layer 3: delay out of range, found 63 to 63, limit 0 to 62"),
        (3, "delay", np.full(7, 0.5), "layer 3: delay does not hold whole numbers"),
        (3, "weight_rec", np.zeros((7, 7)), "layer 3: a dense layer with weight_rec"),
        (3, "weight", None, "layer 3: weight is missing"),
        (3, "weight", np.zeros((7, 59)), "layer 3: weight does not fit"),
        (3, "weight", np.full(420, np.nan), "layer 3: weight does not hold whole numbers"),
        (3, "weight", np.full(420, 256.0), "layer 3: weights that the chip does not store, found 0 to 256"),
        (3, "weight", np.arange(-3.0, 417.0), "layer 3: weights that the chip does not store"),
        (
            3,
            "weight",
            np.arange(420) % 6 - 3.0,
            "layer 3: weights that the chip does not store, found -3 to 2, some odd",
        ),
        (3, "neuron", None, "layer 3: a layer without neuron"),
        (1, "bias", np.full(4, 40_000.0), "layer 1: bias out of range"),
        (1, "bias", np.zeros(3), "layer 1: bias does not fit"),
        (1, "shape", [4, 3, 6], "layer 1: shape is not what its weight makes"),
        (1, "groups", 1, "layer 1: weight does not fit its source"),
        (1, "stride", [0, 1], "layer 1: stride is no pair"),
        (2, "shape", [61], "layer 2: does not flatten its source"),
        (1, "surprise", 1, "layer 1: a conv layer with surprise"),
        (1, "neuron/type", b"SDNN", "layer 1: unknown neuron, found SDNN"),
        (1, "neuron/refDelay", 2, "layer 1: neuron/refDelay is not supported, found .2., limit 1"),
        (1, "neuron/gradedSpike", True, "layer 1: neuron/gradedSpike is not supported"),
        (1, "neuron/wgtExp", -1, "layer 1: neuron/wgtExp is not supported"),
        (1, "neuron/messageBits", 8, "layer 1: neuron/messageBits is not supported"),
        (1, "neuron/vThMant", np.arange(4), "layer 1: neuron/vThMant differs between neurons"),
        (1, "neuron/vThMant", 1 << 17, "layer 1: neuron/vThMant out of range"),
        (1, "neuron/iDecay", 4097, "layer 1: neuron/iDecay out of range, found 4097, limit 0 to 4096"),
        (1, "neuron/vDecay", None, "layer 1: neuron/vDecay is missing"),
        (1, "neuron/secret", 3, "layer 1: a neuron with secret"),
        (1, "type", [b"input"], "layer 1: the first layer, and no other, is the input"),
        (0, "type", [b"dense"], "layer 0: the first layer, and no other, is the input"),
    ],
)
def test_what_would_change_the_result_is_refused(layer: int, key: str, value: Any, match: str) -> None:
    with pytest.raises(AvsnnError, match=match):
        read(changed(layer, key, value))


def test_layers_must_be_numbered_in_order() -> None:
    content = layers()
    content[9] = content.pop(3)
    with pytest.raises(InputError, match=r"layers are not numbered 0, 1, 2"):
        read(content)


def test_files_that_are_no_net(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_net(tmp_path / "missing.net")
    (tmp_path / "text.net").write_text("hello")
    with pytest.raises(InputError, match="cannot be read as HDF5"):
        read_net(tmp_path / "text.net")
    whole = stored(layers()).getvalue()
    (tmp_path / "cut.net").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot be read as HDF5"):
        read_net(tmp_path / "cut.net")


def test_links_and_absurd_sizes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.net"
    path.write_bytes(stored(layers()).getvalue())
    linked = io.BytesIO()
    with h5py.File(linked, "w") as file:
        file["layer/0"] = h5py.ExternalLink(str(path), "layer/0")
    with pytest.raises(InputError, match=r"layer/0 is a link"):
        read_net(linked, timesteps=1)
    huge = io.BytesIO()
    with h5py.File(huge, "w") as file:
        file.create_dataset("layer/0/weight", shape=(1 << 20, 1 << 20), dtype=np.float32, chunks=(64, 64))
    with pytest.raises(InputError, match="layer/0/weight declares too many bytes"):
        read_net(huge, timesteps=1)


def test_one_wrong_weight_changes_the_spikes() -> None:
    image = {"input": np.random.default_rng(1).integers(-5, 30, (1, 2, 5, 6))}
    weight: Array = layers()[3]["weight"].copy()
    weight[: weight.size // 7] = 0
    good, bad = (
        simulate(read(c, timesteps=40), image).outputs["layer3"] for c in (layers(), changed(3, "weight", weight))
    )
    assert (good != bad).any()
