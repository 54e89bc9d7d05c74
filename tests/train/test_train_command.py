"""``avsnn-train``: a run, its files, a kill and a resume, an interrupt, an evaluation, and what users get wrong."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from avsnn.cli.main import main
from avsnn.train import checkpoints

SMALL = ["scmrl", "dim=8", "mlp_ratio=1", "--pairs", "60", "--val-pairs", "20", "--batch", "20", "--seed", "4"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _environment(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVSNN_CACHE", str(cache))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


# Trains, but stays in the middle of the epoch after the given number of finished ones.
HOLD = """
import sys, time
from avsnn.cli.main import main
from avsnn.train.loop import Trainer

run_epoch = Trainer.run_epoch

def held(self, on_batch=None):
    def stay(done, total):
        print("holding", flush=True)
        time.sleep(600)
    return run_epoch(self, on_batch if len(self.rows) < int(sys.argv[1]) else stay)

Trainer.run_epoch = held
raise SystemExit(main(["train", *sys.argv[2:]]))
"""


def start_and_hold(epochs: int, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, str(epochs), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert any(line == "holding\n" for line in process.stdout), process.communicate()
    return process


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    out = tmp_path_factory.mktemp("run") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AVSNN_CACHE", str(cache))
        assert main(["train", *SMALL, "--epochs", "8", "--out", str(out)]) == 0
    return out


def test_run_leaves_a_checkpoint_and_metrics(finished: Path) -> None:
    assert sorted(path.name for path in finished.iterdir()) == [
        "last.pt",
        "metrics.jsonl",
        "model-best.pt",
        "model.pt",
        "run.json",
    ]
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == list(range(1, 9))
    assert {"loss", "train_accuracy", "val_accuracy", "rates", "seconds"} <= rows[0].keys()
    assert len(rows[0]["rates"]) == 10
    checkpoint = checkpoints.load(finished / "model.pt")
    assert checkpoint.training["options"]["seed"] == 4
    assert checkpoint.training["command"].startswith("avsnn-train scmrl --data avdigits --preset tiny --epochs 8")
    assert "dim=8" in checkpoint.training["command"].split()
    assert checkpoint.training["val"]["count"] == 20
    assert checkpoint.calibration["image"].shape == (60, 1, 28, 28)
    grid = checkpoint.calibration["audio"] * np.float32(255)
    np.testing.assert_allclose(grid, np.round(grid), atol=1e-4)


def test_recorded_command_gives_the_same_run(finished: Path, tmp_path: Path) -> None:
    command = checkpoints.load(finished / "model.pt").training["command"].split()
    assert main([*command[0].split("-")[1:], *command[1:], "--out", str(tmp_path / "again")]) == 0
    for name in ("run.json", "model.pt", "model-best.pt"):
        assert (tmp_path / "again" / name).read_bytes() == (finished / name).read_bytes()


def test_killed_and_interrupted_run_ends_with_the_same_bytes(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "stopped"
    killed = start_and_hold(2, *SMALL, "--epochs", "8", "--out", str(out))
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not (out / "model.pt").exists()
    interrupted = start_and_hold(4, "--resume", "--out", str(out))
    interrupted.send_signal(signal.SIGINT)
    _, errors = interrupted.communicate(timeout=30)
    assert interrupted.returncode == 130, errors
    assert f"go on with: avsnn-train --resume --out {out}" in errors
    assert not (out / "model.pt").exists()
    assert main(["train", "--resume", "--out", str(out)]) == 0
    for name in ("model.pt", "model-best.pt"):
        assert (out / name).read_bytes() == (finished / name).read_bytes()


def test_best_checkpoint_is_the_epoch_that_did_best(finished: Path) -> None:
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    best = max(rows, key=lambda row: (row["val_accuracy"], -row["val_loss"]))
    training = checkpoints.load(finished / "model-best.pt").training
    assert training["epoch"] == best["epoch"]
    assert training["val"]["accuracy"] == best["val_accuracy"]
    assert checkpoints.load(finished / "model.pt").training["epoch"] == 8


def test_evaluate_prints_accuracy_with_interval(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--evaluate", str(finished / "model.pt"), "--pairs", "30", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["split"], result["seed"], result["count"]) == ("test", 2, 30)
    assert result["interval95"][0] <= result["accuracy"] <= result["interval95"][1]
    assert main(["train", "--evaluate", str(finished / "model.pt"), "--pairs", "30"]) == 0
    assert f"({result['correct']} of 30; 95 % interval" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["scmrl"], "--out: is missing"),
        (["--out", "{new}"], "model: is missing"),
        (["resnet", "--out", "{new}"], "limit scmrl"),
        (["scmrl", "dims=8", "--out", "{new}"], "did you mean dim?"),
        (["scmrl", "--out", "{new}", "dims=8"], "did you mean dim?"),
        (["scmrl", "--preset", "tin", "--out", "{new}"], "did you mean tiny?"),
        (["scmrl", "--data", "mnist", "--out", "{new}"], "limit avdigits"),
        (["scmrl", "--data", "avdigit", "--out", "{new}"], "did you mean avdigits?"),
        (["scmrl", "data.levle=mid", "--out", "{new}"], "did you mean level?"),
        (["scmrl", "--loss", "cross", "--out", "{new}"], "did you mean cross_entropy?"),
        (["scmrl", "loss.smoothing=0.1", "--out", "{new}"], "did you mean label_smoothing?"),
        (["scmrl", "--loss", "spike_count", "loss.high=2.0", "--out", "{new}"], "rates must rise"),
        (["scmrl", "epochs=3", "--out", "{new}"], "pass --epochs 3"),
        (["scmrl", "--schedule", "cosin", "--out", "{new}"], "did you mean cosine?"),
        (["scmrl", "--device", "tpu", "--out", "{new}"], "limit auto, cpu, cuda"),
        (["scmrl", "--epochs", "0", "--out", "{new}"], "epochs: is too small"),
        (["scmrl", "--pairs", "20", "--out", "{new}"], "larger than the training set"),
        (["scmrl", "--out", "{old}"], "already holds a run"),
        (["--resume", "--out", "{new}"], "no run to resume"),
        (["--resume", "--lr", "0.5", "--out", "{old}"], "lr: differs from the run"),
        (["scmrl", "dim=16", "--resume", "--out", "{old}"], "dim: differs from the run"),
        (["scmrl", "--label-smoothing", "0.3", "--resume", "--out", "{old}"], "label_smoothing: differs from the run"),
        (["--resume", "--no-amp", "--out", "{old}"], "amp: differs from the run"),
        (["--evaluate", "{old}/nothing.pt"], "no such file"),
        (["--evaluate", "{old}/last.pt"], "torch pickle"),
        (["--evaluate", "{old}/model.pt", "--epochs", "3"], "no meaning with --evaluate"),
    ],
)
def test_mistakes_end_with_one_clear_line(
    arguments: list[str], word: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [text.format(new=tmp_path / "new", old=finished) for text in arguments]
    assert main(["train", *filled]) == 2
    errors = capsys.readouterr().err
    assert word in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "new").exists()


def test_directions_are_trained_and_measured_and_an_ordinary_network_is_refused_by_the_compiler(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["--pairs", "16", "--val-pairs", "4", "--batch", "8", "--epochs", "1", "--schedule", "constant"]
    assert main(["train", "slc-net", "--data", "sloclas-sim", *sizes, "--out", str(tmp_path / "run"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    row = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    assert {"val_mae_deg", "val_doa_accuracy", "val_joint", "dead"} <= row.keys()
    assert main(["train", "--evaluate", result["best"], "--pairs", "6", "--json"]) == 0
    seen = json.loads(capsys.readouterr().out)
    assert seen["localisation"]["joint"]["count"] == seen["count"] == sum(seen["confusion"]["samples"]) == 6
    assert main(["convert", result["checkpoint"], "--out", str(tmp_path / "bundle")]) == 2
    assert "have no rule" in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()
