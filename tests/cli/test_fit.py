from __future__ import annotations

import json
from pathlib import Path

import pytest

from avsnn.hw_profiles.profile import load_profile
from tests.cli.conftest import Command


def test_a_checkpoint_and_its_bundle_get_the_same_answer(avsnn: Command, checkpoint: Path, bundle: Path) -> None:
    rows = []
    for model in (checkpoint, bundle):
        code, out, err = avsnn("fit", model, "--json")
        assert (code, err) == (0, "")
        rows.append(json.loads(out))
    assert rows[0] == rows[1]
    verdicts = {row["profile"]: row["verdict"] for row in rows[0]}
    expected = {"cmos45": "no cores", "cpu": "no cores", "loihi1": "fits", "loihi2": "fits", "odin": "does not fit"}
    assert expected.items() <= verdicts.items()
    (loihi2,) = (row for row in rows[0] if row["profile"] == "loihi2")
    report = json.loads((bundle / "report.json").read_text())
    assert loihi2["cores"] == len(report["mapping"]["cores"])
    assert report["mapping"]["placement"]["hops"] <= report["mapping"]["placement"]["packed_hops"]


def test_the_table_shows_what_does_not_fit(avsnn: Command, checkpoint: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.toml"
    text = Path(load_profile("loihi2").path).read_text(encoding="utf-8")
    small.write_text(text.replace('fan_in_max = { value = "unlimited"', "fan_in_max = { value = 3"), encoding="utf-8")
    code, out, err = avsnn("fit", checkpoint, "--profiles", small)
    assert (code, err) == (2, "")
    assert "does not fit" in out
    assert "limit 3 (fan_in_max); give each neuron at most about 3" in out
    code, out, _ = avsnn("fit", checkpoint, "--profiles", f"loihi2,{small}")
    assert code == 0
    assert "not checked: axons_in_per_core, axons_out_per_core" in out
    assert "neurons" in out


def test_check_lists_what_fits_no_core_as_risky(avsnn: Command, checkpoint: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.toml"
    text = Path(load_profile("loihi2").path).read_text(encoding="utf-8")
    small.write_text(text.replace('fan_in_max = { value = "unlimited"', "fan_in_max = { value = 3"), encoding="utf-8")
    code, out, _ = avsnn("check", checkpoint, "--target", small, "--json")
    assert code == 0
    (entry,) = (e for e in json.loads(out)["entries"] if "fits no core" in e["reason"])
    assert entry["severity"] == "risky"
    assert "limit 3 (fan_in_max)" in entry["reason"]
    assert "at most about 3" in entry["suggestion"]
    code, out, _ = avsnn("check", checkpoint, "--json")
    assert "fits no core" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{b}", "--target", "cpu"), "--target: a bundle has its integers"),
        (("{c}", "--chips", "0"), "--chips: must be above zero"),
        (("{c}", "--profiles", ","), "--profiles: no profile"),
        (("{c}", "--profiles", "loihi9"), "unknown profile"),
        (("nothing.pt",), "nothing.pt"),
    ],
)
def test_wrong_options(
    avsnn: Command, checkpoint: Path, bundle: Path, arguments: tuple[str, ...], message: str
) -> None:
    code, out, err = avsnn("fit", *(part.format(b=bundle, c=checkpoint) for part in arguments))
    assert (code, out) == (2, "")
    assert message in err
