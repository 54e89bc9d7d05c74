"""What stands in the way of a conversion, or may: one entry per operation, with its place in the user's own code."""

from __future__ import annotations

import linecache
import sys
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from avsnn.errors import AvsnnError

_NOT_THE_USERS = (
    "torch.",
    "avsnn.convert.",
    "avsnn.train.layers.",
    "norse.",
)  # modules whose frames are not where the user wrote a call


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One operation that the tracer has no node for; ``str`` is the sentence of its error.

    Attributes:
        where: module path, or the name of the call.
        what: what is wrong with it.
        found: the offending class, call or value.
        remedy: what to do about it.
        line: where ``forward`` calls it, as "file.py:12: x = self.act(x)"; empty if unknown.
        node: name of the stand-in among the nodes of a `avsnn.convert.tracer.Survey`.
        text: the whole sentence.
    """

    where: str
    what: str
    found: str = ""
    remedy: str = ""
    line: str = ""
    node: str = ""
    text: str = ""

    def __str__(self) -> str:
        return self.text

    @staticmethod
    def of(error: AvsnnError, *, line: str = "", node: str = "") -> Problem:
        """The same from an error."""
        found = "" if error.found is None else str(error.found)
        return Problem(
            where=error.where,
            what=error.what,
            found=found,
            remedy=error.remedy,
            line=line,
            node=node,
            text=str(error),
        )


def calling_line() -> str:
    """Where the user's own code made the call that is now being traced: the innermost frame that is theirs."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if _is_the_users(frame):
            return _shown(frame.f_code.co_filename, frame.f_lineno, frame.f_globals)
        frame = frame.f_back
    return ""


def failing_line(error: BaseException) -> str:
    """Where in the user's own code an error (or what caused it) arose; empty if nowhere."""
    found, walk = "", (error.__cause__ or error).__traceback__
    while walk is not None:
        if _is_the_users(walk.tb_frame) and walk.tb_frame.f_code.co_name == "forward":
            found = _shown(walk.tb_frame.f_code.co_filename, walk.tb_lineno, walk.tb_frame.f_globals)
        walk = walk.tb_next
    return found


def _is_the_users(frame: FrameType) -> bool:
    return not f"{frame.f_globals.get('__name__', '')}.".startswith(_NOT_THE_USERS)


def _shown(file: str, number: int, namespace: dict[str, Any]) -> str:
    code = linecache.getline(file, number, namespace).strip()
    path = Path(file)
    if path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return f"{path}:{number}: {code}" if code else f"{path}:{number}"
