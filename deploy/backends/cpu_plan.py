"""Turns a scheduled graph and a batch into what the simulator decides before its first step, or refuses them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from avsnn.convert.ir.fixed_nodes import (
    FixedInput,
    FixedLIF,
    FixedLinear,
    FixedReadout,
    HeldCurrent,
    Product,
    Received,
    Synapse,
)
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array, Node
from avsnn.deploy.backends import received
from avsnn.deploy.backends.exact_products import ExactProduct
from avsnn.deploy.backends.exact_sums import ExactSums
from avsnn.deploy.backends.streams import Streams, lay_out
from avsnn.errors import CapabilityError, InputError
from avsnn.hw_profiles import fixed_point as fx

PART_BYTES = 192 << 20  # messages and recorded states of the streams that run at once


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """What is decided before the first step."""

    graph: Graph
    inputs: Mapping[str, Array]
    record: frozenset[str]
    layout: Streams
    sums: Mapping[str, ExactSums]
    products: Mapping[str, ExactProduct]

    def bound(self, node: FixedLIF) -> int:
        """Largest synaptic input of connections and products; held currents are added where they are known."""
        synapses = sum(self.sums[name].bound for name in node.inputs if isinstance(self.graph[name], Synapse))
        return synapses + sum(self.products[name].bound for name in node.inputs if name in self.products)

    @property
    def bytes_per_step(self) -> int:
        """What one stream keeps of one wall step: messages, and two int32 where states are recorded."""
        populations = sum(math.prod(n.shape) * (9 if n.name in self.record else 1) for n in self.graph.of(FixedLIF))
        inputs = sum(8 * math.prod(n.shape) for n in self.graph.of(FixedInput))
        hosts = sum(received.message_dtype(n).itemsize * math.prod(n.shape) for n in self.graph.of(Received))
        return populations + inputs + hosts + sum(product.bytes_per_step for product in self.products.values())


def make_plan(graph: Graph, inputs: Mapping[str, Array], record: frozenset[str], streams: int | None) -> Plan:
    """Check everything and lay the batch out.

    Raises:
        InputError: wrong stage, inputs that do not fit, a time that cannot be.
        CapabilityError: a node that the simulator does not know.
        DomainError: sums that float64 cannot hold.
    """
    if graph.stage != "scheduled":
        raise InputError("only scheduled graphs can be simulated", where="simulate", found=graph.stage)
    batch = _check_inputs(graph, inputs)
    if streams is not None and not 1 <= streams <= batch:
        raise InputError("impossible number of streams", where="simulate", found=streams, limit=f"1 to {batch}")
    sums, products = _arithmetic(graph, inputs)
    if odd := [name for name in graph.outputs if not isinstance(graph[name], FixedLIF | FixedReadout)]:
        raise CapabilityError("only populations and read-outs answer", where=odd[0], found=graph[odd[0]].kind)
    windowed = _windowed(graph)
    if needy := [n for n in products.values() if n.node.windowed and not windowed]:
        raise CapabilityError("a product over the window needs populations that are reset", where=needy[0].node.name)
    tail = max((n.offset for n in graph if isinstance(n, FixedLIF | FixedReadout | Product)), default=0)
    messages = sum(math.prod(n.shape) for n in graph if isinstance(n, FixedLIF | FixedInput))
    messages += sum(product.bytes_per_step for product in products.values())
    layout = lay_out(
        batch,
        graph.timesteps,
        tail,
        windowed=windowed,
        streams=streams,
        longest=PART_BYTES // max(1, messages * graph.timesteps),
    )
    return Plan(graph=graph, inputs=inputs, record=record, layout=layout, sums=sums, products=products)


def _arithmetic(
    graph: Graph, inputs: Mapping[str, Array]
) -> tuple[Mapping[str, ExactSums], Mapping[str, ExactProduct]]:
    """What computes each connection and each product, with the largest message that each can be given."""
    peaks = {name: max(1, int(np.abs(inputs[name]).max(initial=0))) for name in inputs}
    sums: dict[str, ExactSums] = {}
    products: dict[str, ExactProduct] = {}
    for node in graph.nodes:
        _check_node(graph, node)
        shapes = tuple(source.shape for source in graph.sources(node))
        if isinstance(node, Received):
            received.check(graph, node, {name: sums[name].bound for name in node.inputs})
            peaks[node.name] = node.levels
        elif isinstance(node, Product):
            products[node.name] = ExactProduct(node=node, source_shapes=shapes, timesteps=graph.timesteps)
            peaks[node.name] = max(1, products[node.name].bound)
        elif isinstance(node, Synapse | HeldCurrent):
            sums[node.name] = ExactSums(node=node, source_shape=shapes[0], peak=peaks.get(node.inputs[0], 1))
    return sums, products


def population_names(graph: Graph, record: Collection[str] | str) -> frozenset[str]:
    """The populations that ``record`` names ("all": every one).

    Raises:
        KeyError: there is no such population; the message lists all.
    """
    known = [node.name for node in graph.of(FixedLIF)]
    names = frozenset(known if record == "all" else [record] if isinstance(record, str) else record)
    if unknown := sorted(names.difference(known)):
        raise KeyError(f"no population {unknown[0]!r}; there are: {', '.join(known)}")
    return names


def _windowed(graph: Graph) -> bool:
    """Whether samples may follow each other: populations with memory forget at the period of the windows."""
    forgets = (fx.UNITY - 1, fx.UNITY)
    with_memory = [n for n in graph.of(FixedLIF) if (n.decay_u, n.decay_v) != forgets or n.reset == "subtract_delayed"]
    intervals = {n.reset_interval for n in with_memory}
    return not with_memory or (any(intervals) and all(graph.timesteps % i == 0 for i in intervals if i))


def _check_inputs(graph: Graph, inputs: Mapping[str, Array]) -> int:
    """Return the number of samples."""
    nodes = graph.of(FixedInput)
    if not nodes or {n.name for n in nodes} != set(inputs):
        raise InputError(
            "inputs do not match the graph",
            where="simulate",
            found=", ".join(sorted(inputs)) or "none",
            limit=", ".join(n.name for n in nodes) or "none",
        )
    batches = set()
    for node in nodes:
        x, sequence = inputs[node.name], node.coding != "direct"
        steps = node.steps or graph.timesteps
        limit = (*((steps,) if sequence else ()), "batch", *node.shape)
        if x.ndim != len(limit) or x.shape[1 + sequence :] != node.shape or (sequence and len(x) != steps):
            raise InputError("wrong input shape", where=node.name, found=x.shape, limit=limit)
        if x.dtype.kind not in "biu":
            raise InputError("the simulator takes integers", where=node.name, found=x.dtype)
        if x.size and (int(x.min()) < node.low or int(x.max()) > node.high):
            found = f"{x.min()} to {x.max()}"
            raise InputError("input out of range", where=node.name, found=found, limit=f"{node.low} to {node.high}")
        batches.add(x.shape[int(sequence)])
    if len(batches) != 1 or 0 in batches:
        raise InputError("inputs need one equal number of samples", where="simulate", found=sorted(batches))
    return int(batches.pop())


def _check_node(graph: Graph, node: Node) -> None:
    sources = graph.sources(node)
    match node:
        case FixedInput():
            allowed: tuple[type[Node], ...] = ()
        case HeldCurrent():
            allowed = (FixedInput,)
            if any(isinstance(s, FixedInput) and s.coding != "direct" for s in sources):
                raise CapabilityError("a held current needs a directly coded input", where=node.name)
            if node.port not in ("current", "bias"):
                raise CapabilityError("unknown port", where=node.name, found=node.port, limit="current, bias")
        case Synapse():
            allowed = (FixedInput, FixedLIF, Product)
            if node.delay < 0 or (isinstance(node, FixedLinear) and (output_delay(node) < 0).any()):
                raise InputError("negative delay", where=node.name)
        case Received():
            allowed = (Synapse,)
        case Product():
            allowed = (FixedLIF,)
        case FixedLIF():
            allowed = (Synapse, HeldCurrent, Product)
            _check_neurons(node)
            if unlike := [s.shape for s in sources if isinstance(s, Product) and s.shape != node.shape]:
                raise InputError("a product feeds neuron by neuron", where=node.name, found=unlike[0], limit=node.shape)
        case FixedReadout():
            allowed = (Synapse, HeldCurrent)
        case _:
            raise CapabilityError("the simulator knows no such node", where=node.name, found=node.kind)
    if wrong := [s for s in sources if not isinstance(s, allowed)]:
        raise CapabilityError("reads what it cannot", where=node.name, found=f"{wrong[0].name} ({wrong[0].kind})")
    if isinstance(node, FixedLIF | FixedReadout | Product) and node.offset < 0:
        raise InputError("negative offset", where=node.name, found=node.offset, limit=0)
    if isinstance(node, HeldCurrent | Synapse) and len(sources) != 1:
        raise InputError("a connection has one source", where=node.name, found=len(sources), limit=1)


def _check_neurons(node: FixedLIF) -> None:
    """Constants of a population that the arithmetic takes as they are."""
    if node.bias_exp < 0:
        raise CapabilityError("negative bias exponent", where=node.name, found=node.bias_exp, limit=0)
    if node.steps and not node.reset_interval:
        raise InputError("a window that ends, and none that begins", where=node.name, found="reset_interval 0")
    if node.reset not in fx.RESETS:
        raise CapabilityError("unknown reset", where=node.name, found=node.reset, limit=", ".join(fx.RESETS))
    top = fx.state_limit(node.state_bits) - 1
    for what, value, low in (("threshold", node.threshold_mant, -top), ("amount to subtract", node.subtract, 0)):
        array = np.asarray(value)
        rank = array.ndim - len(node.shape)
        if rank > 0 or any(n not in (1, m) for n, m in zip(array.shape, node.shape[-rank:], strict=True)):
            raise InputError(f"{what} does not fit", where=node.name, found=array.shape, limit=node.shape)
        if array.dtype.kind not in "iu" or array.min() < low or array.max() > top:
            found = f"{array.min()} to {array.max()}"
            raise InputError(f"{what} out of range", where=node.name, found=found, limit=f"integers, {low} to {top}")


def output_delay(node: FixedLinear) -> Array:
    """Further steps by target neuron, (out,) int64, zeros where there are none."""
    delays = np.zeros(1, np.int64) if node.output_delay is None else node.output_delay.astype(np.int64)
    return np.broadcast_to(delays, (len(node.weight_mant),))
