"""A network that converts in a second, as the files that users hand to the commands."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from avsnn.cli.main import main
from avsnn.deploy import lava_env
from avsnn.train.checkpoints import save
from avsnn.train.models import scmrl

CONFIG = scmrl.SCMRLConfig(dim=8, stages=2, image_size=12, audio_size=8, timesteps=3, classes=4)
Command = Callable[..., tuple[int, str, str]]


def tiny() -> nn.Module:
    """S-CMRL with two stages on 12 x 12 and 8 x 8 pixels; biases so high that every population fires."""
    torch.manual_seed(0)
    module = scmrl.build_scmrl(CONFIG)
    module.train()
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.weight.uniform_(0.5, 2.0)
                part.bias.uniform_(0.2, 1.6)
        for _ in range(40):  # until the statistics belong to these weights
            module(**{name: torch.as_tensor(x) for name, x in samples(32).items()})
    return module.eval()


def samples(count: int) -> dict[str, Any]:
    """Pixels as multiples of 1/255."""
    rng = np.random.default_rng(1)
    shapes = {"image": (count, 1, 12, 12), "audio": (count, 1, 8, 8)}
    return {name: (rng.integers(0, 256, size=shape) / 255).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture(scope="session")
def module() -> nn.Module:
    return tiny()


@pytest.fixture(scope="session")
def checkpoint(module: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny network as a checkpoint that names no data set, so generated inputs are compared."""
    return write_checkpoint(module, tmp_path_factory.mktemp("checkpoint") / "tiny.pt")


def write_checkpoint(module: nn.Module, path: Path) -> Path:
    data = samples(24)
    return save(
        path,
        module,
        example_inputs={name: x[:2] for name, x in data.items()},
        name="scmrl",
        config=dataclasses.asdict(CONFIG),
        labels=["ka", "ke", "ki", "ko"],
        training={},
        calibration=data,
    )


@pytest.fixture(scope="session")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint converted for the chip, without Lava; tests must not change it."""
    out = tmp_path_factory.mktemp("bundle") / "net"
    assert main(["convert", str(checkpoint), "--out", str(out), "--backend", "cpu", "--samples", "4"]) == 0
    return out


@pytest.fixture
def avsnn(capfd: pytest.CaptureFixture[str]) -> Command:
    """Run a command in this process; (exit code, stdout, stderr)."""

    def command(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as end:  # argparse
            code = end.code if isinstance(end.code, int) else 1
        out, err = capfd.readouterr()
        return code, out, err

    return command


def listing(folder: Path) -> list[str]:
    """Names of everything in a folder, hidden ones too."""
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="session")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training inputs as `avsnn data make` writes them: uint8, with labels."""
    path = tmp_path_factory.mktemp("data") / "train.npz"
    pixels = {name: np.rint(x * 255).astype(np.uint8) for name, x in samples(24).items()}
    np.savez(path, **pixels, label=np.arange(24) % 4)
    return path


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the user's own that makes the tiny network."""
    package = tmp_path / "somenets"
    package.mkdir()
    (package / "__init__.py").write_text("")
    fields = ", ".join(f"{name}={value!r}" for name, value in dataclasses.asdict(CONFIG).items())
    (package / "net.py").write_text(
        "from avsnn.train.models.scmrl import SCMRLConfig, build_scmrl\n\n\n"
        f"def make():\n    return build_scmrl(SCMRLConfig({fields}))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.startswith("somenets")]:
        monkeypatch.delitem(sys.modules, name)
    return "somenets.net:make"


@pytest.fixture(autouse=True)
def _one_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--module` makes the current folder importable; not so for the tests after it."""
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture(scope="session")
def _lava() -> str:
    """What keeps Lava from running."""
    return lava_env.doctor().missing


@pytest.fixture(autouse=True)
def _with_lava(request: pytest.FixtureRequest, _lava: str) -> None:
    if request.node.get_closest_marker("lava") and _lava:
        pytest.skip(f"no Lava interpreter: {_lava}")
