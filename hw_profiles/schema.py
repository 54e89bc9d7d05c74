"""What a hardware profile holds: limits, formats, abilities and priced constants, each with its evidence.

A profile states; it never prices. Every number carries its evidence: how it was obtained (`EVIDENCE`), how it was
read (`TAGS`) and from which source. What is not published is ``None``, which is not zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from avsnn.errors import InputError, ProfileError
from avsnn.hw_profiles.formats import Bits, WeightGrid, signed_core_grid

EVIDENCE = ("measured", "simulated", "vendor", "derived", "assumed")
"""How a number was obtained, strongest first: on silicon, SPICE or synthesis, brochure, arithmetic, guessed."""

TAGS = ("P", "S", "D", "M")
"""How a number was read: in the primary source, quoted by another, derived (arithmetic in the note), from memory."""

SCOPES = ("per_term", "incremental", "all_dynamic", "all_in")
TERMS = ("sop", "dynamic", "update", "spike", "route", "memory", "sync", "host", "static")

SCOPE_HOLDS: Mapping[str, frozenset[str]] = {
    "per_term": frozenset(),
    "incremental": frozenset({"update", "spike", "memory"}),
    "all_dynamic": frozenset({"spike", "route", "memory", "sync"}),
    "all_in": frozenset({"update", "spike", "route", "memory", "sync", "static"}),
}
"""What a constant of each scope already holds. Adding one of these again would count it twice."""

ABILITIES = ("native", "microcode", "host", "refused")
CAPABILITY_KINDS = (
    "input_host_bias",
    "input_host_message",
    "input_events",
    "conv2d",
    "linear",
    "lif_hard",
    "lif_subtract",
    "lif_threshold_array",
    "lif_rest",
    "or_pool",
    "relay",
    "axon_delay",
    "graded_message",
    "attention",
    "attention_window",
    "product",
    "unit_length",
    "layer_norm",
    "step_gain",
    "readout_host_sum",
)
"""Kinds of node: a current that the host writes per sample, or sends in every step to neurons that keep it; events from
outside, the two synapses, the neuron with either reset, thresholds that differ inside a population, neurons that rest
before their next window, max pooling of spikes, a delaying neuron, a delay in the synapse, messages with a payload,
spikes times spikes within a step (attention and its maps), attention that needs the whole window, products of sums of
spikes, spike counts scaled to length 1, layer norms and gains of sums that a step has brought, and the host adding up
the last synapse's output."""

GRANULARITIES = ("population", "group", "neuron")
USES = ("target", "pricing", "comparator")
"""What a profile is for: a network is converted for it, spikes are priced with it, or ordinary networks are."""

MAC_SCOPES: Mapping[str, str] = {
    "peak": "rated power over rated operations, every unit busy",
    "batch1": "one sample at a time, power above idle",
    "batch1_total": "one sample at a time, all power of the device",
}
"""Prices of a multiply-accumulate on a comparator, and what power is in them. One is not to be printed alone."""


