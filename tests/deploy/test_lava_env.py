"""Finding, naming what is missing, and making the Lava environment, with stand-ins for the interpreters."""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from avsnn.cli import lava as command
from avsnn.deploy import lava_env
from avsnn.deploy.backends.lava import LavaWorker
from avsnn.errors import BackendError


def stand_in(path: Path, *, python: str = "3.10", lava: str | None = "0.10.0") -> Path:
    """A program that answers as an interpreter would."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{json.dumps({'python': python, 'lava': lava})}'\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No variable, no environment in the checkout, the folder or the user's data, no uv, no Python 3.10."""
    monkeypatch.delenv(lava_env.VARIABLE, raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lava_env, "__file__", str(tmp_path / "package" / "deploy" / "lava_env.py"))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    return tmp_path


def test_without_lava_the_error_says_what_to_do(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lava_env, "PYTHON", "3.0")  # the running interpreter is not one either
    for call in (lava_env.require, LavaWorker):
        with pytest.raises(BackendError) as caught:
            call()
        assert "no Python 3.10 environment with lava-nc" in str(caught.value)
        assert "avsnn lava install" in caught.value.remedy
        assert "--backend cpu" in caught.value.remedy
        assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("facts", "missing"),
    [
        ({"python": "3.12"}, "is Python 3.12, Lava needs 3.10"),
        ({"lava": None}, "has no lava-nc"),
        ({"lava": "0.9.0"}, "has lava-nc 0.9.0, not 0.10.0"),
    ],
)
def test_doctor_names_what_is_wrong(
    alone: Path, monkeypatch: pytest.MonkeyPatch, facts: dict[str, str], missing: str
) -> None:
    monkeypatch.setenv(lava_env.VARIABLE, str(stand_in(alone / "python", **facts)))
    found = lava_env.doctor()
    assert missing in found.line
    assert "\n" not in found.line


def test_doctor_when_the_variable_names_nothing(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(alone / ".venv-lava" / "bin" / "python")
    monkeypatch.setenv(lava_env.VARIABLE, str(alone / "nothing"))
    assert "does not run" in lava_env.doctor().missing, "a wrong variable must not be passed over"


def test_order_of_search(alone: Path) -> None:
    user = stand_in(lava_env.user_folder() / "bin" / "python")
    assert lava_env.require() == user
    here = stand_in(alone / ".venv-lava" / "bin" / "python")
    assert lava_env.require() == here
    stand_in(here, lava=None)
    assert lava_env.require() == user, "one that works is preferred to one that does not"


def build_with(monkeypatch: pytest.MonkeyPatch, *, fails_at: str = "") -> list[Sequence[str]]:
    """Replace commands by stand-ins that make the environment, or fail half-way."""
    calls: list[Sequence[str]] = []

    def step(command: Sequence[str], what: str) -> None:
        calls.append(command)
        if "venv" in command:
            folder = Path(command[-1])
            stand_in(folder / "bin" / "python", lava=None if fails_at == "check" else "0.10.0")
            (folder / "pyvenv.cfg").touch()
        elif fails_at == "install":
            raise BackendError("installing lava-nc failed (no network)", where="lava")

    monkeypatch.setattr(lava_env, "_step", step)
    monkeypatch.setattr(lava_env, "find_python", lambda: Path("python3.10"))
    return calls


def test_install_once(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = build_with(monkeypatch)
    said: list[str] = []
    python = lava_env.install(progress=said.append)
    assert python == lava_env.user_folder() / "bin" / "python"
    assert [call[1:3] for call in calls] == [["-m", "venv"], ["-m", "pip"]]
    assert calls[1][-1] == str(lava_env.REQUIREMENTS)
    assert lava_env.install(progress=said.append) == python
    assert len(calls) == 2, "the second time it is there already"
    assert said[-1].startswith("already there")
    assert lava_env.require() == python


@pytest.mark.parametrize("fails_at", ["install", "check"])
def test_a_failed_installation_leaves_nothing(alone: Path, monkeypatch: pytest.MonkeyPatch, fails_at: str) -> None:
    build_with(monkeypatch, fails_at=fails_at)
    with pytest.raises(BackendError):
        lava_env.install()
    assert list(lava_env.user_folder().parent.iterdir()) == []


def test_a_broken_environment_is_replaced_and_a_foreign_folder_kept(
    alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_with(monkeypatch)
    target = lava_env.user_folder()
    stand_in(target / "bin" / "python", lava=None)
    (target / "pyvenv.cfg").touch()
    assert lava_env._diagnose("", lava_env.install()).lava == "0.10.0"
    assert list(target.parent.iterdir()) == [target]
    (alone / "papers").mkdir()
    (alone / "papers" / "thesis.txt").touch()
    with pytest.raises(BackendError, match="something else"):
        lava_env.install(alone / "papers")
    assert (alone / "papers" / "thesis.txt").exists()


def test_install_without_any_python(alone: Path) -> None:
    with pytest.raises(BackendError, match=r"no Python 3\.10 found"):
        lava_env.install()


def test_find_python_under_pyenv(alone: Path) -> None:
    broken = alone / "pyenv" / "versions" / "3.10.99" / "bin" / "python3.10"
    stand_in(broken).write_text("#!/bin/sh\nexit 127\n")
    working = stand_in(alone / "pyenv" / "versions" / "3.10.13" / "bin" / "python3.10")
    assert lava_env.find_python() == working


def test_a_step_that_fails_shows_its_last_lines() -> None:
    with pytest.raises(BackendError, match=r"making it failed .*the reason"):
        lava_env._step([sys.executable, "-c", "import sys; print('the reason'); sys.exit(3)"], "making it")


def test_both_requirement_files_are_one_list() -> None:
    pins = [line for line in lava_env.REQUIREMENTS.read_text().splitlines() if not line.startswith("#")]
    assert f"lava-nc=={lava_env.LAVA}" in pins
    assert all("==" in pin for pin in pins)
    assert not any("://" in line for line in lava_env.REQUIREMENTS.read_text().splitlines())


def test_command(alone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    command.configure(parser)
    monkeypatch.setenv(lava_env.VARIABLE, str(stand_in(alone / "python", lava=None)))
    assert command.run(parser.parse_args(["doctor"])) == 2
    assert len(capsys.readouterr().out.splitlines()) == 1
    stand_in(alone / "python")
    assert command.run(parser.parse_args(["doctor", "--json"])) == 0
    assert json.loads(capsys.readouterr().out)["ready"] is True
    build_with(monkeypatch)
    assert command.run(parser.parse_args(["install", "--path", str(alone / "env"), "--json"])) == 0
    assert json.loads(capsys.readouterr().out)["python"] == str(alone / "env" / "bin" / "python")
    assert subprocess.run([alone / "env" / "bin" / "python"], capture_output=True, check=True).stdout
