"""An integer graph to a certificate: can any input push it out of the arithmetic that it was proved in?

Every population is `proved` (no input whatever can, by intervals: `avsnn.convert.state_bounds`), `observed` (the bound
is too wide to say; what was seen is that many bits inside), or rejected: a search found an input that does, and the
conversion stops. Sums of products and of read-outs have bounds alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.activity import Activity
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array, Node
from avsnn.convert.overflow_search import find, reached
from avsnn.convert.state_bounds import Bounds, bounds, room
from avsnn.errors import CertificateError

MESSAGE_BITS = 31  # of a sum on its way to a 24-bit neuron: int32 in Lava and in the simulator
FLOAT_BITS = 53  # and to wider ones, which only exact floats reach
HOST_BITS = 63  # of what the host sums up over a window
PROVED, OBSERVED = "proved", "observed"


@dataclass(frozen=True, kw_only=True)
class Margin:
    """One quantity of one node.

    Attributes:
        limit: the largest magnitude allowed.
        bound: the largest that any input can make, as far as intervals tell.
        seen: the largest that data made; None where it was not looked at.
    """

    limit: int
    bound: int
    seen: int | None = None

    @property
    def bits(self) -> int:
        """How often the bound can double and still fit; negative: it does not fit."""
        bits = self.limit.bit_length() - self.bound.bit_length()
        return bits if self.bound <= self.limit else min(-1, bits)

    @property
    def seen_bits(self) -> int | None:
        """The same of what data made."""
        return None if self.seen is None else self.limit.bit_length() - self.seen.bit_length()


@dataclass(frozen=True, kw_only=True)
class Row:
    """The verdict on one node; ``kind`` is "population", "product" or "readout"."""

    name: str
    kind: str
    margins: Mapping[str, Margin]

    @property
    def verdict(self) -> str:
        """Proved if every bound fits."""
        return PROVED if all(margin.bound <= margin.limit for margin in self.margins.values()) else OBSERVED

    def to_json(self) -> dict[str, Any]:
        """For the record of a bundle."""
        margins = {
            what: {"limit": m.limit, "bound": m.bound, "bits": m.bits, "seen": m.seen, "seen_bits": m.seen_bits}
            for what, m in self.margins.items()
        }
        return {"name": self.name, "kind": self.kind, "verdict": self.verdict, "margins": margins}


def certify(graph: Graph, data: Mapping[str, Array], *, seed: int = 0) -> tuple[Row, ...]:
    """Bound every node, and search for an overflow wherever the bound does not prove that there is none.

    Args:
        graph: stage ``quantised``.
        data: integers of some samples, where a search begins.
        seed: of the searches.

    Returns:
        A row per population, product and read-out, in the order of the graph.

    Raises:
        CertificateError: an input that overflows was found.
        DomainError: a node without a bound, or sums beyond 64 bits.
    """
    found = bounds(graph)
    rows = []
    for node in graph:
        row = _row(graph, node, found)
        if row is None:
            continue
        rows.append(row)
        if isinstance(node, fixed.FixedLIF) and row.verdict != PROVED:
            example = find(graph, node, found, data, seed)
            if example is not None:
                source = "an input of the network" if example.inputs is not None else "spikes of its sources"
                raise CertificateError(example.error, source=source, example=example)
    return tuple(rows)


def with_seen(rows: tuple[Row, ...], graph: Graph, x: Mapping[str, Array], run: Activity) -> tuple[Row, ...]:
    """The rows with what a run on integers x has reached, where that is more than was seen before."""
    return tuple(_seen(row, graph, x, run) for row in rows)


def _seen(row: Row, graph: Graph, x: Mapping[str, Array], run: Activity) -> Row:
    node = graph[row.name]
    if not isinstance(node, fixed.FixedLIF):
        return row
    most = {what: int(load.max(initial=0)) for what, load in reached(node, graph, x, run).items()}
    margins = {
        what: replace(m, seen=max(most[what], m.seen or 0)) if what in most else m for what, m in row.margins.items()
    }
    return replace(row, margins=margins)


def _row(graph: Graph, node: Node, found: Bounds) -> Row | None:
    bits = max((n.state_bits for n in graph.of(fixed.FixedLIF)), default=24)
    message = (1 << (MESSAGE_BITS if bits <= 24 else FLOAT_BITS)) - 1
    arriving = found.sent[node.name].peak
    match node:
        case fixed.FixedLIF():
            states = found.states[node.name]
            margins = {"sum": Margin(limit=message, bound=states.current.peak)}
            for what, load in states.loads(node).items():
                margins[what] = Margin(limit=room(node, what), bound=int(load.max(initial=0)))
            return Row(name=node.name, kind="population", margins=margins)
        case fixed.Product():
            return Row(name=node.name, kind="product", margins={"sum": Margin(limit=message, bound=arriving)})
        case fixed.FixedReadout():
            counted = graph.timesteps if node.step_weights is None else int(np.abs(node.step_weights).sum())
            whole = arriving * counted + int(np.abs(node.bias).max(initial=0))
            margins = {"sum": Margin(limit=message, bound=arriving)}
            margins["answer"] = Margin(limit=(1 << HOST_BITS) - 1, bound=whole)
            return Row(name=node.name, kind="readout", margins=margins)
        case _:
            return None
