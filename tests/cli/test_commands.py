"""What the commands do when all is well."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from avsnn import __version__
from avsnn.cli.main import COMMANDS
from avsnn.convert.bundle import Bundle
from avsnn.deploy.run import run
from avsnn.hw_profiles.profile import profile_names
from tests.report_schema import problems

Command = Callable[..., tuple[int, str, str]]
MODELS = Path(__file__).parents[2] / "examples" / "models"


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten labelled samples."""
    rng = np.random.default_rng(3)
    path = tmp_path_factory.mktemp("data") / "test.npz"
    image, audio = (rng.integers(0, 256, size=(10, 1, n, n)) / 255 for n in (12, 8))
    np.savez(path, image=image, audio=audio, label=np.arange(10) % 4)
    return path


def content(bundle: Path) -> dict[str, str]:
    """Digest of every file except the one that holds times."""
    files = (path for path in bundle.rglob("*") if path.is_file() and path.name != "timing.json")
    return {str(path.relative_to(bundle)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# Convert


def test_convert_for_the_chip(avsnn: Command, checkpoint: Path, labelled: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "net"
    code, text, err = avsnn("convert", checkpoint, "--out", out, "--backend", "cpu", "--data", labelled, "--json")
    assert (code, err) == (0, "")
    report = json.loads(text)
    assert report["out"] == str(out)
    assert report["meta"]["target"] == "loihi2"
    assert {check["name"] for check in report["executions"]} == {"CPU simulator = reference"}
    for check in (*report["proofs"], *report["executions"]):
        assert check["mismatches"] == 0
        assert check["compared"] > 1000
    assert not any(check["silent"] for check in report["executions"])
    assert report["executions"][0]["controls_noticed"]
    assert report["accuracy"]["samples"] == 10
    assert set(report["accuracy"]["stages"]) == {"float", "quantised"}
    assert report["counts"]
    assert set(report["energy"]) == set(profile_names("pricing"))
    assert report["capabilities"]["by_answer"]["native"] > 10
    assert report["timing"]["CPU simulator"] > 0
    assert sorted(path.name for path in out.iterdir()) == [
        "graphs",
        "lava",
        "manifest.json",
        "report.html",
        "report.json",
        "timing.json",
        "verification.json",
    ]
    assert [path.name for path in out.parent.iterdir()] == ["net"]
    assert out.stat().st_mode & 0o777 == (tmp_path / "deep").stat().st_mode & 0o777


def test_convert_for_the_cpu(avsnn: Command, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "net"
    code, text, err = avsnn("convert", checkpoint, "--target", "cpu", "--out", out, "--samples", "5")
    assert (code, err) == (0, "")
    assert "CPU simulator = reference" in text
    assert "generated inputs" in text
    assert f"avsnn-run {out} --data FILE.npz" in text
    assert not (out / "lava").exists()
    assert Bundle.load(out).meta["target"] == "cpu"


def test_a_network_that_only_hears_takes_its_part_of_embedded_data(avsnn: Command, tmp_path: Path) -> None:
    """It was refused, because the data set has pictures as well."""
    out, model = tmp_path / "net", MODELS / "audio-snn-tiny.pt"
    code, text, err = avsnn("convert", model, "--backend", "cpu", "--out", out, "--samples", "2")
    assert (code, err) == (0, "")
    assert "Accuracy on 500 samples of avdigits" in text
    code, text, err = avsnn("run", out, "--data", "avdigits", "--samples", "20")
    assert (code, err) == (0, "")
    assert "of 20;" in text


def test_same_inputs_same_bytes(avsnn: Command, checkpoint: Path, bundle: Path, tmp_path: Path) -> None:
    before = content(bundle)
    code, text, _ = avsnn("convert", checkpoint, "--out", tmp_path / "net", "--backend", "cpu", "--samples", "4")
    assert code == 0
    assert content(tmp_path / "net") == before
    assert "Not run in Lava (--backend cpu): the lava/ export is written, but unproved." in text
    assert "Lava = reference" not in text


def test_force_replaces_a_bundle(avsnn: Command, checkpoint: Path, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "net"
    shutil.copytree(bundle, out)
    (out / "graphs" / "old.txt").write_text("of another version")
    options = ["--out", out, "--backend", "cpu", "--samples", "4", "--force"]
    assert avsnn("convert", checkpoint, *options)[0] == 0
    assert content(out) == content(bundle)
    assert [path.name for path in tmp_path.iterdir()] == ["net"]


def test_convert_with_fewer_bits(avsnn: Command, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "net"
    code, *_ = avsnn("convert", checkpoint, "--out", out, "--backend", "cpu", "--samples", "2", "--weight-bits", "6")
    assert code == 0
    bundle = Bundle.load(out)
    assert bundle.meta["weight_bits"] == 6
    largest = max(int(np.abs(n.weight_mant).max()) for n in bundle.graph("scheduled") if hasattr(n, "weight_mant"))
    assert 32 < largest <= 64


def test_convert_a_module(
    avsnn: Command, module: nn.Module, calibration: Path, factory: str, bundle: Path, tmp_path: Path
) -> None:
    """The same network from a state dict gives the same integers as from the checkpoint."""
    torch.save(module.state_dict(), tmp_path / "weights.pth")
    out = tmp_path / "net"
    options = ["--out", out, "--backend", "cpu", "--samples", "4"]
    code, _, err = avsnn(
        "convert", tmp_path / "weights.pth", "--module", factory, "--calibration", calibration, *options
    )
    assert (code, err) == (0, "")
    assert content(out)["graphs/scheduled.json"] == content(bundle)["graphs/scheduled.json"]
    assert content(out)["graphs/scheduled.npz"] == content(bundle)["graphs/scheduled.npz"]


def test_calibration_of_ones_own(avsnn: Command, checkpoint: Path, calibration: Path, tmp_path: Path) -> None:
    out = tmp_path / "net"
    options = ["--out", out, "--backend", "cpu", "--samples", "2", "--calibration", calibration]
    code, _, err = avsnn("convert", checkpoint, *options)
    assert (code, err) == (0, "")


@pytest.mark.lava
def test_convert_with_lava(avsnn: Command, checkpoint: Path, labelled: Path, tmp_path: Path) -> None:
    code, text, err = avsnn(
        "convert", checkpoint, "--out", tmp_path / "net", "--samples", "6", "--timeout", 120, "--json"
    )
    assert (code, err) == (0, "")
    report = json.loads(text)
    rows = {check["name"]: check for check in report["executions"]}
    assert set(rows) == {"CPU simulator = reference", "Lava = reference"}
    for row in rows.values():
        assert row["mismatches"] == 0
        assert row["samples"] == 6
        assert row["silent"] == []
        assert row["controls_noticed"]
    assert rows["Lava = reference"]["compared"] == rows["CPU simulator = reference"]["compared"] > 10_000
    assert report["timing"]["Lava"] > 0

    with np.load(labelled) as data:
        np.savez(tmp_path / "few.npz", image=data["image"][:3], audio=data["audio"][:3])
    answers = {}
    for backend in ("cpu", "lava"):
        path = tmp_path / f"{backend}.npz"
        command = ["run", tmp_path / "net", "--data", tmp_path / "few.npz", "--backend", backend]
        assert avsnn(*command, "--record", "all", "--out", path, "--timeout", 120)[0] == 0
        with np.load(path) as file:
            answers[backend] = {name: file[name] for name in file.files if name != "meta.json"}
    assert answers["cpu"].keys() == answers["lava"].keys()
    for name, array in answers["cpu"].items():
        np.testing.assert_array_equal(answers["lava"][name], array, err_msg=name)


# Run


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_run(avsnn: Command, bundle: Path, labelled: Path, tmp_path: Path, backend: str) -> None:
    path = tmp_path / "spikes.npz"
    options = ["--backend", backend, "--record", "all", "--out", path, "--json"]
    code, text, err = avsnn("run", bundle, "--data", labelled, *options)
    assert (code, err) == (0, "")
    result = json.loads(text)
    assert (result["samples"], result["backend"]) == (10, backend)
    assert result["accuracy"]["count"] == 10

    with np.load(labelled) as file:
        data = {name: file[name] for name in ("image", "audio")}
        labels = file["label"]
    wanted = run(Bundle.load(bundle), data, record="all")
    with np.load(path, allow_pickle=False) as file:
        found = {name: file[name] for name in file.files if name != "meta.json"}
    np.testing.assert_array_equal(found.pop("raw"), wanted.raw)
    np.testing.assert_array_equal(found.pop("outputs"), wanted.outputs)
    assert set(found) == {f"{kind}.{name}" for name in wanted.spikes for kind in ("spikes", "u", "v")}
    for name, spikes in wanted.spikes.items():
        assert spikes.any()
        np.testing.assert_array_equal(found[f"spikes.{name}"], spikes)
        np.testing.assert_array_equal(found[f"u.{name}"], wanted.states[name]["u"])
        np.testing.assert_array_equal(found[f"v.{name}"], wanted.states[name]["v"])
        assert result["rates"][name] == pytest.approx(float(spikes.mean()))
    assert result["answers"] == wanted.raw.argmax(axis=1).tolist()
    assert result["accuracy"]["correct"] == int((wanted.raw.argmax(axis=1) == labels).sum())


@pytest.mark.parametrize("stage", ["traced", "folded", "quantised"])
def test_run_other_stages(avsnn: Command, bundle: Path, labelled: Path, stage: str) -> None:
    options = ["--backend", "reference", "--stage", stage, "--record", "image.patches.0.lif", "--json"]
    code, text, _ = avsnn("run", bundle, "--data", labelled, *options)
    assert code == 0
    assert json.loads(text)["rates"]["image.patches.0.lif"] > 0.05


def test_run_on_pixels_without_labels(avsnn: Command, bundle: Path, labelled: Path, tmp_path: Path) -> None:
    """uint8 stands for 0 to 1, as in the files that `avsnn data make` writes, with labels or without."""
    with np.load(labelled) as file:
        pixels = {name: np.rint(file[name] * 255).astype(np.uint8) for name in ("image", "audio")}
    np.savez(tmp_path / "pixels.npz", **pixels)
    found = [
        json.loads(avsnn("run", bundle, "--data", path, "--samples", "7", "--json")[1])
        for path in (labelled, tmp_path / "pixels.npz")
    ]
    assert found[0]["answers"] == found[1]["answers"]
    assert len(found[0]["answers"]) == 7
    assert "accuracy" not in found[1]


def test_run_prints_names(avsnn: Command, bundle: Path, labelled: Path) -> None:
    code, text, err = avsnn("run", bundle, "--data", labelled, "--samples", "2", "--record", "image.position.lif")
    assert (code, err) == (0, "")
    lines = text.splitlines()
    assert lines[0].startswith("sample 0: k")
    assert lines[0].endswith("(label ka)")
    assert lines[2].startswith("accuracy")
    assert "image.position.lif" in lines[3]
    assert "2 samples on cpu" in lines[-1]


# Report


def test_report(avsnn: Command, bundle: Path) -> None:
    code, text, err = avsnn("report", bundle)
    assert (code, err) == (0, "")
    for part in ("CPU simulator = reference", "image.patches.0.lif", "SOP stored", "loihi2", "Capabilities"):
        assert part in text
    code, text, err = avsnn("report", bundle, "--json")
    assert (code, err) == (0, "")
    assert json.loads(text) == json.loads((bundle / "report.json").read_text())


def test_a_report_keeps_its_schema_and_so_does_one_without_a_chip(
    avsnn: Command, bundle: Path, checkpoint: Path, tmp_path: Path
) -> None:
    assert avsnn("convert", checkpoint, "--target", "cpu", "--out", tmp_path / "net", "--samples", "4")[0] == 0
    for folder in (bundle, tmp_path / "net"):
        found = json.loads((folder / "report.json").read_text())
        options = "--backend cpu" if folder == bundle else "--target cpu"
        assert sorted(found["command"].split()) == sorted(f"avsnn-convert tiny.pt --samples 4 {options}".split())
        assert found["command"] in (folder / "report.html").read_text()
        assert problems(found) == []


def test_the_page_of_a_report_is_made_again(avsnn: Command, bundle: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    code, text, err = avsnn("report", bundle, "--html", page)
    assert (code, err) == (0, "")
    assert f"Written: {page}" in text
    assert page.read_bytes() == (bundle / "report.html").read_bytes()
    page.write_text("mine")
    code, _, err = avsnn("report", bundle, "--html", page)
    assert (code, page.read_text()) == (2, "mine")
    assert "--force to replace it" in err
    assert avsnn("report", bundle, "--html", page, "--force")[0] == 0
    assert page.read_bytes() == (bundle / "report.html").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_bundles_are_compared(avsnn: Command, bundle: Path, tmp_path: Path) -> None:
    other, layers = tmp_path / "other", tmp_path / "layers.csv"
    shutil.copytree(bundle, other)
    code, text, err = avsnn("report", bundle, other, "--csv", layers)
    assert (code, err) == (0, "")
    assert "SOP stored per sample" in text
    rows = layers.read_text().splitlines()
    assert len({row.split(",")[0] for row in rows[1:]}) == 2
    code, text, err = avsnn("report", bundle, other, "--json")
    assert (code, err) == (0, "")
    one, two = json.loads(text).values()
    assert one == two
    assert one["sop_stored_per_sample"] > 0


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def renamed(path: Path) -> None:
    manifest = path.parent / "manifest.json"
    value = json.loads(manifest.read_text())
    value["files"]["../secret"] = value["files"].pop("report.json")
    manifest.write_text(json.dumps(value))


TAMPERED: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "weights": ("graphs/scheduled.npz", flipped, "file of the bundle was changed, found graphs/scheduled.npz"),
    "report": ("report.json", flipped, "file of the bundle was changed, found report.json"),
    "export": ("lava/network.py", flipped, "file of the bundle was changed, found lava/network.py"),
    "deleted": ("graphs/folded.npz", Path.unlink, "file of the bundle is missing, found graphs/folded.npz"),
    "manifest": ("manifest.json", lambda path: path.write_text("{}"), "not a bundle"),
    "escaping": ("report.json", renamed, "path leads out of the bundle, found ../secret"),
    "times": ("timing.json", lambda path: path.write_text("{"), "timing.json: cannot be read"),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_report_after_tampering(avsnn: Command, bundle: Path, tmp_path: Path, case: str) -> None:
    name, tamper, expected = TAMPERED[case]
    copy = shutil.copytree(bundle, tmp_path / "net")
    tamper(copy / name)
    code, text, err = avsnn("report", copy)
    assert (code, text, len(err.splitlines())) == (2, "", 1), err
    assert expected in err


# All commands


def test_help_of_every_command_has_an_example(avsnn: Command) -> None:
    for command in COMMANDS:
        code, text, err = avsnn(command, "--help")
        assert (code, err) == (0, "")
        assert f"avsnn {command} " in text.replace("avsnn-", "avsnn ").partition("example")[2], command
        if command in ("train", "convert", "run", "report"):  # the others have it on each of their actions
            assert "--json" in text


def test_help_names_every_command(avsnn: Command) -> None:
    code, text, _ = avsnn("--help")
    assert code == 0
    for command in COMMANDS:
        assert f"\n    {command} " in text


@pytest.mark.parametrize("arguments", [[], ["fly"], ["convert"], ["convert", "net.pt"]])
def test_wrong_usage(avsnn: Command, arguments: list[str]) -> None:
    code, text, err = avsnn(*arguments)
    assert (code, text) == (2, "")
    assert err.startswith("usage: avsnn")


def test_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "avsnn", "--version"], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == f"avsnn {__version__}\n"


def test_reader_that_goes_away(bundle: Path) -> None:
    """As in ``avsnn report ... | head -1``."""
    program = [sys.executable, "-m", "avsnn", "report", str(bundle), "--json"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        err = process.stderr.read()
    assert (process.returncode, err) == (0, "")


def test_mistakes_of_ours_are_no_failed_verification(
    avsnn: Command, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_args: object) -> int:
        raise ZeroDivisionError("inside")

    monkeypatch.setattr("avsnn.cli.report.run", broken)
    code, _, err = avsnn("report", bundle)
    assert code == 2
    assert "ZeroDivisionError: inside" in err
    assert err.splitlines()[-1] == "avsnn: this is a bug; please report it with the lines above"
