"""Turns counts and constants into priced lines and a list of what has no price; one method per term."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from avsnn.deploy.reports.core_counts import CoreCounts
from avsnn.deploy.reports.counts import Counts
from avsnn.deploy.reports.interval import ZERO, Interval, exactly, interval_of
from avsnn.errors import ProfileError
from avsnn.hw_profiles.schema import EVIDENCE, Constant, Profile

KIBIBYTE_BITS = 8192
NO_PLACEMENT = "needs a placement on cores of this chip"
ROUTED: Mapping[str, tuple[str, str]] = {
    "spike_local": ("local", "messages within a tile"),
    "hop_x": ("hops_x", "hops along x"),
    "hop_y": ("hops_y", "hops along y"),
    "off_chip": ("crossings", "messages from chip to chip"),
}
"""Constant: the count of `avsnn.deploy.reports.core_counts.Routes` that it prices, and its name."""


@dataclass(frozen=True, kw_only=True)
class Term:
    """One priced line: ``energy`` (pJ, all samples) = ``count`` x ``constant``."""

    term: str
    name: str
    count: int
    energy: Interval
    evidence: str
    constants: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Unpriced:
    """A term of the energy sum without a price, and why."""

    term: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class MemoryWords:
    """Bits of one stored weight and of one neuron's state; with them a profile that lists memories prices accesses."""

    weight_bits: int
    state_bits: int


def sum_of(terms: Sequence[Term]) -> Interval | None:
    """Sum of priced terms, pJ; None if synaptic operations are not among them, without which a sum says nothing."""
    return sum((term.energy for term in terms), ZERO) if any(term.term == "sop" for term in terms) else None


def paid(profile: Profile, stored: int, nonzero: int) -> Interval:
    """How many of the operations the chip pays for, by its policy on weights of 0."""
    match profile.policy.zero_weight_skip:
        case "never":
            return exactly(stored)
        case "always":
            return exactly(nonzero)
        case "storage":
            return Interval(value=float(stored), lo=float(nonzero), hi=float(stored))
        case other:
            raise ProfileError("unknown policy", where="zero_weight_skip", found=other)


