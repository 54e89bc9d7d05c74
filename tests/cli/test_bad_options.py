"""Options and data that cannot work: one line, exit code 2, and nothing written."""

from __future__ import annotations

import errno
import io
import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from avsnn.hw_profiles.profile import load_profile
from tests.cli.conftest import listing

Command = Callable[..., tuple[int, str, str]]
Refused = Callable[..., str]
Array = Any  # numpy 1 and 2 type the arguments of savez differently


@pytest.fixture
def refused(avsnn: Command, checkpoint: Path, tmp_path: Path) -> Refused:
    """Convert with options that are refused in one line; return the line."""

    def check(*options: object) -> str:
        place = tmp_path / "place"
        place.mkdir(exist_ok=True)
        code, out, err = avsnn("convert", checkpoint, "--out", place / "net", "--backend", "cpu", *options)
        assert (code, out, len(err.splitlines())) == (2, "", 1), err
        assert not list(place.iterdir())
        return err

    return check


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--target", "loihi9"], "loihi9"),
        (["--profiles", "loihi2,loihi9"], "loihi9"),
        (["--target", "nowhere/chip.toml"], "nowhere/chip.toml: cannot read profile"),
        (["--samples", "0"], "--samples: must be above zero, found 0"),
        (["--samples", "-3"], "--samples: must be above zero, found -3"),
        (["--timeout", "nan"], "--timeout: must be above zero"),
        (["--seed", "-1"], "--seed: must not be negative"),
        (["--timesteps", "8"], "--timesteps: a checkpoint has its own steps"),
        (["--attention-neurons", "0"], "--attention-neurons: must be above zero, found 0"),
        (["--weight-bits", "99"], "loihi2: weight bits out of range, found 99, limit 2 to 8"),
        (["--weight-bits", "1"], "weight bits out of range, found 1"),
        (["--data", "none.npz"], "none.npz: no such file or data set, limit avdigits"),
        (["--calibration", "none.npz"], "none.npz: no such file"),
    ],
)
def test_values(refused: Refused, options: list[str], expected: str) -> None:
    assert expected in refused(*options)


def test_unknown_target_lists_the_known(refused: Refused) -> None:
    line = refused("--target", "loihi9")
    for name in ("loihi2", "loihi1", "cpu"):
        assert name in line


def test_target_that_is_only_a_price_list(refused: Refused) -> None:
    assert "cmos45" in refused("--target", "cmos45")


def test_typo_in_a_profile(refused: Refused, tmp_path: Path) -> None:
    text = Path(load_profile("loihi2").path).read_text(encoding="utf-8")
    assert "delay_steps_max" in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace("delay_steps_max", "delay_step_max"), encoding="utf-8")
    line = refused("--target", path)
    assert "delay_step_max" in line
    assert "delay_steps_max" in line.replace("delay_step_max", "")


