"""Ctrl-C, termination and sudden death: nothing half-written stays, and an old bundle stays whole."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from avsnn.convert import staging
from avsnn.convert.bundle import Bundle

Command = Callable[..., tuple[int, str, str]]

STEPS = ("trace", "verify fold_backward", "quantise", "verify schedule", "Lava export", "counting operations")

# The command itself, which says each step on stdout and, at the one named first, waits for a line on stdin.
PROGRAM = """
import signal, sys
from contextlib import contextmanager
import avsnn.cli.convert as convert
from avsnn.cli.main import main

chosen = sys.argv[1]
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever started the tests may ignore it

@contextmanager
def steps(*, quiet=False):
    def say(step):
        print(step, flush=True)
        if step == chosen:
            sys.stdin.readline()
    yield say

convert.steps = steps
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture(autouse=True)
def _interruptible() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def at_step(monkeypatch: pytest.MonkeyPatch, chosen: str, action: Callable[[], None]) -> list[str]:
    """Do something when a conversion in this process comes to a step; returns the list of steps begun."""
    seen: list[str] = []

    def say(step: str) -> None:
        seen.append(step)
        if step == chosen:
            action()

    @contextmanager
    def steps(**_options: Any) -> Iterator[Callable[[str], None]]:
        yield say

    monkeypatch.setattr("avsnn.cli.convert.steps", steps)
    return seen


def send(number: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def options(out: Path, *more: str) -> list[str]:
    return ["--out", str(out), "--backend", "cpu", "--samples", "4", *more]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("number", "step"),
    [*((signal.SIGINT, step) for step in STEPS), (signal.SIGTERM, "trace"), (signal.SIGTERM, "Lava export")],
)
def test_interrupt(
    avsnn: Command,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    step: str,
) -> None:
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    seen = at_step(monkeypatch, step, send(number))
    code, out, err = avsnn("convert", checkpoint, *options(tmp_path / "deep" / "net"))
    assert (code, out, err) == (130, "", "avsnn: interrupted\n")
    assert seen[-1] == step
    assert names(tmp_path) == []
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == handlers


