"""A graph as text: one aligned line per node, for reading, diffing and golden tests."""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array, Node

_COMMON = {"name", "inputs", "shape", "origin"}


def render(graph: Graph) -> str:
    """``name: Kind [shape] field=value ... <- inputs``; arrays show shape and range, defaults are left out."""
    rows = [(node.name, f"{node.kind} [{'x'.join(map(str, node.shape))}]", _details(node), node) for node in graph]
    name_width = max((len(row[0]) for row in rows), default=0)
    kind_width = max((len(row[1]) for row in rows), default=0)
    lines = [f"{graph.stage}, T = {graph.timesteps}, outputs: {', '.join(graph.outputs)}"]
    for name, kind, details, node in rows:
        reads = f" <- {', '.join(node.inputs)}" if node.inputs else ""
        lines.append(f"{name:<{name_width}}  {kind:<{kind_width}}  {details}{reads}".rstrip())
    return "\n".join(lines) + "\n"


def _details(node: Node) -> str:
    parts = []
    for field in fields(node):
        value = getattr(node, field.name)
        if field.name in _COMMON or (not isinstance(value, np.ndarray) and value == field.default):
            continue
        if isinstance(value, np.ndarray):
            parts.append(f"{field.name}={_array(value)}")
        elif isinstance(value, float):
            parts.append(f"{field.name}={value:.6g}")
        elif isinstance(value, tuple):
            parts.append(f"{field.name}={','.join(map(str, value))}")
        else:
            parts.append(f"{field.name}={value}")
    return " ".join(parts)


def _array(value: Array) -> str:
    if value.size == 1:
        return f"{value.ravel()[0]:.6g}"
    if not value.size:
        return f"({'x'.join(map(str, value.shape))})"
    low, high = value.min(), value.max()
    return f"({'x'.join(map(str, value.shape))}: {low:.4g}..{high:.4g})"
