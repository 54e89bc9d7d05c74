"""A scheduled graph and a profile to the answer whether the one fits the other: cores and chips, or what does not fit.

The answer names what no published number could check. A graph that was quantised for another chip is judged as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from avsnn.convert.core_demand import width
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.graph import Graph
from avsnn.convert.passes.map_cores import Mapping, map_cores
from avsnn.deploy.capability import REFUSED, answers, wide_messages
from avsnn.deploy.reports.cores import utilisation
from avsnn.errors import AvsnnError, CapabilityError
from avsnn.hw_profiles.profile import Constant, Profile

FITS, DOES_NOT, NO_CORES = "fits", "does not fit", "no cores"
"""Verdicts. "no cores": the profile describes no chip, so everything fits it."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The answer of one profile.

    Attributes:
        profile: its name.
        verdict: one of the three above.
        mapping: of what fits a chip.
        mapped: its graph on cores, not placed.
        most_cores: if limits are as low, and sizes as large, as their intervals allow; None: it then does not fit.
        refusal: of what does not: layer (``where``), ``what``, number ``found``, ``limit``, ``remedy``.
        not_checked: what nobody has published.
    """

    profile: str
    verdict: str
    mapping: Mapping | None = None
    mapped: Graph | None = field(default=None, repr=False, compare=False)
    most_cores: int | None = None
    refusal: AvsnnError | None = None
    not_checked: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        found: dict[str, Any] = {"profile": self.profile, "verdict": self.verdict, "not_checked": [*self.not_checked]}
        if self.mapping is not None:
            found |= {"cores": len(self.mapping.cores), "chips": self.mapping.chips, "cores_at_most": self.most_cores}
            found |= {"utilisation": utilisation(asdict(self.mapping)), "elsewhere": [*self.mapping.elsewhere]}
            found["products"] = [asdict(product) for product in self.mapping.products]
        if (error := self.refusal) is not None:
            values = {"where": error.where, "what": error.what, "found": error.found, "limit": error.limit}
            found["refusal"] = {key: _plain(value) for key, value in values.items()} | {"remedy": error.remedy}
        return found


def fit(graph: Graph, profile: Profile, *, chips: int | None = None) -> Fit:
    """Judge a scheduled graph; ``chips``: as many as there are, None for any number."""
    found = judge(graph, profile)
    if found.mapping is None:
        return found
    found = replace(found, most_cores=_most_cores(graph, profile))
    if chips is not None and found.mapping is not None and found.mapping.chips > chips:
        return replace(found, verdict=DOES_NOT, refusal=_too_many(found.mapping, profile, chips))
    return found


def judge(graph: Graph, profile: Profile) -> Fit:
    """The same for any number of chips, by the values of the profile alone: half the work."""
    if (found := refused(graph, profile)) is not None:
        return found
    if profile.limits.cores_per_chip is None:
        return Fit(profile=profile.id, verdict=NO_CORES)
    unknown = _unsaid(graph, profile)
    try:
        mapped, mapping = map_cores(graph, profile)
    except CapabilityError as error:
        return Fit(profile=profile.id, verdict=DOES_NOT, refusal=error, not_checked=unknown)
    unknown = (*mapping.not_checked, *unknown)
    return Fit(profile=profile.id, verdict=FITS, mapping=mapping, mapped=mapped, not_checked=unknown)


def refused(graph: Graph, profile: Profile) -> Fit | None:
    """The answer where abilities or formats rule the network out, however it is cut; else None."""
    error = next(_refusals(graph, profile), None)
    if error is None:
        return None
    return Fit(profile=profile.id, verdict=DOES_NOT, refusal=error, not_checked=_unsaid(graph, profile))


def _unsaid(graph: Graph, profile: Profile) -> tuple[str, ...]:
    """Abilities that the network needs and the profile does not mention."""
    kinds = {a.kind for a in answers(graph, profile) if a.kind not in profile.capabilities}
    return tuple(f"ability {kind}" for kind in sorted(kinds))


def cautious(profile: Profile) -> Profile:
    """The chip with the lowest limits and the largest sizes in memory that the intervals of its numbers allow."""
    lowest: dict[str, Any] = {
        name: int(constant.lo)
        for name, constant in profile.limits.evidence.items()
        if constant.lo is not None and constant.value is not None and constant.lo < constant.value
    }
    limits, storage = replace(profile.limits, **lowest), profile.storage
    if storage is not None:
        sizes = {key: c for key, c in vars(storage).items() if isinstance(c, Constant) and c.hi is not None}
        largest: dict[str, Any] = {key: replace(c, value=c.hi) for key, c in sizes.items() if key != "word_bits"}
        storage = replace(storage, **largest)
    return replace(profile, limits=limits, storage=storage)


def _most_cores(graph: Graph, profile: Profile) -> int | None:
    try:
        return len(map_cores(graph, cautious(profile))[1].cores)
    except CapabilityError:
        return None


def _too_many(mapping: Mapping, profile: Profile, chips: int) -> CapabilityError:
    """More chips than there are; the layer that takes the most cores is where something can be gained."""
    number: dict[str, int] = {}
    for core in mapping.cores:
        number[core.population] = number.get(core.population, 0) + 1
    largest = max(number, key=lambda name: number[name])
    room = chips * (profile.limits.cores_per_chip or 0)
    return CapabilityError(
        f"takes {number[largest]} of {len(mapping.cores)} cores, more than there are", where=largest,
        found=f"{mapping.chips} chips", limit=f"{chips} ({room} cores)",
        remedy=f"save {len(mapping.cores) - room} cores: fewer channels or a larger stride there, or more chips",
    )  # fmt: skip


def _refusals(graph: Graph, profile: Profile) -> Iterator[AvsnnError]:
    """What the profile refuses, and integers that its formats do not hold, in the order of the graph."""
    for answer in answers(graph, profile):
        if profile.capabilities.get(answer.kind) == REFUSED:
            what = f"the chip cannot do this ({answer.kind}: {answer.reason})"
            yield CapabilityError(what, where=answer.node, remedy="leave it out, or run it on the host")
    yield from wide_messages(graph, profile)
    for node in graph:
        if isinstance(node, fixed.Synapse):
            remedy = f"convert for {profile.id}, or with fewer weight bits"
            yield from _above(node.name, "weights are too wide", width(node), "weight_bits", profile, remedy)
            yield from _above(
                node.name, "weight exponent too large", max(node.exponents), "weight_exp_max", profile, remedy
            )
            own = node.output_delay if isinstance(node, fixed.FixedLinear) else None
            steps = node.delay + (0 if own is None else int(np.max(own)))
            remedy = f"convert for {profile.id}: relays then pass on what waits longer"
            yield from _above(node.name, "waits longer than a synapse can", steps, "delay_steps_max", profile, remedy)
        elif isinstance(node, fixed.FixedLIF):
            bits, remedy = int(np.max(node.threshold_mant)).bit_length(), f"convert for {profile.id}"
            yield from _above(node.name, "threshold is too wide (bits)", bits, "threshold_bits", profile, remedy)
            yield from _above(node.name, "state is too wide (bits)", node.state_bits, "state_bits", profile, remedy)


def _above(where: str, what: str, found: int, name: str, profile: Profile, remedy: str) -> Iterator[AvsnnError]:
    limit = getattr(profile.limits, name)
    if limit is not None and found > limit:
        yield CapabilityError(what, where=where, found=found, limit=f"{limit} ({name})", remedy=remedy)


def _plain(value: object) -> object:
    return value if value is None or isinstance(value, int | float | str) else str(value)
