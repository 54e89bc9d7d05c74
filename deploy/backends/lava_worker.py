"""Runs in the Lava interpreter: requests on stdin to answers on the first stdout, one JSON object per line.

Started as a script with ``-I`` in a private, empty folder and as the leader of its own process group; its argument is
the folder to remove at the end. It imports nothing of avsnn. Each request is carried out in a fork, so that a crash
costs one request and Lava is imported once. When stdin closes, whoever started this is gone: the whole group is
killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import json
import multiprocessing.process
import os
import pickle
import queue
import shutil
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np

GRACE_S = 0.5  # for the shared memory of killed Lava processes to be released
POLL_S = 0.2
STALLED = "Stalled"
PEEK = 1 << 20  # bytes of what a Lava process says when it ends
PR_SET_PDEATHSIG = 1  # linux/prctl.h
WARM = (
    "lava.proc.lif.models",
    "lava.proc.sparse.models",
    "lava.proc.io.source",
    "lava.magma.core.run_configs",
    "lava.magma.compiler.compiler",
    "lava.magma.runtime.runtime",
)


def main() -> None:
    """Serve requests until stdin closes."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # survive `end`, which stops everyone else first
    os.register_at_fork(after_in_child=follow_parent)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what Lava prints is a log, not an answer
    requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=listen, args=(requests,), daemon=True).start()
    try:
        for name in WARM:
            importlib.import_module(name)
        ready: dict[str, Any] = {"ready": True, "python": sys.version.split()[0]}
    except Exception:  # the core shows it
        ready = {"ready": False, "log": traceback.format_exc()}
    with contextlib.suppress(OSError):  # nobody listens any more
        answers.write(json.dumps(ready) + "\n")
        while True:
            answers.write(json.dumps(serve(requests.get())) + "\n")
    threading.Event().wait()  # for `end` to finish its work in the other thread


def follow_parent() -> None:
    """In every forked process: be terminated when the parent dies, however it dies."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def listen(requests: queue.SimpleQueue[dict[str, Any]]) -> None:
    """Queue what arrives on stdin; end everything when it closes."""
    pending = b""
    while data := os.read(0, 65536):  # not sys.stdin: its lock would be held while the main thread forks
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            requests.put(json.loads(line))
    end()


def end() -> None:
    """Stop every process of the group, this one last."""
    os.killpg(0, signal.SIGTERM)
    time.sleep(GRACE_S)
    shutil.rmtree(sys.argv[1], ignore_errors=True)
    os.killpg(0, signal.SIGKILL)


def serve(request: dict[str, Any]) -> dict[str, Any]:
    """Carry out one request in a fork: {"folder", "inputs", "out", "record", "oracle", "stall_s"}."""
    out = Path(request["out"])
    started = time.perf_counter()
    if request["oracle"]:
        oracle()
    child = os.fork()
    if child == 0:
        carry_out(request, out)
    _, status = os.waitpid(child, 0)
    seconds = time.perf_counter() - started
    if status == 0 and (out / "run.json").exists():
        return {"done": True, "seconds": seconds}
    answer: dict[str, Any] = {"done": False, "kind": "", "message": f"ended with status {status}", "seconds": seconds}
    with contextlib.suppress(OSError, ValueError):
        answer.update(json.loads((out / "error.json").read_text(encoding="utf-8")))
    with contextlib.suppress(OSError):
        answer["log"] = (out / "log.txt").read_text(encoding="utf-8", errors="replace")[-4000:]
    return answer


def carry_out(request: dict[str, Any], out: Path) -> None:
    """In the fork: run the export's own script; never returns."""
    status = 1
    try:
        out.mkdir()
        log = os.open(out / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        threading.Thread(target=watch, args=(out, request["stall_s"]), daemon=True).start()
        network = load("network", Path(request["folder"]) / "network.py")
        inputs = {name: np.load(file, allow_pickle=False) for name, file in request["inputs"].items()}
        network.run(inputs, out, request["record"], oracle() if request["oracle"] else None)
        status = 0
    except BaseException as error:
        traceback.print_exc()
        fail(out, type(error).__name__, str(error))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # no clean-up of what belongs to the parent; Lava's processes follow


def oracle() -> Any:
    """The driver beside this file, loaded once and before the fork."""
    if "lava_oracle" not in sys.modules:
        load("lava_oracle", Path(__file__).parent / "lava_oracle.py").warm()
    return sys.modules["lava_oracle"].drive


def load(name: str, path: Path) -> Any:
    """Import one file under a name."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def watch(out: Path, stall_s: float) -> None:
    """End the request when a Lava process failed or all of them stopped working: Lava itself would wait for ever."""
    seen: set[Any] = set()
    worked, idle = 0, 0  # polls, not time: a machine that was paused has not been idle
    while True:
        time.sleep(POLL_S)
        if (ticks := group_ticks()) != worked:
            worked, idle = ticks, 0
        elif (idle := idle + 1) * POLL_S > stall_s:
            fail(out, STALLED, f"no process has worked for {stall_s:g} s: Lava's runtime is stuck")
            os._exit(1)
        seen.update(tuple(multiprocessing.process._children))  # type: ignore[attr-defined]  # active_children() reaps
        for process in seen:
            if reason := failure(process):
                fail(out, "LavaProcess", reason)
                os._exit(1)


def group_ticks() -> int:
    """Processor time of all processes of the group, in clock ticks; of this one the main thread's alone."""
    own, group, total = str(os.getpid()), str(os.getpgrp()), 0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            stat = folder / "task" / own / "stat" if folder.name == own else folder / "stat"
            fields = stat.read_text().rpartition(")")[2].split()
            if fields[2] == group:
                total += int(fields[11]) + int(fields[12])
    return total


def failure(process: Any) -> str:
    """Return the exception or signal that ended a Lava process, if one did; a traceback goes to the log."""
    with contextlib.suppress(OSError, ValueError, EOFError, AttributeError):  # closed while we look: it ended well
        if told := last_words(process):
            error, log = told
            sys.stderr.write(f"{log}\n")
            sys.stderr.flush()
            return f"{type(error).__name__} in a Lava process: {error}"
    with contextlib.suppress(OSError, ValueError, TypeError):
        ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)  # looks, does not reap
        if ended is not None and ended.si_code in (os.CLD_KILLED, os.CLD_DUMPED):
            return f"a Lava process was killed by signal {ended.si_status}"
    return ""


def last_words(process: Any) -> Any:
    """(error, traceback) that a Lava process has sent when it ended, or None.

    They are left in the pipe: Lava's main thread may be about to read them, and of two readers one gets half a message.
    """
    with socket.socket(fileno=os.dup(process._pconn.fileno())) as pipe:
        found = pipe.recv(PEEK, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    (length,) = struct.unpack("!i", found[:4])
    whole = len(found) >= 4 + length
    return pickle.loads(found[4:]) if whole else ("more than can be shown", "")


def fail(out: Path, kind: str, message: str) -> None:
    """Leave the reason for `serve`."""
    with contextlib.suppress(OSError):
        (out / "error.json").write_text(json.dumps({"kind": kind, "message": message}), encoding="utf-8")


if __name__ == "__main__":
    main()
