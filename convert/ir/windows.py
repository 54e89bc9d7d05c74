"""A graph to the steps of a window in which each of its nodes can send anything: T, or fewer behind what rests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Node


def windows(graph: Graph) -> dict[str, int]:
    """Name to steps. Neurons without memory and bias (pools, relays, coincidences) rest with what they read."""
    found: dict[str, int] = {}
    for node in graph:
        found[node.name] = _window(node, [found[name] for name in node.inputs], graph.timesteps)
    return found


def _window(node: Node, sources: Sequence[int], T: int) -> int:
    match node:
        case ir.Input() | ir.LIF() | fixed.FixedInput():
            return node.steps or T
        case fixed.FixedLIF() if node.steps or node.role == "neuron":
            return node.steps or T
        case ir.MeanTime() | ir.Unit() | fixed.FixedUnitCurrent():  # known when all steps are over, and held
            return T
        case _:
            return max(sources, default=T)


def resting_with_sources(graph: Graph) -> Graph:
    """The graph, where neurons without a window of their own rest in those steps in which all they read does.

    For populations that stand for something between others (gates), of which the module knows nothing.
    """
    found: dict[str, int] = {}
    made: list[Node] = []
    for node in graph:
        sources = [found[name] for name in node.inputs]
        if isinstance(node, ir.LIF) and not node.steps and max(sources) < graph.timesteps:
            node = replace(node, steps=max(sources))
        found[node.name] = _window(node, sources, graph.timesteps)
        made.append(node)
    return replace(graph, nodes=tuple(made))
