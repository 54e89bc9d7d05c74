"""A bundle converted again from one of its stages."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from avsnn.convert.bundle import Bundle, sha256_of
from avsnn.convert.passes.quantise import quantise
from avsnn.errors import VerifyError

Command = Callable[..., tuple[int, str, str]]
Resume = Callable[..., Bundle]
STAGES = ("traced", "folded", "quantised", "scheduled")


@pytest.fixture
def resume(avsnn: Command, bundle: Path, checkpoint: Path, tmp_path: Path) -> Resume:
    """Convert the shared bundle again and load the result."""

    def run(stage: str, *options: object) -> Bundle:
        common = ("--from", stage, "--out", tmp_path / "again", "--backend", "cpu", "--samples", "4")
        code, _, err = avsnn("convert", bundle, *common, "--calibration", checkpoint, *options)
        assert (code, err) == (0, "")
        return Bundle.load(tmp_path / "again")

    return run


def graph_file(folder: Path, stage: str) -> bytes:
    return b"".join((folder / "graphs" / f"{stage}.{kind}").read_bytes() for kind in ("json", "txt"))


@pytest.mark.parametrize("stage", STAGES[:3])
def test_the_same_options_give_the_same_graphs_and_proofs(resume: Resume, bundle: Path, stage: str) -> None:
    again, first = resume(stage), Bundle.load(bundle)
    assert again.folder is not None
    for name in STAGES:
        assert graph_file(again.folder, name) == graph_file(bundle, name)
    assert again.record == first.record
    origin = again.meta["started_from"]
    assert origin == {
        "stage": stage, "target": "loihi2", "avsnn": first.meta["avsnn"],
        "manifest_sha256": sha256_of(bundle / "manifest.json"),
    }  # fmt: skip
    assert {key: value for key, value in again.meta.items() if key != "started_from"} == first.meta


def test_fewer_bits_and_another_target_change_only_what_comes_later(resume: Resume, bundle: Path) -> None:
    first = Bundle.load(bundle)
    again = resume("folded", "--weight-bits", "4", "--target", "cpu")
    assert again.folder is not None
    assert (again.meta["target"], again.meta["weight_bits"]) == ("cpu", 4)
    assert graph_file(again.folder, "folded") == graph_file(bundle, "folded")
    assert graph_file(again.folder, "quantised") != graph_file(bundle, "quantised")
    proved, before = ({c["name"] for c in each.record["checks"]} for each in (again, first))
    assert proved == before - {"mapped = scheduled"}  # no cores, no mapping
    assert again.record["currents_checked"] == first.record["currents_checked"]


def test_proofs_after_the_stage_run_again(
    avsnn: Command, bundle: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any, **options: Any) -> Any:
        done, scales = quantise(*arguments, **options)
        return done, tuple(replace(scale, scale=2 * scale.scale) for scale in scales)

    monkeypatch.setattr("avsnn.convert.pipeline.quantise", broken)
    common = ("--calibration", checkpoint, "--out", tmp_path / "again", "--backend", "cpu")
    code, _, err = avsnn("convert", bundle, "--from", "folded", *common)
    assert code == VerifyError.exit_code
    assert "is not its folded value rounded" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["graphs/folded.json", "verification.json"])
def test_a_changed_bundle_is_refused(avsnn: Command, bundle: Path, checkpoint: Path, tmp_path: Path, name: str) -> None:
    copy = shutil.copytree(bundle, tmp_path / "net")
    (copy / name).write_text((copy / name).read_text() + " ")
    common = ("--calibration", checkpoint, "--out", tmp_path / "again", "--backend", "cpu")
    code, _, err = avsnn("convert", copy, "--from", "folded", *common)
    assert code == 2
    assert f"file of the bundle was changed, found {name}" in err
    assert not (tmp_path / "again").exists()


def test_what_cannot_be_is_said_at_once(avsnn: Command, bundle: Path, checkpoint: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "again", "--backend", "cpu")
    known = ("--calibration", checkpoint)

    def refused(*options: object) -> str:
        code, _, err = avsnn("convert", *options, *out)
        assert code == 2
        assert not list(tmp_path.iterdir())
        return err

    assert "a bundle does not hold training inputs; pass --calibration FILE.npz, or the" in refused(
        bundle, "--from", "folded"
    )
    assert "a folder, not a checkpoint; name the stage to start from" in refused(bundle)
    assert "not a bundle" in refused(checkpoint, "--from", "folded", *known)
    assert "a bundle needs no module" in refused(bundle, "--from", "folded", *known, "--module", "a:b")
    assert "weights are integers already" in refused(bundle, "--from", "quantised", *known, "--weight-bits", "4")
    assert "invalid choice: 'scheduled'" in refused(bundle, "--from", "scheduled", *known)


def test_integers_that_another_target_cannot_hold_are_refused_by_name(
    avsnn: Command, checkpoint: Path, tmp_path: Path
) -> None:
    wide = ("--target", "cpu", "--out", tmp_path / "wide", "--samples", "4")
    assert avsnn("convert", checkpoint, *wide)[0] == 0
    common = ("--calibration", checkpoint, "--out", tmp_path / "again", "--backend", "cpu")
    code, _, err = avsnn("convert", tmp_path / "wide", "--from", "quantised", *common)
    assert code == 2
    assert "does not fit the target, expected " in err
    assert "start from folded, so that they are quantised for it" in err
    manifest = json.loads((tmp_path / "wide" / "manifest.json").read_text())
    assert "started_from" not in manifest["meta"]
