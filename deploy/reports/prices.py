"""A run on every profile: is it held, by which cores, what did each of them do, and what does that cost?

The target has its mapping from the conversion. The same integers are cut anew over the cores of every other chip whose
sizes are known, and placed for this run where its mesh is.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields

from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array
from avsnn.convert.passes.place_cores import place_cores
from avsnn.deploy.fit import Fit, judge, refused
from avsnn.deploy.reports.core_counts import CoreCounts, core_counts, messages_sent
from avsnn.deploy.reports.counts import Counts
from avsnn.deploy.reports.energy import EnergyReport, price
from avsnn.deploy.reports.latency import cores_needed, first_answer
from avsnn.deploy.reports.tally import MemoryWords
from avsnn.hw_profiles.schema import Limits, Profile

CUT_AT_MOST = 512
"""Cores of a chip whose sizes of memory nobody published: more take long to find, and are a lower bound at best."""


BESIDE = ("unknown", "evidence")
"""Fields of `Limits` that are no limits."""


@dataclass(frozen=True, kw_only=True)
class Prices:
    """One report per profile, and what cores did on each chip whose cores are known."""

    energy: tuple[EnergyReport, ...]
    cores: Mapping[str, CoreCounts] = field(default_factory=dict)


def prices(
    graph: Graph,
    counts: Counts,
    activity: Mapping[str, Array],
    profiles: Sequence[Profile],
    *,
    words: MemoryWords,
    mapped: tuple[str, Graph] | None = None,
) -> Prices:
    """Price a run on each profile.

    Args:
        graph: stage ``scheduled``.
        counts: of the run.
        activity: inputs and spikes that ``counts`` were made of.
        profiles: what to price with.
        words: widths of what is stored.
        mapped: name of the target and its mapped graph, if it fits.
    """
    sent, first = messages_sent(graph, activity), first_answer(graph)
    singles = [messages_sent(graph, part) for part in _samples(graph, counts, activity)]
    found: dict[Hashable, tuple[Fit | None, Graph | None]] = {}
    reports, cores = [], {}
    for profile in profiles:
        judged: Fit | None = None
        on: Graph | None = None
        if mapped is not None and mapped[0] == profile.id:
            on = mapped[1]
        else:
            if (alike := _shape(profile)) not in found:
                judged = _judged(graph, counts, profile)
                found[alike] = judged, _placed(judged, profile, sent)
            judged, on = found[alike]
        done, alone = None, list[CoreCounts]()
        if on is not None:
            done = core_counts(on, sent, profile, samples=counts.samples, steps=counts.steps)
            alone = [core_counts(on, each, profile, samples=1, steps=counts.steps) for each in singles]
            cores[profile.id] = done
        reports.append(price(counts, profile, memory=words, cores=done, samples=alone, fit=judged, first=first))
    return Prices(energy=tuple(reports), cores=cores)


def _samples(graph: Graph, counts: Counts, activity: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
    """Activity of the sample with the fewest operations, of the median one, and of that with the most; none of one."""
    order = sorted(range(counts.samples), key=counts.sop_by_sample.__getitem__)
    for k in (order[0], order[(len(order) - 1) // 2], order[-1]) if len(order) > 1 else ():
        part = {}
        for name, array in activity.items():
            direct = array.ndim == 1 + len(graph[name].shape)
            part[name] = array[k : k + 1] if direct else array[:, k : k + 1]
        yield part


def _shape(profile: Profile) -> Hashable:
    """What a mapping depends on: two sets of prices for one chip share it."""
    limits = tuple(getattr(profile.limits, field.name) for field in fields(Limits) if field.name not in BESIDE)
    held = () if profile.storage is None else tuple(getattr(c, "value", c) for c in vars(profile.storage).values())
    mesh = () if profile.mesh is None else (profile.mesh.tiles_x, profile.mesh.tiles_y, profile.mesh.cores_per_tile)
    return limits, held, mesh, tuple(sorted(profile.capabilities.items()))


def _judged(graph: Graph, counts: Counts, profile: Profile) -> Fit | None:
    """Whether the chip holds the network; None where neither its integers rule that out, nor cutting it would tell."""
    needed = cores_needed(counts, profile)
    if profile.storage is None and needed is not None and needed > CUT_AT_MOST:
        return refused(graph, profile)
    return judge(graph, profile)


def _placed(judged: Fit | None, profile: Profile, sent: Mapping[str, Array]) -> Graph | None:
    """The mapped graph in places for this run; None where sizes of memory or places are not known."""
    if judged is None or judged.mapped is None or profile.storage is None or profile.mesh is None:
        return None
    return place_cores(judged.mapped, profile, sent)[0]
