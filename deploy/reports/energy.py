"""Turns operation counts and a hardware profile into an energy estimate: intervals, evidence, and what has no price.

``E = sum over terms of count * constant``; each constant is an interval, sums add corners. Terms are those of
`avsnn.hw_profiles.schema.TERMS`. What a constant already holds (its scope) cannot be added again; what has no published
constant is listed as unpriced and never taken as zero. Dynamic energy (per event) and static energy (power x time) are
never mixed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from avsnn.deploy.fit import Fit
from avsnn.deploy.reports.core_counts import CoreCounts
from avsnn.deploy.reports.counts import Counts
from avsnn.deploy.reports.holding import Holding, holding
from avsnn.deploy.reports.interval import Interval, format_energy, format_interval, format_time
from avsnn.deploy.reports.latency import NS, FirstAnswer, Latency, Pace, latency_bound, pace_of
from avsnn.deploy.reports.literature import Literature, literature
from avsnn.deploy.reports.sensitivity import Sensitivity, sensitivity
from avsnn.deploy.reports.static import EnergyDelay, StaticShare, energy_delays, static_shares, why_no_static
from avsnn.deploy.reports.tally import MemoryWords, Tally, Term, Unpriced, sum_of
from avsnn.errors import InputError, ProfileError
from avsnn.hw_profiles.schema import EVIDENCE, TERMS, Profile

__all__ = ["BANNER", "EnergyReport", "Literature", "MemoryWords", "Term", "Unpriced", "price", "render"]

BANNER = "estimate from declared constants, not a measurement"
MAIN_SHARE = 0.05  # a term below this share of the sum does not decide how well the sum is known
POINT_FACTOR = 2.0  # beyond this ratio to the operating point an all-in constant says nothing


@dataclass(frozen=True, kw_only=True)
class EnergyReport:
    """What one profile makes of one set of counts. Energies are pJ over all samples; ``to_json`` adds per sample.

    Raises:
        ProfileError: a term that the profile's constants already hold.
    """

    profile: str
    title: str
    scope: str
    inside: tuple[str, ...]
    profile_sha256: str
    counts_sha256: str
    samples: int
    steps: int
    terms: tuple[Term, ...]
    static: tuple[StaticShare, ...]
    latency: Latency | None
    pace: Pace | None
    energy_delay: tuple[EnergyDelay, ...]
    unpriced: tuple[Unpriced, ...]
    sensitivity: Sensitivity | None
    holds: Holding
    literature: Literature
    warnings: tuple[str, ...]
    banner: str = BANNER

    def __post_init__(self) -> None:
        for term in (*(t.term for t in self.terms), *("static" for _ in self.static)):
            if term in self.inside:
                raise ProfileError(
                    f"{term} is already inside constants of scope {self.scope}, adding it would count it twice",
                    where=self.profile,
                )

    @property
    def dynamic(self) -> Interval | None:
        """Sum of the priced terms, pJ over all samples; None if synaptic operations have no price."""
        return sum_of(self.terms)

    @property
    def dynamic_per_sample(self) -> Interval | None:
        """The same per sample (inference)."""
        return None if self.dynamic is None else self.dynamic.scaled(1 / self.samples)

    @property
    def evidence(self) -> str | None:
        """The weakest evidence among terms that make up at least 5 % of the sum."""
        if self.dynamic is None:
            return None
        main = [t.evidence for t in self.terms if t.energy.value >= MAIN_SHARE * self.dynamic.value]
        return max(main, key=EVIDENCE.index)

    @property
    def label(self) -> str:
        """Whether the sum is complete, or partial with the names of what has no price."""
        names = ", ".join(dict.fromkeys(item.term for item in self.unpriced))
        return f"partial, unpriced: {names}" if names else "complete"

    def to_json(self) -> dict[str, Any]:
        """All digits, for programs."""
        per_sample = self.dynamic_per_sample
        return {
            "profile": self.profile,
            "title": self.title,
            "banner": self.banner,
            "scope": self.scope,
            "inside": list(self.inside),
            "profile_sha256": self.profile_sha256,
            "counts_sha256": self.counts_sha256,
            "samples": self.samples,
            "steps": self.steps,
            "label": self.label,
            "evidence": self.evidence,
            "dynamic_pj": None if self.dynamic is None else self.dynamic.to_json(),
            "dynamic_pj_per_sample": None if per_sample is None else per_sample.to_json(),
            "terms": [asdict(term) for term in self.terms],
            "static": [share.to_json() for share in self.static],
            "latency": None if self.latency is None else self.latency.to_json(),
            "pace": None if self.pace is None else self.pace.to_json(),
            "energy_delay": [each.to_json() for each in self.energy_delay],
            "unpriced": [asdict(item) for item in self.unpriced],
            "sensitivity": None if self.sensitivity is None else self.sensitivity.to_json(),
            "holds": self.holds.to_json(),
            "literature": asdict(self.literature),
            "warnings": list(self.warnings),
        }


def price(
    counts: Counts,
    profile: Profile,
    *,
    latency_s: float | None = None,
    latency_mode: str = "measured",
    cores_used: int | None = None,
    memory: MemoryWords | None = None,
    cores: CoreCounts | None = None,
    samples: Sequence[CoreCounts] = (),
    fit: Fit | None = None,
    first: FirstAnswer | None = None,
) -> EnergyReport:
    """Price counts with the constants of a profile.

    Args:
        counts: of a run.
        profile: of the chip.
        latency_s: time of one sample; without it, what `latency_bound` knows.
        latency_mode: how it is known, one of `avsnn.deploy.reports.latency.MODES`.
        cores_used: what static power is prorated by; without it those of ``cores`` or ``fit``, else at least so many.
        memory: widths of what is stored, where the profile prices memories.
        cores: what each core of a mapping on this chip did: hops, messages, the busiest core.
        samples: the same of single samples, those with the fewest, a median number of and the most operations.
        fit: whether this chip holds the network.
        first: steps to the first answer, for the wait in seconds.

    Raises:
        InputError: no samples, a latency or core count that is not positive, or cores of another chip.
    """
    if counts.samples < 1 or counts.steps < 1:
        raise InputError("nothing was counted", where="price", found=(counts.samples, counts.steps))
    if cores is not None and cores.profile != profile.id:
        raise InputError("cores of another chip", where="price", found=cores.profile, limit=profile.id)
    latency = latency_bound(counts, profile, cores, samples)
    if latency_s is not None:
        latency = Latency.given(latency_s, latency_mode)
    pace = None if latency is None else pace_of(latency, counts.steps, first)
    tally = _tally(counts, profile, memory, cores)
    holds = holding(counts, profile, fit, cores=cores, weight_bits=None if memory is None else memory.weight_bits)
    vague = cores_used is None and holds.at_least
    static = static_shares(counts, profile, latency, holds.cores if cores_used is None else cores_used, at_least=vague)
    if not static:
        tally.skip("static", why_no_static(profile, latency))
    return EnergyReport(
        profile=profile.id,
        title=profile.title,
        scope=profile.policy.scope,
        inside=tuple(term for term in TERMS if term in profile.inside),
        profile_sha256=profile.sha256,
        counts_sha256=counts.sha256,
        samples=counts.samples,
        steps=counts.steps,
        terms=tuple(tally.terms),
        static=static,
        latency=latency,
        pace=pace,
        energy_delay=energy_delays(
            tally.dynamic, static, pace, latency, counts.samples, all_in="static" in profile.inside
        ),
        unpriced=tuple(tally.unpriced),
        sensitivity=sensitivity(profile, lambda other: _tally(counts, other, memory, cores).dynamic),
        holds=holds,
        literature=literature(counts),
        warnings=(*holds.warnings, *_warnings(counts, profile, latency)),
    )


def _tally(counts: Counts, profile: Profile, memory: MemoryWords | None, cores: CoreCounts | None) -> Tally:
    """All terms but static energy."""
    tally = Tally(counts, profile, cores)
    tally.sop()
    tally.dynamic_products()
    tally.update()
    tally.spikes()
    tally.route()
    tally.memory(memory)
    tally.constant("sync", "barriers", "step_sync", counts.samples * counts.steps)
    tally.host()
    return tally


def render(report: EnergyReport) -> str:
    """Lines for people, per sample, at most two significant digits; that a chip cannot hold the network comes first."""
    first = [f"  {line}" for line in report.holds.warnings]
    lines = [f"{report.title}: {report.banner}", *first]
    per_sample = report.dynamic_per_sample
    if per_sample is None:
        lines.append("  dynamic energy: not priced")
    else:
        lines.append(f"  dynamic energy per sample: {format_interval(per_sample)}, {report.label}")
        lines.append(f"  evidence: {report.evidence}, scope {report.scope}")
    for term in report.terms:
        energy = format_interval(term.energy.scaled(1 / report.samples))
        lines.append(f"    {term.name}: {energy} [{term.evidence}]")
    if (widest := report.sensitivity) is not None:
        without = format_interval(widest.without.scaled(1 / report.samples))
        lines.append(f"  {100 * widest.share:.0f} % of the width is {widest.constant}; were it exact: {without}")
    for share in report.static:
        energy = format_interval(share.energy.scaled(1 / report.samples))
        lines.append(f"  static per sample, {share.name}: {energy} [{share.evidence}]")
    if report.latency is not None:
        lines.append(f"  time per sample: {report.latency.text}")
        if (even := report.latency.even) is not None:
            lines.append(f"  time per sample that no mapping on these chips beats: {format_time(even.value / NS)}")
    lines += [f"  unpriced {item.term}: {item.reason}" for item in report.unpriced]
    lines.append(
        f"  {report.literature.name}: {format_energy(report.literature.energy_pj / report.samples)} per sample"
    )
    lines += [f"  note: {warning}" for warning in report.warnings if warning not in report.holds.warnings]
    return "\n".join(lines)


def _warnings(counts: Counts, profile: Profile, latency: Latency | None) -> tuple[str, ...]:
    notes: list[str] = []
    point = profile.operating_point
    if point is not None:
        notes.append(f"constants were taken on {point.network}; elsewhere they are an extrapolation")
    for record in profile.measurements:
        same = (record.sop_stored, record.neuron_updates) == (counts.sop_stored, counts.neuron_updates)
        if same and profile.policy.scope == "all_dynamic":
            notes.append(f"these are the counts of {record.name}, which the constants were fitted to: no validation")
    if point is not None and point.fan_out and counts.events:
        notes += _off_point("fan-out", counts.sop_stored / counts.events, point.fan_out)
    if point is not None and point.rate_hz and latency is not None and counts.neurons:
        rate = counts.spikes / counts.samples / counts.neurons / latency.seconds.value
        notes += _off_point("firing rate (Hz)", rate, point.rate_hz)
    if counts.sop_graded:
        notes.append(f"{counts.sop_graded} synaptic operations carry graded messages and are priced as spikes")
    return (*notes, *_elsewhere(counts, profile))


def _elsewhere(counts: Counts, profile: Profile) -> list[str]:
    """What the chip leaves to others, so that its price is not one of the whole network."""
    notes = []
    graded = any(row.payload_bits for row in counts.synapses)
    if graded and profile.capabilities.get("graded_message") == "refused":
        notes.append(f"this chip has no graded messages ({profile.capability_reasons['graded_message']})")
    away = Counter(r.ability for r in counts.products if profile.capabilities.get(r.ability) in ("host", "refused"))
    if away:
        kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(away.items()))
        notes.append(f"products of activity do not run on this chip: {kinds}")
    return notes


def _off_point(what: str, found: float, point: float) -> list[str]:
    if point / POINT_FACTOR <= found <= point * POINT_FACTOR:
        return []
    return [f"{what} is {found:.2g}, the constants were taken at {point:g}: this price is not to be trusted"]
