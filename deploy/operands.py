"""One neuron at one step of a run to everything that it computed with: what arrived, bias, threshold, state before.

What each connection delivers is worked out in logical time from the spikes that the run itself recorded, and what
arrived is worked out from the recorded current: where the two differ, something arrived at the wrong time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.fixed_interpreter import bias_of, connect, held, product, to_integers
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.interpreter import apply
from avsnn.convert.ir.node import Array, Node
from avsnn.hw_profiles.fixed_point import UNITY, clip_state, decay

if TYPE_CHECKING:
    from avsnn.deploy.run import Run

Number = int | float


@dataclass(frozen=True, kw_only=True)
class Operands:
    """What one neuron computed with in one step; what does not exist in its stage is None.

    Attributes:
        spike: whether it fired.
        u: its current after the step.
        v: its potential after reset.
        v_before: after the step before; 0 where a window starts.
        potential: what was held against the threshold.
        threshold: what that was.
        bias: added in every step, in units of v.
        arrived: synaptic input, as the recorded current has it (floats: the current itself).
        delivered: connection to what it delivers in logical time.
        answer: of a readout.
    """

    spike: bool | None = None
    u: Number | None = None
    v: Number | None = None
    v_before: Number | None = None
    potential: Number | None = None
    threshold: Number | None = None
    bias: Number | None = None
    arrived: Number | None = None
    delivered: Mapping[str, Number] = field(default_factory=dict)
    answer: Number | None = None

    def record(self) -> dict[str, Any]:
        """As JSON, without what does not exist."""
        made = {key: value for key, value in vars(self).items() if value is not None and key != "delivered"}
        return made | {"delivered": dict(self.delivered)}


def operands(
    graph: Graph,
    run: Run,
    inputs: Mapping[str, Array],
    name: str,
    step: int | None,
    sample: int,
    neuron: tuple[int, ...],
) -> Operands:
    """What neuron ``neuron`` of node ``name`` computed with; ``step`` None sums over the window (readouts).

    Args:
        graph: of any stage.
        run: of that graph, everything recorded.
        inputs: what it ran on, in the user's units.
        name: population or readout.
        step: in logical time.
        sample: of the batch.
        neuron: index in the node's shape.
    """
    node = graph[name]
    values = _Values(graph, run, inputs, sample)
    delivered = {n: values.at(n, node, step, neuron) for n in _parts(graph, node)}
    place = (sample, *neuron)
    if isinstance(node, ir.LIF | fixed.FixedLIF) and step is not None and 0 < node.steps <= step:  # it rests
        return Operands(spike=bool(run.spikes[name][step][place]), delivered=delivered)
    match node:
        case fixed.FixedLIF() if step is not None:
            ports = [s.name for s in graph.sources(node) if isinstance(s, fixed.HeldCurrent) and s.port == "bias"]
            extra = sum(int(delivered.pop(port)) << fixed.ACTIVATION_SHIFT for port in ports)
            return _integers(node, run, delivered, extra, step, sample, neuron)
        case ir.LIF() if step is not None:
            return _floats(node, run, delivered, step, sample, neuron)
        case fixed.FixedReadout():
            answer, bias = _number(run.raw[place]), int(_one(node.bias, node, neuron))
            return Operands(answer=answer, bias=bias, arrived=answer - bias, delivered=delivered)
        case _:
            return Operands(answer=_number(run.raw[place]), delivered=delivered)


def _integers(
    node: fixed.FixedLIF,
    run: Run,
    delivered: Mapping[str, Number],
    extra: int,
    step: int,
    sample: int,
    neuron: tuple[int, ...],
) -> Operands:
    place = (step, sample, *neuron)
    before = (step - 1, sample, *neuron)
    state = run.states[node.name]
    u, v = int(state["u"][place]), int(state["v"][place])
    u_before, v_before = (int(state[key][before]) if step else 0 for key in ("u", "v"))
    bias = int(np.broadcast_to(bias_of(node), node.shape)[neuron]) + extra
    kept = int(decay(np.array(u_before, dtype=np.int64), UNITY - (node.decay_u + 1)))
    potential = int(decay(np.array(v_before, dtype=np.int64), UNITY - node.decay_v)) + u + bias
    if node.reset == "subtract_delayed" and step and run.spikes[node.name][before]:
        potential -= int(_one(node.subtract, node, neuron))
    return Operands(
        spike=bool(run.spikes[node.name][place]),
        u=u,
        v=v,
        v_before=v_before,
        potential=int(clip_state(np.array(potential), node.state_bits)),
        threshold=int(_one(node.threshold_mant, node, neuron)) << fixed.ACTIVATION_SHIFT,
        bias=bias,
        arrived=(u - kept) >> fixed.ACTIVATION_SHIFT,
        delivered=delivered,
    )


def _floats(
    node: ir.LIF, run: Run, delivered: Mapping[str, Number], step: int, sample: int, neuron: tuple[int, ...]
) -> Operands:
    place, before = (step, sample, *neuron), (step - 1, sample, *neuron)
    v = run.states[node.name]["v"]
    v_before = float(v[before]) if step else 0.0
    threshold = float(_one(node.threshold, node, neuron))
    current = float(sum(delivered.values()))
    owed = threshold * (node.reset == "subtract_delayed" and step > 0 and bool(run.spikes[node.name][before]))
    return Operands(
        spike=bool(run.spikes[node.name][place]),
        v=float(v[place]),
        v_before=v_before,
        potential=node.decay * v_before + node.gain * current - owed,
        threshold=threshold,
        arrived=current,
        delivered=delivered,
    )


def _one(value: float | Array, node: Node, neuron: tuple[int, ...]) -> Any:
    return np.broadcast_to(np.asarray(value), node.shape)[neuron]


def _number(value: Any) -> Number:
    return int(value) if np.issubdtype(np.asarray(value).dtype, np.integer) else float(value)


def _parts(graph: Graph, node: Node) -> tuple[str, ...]:
    """The terms of its input: an `Add` is taken apart."""
    parts: list[str] = []
    for name in node.inputs:
        source = graph[name]
        parts += _parts(graph, source) if isinstance(source, ir.Add) else [name]
    return tuple(dict.fromkeys(parts))


class _Values:
    """What nodes emit for one sample in logical time, (T, 1, *shape), from the spikes that a run recorded."""

    def __init__(self, graph: Graph, run: Run, inputs: Mapping[str, Array], sample: int) -> None:
        self.graph, self.run, self.sample = graph, run, sample
        integers = to_integers(graph, inputs) if graph.of(fixed.FixedInput) else {}
        self.inputs = {**inputs, **integers}
        self.done: dict[str, Array] = {}

    def at(self, name: str, reader: Node, step: int | None, neuron: tuple[int, ...]) -> Number:
        """One value, or the sum over the window."""
        x = self.of(name)
        x = x.reshape(len(x), *reader.shape)
        if step is not None:
            return _number(x[step][neuron])
        whole = reader.over_window(x) if isinstance(reader, fixed.FixedReadout) else x.sum(axis=0)
        return _number(whole[neuron])

    def of(self, name: str) -> Array:
        """The whole window."""
        if name not in self.done:
            self.done[name] = self._compute(self.graph[name])
        return self.done[name]

    def _compute(self, node: Node) -> Array:
        T, k = self.graph.timesteps, self.sample
        match node:
            case ir.Input() | fixed.FixedInput():
                x = np.asarray(self.inputs[node.name])
                if node.coding == "direct":
                    return np.broadcast_to(x[k : k + 1], (T, 1, *x.shape[1:]))
                return np.concatenate([x[:, k : k + 1], np.zeros((T - len(x), 1, *x.shape[2:]), dtype=x.dtype)])
            case ir.LIF() | fixed.FixedLIF():
                return self.run.spikes[node.name][:, k : k + 1].astype(np.int64)
            case fixed.HeldCurrent():
                return np.broadcast_to(held(node, self.of(node.inputs[0])[0]), (T, 1, *node.shape))
            case fixed.Synapse():
                x = self.of(node.inputs[0])
                return connect(node, x.reshape(-1, *x.shape[2:])).reshape(T, 1, *node.shape)
            case fixed.Product():
                return product(node, *(self.of(n) for n in node.inputs))
            case _:
                return apply(node, [self.of(n).astype(np.float64) for n in node.inputs])
