"""Turns counts, or a given time, into the latency of a sample and its static energy; a graph into steps of waiting.

Without a placement only a lower bound is known: work spread perfectly evenly over every core of as few chips as hold
the neurons, ``t = T t_barrier + (n_sop t_sop + n_upd t_upd) / cores``. The busiest core of a real mapping takes longer.
That is the time between samples; the first answer waits for the whole pipeline, `first_answer`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from avsnn.convert.ir.fixed_nodes import Product, Synapse
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Node
from avsnn.deploy.reports.counts import Counts
from avsnn.deploy.reports.interval import Interval, exactly, interval_of
from avsnn.errors import InputError
from avsnn.hw_profiles.schema import EVIDENCE, Constant, Profile

MODES: Mapping[str, str] = {"measured": "measured", "throttled": "assumed", "lower bound": "derived"}
"""How a time is known, and the best evidence that a product with it can have."""
PJ_PER_MW_S = 1e9  # 1 mW s = 1 mJ


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Seconds per sample, how they are known (one of `MODES`), and the evidence for them."""

    seconds: Interval
    mode: str
    evidence: str

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
        """Two digits, with the mode."""
        sign = "at least " if self.mode == "lower bound" else ""
        return f"{sign}{self.seconds.value * 1e3:.2g} ms ({self.mode})"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"seconds_per_sample": self.seconds.to_json(), "mode": self.mode, "evidence": self.evidence}


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


@dataclass(frozen=True, kw_only=True)
class StaticShare:
    """Static power times time, pJ over all samples; alternatives of one another, not to be added up."""

    name: str
    energy: Interval
    evidence: str
    lower_bound: bool

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.name,
            "energy": self.energy.to_json(),
            "evidence": self.evidence,
            "lower_bound": self.lower_bound,
        }


def latency_bound(counts: Counts, profile: Profile) -> Latency | None:
    """The lower bound of the module's docstring, None where the profile lacks a time or the size of a chip."""
    cores_per_chip, chips = profile.limits.cores_per_chip, chips_needed(counts, profile)
    sop, barrier = _time(profile.time_ns, "sop"), _time(profile.time_ns, "barrier")
    update = _time(profile.time_ns, "neuron_update") or _time(profile.time_ns, "neuron_inactive")
    if cores_per_chip is None or chips is None or sop is None or barrier is None or update is None:
        return None
    work = sop.scaled(counts.sop_nonzero) + update.scaled(counts.neuron_updates)
    per_sample = work.scaled(1 / (counts.samples * cores_per_chip * chips))
    seconds = (per_sample + barrier.scaled(counts.steps)).scaled(1e-9)
    used = [constant.evidence or EVIDENCE[-1] for constant in profile.time_ns.values()]
    return Latency(seconds=seconds, mode="lower bound", evidence=max(*used, MODES["lower bound"], key=EVIDENCE.index))


def chips_needed(counts: Counts, profile: Profile) -> int | None:
    """Chips that hold the neurons, at least 1; memory and axons may need more. None without a size."""
    cores = cores_needed(counts, profile)
    per_chip = profile.limits.cores_per_chip
    return None if cores is None or per_chip is None else -(-cores // per_chip)


def cores_needed(counts: Counts, profile: Profile) -> int | None:
    """Cores that hold the neurons, at least 1; memory and axons may need more. None without a size."""
    per_core = profile.limits.neurons_per_core
    return None if per_core is None else max(1, -(-counts.neurons // per_core))


def static_shares(
    counts: Counts, profile: Profile, latency: Latency | None, cores_used: int | None
) -> tuple[StaticShare, ...]:
    """Static energy of whole chips and of the cores alone, and of processors kept awake; empty where unknown.

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
    chips, at_least = -(-needed // per_chip), "" if cores_used is not None else "at least "
    bound, evidence = latency.mode == "lower bound" or cores_used is None, _weakest(power, latency)
    shares = [(f"{at_least}{chips} whole chip(s)", spent.scaled(chips), evidence)]
    shares += [(f"{at_least}{needed} of {per_chip * chips} cores", spent.scaled(needed / per_chip), evidence)]
    awake = profile.power_mw.get("host_awake")
    processors = None if awake is None else interval_of(awake)
    if awake is not None and processors is not None:
        energy = (processors * latency.seconds).scaled(PJ_PER_MW_S * counts.samples * chips)
        shares += [("embedded processors awake", energy, _weakest(awake, latency))]
    return tuple(StaticShare(name=n, energy=e, evidence=c, lower_bound=bound) for n, e, c in shares)


def why_no_static(profile: Profile, latency: Latency | None) -> str:
    """The reason that `static_shares` is empty."""
    power = profile.power_mw.get("static_chip")
    if power is None or power.value is None:
        return "the profile has no static power"
    return "no latency is known" if latency is None else "the size of a chip is not known"


def _weakest(power: Constant, latency: Latency) -> str:
    return max(power.evidence or EVIDENCE[-1], latency.evidence, key=EVIDENCE.index)


def _time(table: Mapping[str, Constant], key: str) -> Interval | None:
    return interval_of(table[key]) if key in table else None
