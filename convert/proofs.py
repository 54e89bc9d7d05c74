"""The comparisons of a conversion: what each stage must share with the one before, as `equivalence.Check` in a log."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from avsnn.convert import equivalence as eq
from avsnn.convert.certificate import Row, with_seen
from avsnn.convert.current_check import check_currents
from avsnn.convert.idle_mistakes import idle_by_core, idle_on
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.activity import Activity
from avsnn.convert.ir.fixed_interpreter import filled, logical, to_integers, wall_clock
from avsnn.convert.ir.fixed_nodes import FixedInput
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.interpreter import interpret
from avsnn.convert.ir.node import Array
from avsnn.convert.layer_controls import with_layer_controls
from avsnn.convert.passes.fold_dead import never_fire
from avsnn.convert.passes.quantise import Scale
from avsnn.convert.proof_data import Inputs, first_samples, random_spikes
from avsnn.errors import VerifyError

CURRENT_SAMPLES = 2  # of each, to compare integer currents with real ones
MAPPED_SAMPLES = 2  # of each, to run core by core; every weight and axon is checked besides, see `mapping_check`

Progress = Callable[[str], None]


@dataclass
class Log:
    """What was proved so far, and how long each step took."""

    progress: Progress
    checks: list[eq.Check] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    left_out: list[dict[str, Any]] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Announce a step and add up its seconds."""
        self.progress(name)
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def compare_module(module: Any, traced: Graph, data: Mapping[str, Inputs], log: Log) -> int:
    """Traced graph against the module itself; returns how many spikes float32 decides differently."""
    from avsnn.convert.tracer import witness

    differing = 0
    for name, inputs in data.items():
        expected = witness(module, inputs, graph=traced)
        single = witness(module, inputs, dtype="float32", graph=traced)
        differing += sum(int((single.spikes[k] != s).sum()) for k, s in expected.spikes.items())
        found = interpret(traced, inputs, force=expected.spikes)
        check = eq.compare("traced = module (float64)", name, expected, found, exact=False)
        log.checks.append(with_layer_controls(check, expected, traced, inputs, expected.spikes))
    return differing


def compare_fold(name: str, before: Graph, after: Graph, data: Mapping[str, Inputs], seed: int, log: Log) -> None:
    """A fold's result against what it was given, on data and driven by random spikes; without what the log says.

    Raises:
        VerifyError: a difference, or a population fires that was said never to.
    """
    silent = [row["population"] for row in log.left_out if row["membrane"] is not None]
    gone = {row["population"] for row in log.left_out if row["left_out"]}

    def run(inputs: Inputs, force: Inputs | None = None) -> Activity:
        done = interpret(before, inputs, force=force)
        for population in silent:
            if done.spikes[population].any():
                raise VerifyError(f"{name}: said never to fire, but it does", where=population)
        return without(eq.in_units_of(done, before, after), gone)

    for kind, inputs in data.items():
        expected = run(inputs)
        _compare_fold(name, kind, after, inputs, expected, expected.spikes, log)
    driven = random_spikes(before, interpret(before, data["generated"]).spikes, seed)
    driven |= {population: np.zeros_like(driven[population]) for population in silent}
    _compare_fold(name, "random spikes", after, data["generated"], run(data["generated"], driven), driven, log)


def left_out(before: Graph, after: Graph) -> list[dict[str, Any]]:
    """What can never fire, with its bound, and what else is not in ``after`` any more, as nothing reads it."""
    rows: list[dict[str, Any]] = [asdict(each) for each in never_fire(before)]
    known = {row["population"] for row in rows}
    unread = [n for n in before.of(ir.LIF) if n.name not in known and n.name not in after.by_name]
    nothing = {"membrane": None, "threshold": None}
    rows += [{"population": n.name, "neurons": math.prod(n.shape), **nothing} for n in unread]
    return [{**row, "left_out": row["population"] not in after.by_name} for row in rows]


def without(run: Activity, populations: Collection[str]) -> Activity:
    """A run but for some populations."""
    return replace(
        run,
        spikes={name: s for name, s in run.spikes.items() if name not in populations},
        states={name: v for name, v in run.states.items() if name not in populations},
    )


def _compare_fold(
    name: str, kind: str, after: Graph, inputs: Inputs, expected: Activity, force: Inputs, log: Log
) -> None:
    """Graph after a fold against ``expected``, what the graph before it does when ``force`` is sent on."""
    found = interpret(after, inputs, force=force)
    check = eq.compare(f"{name} changes nothing", kind, expected, found, exact=False)
    log.checks.append(with_layer_controls(check, expected, after, inputs, force))


