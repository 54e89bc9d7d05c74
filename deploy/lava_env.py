"""Find, check and make the interpreter that runs Lava: Python 3.10 with lava-nc 0.10.0, apart from avsnn's own.

Searched in this order: the variable ``AVSNN_LAVA_PYTHON``, ``.venv-lava`` in the checkout, ``.venv-lava`` in the
current folder, the environment that `install` makes in the user's data folder, the running interpreter itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from avsnn.errors import BackendError

VARIABLE = "AVSNN_LAVA_PYTHON"
PYTHON = "3.10"
LAVA = "0.10.0"
REQUIREMENTS = Path(__file__).resolve().parent / "requirements-lava.txt"
REMEDY = "run `avsnn lava install`, or use --backend cpu, which works now"
PROBE_S = 60
_PROBE = """
import importlib.metadata, json, sys
try:
    lava = importlib.metadata.version("lava-nc")
except importlib.metadata.PackageNotFoundError:
    lava = None
print(json.dumps({"python": "%d.%d" % sys.version_info[:2], "lava": lava}))
"""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What was found; ``missing`` is empty when Lava can run, else one line about what is not there.

    Attributes:
        python: the interpreter, or None.
        source: where it was found.
        version: its Python version.
        lava: its version of lava-nc, or None.
        missing: what keeps Lava from running.
    """

    python: Path | None
    source: str
    version: str | None = None
    lava: str | None = None
    missing: str = ""

    @property
    def line(self) -> str:
        """One line for people."""
        if self.missing:
            return f"lava: {self.missing}; {REMEDY}"
        return f"lava: ready, Python {self.version}, lava-nc {self.lava}, {self.python} ({self.source})"


def user_folder() -> Path:
    """Where `install` puts the environment unless told otherwise."""
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "avsnn" / "lava-env"


def doctor() -> Diagnosis:
    """Return the first interpreter that can run Lava, or what is wrong with the first one found.

    A set ``AVSNN_LAVA_PYTHON`` is the only one looked at.
    """
    first: Diagnosis | None = None
    for source, python in _candidates():
        found = _diagnose(source, python)
        if not found.missing:
            return found
        first = first or found
    return first or Diagnosis(python=None, source="", missing="no Python 3.10 environment with lava-nc")


def require() -> Path:
    """Return the interpreter that runs Lava.

    Raises:
        BackendError: there is none; the message says how to get one.
    """
    found = doctor()
    if found.missing or found.python is None:
        raise BackendError(found.missing, where="lava", remedy=REMEDY)
    return found.python


def install(target: Path | None = None, *, progress: Callable[[str], None] = lambda line: None) -> Path:
    """Make the environment in ``target`` (default `user_folder`) and return its interpreter; done already: at once.

    It is built beside and renamed, so an interrupted installation leaves nothing half-made.

    Raises:
        BackendError: no Python 3.10 and no uv, a folder that is something else, or a step that failed.
    """
    target = (target or user_folder()).absolute()
    python = target / "bin" / "python"
    if python.exists() and not _diagnose("installed", python).missing:
        progress(f"already there: {target}")
        return python
    if target.exists() and not (target / "pyvenv.cfg").exists() and any(target.iterdir()):
        raise BackendError("is in use by something else", where=str(target), remedy="choose another --path")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
            beside = Path(folder) / "env"
            _build(beside, progress)
            found = _diagnose("installed", beside / "bin" / "python")
            if found.missing:
                raise BackendError(found.missing, where=str(target))
            if target.exists():
                os.replace(target, Path(folder) / "old")
            os.replace(beside, target)
    except OSError as error:
        raise BackendError(f"cannot be written ({error.strerror})", where=str(target)) from error
    return python


def _candidates() -> Iterator[tuple[str, Path]]:
    """(where it was found, interpreter), in order of preference."""
    if chosen := os.environ.get(VARIABLE):
        yield VARIABLE, Path(chosen)
        return
    checkout = Path(__file__).resolve().parents[1]
    places = {"checkout": checkout, "current folder": Path.cwd()}
    for source, folder in places.items():
        if (python := folder / ".venv-lava" / "bin" / "python").exists():
            yield source, python
    if (python := user_folder() / "bin" / "python").exists():
        yield "avsnn lava install", python
    if f"{sys.version_info[0]}.{sys.version_info[1]}" == PYTHON:
        yield "running interpreter", Path(sys.executable)


def _diagnose(source: str, python: Path) -> Diagnosis:
    """Ask an interpreter what it is, without importing Lava."""
    try:
        answer = subprocess.run(
            [str(python), "-I", "-c", _PROBE], capture_output=True, text=True, timeout=PROBE_S, check=True
        )
        facts = json.loads(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        reason = str(error).splitlines()[0]
        return Diagnosis(python=None, source=source, missing=f"{python} ({source}) does not run ({reason})")
    version, lava = facts["python"], facts["lava"]
    missing = ""
    if version != PYTHON:
        missing = f"{python} ({source}) is Python {version}, Lava needs {PYTHON}"
    elif lava is None:
        missing = f"{python} ({source}) has no lava-nc"
    elif lava != LAVA:
        missing = f"{python} ({source}) has lava-nc {lava}, not {LAVA}"
    return Diagnosis(python=python, source=source, version=version, lava=lava, missing=missing)


def _build(folder: Path, progress: Callable[[str], None]) -> None:
    """Make a virtual environment and install the pinned list."""
    uv, base = shutil.which("uv"), find_python()
    python = folder / "bin" / "python"
    if base is None and uv is None:
        raise BackendError(
            "no Python 3.10 found (PATH, pyenv) and no uv to fetch one",
            where="lava",
            remedy="install either one and run `avsnn lava install` again; --backend cpu works now",
        )
    progress(f"making an environment with {base or f'uv (Python {PYTHON})'}")
    if uv is not None:
        _step([uv, "venv", "--python", str(base or PYTHON), str(folder)], "making the environment")
    else:
        _step([str(base), "-m", "venv", str(folder)], "making the environment")
    progress("installing lava-nc (240 MB)")
    if uv is not None:
        command = [uv, "pip", "install", "--python", str(python)]
    else:
        command = [str(python), "-m", "pip", "install", "--disable-pip-version-check"]
    _step([*command, "-r", str(REQUIREMENTS)], "installing lava-nc")


def find_python() -> Path | None:
    """Return a Python 3.10 on PATH or under pyenv that runs (a pyenv shim may not), or None."""
    found = [Path(path)] if (path := shutil.which("python3.10")) else []
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    found += sorted(root.glob("versions/3.10*/bin/python3.10"), reverse=True)
    for python in found:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run([str(python), "-I", "-c", "import venv"], capture_output=True, timeout=PROBE_S, check=True)
            return python
    return None


def _step(command: Sequence[str], what: str) -> None:
    """Run one command; its last lines are the message if it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        tail = " | ".join(done.stdout.strip().splitlines()[-3:])
        raise BackendError(f"{what} failed ({tail})", where="lava", remedy="--backend cpu works now")
