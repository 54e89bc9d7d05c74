"""Progress on a terminal (on stderr, so that results can be piped), silence elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from avsnn.convert.proofs import Progress


@contextmanager
def steps(*, quiet: bool = False) -> Iterator[Progress]:
    """A callback that shows the step under way."""
    console = Console(stderr=True)
    if quiet or not sys.stderr.isatty():
        yield lambda _text: None
        return
    with console.status("starting") as status:
        yield lambda text: status.update(text)