def compare_currents(
    folded: Graph, quantised: Graph, scales: tuple[Scale, ...], data: Mapping[str, Inputs], seed: int
) -> int:
    """Integer against real currents, on a few samples of data and on random spikes; returns how many."""
    total = 0
    for name, inputs in data.items():
        few = first_samples(folded, inputs, CURRENT_SAMPLES)
        sent = interpret(folded, few).spikes
        spikes = random_spikes(folded, sent, seed) if name == "generated" else sent
        total += check_currents(folded, quantised, scales, few, spikes)
    return total


def compare_lowered(quantised: Graph, lowered: Graph, data: Mapping[str, Inputs], log: Log) -> None:
    """Products as coincidences of stock neurons: the same spikes and states everywhere else."""
    if lowered is quantised:
        return
    for name, inputs in data.items():
        integers = to_integers(quantised, inputs)
        expected = logical(quantised, integers)

        def run(graph: Graph, integers: Inputs = integers) -> Activity:
            return logical(graph, integers)

        found = run(lowered)
        check = eq.compare("attention in stock neurons = quantised", name, expected, found, exact=True)
        spoiled = eq.negated_row(lowered) | eq.hasty_coincidences(lowered)
        log.checks.append(eq.with_controls(check, expected, run, spoiled, idle_on(lowered, integers, found)))


def compare_schedule(
    quantised: Graph, scheduled: Graph, data: Mapping[str, Inputs], certificate: tuple[Row, ...], log: Log
) -> tuple[tuple[Row, ...], dict[str, Array], dict[str, Array]]:
    """Wall-clock against logical time, samples back to back.

    Returns the certificate with what was seen, what inputs and populations sent on calibration data in logical time,
    and which samples of each kind of data are the liveliest.
    """
    sent: dict[str, Array] = {}
    liveliest: dict[str, Array] = {}
    for name, inputs in data.items():
        integers = to_integers(quantised, inputs)
        expected = logical(quantised, integers)
        certificate = with_seen(certificate, quantised, integers, expected)

        def run(graph: Graph, integers: Inputs = integers) -> Activity:
            return wall_clock(graph, integers)

        found = run(scheduled)
        liveliest[name] = eq.liveliest(expected, MAPPED_SAMPLES)
        if name == "calibration":
            sent = {n.name: filled(n, integers[n.name], quantised.timesteps) for n in quantised.of(FixedInput)}
            sent |= found.spikes
        check = eq.compare("scheduled = quantised", name, expected, found, exact=True)
        spoiled = eq.negated_row(scheduled) | (eq.shifted_time(scheduled) if name == "calibration" else {})
        log.checks.append(eq.with_controls(check, expected, run, spoiled, idle_on(scheduled, integers, found)))
    return certificate, sent, liveliest


def compare_mapped(
    quantised: Graph,
    scheduled: Graph,
    mapped: Graph,
    data: Mapping[str, Inputs],
    liveliest: Mapping[str, Array],
    log: Log,
) -> None:
    """Core by core, in wall-clock time, against logical time, on the samples that ``liveliest`` names."""
    codings = {node.name: node.coding for node in mapped.of(FixedInput)}
    for name, inputs in data.items():
        index = liveliest[name]  # so few of all samples may be silent
        few = {n: inputs[n][index] if c == "direct" else inputs[n][:, index] for n, c in codings.items()}
        integers = to_integers(mapped, few)
        expected = logical(quantised, integers)

        def run(graph: Graph, integers: Inputs = integers) -> Activity:
            return wall_clock(graph, integers)

        found = run(mapped)
        check = eq.compare("mapped = scheduled", name, expected, found, exact=True)
        idle = idle_by_core(scheduled, integers, found)
        log.checks.append(eq.with_controls(check, expected, run, eq.misplaced(mapped), idle))


def check_record(check: eq.Check) -> dict[str, Any]:
    """What a bundle remembers of a comparison."""
    return {
        "name": check.name,
        "data": check.data,
        "samples": check.samples,
        "compared": check.compared,
        "mismatches": 0,
        "ties": sum(p.ties for p in check.populations),
        "silent": list(check.silent),
        "controls_noticed": list(check.controls),
        "controls_planted": check.planted,
        "controls_idle": list(check.idle),
        "populations": {p.name: {"compared": p.spikes + p.states, "rate": p.rate} for p in check.populations},
    }
