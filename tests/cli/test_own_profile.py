"""`--target my.toml` and `--profiles my.toml`: a profile of one's own works wherever a shipped one does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from avsnn.hw_profiles.profile import load_profile
from tests.cli.conftest import Command


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """Loihi 2 with operations that cost twice as much, and half the cores on a chip."""
    text = Path(load_profile("loihi2").path).read_text(encoding="utf-8")
    for old, new in (
        ('id = "loihi2"', 'id = "mine"'),
        ("value = 18.0\nlo = 14.8\nhi = 23.4", "value = 36.0\nlo = 36.0\nhi = 36.0"),
        ("cores_per_chip = { value = 128", "cores_per_chip = { value = 64"),
        ("tiles_x = 8", "tiles_x = 4"),
    ):
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def sops_pj(priced: dict[str, object]) -> float:
    (term,) = (term for term in priced["terms"] if term["term"] == "sop")  # type: ignore[attr-defined]
    return float(term["energy"]["value"])


def test_every_command_that_takes_a_target_takes_a_file(
    avsnn: Command, checkpoint: Path, mine: Path, tmp_path: Path
) -> None:
    code, out, err = avsnn("check", checkpoint, "--target", mine, "--json")
    assert (code, err, json.loads(out)["target"]) == (0, "", "mine")
    code, out, err = avsnn("fit", checkpoint, "--target", mine, "--profiles", mine, "--json")
    assert (code, err) == (0, "")
    assert [row["profile"] for row in json.loads(out)] == ["mine"]
    bundle = tmp_path / "net"
    options = ("--backend", "cpu", "--samples", "2", "--out", bundle)
    assert avsnn("convert", checkpoint, "--target", mine, *options)[0] == 0
    prices = json.loads((bundle / "report.json").read_text(encoding="utf-8"))["energy"]
    assert sops_pj(prices["mine"]) == 2 * sops_pj(prices["loihi2"]) > 0
    assert len(prices) > 10
    code, out, err = avsnn("report", bundle)
    assert (code, err) == (0, "")
    assert "mine" in out


def test_two_profiles_of_one_id_would_hide_each_other(
    avsnn: Command, checkpoint: Path, mine: Path, tmp_path: Path
) -> None:
    mine.write_text(mine.read_text(encoding="utf-8").replace('id = "mine"', 'id = "loihi2"'), encoding="utf-8")
    code, _, err = avsnn("convert", checkpoint, "--profiles", f"loihi2,{mine}", "--out", tmp_path / "out")
    assert code == 2
    assert "two profiles of one id, found loihi2; give one of them another id" in err


@pytest.mark.parametrize(
    "command",
    [
        ("check", "{checkpoint}", "--target", "{mine}"),
        ("fit", "{checkpoint}", "--target", "{mine}"),
        ("fit", "{checkpoint}", "--profiles", "{mine}"),
        ("convert", "{checkpoint}", "--target", "{mine}", "--out", "{out}"),
        ("convert", "{checkpoint}", "--profiles", "{mine}", "--out", "{out}"),
        ("profiles", "show", "{mine}"),
    ],
    ids=" ".join,
)
def test_a_wrong_file_is_one_line_with_its_place(
    avsnn: Command, checkpoint: Path, mine: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    text = mine.read_text(encoding="utf-8").replace("[energy_pj.sop]", "[energy_nj.sop]")
    line = text.splitlines().index("[energy_nj.sop]") + 1
    mine.write_text(text, encoding="utf-8")
    places = {"checkpoint": checkpoint, "mine": mine, "out": tmp_path / "out"}
    code, out, err = avsnn(*(word.format(**places) for word in command))
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert f"{mine}:{line}: energy_nj: a unit slip, it must be in pJ" in err
    assert not (tmp_path / "out").exists()
