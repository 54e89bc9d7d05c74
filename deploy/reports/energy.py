"""Turns operation counts and a hardware profile into an energy estimate: intervals, evidence, and what has no price.

``E = sum over terms of count * constant``; each constant is an interval, sums add corners. Terms are those of
`avsnn.hw_profiles.schema.TERMS`. What a constant already holds (its scope) cannot be added again; what has no published
constant is listed as unpriced and never taken as zero. Dynamic energy (per event) and static energy (power x time) are
never mixed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from avsnn.deploy.reports.counts import Counts
from avsnn.deploy.reports.interval import ZERO, Interval, format_energy, format_interval
from avsnn.deploy.reports.latency import Latency, StaticShare, latency_bound, static_shares, why_no_static
from avsnn.deploy.reports.tally import MemoryWords, Tally, Term, Unpriced
from avsnn.errors import InputError, ProfileError
from avsnn.hw_profiles.schema import EVIDENCE, TERMS, Profile

__all__ = ["BANNER", "EnergyReport", "Literature", "MemoryWords", "Term", "Unpriced", "price", "render"]

BANNER = "estimate from declared constants, not a measurement"
MAIN_SHARE = 0.05  # a term below this share of the sum does not decide how well the sum is known
POINT_FACTOR = 2.0  # beyond this ratio to the operating point an all-in constant says nothing


@dataclass(frozen=True, kw_only=True)
class Literature:
    """The figure that papers print: ``ac * sop_stored + mac * host_macs``, pJ. Never the headline."""

    name: str
    energy_pj: float


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
    unpriced: tuple[Unpriced, ...]
    literature: Literature | None
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
        if not any(term.term == "sop" for term in self.terms):
            return None
        return sum((term.energy for term in self.terms), ZERO)

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
            "unpriced": [asdict(item) for item in self.unpriced],
            "literature": None if self.literature is None else asdict(self.literature),
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
) -> EnergyReport:
    """Price counts with the constants of a profile.

    ``latency_s`` is the time of one sample and ``latency_mode`` says how it is known; without it a lower bound is
    computed where the profile has times, and static energy is a lower bound too. ``cores_used`` prorates static power.

    Raises:
        InputError: no samples, or a latency or core count that is not positive.
    """
    if counts.samples < 1 or counts.steps < 1:
        raise InputError("nothing was counted", where="price", found=(counts.samples, counts.steps))
    latency = Latency.given(latency_s, latency_mode) if latency_s is not None else latency_bound(counts, profile)
    tally = Tally(counts, profile)
    tally.sop()
    tally.dynamic()
    tally.update()
    tally.constant("spike", "spikes sent", "spike_out", counts.spikes)
    tally.route()
    tally.memory(memory)
    tally.constant("sync", "barriers", "step_sync", counts.samples * counts.steps)
    tally.host()
    static = static_shares(counts, profile, latency, cores_used)
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
        unpriced=tuple(tally.unpriced),
        literature=_literature(counts, profile),
        warnings=_warnings(counts, profile, latency),
    )


def render(report: EnergyReport) -> str:
    """Lines for people, per sample, at most two significant digits."""
    lines = [f"{report.title}: {report.banner}"]
    per_sample = report.dynamic_per_sample
    if per_sample is None:
        lines.append("  dynamic energy: not priced")
    else:
        lines.append(f"  dynamic energy per sample: {format_interval(per_sample)}, {report.label}")
        lines.append(f"  evidence: {report.evidence}, scope {report.scope}")
    for term in report.terms:
        energy = format_interval(term.energy.scaled(1 / report.samples))
        lines.append(f"    {term.name}: {energy} [{term.evidence}]")
    for share in report.static:
        energy = format_interval(share.energy.scaled(1 / report.samples))
        lines.append(f"  static per sample, {share.name}: {energy} [{share.evidence}]")
    if report.latency is not None:
        lines.append(f"  time per sample: {report.latency.text}")
    lines += [f"  unpriced {item.term}: {item.reason}" for item in report.unpriced]
    if report.literature is not None:
        lines.append(
            f"  {report.literature.name}: {format_energy(report.literature.energy_pj / report.samples)} per sample"
        )
    lines += [f"  note: {warning}" for warning in report.warnings]
    return "\n".join(lines)


def _literature(counts: Counts, profile: Profile) -> Literature | None:
    """Accumulates at one price, products of the dense first layer at another: the papers' convention."""
    ac, mac = profile.literature.get("ac"), profile.literature.get("mac")
    if ac is None or mac is None or ac.value is None or mac.value is None:
        return None
    return Literature(
        name=f"literature convention ({ac.value:g} pJ per accumulate, {mac.value:g} pJ per first-layer product; "
        "no memory, neurons, routing)",
        energy_pj=ac.value * counts.sop_stored + mac.value * counts.host_macs,
    )


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
