"""Rate against accuracy: S-CMRL tiny, fine-tuned for fewer and fewer synaptic operations, on the same test samples.

    OMP_NUM_THREADS=1 python benchmarks/frontier.py
    python benchmarks/frontier.py --show

Each budget starts from the network of the one above. Operations are counted exactly on the first test samples, energy
is priced from them, accuracy is measured on all. A run that was stopped goes on (``--work``). Writes
``benchmarks/frontier.json`` and ``benchmarks/frontier.svg``; the table in the README is rendered from the former.
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
from avsnn.convert.finetune import Retraining
from avsnn.convert.finetune_data import Drawn
from avsnn.convert.finetune_loop import Options
from avsnn.convert.pipeline import convert
from avsnn.deploy.reports.frontier import plot
from avsnn.deploy.reports.interval import Interval, format_interval
from avsnn.hw_profiles.profile import load_profile
from avsnn.train.checkpoints import load
from avsnn.train.data import catalogue
from avsnn.train.metrics import evaluate

RESULTS = Path(__file__).with_name("frontier.json")
MODEL = Path(__file__).parent.parent / "examples" / "models" / "scmrl-tiny.pt"
SAMPLES, SEED, VAL, COUNTED = 2_000, 2, 1_000, 100
PAIRS, EPOCHS, LADDER, BUDGET = 6_000, 1, (1.0, 0.8, 0.65), 0.5
PROOF_SAMPLES = 2


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
        options=Options(epochs=EPOCHS, sop_budget=BUDGET),
        folder=work,
        resume=True,
        ladder=LADDER,
        on_epoch=lambda row: print(json.dumps(row), file=sys.stderr),
    )
    bundle = convert(checkpoint, target="loihi2", proof_samples=PROOF_SAMPLES, finetune=job)
    data = draw("test", samples, SEED)
    goals, values = data.targets(), data.inputs()
    known = Labelled(name=source["name"], inputs={name: values[name] for name in names}, labels=goals["label"])
    right = evaluate(checkpoint.build(), data).right
    found = points(job, bundle, right, known, COUNTED, load_profile("loihi2"))
    results = {
        "float": float(right.mean()),
        "samples": samples,
        "seed": SEED,
        "pairs": PAIRS,
        "epochs": EPOCHS,
        "points": [point.to_json() for point in found],
    }
    if samples == SAMPLES:
        replace_file(RESULTS, json.dumps(results, indent=1, sort_keys=True).encode() + b"\n")
        svg = plot(found, title="scmrl-tiny, 8-bit weights, loihi2")
        replace_file(RESULTS.with_suffix(".svg"), svg.encode())


def render(results: dict[str, Any]) -> str:
    """Return the table of the README."""
    lines = ["| budget | SOP per sample | accuracy | against float (paired, points) | energy per sample (estimate) |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for point in results["points"]:
        low, high = (100 * edge for edge in point["difference"]["interval95"])
        bottom, value, top = point["energy_pj_per_sample"]
        energy = format_interval(Interval(value=value, lo=bottom, hi=top))
        lines.append(
            f"| {100 * point['budget']:.0f} % | {point['operations_per_sample']:,.0f} | "
            f"{point['accuracy']['accuracy']:.3f} | {100 * point['difference']['difference']:+.1f} "
            f"[{low:+.1f}, {high:+.1f}] | {energy} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