@dataclass(frozen=True, kw_only=True)
class Constant:
    """One number with its interval and evidence. ``value``, ``lo`` and ``hi`` are None together: not published."""

    name: str
    value: float | None
    lo: float | None
    hi: float | None
    evidence: str | None
    tag: str
    source: tuple[str, ...]
    locator: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What fits. None means that nothing is to be checked: either there is no limit, or (`unknown`) none is public.

    Widths are bits: ``weight_bits`` as stored, ``threshold_bits`` of the unsigned mantissa, ``bias_mant_bits`` of the
    signed one, ``message_bits`` of a graded spike's payload (0: spikes only). ``synapse_formats_per_core``: how many
    pairs of weight exponent and sign mode the connections into one core may have. Delays are steps beyond the one that
    every synapse takes. ``fan_in_max`` is connections into one neuron.
    """

    weight_bits: int | None
    weight_exp_min: int | None
    weight_exp_max: int | None
    state_bits: int | None
    decay_bits: int | None
    threshold_bits: int | None
    bias_mant_bits: int | None
    bias_exp_max: int | None
    synapse_formats_per_core: int | None
    message_bits: int | None
    delay_steps_max: int | None
    cores_per_chip: int | None
    neurons_per_core: int | None
    synapses_per_chip: int | None
    synapse_memory_bits_per_core: int | None
    memory_bits_per_core: int | None
    axons_in_per_core: int | None
    axons_out_per_core: int | None
    fan_in_max: int | None
    unknown: tuple[str, ...] = ()
    evidence: Mapping[str, Constant] = field(default_factory=dict, compare=False)

    @classmethod
    def none(cls) -> Limits:
        """Of what is no chip."""
        values: dict[str, Any] = {n: None for n in cls.__dataclass_fields__ if n not in ("unknown", "evidence")}
        return cls(**values)


AXON_SHARING = ("core", "position", "neuron")
"""What one input axon of a core serves, for a convolution with a shared kernel: all neurons of a sending core, all
channels at one position, or one neuron. Other connections have an axon for each sending neuron."""


@dataclass(frozen=True, kw_only=True)
class Storage:
    """Bits that a core's memory spends on what it stores.

    Synapses stand in lists, each rounded up to words of ``word_bits``: one list for each sending neuron of a linear
    layer, one for each input channel and tap of a convolution, whose kernel a core stores once for all positions. Axons
    point at lists, so that of lists of a layer that are equal one is stored::

        linear       round_up(n (width + index_bits) + list_bits)      n targets on this core
        convolution  round_up(n (width + kernel_index_bits) + kernel_list_bits)    n output channels on this core

    ``width`` is that of the layer's weights. ``neuron_bits``: state and parameters of one neuron. ``axon_bits``: of one
    input axon. ``kernel_axons``: one of `AXON_SHARING`.
    """

    word_bits: Constant
    index_bits: Constant
    list_bits: Constant
    kernel_index_bits: Constant
    kernel_list_bits: Constant
    neuron_bits: Constant
    axon_bits: Constant
    kernel_axons: str


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """Where cores are: tiles in rows, a router in each; messages go along x, then along y. ``evidence``: `EVIDENCE`."""

    tiles_x: int
    tiles_y: int
    cores_per_tile: int
    evidence: str
    source: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Formats:
    """How the widths of `Limits` are read: whether each weight group has a sign mode, and who may own a threshold."""

    weight_sign_modes: bool
    threshold_granularity: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What the chip pays for: updates every step or on events, and whether connections of weight 0 cost anything.

    ``zero_weight_skip``: "never" (all stored connections are paid), "always" (none of weight 0), "storage" (depends on
    the storage format: between the two). ``inside``: terms held by the constants besides those of the scope.
    """

    neuron_update: str
    zero_weight_skip: str
    scope: str
    inside: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class SramSize:
    """Energy of one access (read or write) to a memory of at most ``size_kib``; None is the memory off the chip."""

    size_kib: float | None
    word_bits: int
    access_pj: Constant


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """Where constants of scope ``all_dynamic`` or ``all_in`` were taken; elsewhere they are a guess."""

    network: str
    source: str
    voltage_v: float | None = None
    rate_hz: float | None = None
    fan_out: float | None = None


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A published inference with the operation counts known for it: what prices are checked against."""

    name: str
    source: str
    samples: int
    steps: int
    sop_stored: int | None = None
    sop_nonzero: int | None = None
    neuron_updates: int | None = None
    dynamic_mj: float | None = None
    total_mj: float | None = None
    latency_ms: float | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where numbers come from. ``read``: "primary" or "secondary" (quoted by another text)."""

    id: str
    cite: str
    read: str
    locator: str = ""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One chip. ``formats`` and every capability are filled where ``uses`` holds "target"; elsewhere what is known.

    ``capabilities`` holds the ability of each kind, ``capability_reasons`` why it is not native.
    ``storage`` and ``mesh`` are None where nothing is known of them.
    ``energy_pj``, ``power_mw``, ``time_ns`` and ``literature`` hold constants by key; a missing key means that the
    chip has no such event, a `Constant` without value that nobody published it. Neither is priced as zero.
    ``mac_pj`` is what a comparator takes for one product of an ordinary network, by `MAC_SCOPES`.
    """

    id: str
    title: str
    vendor: str
    kind: str
    node: str
    voltage_v: float | None
    uses: tuple[str, ...]
    limits: Limits
    policy: Policy
    formats: Formats | None
    storage: Storage | None = None
    mesh: Mesh | None = None
    capabilities: Mapping[str, str]
    capability_reasons: Mapping[str, str] = field(default_factory=dict)
    energy_pj: Mapping[str, Constant]
    power_mw: Mapping[str, Constant]
    time_ns: Mapping[str, Constant]
    literature: Mapping[str, Constant]
    mac_pj: Mapping[str, Constant] = field(default_factory=dict)
    memories: tuple[SramSize, ...]
    operating_point: OperatingPoint | None
    measurements: tuple[Measurement, ...]
    sources: Mapping[str, Source]
    path: str
    sha256: str

    @property
    def inside(self) -> frozenset[str]:
        """Terms that the per-event constants already hold and that must not be added."""
        return SCOPE_HOLDS[self.policy.scope] | self.policy.inside

    @property
    def state_format(self) -> Bits:
        """Membrane and current state."""
        return Bits(signed=True, width=self.need("state_bits"))

    @property
    def threshold_format(self) -> Bits:
        """Threshold mantissa."""
        return Bits(signed=False, width=self.need("threshold_bits"))

    @property
    def bias_format(self) -> Bits:
        """Bias mantissa."""
        return Bits(signed=True, width=self.need("bias_mant_bits"))

    def weight_grid(self, sign_mode: str = "mixed", *, bits: int | None = None) -> WeightGrid:
        """Legal weight mantissas for a group of this sign mode, at the full stored width or at fewer ``bits``.

        Raises:
            InputError: more bits than stored, or an unknown sign mode.
            ProfileError: the profile is no compilation target.
        """
        if self.formats is None:
            raise self._not_a_target()
        width = self.need("weight_bits")
        if self.formats.weight_sign_modes:
            return signed_core_grid(max_bits=width, bits=width if bits is None else bits, sign_mode=sign_mode)
        if bits is not None and not 2 <= bits <= width:
            raise InputError("weight width not available", where="weight_bits", found=bits, limit=f"2..{width}")
        plain = Bits(signed=True, width=width if bits is None else bits)
        return WeightGrid(low=plain.min, high=plain.max, step=1)

    def capability(self, kind: str) -> str:
        """How the chip does a kind of node: one of `ABILITIES`.

        Raises:
            KeyError: an unknown kind; the message lists the known ones.
            ProfileError: the profile is no compilation target and does not say.
        """
        if kind not in CAPABILITY_KINDS:
            raise KeyError(f"no node kind {kind!r}; there are: {', '.join(CAPABILITY_KINDS)}")
        if kind not in self.capabilities:
            raise self._not_a_target()
        return self.capabilities[kind]

    def need(self, limit: str) -> int:
        """The limit, which must be a number.

        Raises:
            ProfileError: the profile sets none.
        """
        value = getattr(self.limits, limit)
        if not isinstance(value, int):
            raise ProfileError("a number is needed here", where=f"{self.path}: limits.{limit}", found=value)
        return value

    def constants(self) -> Mapping[str, Constant]:
        """Every constant of the file by its dotted name, limits included."""
        tables: tuple[Mapping[str, Constant], ...] = (
            self.energy_pj,
            self.power_mw,
            self.time_ns,
            self.literature,
            self.mac_pj,
            {str(i): memory.access_pj for i, memory in enumerate(self.memories)},
            self.limits.evidence,
            {} if self.storage is None else {k: c for k, c in vars(self.storage).items() if isinstance(c, Constant)},
        )
        return {constant.name: constant for table in tables for constant in table.values()}

    @property
    def only_compares(self) -> bool:
        """Whether it is no chip for spikes at all."""
        return self.uses == ("comparator",)

    def _not_a_target(self) -> ProfileError:
        return ProfileError(
            "this profile only prices counts, it is no compilation target",
            where=self.id,
            remedy="use one that has [formats] and [capabilities]",
        )
