"""Rate against accuracy: S-CMRL tiny, fine-tuned for fewer and fewer synaptic operations, on the same test samples.

    OMP_NUM_THREADS=1 python benchmarks/frontier.py
    python benchmarks/frontier.py --show

The first network is the quantised one, untrained; each budget starts from the network of the one above. Operations are
counted exactly on the first test samples, energy is priced from them, accuracy is measured on all, and on validation
samples as well: these have the voices of the training samples, the test has one of its own. A run that was stopped goes
on (``--work``). Writes ``benchmarks/frontier.json`` and ``benchmarks/frontier.svg``; the tables in the README are
rendered from the former.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from avsnn.archive import replace_file
from avsnn.cli.finetune import points
from avsnn.cli.inputs import Labelled
from avsnn.convert.finetune import Retraining, Rung
from avsnn.convert.finetune_data import Drawn
from avsnn.convert.finetune_loop import Options
from avsnn.convert.pipeline import convert
from avsnn.deploy.reports.frontier import Point, plot
from avsnn.deploy.reports.interval import Interval, format_interval
from avsnn.hw_profiles.profile import load_profile
from avsnn.train.checkpoints import load
from avsnn.train.data import catalogue
from avsnn.train.metrics import evaluate

RESULTS = Path(__file__).with_name("frontier.json")
MODEL = Path(__file__).parent.parent / "examples" / "models" / "scmrl-tiny.pt"
SAMPLES, SEED, VAL, COUNTED = 5_000, 2, 1_000, 100
KNOWN, KNOWN_SEED = 2_000, 3
PAIRS, EPOCHS, LADDER, BUDGET = 16_000, 1, (0.8, 0.65, 0.55, 0.5), 0.35
LR, SURROGATE = 4e-3, "sigmoid"
PROOF_SAMPLES = 2
SHOWN = 6


def main() -> int:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--work", type=Path, default=Path("runs/frontier"), help="folder for the state of the run")
    parser.add_argument("--show", action="store_true", help="measure nothing, print the table of the results there are")
    args = parser.parse_args()
    if not args.show:
        _measure(args.samples, args.work)
    print(render(json.loads(RESULTS.read_text(encoding="utf-8"))))
    return 0


def _measure(samples: int, work: Path) -> None:
    checkpoint = load(MODEL)
    source, names = checkpoint.training["data"], tuple(checkpoint.input_spec)

    def draw(split: str, count: int, seed: int | None = None) -> Any:
        return catalogue.make(source["name"], count, split=split, seed=seed, values=source["values"])

    job = Retraining(
        train=Drawn(data=draw("train", PAIRS), names=names),
        val=Drawn(data=draw("val", VAL), names=names),
        classes=len(checkpoint.labels),
        options=Options(epochs=EPOCHS, sop_budget=BUDGET, lr=LR, surrogate=SURROGATE),
        folder=work,
        resume=True,
        ladder=LADDER,
        on_epoch=lambda row: print(json.dumps(row), file=sys.stderr),
    )
    bundle = convert(checkpoint, target="loihi2", proof_samples=PROOF_SAMPLES, finetune=job)
    begun = convert(checkpoint, target="loihi2", proof_samples=PROOF_SAMPLES).graph("quantised")
    rungs = [Rung(budget=1.0, graph=begun), *job.rungs]
    module, profile = checkpoint.build(), load_profile("loihi2")

    def measured(split: str, count: int, seed: int) -> tuple[float, list[Point]]:
        data = draw(split, count, seed)
        values = data.inputs()
        known = Labelled(
            name=source["name"], inputs={name: values[name] for name in names}, labels=data.targets()["label"]
        )
        right = evaluate(module, data).right
        return float(right.mean()), points(rungs, bundle, right, known, COUNTED, profile)

    real, found = measured("test", samples, SEED)
    real_known, found_known = measured("val", min(samples, KNOWN), KNOWN_SEED)
    results = {
        "float": real,
        "samples": samples,
        "seed": SEED,
        "pairs": PAIRS,
        "epochs": EPOCHS,
        "points": [point.to_json() for point in found],
        "known_voices": {
            "float": real_known,
            "samples": KNOWN,
            "seed": KNOWN_SEED,
            "points": [p.to_json() for p in found_known],
        },
    }
    if samples == SAMPLES:
        replace_file(RESULTS, json.dumps(results, indent=1).encode() + b"\n")
        svg = plot(found, title="scmrl-tiny, 8-bit weights, loihi2")
        replace_file(RESULTS.with_suffix(".svg"), svg.encode())


def render(results: dict[str, Any]) -> str:
    """Return the tables of the README: accuracy of each budget, and what sends the operations that are left."""
    voices = "a voice of its own", "voices of training"
    lines = [
        f"| budget | SOP per sample | accuracy, {voices[0]} | to float | accuracy, {voices[1]} | to float | energy |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for point, known in zip(results["points"], results["known_voices"]["points"], strict=True):
        bottom, value, top = point["energy_pj_per_sample"]
        energy = format_interval(Interval(value=value, lo=bottom, hi=top))
        lines.append(
            f"| {100 * point['budget']:.0f} % | {point['operations_per_sample']:,.0f} | {_accuracy(point)} | "
            f"{_accuracy(known)} | {energy} |"
        )
    return "\n".join([*lines, "", *_sources(results["points"])])


def _accuracy(point: dict[str, Any]) -> str:
    """Accuracy, and the paired difference in points."""
    low, high = (100 * edge for edge in point["difference"]["interval95"])
    difference = 100 * point["difference"]["difference"]
    return f"{point['accuracy']['accuracy']:.3f} | {difference:+.1f} [{low:+.1f}, {high:+.1f}]"


def _sources(found: list[dict[str, Any]]) -> list[str]:
    """Whose spikes the operations are: the share of the first network, and how much of it each budget leaves."""
    first = found[0]["operations_by_source"]
    whole, budgets = sum(first.values()), [f"{100 * point['budget']:.0f} %" for point in found[1:]]
    lines = [f"| operations of spikes from | share | {' | '.join(f'left at {budget}' for budget in budgets)} |"]
    lines.append("| --- |" + " --- |" * len(found))
    most = list(first)[:SHOWN]
    for title, names in [
        *((f"`{name}`", [name]) for name in most),
        ("all others", [n for n in first if n not in most]),
    ]:
        sums = [sum(point["operations_by_source"].get(name, 0.0) for name in names) for point in found]
        left = " | ".join(f"{100 * part / sums[0]:.0f} %" for part in sums[1:])
        lines.append(f"| {title} | {100 * sums[0] / whole:.0f} % | {left} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
