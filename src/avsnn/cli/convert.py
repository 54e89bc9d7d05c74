"""Turn a checkpoint into a bundle: integers, proofs, Lava export and report.

The network is traced, folded, quantised and scheduled, each step proved before the next; then the integers run on the
reference interpreter, on the CPU simulator and in Lava, and every spike and state is compared. The bundle is written
only if all of that held. With --finetune the integers are trained in between, bit for bit as they will run.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from avsnn.cli import finetune
from avsnn.cli.asked import command_line
from avsnn.cli.inputs import (
    Labelled,
    TrainedOn,
    check_count,
    check_samples,
    labelled,
    load_bundle,
    load_source,
    steps_of,
)
from avsnn.cli.progress import steps
from avsnn.convert.accuracy import batches
from avsnn.convert.bundle import Bundle, seal, staged, write_json
from avsnn.convert.ir.fixed_interpreter import to_integers
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.interpreter import interpret
from avsnn.convert.overflow_search import CounterExample
from avsnn.convert.passes.lower_attention import NEURONS
from avsnn.convert.pipeline import ATTENTION, convert
from avsnn.convert.proof_data import Inputs
from avsnn.convert.proofs import Progress
from avsnn.convert.resume import STARTS
from avsnn.convert.sources import graph_of
from avsnn.deploy.backends.cpu import simulate
from avsnn.deploy.capability import capabilities
from avsnn.deploy.executions import Executions, execute_all
from avsnn.deploy.reports.counts import count
from avsnn.deploy.reports.html import page_of
from avsnn.deploy.reports.prices import prices
from avsnn.deploy.reports.render import render_report
from avsnn.deploy.reports.report import accuracy_table, build_report
from avsnn.deploy.reports.tally import MemoryWords
from avsnn.deploy.repro import INPUTS, write_counter_example
from avsnn.errors import CertificateError, InputError
from avsnn.hw_profiles.profile import load_profile, profile_names
from avsnn.hw_profiles.schema import Profile

if TYPE_CHECKING:
    from avsnn.convert.finetune import Retraining

GENERATED = 4  # random samples for populations that data leaves silent
NO_LAVA = ("cpu",)  # targets that Lava has nothing to do with


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    model = "checkpoint (.pt as avsnn-train writes it), weights with --module, or a bundle with --from"
    parser.add_argument("model", help=model)
    parser.add_argument("--target", default="loihi2", help="hardware profile: a name or a .toml file (default loihi2)")
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--force", action="store_true", help="replace a bundle that is there")
    parser.add_argument("--backend", choices=("lava", "cpu"), help="cpu leaves Lava out (default: lava for loihi2)")
    parser.add_argument("--data", help="labelled samples: avdigits or FILE.npz (default: what the checkpoint names)")
    parser.add_argument("--samples", type=int, default=64, help="samples compared on every back end (default 64)")
    parser.add_argument("--calibration", metavar="FILE.npz", help="training inputs that set the scales")
    parser.add_argument("--module", metavar="PKG.MOD:FACTORY", help="MODEL is a state dict for what FACTORY() returns")
    resume = "MODEL is a bundle: start from its traced, folded or quantised graph, with other options"
    parser.add_argument("--from", dest="start", choices=STARTS, help=resume)
    parser.add_argument("--timesteps", type=int, help="steps of a window, where the module does not say")
    parser.add_argument("--weight-bits", type=int, help="fewer than the target stores; 2 is ternary when fine-tuned")
    stock = "products of spikes in a step: processes of their own (default), stock neurons alone, or stock where small"
    parser.add_argument("--attention", choices=ATTENTION, default=ATTENTION[0], help=stock)
    most = f"neurons that --attention stock or small may add for one product (default {NEURONS})"
    parser.add_argument("--attention-neurons", type=int, default=NEURONS, metavar="N", help=most)
    broken = (
        "where to write an input that overflows the integers, if there is one: the layer alone, and what reaches it"
    )
    parser.add_argument("--counter-example", metavar="DIR", help=broken)
    finetune.configure(parser)
    parser.add_argument(
        "--profiles",
        metavar="NAMES",
        help="names or .toml files to price, comma separated (default: all, and the target)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of generated inputs (default 0)")
    parser.add_argument("--timeout", type=float, default=600.0, metavar="S", help="seconds that Lava may take")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.epilog = (
        "examples:\n"
        "  avsnn-convert examples/models/avdigits-tiny.pt --target loihi2 --out build/demo\n"
        "  avsnn-convert net.pt --target cpu --out build/net --data test.npz\n"
        "  avsnn-convert weights.pth --module mynets.resnet:make --calibration train.npz --out build/mine\n"
        "  avsnn-convert build/net --from folded --weight-bits 4 --calibration train.npz --out build/net4\n"
        "  avsnn-convert spikslc.pt --attention small --out build/slc\n"
        "  avsnn-convert net.pt --weight-bits 4 --finetune avdigits --epochs 4 --out build/net4"
    )


def run(args: argparse.Namespace) -> int:
    """Convert, execute, report."""
    check_count("--samples", args.samples)
    check_count("--timeout", args.timeout)
    check_count("--timesteps", args.timesteps)
    check_count("--attention-neurons", args.attention_neurons)
    finetune.check(args)
    if args.seed < 0:
        raise InputError("must not be negative", where="--seed", found=args.seed)
    if args.timesteps is not None and args.module is None:
        raise InputError("a checkpoint has its own steps", where="--timesteps", remedy="leave it out")
    if args.counter_example and Path(args.counter_example).exists():
        raise InputError("exists already", where=args.counter_example, remedy="name another folder")
    profile = load_profile(args.target)
    priced = _priced(args.profiles, profile)
    use_lava = _use_lava(args.backend, profile.id)
    with staged(args.out, force=args.force) as folder, steps(quiet=args.json) as progress:
        start = time.perf_counter()
        source, calibration, known = _source(args)
        data = _data(args, source, known)
        if args.module is None:  # else the inputs are not known before the module is traced
            _check(_graph(source), data, calibration, args)
        job = _retraining(args, source, known, progress)
        with _counter_example(args), finetune.resumable(args):
            bundle = convert(
                source,
                calibration,
                target=args.target,
                calibration=calibration,
                timesteps=args.timesteps,
                weight_bits=args.weight_bits,
                start=args.start or "traced",
                attention=args.attention,
                attention_neurons=args.attention_neurons,
                finetune=job,
                seed=args.seed,
                progress=progress,
            )
        if args.module is not None:
            _check(bundle.graph("traced"), data, calibration, args)
        bundle.write(folder)
        done = _execute(bundle, folder, data, args.samples, use_lava, args.timeout, progress)
        progress("accuracy")
        accuracy = _accuracy(bundle, data) if data is not None else {}
        progress("counting operations")
        report = _report(bundle, done, accuracy, priced, profile) | {"command": _command(args)}
        timing = {**bundle.seconds, **done.seconds}
        timing["accuracy, counts, files"] = time.perf_counter() - start - sum(timing.values())
        write_json(folder / "report.json", report)
        write_json(folder / "timing.json", timing)
        (folder / "report.html").write_text(page_of(folder), encoding="utf-8")
        seal(folder, bundle.meta)
        if job is not None:
            finetune.write_frontier(args, job, bundle, data, profile, progress)
    if job is not None:
        finetune.clear(job)
    _show(args, report, timing, use_lava, args.data or known.name)
    return 0


@contextmanager
def _counter_example(args: argparse.Namespace) -> Iterator[None]:
    """Write the input that stopped a conversion by an overflow, if that is asked for."""
    try:
        yield
    except CertificateError as error:
        example = error.example
        if args.counter_example and isinstance(example, CounterExample):
            place = write_counter_example(
                args.counter_example, example, {"name": Path(args.model).stem, "target": args.target}
            )
            again = f"avsnn-run {place / 'a'} --data {place / INPUTS} --backend reference"
            print(f"An input that overflows is in {place}; see it with: {again}", file=sys.stderr)
        raise


def _priced(names: str | None, target: Profile) -> list[Profile]:
    """The profiles that are named; else all that are shipped, and the target in the place of one of its name."""
    if names is None:
        priced = (*profile_names("pricing"), *profile_names("comparator"))
        shipped = {name: load_profile(name) for name in priced}
        return list((shipped | ({target.id: target} if "pricing" in target.uses else {})).values())
    found = [load_profile(name) for name in names.split(",") if name]
    ids = [profile.id for profile in found]
    if twice := sorted({name for name in ids if ids.count(name) > 1}):
        remedy = "give one of them another id, so that the report can tell them apart"
        raise InputError("two profiles of one id", where="--profiles", found=", ".join(twice), remedy=remedy)
    return found


def _command(args: argparse.Namespace) -> str:
    parser = argparse.ArgumentParser()
    configure(parser)
    return command_line(args, vars(parser.parse_args([args.model, "--out", args.out])))


def _report(
    bundle: Bundle, done: Executions, accuracy: dict[str, Any], profiles: list[Profile], profile: Profile
) -> dict[str, Any]:
    scheduled = bundle.graph("scheduled")
    words = MemoryWords(weight_bits=bundle.meta["weight_bits"], state_bits=profile.need("state_bits"))
    mapped = (profile.id, bundle.graph("mapped")) if "mapped" in bundle.graphs else None
    ran = {**done.inputs, **done.activity.spikes}
    counts = count(scheduled, ran, driven=True)
    chips = [each for each in profiles if not each.only_compares]
    priced = prices(scheduled, counts, ran, chips, words=words, mapped=mapped)
    return build_report(
        meta=bundle.meta,
        record=bundle.record,
        graph=scheduled,
        activity=done.activity,
        executions=done.checks,
        accuracy=accuracy,
        counts=counts,
        energy=priced.energy,
        cores=priced.cores,
        comparators=[each for each in profiles if "comparator" in each.uses],
        capabilities=capabilities(scheduled, profile),
    )


def _retraining(args: argparse.Namespace, source: Any, known: TrainedOn, progress: Progress) -> Retraining | None:
    """What trains the integers, if that is asked for."""
    if args.finetune is None:
        return None
    if args.module is not None:
        remedy = "write it as a checkpoint with avsnn.train.checkpoints.save, and fine-tune that"
        raise InputError("cannot be fine-tuned", where="--module", remedy=remedy)
    classes = source.meta.get("labels", ()) if isinstance(source, Bundle) else source.labels
    return finetune.retraining(args, _graph(source), len(classes), known, progress)


def _source(args: argparse.Namespace) -> tuple[Any, Any, TrainedOn]:
    """What to convert, training inputs or None, and the data that it was trained on, if that is known."""
    if args.start is None:
        if Path(args.model).is_dir():
            remedy = "name the stage to start from (--from folded, for instance)"
            raise InputError("a folder, not a checkpoint", where=args.model, remedy=remedy)
        return load_source(args.model, args.module, args.calibration)
    if args.module is not None:
        raise InputError("a bundle needs no module", where="--module", remedy="leave it out, or leave --from out")
    return *load_bundle(args.model, args.calibration), TrainedOn()


def _graph(source: Any) -> Graph:
    """The traced graph of a bundle or a checkpoint."""
    return source.graph("traced") if isinstance(source, Bundle) else graph_of(source)


def _data(args: argparse.Namespace, source: Any, known: TrainedOn) -> Labelled | None:
    """The samples asked for, or those of the data set that the checkpoint was trained on."""
    steps = steps_of(_graph(source)) if args.module is None else None
    if args.data is None:
        return labelled(known.name, values=known.values, steps=steps)
    return labelled(args.data, values=known.values if args.data == known.name else None, steps=steps)


def _check(graph: Graph, data: Labelled | None, calibration: Inputs | None, args: argparse.Namespace) -> None:
    """Samples against the network, before hours of work on it."""
    if calibration is not None:
        check_samples(graph, calibration, None, args.calibration)
    if data is not None:
        check_samples(graph, data.inputs, data.labels, args.data or data.name)


def _use_lava(backend: str | None, target: str) -> bool:
    """Whether to run Lava; asked before any work, so that a missing environment is an error at once."""
    if backend == "cpu" or (backend is None and target in NO_LAVA):
        return False
    from avsnn.deploy import lava_env

    lava_env.require()
    return True


def _execute(
    bundle: Bundle,
    folder: Path,
    data: Labelled | None,
    samples: int,
    use_lava: bool,
    timeout_s: float,
    progress: Progress,
) -> Executions:
    scheduled = bundle.graph("scheduled")
    lava = None
    if bundle.meta["target"] not in NO_LAVA:
        from avsnn.deploy.exports.lava import write_lava

        progress("Lava export")
        write_lava(scheduled, folder / "lava")
        lava = folder / "lava" if use_lava else None
    chosen = data or Labelled.generated(scheduled, samples)
    done = _compare(scheduled, chosen, samples, lava, timeout_s, progress)
    if data is None or not done.checks[0].silent:
        return done
    driven = Labelled.generated(scheduled, GENERATED)  # reaches populations that data leaves silent
    more = _compare(scheduled, driven, GENERATED, lava, timeout_s, progress)
    seconds = {name: spent + more.seconds[name] for name, spent in done.seconds.items()}
    return replace(done, checks=(*done.checks, *more.checks), seconds=seconds)


def _compare(
    graph: Graph, data: Labelled, samples: int, lava: Path | None, timeout_s: float, progress: Progress
) -> Executions:
    part, _ = next(batches(graph, data.inputs, data.labels, samples))
    integers = to_integers(graph, part)
    return execute_all(graph, integers, data=data.name, lava=lava, timeout_s=timeout_s, progress=progress)


def _accuracy(bundle: Bundle, data: Labelled) -> dict[str, Any]:
    """Float against integers on all labelled samples."""
    folded, scheduled = bundle.graph("folded"), bundle.graph("scheduled")
    float_scores, integer_scores = [], []
    for part, _ in batches(scheduled, data.inputs, data.labels):
        float_scores.append(interpret(folded, part).outputs[folded.outputs[0]])
        integer_scores.append(simulate(scheduled, to_integers(scheduled, part)).outputs[scheduled.outputs[0]])
    answers = {"float": np.concatenate(float_scores), "quantised": np.concatenate(integer_scores)}
    classes = len(bundle.meta["labels"]) or answers["float"].shape[1]
    return accuracy_table({name: data.right(scores, classes) for name, scores in answers.items()}, data=data.name)


def _show(
    args: argparse.Namespace, report: dict[str, Any], timing: dict[str, float], use_lava: bool, data: str | None
) -> None:
    if args.json:
        print(json.dumps(report | {"out": args.out, "timing": timing}, indent=1, sort_keys=True))
        return
    console = Console(width=None if sys.stdout.isatty() else 140)
    render_report(report, timing, console)
    if not use_lava and report["meta"]["target"] not in NO_LAVA:
        console.print("Not run in Lava (--backend cpu): the lava/ export is written, but unproved.")
    command = f"avsnn-run {args.out} --data {data or 'FILE.npz'}"
    console.print(f"\nWritten to {args.out}; run it with: {command}", soft_wrap=True, markup=False)
