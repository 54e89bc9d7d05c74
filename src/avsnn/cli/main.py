"""Arguments to one command, errors to one line on stderr and an exit code.

Exit codes: 0 fine, 1 a verification failed, 2 any other error, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import math
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType, ModuleType

from avsnn import __version__
from avsnn.errors import AvsnnError

ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
INTERRUPTED = 130
ONCE_S = 10.0  # seconds for which a second Ctrl-C is ignored, so that the first one can clean up
COMMANDS = ("train", "convert", "run", "report", "check", "fit", "diff", "data", "lava", "profiles", "audit")


def main(argv: Sequence[str] | None = None) -> int:
    """``avsnn COMMAND ...``."""
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    with _ending_once():
        return _guarded(list(sys.argv[1:] if argv is None else argv))


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """The parser; only the command that ``arguments`` name is imported, as all of them take seconds."""
    parser = argparse.ArgumentParser(
        prog="avsnn",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="From a spiking network trained in PyTorch to neuromorphic hardware, and proved to be the same.",
        epilog="example: avsnn convert examples/models/avdigits-tiny.pt --target loihi2 --out build/demo",
    )
    parser.add_argument("--version", action="version", version=f"avsnn {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    chosen = arguments[0] if arguments and arguments[0] in COMMANDS else None
    for name in COMMANDS:
        module = _module(name) if name == chosen else None
        sub = commands.add_parser(
            name,
            help=_HELP[name],
            description=module.__doc__ if module else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if module:
            module.configure(sub)
    return parser


def train() -> int:
    """``avsnn-train``."""
    return main(["train", *sys.argv[1:]])


def convert() -> int:
    """``avsnn-convert``."""
    return main(["convert", *sys.argv[1:]])


def run() -> int:
    """``avsnn-run``."""
    return main(["run", *sys.argv[1:]])


def report() -> int:
    """``avsnn-report``."""
    return main(["report", *sys.argv[1:]])


_HELP = {
    "train": "train a network and write a checkpoint",
    "convert": "checkpoint to a proved, runnable, priced bundle",
    "run": "run a bundle on inputs",
    "report": "show the report of a bundle",
    "check": "list everything in a network that keeps it from a target, or might",
    "fit": "cores and chips of every profile that a network takes, or what does not fit",
    "diff": "find the first place where two bundles, stages or back ends differ",
    "data": "list, describe and make embedded data",
    "lava": "install and check the Lava environment",
    "profiles": "list, show and check hardware profiles",
    "audit": "check a published table of operations and energies against itself",
}


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"avsnn.cli.{name}")


def _guarded(arguments: Sequence[str]) -> int:
    """Carry out the command; whatever goes wrong becomes a line and an exit code."""
    try:
        args = _parser(arguments).parse_args(arguments)
        code: int = _module(args.command).run(args)
        sys.stdout.flush()
        return code
    except AvsnnError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a full disk, a folder that vanished: not ours, but the user must know which file
        return _fail(f"{error.filename or 'file system'}: {error.strerror or error}", 2)
    except MemoryError:
        return _fail("out of memory; use fewer samples", 2)
    except Exception:  # a mistake of ours must not look like a verification that failed
        traceback.print_exc()
        return _fail("this is a bug; please report it with the lines above", 2)


def _fail(message: str, code: int) -> int:
    print(f"avsnn: {' '.join(message.split())}", file=sys.stderr)
    return code


@contextmanager
def _ending_once() -> Iterator[None]:
    """SIGTERM and a closed terminal end like Ctrl-C, so that temporary folders and child processes go too."""
    last = -math.inf

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        nonlocal last
        if time.monotonic() - last > ONCE_S:
            last = time.monotonic()
            raise KeyboardInterrupt

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in ENDINGS:
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup
                before[number] = signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
