"""Files that are not checkpoints: one line, exit code 2, nothing run and nothing written."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from avsnn import archive

Command = Callable[..., tuple[int, str, str]]
Refused = Callable[..., str]


@pytest.fixture
def refused(avsnn: Command, tmp_path: Path) -> Refused:
    """Convert a file, see that it is refused in one line, and return the line."""

    def check(model: Path, *options: object) -> str:
        place = tmp_path / "place"
        place.mkdir()
        code, out, err = avsnn("convert", model, "--out", place / "net", "--backend", "cpu", *options)
        assert (code, out, len(err.splitlines())) == (2, "", 1), err
        assert not list(place.iterdir())
        return err

    return check


class Trap:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def test_missing_file(refused: Refused, tmp_path: Path) -> None:
    line = refused(tmp_path / "none.pt")
    assert "none.pt: no such file" in line


def test_folder(refused: Refused, tmp_path: Path) -> None:
    assert "a folder, not a checkpoint" in refused(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello\n", b"\x7fELF"], ids=["empty", "text", "binary"])
def test_other_files(refused: Refused, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "some.pt"
    path.write_bytes(content)
    assert f"{path}: is not an avsnn file" in refused(path)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.999])
def test_truncated(refused: Refused, checkpoint: Path, tmp_path: Path, share: float) -> None:
    content = checkpoint.read_bytes()
    path = tmp_path / "cut.pt"
    path.write_bytes(content[: int(len(content) * share)])
    line = refused(path)
    assert f"{path}: the file is damaged or truncated" in line
    assert "copy or create it again" in line


def test_one_changed_byte(refused: Refused, checkpoint: Path, tmp_path: Path) -> None:
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 0x40
    path = tmp_path / "flipped.pt"
    path.write_bytes(content)
    assert "damaged" in refused(path)


@pytest.mark.parametrize("legacy", [True, False], ids=["pickle", "zip"])
def test_pickle_that_runs_code(refused: Refused, tmp_path: Path, legacy: bool) -> None:
    path, trap = tmp_path / "evil.pt", tmp_path / "sprung"
    torch.save({"weight": Trap(trap)}, path, _use_new_zipfile_serialization=not legacy)
    line = refused(path)
    assert not trap.exists()
    assert "pickle" in line
    assert "never opened" in line
    assert "--module" in line


@pytest.mark.parametrize("legacy", [True, False], ids=["pickle", "zip"])
def test_pickle_that_runs_code_as_state_dict(
    refused: Refused, tmp_path: Path, legacy: bool, calibration: Path, factory: str
) -> None:
    path, trap = tmp_path / "evil.pth", tmp_path / "sprung"
    torch.save({"weight": Trap(trap)}, path, _use_new_zipfile_serialization=not legacy)
    line = refused(path, "--module", factory, "--calibration", calibration)
    assert not trap.exists()
    assert f"{path}: not a state dict that can be read safely" in line


def test_plain_pickle(refused: Refused, tmp_path: Path) -> None:
    path, trap = tmp_path / "evil.pkl", tmp_path / "sprung"
    path.write_bytes(pickle.dumps(Trap(trap)))
    assert "pickle" in refused(path)
    assert not trap.exists()


def zipped(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return path


@pytest.mark.parametrize("name", ["../outside.npy", "/tmp/outside.npy", "a/../../outside.npy", "c:\\outside.npy"])
def test_names_that_escape(refused: Refused, tmp_path: Path, name: str) -> None:
    path = zipped(tmp_path / "escape.pt", {"meta.json": b"{}", name: b""})
    assert "entry name is not allowed" in refused(path)
    assert not list(tmp_path.rglob("outside*"))


def test_declared_size_of_an_entry(refused: Refused, tmp_path: Path) -> None:
    path = zipped(tmp_path / "huge.pt", {"meta.json": b"{}", "state.w.npy": b"x" * 100})
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02")
    struct.pack_into("<II", content, entry + 20, 0xFFFFFFF0, 0xFFFFFFF0)  # compressed and plain size
    path.write_bytes(content)
    line = refused(path)
    assert "declare more bytes than the file has" in line


def test_declared_size_of_an_array(refused: Refused, tmp_path: Path) -> None:
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }"
    array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n"
    path = zipped(tmp_path / "huge.pt", {"meta.json": b"{}", "state.w.npy": array})
    assert "does not fit the entry" in refused(path)


def test_compressed_bomb(refused: Refused, tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("meta.json", b" " * 10_000_000)
    assert "compressed" in refused(path)


def test_other_archives(refused: Refused, tmp_path: Path) -> None:
    path = zipped(tmp_path / "other.pt", {"meta.json": json.dumps({"kind": "holiday photos"}).encode()})
    assert "is not a checkpoint" in refused(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(refused: Refused, checkpoint: Path, tmp_path: Path, value: float) -> None:
    meta, arrays = archive.read(checkpoint)
    name = next(name for name in arrays if name.startswith("state.") and name.endswith("conv.weight"))
    arrays[name].flat[0] = value
    line = refused(archive.write(tmp_path / "nan.pt", meta, arrays))
    assert f"tensor {name.removeprefix('state.')} holds NaN or infinity" in line


def test_weights_that_are_not_those_of_the_graph(avsnn: Command, checkpoint: Path, tmp_path: Path) -> None:
    """The file's graph and its module must be the same network; that is a verification, so exit code 1."""
    meta, arrays = archive.read(checkpoint)
    name = next(name for name in arrays if name.startswith("state.") and name.endswith("conv.weight"))
    arrays[name] = -arrays[name]
    path = archive.write(tmp_path / "other.pt", meta, arrays)
    code, _, err = avsnn("convert", path, "--out", tmp_path / "net", "--backend", "cpu")
    assert code == 1
    assert "traced = module" in err
    assert not (tmp_path / "net").exists()


