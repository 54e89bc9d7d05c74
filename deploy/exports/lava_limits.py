"""What Lava would change in silence: found here, before anything is written.

Stock `Sparse` clips weights to their sign mode and clears low bits, `LIF` keeps bias mantissas in int16, messages are
int32, and u wraps once at 2^23 (https://github.com/lava-nc/lava, ``lava.proc.sparse.models``, ``lava.proc.lif.models``,
version 0.10.0). A weight, bias or threshold that would not survive is an error. Whether u can leave its 24 bits is
decided from the weights alone where they bound it; elsewhere the export carries a guard that watches the run.
"""

from __future__ import annotations

import math

import numpy as np

from avsnn.convert.intervals import Interval, of_held, of_input, of_sums
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array, Node
from avsnn.deploy.exports.lava_products import MESSAGE_LIMIT, message_range
from avsnn.errors import CapabilityError, QuantizeError
from avsnn.hw_profiles.fixed_point import RESETS

STATE_BITS = 24
STATE_LIMIT = 2 ** (STATE_BITS - 1)
BIAS_MANT_LIMIT = 2**15
THRESHOLD_LIMIT = 2**17
DELAY_LIMIT = 63
SIGN_RANGES = {"mixed": (-256, 254, 2), "excitatory": (0, 255, 1), "inhibitory": (-255, 0, 1)}  # low, high, step


def check_synapse(node: fixed.Synapse) -> None:
    """Raise unless stock Sparse applies exactly ``node.weight``, every ``1 + delay`` steps.

    Raises:
        QuantizeError: a mantissa that Lava would clip or truncate, a negative exponent, or a delay above 63.
    """
    if node.sign_mode not in SIGN_RANGES:
        raise QuantizeError("unknown sign mode", where=node.name, found=node.sign_mode, limit=", ".join(SIGN_RANGES))
    low, high, step = SIGN_RANGES[node.sign_mode]
    mant = node.weight_mant.astype(np.int64)
    wrong = mant[(mant < low) | (mant > high) | (mant % step != 0)]
    if wrong.size:
        grid = "even, " if step == 2 else ""
        raise QuantizeError(
            f"{wrong.size} {node.sign_mode} weight mantissas that Lava would change",
            where=node.name,
            found=int(wrong.flat[0]),
            limit=f"{grid}{low} to {high}",
            remedy="quantise for loihi2",
        )
    if node.exponents[0] < 0 or node.exponents[-1] > 24:
        raise QuantizeError("weight exponent", where=node.name, found=node.exponents, limit="0 to 24")
    delays = delays_of(node)
    if delays.min() < 0 or delays.max() > DELAY_LIMIT:
        found = f"{delays.min()} to {delays.max()}"
        raise QuantizeError("synaptic delay", where=node.name, found=found, limit=f"0 to {DELAY_LIMIT}")


def delays_of(node: fixed.Synapse) -> Array:
    """Delay of every output, or one for all."""
    delays = np.array([node.delay], dtype=np.int64)
    if isinstance(node, fixed.FixedLinear) and node.output_delay is not None:
        delays = delays + node.output_delay
    return delays