class Tally:
    """Collects priced and unpriced terms; a term inside the scope is neither."""

    def __init__(self, counts: Counts, profile: Profile, cores: CoreCounts | None = None) -> None:
        self.counts, self.profile, self.cores = counts, profile, cores
        self.terms: list[Term] = []
        self.unpriced: list[Unpriced] = []

    @property
    def dynamic(self) -> Interval | None:
        """`sum_of` what was priced."""
        return sum_of(self.terms)

    def skip(self, term: str, reason: str) -> None:
        """List a term without a price, unless the scope holds it."""
        if term not in self.profile.inside:
            self.unpriced.append(Unpriced(term=term, reason=reason))

    def add(self, term: str, name: str, count: int, energy: Interval, *used: Constant) -> None:
        """List a priced line; its evidence is the weakest of its constants."""
        evidence = max((c.evidence or EVIDENCE[-1] for c in used), key=EVIDENCE.index)
        names = tuple(c.name for c in used)
        self.terms.append(Term(term=term, name=name, count=count, energy=energy, evidence=evidence, constants=names))

    def constant(self, term: str, name: str, key: str, count: int) -> None:
        """One count times one constant."""
        if term in self.profile.inside:
            return
        each = _interval(self.profile.energy_pj, key)
        if each is None:
            self.skip(term, _why_missing(self.profile.energy_pj, key))
        else:
            self.add(term, name, count, each.scaled(count), self.profile.energy_pj[key])

    def sop(self) -> None:
        """Stored connections, connections of non-zero weight, or in between: the chip's storage decides."""
        each = _interval(self.profile.energy_pj, "sop")
        if each is None:
            return self.skip("sop", _why_missing(self.profile.energy_pj, "sop"))
        done = paid(self.profile, self.counts.sop_stored, self.counts.sop_nonzero)
        self.add("sop", "synaptic operations", int(done.value), done * each, self.profile.energy_pj["sop"])

    def dynamic_products(self) -> None:
        """Operations of products of activity: each kind at its own price; without one it is unpriced, never a SOP."""
        if not self.counts.products:
            return
        kinds = (("and", "coincidences"), ("acc", "additions"), ("mul", "multiplications"))
        missing = []
        for kind, name in kinds:
            found, key = getattr(self.counts, f"dynamic_{kind}"), f"dynamic_{kind}"
            if found is None:
                return self.skip("dynamic", "spikes of the sources were not recorded, so operations were not counted")
            each = _interval(self.profile.energy_pj, key)
            if found and each is None:
                missing.append(f"{found} {name}: {_why_missing(self.profile.energy_pj, key)}")
            elif found and each is not None and "dynamic" not in self.profile.inside:
                self.add("dynamic", f"{name} of products", found, each.scaled(found), self.profile.energy_pj[key])
        if missing:
            self.skip("dynamic", "; ".join(missing))

    def update(self) -> None:
        """All updates at one price; or driven and undriven ones apart; or, if nobody counted them, in between."""
        energy = self.profile.energy_pj
        updates, driven = self.counts.neuron_updates, self.counts.driven
        if "neuron_active" not in energy:
            if self.profile.policy.neuron_update == "event":
                if driven is None:
                    return self.skip("update", "the chip updates driven neurons only, and those were not counted")
                updates = driven
            return self.constant("update", "neuron updates", "neuron_update", updates)
        active, idle = _interval(energy, "neuron_active"), _interval(energy, "neuron_inactive")
        if active is None or idle is None or "update" in self.profile.inside:
            return self.skip("update", _why_missing(energy, "neuron_active" if active is None else "neuron_inactive"))
        used = energy["neuron_active"], energy["neuron_inactive"]
        if driven is None:
            each = Interval(value=active.value, lo=min(active.lo, idle.lo), hi=max(active.hi, idle.hi))
            total = each.scaled(updates)
        else:
            total = active.scaled(driven) + idle.scaled(updates - driven)
        self.add("update", "neuron updates", updates, total, *used)

    def spikes(self) -> None:
        """Spikes that leave neurons, and their messages to cores, which are known where cores are."""
        self.constant("spike", "spikes sent", "spike_out", self.counts.spikes)
        message = self.profile.energy_pj.get("axon_message")
        if message is not None and message.value is not None and self.cores is None:
            self.skip("spike", f"axon_message: {NO_PLACEMENT}")
        elif message is not None:
            self.constant("spike", "messages to cores", "axon_message", self.cores.messages if self.cores else 0)

    def route(self) -> None:
        """Messages that stay in their tile, hops between tiles, steps from chip to chip, as cores are placed."""
        energy = self.profile.energy_pj
        if not set(ROUTED) & set(energy):
            return self.skip("route", "the profile has no constant for it")
        if not any(energy[key].value is not None for key in ROUTED if key in energy):
            return self.skip("route", _why_missing(energy, next(key for key in ROUTED if key in energy)))
        if self.cores is None or self.cores.routes is None:
            return self.skip("route", NO_PLACEMENT)
        for key, (field, name) in ROUTED.items():
            number = getattr(self.cores.routes, field)
            if number:  # nothing goes from chip to chip where there is one
                self.constant("route", name, key, number)
        if self.cores.outside:
            self.skip("route", f"{self.cores.outside} messages come from outside, on a way that is not known")

    def memory(self, words: MemoryWords | None) -> None:
        """Accesses to weights and states, where the profile lists memories and the words are declared."""
        if not self.profile.memories:
            return self.skip("memory", "the profile has no constant for it")
        if words is None:
            return self.skip("memory", "needs the width of weights and states")
        total, moved, used = ZERO, ZERO, {}
        for bits_stored, bits_moved in self.traffic(words):
            size = next(
                (m for m in self.profile.memories if m.size_kib is None or bits_stored <= m.size_kib * KIBIBYTE_BITS),
                None,
            )
            each = None if size is None else _interval({"access": size.access_pj}, "access")
            if size is None or each is None:
                return self.skip("memory", f"no price for a memory of {bits_stored} bits")
            total += (each * bits_moved).scaled(1 / size.word_bits)
            moved += bits_moved
            used[size.access_pj.name] = size.access_pj
        self.add("memory", "memory bits moved", int(moved.value), total, *used.values())
        if self.counts.products:
            self.skip("memory", "what products hold (counters, windows, delays) is not in it")

    def traffic(self, words: MemoryWords) -> list[tuple[int, Interval]]:
        """For each memory (one per connection, one per population): bits it stores, bits read and written.

        Every SOP reads a weight, and reads and writes the state of its target; every update reads and writes one state.
        """
        rows = []
        for synapse in self.counts.synapses:
            reads = paid(self.profile, synapse.sop_stored, synapse.sop_nonzero)
            rows.append((synapse.weights * words.weight_bits, reads.scaled(words.weight_bits)))
        for population in self.counts.populations:
            arriving = [row for row in self.counts.synapses if population.name in row.targets]
            accesses = exactly(population.updates)
            for row in arriving:
                accesses += paid(self.profile, row.sop_stored, row.sop_nonzero)
            rows.append((population.neurons * words.state_bits, accesses.scaled(2 * words.state_bits)))
        return rows

    def host(self) -> None:
        """Layers on the host; a chip of scope per_term also has processors that nobody priced."""
        if self.counts.host_roots:
            what = f"{self.counts.host_roots} square roots and {self.counts.host_divisions} divisions"
            self.skip("host", f"{what}, of norms, have no price")
        if self.counts.host_answers:
            self.skip(
                "host", f"{self.counts.host_answers} round trips to the host have no price, nor has waiting for them"
            )
        if self.counts.host_macs and "mac" in self.profile.energy_pj:
            return self.constant("host", "dense layers", "mac", self.counts.host_macs)
        if self.counts.host_macs:
            return self.skip("host", f"{self.counts.host_macs} multiply-accumulates outside the chip have no price")
        if self.profile.policy.scope == "per_term" and "mac" not in self.profile.energy_pj:
            self.skip("host", "input, output and embedded processors have no price per event")


def _interval(table: Mapping[str, Constant], key: str) -> Interval | None:
    constant = table.get(key)
    return None if constant is None else interval_of(constant)


def _why_missing(table: Mapping[str, Constant], key: str) -> str:
    if key not in table:
        return "the profile has no constant for it"
    return f"{key} is not published" + (f": {table[key].note}" if table[key].note else "")
