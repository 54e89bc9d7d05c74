"""A quantised graph to a torch module that trains, runs bit for bit as the graph does, and turns back into it.

Spikes pass synapses for all steps at once; neurons walk through time. Windows of max pools are computed as maxima,
which for spikes is the same, and which passes gradients better; `IntegerNet.record` computes them as the graph says.
What is proved of this module is proved of the graph: `avsnn.convert.finetune_proof` runs both and compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from avsnn.convert.finetune_cells import PER_ACTIVATION, IntegerCell, Leak, float_for, recorded
from avsnn.convert.finetune_hosts import HostCurrent, UnitCurrent
from avsnn.convert.finetune_layers import Bias, Threshold, Weights, multiplied
from avsnn.convert.intervals import Interval, of_product, steps_of
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array, Node
from avsnn.convert.passes.integer_formats import Target, growth
from avsnn.convert.passes.quantise_products import HEADROOM
from avsnn.errors import CapabilityError
from avsnn.hw_profiles import fixed_point
from avsnn.train.neurons import walk

SAFE = 0.97  # of the state that sums of weights may fill: what rounding adds stays below the rest
Layer = Weights | HostCurrent | UnitCurrent | Bias


@dataclass(kw_only=True, eq=False)
class Answers:
    """What a forward pass leaves.

    Attributes:
        raw: output to whole numbers (B, *shape).
        operations: synaptic operations per sample, differentiable; 0 if they were not asked for.
        spikes: population to spikes (T, B, *shape), where recorded; ``states`` likewise, by "u" and "v".
    """

    raw: dict[str, Tensor] = field(default_factory=dict)
    operations: Tensor | float = 0.0
    spikes: dict[str, Tensor] = field(default_factory=dict)
    states: dict[str, dict[str, Tensor]] = field(default_factory=dict)


class IntegerNet(nn.Module):
    """The graph as a module: ``net(integers)`` takes what `avsnn.convert.ir.fixed_interpreter.to_integers` gives.

    Args:
        graph: stage ``quantised``.
        target: formats that its integers must keep.
        starts: real mantissas by synapse, where training should not start from the integers themselves.
        shifts: k by population, where all its currents must stay multiples of ``2^k``; weights do by their exponents.
        surrogate: a name in `avsnn.train.surrogates.SURROGATES`.
        rates: whether thresholds train, and the host's wide weights: what most moves how often neurons fire.

    Raises:
        CapabilityError: a node that cannot be trained.
        DomainError: sums that no float holds exactly.
    """

    def __init__(
        self,
        graph: Graph,
        target: Target,
        *,
        starts: Mapping[str, Array] | None = None,
        shifts: Mapping[str, int] | None = None,
        surrogate: str = "atan",
        rates: bool = False,
    ) -> None:
        super().__init__()
        self.graph, self.target, self.surrogate, self.shifts = graph, target, surrogate, dict(shifts or {})
        self.layers, self.thresholds, self._rates = nn.ModuleDict(), nn.ModuleDict(), rates
        self._levels: dict[str, int] = {}
        self._reaches: dict[str, float] = {}
        self._cells: dict[str, tuple[IntegerCell, torch.dtype]] = {}
        for node in graph:
            self._add(node, starts or {})

    def _add(self, node: Node, starts: Mapping[str, Array]) -> None:
        graph = self.graph
        match node:
            case fixed.FixedInput():
                self._levels[node.name] = max(abs(node.low), abs(node.high), 1)
            case fixed.Synapse():
                levels = self._levels[node.inputs[0]] * (graph.timesteps if self._counted(node) else 1)
                given = any(isinstance(n, fixed.FixedLIF) and n.role != "neuron" for n in graph.readers[node.name])
                layer = Weights(node, self.target, levels, starts.get(node.name), fixed_weights=given)
                self._put(node, layer)
            case fixed.HeldCurrent():
                (reader,) = graph.readers[node.name]
                assert isinstance(reader, fixed.FixedLIF)
                kept = growth(graph.timesteps, (fixed.MEMORYLESS - reader.decay_v) / fixed.MEMORYLESS)
                room = int(HEADROOM * (1 << (reader.state_bits - 1 - fixed.ACTIVATION_SHIFT)) / kept)
                self._put(node, HostCurrent(graph, node, self.target, _level(reader), room, rates=self._rates))
            case fixed.FixedUnitCurrent():
                self._put(node, UnitCurrent(node))
            case fixed.Received():
                remedy = "leave fine-tuning out; norms at run time and gains per step cannot be fine-tuned yet"
                raise CapabilityError("no rule to fine-tune it", where=node.name, found=node.kind, remedy=remedy)
            case fixed.Product():
                made = of_product(
                    node, [Interval.of(x.shape, 0, 1) for x in graph.sources(node)], steps_of(graph, node)
                )
                most = max(1, made.peak)
                self._levels[node.name] = most
                float_for(most * max(graph.timesteps, 1), where=node.name)
            case fixed.FixedLIF():
                self._levels[node.name] = 1
                if node.role == "neuron" and not self.shifts.get(node.name):  # shifted: only with all that v is made of
                    room = self.target.threshold_room
                    self.thresholds[_key(node.name)] = Threshold(node, room, rates=self._rates)
                if self._biased(node):
                    self._put(node, self._bias(node))
            case fixed.FixedReadout():
                unit = max(1.0, 0.1 / node.scale)
                self._put(node, Bias(node.bias, unit, float(1 << 52), torch.float64))
            case _:
                raise CapabilityError("no rule to fine-tune it", where=node.name, found=node.kind)

    def _bias(self, node: fixed.FixedLIF) -> Bias:
        if node.bias_exp < fixed.ACTIVATION_SHIFT:
            raise CapabilityError("its bias is finer than currents", where=node.name, found=node.bias_exp)
        up = node.bias_exp - fixed.ACTIVATION_SHIFT
        step = 1 << max(0, self.shifts.get(node.name, 0) - up)
        dtype = torch.float32 if node.state_bits <= 24 else torch.float64
        room = float(self.target.bias_room // step * step)
        return Bias(self._map(node), _level(node), room, dtype, step=step, per=1 << up)

    def _put(self, node: Node, layer: nn.Module) -> None:
        self.layers[_key(node.name)] = layer

    def _layer(self, node: Node) -> nn.Module:
        return self.layers[_key(node.name)]

    def _counted(self, node: Node) -> bool:
        """Whether its spikes are summed over the window before its weights: what a read-out reads."""
        readers = self.graph.readers[node.name]
        return len(readers) == 1 and isinstance(readers[0], fixed.FixedReadout) and isinstance(node, fixed.FixedLinear)

    def _biased(self, node: fixed.FixedLIF) -> bool:
        """Whether a bias of its own trains: not where a host adds it already, nor in an OR of spikes."""
        kinds = (fixed.HeldCurrent, fixed.FixedUnitCurrent)
        return node.role == "neuron" and not any(isinstance(part, kinds) for part in self.graph.sources(node))

    @staticmethod
    def _map(node: fixed.FixedLIF) -> Array:
        """The bias per channel or position; one number for all becomes one per channel."""
        bias = np.asarray(node.bias_mant)
        if bias.size == 1:
            return np.full(node.shape[0], int(bias.reshape(-1)[0]), dtype=np.int64)
        return bias

    def forward(
        self,
        integers: Mapping[str, Tensor],
        *,
        operations: Mapping[str, Tensor] | None = None,
        counted: int | None = None,
    ) -> Answers:
        """Run samples.

        Args:
            integers: (B, *shape) where direct, else (T, B, *shape).
            operations: synapses to the fan-out of each neuron that they read, to count operations; None for no count.
            counted: of how many samples, the first, operations are counted; None for all.
        """
        return self._run(integers, operations, counted, recording=False)

    @torch.no_grad()
    def record(self, integers: Mapping[str, Tensor]) -> Answers:
        """Run samples with every spike and state, pools computed as the graph says."""
        return self._run(integers, None, None, recording=True)

    def _run(
        self,
        integers: Mapping[str, Tensor],
        operations: Mapping[str, Tensor] | None,
        counted: int | None,
        *,
        recording: bool,
    ) -> Answers:
        found, values, T = Answers(), dict[str, Tensor](), self.graph.timesteps
        for node in self.graph:
            match node:
                case fixed.FixedInput():
                    values[node.name] = _filled(node, integers[node.name], T)
                case fixed.HeldCurrent():
                    (reader,) = self.graph.readers[node.name]
                    values[node.name] = self._layer(node)(values[node.inputs[0]], self._cell(reader)[1])
                case fixed.Synapse():
                    x = values[node.inputs[0]]
                    if operations is not None:
                        sent = x[:, :counted]
                        sent = sent.clamp(-1, 1).abs() if self._levels[node.inputs[0]] > 1 else sent
                        found.operations = found.operations + _operations(sent, operations[node.name])
                    if not self._pooling(node) or recording:
                        x = x.sum(0, keepdim=True) if self._counted(node) else x
                        values[node.name] = self._layer(node)(x.flatten(0, 1)).reshape(len(x), -1, *node.shape)
                case fixed.FixedUnitCurrent():
                    values[node.name] = self._layer(node)([values[name] for name in node.inputs])
                case fixed.Product():
                    values[node.name] = multiplied(node, [values[name] for name in node.inputs])
                case fixed.FixedLIF():
                    pool = self.graph[node.inputs[0]] if node.inputs else node
                    if isinstance(pool, fixed.FixedConv2d) and self._pooling(pool) and not recording:
                        values[node.name] = _maximum(values[pool.inputs[0]], pool)
                    else:
                        kept = found if recording else None
                        values[node.name] = self._population(node, values, (T, _batch(self.graph, integers)), kept)
                case fixed.FixedReadout():
                    sums = [values[name].double().sum(0) for name in node.inputs]
                    found.raw[node.name] = torch.stack(sums).sum(0) + self._layer(node)()
                case _:
                    raise CapabilityError("no rule to fine-tune it", where=node.name, found=node.kind)
        assert self.graph.timesteps == T
        return found

    def _cell(self, node: Node) -> tuple[IntegerCell, torch.dtype]:
        """The cell of a population with the threshold that acts, on the device of the module."""
        assert isinstance(node, fixed.FixedLIF)
        device = next(self.parameters()).device
        if self._rates:
            return IntegerCell.of(self._with_threshold(node), self.surrogate, device)
        if node.name not in self._cells:
            self._cells[node.name] = IntegerCell.of(self._with_threshold(node), self.surrogate, device)
        return self._cells[node.name]

    def _threshold(self, node: Node) -> Threshold | None:
        if _key(node.name) not in self.thresholds:
            return None
        found = self.thresholds[_key(node.name)]
        assert isinstance(found, Threshold)
        return found

    def _with_threshold(self, node: fixed.FixedLIF) -> fixed.FixedLIF:
        """The population with the threshold that acts."""
        threshold = self._threshold(node)
        return node if threshold is None else threshold.acting(node)

    def _pooling(self, node: Node) -> bool:
        """Whether it is the window of an OR of spikes, which is a maximum."""
        readers = self.graph.readers[node.name]
        if not isinstance(node, fixed.FixedConv2d) or len(readers) != 1:
            return False
        reader = readers[0]
        window = isinstance(reader, fixed.FixedLIF) and reader.role == "or" and np.all(reader.threshold_mant == 0)
        ones = np.all(node.weight_mant == 1) and np.all(np.asarray(node.weight_exp) == 0)
        return bool(window and ones and self._levels[node.inputs[0]] == 1)

    def _population(
        self, node: fixed.FixedLIF, values: Mapping[str, Tensor], lead: tuple[int, int], found: Answers | None
    ) -> Tensor:
        cell, dtype = self._cell(node)
        device = next(self.parameters()).device
        parts = [self._over_time(values[name].to(dtype), node) for name in node.inputs]
        current = parts[0] if parts else torch.zeros(*lead, *node.shape, dtype=dtype, device=device)
        for part in parts[1:]:
            current = current + part
        self._check(current, node)
        if node.decay_u == fixed.NO_CURRENT_MEMORY:
            u = current * PER_ACTIVATION
        else:
            keep = fixed_point.UNITY - (node.decay_u + 1)
            u = Leak(keep=keep, wide=node.state_bits > 24).through(current)
            self._check_state(u, node)
        bias = self._bias_in_v(node, u)
        drive = u if bias is None else u + bias
        steps = node.steps or self.graph.timesteps  # behind its own window a population rests
        if found is None:
            threshold = self._threshold(node)
            if threshold is not None and self._rates:
                drive = threshold.felt(drive)
            return _resting(walk(drive[:steps], cell), len(drive))
        found.spikes[node.name], v = (_resting(x, len(drive)) for x in recorded(drive[:steps], cell))
        found.states[node.name] = {"u": _resting(u[:steps], len(drive)), "v": v}
        return found.spikes[node.name]

    def _bias_in_v(self, node: fixed.FixedLIF, like: Tensor) -> Tensor | None:
        """The bias in units of v, to be added to u (T, B, *shape); None where there is none."""
        if self._biased(node):
            bias = self._layer(node)().to(like) * PER_ACTIVATION
        elif np.any(node.bias_mant):
            bias = torch.from_numpy(np.array(node.bias_mant, dtype=np.int64) << node.bias_exp).to(like)
        else:
            return None
        return bias.reshape(*bias.shape, *(1,) * (len(node.shape) - bias.ndim))

    def _over_time(self, x: Tensor, node: fixed.FixedLIF) -> Tensor:
        """(B, ...) of a held current, or (T, B, ...), as (T, B, *shape) of the population."""
        T = self.graph.timesteps
        if isinstance(x, Tensor) and x.ndim == len(node.shape) + 1:
            return x.expand(T, *x.shape)
        return x.reshape(*x.shape[:2], *node.shape)

    def _check(self, current: Tensor, node: fixed.FixedLIF) -> None:
        """Raise if a current leaves the state of u: there the chip would wrap."""
        limit = fixed_point.state_limit(node.state_bits) >> fixed_point.ACTIVATION_SHIFT
        if sum(self._reach(name) for name in node.inputs) >= limit:
            self._check_state(current * PER_ACTIVATION, node)

    @staticmethod
    def _check_state(u: Tensor, node: fixed.FixedLIF) -> None:
        worst = float(u.detach().abs().max())
        if worst >= fixed_point.state_limit(node.state_bits):
            raise fixed_point.domain_error(
                worst, where=node.name, what="u", place="fine-tuning", state_bits=node.state_bits
            )

    def _reach(self, name: str) -> float:
        """Largest current that a source can ever send, whatever is trained."""
        if name not in self._reaches:
            node, layer = self.graph[name], self.layers[_key(name)] if self._has(name) else None
            if isinstance(layer, Weights):
                sums = float((layer.scale.expand_as(layer.latent).flatten(1).sum(1)).max())
                most = float(layer.latent.detach().abs().max()) if layer.fixed else 1.0
                self._reaches[name] = layer.unit * most * sums * self._levels[node.inputs[0]]
            else:
                self._reaches[name] = float(self._levels.get(name, 1 << 62))
        return self._reaches[name]

    def _has(self, name: str) -> bool:
        return _key(name) in self.layers

    def project(self) -> None:
        """Bring all latent numbers back into their formats; to be called after each update."""
        for layer in self.layers.values():
            if isinstance(layer, HostCurrent | Bias) or (isinstance(layer, Weights) and not layer.fixed):
                layer.project()
        for threshold in self.thresholds.values():
            assert isinstance(threshold, Threshold)
            threshold.project()
        for node in self.graph.of(fixed.FixedLIF):
            self._hold(node)

    @torch.no_grad()
    def _hold(self, node: fixed.FixedLIF) -> None:
        """Shrink rows of weights so far that no input whatever can push v out of its state, where they could."""
        found = [(name, self.layers[_key(name)]) for name in node.inputs if self._has(name)]
        layers = [(name, layer) for name, layer in found if isinstance(layer, Weights) and not layer.fixed]
        leaks = [(fixed_point.UNITY - (node.decay_u + 1)), fixed_point.UNITY - node.decay_v]
        kept = growth(self.graph.timesteps, *(keep / fixed_point.UNITY for keep in leaks))
        room = SAFE * (1 << (node.state_bits - 1 - fixed.ACTIVATION_SHIFT)) / kept
        if not layers or sum(self._reach(name) for name in node.inputs) + self.target.bias_room < room:
            return
        rows = [layer.magnitudes() * self._levels[self.graph[name].inputs[0]] for name, layer in layers]
        bias = float(self._layer(node)().abs().max()) if self._biased(node) else 0.0
        peaks = [float(row.max()) for row in rows]
        for k, (_, layer) in enumerate(layers):
            others = bias + sum(peaks) - peaks[k]
            layer.shrink(torch.clamp((room - others) / rows[k].clamp(min=1e-9), 0.0, 1.0))
            peaks[k] = min(peaks[k], max(0.0, room - others))

    def integers(self) -> Graph:
        """Return the graph with the integers that act now."""
        return replace(self.graph, nodes=tuple(self._written(node) for node in self.graph))

    def _written(self, node: Node) -> Node:
        layer = self._layer(node) if self._has(node.name) else None
        if isinstance(layer, Weights | HostCurrent) and not getattr(layer, "fixed", False):
            return layer.node()
        if isinstance(node, fixed.FixedLIF):
            node = self._with_threshold(node)
            return replace(node, bias_mant=layer.integers()) if isinstance(layer, Bias) else node
        if isinstance(layer, Bias):
            assert isinstance(node, fixed.FixedReadout)
            return replace(node, bias=layer.integers())
        return node


def _key(name: str) -> str:
    """What a module of modules takes for a name."""
    return name.replace(".", "/")


def _batch(graph: Graph, integers: Mapping[str, Tensor]) -> int:
    node = next(node for node in graph if isinstance(node, fixed.FixedInput))
    return integers[node.name].shape[0 if node.coding == "direct" else 1]


def _level(node: fixed.FixedLIF) -> float:
    return float(np.max(node.threshold_mant)) + 1.0


def _operations(sent: Tensor, fanout: Tensor) -> Tensor:
    """Messages (T, B, *source) times the connections of each neuron, per sample."""
    return (sent.sum((0, 1)) * fanout).sum() / sent.shape[1]


def _maximum(x: Tensor, node: fixed.FixedConv2d) -> Tensor:
    """OR of windows of spikes (T, B, C, H, W)."""
    kernel = tuple(node.weight_mant.shape[2:])
    found = functional.max_pool2d(x.flatten(0, 1), kernel, node.stride, node.padding, node.dilation)
    return found.reshape(*x.shape[:2], *node.shape)


def _filled(node: fixed.FixedInput, x: Tensor, timesteps: int) -> Tensor:
    """A sequence with zeros behind it, where its window is shorter; what is held stays as it is."""
    return x if node.coding == "direct" else _resting(x, timesteps)


def _resting(x: Tensor, timesteps: int) -> Tensor:
    """(n, B, *) with zeros for the steps behind the n-th."""
    missing = timesteps - len(x)
    return torch.cat([x, x.new_zeros(missing, *x.shape[1:])]) if missing else x


def tensors(graph: Graph, integers: Mapping[str, Array], device: torch.device | str) -> dict[str, Tensor]:
    """Integers of the inputs as floats that hold them exactly."""
    found = {}
    for node in graph.of(fixed.FixedInput):
        x = torch.from_numpy(np.ascontiguousarray(integers[node.name])).to(device)
        found[node.name] = x.to(float_for(max(abs(node.low), abs(node.high)), where=node.name))
    return found
