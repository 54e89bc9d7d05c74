"""Turns power, time and the chips that a network takes into static energy and energy-delay products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from avsnn.deploy.reports.counts import Counts
from avsnn.deploy.reports.interval import Interval, interval_of
from avsnn.deploy.reports.latency import Latency, Pace, cores_needed
from avsnn.errors import InputError
from avsnn.hw_profiles.schema import EVIDENCE, Constant, Profile

PJ_PER_MW_S = 1e9  # 1 mW s = 1 mJ
J_PER_PJ = 1e-12


@dataclass(frozen=True, kw_only=True)
class StaticShare:
    """Static power times time, pJ over all samples.

    ``kind``: "chips" (whole ones), "cores" (their share of them, instead of it), "processors" (beside either).
    """

    kind: str
    name: str
    energy: Interval
    evidence: str
    lower_bound: bool

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "kind": self.kind,
            "name": self.name,
            "energy": self.energy.to_json(),
            "evidence": self.evidence,
            "lower_bound": self.lower_bound,
        }


def static_shares(
    counts: Counts, profile: Profile, latency: Latency | None, cores_used: int | None, *, at_least: bool = False
) -> tuple[StaticShare, ...]:
    """Static energy of whole chips and of the cores alone, and of processors kept awake; empty where unknown.

    Args:
        counts: of a run.
        profile: of the chip.
        latency: time of a sample.
        cores_used: by the network; None: at least those that hold its neurons.
        at_least: a mapping may take more cores than ``cores_used``.

    Raises:
        InputError: ``cores_used`` is not positive.
    """
    if cores_used is not None and cores_used < 1:
        raise InputError("not a number of cores", where="cores_used", found=cores_used, limit="at least 1")
    power, per_chip = profile.power_mw.get("static_chip"), profile.limits.cores_per_chip
    chip = None if power is None else interval_of(power)
    needed = cores_needed(counts, profile) if cores_used is None else cores_used
    if power is None or chip is None or latency is None or per_chip is None or needed is None:
        return ()
    spent = (chip * latency.seconds).scaled(PJ_PER_MW_S * counts.samples)
    chips, at_least = -(-needed // per_chip), at_least or cores_used is None
    bound, evidence = latency.mode == "lower bound" or at_least, _weakest(power, latency)
    sign = "at least " if at_least else ""
    shares = [("chips", f"{sign}{chips} whole chip{'s' if chips > 1 else ''}", spent.scaled(chips), evidence)]
    cores = f"{sign}{needed:,} of {per_chip * chips:,} cores"
    shares += [("cores", cores, spent.scaled(needed / per_chip), evidence)]
    awake = profile.power_mw.get("host_awake")
    processors = None if awake is None else interval_of(awake)
    if awake is not None and processors is not None:
        energy = (processors * latency.seconds).scaled(PJ_PER_MW_S * counts.samples * chips)
        shares += [("processors", "embedded processors awake", energy, _weakest(awake, latency))]
    return tuple(StaticShare(kind=k, name=n, energy=e, evidence=c, lower_bound=bound) for k, n, e, c in shares)


@dataclass(frozen=True, kw_only=True)
class EnergyDelay:
    """Energy of a sample times the time that an answer takes, J s. ``lower_bound``: as the time is one."""

    energy: str
    delay: str
    joule_seconds: Interval
    lower_bound: bool

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "energy": self.energy,
            "delay": self.delay,
            "joule_seconds": self.joule_seconds.to_json(),
            "lower_bound": self.lower_bound,
        }


def energy_delays(
    dynamic: Interval | None,
    shares: tuple[StaticShare, ...],
    pace: Pace | None,
    latency: Latency | None,
    samples: int,
    *,
    all_in: bool = False,
) -> tuple[EnergyDelay, ...]:
    """Of dynamic energy alone, and with the static energy of whole chips; ``dynamic`` is of all samples.

    The delay is that of the first answer where it is known, else the time between answers. ``all_in``: prices of events
    hold the static energy, so there is one product, of both.
    """
    if dynamic is None or latency is None:
        return ()
    first = None if pace is None else pace.first_s
    delay, seconds = ("time between answers", latency.seconds) if first is None else ("first answer", first)
    kinds = [("dynamic and static" if all_in else "dynamic", dynamic, latency.mode == "lower bound")]
    kinds += [("dynamic and whole chips", dynamic + s.energy, s.lower_bound) for s in shares if s.kind == "chips"]
    return tuple(
        EnergyDelay(energy=name, delay=delay, joule_seconds=(e * seconds).scaled(J_PER_PJ / samples), lower_bound=bound)
        for name, e, bound in kinds
    )


def why_no_static(profile: Profile, latency: Latency | None) -> str:
    """The reason that `static_shares` is empty."""
    power = profile.power_mw.get("static_chip")
    if power is None or power.value is None:
        return "no static power is published" + (f": {power.note}" if power is not None and power.note else "")
    return "no latency is known" if latency is None else "the size of a chip is not known"


def _weakest(power: Constant, latency: Latency) -> str:
    return max(power.evidence or EVIDENCE[-1], latency.evidence, key=EVIDENCE.index)
