"""Rows and totals of operation counts, exact integers; `avsnn.deploy.reports.counts` fills them."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from avsnn.deploy.reports.dynamic import ProductCount
from avsnn.errors import InputError

TOTALS = (
    "events",
    "sop_stored",
    "sop_nonzero",
    "sop_graded",
    "sop_spike",
    "payload_bits",
    "dynamic_and",
    "dynamic_acc",
    "dynamic_mul",
    "dense_macs",
    "replay_bits",
    "delay_bits",
    "neurons",
    "neuron_updates",
    "driven",
    "spikes",
    "host_macs",
)
OF_PRODUCTS = ("dynamic_and", "dynamic_acc", "dynamic_mul", "dense_macs", "replay_bits", "delay_bits")
"""Totals over products; a relay or a pool has none."""


@dataclass(frozen=True, kw_only=True)
class SynapseCount:
    """One connection over all samples and steps.

    ``targets`` read it; ``role`` is that of the population it feeds: "neuron", "or", "relay", "coincidence" or
    "readout". ``sop_by_sample`` adds up to ``sop_stored``, ``graded_by_sample`` to ``sop_graded``. ``graded`` counts
    are the subset whose message is neither 1 nor -1, or comes from a product, which sends its ``payload_bits`` with
    every message. ``weights`` are stored parameters; ``groups`` says how many of them share an exponent: (exponent,
    weights) of each synapse group.
    """

    name: str
    source: str
    targets: tuple[str, ...]
    role: str
    weights: int
    connections: int
    connections_nonzero: int
    events: int
    events_graded: int
    sop_stored: int
    sop_nonzero: int
    sop_graded: int
    sop_by_sample: tuple[int, ...]
    graded_by_sample: tuple[int, ...] = ()
    payload_bits: int = 0
    groups: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        fits = not self.groups or sum(weights for _, weights in self.groups) == self.weights
        fits = fits and self.sop_graded <= self.sop_stored >= self.sop_nonzero
        fits = fits and (not self.graded_by_sample or sum(self.graded_by_sample) == self.sop_graded)
        if sum(self.sop_by_sample) != self.sop_stored or not fits:
            raise InputError("counts contradict each other", where=self.name, found=asdict(self))


@dataclass(frozen=True, kw_only=True)
class PopulationCount:
    """One population over all samples and steps.

    ``updates`` = neurons x steps x samples; ``driven`` of them received at least one message over a weight that is
    not 0 (None: not asked for). ``spikes_by_sample`` adds up to ``spikes``.
    """

    name: str
    role: str
    neurons: int
    updates: int
    driven: int | None
    spikes: int
    spikes_by_sample: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.spikes_by_sample and sum(self.spikes_by_sample) != self.spikes:
            raise InputError("counts contradict each other", where=self.name, found=asdict(self))


@dataclass(frozen=True, kw_only=True)
class HostCount:
    """What the host computes.

    Once per sample: a directly coded first layer, its products with real (not padded) inputs; counts scaled to length
    1, a square of each and the dense layer behind, a square root per vector and a division per count. In every step,
    ``answers`` of them: a layer norm, two multiply-accumulates (square, distance from the mean) and a division per
    neuron and a root per token; a gain, a product per neuron. The chip waits for each answer of ``messages`` numbers
    altogether. All but ``macs_per_sample`` are over all samples.
    """

    name: str
    macs_per_sample: int
    macs: int
    roots: int = 0
    divisions: int = 0
    answers: int = 0
    messages: int = 0


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Everything counted in one run of ``samples`` samples, ``steps`` logical steps each."""

    synapses: tuple[SynapseCount, ...]
    populations: tuple[PopulationCount, ...]
    hosts: tuple[HostCount, ...]
    samples: int
    steps: int
    products: tuple[ProductCount, ...] = ()

    def only(self, role: str) -> Counts:
        """The same run, rows of one role only; ``only("relay")`` is what delays cost."""
        return replace(
            self,
            synapses=tuple(row for row in self.synapses if row.role == role),
            populations=tuple(row for row in self.populations if row.role == role),
            hosts=(),
            products=(),
        )

    @property
    def events(self) -> int:
        """Messages entering connections; one that enters two counts twice."""
        return sum(row.events for row in self.synapses)

    @property
    def sop_stored(self) -> int:
        """Synaptic operations over existing connections."""
        return sum(row.sop_stored for row in self.synapses)

    @property
    def sop_nonzero(self) -> int:
        """Synaptic operations over weights that are not 0."""
        return sum(row.sop_nonzero for row in self.synapses)

    @property
    def sop_graded(self) -> int:
        """Stored synaptic operations whose message is neither 1 nor -1."""
        return sum(row.sop_graded for row in self.synapses)

    @property
    def sop_spike(self) -> int:
        """Stored synaptic operations of spikes, which carry nothing."""
        return self.sop_stored - self.sop_graded

    @property
    def payload_bits(self) -> int:
        """Bits of payload that entered connections: graded messages times the bits of each."""
        return sum(row.events_graded * row.payload_bits for row in self.synapses)

    @property
    def dynamic_and(self) -> int | None:
        """Coincidences of spikes in products (see `avsnn.deploy.reports.dynamic`); None if a product has no count."""
        return _known(row.ands for row in self.products)

    @property
    def dynamic_acc(self) -> int | None:
        """Additions in products, likewise."""
        return _known(row.accs for row in self.products)

    @property
    def dynamic_mul(self) -> int | None:
        """Multiplications in products, likewise."""
        return _known(row.muls for row in self.products)

    @property
    def dense_macs(self) -> int:
        """Multiply-accumulates that the products would cost in dense order."""
        return sum(row.dense_macs for row in self.products)

    @property
    def replay_bits(self) -> int:
        """Bits in which windowed products hold their window."""
        return sum(row.replay_bits for row in self.products)

    @property
    def delay_bits(self) -> int:
        """Bits in which inputs of products wait."""
        return sum(row.delay_bits for row in self.products)

    @property
    def neurons(self) -> int:
        """Neurons, relays and pools included."""
        return sum(row.neurons for row in self.populations)

    @property
    def neuron_updates(self) -> int:
        """Neurons x steps x samples."""
        return sum(row.updates for row in self.populations)

    @property
    def driven(self) -> int | None:
        """Updates of neurons that received something, None if any population was not asked."""
        known = [row.driven for row in self.populations if row.driven is not None]
        return sum(known) if len(known) == len(self.populations) else None

    @property
    def spikes(self) -> int:
        """Spikes emitted by populations."""
        return sum(row.spikes for row in self.populations)

    @property
    def host_macs(self) -> int:
        """Multiply-accumulates of the host."""
        return sum(row.macs for row in self.hosts)

    @property
    def host_roots(self) -> int:
        """Square roots of the host."""
        return sum(row.roots for row in self.hosts)

    @property
    def host_answers(self) -> int:
        """How often the chip waits for the host."""
        return sum(row.answers for row in self.hosts)

    @property
    def host_divisions(self) -> int:
        """Divisions of the host."""
        return sum(row.divisions for row in self.hosts)

    @property
    def sop_by_sample(self) -> tuple[int, ...]:
        """Stored synaptic operations of each sample."""
        return self._by_sample([row.sop_by_sample for row in self.synapses]) or (0,) * self.samples

    @property
    def graded_by_sample(self) -> tuple[int, ...] | None:
        """Those of each sample whose message is neither 1 nor -1; None where rows do not tell."""
        return self._by_sample([row.graded_by_sample for row in self.synapses])

    @property
    def spikes_by_sample(self) -> tuple[int, ...] | None:
        """Spikes of populations in each sample; None where rows do not tell."""
        return self._by_sample([row.spikes_by_sample for row in self.populations])

    @property
    def host_macs_by_sample(self) -> tuple[int, ...]:
        """Multiply-accumulates of the host in each sample: whatever fires, the same."""
        return (sum(row.macs_per_sample for row in self.hosts),) * self.samples

    def _by_sample(self, rows: Sequence[tuple[int, ...] | None]) -> tuple[int, ...] | None:
        known = [row for row in rows if row]
        if not known or len(known) < len(rows):
            return None
        return tuple(sum(column) for column in zip(*known, strict=True))

    @property
    def dynamic_by_sample(self) -> tuple[int, ...] | None:
        """Operations of products of each sample; None if a product has no count, or there is none."""
        return self._by_sample([row.operations_by_sample for row in self.products])

    def to_json(self) -> dict[str, Any]:
        """Plain values: rows, totals, spread over samples. What was not counted is absent (``driven`` is null)."""
        table = {
            "samples": self.samples,
            "steps": self.steps,
            "total": self._totals(TOTALS),
            "relays": self.only("relay")._totals(n for n in TOTALS if n not in (*OF_PRODUCTS, "host_macs")),
            **self._spreads(),
            "synapses": [_plain(row) for row in self.synapses],
            "populations": [_plain(row) | {"driven": row.driven} for row in self.populations],
            "hosts": [asdict(row) for row in self.hosts],
            "products": [_plain(row) for row in self.products],
        }
        return table

    def _spreads(self) -> dict[str, dict[str, int]]:
        """Smallest, lower median and largest sample of what is known of each sample."""
        known = {
            "sop_per_sample": self.sop_by_sample,
            "sop_graded_per_sample": self.graded_by_sample,
            "spikes_per_sample": self.spikes_by_sample,
            "host_macs_per_sample": self.host_macs_by_sample,
            "dynamic_per_sample": self.dynamic_by_sample,
        }
        return {name: _spread(by_sample) for name, by_sample in known.items() if by_sample is not None}

    def _totals(self, names: Iterable[str]) -> dict[str, int | None]:
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None or name == "driven"}

    @property
    def sha256(self) -> str:
        """Hash of the counts: two prices with the same hash priced the same work."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()


def _known(values: Iterable[int | None]) -> int | None:
    total = 0
    for value in values:
        if value is None:
            return None
        total += value
    return total


def _spread(by_sample: tuple[int, ...]) -> dict[str, int]:
    """Smallest, lower median (an integer) and largest."""
    median = statistics.median_low(by_sample) if by_sample else 0
    return {"min": min(by_sample, default=0), "median": median, "max": max(by_sample, default=0)}


def _plain(row: SynapseCount | PopulationCount | ProductCount) -> dict[str, Any]:
    """A row without what is not known, and without its samples."""
    return {k: v for k, v in asdict(row).items() if v is not None and not k.endswith("_by_sample")}
