"""Make or check the Python 3.10 environment that runs Lava."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from avsnn.deploy import lava_env

EXAMPLE = """examples:
  avsnn lava doctor
  avsnn lava install
  avsnn lava install --path .venv-lava
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.epilog = EXAMPLE
    actions = parser.add_subparsers(dest="action", required=True, metavar="install|doctor")
    install = actions.add_parser("install", help="make the environment (again at no cost if it is there)")
    install.add_argument("--path", type=Path, help="folder for the environment, default: the user's data folder")
    doctor = actions.add_parser("doctor", help="say in one line what is missing; exit 2 if Lava cannot run")
    for action in (install, doctor):
        action.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Carry out the action."""
    if args.action == "install":
        python = lava_env.install(args.path, progress=lambda line: print(line, file=sys.stderr, flush=True))
        print(json.dumps({"python": str(python)}) if args.json else f"lava: ready, {python}")
        return 0
    found = lava_env.doctor()
    facts = {
        "ready": not found.missing,
        "python": str(found.python) if found.python else None,
        "source": found.source,
        "version": found.version,
        "lava": found.lava,
        "missing": found.missing,
    }
    print(json.dumps(facts) if args.json else found.line)
    return 2 if found.missing else 0
