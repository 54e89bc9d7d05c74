import argparse
import json
import os
from pathlib import Path

import numpy as np
import pytest

from avsnn.cli import data
from avsnn.errors import InputError
from avsnn.train.data import avdigits, cache


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser(prog="avsnn data")
    data.configure(parser)
    return data.run(parser.parse_args(arguments))


def make(out: Path, *more: str) -> int:
    return run("make", "avdigits", "--count", "12", "--split", "test", "--out", str(out), *more)


def test_list_names_the_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list") == 0
    assert "avdigits" in capsys.readouterr().out
    assert run("list", "--json") == 0
    [entry] = json.loads(capsys.readouterr().out)
    assert entry["name"] == "avdigits"
    assert entry["modalities"] == ["image", "audio"]
    assert entry["classes"] == 10
    assert entry["licence"]


def test_info_tells_shapes_splits_credits_and_hash(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info", "avdigits", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["frozen"]["sha256"] == avdigits.EVAL_SHA256
    assert facts["arrays"]["image"]["shape"] == ["count", 1, 28, 28]
    assert sum(split["images"] for split in facts["splits"].values()) == 1797
    assert run("info", "avdigits") == 0
    text = capsys.readouterr().out
    for part in (avdigits.EVAL_SHA256, "CC BY 4.0", "Flite", "rms", "val", "-9.2103..11.9013"):
        assert part in text


def test_make_writes_the_integers_of_the_library(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "pairs.npz"
    assert make(out, "--json") == 0
    printed = capsys.readouterr()
    facts = json.loads(printed.out)
    assert printed.err == ""  # no bar where there is no terminal
    expected = avdigits.make(12, split="test", use_cache=False)
    with np.load(out, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    assert sorted(arrays) == ["audio", "image", "label"]
    assert cache.digest(arrays) == cache.digest(expected.arrays()) == facts["sha256"]
    assert list(tmp_path.iterdir()) == [out]


def test_make_replaces_only_when_told_to(tmp_path: Path) -> None:
    out = tmp_path / "pairs.npz"
    out.write_text("precious")
    with pytest.raises(InputError, match="--force"):
        make(out)
    assert out.read_text() == "precious"
    assert make(out, "--force") == 0
    assert out.read_bytes().startswith(b"PK")


@pytest.mark.parametrize("verb", [("info",), ("make", "--count", "1", "--out", "never.npz")])
def test_an_unknown_name_lists_the_known_ones(verb: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as caught:
        run(verb[0], "avdigit", *verb[1:])
    assert caught.value.found == "avdigit"
    assert "avdigits" in str(caught.value.limit)
    assert caught.value.exit_code == 2


def test_places_that_cannot_be_written_are_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("worked before looking")

    monkeypatch.setattr(avdigits, "make", fail)
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(InputError, match="is a directory"):
        make(tmp_path, "--force")
    for out in (tmp_path / "absent" / "x.npz", file / "x.npz"):
        with pytest.raises(InputError, match="directory"):
            make(out)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match="cannot be written"):
        make(tmp_path / "x.npz")
    assert list(tmp_path.iterdir()) == [file]


def test_a_disk_that_fills_up_is_an_error_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(InputError, match="No space left"):
        make(tmp_path / "x.npz")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", [("--count", "0"), ("--level", "x"), ("--split", "x"), ("--seed", "-1")])
def test_bad_values_leave_no_file(tmp_path: Path, bad: tuple[str, str]) -> None:
    with pytest.raises(InputError) as caught:
        make(tmp_path / "x.npz", *bad)
    assert caught.value.limit
    assert list(tmp_path.iterdir()) == []