def test_closed_terminal(avsnn: Command, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_step(monkeypatch, "quantise", send(signal.SIGHUP))
    assert avsnn("convert", checkpoint, *options(tmp_path / "net"))[0] == 130
    assert names(tmp_path) == []


def test_closed_terminal_under_nohup(
    avsnn: Command, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        at_step(monkeypatch, "quantise", send(signal.SIGHUP))
        assert avsnn("convert", checkpoint, *options(tmp_path / "net"))[0] == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_impatience(avsnn: Command, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second Ctrl-C while the first one cleans up."""
    remove, again = shutil.rmtree, []

    def rmtree(*arguments: Any, **more: Any) -> None:
        again.append(arguments)
        send(signal.SIGINT)()
        remove(*arguments, **more)

    at_step(monkeypatch, "Lava export", send(signal.SIGINT))
    monkeypatch.setattr(shutil, "rmtree", rmtree)
    assert avsnn("convert", checkpoint, *options(tmp_path / "net"))[0] == 130
    assert again
    assert names(tmp_path) == []


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("atomic", [True, False], ids=["exchange", "two renames"])
def test_interrupt_while_the_old_bundle_goes(
    avsnn: Command,
    checkpoint: Path,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    when: str,
    atomic: bool,
) -> None:
    """Either the old bundle is there or the new one, whole; where file systems cannot exchange names, too."""
    out = shutil.copytree(bundle, tmp_path / "net")
    rename, exchange = Path.rename, staging._exchange

    def renamed(path: Path, target: Path) -> Any:
        if when == "before" and target == out:
            send(signal.SIGINT)()
        found = rename(path, target)
        if when == "after" and path == out:
            send(signal.SIGINT)()
        return found

    def exchanged(a: Path, b: Path) -> bool:
        if not atomic:
            return False
        if when == "before":
            send(signal.SIGINT)()
        done = exchange(a, b)
        if when == "after":
            send(signal.SIGINT)()
        return done

    monkeypatch.setattr(Path, "rename", renamed)
    monkeypatch.setattr(staging, "_exchange", exchanged)
    assert avsnn("convert", checkpoint, *options(out, "--force"))[0] == 130
    assert names(tmp_path) == ["net"]
    assert Bundle.load(out).meta["target"] == "loihi2"


def start(step: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, step, *(str(argument) for argument in arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )


def wait_for(process: subprocess.Popen[str], step: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == step:
            return
    pytest.fail(f"{step} was never begun: {process.communicate()[1]}")


def test_sudden_death(avsnn: Command, checkpoint: Path, bundle: Path, tmp_path: Path) -> None:
    """What a killed run leaves, the next one removes; what a living one is at, it leaves alone."""
    out = shutil.copytree(bundle, tmp_path / "net")
    with start("counting operations", "convert", checkpoint, *options(out, "--force")) as process:
        wait_for(process, "counting operations")
        alive = [name for name in names(tmp_path) if name.startswith(".net.partial-")]
        assert len(alive) == 1
        assert avsnn("convert", checkpoint, *options(out, "--force"))[0] == 0
        assert names(tmp_path) == [*alive, "net"]
        process.kill()
        process.communicate()
    assert names(tmp_path) == [*alive, "net"]
    assert Bundle.load(out).meta["target"] == "loihi2"
    assert avsnn("convert", checkpoint, *options(out))[0] == 2
    assert avsnn("convert", checkpoint, *options(out, "--force"))[0] == 0
    assert names(tmp_path) == ["net"]


def test_two_at_once(avsnn: Command, checkpoint: Path, tmp_path: Path) -> None:
    """Without --force the slower one does not replace what the faster one wrote."""
    out = tmp_path / "net"
    with start("counting operations", "convert", checkpoint, *options(out)) as process:
        wait_for(process, "counting operations")
        assert avsnn("convert", checkpoint, *options(out))[0] == 0
        before = (out / "manifest.json").stat().st_ino
        _, err = process.communicate("\n", timeout=60)
    assert process.returncode == 2
    assert "output exists" in err
    assert names(tmp_path) == ["net"]
    assert (out / "manifest.json").stat().st_ino == before


def test_death_between_two_renames(avsnn: Command, checkpoint: Path, bundle: Path, tmp_path: Path) -> None:
    """Where names cannot be exchanged, a kill can leave the old bundle aside: the next run puts it back."""
    shutil.copytree(bundle, tmp_path / ".net.old-0123abcd")
    (tmp_path / ".net.partial-0123abcd").mkdir()
    code, _, err = avsnn("convert", tmp_path / "none.pt", *options(tmp_path / "net", "--force"))
    assert (code, "no such file" in err) == (2, True)
    assert names(tmp_path) == ["net"]
    assert Bundle.load(tmp_path / "net").meta["target"] == "loihi2"


def test_termination_of_the_program_itself(checkpoint: Path, tmp_path: Path) -> None:
    """As soon as its folder appears, with no help from inside."""
    program = [sys.executable, "-m", "avsnn", "convert", str(checkpoint), *options(tmp_path / "net")]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not names(tmp_path):
            time.sleep(0.005)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "avsnn: interrupted\n")
    assert names(tmp_path) == []


# With Lava: its processes go, too


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder for temporary files with a short path, as Lava wants it; its name marks the processes."""
    folder = Path(tempfile.mkdtemp(prefix="avsnn-test-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def lava_processes(scratch: Path) -> list[int]:
    """Processes with the worker's command line and this folder in it."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
        except OSError:  # ended meanwhile
            continue
        if b"lava_worker.py" in line and os.fsencode(scratch) in line:
            found.append(int(entry.name))
    return found


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


@pytest.mark.lava
@pytest.mark.parametrize(
    ("number", "processes"),
    [(signal.SIGINT, 1), (signal.SIGINT, 4), (signal.SIGTERM, 8), (signal.SIGKILL, 1), (signal.SIGKILL, 8)],
    ids=["SIGINT at start", "SIGINT in the run", "SIGTERM", "SIGKILL at start", "SIGKILL in the run"],
)
def test_no_lava_process_stays(
    avsnn: Command, checkpoint: Path, tmp_path: Path, scratch: Path, number: signal.Signals, processes: int
) -> None:
    arguments = ["convert", checkpoint, "--out", tmp_path / "net", "--samples", "4"]
    with start("never", *arguments, TMPDIR=str(scratch)) as process:
        wait_for(process, "Lava")
        assert wait_until(lambda: len(lava_processes(scratch)) >= processes, 60)
        process.send_signal(number)
        process.communicate(timeout=30)
    assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    assert wait_until(lambda: not lava_processes(scratch), 10)
    assert not (tmp_path / "net").exists()
    if number == signal.SIGKILL:
        assert wait_until(lambda: not list(scratch.iterdir()), 10)  # the worker cleans up after us
        assert avsnn("convert", checkpoint, *options(tmp_path / "net"))[0] == 0
        assert names(tmp_path) == ["net"]
    else:
        assert names(tmp_path) == []
        assert names(scratch) == []
