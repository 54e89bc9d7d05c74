"""Options of fine-tuning to what `convert` calls, and the frontier of rate against accuracy to files."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from avsnn.cli.inputs import EMBEDDED, Labelled, TrainedOn, labelled, steps_of
from avsnn.convert.accuracy import batches
from avsnn.convert.bundle import Bundle, write_json
from avsnn.convert.ir.fixed_interpreter import to_integers
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.interpreter import interpret
from avsnn.convert.ir.node import Array
from avsnn.convert.passes.schedule import schedule
from avsnn.convert.proofs import Progress
from avsnn.convert.staging import staged
from avsnn.deploy.backends.cpu import simulate
from avsnn.deploy.reports.counts import Counts, count
from avsnn.deploy.reports.energy import MemoryWords, price
from avsnn.deploy.reports.frontier import Point, plot, table
from avsnn.errors import InputError
from avsnn.hw_profiles.schema import Profile
from avsnn.train.proportion import PairedDifference, Proportion

if TYPE_CHECKING:
    from avsnn.convert.finetune import Retraining, Rung

PAIRS, VAL_PAIRS = 8_000, 1_000
HELD_SHARE = 0.1  # of the samples of a file, to watch
LR, LR_OF_BUDGET = 1e-3, 4e-3  # as in the tables of the README: fewer spikes are further to go
SURROGATE, SURROGATE_OF_BUDGET = "atan", "sigmoid"
LADDER = (1.0, 0.85, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
STATE_SUFFIX = ".finetune"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of fine-tuning."""
    group = parser.add_argument_group("fine-tuning of the integers, so that what is trained is what is deployed")
    group.add_argument("--finetune", metavar="DATA", help="training samples: avdigits, sloclas-sim ... or FILE.npz")
    group.add_argument("--epochs", type=int, default=4, help="passes over them (default 4)")
    group.add_argument("--pairs", type=int, help=f"samples to draw (default: as in training, at most {PAIRS:,})")
    rate = f"of the largest weight per update (default {LR:g}, under a budget {LR_OF_BUDGET:g})"
    group.add_argument("--lr", type=float, help=rate)
    teacher = "share of the float network's answers in the loss, the rest is labels (default 1)"
    group.add_argument("--teacher", type=float, default=1.0, help=teacher)
    budget = "synaptic operations to keep, as a share of those before (0.5: half)"
    group.add_argument("--sop-budget", type=float, default=1.0, metavar="SHARE", help=budget)
    frontier = "train down to the budget in steps; write accuracy, operations and energy of each as table and plot"
    group.add_argument("--frontier", metavar="FOLDER", help=frontier)
    group.add_argument("--resume", action="store_true", help=f"go on with a run that was stopped (OUT{STATE_SUFFIX})")
    group.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="to fine-tune on (default cpu)")


def check(args: argparse.Namespace) -> None:
    """Refuse options that say nothing without fine-tuning.

    Raises:
        InputError: naming the option.
    """
    if args.finetune is not None:
        return
    asked = {"--sop-budget": args.sop_budget != 1, "--frontier": args.frontier, "--resume": args.resume}
    for option, given in asked.items():
        if given:
            raise InputError("needs training samples", where=option, remedy="add --finetune DATA")


def state_folder(out: str) -> Path:
    """Where the state of a run lies until its bundle is whole."""
    return Path(out.rstrip("/") + STATE_SUFFIX)


