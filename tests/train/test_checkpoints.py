"""A checkpoint comes back as the same network, its graph and its facts; damaged ones name what is wrong."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from avsnn import archive
from avsnn.convert.ir.storage import unpack
from avsnn.convert.pipeline import convert
from avsnn.errors import CheckpointError, TraceError
from avsnn.train.checkpoints import load, save
from avsnn.train.layers import DirectCoding
from avsnn.train.models.config import plain
from avsnn.train.models.table import MODELS, Model, find_model, make_config
from avsnn.train.neurons import LIF

VALUES = {"dim": 8, "mlp_ratio": 1}
RNG = np.random.default_rng(0)
INPUTS = {
    "image": RNG.integers(0, 256, (2, 1, 28, 28)).astype(np.float32) / 255,
    "audio": RNG.integers(0, 256, (2, 1, 32, 32)).astype(np.float32) / 255,
}


class Own(nn.Module):
    """What a user may bring."""

    def __init__(self) -> None:
        super().__init__()
        self.repeat, self.linear, self.lif = DirectCoding(3), nn.Linear(4, 5), LIF()

    def forward(self, input: Tensor) -> Tensor:
        spikes: Tensor = self.lif(self.repeat(self.linear(input)))
        return spikes.mean(0)


def small() -> tuple[nn.Module, dict[str, Any]]:
    torch.manual_seed(3)
    config = make_config("scmrl", "tiny", VALUES)
    module = find_model("scmrl").build(config)
    with torch.no_grad():
        module(**{name: torch.rand(8, *value.shape[1:]) for name, value in INPUTS.items()})  # moves statistics
    return module, plain(config)


def write(path: Path, module: nn.Module, config: dict[str, Any]) -> Path:
    labels = [str(digit) for digit in range(10)]
    return save(
        path,
        module,
        example_inputs=INPUTS,
        name="scmrl",
        config=config,
        labels=labels,
        training={"seed": 3},
        calibration=INPUTS,
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("checkpoint") / "a.pt", *small())


def change(saved: Path, path: Path, meta: dict[str, Any], arrays: dict[str, archive.Array]) -> Path:
    """Write ``saved`` to ``path`` with some of its content replaced."""
    old_meta, old_arrays = archive.read(saved)
    return archive.write(path, old_meta | meta, old_arrays | arrays)


def test_round_trip(saved: Path) -> None:
    module, config = small()
    checkpoint = load(saved)
    built = checkpoint.build()
    assert not built.training
    tensors = {name: torch.from_numpy(value) for name, value in INPUTS.items()}
    assert torch.equal(built(**tensors), module.eval()(**tensors))
    assert (checkpoint.name, checkpoint.config, checkpoint.training) == ("scmrl", config, {"seed": 3})
    assert checkpoint.labels == tuple("0123456789")
    assert checkpoint.input_spec["audio"] == {
        "shape": [1, 32, 32],
        "coding": "direct",
        "low": 0.0,
        "high": 1.0,
        "step": 1 / 255,
    }
    np.testing.assert_array_equal(checkpoint.calibration["image"], INPUTS["image"])


def test_graph_inside_has_every_population_and_weight(saved: Path) -> None:
    checkpoint = load(saved)
    graph = unpack(checkpoint.graph_meta, checkpoint.graph_arrays)
    populations = [name for name, child in small()[0].named_modules() if isinstance(child, LIF)]
    assert len(populations) == 10
    assert [node.name for node in graph if node.kind == "LIF"] == populations
    np.testing.assert_array_equal(getattr(graph["head.linear"], "weight"), checkpoint.state["head.linear.weight"])  # noqa: B009
    assert graph.timesteps == 4


def test_same_network_same_bytes_and_training_mode_kept(saved: Path, tmp_path: Path) -> None:
    module, config = small()
    assert write(tmp_path / "b.pt", module.train(), config).read_bytes() == saved.read_bytes()
    assert module.training


def test_network_of_the_user_keeps_its_graph_but_cannot_be_built(tmp_path: Path) -> None:
    path = save(tmp_path / "own.pt", Own(), example_inputs={"input": np.ones((2, 4), "f4")}, name="mine", config={})
    checkpoint = load(path)
    assert unpack(checkpoint.graph_meta, checkpoint.graph_arrays).timesteps == 3
    with pytest.raises(CheckpointError, match=r"cannot build.*mine"):
        checkpoint.build()


class Attends(nn.Module):
    """Something that the tracer has no rule for."""

    def __init__(self, config: object) -> None:
        super().__init__()
        self.repeat, self.linear, self.lif = DirectCoding(2), nn.Linear(4, 4), LIF()

    def forward(self, input: Tensor) -> Tensor:
        spikes = self.lif(self.repeat(self.linear(input)))
        return torch.einsum("tbd,tbe->bde", spikes, spikes).logsumexp(2)


@dataclass(frozen=True, kw_only=True)
class NoConfig:
    """Nothing to choose."""


def test_network_without_rules_is_saved_without_a_graph_if_it_can_be_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = {"input": np.ones((2, 4), "f4")}
    with pytest.raises(TraceError, match="no rule"):
        save(tmp_path / "own.pt", Attends(None), example_inputs=examples, name="attends", config={})
    assert not (tmp_path / "own.pt").exists()
    monkeypatch.setitem(MODELS, "attends", Model(config=NoConfig, presets={}, build=Attends))
    module = Attends(None)
    path = save(tmp_path / "known.pt", module, example_inputs=examples, name="attends", config={}, calibration=examples)
    checkpoint = load(path)
    assert checkpoint.graph_meta == {}
    assert "einsum" in checkpoint.training["no_graph"]
    given = torch.rand(3, 4)
    assert torch.equal(checkpoint.build()(given), module.eval()(given))
    with pytest.raises(TraceError, match=r"have no rule:(?s:.*)einsum(?s:.*)logsumexp"):
        convert(checkpoint, target="cpu")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers(saved: Path, tmp_path: Path, value: float) -> None:
    bad = load(saved).state["head.linear.weight"]
    bad[0, 0] = value
    with pytest.raises(CheckpointError, match=r"head\.linear\.weight holds NaN"):
        load(change(saved, tmp_path / "a.pt", {}, {"state.head.linear.weight": bad}))
    module, config = small()
    with torch.no_grad():
        module.get_parameter("head.linear.weight")[0, 0] = value
    with pytest.raises(CheckpointError, match=r"head\.linear\.weight holds NaN"):
        write(tmp_path / "b.pt", module, config)
    assert not (tmp_path / "b.pt").exists()


@pytest.mark.parametrize(
    ("meta", "word"),
    [
        ({"version": 99}, "version.*99"),
        ({"kind": "bundle"}, "not a checkpoint"),
        ({"config": []}, "config is missing or of the wrong type"),
        ({"input_spec": {"image": {"shape": [1]}}}, "input spec of image is incomplete"),
    ],
)
def test_descriptions_that_cannot_be(saved: Path, tmp_path: Path, meta: dict[str, Any], word: str) -> None:
    with pytest.raises(CheckpointError, match=word):
        load(change(saved, tmp_path / "a.pt", meta, {}))


def test_weights_of_another_network(saved: Path, tmp_path: Path) -> None:
    config = plain(make_config("scmrl", "tiny", {**VALUES, "classes": 3}))
    with pytest.raises(CheckpointError, match=r"do not fit.*head\.linear"):
        load(change(saved, tmp_path / "a.pt", {"config": config}, {})).build()
    with pytest.raises(CheckpointError, match=r"do not fit.*[Uu]nexpected"):
        load(change(saved, tmp_path / "b.pt", {}, {"state.more": np.zeros(1)})).build()


def test_spec_must_name_the_inputs(tmp_path: Path) -> None:
    module, config = small()
    spec = {"picture": {"shape": [1, 28, 28], "coding": "direct", "low": 0.0, "high": 1.0, "step": 1 / 255}}
    with pytest.raises(CheckpointError, match="other inputs"):
        save(tmp_path / "a.pt", module, example_inputs=INPUTS, name="scmrl", config=config, input_spec=spec)


def test_description_is_readable_json(saved: Path) -> None:
    meta, _ = archive.read(saved)
    assert json.loads(json.dumps(meta))["kind"] == "avsnn checkpoint"