def test_profile_that_is_no_toml(refused: Refused, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("chip: {", encoding="utf-8")
    assert f"{path}:1: not a TOML file" in refused("--target", path)


def test_no_lava(avsnn: Command, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "place"
    place.mkdir()
    for name in ("HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AVSNN_LAVA_PYTHON", "/nonexistent/python")
    code, out, err = avsnn("convert", checkpoint, "--out", place / "net")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    for part in ("/nonexistent/python", "avsnn lava install", "--backend cpu"):
        assert part in err
    assert not list(place.iterdir())


# Output folders


def test_existing_output(avsnn: Command, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.tex").write_text("years")
    for name in ("manifest.json", "report.json"):  # other programs have files of these names
        (out / name).write_text('{"name": "my web page"}')
    for options, expected in ([], "--force to replace it"), (["--force"], "refusing to replace what is not a bundle"):
        code, _, err = avsnn("convert", checkpoint, "--out", out, "--backend", "cpu", *options)
        assert (code, len(err.splitlines())) == (2, 1)
        assert f"{out}: " in err
        assert expected in err
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "report.json", "thesis.tex"]
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("kind", ["file", "link", "broken link"])
def test_output_that_is_no_folder(avsnn: Command, checkpoint: Path, bundle: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    else:
        out.symlink_to(bundle if kind == "link" else tmp_path / "nowhere")
    for options in [], ["--force"]:
        code, _, err = avsnn("convert", checkpoint, "--out", out, "--backend", "cpu", *options)
        assert (code, len(err.splitlines())) == (2, 1)
        assert f"{out}: " in err
    assert (bundle / "manifest.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_output_below_a_file(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for out in tmp_path / "file" / "net", tmp_path / "file" / "deep" / "net":
        line = refused("--out", out)
        assert "cannot be written (Not a directory)" in line
        assert "choose another --out" in line


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no /proc")
@pytest.mark.parametrize("name", ["none", "none/net"])
def test_output_that_the_system_refuses(refused: Refused, name: str) -> None:
    line = refused("--out", f"/proc/{name}")
    assert line.startswith("avsnn: /proc/")
    assert "cannot be written" in line


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_output_in_a_protected_folder(refused: Refused, tmp_path: Path) -> None:
    folder = tmp_path / "protected"
    folder.mkdir(mode=0o500)
    assert "Permission denied" in refused("--out", folder / "net")
    assert not list(folder.iterdir())


def test_name_that_is_too_long(refused: Refused, tmp_path: Path) -> None:
    assert "File name too long" in refused("--out", tmp_path / ("n" * 300))


def test_folders_above_are_removed_again(avsnn: Command, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    code, *_ = avsnn("convert", tmp_path / "none.pt", "--out", tmp_path / "kept" / "a" / "b" / "net")
    assert code == 2
    assert [path.name for path in tmp_path.rglob("*")] == ["kept"]


@pytest.mark.parametrize("part", ["manifest.json", "scheduled.npz"])
def test_full_disk(refused: Refused, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    """The disk is full when this file is to be written."""
    text, handle = Path.write_text, os.fdopen

    def write_text(path: Path, *arguments: Any, **options: Any) -> int:
        if path.name == part:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return text(path, *arguments, **options)

    def fdopen(number: int, *arguments: Any, **options: Any) -> Any:
        if part in os.readlink(f"/proc/self/fd/{number}"):
            os.close(number)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return handle(number, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", write_text)
    monkeypatch.setattr(os, "fdopen", fdopen)
    assert "No space left on device" in refused()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", "size=64k", "none", str(place)]
    if mount is None or os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a small file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_full_small_disk(refused: Refused, small_disk: Path) -> None:
    assert "No space left on device" in refused("--out", small_disk / "deep" / "net")
    assert not list(small_disk.iterdir())


# Labelled samples


@pytest.fixture
def arrays() -> dict[str, Array]:
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, size=(6, 1, 12, 12)) / 255,
        "audio": rng.integers(0, 256, size=(6, 1, 8, 8)) / 255,
        "label": np.arange(6) % 4,
    }


def spoilt(arrays: dict[str, Array], how: str) -> dict[str, Array]:
    match how:
        case "no label":
            del arrays["label"]
        case "no audio":
            del arrays["audio"]
        case "other name":
            arrays["sound"] = arrays["audio"]
        case "shape":
            arrays["image"] = arrays["image"][:, :, :11]
        case "channels":
            arrays["image"] = arrays["image"][:, 0]
        case "range":
            arrays["image"] = arrays["image"] * 255
        case "nan":
            arrays["audio"][5, 0, 0, 0] = np.nan
        case "last out of range":
            arrays["audio"][5, 0, 0, 0] = 1.5
        case "fewer labels":
            arrays["label"] = arrays["label"][:5]
        case "fewer images":
            arrays["image"] = arrays["image"][:5]
        case "no samples":
            arrays = {name: array[:0] for name, array in arrays.items()}
        case "fractions as labels":
            arrays["label"] = arrays["label"] + 0.5
        case "class 4":
            arrays["label"][0] = 4
        case "class -1":
            arrays["label"][0] = -1
        case "rows of labels":
            arrays["label"] = np.eye(4, dtype=np.int64)[arrays["label"]]
        case "words":
            arrays["image"] = np.array(["cat"] * 6)
        case "complex":
            arrays["image"] = arrays["image"] * 1j
    return arrays


SPOILT = {
    "no label": "no array 'label'",
    "no audio": "audio: input missing",
    "other name": "no such input, found sound, limit image, audio",
    "shape": "image: wrong input shape, found (6, 1, 11, 12)",
    "channels": "image: wrong input shape",
    "range": "image: input outside its declared range",
    "nan": "audio: input holds NaN or infinity",
    "last out of range": "audio: input outside its declared range",
    "fewer labels": "numbers of samples do not fit, found 5 of label, 6 of image, 6 of audio",
    "fewer images": "numbers of samples do not fit",
    "no samples": "numbers of samples do not fit, found 0 of label",
    "fractions as labels": "label: labels must be a row of integers",
    "class 4": "label: label of no class, found 0 to 4, limit 0 to 3",
    "class -1": "label: label of no class",
    "rows of labels": "label: labels must be a row of integers",
    "words": "image: not an array of numbers",
    "complex": "image: not an array of numbers",
}


@pytest.mark.parametrize(("how", "expected"), SPOILT.items())
def test_data(
    refused: Refused, avsnn: Command, bundle: Path, arrays: dict[str, Array], tmp_path: Path, how: str, expected: str
) -> None:
    path = tmp_path / "test.npz"
    np.savez(path, **spoilt(arrays, how))
    line = refused("--data", path, "--samples", "2")
    assert f"{path}: " in line
    assert expected in line
    if how != "no label":  # labels are optional for running
        code, out, err = avsnn("run", bundle, "--data", path)
        assert (code, out, len(err.splitlines())) == (2, "", 1), err
        assert f"{path}: " in err
        assert expected in err


def not_npz(kind: str) -> bytes:
    buffer = io.BytesIO()
    match kind:
        case "text":
            return b"0.5 0.25\n"
        case "npy":
            np.save(buffer, np.zeros(3))
        case "pickle":
            np.savez(buffer, image=np.array([{}], dtype=object), label=np.zeros(1, dtype=np.int64))
        case "cut":
            np.savez(buffer, image=np.zeros(100), label=np.zeros(1, dtype=np.int64))
            return buffer.getvalue()[:-50]
        case "damaged":
            np.savez(buffer, image=np.zeros(100), label=np.zeros(1, dtype=np.int64))
            return buffer.getvalue().replace(b"\0" * 300, b"\0" * 150 + b"\1" * 150)
        case "other zip":
            with zipfile.ZipFile(buffer, "w") as file:
                file.writestr("label", "not an array")
        case "huge":
            header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000000,), }"
            array = b"\x93NUMPY\x01\x00" + len(header + b"\n").to_bytes(2, "little") + header + b"\n"
            with zipfile.ZipFile(buffer, "w") as file:
                file.writestr("label.npy", array)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["text", "npy", "pickle", "cut", "damaged", "other zip", "huge"])
@pytest.mark.parametrize("option", ["--data", "--calibration"])
def test_files_that_hold_no_arrays(refused: Refused, tmp_path: Path, kind: str, option: str) -> None:
    path = tmp_path / "test.npz"
    path.write_bytes(not_npz(kind))
    line = refused(option, path)
    assert str(path) in line
    assert "numpy.savez" in line


@pytest.mark.parametrize("how", ["no audio", "shape", "range", "nan", "no samples"])
def test_calibration(refused: Refused, arrays: dict[str, Array], tmp_path: Path, how: str) -> None:
    path = tmp_path / "train.npz"
    np.savez(path, **spoilt(arrays, how))
    line = refused("--calibration", path)
    assert f"{path}: " in line
    assert SPOILT[how].removesuffix("0 of label") in line


@pytest.mark.parametrize("how", ["no audio", "other name", "nan", "no samples", "fewer images", "one number"])
def test_calibration_of_a_module(
    avsnn: Command, arrays: dict[str, Array], module: nn.Module, factory: str, tmp_path: Path, how: str
) -> None:
    torch.save(module.state_dict(), tmp_path / "weights.pth")
    if how == "one number":
        arrays["image"] = np.array(0.5)
    np.savez(tmp_path / "train.npz", **spoilt(arrays, how))
    options = ["--module", factory, "--calibration", tmp_path / "train.npz", "--out", tmp_path / "net"]
    code, out, err = avsnn("convert", tmp_path / "weights.pth", "--backend", "cpu", *options)
    assert (code, out, len(err.splitlines())) == (2, "", 1), err
    assert not (tmp_path / "net").exists()


# Running and reporting


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--samples", "0"], "--samples: must be above zero"),
        (["--record", "nobody"], "no population 'nobody'; there are: image.patches.0.lif"),
        (["--backend", "cpu", "--stage", "folded"], "cpu runs scheduled graphs"),
        (["--backend", "reference", "--stage", "baked"], "unknown stage"),
        (["--out", "/proc/none/out.npz"], "cannot write"),
    ],
)
def test_run_options(
    avsnn: Command, bundle: Path, arrays: dict[str, Array], tmp_path: Path, options: list[str], expected: str
) -> None:
    path = tmp_path / "test.npz"
    np.savez(path, **arrays)
    code, out, err = avsnn("run", bundle, "--data", path, *options)
    assert (code, out, len(err.splitlines())) == (2, "", 1), err
    assert expected in err


