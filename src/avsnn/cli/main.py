"""Arguments to one command, errors to one line on stderr and an exit code.

Exit codes: 0 fine, 1 a verification failed, 2 any other error, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType, ModuleType

from avsnn import __version__
from avsnn.errors import AvsnnError

COMMANDS = ("train", "convert", "run", "report", "data", "lava", "profiles")


def main(argv: Sequence[str] | None = None) -> int:
    """``avsnn COMMAND ...``."""
    arguments = list(sys.argv[1:] if argv is None else argv)
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
        module = _module(name) if name == chosen else None  # importing all of them would import torch for --help
        sub = commands.add_parser(
            name,
            help=_HELP[name],
            description=module.__doc__ if module else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if module:
            module.configure(sub)
    args = parser.parse_args(arguments)
    return _run(_module(args.command), args)


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
    "data": "list, describe and make embedded data",
    "lava": "install and check the Lava environment",
    "profiles": "list and show hardware profiles",
}


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"avsnn.cli.{name}")


def _run(module: ModuleType, args: argparse.Namespace) -> int:
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code: int = module.run(args)
        sys.stdout.flush()
        return code
    except AvsnnError as error:
        print(f"avsnn: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("avsnn: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a full disk, a folder that vanished: not ours, but the user must know which file
        print(f"avsnn: {error.filename or 'file system'}: {error.strerror or error}", file=sys.stderr)
        return 2
    except MemoryError:
        print("avsnn: out of memory; use fewer samples", file=sys.stderr)
        return 2


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    """SIGTERM ends like Ctrl-C, so that temporary folders and child processes go too."""
    raise KeyboardInterrupt
