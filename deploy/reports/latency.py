"""Turns counts, or a given time, into the time of a sample and what sets it; a graph into steps of waiting.

A step lasts as long as the slowest of three: the clock of the chip, the busiest core, the busiest link::

    t = max(t_tick, t_barrier + max over cores (n_sop t_sop + n_upd t_upd + n_spk t_spk), max over links n_msg t_msg)

with the mean numbers of a step. Where cores are known (`avsnn.deploy.reports.core_counts`) they are those of the
mapping; without, work is spread evenly over every core of as few chips as hold the neurons, which no mapping beats. It
is a lower bound either way: a mean step is shorter than the mean of steps, waiting in a core or a router costs nothing
here, and what has no published time takes none. Only a chip that works in real time takes just its tick.

That is the time between samples, T steps; the first answer waits for the whole pipeline, `first_answer`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from avsnn.convert.ir.fixed_nodes import Product, Synapse
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Node
from avsnn.deploy.reports.core_counts import CoreCount, CoreCounts
from avsnn.deploy.reports.counts import Counts
from avsnn.deploy.reports.interval import ZERO, Interval, exactly, interval_of, largest
from avsnn.deploy.reports.tally import paid
from avsnn.errors import InputError
from avsnn.hw_profiles.schema import EVIDENCE, Profile

MODES: Mapping[str, str] = {"measured": "measured", "throttled": "assumed", "lower bound": "derived"}
"""How a time is known, and the best evidence that a product with it can have."""
NS = 1e-9


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Seconds per sample, how they are known (one of `MODES`), and the evidence for them.

    ``sets``: what makes a step take so long: "throttle", the name of a core, or of a link; empty for a given time.
    ``per_step``: each of the three, ns; ``unknown``: those of them that nobody has published a time for. ``even``:
    seconds if all cores of the chips in use did an equal share of the work, which no mapping on them beats.
    ``by_sample``: seconds of the sample with the fewest operations, the median one, the one with the most.
    """

    seconds: Interval
    mode: str
    evidence: str
    sets: str = ""
    per_step: Mapping[str, Interval] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    even: Interval | None = None
    by_sample: tuple[Interval, ...] = ()

    @classmethod
    def given(cls, seconds: float, mode: str) -> Latency:
        """A latency that the caller knows.

        Raises:
            InputError: not a positive number, or an unknown mode.
        """
        if not 0 < seconds < math.inf:
            raise InputError("not a time", where="latency_s", found=seconds, limit="positive seconds")
        if mode not in MODES:
            raise InputError("unknown latency mode", where="latency_mode", found=mode, limit=", ".join(MODES))
        return cls(seconds=exactly(seconds), mode=mode, evidence=MODES[mode])

    @property
    def text(self) -> str:
        """Two digits, with the mode and what sets it."""
        sign = "at least " if self.mode == "lower bound" else ""
        return f"{sign}{self.seconds.value * 1e3:.2g} ms ({self.mode}{', set by ' if self.sets else ''}{self.sets})"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "seconds_per_sample": self.seconds.to_json(),
            "mode": self.mode,
            "evidence": self.evidence,
            "sets": self.sets,
            "per_step_ns": {name: each.to_json() for name, each in self.per_step.items()},
            "unknown": list(self.unknown),
            "even_seconds_per_sample": None if self.even is None else self.even.to_json(),
            "seconds_by_sample": [each.to_json() for each in self.by_sample],
        }


def latency_bound(
    counts: Counts, profile: Profile, cores: CoreCounts | None = None, samples: Sequence[CoreCounts] = ()
) -> Latency | None:
    """The time of the module's docstring, None where the profile publishes neither a tick nor times of work.

    Args:
        counts: of a run.
        profile: of the chip.
        cores: what each core did in it.
        samples: the same of single samples, for ``by_sample``.
    """
    found = _parts(counts, profile, cores)
    if not {"throttle", "core"} & set(found):
        return None
    sets, _ = max(found.values(), key=lambda each: each[1].value)
    mode = "throttled" if sets == "throttle" else "lower bound"
    known = [constant.evidence for constant in profile.time_ns.values() if constant.evidence is not None]
    best = known if mode == "throttled" else [*known, MODES[mode]]
    even = None if cores is None else _even(counts, profile, cores.chips)
    seconds = counts.steps * NS
    return Latency(
        seconds=_longest(found).scaled(seconds),
        mode=mode,
        evidence=max(best, key=EVIDENCE.index),
        sets=sets,
        per_step={name: each for name, (_, each) in found.items()},
        unknown=tuple(name for name in ("core", "link") if name not in found),
        even=None if even is None else even[1].scaled(seconds),
        by_sample=tuple(_longest(_parts(counts, profile, each)).scaled(seconds) for each in samples),
    )


def _parts(counts: Counts, profile: Profile, cores: CoreCounts | None) -> dict[str, tuple[str, Interval]]:
    """What each of throttle, core and link takes of a step (ns), with its name, as far as that is known."""
    found: dict[str, tuple[str, Interval]] = {}
    if (tick := _time(profile, "tick")) is not None:
        found["throttle"] = "throttle", tick
    if (busiest := _busiest(counts, profile, cores)) is not None:
        found["core"] = busiest
    link, routes = _time(profile, "link"), None if cores is None else cores.routes
    if link is not None and cores is not None and routes is not None:
        found["link"] = f"link {routes.busiest}", link.scaled(routes.load / (cores.samples * cores.steps))
    return found


def _longest(parts: Mapping[str, tuple[str, Interval]]) -> Interval:
    return largest(each for _, each in parts.values())