def test_run_keeps_what_is_there(avsnn: Command, bundle: Path, arrays: dict[str, Array], tmp_path: Path) -> None:
    path = tmp_path / "test.npz"
    np.savez(path, **arrays)
    before = path.read_bytes()
    code, _, err = avsnn("run", bundle, "--data", path, "--out", path)
    assert code == 2
    assert "--force to replace it" in err
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["{bundle}", "--html", "{tmp}/a"], "a page shows one bundle"),
        (["{bundle}/../{name}"], "the same bundle twice"),
        (["--html", "{bundle}/report.html", "--force"], "whose files are sealed"),
        (["--csv", "{bundle}/new.csv"], "whose files are sealed"),
        (["--csv", "{tmp}/a", "--html", "{tmp}/a"], "the same file as --html"),
        (["--csv", "{tmp}/none/a"], "cannot be written"),
        (["--csv", "{tmp}", "--force"], "exists already"),
    ],
)
def test_reports_that_cannot_be_written(
    avsnn: Command, bundle: Path, tmp_path: Path, options: list[str], expected: str
) -> None:
    filled = [part.format(bundle=bundle, tmp=tmp_path, name=bundle.name) for part in options]
    before = listing(bundle)
    code, out, err = avsnn("report", bundle, *filled)
    assert (code, out, len(err.splitlines())) == (2, "", 1), err
    assert expected in err
    assert (listing(bundle), listing(tmp_path)) == (before, [])


@pytest.mark.parametrize("command", ["run", "report"])
def test_no_bundle(avsnn: Command, tmp_path: Path, command: str) -> None:
    (tmp_path / "text").write_text("hello")
    for place in "none", "text", ".":
        options = ["--data", "avdigits"] if command == "run" else []
        code, out, err = avsnn(command, tmp_path / place, *options)
        assert (code, out, len(err.splitlines())) == (2, "", 1), err
        assert "not a bundle" in err
        assert "avsnn-convert writes one" in err
