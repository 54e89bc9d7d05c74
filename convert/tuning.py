"""What stands between the compiler and whatever trains its integers: what it gets, what it gives back, what is checked.

Fine-tuning changes numbers, never the network: the quantised graph is proved first, as always, and `check_same_network`
proves that the tuned one is the same network with other weights, biases and thresholds. What those are is then nothing
that the folded graph could tell; formats, neurons, schedule and executions are checked as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from avsnn.convert.equivalence import Check
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Node
from avsnn.convert.passes.integer_formats import Target
from avsnn.convert.passes.quantise import Scale
from avsnn.convert.proof_data import Inputs
from avsnn.errors import VerifyError
from avsnn.hw_profiles.schema import Profile

TRAINED: tuple[tuple[type[Node], tuple[str, ...]], ...] = (
    (fixed.Synapse, ("weight_mant", "weight_exp", "sign_mode")),
    (fixed.HeldCurrent, ("weight", "bias")),
    (fixed.FixedLIF, ("bias_mant", "threshold_mant", "subtract")),
    (fixed.FixedReadout, ("bias", "scale")),
)
"""Numbers that fine-tuning may change, by node; nothing else may differ."""

SHAPED = {"weight", "weight_mant"}
"""Those whose shape is the network's."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Untuned:
    """A quantised network, and all that a trainer may want to know.

    Attributes:
        folded: the real network as a graph.
        quantised: its integers, proved.
        scales: how they were scaled.
        target: formats.
        profile: of the target.
        module: the network itself, or None where its code is not there.
        data: inputs that proofs compare on, by kind.
    """

    folded: Graph
    quantised: Graph
    scales: tuple[Scale, ...]
    target: Target
    profile: Profile
    module: Any
    data: Mapping[str, Inputs]


@dataclass(frozen=True, kw_only=True, eq=False)
class Tuned:
    """The same network with trained integers.

    Attributes:
        graph: stage ``quantised``.
        scales: of its populations now.
        checks: comparisons of the graph with what was trained.
        record: how it was trained, JSON values.
    """

    graph: Graph
    scales: tuple[Scale, ...]
    checks: tuple[Check, ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict)


Retrain = Callable[[Untuned], Tuned]


def check_same_network(before: Graph, after: Graph) -> int:
    """Return how many nodes were compared.

    Raises:
        VerifyError: the tuned graph differs in more than the numbers that may be trained.
    """
    if [node.name for node in before] != [node.name for node in after] or before.outputs != after.outputs:
        raise VerifyError("fine-tuning changed the network", where="quantised")
    for old, new in zip(before, after, strict=True):
        free = {name for kind, names in TRAINED if isinstance(old, kind) for name in names}
        for part in fields(old):
            a: Any = getattr(old, part.name)
            b: Any = getattr(new, part.name, None)
            same = np.shape(a) == np.shape(b) if part.name in free & SHAPED else part.name in free or _equal(a, b)
            if type(old) is not type(new) or not same:
                raise VerifyError(f"fine-tuning changed {part.name}", where=old.name, expected=a, found=b)
    if not any(_differs(old, new) for old, new in zip(before, after, strict=True)):
        raise VerifyError("fine-tuning changed nothing at all", where="quantised")
    return len(before.nodes)


def _equal(a: object, b: object) -> bool:
    return np.array_equal(a, b) if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) else bool(a == b)


def _differs(old: Node, new: Node) -> bool:
    return any(not _equal(getattr(old, part.name), getattr(new, part.name)) for part in fields(old))
