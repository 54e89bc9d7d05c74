"""A bundle's own ``lava/`` folder and integer inputs to outputs, spikes and states, run by the Lava interpreter.

`LavaWorker` holds one Lava process group for many runs. It is started with ``-I``, a private empty working folder and
a minimal environment, in its own session; a timeout, Ctrl-C or the death of this process end the whole group.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from avsnn.convert.ir.activity import Activity
from avsnn.convert.ir.node import Array
from avsnn.deploy import lava_env
from avsnn.deploy.exports.lava import check_runtime
from avsnn.errors import AvsnnError, BackendError, DomainError, InputError

SCRIPT = Path(__file__).resolve().parent / "lava_worker.py"
START_S = 120.0
TIMEOUT_S = 3600.0
STALL_S = 30.0
CLOSE_S = 5.0
SOCKET_ROOM = 50  # Lava puts a Unix socket below the folder for temporary files, and a socket's path has 107 characters
RECORD = ("all", "spikes", "none")
Record = str | Collection[str]
_KINDS: dict[str, type[AvsnnError]] = {"NetworkError": InputError, "StateError": DomainError}

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class LavaRun:
    """What one run left behind.

    Attributes:
        activity: raw int64 outputs (B, *shape), spikes and states (T, B, *shape); states are int32.
        seconds: "build" and "run" inside Lava, "total" with start-up and files.
        steps: wall-clock steps.
        processes: Lava Processes.
    """

    activity: Activity
    seconds: Mapping[str, float]
    steps: int
    processes: int


class LavaWorker:
    """A context manager; every `run` uses the same interpreter, each in its own fork.

    Args:
        python: the Lava interpreter, default `lava_env.require`.
        timeout_s: limit for one run.
        stall_s: time without any work in any process after which Lava's runtime counts as stuck.

    Raises:
        BackendError: no Lava interpreter, or it does not start.
    """

    def __init__(self, *, python: Path | None = None, timeout_s: float = TIMEOUT_S, stall_s: float = STALL_S) -> None:
        self.timeout_s, self.stall_s = timeout_s, stall_s
        self._python = python or lava_env.require()
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: Path | None = None
        self._pending = b""
        self._count = 0

    def __enter__(self) -> LavaWorker:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Process group of the worker, None when it is not running."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the interpreter and import Lava."""
        short = len(tempfile.gettempdir()) <= SOCKET_ROOM
        self._folder = Path(tempfile.mkdtemp(prefix="avsnn-lava-", dir=None if short else "/tmp"))
        try:
            (self._folder / "cwd").mkdir()
            with (self._folder / "log.txt").open("wb") as log:
                self._process = subprocess.Popen(
                    [str(self._python), "-I", "-B", str(SCRIPT), str(self._folder)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    cwd=self._folder / "cwd",
                    env=_environment(self._folder),
                    start_new_session=True,
                )
            answer = self._answer(START_S)
            if not answer.get("ready"):
                raise BackendError(f"Lava cannot be imported ({_tail(answer)})", where=str(self._python))
        except OSError as error:
            self.close()
            raise BackendError(f"the Lava worker does not start ({error})", where=str(self._python)) from error
        except BaseException:
            self.close()
            raise

    def run(
        self,
        folder: Path,
        inputs: Mapping[str, Array],
        *,
        record: Record = "all",
        oracle: bool = False,
        attempts: int = 4,
    ) -> LavaRun:
        """Run an export on integers.

        Args:
            folder: what `write_lava` wrote.
            inputs: name to integers, (B, *shape) or (T, B, *shape) as the input's coding says.
            record: "all" (spikes, u, v), "spikes", "none" (outputs alone), or names of populations to record in full.
            oracle: drive Lava's process models without its runtime: the same integers, in milliseconds.
            attempts: how often to try when Lava's runtime gets stuck at its start, which happens now and then.

        Raises:
            InputError: inputs that do not fit the network.
            DomainError: a value left the arithmetic that Lava defines.
            BackendError: foreign code in the folder, a failure inside Lava, or no answer in time.
        """
        if isinstance(record, str) and record not in RECORD:
            raise InputError("unknown kind of record", where="record", found=record, limit=", ".join(RECORD))
        check_runtime(folder)
        if self._process is None:
            self.start()
        assert self._folder is not None
        started = time.perf_counter()
        self._count += 1
        place = self._folder / f"run{self._count}"
        place.mkdir()
        try:
            files = _store(inputs, place)
            names = record if isinstance(record, str) else sorted(record)
            where = {"folder": str(folder.resolve()), "inputs": files, "out": str(place / "out")}
            self._ask(where | {"record": names, "oracle": oracle, "stall_s": self.stall_s})
            answer = self._answer(self.timeout_s)
            if answer.get("kind") == "Stalled" and attempts > 1:
                log.warning("Lava's runtime was stuck (%s); running it once more", answer["message"])
                self.close()
                return self.run(folder, inputs, record=record, oracle=oracle, attempts=attempts - 1)
            if not answer.get("done"):
                kind = _KINDS.get(str(answer.get("kind")))
                if kind is not None:
                    raise kind(str(answer["message"]), where=f"lava: {folder}")
                reason = str(answer.get("message", "")).splitlines()[:1]
                raise BackendError(f"the run failed ({' | '.join([*reason, _tail(answer)])})", where=f"lava: {folder}")
            return _collect(place / "out", started)
        except KeyboardInterrupt:
            self.close()
            raise
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def close(self) -> None:
        """End the worker and everything it started; at once if it is not running."""
        process, self._process = self._process, None
        folder, self._folder = self._folder, None
        self._pending = b""
        if process is not None:
            requests, answers = _pipes(process)
            with contextlib.suppress(OSError):
                requests.close()  # the worker ends its group
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(CLOSE_S)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            answers.close()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def _ask(self, request: dict[str, Any]) -> None:
        assert self._process is not None
        requests, _ = _pipes(self._process)
        try:
            requests.write(json.dumps(request).encode() + b"\n")
            requests.flush()
        except OSError as error:
            raise self._lost("is gone") from error

    def _answer(self, timeout_s: float) -> dict[str, Any]:
        """Next line from the worker."""
        assert self._process is not None
        pipe, deadline = _pipes(self._process)[1].fileno(), time.monotonic() + timeout_s
        while b"\n" not in self._pending:
            if not select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise self._lost(f"gave no answer within {timeout_s:g} s")
            data = os.read(pipe, 65536)
            if not data:
                raise self._lost("died")
            self._pending += data
        line, self._pending = self._pending.split(b"\n", 1)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _lost(self, what: str) -> BackendError:
        """Close, and say what its log ends with."""
        lines = ""
        if self._folder is not None:
            for path in (*self._folder.glob("run*/out/log.txt"), self._folder / "log.txt"):
                with contextlib.suppress(OSError):
                    lines = lines or path.read_text(encoding="utf-8", errors="replace")[-4000:]
        self.close()
        return BackendError(f"the Lava worker {what} ({_tail({'log': lines})})", where="lava")


def run_folder(
    folder: Path, inputs: Mapping[str, Array], *, record: Record = "all", timeout_s: float = TIMEOUT_S
) -> tuple[Activity, Mapping[str, float]]:
    """One run in a worker of its own: (activity, seconds per part); arguments and errors as in `LavaWorker.run`."""
    with LavaWorker(timeout_s=timeout_s) as worker:
        found = worker.run(folder, inputs, record=record)
    return found.activity, found.seconds


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    """Where requests go and where answers come from."""
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout


def _environment(folder: Path) -> dict[str, str]:
    """As little as Lava needs; one thread per process, since Lava starts one process per layer."""
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return {"PATH": "/usr/bin:/bin", "HOME": str(folder), "TMPDIR": str(folder), "LC_ALL": "C.UTF-8"} | dict.fromkeys(
        threads, "1"
    )


def _store(inputs: Mapping[str, Array], place: Path) -> dict[str, str]:
    files = {}
    for index, (name, values) in enumerate(inputs.items()):
        array = np.asarray(values)
        if array.dtype.kind not in "iub":
            raise InputError("not integers", where=name, found=array.dtype)
        files[name] = str(place / f"input{index:03d}.npy")
        np.save(files[name], array.astype(np.int64), allow_pickle=False)
    return files


def _collect(out: Path, started: float) -> LavaRun:
    """Read the files that run.json names."""
    found = json.loads((out / "run.json").read_text(encoding="utf-8"))

    def read(kind: str) -> dict[str, Array]:
        return {name: np.load(out / Path(file).name, allow_pickle=False) for name, file in found[kind].items()}

    spikes, u, v = read("spikes"), read("u"), read("v")
    activity = Activity(
        outputs=read("outputs"), spikes=spikes, states={name: {"u": u[name], "v": v[name]} for name in u}
    )
    seconds = found["seconds"] | {"total": time.perf_counter() - started}
    return LavaRun(activity=activity, seconds=seconds, steps=found["steps"], processes=found["processes"])


def _tail(answer: Mapping[str, Any]) -> str:
    """Last lines of what was logged, in one line."""
    lines = [line.strip() for line in str(answer.get("log") or answer.get("message") or "").splitlines()]
    return " | ".join([line for line in lines if line][-3:]) or "no message"
