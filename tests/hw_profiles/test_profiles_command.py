from __future__ import annotations

import json

import pytest

from avsnn.cli.main import main
from avsnn.hw_profiles.profile import load_profile, profile_names


def test_list_names_every_profile(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profiles", "list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(profile_names())
    assert main(["profiles", "list", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == list(profile_names())


@pytest.mark.parametrize("name", profile_names())
def test_show_prints_limits_and_sources(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profiles", "show", name]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"{name}: ")
    assert ("\nlimits\n" in text) is not load_profile(name).only_compares
    assert ("\nmultiply-accumulate of an ordinary network, pJ\n" in text) is load_profile(name).only_compares
    assert "\nsources\n" in text
    assert main(["profiles", "show", name, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == name


def test_what_is_not_published_is_shown_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profiles", "show", "loihi1"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "spike_out" in line)
    assert "not published" in line


def test_an_unknown_profile_exits_with_2_and_lists_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profiles", "show", "loihi3"]) == 2
    assert "limit akida, brainscales2, cmos22, cmos45" in capsys.readouterr().err