def test_damaged_graph(refused: Refused, checkpoint: Path, tmp_path: Path) -> None:
    meta, arrays = archive.read(checkpoint)
    del meta["graph"]["nodes"][0]["kind"]
    assert "damaged graph" in refused(archive.write(tmp_path / "graph.pt", meta, arrays))


def test_no_calibration(refused: Refused, checkpoint: Path, tmp_path: Path) -> None:
    meta, arrays = archive.read(checkpoint)
    arrays = {name: array for name, array in arrays.items() if not name.startswith("calibration.")}
    assert "calibration input missing" in refused(archive.write(tmp_path / "bare.pt", meta, arrays))


def test_state_dict_with_nan(
    refused: Refused, tmp_path: Path, module: nn.Module, calibration: Path, factory: str
) -> None:
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    name = next(name for name in state if name.endswith("conv.weight"))
    state[name].view(-1)[0] = torch.nan
    torch.save(state, tmp_path / "nan.pth")
    line = refused(tmp_path / "nan.pth", "--module", factory, "--calibration", calibration)
    assert f"nan.pth: {name}: weights hold NaN or infinity" in line


def test_state_dict_of_another_module(refused: Refused, tmp_path: Path, calibration: Path, factory: str) -> None:
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "linear.pth")
    line = refused(tmp_path / "linear.pth", "--module", factory, "--calibration", calibration)
    assert "not a state dict for this module" in line
    assert "torch.save(module.state_dict()" in line


@pytest.mark.parametrize("content", [None, b"hello", b"PK\x03\x04rest"], ids=["missing", "text", "cut zip"])
def test_state_dict_that_is_none(
    refused: Refused, tmp_path: Path, calibration: Path, factory: str, content: bytes | None
) -> None:
    path = tmp_path / "weights.pth"
    if content is not None:
        path.write_bytes(content)
    assert f"{path}: n" in refused(path, "--module", factory, "--calibration", calibration)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nonsense", "pkg.mod:factory"),
        ("no.such.module:make", "No module named 'no'"),
        ("json:make", "no attribute 'make'"),
        ("json:dumps", "TypeError"),
        ("builtins:dict", "returns no nn.Module"),
    ],
)
def test_factory(
    refused: Refused, tmp_path: Path, module: nn.Module, calibration: Path, name: str, reason: str
) -> None:
    torch.save(module.state_dict(), tmp_path / "weights.pth")
    line = refused(tmp_path / "weights.pth", "--module", name, "--calibration", calibration)
    assert "--module" in line
    assert reason in line


def test_module_without_calibration(refused: Refused, checkpoint: Path, factory: str) -> None:
    assert "pass --calibration FILE.npz" in refused(checkpoint, "--module", factory)
