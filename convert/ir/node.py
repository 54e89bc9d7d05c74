"""What every node of every stage shares: a name, the names it reads, and the shape of what it emits."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Node:
    """One operation. Activity is (time, batch, *shape); shape never holds time or batch.

    Attributes:
        name: unique in its graph; the ``named_modules()`` path of the module where there is one.
        inputs: names of the nodes it reads, all of them earlier in the graph.
        shape: features it emits, ``(channel, height, width)`` or ``(features,)``.
        origin: where the user wrote it (module path and class), for messages.
    """

    name: str
    inputs: tuple[str, ...] = ()
    shape: Shape = ()
    origin: str = ""

    def __post_init__(self) -> None:
        """Make every array read-only: passes replace nodes, they never change one."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                view = value.view()
                view.flags.writeable = False
                object.__setattr__(self, field.name, view)

    @property
    def kind(self) -> str:
        """Class name, as printed in graphs and messages."""
        return type(self).__name__
