"""The compiler, top to bottom: a module or checkpoint to a bundle, each step proved before the next begins.

========== ===================================== =============================================================
stage      made by                               proved by
========== ===================================== =============================================================
traced     tracer                                spikes and answers of the module itself in float64
folded     the FOLDS below, one after another    spikes and answers of the graph before, after every pass
quantised  quantise                              every integer within half a step and its format; currents against
                                                 the folded graph's; neurons against exact fractions
scheduled  schedule                              every spike, state and answer of ``quantised``, in wall-clock; all
                                                 that meets arrives together, also where nothing fires
========== ===================================== =============================================================

Comparisons run on calibration data and on generated inputs; the folds also on populations driven by random spikes,
which reaches those that data leaves silent. Each carries planted mistakes that must be noticed.
"""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from avsnn import __version__
from avsnn.convert import equivalence as eq
from avsnn.convert.accuracy import accuracy_of_stages, agreement
from avsnn.convert.balance_check import check_balance
from avsnn.convert.bundle import Bundle, sha256_of
from avsnn.convert.current_check import check_currents
from avsnn.convert.format_check import check_formats
from avsnn.convert.integer_check import check_neurons, check_parameters
from avsnn.convert.ir import storage
from avsnn.convert.ir.activity import Activity
from avsnn.convert.ir.fixed_interpreter import logical, to_integers, wall_clock
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.interpreter import interpret
from avsnn.convert.ir.node import Array
from avsnn.convert.ir.stages import check_stage
from avsnn.convert.lowering_check import check_lowered
from avsnn.convert.passes.fold_backward import fold_backward
from avsnn.convert.passes.fold_dsln import fold_dsln
from avsnn.convert.passes.fold_forward import fold_forward
from avsnn.convert.passes.fold_identity import fold_identity
from avsnn.convert.passes.fold_linear import fold_linear
from avsnn.convert.passes.fold_readout import fold_readout
from avsnn.convert.passes.integer_formats import Target
from avsnn.convert.passes.lower_attention import NEURONS, Lowered, lower_attention
from avsnn.convert.passes.quantise import Scale, quantise
from avsnn.convert.passes.schedule import depth, schedule
from avsnn.convert.proof_data import first_samples, proof_data, random_spikes
from avsnn.convert.resume import Kept
from avsnn.errors import AvsnnError, InputError, TraceError
from avsnn.hw_profiles.profile import load_profile

FOLDS: tuple[tuple[str, Callable[[Graph], Graph]], ...] = (
    ("fold_forward", fold_forward),
    ("fold_backward", fold_backward),
    ("fold_identity", fold_identity),
    ("fold_dsln", fold_dsln),
    ("fold_linear", fold_linear),
    ("fold_readout", fold_readout),
)
CALIBRATION_SAMPLES = 32  # of training data, for scales
PROOF_SAMPLES = 16  # of calibration data, for the comparisons
CURRENT_SAMPLES = 2  # of each, to compare integer currents with real ones
ATTENTION = ("own", "stock", "small")

Inputs = Mapping[str, Array]
Progress = Callable[[str], None]


