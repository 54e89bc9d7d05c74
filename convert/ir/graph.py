"""A graph is a tuple of nodes in topological order; passes build new ones and never change an old one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

from avsnn.convert.ir.node import Node
from avsnn.errors import InputError

STAGES = ("traced", "folded", "quantised", "scheduled", "mapped")
N = TypeVar("N", bound=Node)


@dataclass(frozen=True, kw_only=True, eq=False)
class Graph:
    """Nodes in topological order, the names of those that are the answer, and the length of the window.

    Attributes:
        nodes: every node after the ones it reads.
        outputs: names of the output nodes.
        timesteps: T, the steps of one sample's window.
        stage: one of ``STAGES``.

    Raises:
        InputError: a name is used twice, a node reads something that is not before it, or works longer than T steps.
    """

    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]
    timesteps: int
    stage: str

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for node in self.nodes:
            if node.name in seen:
                raise InputError("node name used twice", where=node.name)
            for source in node.inputs:
                if source not in seen:
                    raise InputError("reads a node that does not come before it", where=node.name, found=source)
            steps = getattr(node, "steps", 0)
            if not 0 <= steps <= self.timesteps:
                raise InputError("impossible window", where=node.name, found=steps, limit=f"0 to {self.timesteps}")
            seen.add(node.name)
        for name in self.outputs:
            if name not in seen:
                raise InputError("graph output is not a node", where=name)
        if self.stage not in STAGES:
            raise InputError("unknown stage", where="graph", found=self.stage, limit=", ".join(STAGES))

    @cached_property
    def by_name(self) -> dict[str, Node]:
        """Name to node."""
        return {node.name: node for node in self.nodes}

    @cached_property
    def readers(self) -> dict[str, tuple[Node, ...]]:
        """Name to the nodes that read it."""
        table: dict[str, list[Node]] = {node.name: [] for node in self.nodes}
        for node in self.nodes:
            for source in dict.fromkeys(node.inputs):
                table[source].append(node)
        return {name: tuple(nodes) for name, nodes in table.items()}

    def __getitem__(self, name: str) -> Node:
        try:
            return self.by_name[name]
        except KeyError:
            raise KeyError(f"no node {name!r}; there are: {', '.join(self.by_name)}") from None

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def of(self, kind: type[N]) -> tuple[N, ...]:
        """All nodes of one type, in order."""
        return tuple(node for node in self.nodes if isinstance(node, kind))

    def sources(self, node: Node) -> tuple[Node, ...]:
        """The nodes that ``node`` reads."""
        return tuple(self.by_name[name] for name in node.inputs)

    def with_nodes(
        self, nodes: Iterable[Node], *, stage: str | None = None, outputs: tuple[str, ...] | None = None
    ) -> Graph:
        """The same graph with other nodes in topological order; what no output reads is dropped, inputs stay."""
        table = {node.name: node for node in nodes}
        answers = self.outputs if outputs is None else outputs
        order: dict[str, Node] = {}

        def visit(name: str) -> None:
            if name not in order:
                for source in table[name].inputs:
                    visit(source)
                order[name] = table[name]

        for name in [*(node.name for node in table.values() if not node.inputs), *answers]:
            visit(name)
        return replace(self, nodes=tuple(order.values()), outputs=answers, stage=stage or self.stage)


def rewrite(graph: Graph, rule: Callable[[Node, dict[str, Node]], Node | None]) -> Graph:
    """Offer every node, in order, to ``rule(node, rewritten)`` where ``rewritten`` holds what came before.

    None keeps the node. A node of another name absorbs it: that one is replaced, and whoever read the old node reads
    it instead. Nodes that nobody reads any more disappear. The rule may add nodes to ``rewritten``, and replace those
    that only ``node`` reads. Where it did nothing at all, the graph itself is returned.
    """
    nodes: dict[str, Node] = {}
    moved: dict[str, str] = {}
    changed = False
    for old in graph.nodes:
        node = replace(old, inputs=tuple(moved.get(name, name) for name in old.inputs))
        found = rule(node, nodes)
        changed |= found is not None
        new = found or node
        moved[old.name] = new.name
        nodes[new.name] = new
    if not changed:
        return graph
    return graph.with_nodes(nodes.values(), outputs=tuple(moved[name] for name in graph.outputs))
