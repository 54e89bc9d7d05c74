"""Integer nodes: what runs on the chip (``quantised``, ``scheduled``, ``mapped``). Other types, not other dtypes.

In ``quantised`` graphs time is logical: every layer sees step t together. In ``scheduled`` graphs it is wall-clock:
a synapse costs ``1 + delay`` steps, samples follow each other every T steps, and a population whose first input
arrives ``offset`` steps late is reset at wall steps w with ``w % reset_interval == reset_phase``.

A part of a network whose window has n < T steps (``steps`` = n) shares the period T with all others, and is at rest for
T - n steps of it: its neurons hold u = v = 0 and send nothing. So nobody behind them need know: a count over the whole
period is the count over their window, and steps that belong to no window cost no synaptic operation.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from avsnn.convert.ir.node import Array, Node
from avsnn.convert.ir.nodes import Pair
from avsnn.errors import CapabilityError
from avsnn.hw_profiles import fixed_point

NO_CURRENT_MEMORY = 4095  # decay_u: u keeps nothing, (4096 - (4095 + 1)) / 4096 = 0
MEMORYLESS = 4096  # decay_v: v keeps nothing
ACTIVATION_SHIFT = fixed_point.ACTIVATION_SHIFT
SPARSE = 16  # a matrix of which at most one entry in so many is not 0 is better summed without its zeros


@dataclass(frozen=True, kw_only=True, eq=False)
class FixedInput(Node):
    """Integers in [low, high]: ``x = round(value / step)``. Direct (held for T steps) or a sequence.

    A sequence has ``steps`` steps (0: T) and is followed by zeros until the next sample.
    """

    coding: str
    low: int
    high: int
    step: float
    steps: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldCurrent(Node):
    """First layer of a directly coded input, computed once per sample by the host, held for T steps.

    ``a = (weight * x + bias + half) >> shift`` in exact integers, ``half = 2^(shift-1)`` (0 if shift is 0).
    weight: (out, in / groups, kh, kw) or (out, in); bias: broadcastable to shape. ``port="current"`` adds a to the
    synaptic input of the population; ``port="bias"`` adds ``a << 6`` to its bias. Latency 0.
    """

    weight: Array
    bias: Array
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    shift: int = 0
    port: str = "current"


@dataclass(frozen=True, kw_only=True, eq=False)
class Synapse(Node):
    """A connection with one source: ``a[w] = weight (*) x[w - 1 - delay]`` (logical: ``a[t] = weight (*) x[t]``).

    The weight that acts is ``weight_mant * 2^weight_exp``. ``weight_exp`` is one integer, or one per output channel
    (row of ``weight_mant``), (out,): rows of the same exponent are one synapse group, on a chip and in Lava a
    connection of its own. ``sign_mode`` of all groups is "mixed" (even mantissas in [-256, 254]), "excitatory"
    ([0, 255]) or "inhibitory" ([-255, 0]).
    """

    weight_mant: Array
    weight_exp: int | Array = 0
    sign_mode: str = "mixed"
    delay: int = 0

    @property
    def weight(self) -> Array:
        """The integers that act, int64."""
        return self.weight_mant.astype(np.int64) << self.row_exp.reshape(-1, *(1,) * (self.weight_mant.ndim - 1))

    @property
    def row_exp(self) -> Array:
        """The exponent of every row: (out,)."""
        return np.broadcast_to(np.asarray(self.weight_exp, dtype=np.int64), (len(self.weight_mant),))

    @property
    def exponents(self) -> tuple[int, ...]:
        """The exponents there are, one per synapse group, smallest first."""
        return tuple(int(exp) for exp in np.unique(self.weight_exp))


@dataclass(frozen=True, kw_only=True, eq=False)
class FixedConv2d(Synapse):
    """Convolution (cross-correlation, zero padding); weight_mant: (out, in / groups, kernel_h, kernel_w)."""

    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class FixedLinear(Synapse):
    """Dense connection over the flattened source; weight_mant: (out, in).

    ``output_delay``: (out,) further steps per target neuron, or None; only imported networks use it.
    """

    output_delay: Array | None = None

    @cached_property
    def entries(self) -> tuple[Array, Array] | None:
        """(rows, columns) of the weights that are not 0, row by row, where hardly any is; else None."""
        there = self.weight_mant != 0
        if np.count_nonzero(there) * SPARSE > there.size:
            return None
        rows, columns = np.nonzero(there)
        return rows, columns


@dataclass(frozen=True, kw_only=True, eq=False)
class Product(Node):
    """Integers made of spikes times spikes; a population reads it as a current, or a synapse as a graded message.

    Logical time: ``y[t] = gain f(x_1, x_2, ...)``, over step t or over the whole window (``windowed``). Wall-clock: a
    product costs one step as a synapse does, ``y[w] = gain f(.. x_i[w - 1 - delays[i]] ..)``, a windowed one T steps:
    it emits step t of sample k at ``w = k T + t + offset``, and reads step s at ``k T + s + offset - T - delays[i]``.
    Before the first window it emits 0.
    """

    gain: int = 1
    delays: tuple[int, ...] = ()
    offset: int = 0

    @property
    def windowed(self) -> bool:
        """Whether step t needs steps after t."""
        return False

    @property
    def ability(self) -> str:
        """What it asks of a chip, one of `avsnn.hw_profiles.schema.CAPABILITY_KINDS`."""
        raise CapabilityError("no ability is known for this node", where=self.name, found=self.kind)


@dataclass(frozen=True, kw_only=True, eq=False)
class FixedAttention(Product):
    """``y = gain (q k^T) v`` of populations (q, k, v), see `avsnn.convert.ir.products.attention`."""

    heads: int
    over: str

    @property
    def windowed(self) -> bool:
        """Attention over time is."""
        return self.over == "time"

    @property
    def ability(self) -> str:
        """A window has to be replayed for attention over time."""
        return "attention_window" if self.windowed else "attention"


@dataclass(frozen=True, kw_only=True, eq=False)
class FixedAttentionMap(Product):
    """``y[h, m, n] = gain (q[h, :, m] . k[h, :, n])`` of populations (q, k); shape (heads, N, N)."""

    heads: int

    @property
    def ability(self) -> str:
        """Spikes times spikes of a step."""
        return "attention"


@dataclass(frozen=True, kw_only=True, eq=False)
class FixedMappedValues(Product):
    """``y[h, :, m] = gain sum_n map[h, m, n] v[h, :, n]`` of populations (map, v)."""

    @property
    def ability(self) -> str:
        """Spikes times spikes of a step."""
        return "attention"


@dataclass(frozen=True, kw_only=True, eq=False)
class FixedProductOfSums(Product):
    """``y[t, c, n] = gain sum_n x[t, c, n] sum_s y[s, c, n]`` of populations (x, y), 0 to ``gain N T``."""

    @property
    def windowed(self) -> bool:
        """The second sum runs over the window."""
        return True

    @property
    def ability(self) -> str:
        """Sums, and their product."""
        return "product"


@dataclass(frozen=True, kw_only=True, eq=False)
class FixedUnitCurrent(Product):
    """Spike counts of a window, each population's scaled to length 1 by the host, to a current held for a window.

    ``z_i = sum_s x_i[s]`` (summed over tokens as well where ``pooled[i]``), ``e_i = rint(2^15 z_i / |z_i|)`` with one
    correctly rounded square root and division in float64, ``y[t] = gain ((weight e + bias + half) >> shift)`` for every
    t, ``half = 2^(shift-1)`` (0 if shift is 0), e all e_i one after the other. weight: (out, sum of lengths), bias:
    (out,).
    """

    weight: Array
    bias: Array
    shift: int
    pooled: tuple[bool, ...]

    @property
    def windowed(self) -> bool:
        """Counts are known when the window has ended."""
        return True

    @property
    def ability(self) -> str:
        """A root and a division."""
        return "unit_length"


@dataclass(frozen=True, kw_only=True, eq=False)
class Received(Product):
    """Integers that a host makes of what synapses deliver in a step; synapses read them as graded messages.

    The chip adds up the currents of step t and hands the sums to the host, whose integers enter the chip one step
    later: ``y[w] = f(a[w - 1])``, f of a step alone, so nothing waits for a window. All synapses of a node arrive
    together, as those of a population do (``delays`` stays empty). On silicon every such step lasts until the host has
    answered: its round trip, not the chip's arithmetic, then sets the time per step.

    step: what an integer 1 of y stands for. levels: no input whatever makes a larger ``|y|``.
    """

    step: float
    levels: int
    bias: Array

    @property
    def sums(self) -> tuple[tuple[str, ...], ...]:
        """The synapses that add up, for each sum that the host reads."""
        return (self.inputs,)


@dataclass(frozen=True, kw_only=True, eq=False)
class FixedLayerNorm(Received):
    """``y = rint(2^shift z / r)`` (0 where r is 0) over the n channels of each position, exact but for three roundings.

    x is the sum of the synapses plus ``bias`` (broadcastable to shape), ``z = n x - sum x``, ``r = sqrt(n sum x^2 -
    (sum x)^2 + eps)``: integers below 2^53, one correctly rounded root and one division in float64, and rint (halves to
    even). ``variant``: ``y = rint(2^-shift z r)``, a product in place of the division. Currents at scale S make ``eps =
    rint(n^2 S^2 eps)`` of the real one, and ``step`` is ``2^-shift``, or ``2^shift / (n S)^2`` of the variant.
    """

    eps: int
    shift: int
    variant: bool = False

    @property
    def ability(self) -> str:
        """A root and divisions in every step."""
        return "layer_norm"


@dataclass(frozen=True, kw_only=True, eq=False)
class FixedStepGain(Received):
    """``y = x ((w + bias + half) >> shift)``, ``half = 2^(shift-1)`` (0 if shift is 0): one gain w for all of x.

    x is the sum of the first ``factors`` inputs, w that of the others, of shape (1,); bias: (1,).
    """

    shift: int
    factors: int

    @property
    def ability(self) -> str:
        """Multiplications in every step."""
        return "step_gain"

    @property
    def sums(self) -> tuple[tuple[str, ...], ...]:
        """Those of x, and the gain's."""
        return self.inputs[: self.factors], self.inputs[self.factors :]


