"""What `archive` writes comes back; everything else is refused before it can do harm."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from avsnn import archive
from avsnn.errors import CheckpointError

ARRAYS = {
    "state.conv.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "graph.a0001": np.array([True, False]),
    "empty": np.zeros((0, 4), np.int64),
    "scalar": np.array(7, np.uint8),
    "net/lif#2": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
}
META = {"kind": "test", "numbers": [1, 2.5], "none": None}


def make(path: Path, entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archived:
        for name, content in entries.items():
            archived.writestr(name, content)
    return path


def npy(header: str, content: bytes = b"") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content


class Trap:
    """Unpickling this makes a directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_round_trip(tmp_path: Path) -> None:
    meta, arrays = archive.read(archive.write(tmp_path / "a.pt", META, ARRAYS))
    assert meta == META
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].flags.writeable


def test_same_content_same_bytes_and_no_rubbish(tmp_path: Path) -> None:
    first = archive.write(tmp_path / "a.pt", META, ARRAYS).read_bytes()
    turned = {name: ARRAYS[name] for name in reversed(ARRAYS)}
    assert archive.write(tmp_path / "a.pt", dict(reversed(META.items())), turned).read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


@pytest.mark.parametrize(
    ("meta", "arrays", "word"),
    [
        ({}, {"../up": np.zeros(1)}, "name"),
        ({}, {"/up": np.zeros(1)}, "name"),
        ({}, {"a": np.array([object()])}, "dtype"),
        ({}, {"a": np.zeros(1, complex)}, "dtype"),
        ({"a": float("nan")}, {}, "JSON"),
        ({"a": {1, 2}}, {}, "JSON"),
    ],
)
def test_write_refuses_what_read_would(
    tmp_path: Path, meta: dict[str, object], arrays: dict[str, archive.Array], word: str
) -> None:
    with pytest.raises(CheckpointError, match=word):
        archive.write(tmp_path / "a.pt", meta, arrays)
    assert not list(tmp_path.iterdir())


def test_write_into_nowhere(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot write"):
        archive.write(tmp_path / "missing" / "a.pt", META, ARRAYS)


def test_interrupt_right_after_the_rename_is_still_an_interrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.replace

    def rename_then_stop(source: str, target: Path) -> None:
        rename(source, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", rename_then_stop)
    with pytest.raises(KeyboardInterrupt):
        archive.write(tmp_path / "a.pt", META, ARRAYS)
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        archive.write(tmp_path / "b.pt", META, ARRAYS)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_pickles_never_run(tmp_path: Path) -> None:
    trap = Trap(tmp_path / "sprung")
    (tmp_path / "legacy.pt").write_bytes(pickle.dumps(trap))
    torch.save(trap, tmp_path / "zip.pt")
    hidden = io.BytesIO()
    np.save(hidden, np.array([trap], dtype=object), allow_pickle=True)
    make(tmp_path / "npy.pt", {"meta.json": b"{}", "a.npy": hidden.getvalue()})
    for name, word in (("legacy", "pickle.*--module"), ("zip", "torch pickle.*--module"), ("npy", "not allowed")):
        with pytest.raises(CheckpointError, match=word):
            archive.read(tmp_path / f"{name}.pt")
    assert not (tmp_path / "sprung").exists()


def test_not_a_file_of_ours(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "empty.pt").write_bytes(b"")
    whole = archive.write(tmp_path / "whole.pt", META, ARRAYS).read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    os.mkfifo(tmp_path / "pipe.pt")
    for name, word in {
        "missing": "no such file",
        "": "directory",
        "text": "no zip signature",
        "empty": "no zip signature",
        "cut": "damaged or truncated",
        "pipe": "regular",
    }.items():
        path = tmp_path / f"{name}.pt" if name else tmp_path
        with pytest.raises(CheckpointError, match=word) as caught:
            archive.read(path)
        assert str(path) in str(caught.value)


HOSTILE = {
    "escape": ({"meta.json": b"{}", "../a.npy": b""}, "name is not allowed"),
    "absolute": ({"meta.json": b"{}", "/a.npy": b""}, "name is not allowed"),
    "script": ({"meta.json": b"{}", "a.py": b""}, "name is not allowed"),
    "no meta": ({"a.npy": b""}, "has no meta.json"),
    "list": ({"meta.json": b"[]"}, "not an object"),
    "nan": ({"meta.json": b'{"a": NaN}'}, "not valid JSON"),
    "deep": ({"meta.json": b"[" * 200_000}, "not valid JSON"),
    "huge": (
        {"meta.json": b"{}", "a.npy": npy("{'descr': '<f8', 'fortran_order': False, 'shape': (10**15,)}")},
        "plain",
    ),
    "vast": (
        {"meta.json": b"{}", "a.npy": npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,)}")},
        "does not fit the entry",
    ),
    "negative": (
        {"meta.json": b"{}", "a.npy": npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, -1)}", b"12345678")},
        "does not fit the entry",
    ),
    "zero times vast": (
        {
            "meta.json": b"{}",
            "a.npy": npy("{'descr': '<f8', 'fortran_order': False, 'shape': (0, 99999999999999999999)}"),
        },
        "damaged",
    ),
    "short": ({"meta.json": b"{}", "a.npy": b"\x93NUMPY"}, "plain array"),
    "record": (
        {
            "meta.json": b"{}",
            "a.npy": npy("{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (1,)}", bytes(8)),
        },
        "not allowed",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_content(tmp_path: Path, case: str) -> None:
    entries, word = HOSTILE[case]
    with pytest.raises(CheckpointError, match=word):
        archive.read(make(tmp_path / "a.pt", entries))


def test_hostile_directory(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="compressed"):
        archive.read(make(tmp_path / "a.pt", {"meta.json": b" " * 100_000}, zipfile.ZIP_DEFLATED))
    twice = make(tmp_path / "b.pt", {"meta.json": b"{}", "mate.json": b"{}"})
    twice.write_bytes(twice.read_bytes().replace(b"mate", b"meta"))
    with pytest.raises(CheckpointError, match="twice"):
        archive.read(tmp_path / "b.pt")


def test_absurd_declared_size(tmp_path: Path) -> None:
    content = bytearray(make(tmp_path / "a.pt", {"meta.json": b"{}"}).read_bytes())
    for offset in (content.index(b"PK\x03\x04") + 18, content.index(b"PK\x01\x02") + 20):
        content[offset : offset + 8] = struct.pack("<II", 4_000_000_000, 4_000_000_000)
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match="more bytes than the file has"):
        archive.read(tmp_path / "a.pt")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damage_is_refused_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(archive.write(tmp_path / "a.pt", META, ARRAYS).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "a.pt").write_bytes(content[: data.draw(st.integers(len(content) - 40, len(content)))])
    try:
        meta, arrays = archive.read(tmp_path / "a.pt")
    except CheckpointError:
        return
    assert meta == META  # a changed byte in content breaks a checksum; dates and attributes mean nothing
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, ARRAYS[name])
