"""Run a bundle on samples: answers, accuracy, spike rates, and every spike and state if asked for."""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from avsnn.archive import write
from avsnn.cli.inputs import EMBEDDED, Labelled, as_values, check_count, check_samples, labelled, load_npz, steps_of
from avsnn.convert.accuracy import batches
from avsnn.convert.bundle import Bundle
from avsnn.convert.ir.fixed_nodes import FixedInput
from avsnn.convert.ir.node import Array
from avsnn.deploy.run import BACKENDS, Run
from avsnn.deploy.run import run as execute
from avsnn.errors import InputError
from avsnn.train.proportion import Proportion


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("bundle", help="folder that avsnn-convert wrote")
    parser.add_argument("--data", required=True, help="avdigits, or FILE.npz with the inputs by name (and label)")
    parser.add_argument("--backend", choices=BACKENDS, default="cpu", help="default cpu")
    parser.add_argument("--stage", help="another stage than scheduled (reference back end only)")
    parser.add_argument("--samples", type=int, help="only the first N")
    parser.add_argument("--record", default="", help="all, or population names separated by commas")
    parser.add_argument("--out", metavar="FILE.npz", help="write answers, spikes and states")
    parser.add_argument("--force", action="store_true", help="replace FILE.npz")
    parser.add_argument("--timeout", type=float, default=600.0, metavar="S", help="seconds that Lava may take")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.epilog = (
        "examples:\n"
        "  avsnn-run build/demo --data avdigits\n"
        "  avsnn-run build/demo --data avdigits --samples 4 --backend lava --record all --out spikes.npz"
    )


def run(args: argparse.Namespace) -> int:
    """Run and print."""
    if args.out and Path(args.out).exists() and not args.force:
        raise InputError("output exists", where=args.out, remedy="choose another --out, or --force to replace it")
    check_count("--samples", args.samples)
    check_count("--timeout", args.timeout)
    bundle = Bundle.load(args.bundle)
    inputs, known = _samples(args, bundle)
    record = args.record if args.record == "all" else [name for name in args.record.split(",") if name]
    start = time.perf_counter()
    try:
        done = execute(bundle, inputs, backend=args.backend, record=record, stage=args.stage, timeout_s=args.timeout)
    except KeyError as error:
        raise InputError(str(error.args[0]), where="--record") from None
    seconds = time.perf_counter() - start
    if args.out:
        _write(args.out, done)
    _show(args, bundle, done, known, seconds)
    return 0


def _samples(args: argparse.Namespace, bundle: Bundle) -> tuple[dict[str, Array], Labelled | None]:
    """Inputs, cut to the samples wanted, and their labels if there are any."""
    graph = bundle.graph("scheduled")
    known: Labelled | None = None
    if args.data in EMBEDDED or "label" in (arrays := load_npz(args.data)):
        known = labelled(args.data, steps=steps_of(graph))
        assert known is not None
        inputs = dict(known.inputs)
    else:
        inputs = as_values(arrays, steps_of(graph))
    check_samples(graph, inputs, None if known is None else known.labels, args.data)
    if args.samples is None:
        return inputs, known
    first = next(node for node in graph.of(FixedInput))
    have = inputs[first.name].shape[0 if first.coding == "direct" else 1]
    part, cut = next(batches(graph, inputs, np.arange(have), args.samples))
    return part, None if known is None else known.part(len(cut))


def _write(out: str, done: Run) -> None:
    arrays: dict[str, Array] = {"outputs": done.outputs, "raw": done.raw}
    for name, spikes in done.spikes.items():
        arrays[f"spikes.{name}"] = spikes
        arrays |= {f"{key}.{name}": state for key, state in done.states[name].items()}
    try:
        write(out, {"scale": done.scale}, arrays)
    except OSError as error:
        raise InputError(f"cannot write ({error.strerror})", where=os.fspath(out)) from None


def _show(args: argparse.Namespace, bundle: Bundle, done: Run, known: Labelled | None, seconds: float) -> None:
    classes = len(bundle.meta["labels"]) or done.raw.shape[1]
    answers = done.raw[:, :classes].argmax(axis=1)
    score = None
    if known is not None:
        score = Proportion(correct=int(known.right(done.raw, classes).sum()), count=len(answers))
    result: dict[str, Any] = {
        "bundle": args.bundle,
        "backend": args.backend,
        "samples": len(answers),
        "seconds": round(seconds, 3),
        "answers": answers.tolist(),
        "rates": {name: float(spikes.mean()) for name, spikes in done.spikes.items()},
    }
    if score is not None:
        result["accuracy"] = score.record()
    if args.json:
        print(json.dumps(result, indent=1, sort_keys=True))
        return
    names = list(bundle.meta["labels"]) or [str(k) for k in range(classes)]
    for k in range(min(8, len(answers))):
        wanted = "" if known is None else f"  (label {names[int(known.labels[k])]})"
        print(f"sample {k}: {names[answers[k]]}{wanted}")
    if score is not None:
        print(f"accuracy {score}")
    for name, rate in result["rates"].items():
        print(f"  {name}: {100 * rate:.2f} % spikes")
    print(f"{len(answers)} samples on {args.backend} in {seconds:.1f} s")
