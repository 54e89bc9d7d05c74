"""`avsnn profiles check`: every problem of a profile of one's own, each with its line and its reason."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avsnn.cli.main import main
from avsnn.errors import ProfileError
from avsnn.hw_profiles.profile import examine, load_profile, profile_names
from avsnn.hw_profiles.toml_file import MAX_BYTES, TomlFile

MEASURED = 'class = "measured", tag = "P", source = "paper"'
CHIP = (
    Path(load_profile("tianjic").path).read_text(encoding="utf-8").partition("[policy]")[0]
    + f"""
[policy]
neuron_update = "tick"
zero_weight_skip = "never"
scope = "per_term"
inside = []

[energy_pj]
sop = {{ value = 2.5, lo = 2.0, hi = 3.0, {MEASURED} }}
neuron_update = {{ value = 9.0, {MEASURED} }}
spike_out = {{ value = "null", tag = "P", source = "paper" }}

[power_mw.static_chip]
value = 100
class = "measured"
tag = "P"
source = "paper"

[[source]]
id = "paper"
cite = "A paper"
read = "primary"

[[source]]
id = "pei2019"
cite = "Another"
read = "secondary"

[[source]]
id = "deng2020"
cite = "A third"
read = "secondary"

[[source]]
id = "tang2023"
cite = "A fourth"
read = "secondary"
"""
)

POINT = '[operating_point]\nnetwork = "x"\nsource = "paper"\n\n'


@pytest.fixture
def chip(tmp_path: Path) -> Path:
    path = tmp_path / "chip.toml"
    path.write_text(CHIP, encoding="utf-8")
    assert examine(path)[1] == []
    return path


def edited(path: Path, old: str, new: str) -> Path:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) >= 1, old
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return path


SLIPS = [
    ("[energy_pj]", "[energy_nj]", "energy_nj: a unit slip, it must be in pJ; .* name it 'energy_pj'"),
    ("[energy_pj]", "[energy_uJ]", "energy_uJ: a unit slip, it must be in pJ"),
    ("[power_mw.static_chip]", "[power_w.static_chip]", "power_w: a unit slip, it must be in mW; .*'power_mw'"),
    ("[[source]]", "[time_us]\nsop = 1\n\n[[source]]", "time_us: a unit slip, it must be in ns; .* name it 'time_ns'"),
    ("sop = {", "sop_nj = {", "energy_pj.sop_nj: a unit slip, it must be in pJ; .* name it 'sop'"),
    ("sop = { value", "sop = { value_nj", "energy_pj.sop.value_nj: a unit slip, it must be in pJ; .* name it 'value'"),
    ("sop = {", 'sop = { unit = "nJ",', "energy_pj.sop.unit: a unit slip, it must be in pJ; .* leave this out"),
    ("spike_out", "static_mw", "static_mw: a unit slip, it must be in pJ; no power stands in this table"),
    ("[power_mw.static_chip]", "[power_mw.static_chip_w]", "chip_w: a unit slip, it must be in mW; .* 'static_chip'"),
    ("[power_mw.static_chip]", "[power_mw.sop_pj]", "sop_pj: a unit slip, it must be in mW; no energy stands"),
    ("voltage_v =", "voltage_mv =", "chip.voltage_mv: a unit slip, it must be in V; .* name it 'voltage_v'"),
]  # fmt: skip
REFUSED = [
    ("sop = {", "sops = {", "energy_pj.sops: unknown key, .*did you mean 'sop'"),
    ('id = "paper"\n', 'id = "papers"\n', r"energy_pj.sop.source: no \[\[source\]\] of this id, found 'paper'"),
    (f"9.0, {MEASURED}", '9.0, class = "measured", tag = "P"', "energy_pj.neuron_update.source: missing"),
    ("lo = 2.0, hi = 3.0", "lo = 3.0, hi = 2.0", "energy_pj.sop: lo is above hi, found 3.0, limit 2.0"),
    ("value = 2.5, lo", "value = 3.5, lo", r"energy_pj.sop: the value is not inside its interval, found 3.5"),
    ("value = 9.0", "value = 0", 'neuron_update.value: zero is no price, .*write "null" for what is not published'),
    ("value = 9.0", 'value = "n/a"', 'neuron_update.value: a finite number is needed, .* not published is "null"'),
    ("spike_out = {", "spike_out = { lo = 0, hi = 3,", "spike_out: a number that is not published has no"),
    (f"9.0, {MEASURED}", '9.0, class = "vendor", tag = "M", source = "paper"', "class: what is only remembered"),
    ("value = 9.0", "value = 1e300", "neuron_update.value: a finite number is needed"),
    ("value = 9.0", f"value = 1{'0' * 400}", "neuron_update.value: a finite number is needed, found 1000"),
    ('scope = "per_term"', 'scope = "all_in"', "operating_point: scope all_in needs the point"),
    ("[energy_pj]", f"{POINT}[energy_pj]", "operating_point: scope per_term has none"),
    ('cite = "A paper"', r'cite = "\u001b[31m"', "source.0..cite: a text holds characters that cannot be printed"),
    ('cite = "A paper"', "cite = 3", r"source\[0\].cite: wrong type"),
    ("[policy]", '["\\u001b[31m"]\n[policy]', r"'\\x1b\[31m': unknown key"),
    ('source = "paper"\n\n[[', 'source = [["paper"]]\n\n[[', "static_chip.source: no .*found .'paper'"),
    ("static_chip]", 'static_chip]\nnote = ["x"]', "static_chip.note: a text is needed"),
    ('id = "paper"\n', 'id = "pei2019"\n', r"source\[1\].id: used twice, found 'pei2019'"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "reason"), SLIPS + REFUSED)
def test_each_problem_has_its_line_and_its_reason(
    chip: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, reason: str
) -> None:
    edited(chip, old, new)
    assert main(["profiles", "check", str(chip)]) == 2
    with pytest.raises(ProfileError):
        load_profile(chip)
    found = capsys.readouterr().out
    assert "\x1b" not in found
    named = [line for line in found.splitlines() if re.search(reason, line)]
    assert named, found
    place = named[0].split(": ")[0]
    assert place.startswith(str(chip)), named


def test_all_problems_come_at_once_in_the_order_of_lines(chip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edited(chip, "sop = { value = 2.5", "sop = { value = 9.5")
    edited(chip, f"9.0, {MEASURED}", '0, class = "sure", tag = "P"')
    edited(chip, "value = 100\n", "value = -100\n")
    edited(chip, 'read = "primary"', 'read = "twice"')
    lines = chip.read_text(encoding="utf-8").splitlines()
    places = [next(i for i, line in enumerate(lines, 1) if line.startswith(head)) for head in (
        "sop = {", "neuron_update = {", "value = -100", "read ="
    )]  # fmt: skip
    assert main(["profiles", "check", str(chip)]) == 2
    found = capsys.readouterr().out.splitlines()
    a, b, c, d = places
    assert [line.split(":")[1] for line in found[:-1]] == [str(i) for i in (a, b, b, b, c, d)]
    assert found[-1] == "6 problems"
    with pytest.raises(ProfileError, match=r"sop: the value is not inside.*'avsnn profiles check' lists 5 more"):
        load_profile(chip)
    assert main(["profiles", "check", str(chip), "--json"]) == 2
    rows = json.loads(capsys.readouterr().out)["problems"]
    assert [row["where"] for row in rows] == [
        line.partition(": ")[0] + ": " + line.split(": ")[1] for line in found[:-1]
    ]


def test_a_voltage_that_contradicts_the_chip_is_named(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(Path(load_profile("truenorth").path).read_text(encoding="utf-8"), encoding="utf-8")
    edited(path, "voltage_v = 0.775\nrate", "voltage_v = 0.9\nrate")
    with pytest.raises(ProfileError, match=r"operating_point.voltage_v: .*another voltage.*found 0.9, limit 0.775"):
        load_profile(path)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"schema = 1\n[chip\n", r"chip.toml:2: not a TOML file"),
        (b"schema = 1\nx = \xff\n", r"chip.toml:2: not UTF-8.*0xff"),
        (b"a = 1\na = 2\n", r"chip.toml:2: not a TOML file"),
        (b"\x00", "chip.toml:1: not a TOML file"),
        (b"a = " + b"[" * 1900, "chip.toml: nested too deep"),
        (b"a = " + b"[\n" * 9000, "chip.toml: too many brackets, found 9000, limit 2000"),
        (b"a = " + b"[" * 20 + b"]" * 20, "chip.toml: nested too deep, limit 16"),
        (b"a = " + b"9" * 9000, "chip.toml: not a TOML file that can be read: .*digits"),
        (b"a." * 9000 + b"a = 1", "chip.toml: too many dots in a line, found 9000, limit 200"),
        (b"#" * (MAX_BYTES + 1), "chip.toml: too large for a profile, limit 262144 bytes"),
        (b"", "chip.toml: schema: missing"),
    ],
)
def test_what_is_no_profile_at_all_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], raw: bytes, reason: str
) -> None:
    path = tmp_path / "chip.toml"
    path.write_bytes(raw)
    with pytest.raises(ProfileError, match=reason):
        load_profile(path)
    assert main(["profiles", "check", str(path), "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["problems"]


def test_folders_pipes_and_missing_files_do_not_hang(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipe = tmp_path / "pipe.toml"
    os.mkfifo(pipe)
    for path, reason in ((tmp_path, "not a file"), (pipe, "not a file"), (tmp_path / "no.toml", "cannot read profile")):
        assert main(["profiles", "check", f"{path}/."[:-2]]) == 2
        assert reason in capsys.readouterr().out


@pytest.mark.parametrize("name", profile_names())
def test_shipped_profiles_have_no_problem(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profiles", "check", name]) == 0
    found = capsys.readouterr().out
    assert found.startswith(f"{name}: no problem; ")
    nulls = [c.name for c in load_profile(name).constants().values() if c.value is None and "limits" not in c.name]
    assert all(null in found for null in nulls)


def test_an_own_profile_under_a_shipped_name_is_noted(chip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profiles", "check", str(chip)]) == 0
    assert "note: tianjic is also the id of a shipped profile" in capsys.readouterr().out


def test_lines_follow_dotted_keys_arrays_and_values_of_several_lines() -> None:
    text = b'a.b = 1\n\n[[s]] # x\nid = "q"\n[[s]]\nid = """\n[no]\nx = 1\n"""\n'
    text += b'l = [\n { k = 1 },\n]\n[s.t]\nu = 1\n["x.y"]\nz = 1'
    file = TomlFile(table={}, raw=text)
    wanted = {"a": 1, "a.b": 1, "s": 3, "s[0]": 3, "s[0].id": 4, "s[1]": 5, "s[1].id": 6, "s[1].l": 10}
    assert {key: file.line(key) for key in wanted} == wanted
    assert (file.line("s[1].l[0].k"), file.line("s[1].t.u"), file.line("x.y.z"), file.line("no")) == (10, 14, 16, None)


@given(
    cut=st.integers(0, 400),
    drop=st.integers(0, 30),
    put=st.sampled_from(["", "[x]", "= 1", "[[source]]", "'", "a = {}"]),
)
def test_damaged_files_are_refused_or_read_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, cut: int, drop: int, put: str
) -> None:
    text = Path(load_profile("loihi2").path).read_text(encoding="utf-8").splitlines()
    path = tmp_path_factory.mktemp("t") / "chip.toml"
    path.write_text("\n".join([*text[:cut], put, *text[cut + drop :]]), encoding="utf-8")
    try:
        profile, problems = examine(path)
    except ProfileError:
        return
    assert (profile is None) == bool(problems)


VALUES = st.sampled_from(
    ['"null"', '"unlimited"', "[]", "{}", "[[1]]", "true", "-1", "2020-01-01", "inf", "[{}]", '"\\u0000"']
)


@given(line=st.integers(1, 200), value=VALUES)
def test_values_of_any_type_are_refused_or_read_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, line: int, value: str
) -> None:
    text = Path(load_profile("loihi2").path).read_text(encoding="utf-8").splitlines()
    key, equals, _ = text[line].partition(" = ")
    path = tmp_path_factory.mktemp("t") / "chip.toml"
    path.write_text(
        "\n".join([*text[:line], f"{key} = {value}" if equals else "", *text[line + 1 :]]), encoding="utf-8"
    )
    try:
        profile, problems = examine(path)
    except ProfileError:
        return
    assert (profile is None) == bool(problems)
