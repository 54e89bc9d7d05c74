"""Fine-tuning from the command line: options, data, files, and what an interrupt leaves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avsnn.convert import finetune_loop
from avsnn.convert.bundle import Bundle
from tests.report_schema import problems

Command = Callable[..., tuple[int, str, str]]
COMMON = ("--backend", "cpu", "--samples", "4", "--weight-bits", "4", "--epochs", "2")


def twice(data: Path, out: Path) -> None:
    """Every sample once more, so that a batch is left when some are held back."""
    with np.load(data) as file:
        arrays: dict[str, Any] = {name: np.concatenate([file[name]] * 2) for name in file.files}
    np.savez(out, **arrays)


def test_a_bundle_with_trained_integers_says_so(
    avsnn: Command, checkpoint: Path, calibration: Path, tmp_path: Path
) -> None:
    out = tmp_path / "net"
    twice(calibration, tmp_path / "train.npz")
    files = ("--finetune", tmp_path / "train.npz", "--data", tmp_path / "train.npz", "--frontier", tmp_path / "curve")
    code, text, err = avsnn(
        "convert", checkpoint, "--out", out, *COMMON, *files, "--sop-budget", "0.85", "--epochs", "1", "--json"
    )
    assert (code, err) == (0, "")
    report = json.loads(text)
    assert problems(json.loads((out / "report.json").read_text())) == []
    assert report["finetuned"]["samples"] == {"file": "train.npz", "train": 44, "val": 4}
    assert "quantised = what was trained" in [proof["name"] for proof in report["proofs"]]
    assert not (tmp_path / "net.finetune").exists()
    options = Bundle.load(out).record["finetuned"]["options"]
    assert (options["sop_budget"], options["lr"], options["surrogate"]) == (0.85, 4e-3, "sigmoid")  # as the benchmark
    points = json.loads((tmp_path / "curve" / "frontier.json").read_text())
    assert [point["budget"] for point in points] == [1.0, 0.85]
    counts = report["counts"]
    assert points[-1]["operations_per_sample"] == counts["total"]["sop_stored"] / counts["samples"]
    assert "| 85 % |" in (tmp_path / "curve" / "frontier.md").read_text()
    assert (tmp_path / "curve" / "frontier.svg").read_text().count("<circle") == 2
    code, text, _ = avsnn("report", out)
    assert code == 0
    assert "fine-tuned on 44 samples of train.npz" in text


def test_a_run_that_was_interrupted_goes_on_to_the_same_bundle(
    avsnn: Command, checkpoint: Path, calibration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twice(calibration, tmp_path / "train.npz")
    asked = ("convert", checkpoint, *COMMON, "--finetune", tmp_path / "train.npz")
    assert avsnn(*asked, "--out", tmp_path / "whole")[0] == 0
    honest = finetune_loop.Tuner.run_epoch

    def stopped(self: finetune_loop.Tuner, on_batch: Callable[[int, int], None] | None = None) -> finetune_loop.Row:
        if self.rows:
            raise KeyboardInterrupt
        return honest(self, on_batch)

    monkeypatch.setattr(finetune_loop.Tuner, "run_epoch", stopped)
    code, _, err = avsnn(*asked, "--out", tmp_path / "net")
    assert code == 130
    assert "the same command with --resume goes on" in err
    assert not (tmp_path / "net").exists()
    assert (tmp_path / "net.finetune" / "budget-1" / "last.pt").exists()
    monkeypatch.undo()
    code, _, err = avsnn(*asked, "--out", tmp_path / "net")
    assert code == 2
    assert "pass --resume" in err
    assert avsnn(*asked, "--out", tmp_path / "net", "--resume")[0] == 0
    for name in ("manifest.json", "report.json", "verification.json"):
        assert (tmp_path / "net" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--sop-budget", "0.5"), "--sop-budget: needs training samples"),
        (("--resume",), "--resume: needs training samples"),
        (("--finetune", "nowhere.npz"), "nowhere.npz"),
        (("--finetune", "sloclas-sim"), "sloclas-sim: the data set has no such input"),
        (("--finetune", "avdigits", "--frontier", "curve"), "--frontier: needs labelled samples"),
        (("--finetune", "avdigits", "--epochs", "0"), "epochs: is too small"),
        (("--finetune", "avdigits", "--sop-budget", "2"), "sop_budget: is not a share"),
    ],
)
def test_bad_options(avsnn: Command, checkpoint: Path, tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    code, _, err = avsnn("convert", checkpoint, "--out", tmp_path / "net", "--backend", "cpu", *options)
    assert code == 2
    assert said in err
    assert not list(tmp_path.iterdir())
