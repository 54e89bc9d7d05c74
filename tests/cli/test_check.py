"""`avsnn check` on a checkpoint and on a module of the user's own: table, JSON, exit code."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avsnn.cli.check import _abilities
from avsnn.convert.check import check, of_graph
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph
from avsnn.hw_profiles.profile import load_profile
from avsnn.train.checkpoints import save
from avsnn.train.models.config import plain
from tests import networks
from tests.cli.conftest import Command
from tests.strategies import inputs_for, spiking_graph

NETWORK = """
import torch
from torch import nn
from avsnn.train.layers import DirectCoding, TimeBatched
from avsnn.train.neurons import LIF

class Net(nn.Module):
    def __init__(self, steps):
        super().__init__()
        torch.manual_seed(0)
        self.code = DirectCoding(4) if steps else nn.Identity()
        self.conv = TimeBatched(nn.Conv2d(1, 4, 3))
        self.act = nn.GELU() if steps else nn.Identity()
        self.lif = LIF()
        self.head = nn.Linear(4, 2)
    def forward(self, image):
        x = self.lif(self.act(self.conv(self.code(image))))
        return self.head(x.mean((3, 4)).mean(0))

def direct():
    return Net(True)

def events():
    return Net(False)

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.image, self.sound = Net(False), Net(False)

    def forward(self, image, sound):
        return self.image(image) + self.sound(sound)

def two():
    return Two()
"""


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "usernet.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return "usernet"


def test_a_checkpoint_that_converts(avsnn: Command, checkpoint: Path) -> None:
    code, out, err = avsnn("check", checkpoint, "--json")
    result = json.loads(out)
    assert (code, err) == (0, "")
    assert result["convertible"]
    assert result["reached"] == "target"
    assert result["populations"] > 5
    code, out, _ = avsnn("check", checkpoint, "--target", "cpu")
    assert code == 0
    assert out.splitlines()[-1].startswith("scmrl for cpu: converts, ")


def test_a_module_with_an_unsupported_layer(avsnn: Command, network: str) -> None:
    code, out, err = avsnn("check", f"{network}:direct", "--input", "image=1x6x6", "--json")
    result = json.loads(out)
    assert (code, err) == (2, "")
    (entry,) = (e for e in result["entries"] if e["severity"] == "unsupported")
    assert entry["where"] == "act (GELU)"
    assert entry["line"] == "usernet.py:17: x = self.lif(self.act(self.conv(self.code(image))))"
    assert entry["neurons"] == 1.0
    code, out, _ = avsnn("check", f"{network}:direct", "--input", "image=1,6,6")
    assert code == 2
    assert "usernet.py:17" in out
    assert f"{network}:direct for loihi2: 1 unsupported" in out


def test_sequences_and_calibration_data(avsnn: Command, network: str, tmp_path: Path) -> None:
    steps = ("--sequence", "image", "--timesteps", "3")
    code, out, _ = avsnn("check", f"{network}:events", "--input", "image=1,6,6", *steps, "--json")
    assert code == 0
    assert json.loads(out)["reached"] == "target"
    np.savez(tmp_path / "zeros.npz", image=np.zeros((3, 5, 1, 6, 6)))
    code, out, _ = avsnn(
        "check", f"{network}:events", "--calibration", tmp_path / "zeros.npz", "--sequence", "image", "--json"
    )
    assert code == 0
    assert any("never fires on 5 calibration samples" in e["reason"] for e in json.loads(out)["entries"])


def test_sequences_of_unequal_length(avsnn: Command, network: str) -> None:
    given = ("--input", "image=1,6,6", "--input", "sound=1,6,6", "--sequence", "image", "--timesteps", "3")
    code, out, _ = avsnn("check", f"{network}:two", *given, "--sequence", "sound=2", "--json")
    assert code == 0
    assert json.loads(out)["reached"] == "target"
    code, _, err = avsnn("check", f"{network}:two", *given, "--sequence", "sound=4")
    assert code == 2
    assert "several numbers of steps" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("usernet:events", "--input", "image=1,6,6", "--sequence", "image=0"), "not of the form NAME=STEPS"),
        (("usernet:direct",), "a module needs example inputs"),
        (("usernet:direct", "--input", "image"), "not of the form NAME=SHAPE, found image"),
        (("usernet:direct", "--input", "image=1,0,6"), "not of the form NAME=SHAPE"),
        (("usernet:direct", "--input", "picture=1,6,6"), "named by forward's parameters"),
        (("usernet:nobody", "--input", "image=1,6,6"), "MODEL: the factory cannot be called"),
        (("usernet:events", "--input", "image=1,6,6", "--sequence", "image"), "pass --timesteps T"),
        (("usernet:events", "--input", "image=1,6,6", "--sequence", "sound"), "--sequence: no such input"),
        (("missing.pt",), "missing.pt: "),
        (("{checkpoint}", "--timesteps", "3"), "a checkpoint has its own"),
    ],
)
def test_what_cannot_be_checked_is_one_line(
    avsnn: Command, network: str, checkpoint: Path, arguments: tuple[str, ...], message: str
) -> None:
    code, out, err = avsnn("check", *(each.format(checkpoint=checkpoint) for each in arguments))
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_each_node_that_the_target_refuses_is_listed() -> None:
    loihi2, graph = load_profile("loihi2"), replace(spiking_graph(1), stage="traced")
    abilities = {k: v for k, v in loihi2.capabilities.items() if k != "lif_hard"}
    without = replace(loihi2, capabilities=abilities)
    done = check(of_graph(graph, "net"), without, inputs_for(graph, 0), capabilities=_abilities)
    assert [(e.severity, e.stage, e.where) for e in done.entries] == [
        ("unsupported", "target", f"p{i}") for i in range(3)
    ]
    assert done.entries[0].reason == "lif_hard: loihi2 refuses it"
    counts = changed_input(graph, high=7.0, step=1.0)
    narrow = replace(loihi2, limits=replace(loihi2.limits, message_bits=2))
    done = check(of_graph(counts, "net"), narrow, inputs_for(counts, 0), capabilities=_abilities)
    assert done.entries[0].reason == "message is too wide, found 3 bits, limit 2 bits of loihi2"


def changed_input(graph: Graph, **fields: Any) -> Graph:
    first, *rest = graph.nodes
    assert isinstance(first, ir.Input)
    return replace(graph, nodes=(replace(first, coding="sequence", **fields), *rest))


def test_a_host_between_populations_is_a_risk(avsnn: Command, tmp_path: Path) -> None:
    small = {
        "image_values": '{"widths": [4], "blocks": 1, "stem_kernel": 3}',
        "audio_values": '{"channels": [4], "bands": 8, "frames": 8}',
        "readout": "accumulate",
        "hidden": 8,
    }
    module = networks.build(("smlp", "tiny", small))
    x, _ = networks.inputs(module, batch=4)
    config = plain(module.config)
    path = save(tmp_path / "a.pt", module, example_inputs=x, name="smlp", config=config, calibration=x)
    code, out, err = avsnn("check", path, "--json")
    result = json.loads(out)
    assert (code, err, result["reached"]) == (0, "", "target")
    hosts = [entry for entry in result["entries"] if "the host" in entry["reason"]]
    assert [(entry["where"], entry["severity"]) for entry in hosts] == [("fusion.linear1 (Linear)", "risky")]
    assert hosts[0]["reason"].startswith("unit_length: loihi2 sends spikes to the host")