@dataclass(frozen=True, kw_only=True, eq=False)
class FixedLIF(Node):
    """Integer leaky integrate and fire, the arithmetic of Loihi and of Lava's ``fixed_pt`` models.

    Per step, with a = sum of synapses and currents, b = bias_mant * 2^bias_exp plus ``a << 6`` of bias ports,
    tz(x) = sign(x) (|x| >> 12) (rounds toward zero)::

        u = tz(u (4096 - (decay_u + 1))) + (a << 6)
        v = clip(tz(v (4096 - decay_v)) + u + b, -(2^23 - 1), 2^23 - 1)
        s = v > (threshold_mant << 6)
        v = 0 where s

    ``reset`` "hard" is this. "subtract": ``v = v - subtract where s`` in its place. "subtract_delayed": that is done
    in the next step, and what is subtracted does not decay: ``v[t] = clip(tz(v[t-1] (4096 - decay_v)) + u + b -
    subtract s[t-1])``; the state recorded is before it. A window starts with nothing left to subtract.
    ``subtract``: in units of v, so that a threshold between two integers can be subtracted exactly.
    ``threshold_mant``: an integer, or an array that broadcasts to shape.

    u = v = 0 before the first step of every window: logical step 0, or wall steps with
    ``w % reset_interval == reset_phase`` (``reset_interval = 0``: never). Recorded states are u and v after reset.
    |u| and |b| must stay below 2^23, and v must not saturate unless a hard reset follows, or ``saturates`` says that it
    may (imported networks); a run that leaves the domain raises. (2^23 is ``2^(state_bits - 1)``, 24 on chips.)
    ``steps`` above 0: the population rests from that step of its window on, which is in wall steps with
    ``(w - reset_phase) % reset_interval >= steps``: u = v = 0, no spike, nothing left to subtract, whatever arrives.
    bias_mant: int64, broadcastable to shape. ``role``: "neuron" (the user's), "or" (a max pool), "relay" (a delay),
    "coincidence" (a product of spikes), "bias" (fires in every step, for a bias that must enter u).
    """

    threshold_mant: int | Array
    decay_v: int
    decay_u: int = NO_CURRENT_MEMORY
    bias_mant: Array
    bias_exp: int = 0
    reset_interval: int = 0
    reset_phase: int = 0
    offset: int = 0
    role: str = "neuron"
    reset: str = "hard"
    subtract: int | Array = 0
    state_bits: int = 24
    saturates: bool = False
    steps: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class FixedReadout(Node):
    """``raw = sum_t sum_i a_i[t] + bias``: summed by the host over the window, int64; ``y = raw * scale``.

    bias: shape, int64, already counted for the whole window. step_weights: (T,) int64, what the host multiplies the sum
    of each step with, ``raw = sum_t step_weights[t] sum_i a_i[t] + bias``; None: 1.
    """

    bias: Array
    scale: float
    offset: int = 0
    step_weights: Array | None = None

    def over_window(self, a: Array) -> Array:
        """The sum over the steps of a, (T, ...)."""
        total: Array = a.sum(axis=0) if self.step_weights is None else np.tensordot(self.step_weights, a, axes=1)
        return total


