"""Published tables: those that hold together, and those that do not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avsnn.cli.main import main
from avsnn.deploy.audit import Finding, audit
from avsnn.errors import InputError

PAPER_LAYER = 27 * 64 * 224**2 / 1e6  # multiply-accumulates of a 3x3 layer from 3 to 64 channels, in millions


def write(folder: Path, text: str) -> Path:
    path = folder / "table.csv"
    path.write_text(text, encoding="utf-8")
    return path


def findings(folder: Path, text: str) -> list[Finding]:
    return audit(write(folder, text))[1]


def test_a_rate_that_was_applied_twice_is_named(tmp_path: Path) -> None:
    # doi 10.3389/fnins.2023.1091097, table 3
    table = "network,macs [M],rate,energy [J],e_ac [pJ],e_mac [pJ],ann_macs [M],ratio\n"
    energy, ratio = findings(tmp_path, table + "paper,18.39,0.1366,3.09e-7,0.9,4.6,18.39,273\n")
    assert energy.kind == ratio.kind == "error"
    assert energy.text == "309 nJ is printed, its own numbers give 2.261 uJ: the rate is applied twice"
    assert "its own numbers give 37.4" in ratio.text
    assert "follows from the printed energy" in ratio.text


def test_an_energy_below_its_own_constant_is_named(tmp_path: Path) -> None:
    # arXiv 2403.18228
    total, constant = findings(tmp_path, "network,sops [G],energy [mJ],e_ac [pJ]\npaper,0.951,0.415,0.9\n")
    assert "0.485 times that, by none of the usual mistakes" in total.text
    assert constant.text == "0.44 pJ per operation, below its own 0.9 pJ"


SPIKFORMER = [("6.82", "7.734"), ("8.69", "9.417"), ("11.09", "11.577"), ("13.67", "13.899"), ("22.09", "21.477")]


@pytest.mark.parametrize(("ops", "energy"), SPIKFORMER)
def test_a_first_layer_counted_in_every_step_is_a_note(tmp_path: Path, ops: str, energy: str) -> None:
    # Spikformer (ICLR 2023), table 1
    header = "network,sops [G],energy [mJ],e_ac [pJ],e_mac [pJ],first_macs [M],timesteps\n"
    (found,) = findings(tmp_path, header + f"spikformer,{ops},{energy},0.9,4.6,{PAPER_LAYER:.3f},4\n")
    assert found.kind == "note"
    assert "counted once per step" in found.text
    once = header + f"spikformer,{ops},{float(ops) * 0.9 + 4.6e-3 * PAPER_LAYER:.3f},0.9,4.6,{PAPER_LAYER:.3f},4\n"
    assert findings(tmp_path, once) == []


MISTAKES = {
    "the rate is left out": 1 / 0.137,
    "time steps are counted twice": 7.0,
    "time steps are left out": 1 / 7,
    "1000 times too much": 1e3,
    "1000 times too little": 1e-3,
    "the rate is applied twice and time steps are left out": 0.137 / 7,
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_usual_mistake_is_told_from_the_others(tmp_path: Path, mistake: str) -> None:
    right = 31.7 * 0.137 * 7
    table = "network,macs [M],rate,timesteps,sops [M]\n"
    (found,) = findings(tmp_path, table + f"net,31.7,0.137,7,{right * MISTAKES[mistake]:.5g}\n")
    assert mistake in found.text
    assert " or " not in found.text
    assert findings(tmp_path, table + f"net,31.7,0.137,7,{right:.5g}\n") == []


def test_a_first_layer_left_out_and_products_of_the_wrong_price_are_named(tmp_path: Path) -> None:
    table = "network,sops [M],first_macs [M],e_ac [pJ],e_mac [pJ],energy [uJ]\n"
    (found,) = findings(tmp_path, table + "net,120.3,35.7,0.9,4.6,108.3\n")
    assert "the layer that reads the input is left out" in found.text
    (found,) = findings(tmp_path, table + f"net,120.3,35.7,0.9,4.6,{(120.3 + 35.7) * 4.6:.2f}\n")
    assert "multiply-accumulates are priced" in found.text


def test_what_a_constant_holds_may_not_be_added_again(tmp_path: Path) -> None:
    (found,) = findings(tmp_path, "network,scope,adds\nchip,all_in,static; route\n")
    assert "adds static, route" in found.text
    assert findings(tmp_path, "network,scope,adds\nchip,per_term,static; route\n") == []


@given(
    macs=st.floats(1, 999), rate=st.floats(0.01, 0.9), steps=st.integers(1, 16), digits=st.integers(3, 6),
    e_ac=st.sampled_from([0.9, 0.1, 23.6]),
)  # fmt: skip
def test_tables_that_are_right_are_never_accused(
    tmp_path_factory: pytest.TempPathFactory, macs: float, rate: float, steps: int, digits: int, e_ac: float
) -> None:
    energy = macs * rate * steps * e_ac
    row = f"{macs:.{digits}g},{rate:.{digits}g},{steps},{macs * rate * steps:.{digits}g},{e_ac},{energy:.{digits}g}"
    table = "macs [M],rate,timesteps,sops [M],e_ac [pJ],energy [uJ]\n"
    checked, found = audit(write(tmp_path_factory.mktemp("t"), table + row + "\n"))
    assert (checked, found) == (2, [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no rows"),
        ("network,energy\nx,1\n", "unknown unit.*energy \\[J\\]"),
        ("network,enrgy [J]\nx,1\n", "unknown column"),
        ("sops,sops\n1,2\n", "column given twice"),
        ("sops,rate\n1\n", "wrong number of cells, found 1, limit 2"),
        ("sops,rate\nmany,0.1\n", "table.csv:2: sops: not a number, found many"),
        ("sops,rate\n-3,0.1\n", "not a number of something"),
        ("sops,rate\nnan,0.1\n", "not a number of something"),
        ("scope,adds\neverything,static\n", "unknown scope"),
        ("sops,energy [J]\n1,2\n", "say anything about each other"),
    ],
)
def test_tables_that_cannot_be_read_say_where(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        audit(write(tmp_path, text))


def test_the_command_ends_with_1_where_numbers_contradict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header = "network,macs [M],rate,energy [uJ],e_ac [pJ]\n"
    path = write(tmp_path, header + "ours,18.39,0.1366,0.309,0.9\n")
    assert main(["audit", str(path)]) == 1
    assert "error ours: energy: 309 nJ is printed" in capsys.readouterr().out
    assert main(["audit", str(path), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["checked"] == 1
    path = write(tmp_path, header + "ours,18.39,0.1366,2.26,0.9\n")
    assert main(["audit", str(path)]) == 0
    assert main(["audit", str(tmp_path / "nothing.csv")]) == 2
