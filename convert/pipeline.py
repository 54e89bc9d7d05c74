"""The compiler, top to bottom: a module or checkpoint to a bundle, each step proved before the next begins.

========== ===================================== =============================================================
stage      made by                               proved by
========== ===================================== =============================================================
traced     tracer                                spikes and answers of the module itself in float64
folded     the FOLDS below, one after another    spikes and answers of the graph before, after every pass
quantised  quantise                              every integer within half a step and its format; no input overflows
                                                 any of them; currents against the folded graph's; neurons against
                                                 exact fractions
           `finetune`, if it is asked for        formats, overflow and neurons of the trained integers; every spike,
                                                 state and answer of what was trained
scheduled  schedule                              every spike, state and answer of ``quantised``, in wall-clock; all
                                                 that meets arrives together, also where nothing fires
mapped     map_cores, place_cores                every neuron on one core, within all limits; every weight and axon, by
                                                 sums of random messages; spikes and states of a run core by core
========== ===================================== =============================================================

Comparisons run on calibration data and on generated inputs; the folds also on populations driven by random spikes,
which reaches those that data leaves silent. Each carries planted mistakes that must be noticed.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from avsnn import __version__
from avsnn.convert.accuracy import accuracy_of_stages, agreement
from avsnn.convert.balance_check import check_balance
from avsnn.convert.bundle import Bundle
from avsnn.convert.certificate import certify
from avsnn.convert.core_traffic import emitted, host_traffic, sent_counts
from avsnn.convert.format_check import check_formats
from avsnn.convert.integer_check import check_neurons, check_parameters
from avsnn.convert.ir.fixed_interpreter import to_integers
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array
from avsnn.convert.ir.stages import check_stage
from avsnn.convert.lowering_check import check_lowered
from avsnn.convert.mapping_check import check_mapping
from avsnn.convert.passes.fold_backward import fold_backward
from avsnn.convert.passes.fold_dead import fold_dead
from avsnn.convert.passes.fold_dsln import fold_dsln
from avsnn.convert.passes.fold_forward import fold_forward
from avsnn.convert.passes.fold_identity import fold_identity
from avsnn.convert.passes.fold_linear import fold_linear
from avsnn.convert.passes.fold_readout import fold_readout
from avsnn.convert.passes.integer_formats import Target
from avsnn.convert.passes.lower_attention import NEURONS, Lowered, lower_attention
from avsnn.convert.passes.map_cores import map_cores
from avsnn.convert.passes.place_cores import place_cores
from avsnn.convert.passes.quantise import quantise
from avsnn.convert.passes.schedule import depth, schedule
from avsnn.convert.passes.split_layer_norm import split_layer_norm
from avsnn.convert.proof_data import Inputs, first_samples, proof_data
from avsnn.convert.proofs import (
    Log,
    Progress,
    check_record,
    compare_currents,
    compare_fold,
    compare_lowered,
    compare_mapped,
    compare_module,
    compare_schedule,
    left_out,
)
from avsnn.convert.resume import Kept
from avsnn.convert.sources import digest, traced_from
from avsnn.convert.tuning import Retrain, Untuned, check_same_network
from avsnn.errors import CapabilityError, InputError
from avsnn.hw_profiles.profile import Profile, load_profile

FOLDS: tuple[tuple[str, Callable[[Graph], Graph]], ...] = (
    ("split_layer_norm", split_layer_norm),
    ("fold_forward", fold_forward),
    ("fold_backward", fold_backward),
    ("fold_identity", fold_identity),
    ("fold_dsln", fold_dsln),
    ("fold_linear", fold_linear),
    ("fold_readout", fold_readout),
    ("fold_dead", fold_dead),
)
CALIBRATION_SAMPLES = 32  # of training data, for scales
PROOF_SAMPLES = 16  # of calibration data, for the comparisons
ATTENTION = ("own", "stock", "small")


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
    finetune: Retrain | None = None,
    proof_samples: int = PROOF_SAMPLES,
    seed: int = 0,
    progress: Progress = lambda _text: None,
) -> Bundle:
    """Trace, fold, quantise, schedule and map a network, proving every step.

    What fits no core of the target is converted all the same, and the bundle says what is too large and what would
    make it fit: `Bundle.record` ``["mapping"]["refused"]``. There is then no stage ``mapped``.

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
        finetune: trains the integers once they are proved, see `avsnn.convert.finetune.retrain`.
        proof_samples: of calibration data in each comparison, and half as many generated ones.
        seed: of generated inputs.
        progress: called with the name of each step as it begins.

    Raises:
        VerifyError: a step changed what it must not (exit code 1).
        AvsnnError: anything else that stops a conversion, with place and remedy (exit code 2).
    """
    log = Log(progress=progress)
    if attention not in ATTENTION:
        raise InputError("unknown choice", where="attention", found=attention, limit=", ".join(ATTENTION))
    profile = load_profile(target)
    formats = Target.of(profile, weight_bits=weight_bits)
    kept = Kept()
    if isinstance(source, Bundle):
        kept = Kept.of(source, start, target=formats, weight_bits=weight_bits)
        source = source.graph("traced")
    with log.step("trace"):
        traced, module, calibration, meta = traced_from(source, example_inputs, calibration, timesteps, input_spec)
        check_stage(traced)
        meta |= kept.meta
    data = proof_data(traced, calibration, seed, proof_samples)
    if module is not None:
        with log.step("verify trace"):
            meta["float32_spikes_differing"] = compare_module(module, traced, data, log)
    folded = kept.folded or _fold(traced, data, seed, log)
    with log.step("quantise"):
        training = first_samples(traced, calibration, CALIBRATION_SAMPLES)
        quantised, scales = kept.quantised, kept.scales
        if quantised is None:
            quantised, scales = quantise(folded, target=formats, calibration=training)
        check_stage(quantised)
    checked, currents, tuned = 0, 0, kept.tuned
    if finetune is not None and tuned:
        remedy = "start from folded, or leave fine-tuning out"
        raise InputError("has been fine-tuned already", where="quantised", remedy=remedy)
    with log.step("verify integers"):
        if not tuned:  # integers that were trained are nobody's rounded value
            checked = check_parameters(folded, quantised, scales)
        check_formats(quantised, formats)
        if not tuned:
            currents = compare_currents(folded, quantised, scales, data, seed)
    if finetune is not None:
        before = Untuned(
            folded=folded,
            quantised=quantised,
            scales=scales,
            target=formats,
            profile=profile,
            module=module,
            data=data,
        )
        with log.step("fine-tune"):
            done = finetune(before)
        with log.step("verify integers"):
            check_same_network(quantised, check_stage(done.graph))
            check_formats(done.graph, formats)
        quantised, scales, tuned = done.graph, done.scales, done.record
        log.checks.extend(done.checks)
    with log.step("certify"):
        certificate = certify(quantised, to_integers(quantised, data["calibration"]), seed=seed)
    with log.step("verify integers"):
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
        with log.step("certify"):
            certificate = certify(lowered, to_integers(lowered, data["calibration"]), seed=seed)
        with log.step("verify lower attention"):
            compare_lowered(quantised, lowered, data, log)
    with log.step("schedule"):
        scheduled, balances = schedule(lowered, delay_steps_max=profile.limits.delay_steps_max)
        check_stage(scheduled)
    with log.step("verify schedule"):
        certificate, spikes, liveliest = compare_schedule(lowered, scheduled, data, certificate, log)
        latency = depth(scheduled) + scheduled.timesteps
        check_balance(scheduled, latency)
    mapped, cores = _mapped(scheduled, profile, spikes, log)
    if mapped is not None:
        with log.step("verify mapping"):
            cores["checked"] = check_mapping(scheduled, check_stage(mapped), profile, seed=seed)
            compare_mapped(lowered, scheduled, mapped, data, liveliest, log)
    graphs = {g.stage: g for g in (traced, folded, quantised, scheduled, mapped) if g is not None}
    record: dict[str, Any] = {
        "checks": [*kept.checks, *(check_record(check) for check in log.checks)],
        "integers_checked": checked,
        "currents_checked": currents,
        "neurons": [asdict(n) for n in neurons],
        "scales": [asdict(s) for s in scales],
        "delays": [asdict(b) for b in balances],
        "attention": [asdict(p) for p in products],
        "left_out": [*kept.left_out, *log.left_out],
        "certificate": [row.to_json() for row in certificate],
        "latency_steps": latency,
        "mapping": cores,
        "agreement": agreement(folded, quantised, data["calibration"]),
    }
    if tuned:
        record["finetuned"] = dict(tuned)
    if evaluation is not None:
        with log.step("accuracy"):
            record["accuracy"] = accuracy_of_stages(folded, quantised, evaluation)
    meta |= {"target": profile.id, "profile_sha256": profile.sha256, "seed": seed}
    meta["weight_bits"] = kept.meta.get("weight_bits", formats.weight_bits)
    meta |= {"avsnn": __version__, "python": platform.python_version(), "numpy": np.__version__}
    meta["calibration_sha256"] = digest(calibration)
    return Bundle(graphs=graphs, meta=meta, record=record, seconds=log.seconds)


def _mapped(scheduled: Graph, profile: Profile, spikes: Inputs, log: Log) -> tuple[Graph | None, dict[str, Any]]:
    """The graph on cores, and how full they are; or why it fits none. Nothing of it where the target has no cores."""
    if profile.limits.cores_per_chip is None:
        return None, {}
    with log.step("map"):
        try:
            mapped, found = map_cores(scheduled, profile)
        except CapabilityError as error:
            return None, {"refused": str(error)}
        sent = emitted(scheduled, spikes)
        cores = {**asdict(found), "hosts": [asdict(host) for host in host_traffic(mapped, sent)]}
        if profile.mesh is not None:
            mapped, placement = place_cores(mapped, profile, sent_counts(sent))
            cores["placement"] = asdict(placement)
        return mapped, cores


def _fold(traced: Graph, data: Mapping[str, Inputs], seed: int, log: Log) -> Graph:
    """All folds, each that changed anything compared with the graph before it."""
    before = traced
    for name, fold in FOLDS:
        with log.step(name):
            after = fold(before)
            log.left_out = left_out(before, after) if name == "fold_dead" else []
        if after is before:  # nothing to fold
            continue
        with log.step(f"verify {name}"):
            compare_fold(name, before, after, data, seed, log)
        before = after
    return check_stage(replace(before, stage="folded"))
