"""The README keeps its word: its Python runs, and the files and commands that it names are there."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from avsnn.cli.main import COMMANDS
from avsnn.train.checkpoints import load

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")
MODEL = ROOT / "examples" / "models" / "avdigits-tiny.pt"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.skipif(not MODEL.exists(), reason="the shipped network is not in this checkout")
def test_the_python_of_the_readme_runs(tmp_path: Path) -> None:
    (block,) = blocks("python")
    assert "convert(" in block
    assert "price(" in block
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    script = tmp_path / "block.py"
    script.write_text(block, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    accuracy = float(done.stdout.split()[1])
    assert accuracy > 0.5, "32 pairs by a network that was trained: chance is 0.1"
    assert "synaptic operations per pair" in done.stdout
    assert "estimate" in done.stdout
    assert (tmp_path / "build" / "api" / "manifest.json").is_file()


@pytest.mark.skipif(not MODEL.exists(), reason="the shipped network is not in this checkout")
def test_the_accuracies_are_those_in_the_checkpoint() -> None:
    record = load(MODEL).training["test"]
    for row, name in (("image and sound", "fused"), ("image only", "image"), ("sound only", "audio")):
        low, high = record[name]["interval95"]
        wanted = f"| {row} | {record[name]['accuracy']:.3f} | {low:.3f} to {high:.3f} |"
        assert wanted in README
        assert f"On {record[name]['count']:,} generated test pairs" in README


def test_the_tables_are_those_that_were_measured() -> None:
    module = runpy.run_path(str(ROOT / "benchmarks" / "readme_tables.py"))
    for name, table in module["tables"]().items():
        text = (ROOT / module["PLACES"].get(name, "README.md")).read_text(encoding="utf-8")
        assert f"<!-- table: {name} -->\n{table}\n<!-- table: end -->" in text, (
            f"run benchmarks/readme_tables.py: {name}"
        )


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_inside_the_repository_leads_somewhere(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in link]
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_command_is_in_the_table() -> None:
    named = set(re.findall(r"avsnn[- ]([a-z]+)", README))
    assert set(COMMANDS) <= named


def test_the_map_of_the_code_is_complete() -> None:
    """ARCHITECTURE.md has one line for every module, and names no file that is gone."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    listed = set(
        re.findall(r"^\| `((?:hw_profiles|train|convert|deploy|src)/[\w./]+\.py)` \|", text, flags=re.MULTILINE)
    )
    folders = [ROOT / folder for folder in ("hw_profiles", "train", "convert", "deploy")]
    files = {p for folder in folders for p in folder.rglob("*.py") if p.name != "__init__.py"}
    files |= {p for p in (ROOT / "src" / "avsnn").glob("*.py") if not p.name.startswith("__")}
    files |= {p for p in (ROOT / "src" / "avsnn" / "cli").glob("*.py") if p.name != "__init__.py"}
    there = {p.relative_to(ROOT).as_posix() for p in files}
    assert sorted(there - listed) == [], "modules without a line in ARCHITECTURE.md"
    assert sorted(listed - there) == [], "lines of ARCHITECTURE.md without a module"