@dataclass
class _Log:
    """What was proved so far, and how long each step took."""

    progress: Progress
    checks: list[eq.Check] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        self.progress(name)
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def convert(
    source: Any,
    example_inputs: Inputs | None = None,
    *,
    target: str = "loihi2",
    calibration: Inputs | None = None,
    evaluation: tuple[Inputs, Array] | None = None,
    timesteps: int | None = None,
    input_spec: Mapping[str, Mapping[str, Any]] | None = None,
    weight_bits: int | None = None,
    start: str = "traced",
    attention: str = "own",
    attention_neurons: int = NEURONS,
    proof_samples: int = PROOF_SAMPLES,
    seed: int = 0,
    progress: Progress = lambda _text: None,
) -> Bundle:
    """Trace, fold, quantise and schedule a network, proving every step.

    Args:
        source: an ``nn.Module``, a `avsnn.train.checkpoints.Checkpoint`, a traced `Graph`, or a `Bundle`.
        example_inputs: needed for a module: two samples of each input by name.
        target: profile name or path of a TOML file.
        calibration: training inputs that set the integer scales; a checkpoint brings its own.
        evaluation: (inputs, labels) for the accuracy of each stage; never used for choices.
        timesteps: T, if the module does not say.
        input_spec: coding, range and step of each input; a checkpoint brings its own.
        weight_bits: fewer than the target stores, if wanted.
        start: the stage of a bundle to start from ("traced", "folded" or "quantised"); stages after it are made again.
        attention: what runs products of a step: "own" processes, or "stock" neurons and synapses alone (an error beyond
            ``attention_neurons``), or "small": stock up to that limit, else own.
        attention_neurons: that one product may add, see `avsnn.convert.passes.lower_attention`.
        proof_samples: of calibration data in each comparison, and half as many generated ones.
        seed: of generated inputs.
        progress: called with the name of each step as it begins.

    Raises:
        VerifyError: a step changed what it must not (exit code 1).
        AvsnnError: anything else that stops a conversion, with place and remedy (exit code 2).
    """
    log = _Log(progress=progress)
    if attention not in ATTENTION:
        raise InputError("unknown choice", where="attention", found=attention, limit=", ".join(ATTENTION))
    profile = load_profile(target)
    formats = Target.of(profile, weight_bits=weight_bits)
    kept = Kept()
    if isinstance(source, Bundle):
        kept = Kept.of(source, start, target=formats, weight_bits=weight_bits)
        source = source.graph("traced")
    with log.step("trace"):
        traced, module, calibration, meta = _traced(source, example_inputs, calibration, timesteps, input_spec)
        check_stage(traced)
        meta |= kept.meta
    data = proof_data(traced, calibration, seed, proof_samples)
    if module is not None:
        with log.step("verify trace"):
            meta["float32_spikes_differing"] = _check_module(module, traced, data, log)
    folded = kept.folded or _fold(traced, data, seed, log)
    with log.step("quantise"):
        training = first_samples(traced, calibration, CALIBRATION_SAMPLES)
        quantised, scales = kept.quantised, kept.scales
        if quantised is None:
            quantised, scales = quantise(folded, target=formats, calibration=training)
        check_stage(quantised)
    with log.step("verify integers"):
        checked = check_parameters(folded, quantised, scales)
        check_formats(quantised, formats)
        currents = _check_currents(folded, quantised, scales, data, seed)
        neurons = check_neurons(folded, quantised, scales, seed=seed)
    lowered: Graph = quantised
    products: tuple[Lowered, ...] = ()
    if attention != "own":
        with log.step("lower attention"):
            bits = min(formats.weight_bits, kept.meta.get("weight_bits", formats.weight_bits))
            few = replace(formats, weight_bits=bits)
            lowered, products = lower_attention(
                quantised, target=few, limit=attention_neurons, keep=attention == "small"
            )
            check_formats(check_stage(lowered), formats)
            check_lowered(lowered, products)
        with log.step("verify lower attention"):
            _check_lowered(quantised, lowered, data, log)
    with log.step("schedule"):
        scheduled, balances = schedule(lowered, delay_steps_max=profile.limits.delay_steps_max)
        check_stage(scheduled)
    with log.step("verify schedule"):
        _check_schedule(lowered, scheduled, data, log)
        latency = depth(scheduled) + scheduled.timesteps
        check_balance(scheduled, latency)
    graphs = {g.stage: g for g in (traced, folded, quantised, scheduled)}
    record: dict[str, Any] = {
        "checks": [*kept.checks, *(_check_record(check) for check in log.checks)],
        "integers_checked": checked,
        "currents_checked": currents,
        "neurons": [asdict(n) for n in neurons],
        "scales": [asdict(s) for s in scales],
        "delays": [asdict(b) for b in balances],
        "attention": [asdict(p) for p in products],
        "latency_steps": latency,
        "agreement": agreement(folded, quantised, data["calibration"]),
    }
    if evaluation is not None:
        with log.step("accuracy"):
            record["accuracy"] = accuracy_of_stages(folded, quantised, evaluation)
    meta |= {"target": profile.id, "profile_sha256": profile.sha256, "seed": seed}
    meta["weight_bits"] = kept.meta.get("weight_bits", formats.weight_bits)
    meta |= {"avsnn": __version__, "python": platform.python_version(), "numpy": np.__version__}
    meta["calibration_sha256"] = digest(calibration)
    return Bundle(graphs=graphs, meta=meta, record=record, seconds=log.seconds)


def _traced(
    source: Any,
    example_inputs: Inputs | None,
    calibration: Inputs | None,
    timesteps: int | None,
    input_spec: Mapping[str, Mapping[str, Any]] | None,
) -> tuple[Graph, Any, Inputs, dict[str, Any]]:
    """(traced graph, module or None, calibration inputs, what the bundle should remember of the source)."""
    if isinstance(source, Graph):
        if calibration is None:
            raise InputError("calibration inputs missing", where="convert", remedy="pass calibration=")
        return source, None, calibration, {"name": "graph", "labels": []}
    from avsnn.convert import tracer
    from avsnn.train.checkpoints import Checkpoint
    from avsnn.train.models.table import MODELS

    if isinstance(source, Checkpoint):
        graph = graph_of(source)
        meta = {"name": source.name, "labels": list(source.labels), "checkpoint_sha256": sha256_of(source.path)}
        known = source.name in MODELS  # a network of the user's own comes with its graph, but without its code
        return graph, source.build() if known else None, calibration or source.calibration, meta
    if example_inputs is None:
        raise InputError("a module needs example inputs", where=type(source).__name__, remedy="pass example_inputs=")
    graph = tracer.trace(source, example_inputs, timesteps=timesteps, input_spec=input_spec)
    return graph, source, calibration or example_inputs, {"name": type(source).__name__, "labels": []}


