import argparse
import json
import os
from pathlib import Path

import numpy as np
import pytest

from avsnn.cli import data
from avsnn.errors import InputError
from avsnn.train.data import avdigits, cache, catalogue


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
    entry, *others = json.loads(capsys.readouterr().out)
    assert entry["name"] == "avdigits"
    assert [other["name"] for other in others] == ["avdigits-events", "sloclas-sim", "pairs"]
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
    assert caught.value.found == "'avdigit'"
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


@pytest.mark.parametrize("name", ["avdigits-events", "sloclas-sim", "pairs"])
def test_info_explains_every_option(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info", name, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["arrays"]
    assert all(len(option["meaning"]) > 5 for option in facts["options"].values())
    assert run("info", name) == 0
    text = capsys.readouterr().out
    assert all(f"  {option}=" in text for option in facts["options"])


@pytest.mark.parametrize(
    ("name", "values", "shapes"),
    [
        ("avdigits-events", ("timesteps=4",), {"image": (4, 3, 2, 28, 28), "audio": (4, 3, 1, 28, 28), "label": (3,)}),
        ("sloclas-sim", ("frames=2",), {"gcc": (3, 2, 306), "mel": (3, 2, 204), "label": (3,), "azimuth": (3,)}),
    ],
)
def test_make_writes_what_info_promises(
    name: str, values: tuple[str, ...], shapes: dict[str, tuple[int, ...]], tmp_path: Path
) -> None:
    out = tmp_path / "x.npz"
    assert run("make", name, *values, "--count", "3", "--out", str(out)) == 0
    data = catalogue.make(name, 3, values=catalogue.parse(name, values), use_cache=False)
    promised = catalogue.find(name).arrays
    with np.load(out, allow_pickle=False) as file:
        assert {key: file[key].shape for key in file.files} == shapes
        for key in file.files:
            assert file[key].dtype == promised[key].dtype
            assert len(promised[key].shape) == file[key].ndim
            np.testing.assert_array_equal(file[key], {**data.inputs(), **data.targets()}[key])


def test_make_reads_pairs_of_the_user_and_says_what_it_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = avdigits.make(6, use_cache=False)
    wave = np.zeros((6, 8000), np.int16)
    np.savez(tmp_path / "own.npz", image=given.image, label=given.label, wave=wave, rate=np.array(8000))
    out = tmp_path / "x.npz"
    assert run("make", "pairs", f"root={tmp_path / 'own.npz'}", "--split", "all", "--out", str(out), "--json") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["count"] == 6
    assert "6 sounds are silent" in printed.err
    assert "resampled to 16000 Hz" in printed.err
    with np.load(out) as file:
        assert file["image"].dtype == file["audio"].dtype == np.uint8


def test_options_are_checked_before_the_work(tmp_path: Path) -> None:
    out = str(tmp_path / "x.npz")
    with pytest.raises(InputError, match="did you mean timesteps"):
        run("make", "avdigits-events", "timestep=4", "--count", "1", "--out", out)
    with pytest.raises(InputError, match="count: is missing"):
        run("make", "sloclas-sim", "--out", out)
    with pytest.raises(InputError, match="unknown rooms"):
        run("make", "sloclas-sim", "rooms=all", "--count", "1", "--out", out)
    assert list(tmp_path.iterdir()) == []