def unit_name(node: str, group: int) -> str:
    """What cores hold of a node, by name: the node itself, or a further one of its sums."""
    return f"{node}[{group}]" if group else node


@dataclass(frozen=True, kw_only=True, eq=False)
class Slice(Node):
    """Neurons of one population that one core holds: indices ``first <= i < last`` of its grid.

    Or sums that the host reads, of a read-out or of a `Received` (its ``group``-th of `Received.sums`), or results of a
    product that synapses read. A product that a population reads as its current is made where its neurons are.
    The grid is the shape of its convolutions ``(channel, height, width)``, else that of the population, as flat as it
    is: see `avsnn.convert.ir.cores.grid`. inputs: the population; shape: ``last - first``. ``core`` counts from 0 in
    the whole network, ``chip`` is its chip and ``(x, y)`` its tile there. Only ``mapped`` graphs have it, and nothing
    computes with it but `avsnn.convert.ir.cores`.
    """

    first: tuple[int, ...]
    last: tuple[int, ...]
    core: int
    chip: int = 0
    x: int = 0
    y: int = 0
    group: int = 0

    @property
    def unit(self) -> str:
        """The name of what is cut: the population's, or that of one of a host's sums."""
        return unit_name(self.inputs[0], self.group)


@dataclass(frozen=True, kw_only=True, eq=False)
class Axons(Node):
    """The messages that a core receives over one connection: inputs (synapse, slice), from source neurons in a box.

    ``first <= i < last`` over the source as the synapse sees it: ``(channel, height, width)`` for a convolution, flat
    for a linear layer; of those ``only`` (flat indices) where that is not None. shape: ``last - first``. A core
    computes its neurons from these messages and from the weights between them and its neurons, and from nothing else.
    For a product that the core makes: inputs (product, slice, source), one for each source, which it sees flat.
    """

    first: tuple[int, ...]
    last: tuple[int, ...]
    only: Array | None = None