def graph_of(checkpoint: Any) -> Graph:
    """Return the graph inside ``checkpoint``, or a new one if the tracer had no rule for it when it was saved.

    Raises:
        TraceError: it still has none; the message lists the operations.
    """
    from avsnn.convert import tracer

    if checkpoint.graph_meta:
        return storage.unpack(checkpoint.graph_meta, checkpoint.graph_arrays, where=str(checkpoint.path))
    try:
        return tracer.trace(checkpoint.build(), checkpoint.calibration, input_spec=checkpoint.input_spec)
    except AvsnnError:
        raise
    except Exception as error:  # torch raises many kinds where it cannot follow a forward
        raise TraceError(f"forward cannot be followed ({error})", where=checkpoint.name) from error


def _check_module(module: Any, traced: Graph, data: Mapping[str, Inputs], log: _Log) -> int:
    """Traced graph against the module itself; returns how many spikes float32 decides differently."""
    from avsnn.convert.tracer import witness

    differing = 0
    for name, inputs in data.items():
        expected = witness(module, inputs, graph=traced)
        single = witness(module, inputs, dtype="float32", graph=traced)
        differing += sum(int((single.spikes[k] != s).sum()) for k, s in expected.spikes.items())

        def run(graph: Graph, inputs: Inputs = inputs, expected: Activity = expected) -> Activity:
            return interpret(graph, inputs, force=expected.spikes)

        check = eq.compare("traced = module (float64)", name, expected, run(traced), exact=False)
        log.checks.append(eq.with_controls(check, expected, run, eq.negated_row(traced), exact=False))
    return differing


def _fold(traced: Graph, data: Mapping[str, Inputs], seed: int, log: _Log) -> Graph:
    """All folds, each that changed anything compared with the graph before it."""
    before = traced
    for name, fold in FOLDS:
        with log.step(name):
            after = fold(before)
        if after is before:  # nothing to fold
            continue
        with log.step(f"verify {name}"):
            for kind, inputs in data.items():
                expected = eq.in_units_of(interpret(before, inputs), before, after)
                _check_fold(name, kind, after, inputs, expected, expected.spikes, log)
            driven = random_spikes(interpret(before, data["generated"]).spikes, seed)
            expected = eq.in_units_of(interpret(before, data["generated"], force=driven), before, after)
            _check_fold(name, "random spikes", after, data["generated"], expected, driven, log)
        before = after
    return check_stage(replace(before, stage="folded"))


def _check_fold(
    name: str, kind: str, after: Graph, inputs: Inputs, expected: Activity, force: Inputs, log: _Log
) -> None:
    def run(graph: Graph) -> Activity:
        return interpret(graph, inputs, force=force)

    check = eq.compare(f"{name} changes nothing", kind, expected, run(after), exact=False)
    log.checks.append(eq.with_controls(check, expected, run, eq.negated_row(after), exact=False))


def _check_currents(
    folded: Graph, quantised: Graph, scales: tuple[Scale, ...], data: Mapping[str, Inputs], seed: int
) -> int:
    """Integer against real currents, on a few samples of data and on random spikes; returns how many."""
    total = 0
    for name, inputs in data.items():
        few = first_samples(folded, inputs, CURRENT_SAMPLES)
        sent = interpret(folded, few).spikes
        spikes = random_spikes(sent, seed) if name == "generated" else sent
        total += check_currents(folded, quantised, scales, few, spikes)
    return total


def _check_lowered(quantised: Graph, lowered: Graph, data: Mapping[str, Inputs], log: _Log) -> None:
    """Products as coincidences of stock neurons: the same spikes and states everywhere else."""
    if lowered is quantised:
        return
    for name, inputs in data.items():
        integers = to_integers(quantised, inputs)
        expected = logical(quantised, integers)

        def run(graph: Graph, integers: Inputs = integers) -> Activity:
            return logical(graph, integers)

        check = eq.compare("attention in stock neurons = quantised", name, expected, run(lowered), exact=True)
        spoiled = eq.hasty_coincidences(lowered) if name == "calibration" else {}
        log.checks.append(eq.with_controls(check, expected, run, spoiled, exact=True))


def _check_schedule(quantised: Graph, scheduled: Graph, data: Mapping[str, Inputs], log: _Log) -> None:
    """Wall-clock against logical time, samples back to back."""
    for name, inputs in data.items():
        integers = to_integers(quantised, inputs)
        expected = logical(quantised, integers)

        def run(graph: Graph, integers: Inputs = integers) -> Activity:
            return wall_clock(graph, integers)

        check = eq.compare("scheduled = quantised", name, expected, run(scheduled), exact=True)
        spoiled = eq.negated_row(scheduled) | (eq.shifted_time(scheduled) if name == "calibration" else {})
        log.checks.append(eq.with_controls(check, expected, run, spoiled, exact=True))


def _check_record(check: eq.Check) -> dict[str, Any]:
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
        "populations": {p.name: {"compared": p.spikes + p.states, "rate": p.rate} for p in check.populations},
    }


def digest(inputs: Inputs) -> str:
    """SHA-256 over names, shapes and values of arrays."""
    total = hashlib.sha256()
    for name in sorted(inputs):
        x = np.ascontiguousarray(inputs[name], dtype=np.float64)
        total.update(f"{name}{x.shape}".encode() + x.tobytes())
    return total.hexdigest()
