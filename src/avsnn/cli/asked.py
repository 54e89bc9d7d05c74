"""What a conversion was asked for to one line that can stand in its report: the same for the same request, anywhere."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping
from pathlib import PurePath

FILES = ("model", "data", "calibration", "finetune")
"""Arguments that may name files; their folders are nobody's business and differ between machines."""
NAMES: Mapping[str, str] = {"start": "from"}
"""Argument: the option that sets it, where they differ."""
UNSAID = ("command", "model", "out", "force", "json", "timeout", "resume", "frontier", "counter_example", "device")
"""What changes no byte of a report."""


def command_line(args: argparse.Namespace, defaults: Mapping[str, object]) -> str:
    """``avsnn-convert MODEL --option value ...``, without what is as it is by itself.

    >>> args = argparse.Namespace(model="models/a b.pt", target="cpu", samples=64, out="x", start=None)
    >>> command_line(args, {"target": "loihi2", "samples": 64})
    "avsnn-convert 'a b.pt' --target cpu"
    """
    parts = ["avsnn-convert", PurePath(args.model).name]
    for name, value in sorted(vars(args).items()):
        if name in UNSAID or callable(value) or value is None or value is False or value == defaults.get(name):
            continue
        option = f"--{NAMES.get(name, name).replace('_', '-')}"
        shown = PurePath(str(value)).name if name in FILES else str(value)
        parts += [option] if value is True else [option, shown]
    return shlex.join(parts)