def check_population(node: fixed.FixedLIF) -> None:
    """Raise unless Lava keeps the population's constants as they are.

    Raises:
        CapabilityError: a reset that neither stock Lava nor the export has a Process for.
        QuantizeError: a state width, threshold, decay, bias or amount to subtract that Lava would change.
    """
    if node.reset not in RESETS:
        raise CapabilityError("no Lava Process for this reset", where=node.name, found=node.reset)
    mant = np.asarray(node.bias_mant, dtype=np.int64)
    threshold, taken = np.asarray(node.threshold_mant), np.asarray(node.subtract)
    rules: tuple[tuple[str, object, bool, str], ...] = (
        ("state width in bits", node.state_bits, node.state_bits == STATE_BITS, f"{STATE_BITS}"),
        ("threshold mantissa", _span(threshold), bool((np.abs(threshold) < THRESHOLD_LIMIT).all()), "17 bits"),
        ("amount to subtract", _span(taken), bool(((taken >= 0) & (taken < STATE_LIMIT)).all()), "23 bits"),
        ("decay of u", node.decay_u, -1 <= node.decay_u <= 4095, "-1 to 4095"),
        ("decay of v", node.decay_v, 0 <= node.decay_v <= 4096, "0 to 4096"),
        ("bias exponent", node.bias_exp, 0 <= node.bias_exp <= 15, "0 to 15"),
        ("bias mantissa", _span(mant), -BIAS_MANT_LIMIT <= mant.min() <= mant.max() < BIAS_MANT_LIMIT, "16 bits"),
        ("reset interval", node.reset_interval, node.reset_interval >= 0, "not negative"),
        ("end of a window", node.steps, not node.steps or 0 < node.steps < node.reset_interval, "before the next one"),
    )
    for what, found, fine, limit in rules:
        if not fine:
            raise QuantizeError(f"{what} that Lava would change", where=node.name, found=found, limit=limit)


def _span(values: Array) -> str:
    """The smallest and the largest, for a message."""
    return f"{values.min()} to {values.max()}" if values.min() < values.max() else f"{values.min()}"


def needs_guard(graph: Graph, node: fixed.FixedLIF) -> bool:
    """Whether some input could push u out of its 24 bits, so that runs have to be watched.

    ``|u| <= 64 max|a| sum_i r^i`` with ``r = (4095 - decay_u) / 4096`` over the steps between resets.

    Raises:
        QuantizeError: the input may overflow Lava's int32 messages, which nothing could watch.
    """
    bound = _arriving(graph, node)
    rest = (fixed.NO_CURRENT_MEMORY - node.decay_u) / 4096
    steps = node.reset_interval or math.inf
    memory = steps if rest == 1 else (1 - rest**steps) / (1 - rest)
    return bool(bound * memory * 2**fixed.ACTIVATION_SHIFT >= 2 ** (STATE_BITS - 1))


def check_readout(graph: Graph, node: fixed.FixedReadout) -> None:
    """Raise unless what a read-out receives in a step fits Lava's int32 messages; the host sums steps in int64.

    Raises:
        QuantizeError: it may not.
    """
    _arriving(graph, node)


def check_host(graph: Graph, node: fixed.Received) -> None:
    """Raise unless what a host receives in a step fits Lava's int32 messages.

    Raises:
        QuantizeError: it may not.
    """
    _arriving(graph, node)


def message_bits(graph: Graph, source: Node) -> int:
    """0 for spikes; bits of the largest magnitude for integers."""
    found = _range(graph, source)
    spikes = found.low.min() == 0 and found.peak <= 1 and not isinstance(source, fixed.Product)
    return 0 if spikes else found.peak.bit_length()


def _arriving(graph: Graph, node: Node) -> int:
    """Largest magnitude that all sources of ``node`` can send it together."""
    bound = sum(_reach(graph, source) for source in graph.sources(node))
    if bound >= MESSAGE_LIMIT:
        raise QuantizeError("input may leave 32 bits", where=node.name, found=bound, limit=MESSAGE_LIMIT - 1)
    return bound


def _reach(graph: Graph, source: Node) -> int:
    """Largest magnitude that one source can send to any neuron."""
    match source:
        case fixed.HeldCurrent():
            return 0 if source.port == "bias" else of_held(source, _range(graph, graph[source.inputs[0]])).peak
        case fixed.Synapse():
            return of_sums(source, _range(graph, graph[source.inputs[0]])).peak
        case _:
            return _range(graph, source).peak


def _range(graph: Graph, source: Node) -> Interval:
    """Smallest and largest message of a node; padding adds 0."""
    match source:
        case fixed.FixedInput():
            return of_input(source)
        case fixed.Product():
            return message_range(graph, source)
        case _:
            return Interval.of(source.shape, 0, 1)
