"""The contract of a tracer rule: what it is given, what it returns, and the few helpers that most rules need.

A rule gets the module (or nothing, for a call), and a `Site`. It returns the node; or several, where one layer is two
operations (the last is the result); or the name of an existing node when nothing happens at inference (dropout).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from avsnn.convert.ir.node import Array, Node, Shape
from avsnn.convert.ir.nodes import Pair
from avsnn.errors import TraceError


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where a node will stand.

    Attributes:
        name: its name.
        inputs: names of the nodes it reads.
        reads: the features of each of them.
        shape: features it emits.
        origin: module path and class, for messages.
        lead: leading axes of the tensors read that are not features (1: batch; 2: time, batch).
        timesteps: steps of the window that it works in.
        arguments: the remaining positional arguments and keywords of the call, all constants; the keyword ``reversed``
            says whether a number stands first, as in ``1 - x``.
    """

    name: str
    inputs: tuple[str, ...]
    reads: tuple[Shape, ...]
    shape: Shape
    origin: str
    lead: int = 2
    timesteps: int
    arguments: tuple[Any, ...] = ()
    keywords: Mapping[str, Any]

    @property
    def common(self) -> dict[str, Any]:
        """The fields that every node has."""
        return {"name": self.name, "inputs": self.inputs, "shape": self.shape, "origin": self.origin}

    def before(self, part: str, *, inputs: tuple[str, ...] | None = None) -> dict[str, Any]:
        """The fields of a node called ``part`` that stands between this one and its inputs, of the same shape."""
        return {**self.common, "name": f"{self.name}.{part}", "inputs": self.inputs if inputs is None else inputs}


Made = Node | tuple[Node, ...] | str
Rule = Callable[[Any, Site], Made]


def array(tensor: torch.Tensor) -> Array:
    """Weights as numpy, detached."""
    values: Array = tensor.detach().cpu().numpy()
    return values.copy()


def refuse(site: Site, what: str, *, remedy: str = "") -> TraceError:
    """The error of a rule that meets an option it has no node for."""
    return TraceError(what, where=site.origin, remedy=remedy)


@dataclass(frozen=True)
class Never:
    """The rule of what no spiking network on a chip can hold."""

    what: str
    remedy: str

    def __call__(self, module: object, site: Site) -> Made:
        """Refuse it."""
        raise refuse(site, self.what, remedy=self.remedy)


def pair(value: Any) -> Pair:
    """An int or a pair, as a pair."""
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[1]))


def over_time(site: Site) -> Site:
    """The site, once it is sure that its tensors have a time axis."""
    if site.lead != 2:
        raise refuse(site, "needs time, its input has none", remedy="put a DirectCoding before it")
    return site


def size(shape: Shape) -> int:
    """Number of features."""
    return math.prod(shape)
