"""Turns counts, and the judgement of `avsnn.deploy.fit` where there is one, into whether a chip holds the network.

A price of a network that the chip cannot hold says what its operations would cost, not what the chip would do; so this
comes first in every output.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from avsnn.deploy.fit import DOES_NOT, FITS, NO_CORES, Fit
from avsnn.deploy.reports.core_counts import CoreCounts
from avsnn.deploy.reports.counts import Counts
from avsnn.deploy.reports.latency import chips_needed
from avsnn.errors import AvsnnError
from avsnn.hw_profiles.schema import Profile

UNKNOWN = "not known"
"""Verdict where nobody has cut the network for this chip, and its neurons and weights do not rule it out."""


@dataclass(frozen=True, kw_only=True)
class Holding:
    """Whether one chip type holds a network.

    Attributes:
        verdict: "fits", "does not fit", "no cores" (there is no chip to fit), "not known".
        cores: that a mapping takes.
        chips: that a mapping takes; without one at least so many; None if no size is known.
        at_least: no mapping was made, or one that could not check how full memories are.
        reasons: why it does not fit, and that one chip is not enough.
        brief: the first of them in a few words, "weight_bits: 8 > 3".
    """

    verdict: str
    cores: int | None
    chips: int | None
    at_least: bool
    reasons: tuple[str, ...]
    brief: str = ""

    @property
    def text(self) -> str:
        """A few words for a table."""
        match self.verdict:
            case "fits":
                sizes = f"{self.cores:,} core{_s(self.cores)}, {self.chips:,} chip{_s(self.chips)}"
                return f"at least {sizes}" if self.at_least else sizes
            case "does not fit":
                return f"no, {self.brief}" if self.brief else "no"
            case "no cores":
                return "no chip"
            case _:
                return "not known" if (self.chips or 1) == 1 else f"at least {self.chips:,} chips"

    @property
    def warnings(self) -> tuple[str, ...]:
        """The line that comes before all others; empty where one chip holds the network, or may."""
        if not self.reasons:
            return ()
        start = "cannot hold this network as it is" if self.verdict == DOES_NOT else "one chip cannot hold this network"
        return (f"{start}: {'; '.join(self.reasons)}",)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"reasons": list(self.reasons), "text": self.text}


def holding(
    counts: Counts,
    profile: Profile,
    fit: Fit | None = None,
    *,
    cores: CoreCounts | None = None,
    weight_bits: int | None = None,
) -> Holding:
    """Judge by the ``cores`` that hold it, or by ``fit``; else by numbers of neurons, of weights and of their bits."""
    if _no_chip(profile):
        return Holding(verdict=NO_CORES, cores=None, chips=None, at_least=False, reasons=())
    sizes, chips = tuple(_sizes(counts, profile)), chips_needed(counts, profile)
    if cores is not None:
        return _held(len(cores.cores), cores.chips, sizes, vague=False)
    if fit is not None and fit.refusal is not None:
        error = fit.refusal
        found = "" if error.found is None else f", found {error.found}"
        limit = "" if error.limit is None else f", limit {error.limit}"
        reasons = (f"{error.where}: {error.what}{found}{limit}", *sizes)
        return Holding(
            verdict=DOES_NOT,
            cores=None,
            chips=chips,
            at_least=True,
            reasons=reasons,
            brief=_brief(error, counts, profile),
        )
    if fit is None or fit.mapping is None or profile.limits.neurons_per_core is None:
        wide = tuple(_width(profile, weight_bits))
        verdict = DOES_NOT if wide else UNKNOWN
        brief = f"weight_bits: {weight_bits} > {profile.limits.weight_bits}" if wide else ""
        return Holding(verdict=verdict, cores=None, chips=chips, at_least=True, reasons=(*wide, *sizes), brief=brief)
    return _held(len(fit.mapping.cores), fit.mapping.chips, sizes, vague=profile.storage is None)


def _held(cores: int, chips: int, sizes: tuple[str, ...], *, vague: bool) -> Holding:
    many = () if chips == 1 else (f"its {cores:,} cores take {chips:,} chips",)
    return Holding(verdict=FITS, cores=cores, chips=chips, at_least=vague, reasons=(*many, *sizes))


def _brief(error: AvsnnError, counts: Counts, profile: Profile) -> str:
    """The limit that was met, or the ability that is missing; errors name either in brackets. And neurons, if many."""
    ability = re.search(r"\((\w+): ", error.what)
    first = f"{ability[1]} refused" if ability else error.what
    if limit := re.fullmatch(r"(.*) \((\w+)\)", str(error.limit)):
        first = f"{limit[2]}: {error.found} > {limit[1]}"
    room = _room(profile)
    return first if room is None or counts.neurons <= room else f"{first}; neurons: {counts.neurons:,} > {room:,}"


def _s(number: int | None) -> str:
    return "" if number == 1 else "s"


def _no_chip(profile: Profile) -> bool:
    """Whether the profile describes nothing that could be full."""
    limits = profile.limits
    return limits.cores_per_chip is None and limits.neurons_per_core is None and not limits.unknown


def _sizes(counts: Counts, profile: Profile) -> Iterator[str]:
    limits, room = profile.limits, _room(profile)
    if room is not None and counts.neurons > room:
        yield f"{counts.neurons:,} neurons, {room:,} on a chip"
    weights = sum(row.weights for row in counts.synapses)
    if limits.synapses_per_chip is not None and weights > limits.synapses_per_chip:
        yield f"{weights:,} weights, {limits.synapses_per_chip:,} on a chip"


def _room(profile: Profile) -> int | None:
    """Neurons of a chip."""
    each, cores = profile.limits.neurons_per_core, profile.limits.cores_per_chip
    return None if each is None or cores is None else each * cores


def _width(profile: Profile, weight_bits: int | None) -> Iterator[str]:
    limit = profile.limits.weight_bits
    if weight_bits is not None and limit is not None and weight_bits > limit:
        yield f"weights of {weight_bits} bits, the chip stores {limit}"