@dataclass(frozen=True, kw_only=True)
class _Times:
    """Published ns of the events of a core, and of the barrier at the end of a step."""

    profile: Profile
    sop: Interval
    update: Interval
    spike: Interval
    barrier: Interval

    @classmethod
    def of(cls, profile: Profile) -> _Times | None:
        """None if one is not published.

        Nobody says which neurons a chip counts as active, so where there are two times of an update, idle is the least.
        """
        sop, barrier = _time(profile, "sop"), _time(profile, "barrier")
        update = _time(profile, "neuron_update") or _time(profile, "neuron_inactive")
        if sop is None or barrier is None or update is None:
            return None
        spike = _time(profile, "spike_out") or ZERO
        return cls(profile=profile, sop=sop, update=update, spike=spike, barrier=barrier)

    def took(self, done: CoreCount | Counts, updates: int) -> Interval:
        """Ns of all that one core, or all cores, did."""
        work = paid(self.profile, done.sop_stored, done.sop_nonzero) * self.sop
        return work + self.update.scaled(updates) + self.spike.scaled(done.spikes)


def _busiest(counts: Counts, profile: Profile, cores: CoreCounts | None) -> tuple[str, Interval] | None:
    """Name of the core that takes longest, and ns of a step on it with the barrier; None if no time is published."""
    if cores is None:
        return _even(counts, profile, chips_needed(counts, profile))
    times = _Times.of(profile)
    if times is None:
        return None
    each = [(core.name, times.took(core, core.updates)) for core in cores.cores]
    name, _ = max(each, key=lambda row: row[1].value)
    longest = largest(time for _, time in each)
    return name, times.barrier + longest.scaled(1 / (cores.samples * cores.steps))


def _even(counts: Counts, profile: Profile, chips: int | None) -> tuple[str, Interval] | None:
    """The same if every core of so many chips did an equal share."""
    times, number = _Times.of(profile), cores_of(profile, chips)
    if times is None or number is None:
        return None
    share = times.took(counts, counts.neuron_updates).scaled(1 / (number * counts.samples * counts.steps))
    return f"even split over {number:,} cores, no mapping", times.barrier + share


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Answers per second with samples back to back, one every T steps, and seconds until the first.

    ``at_most``: the time is a lower bound, so that there are at most so many answers and the first comes no earlier.
    """

    per_second: Interval | None
    first_s: Interval | None
    at_most: bool

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "answers_per_second": None if self.per_second is None else self.per_second.to_json(),
            "first_answer_s": None if self.first_s is None else self.first_s.to_json(),
            "bound": self.at_most,
        }


def pace_of(latency: Latency, steps: int, first: FirstAnswer | None) -> Pace:
    """``1 / t`` and, in steps as long as those of ``latency``, the wait for the first answer."""
    wait = None if first is None else latency.seconds.scaled(first.steps / steps)
    return Pace(per_second=latency.seconds.inverse, first_s=wait, at_most=latency.mode == "lower bound")


@dataclass(frozen=True, kw_only=True)
class FirstAnswer:
    """When the first sample is answered, in wall steps after its first input.

    ``steps`` = ``depth`` (delay of the latest output) + T (its window). ``windows``: how many products on one path wait
    for a whole window, T steps each; ``non_causal`` names all that do.
    """

    steps: int
    depth: int
    windows: int
    non_causal: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"non_causal": list(self.non_causal)}


def first_answer(graph: Graph) -> FirstAnswer:
    """Walk a scheduled graph: a synapse takes 1 + delay steps, a product 1 (T if windowed) and what its inputs wait.

    Raises:
        InputError: two paths into one node arrive at different steps.
    """
    arrival: dict[str, int] = {}
    windows: dict[str, int] = {}
    for node in graph.nodes:
        waits = [arrival[name] for name in node.inputs]
        if isinstance(node, Product) and node.delays:
            waits = [wait + delay for wait, delay in zip(waits, node.delays, strict=True)]
        if len(set(waits)) > 1:
            raise InputError("paths arrive at different steps", where=node.name, found=waits)
        arrival[node.name] = max(waits, default=0) + _takes(node, graph.timesteps)
        windowed = isinstance(node, Product) and node.windowed
        windows[node.name] = max((windows[name] for name in node.inputs), default=0) + windowed
    depth = max(arrival[name] for name in graph.outputs)
    return FirstAnswer(
        steps=depth + graph.timesteps,
        depth=depth,
        windows=max(windows[name] for name in graph.outputs),
        non_causal=tuple(node.name for node in graph.of(Product) if node.windowed),
    )


def _takes(node: Node, timesteps: int) -> int:
    """Steps from what arrives at a node to what it sends."""
    match node:
        case Synapse():
            return 1 + node.delay
        case Product():
            return timesteps if node.windowed else 1
        case _:
            return 0


def chips_needed(counts: Counts, profile: Profile) -> int | None:
    """Chips that hold the neurons, at least 1; memory and axons may need more. None without a size."""
    cores = cores_needed(counts, profile)
    per_chip = profile.limits.cores_per_chip
    return None if cores is None or per_chip is None else -(-cores // per_chip)


def cores_needed(counts: Counts, profile: Profile) -> int | None:
    """Cores that hold the neurons, at least 1; memory and axons may need more. None without a size."""
    per_core = profile.limits.neurons_per_core
    return None if per_core is None else max(1, -(-counts.neurons // per_core))


def cores_of(profile: Profile, chips: int | None) -> int | None:
    """Cores of so many chips, None without a size."""
    per_chip = profile.limits.cores_per_chip
    return None if chips is None or per_chip is None else chips * per_chip


def _time(profile: Profile, key: str) -> Interval | None:
    return interval_of(profile.time_ns[key]) if key in profile.time_ns else None
