"""The examples run as they stand, warnings being errors."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
MODEL = EXAMPLES / "models" / "avdigits-tiny.pt"
NORSE = "ignore:`torch.jit.script` is deprecated:DeprecationWarning"  # what norse calls when it is imported


def run(name: str, *arguments: str, folder: Path) -> str:
    """Run an example outside the checkout, without the user's cache, and return what it printed."""
    own = {"AVSNN_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", NORSE, str(EXAMPLES / name), *arguments],
        cwd=folder,
        env=os.environ | own,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_numbered_example_has_a_test() -> None:
    named = set(re.findall(r"\d\d_\w+\.py", Path(__file__).read_text(encoding="utf-8")))
    assert {p.name for p in EXAMPLES.glob("[0-9]*.py")} == named


@pytest.mark.slow
@pytest.mark.skipif(not MODEL.exists(), reason="the shipped network is not in this checkout")
def test_convert_and_run(tmp_path: Path) -> None:
    text = run("01_convert_and_run.py", folder=tmp_path)
    (accuracy,) = re.findall(r"accuracy of the integers: ([\d.]+)", text)
    assert float(accuracy) > 0.7, "the shipped network was trained to more"
    assert "scheduled = quantised" in text
    assert set(re.findall(r"values, (\d+) differ", text)) == {"0"}
    assert "Intel Loihi 2" in text
    assert "estimate" in text


def test_your_own_network(tmp_path: Path) -> None:
    text = run("02_your_own_network.py", "mine.pt", folder=tmp_path)
    real, whole = (float(x) for x in re.findall(r"^(?:float|integers) +([\d.]+)", text, flags=re.MULTILINE))
    assert real > 0.3, "a few seconds of training beat chance, which is 0.1"
    assert abs(real - whole) < 0.05
    assert "head@pool#2: waits 1 steps" in text, "the skip is one synapse shorter"
    assert (tmp_path / "mine.pt").is_file()


@pytest.mark.skipif(importlib.util.find_spec("norse") is None, reason="norse is not installed (requirements/norse.txt)")
def test_a_network_of_norse(tmp_path: Path) -> None:
    text = run("03_resnet_norse.py", folder=tmp_path)
    real, whole = (float(x) for x in re.findall(r"^(?:float|integers) +([\d.]+)", text, flags=re.MULTILINE))
    assert real > 0.25, "some seconds of training beat chance, which is 0.1"
    assert abs(real - whole) < 0.05
    assert set(re.findall(r"^([\w.@]+): waits 2 steps", text, flags=re.MULTILINE)) == {"down.0@lif", "mean@lif_down"}
    assert len(re.findall(r"^[\w.]+: [\d.]+ % spikes$", text, flags=re.MULTILINE)) == 6