@contextmanager
def resumable(args: argparse.Namespace) -> Iterator[None]:
    """Say how to go on with a run that is interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        if args.finetune is not None and state_folder(args.out).exists():
            print(f"Stopped; the same command with --resume goes on ({state_folder(args.out)})", file=sys.stderr)
        raise


def retraining(
    args: argparse.Namespace, graph: Graph, classes: int, known: TrainedOn, progress: Progress
) -> Retraining:
    """Return what `convert` calls.

    Args:
        args: the command line.
        graph: traced.
        classes: names of classes that the checkpoint knows; 0 if it knows none.
        known: the data that it was trained on.
        progress: called with one line now and then.

    Raises:
        InputError: samples that do not fit the network, options that cannot be.
    """
    from avsnn.convert.finetune import Retraining
    from avsnn.convert.finetune_loop import Options

    limited = args.sop_budget < 1
    options = Options(
        epochs=args.epochs,
        lr=(LR_OF_BUDGET if limited else LR) if args.lr is None else args.lr,
        surrogate=SURROGATE_OF_BUDGET if limited else SURROGATE,
        teacher=args.teacher,
        sop_budget=args.sop_budget,
        seed=args.seed,
        device=args.device,
    )
    train, val, source = _samples(args, graph, known)
    if args.frontier and not (args.data or known.name):
        raise InputError("needs labelled samples", where="--frontier", remedy="add --data")
    if args.frontier and Path(args.frontier).exists():
        raise InputError("output exists", where="--frontier", found=args.frontier, remedy="choose another folder")
    ladder = tuple(budget for budget in LADDER if budget > args.sop_budget) if args.frontier else ()
    return Retraining(
        train=train,
        val=val,
        classes=classes or graph[graph.outputs[0]].shape[0],
        options=options,
        folder=state_folder(args.out),
        resume=args.resume,
        ladder=ladder,
        source=source,
        on_epoch=lambda row: progress(described(row, options.epochs)),
        on_batch=lambda done, total: progress(f"fine-tune, update {done} of {total}"),
    )


def described(row: Mapping[str, Any], epochs: int) -> str:
    """An epoch in one line."""
    return (
        f"epoch {row['epoch']} of {epochs}, budget {row['budget']:g}: loss {row['loss']:.4f}, "
        f"val {row['val_accuracy']:.4f}, {row['operations']:,.0f} operations, {row['seconds']:.1f} s"
    )


def _samples(args: argparse.Namespace, graph: Graph, known: TrainedOn) -> tuple[Any, Any, dict[str, Any]]:
    """(to learn from, to watch, what the record says)."""
    from avsnn.convert.finetune_data import Drawn, Given

    steps = steps_of(graph)
    if args.finetune not in EMBEDDED:
        found = labelled(args.finetune, steps=steps)
        assert found is not None
        goals = {"label": found.labels} | ({} if found.azimuth is None else {"azimuth": found.azimuth})
        given = Given.of(graph, found.inputs, goals)
        return *given.split(HELD_SHARE, np.random.default_rng(args.seed)), {"file": found.name}
    from avsnn.train.data import catalogue

    values = known.values if known.name == args.finetune else {}
    pairs = args.pairs or min(PAIRS, known.pairs or PAIRS)
    names = tuple(steps)
    if missing := sorted(set(names) - set(catalogue.find(args.finetune).modalities)):
        raise InputError("the data set has no such input", where=args.finetune, found=", ".join(missing))
    drawn = (("train", pairs), ("val", VAL_PAIRS))
    parts = [catalogue.make(args.finetune, number, split=split, values=values) for split, number in drawn]
    train, val = (Drawn(data=part, names=names) for part in parts)
    return train, val, {"name": args.finetune, "values": dict(values), "version": catalogue.find(args.finetune).version}


def write_frontier(
    args: argparse.Namespace,
    job: Retraining,
    bundle: Bundle,
    data: Labelled | None,
    profile: Profile,
    progress: Progress,
) -> None:
    """Write the frontier, if it is asked for."""
    if args.frontier is not None:
        assert data is not None  # `retraining` has looked
        progress("frontier")
        found = points(job.rungs, bundle, float_right(bundle, data), data, args.samples, profile)
        with staged(args.frontier) as folder:
            write_json(folder / "frontier.json", [point.to_json() for point in found])
            title = f"{bundle.meta['name']}, {bundle.meta['weight_bits']}-bit weights, {profile.id}"
            (folder / "frontier.md").write_text(table(found, data=data.name, profile=profile.id), encoding="utf-8")
            (folder / "frontier.svg").write_text(plot(found, title=title), encoding="utf-8")


def clear(job: Retraining) -> None:
    """Remove the state of a run whose bundle is whole."""
    shutil.rmtree(job.folder, ignore_errors=True)


def float_right(bundle: Bundle, data: Labelled) -> Array:
    """Which samples the folded network gets right."""
    folded = bundle.graph("folded")
    real = [interpret(folded, part).outputs[folded.outputs[0]] for part, _ in batches(folded, data.inputs, data.labels)]
    answers = np.concatenate(real)
    return data.right(answers, len(bundle.meta["labels"]) or answers.shape[1])


def by_source(counts: Counts) -> dict[str, float]:
    """Return stored synaptic operations per sample by the name of what sends the messages, most first."""
    found: dict[str, float] = {}
    for row in counts.synapses:
        found[row.source] = found.get(row.source, 0.0) + row.sop_stored / counts.samples
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def points(
    rungs: Sequence[Rung], bundle: Bundle, right: Array, data: Labelled, samples: int, profile: Profile
) -> list[Point]:
    """Measure the network of each budget on labelled samples.

    Args:
        rungs: the networks, largest budget first.
        bundle: the network of the last budget.
        right: which samples the float network gets right, see `float_right`.
        data: labelled samples.
        samples: on how many of them operations are counted.
        profile: prices.
    """
    found = []
    words = MemoryWords(weight_bits=bundle.meta["weight_bits"], state_bits=profile.need("state_bits"))
    for rung in rungs:
        graph, _ = schedule(rung.graph, delay_steps_max=profile.limits.delay_steps_max)
        scores = []
        for part, _labels in batches(graph, data.inputs, data.labels):
            scores.append(simulate(graph, to_integers(graph, part)).outputs[graph.outputs[0]])
        answers = np.concatenate(scores)
        mine = data.right(answers, len(bundle.meta["labels"]) or answers.shape[1])
        part, _labels = next(batches(graph, data.inputs, data.labels, samples))
        integers = to_integers(graph, part)
        counts = count(graph, {**integers, **simulate(graph, integers, record="all").spikes})
        energy = price(counts, profile, memory=words).to_json()["dynamic_pj_per_sample"]
        found.append(
            Point(
                budget=rung.budget,
                accuracy=Proportion(correct=int(mine.sum()), count=len(mine)),
                difference=PairedDifference.of(right, mine),
                operations=counts.sop_stored / counts.samples,
                by_source=by_source(counts),
                energy_pj=None if energy is None else (energy["lo"], energy["value"], energy["hi"]),
            )
        )
    return found
