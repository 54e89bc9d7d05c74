"""What 8-bit weights cost: every shipped network against its float module, on the same test samples.

    OMP_NUM_THREADS=1 python benchmarks/quantised.py
    python benchmarks/quantised.py --show

The float answers are the module's in float32, as it was trained; the integer answers are the CPU simulator's, which the
conversion has compared with reference interpreter and Lava spike by spike. Test samples are drawn with a seed that
neither training, calibration nor any choice has seen. Writes ``benchmarks/quantised.json``; the table in the README is
rendered from it.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from avsnn.archive import replace_file
from avsnn.cli.inputs import Labelled
from avsnn.convert.accuracy import batches
from avsnn.convert.pipeline import convert
from avsnn.deploy.run import run
from avsnn.train.checkpoints import Checkpoint, load
from avsnn.train.data import catalogue
from avsnn.train.metrics import evaluate
from avsnn.train.proportion import PairedDifference, Proportion

RESULTS = Path(__file__).with_name("quantised.json")
MODELS = Path(__file__).parent.parent / "examples" / "models"
SAMPLES, SEED = 5_000, 2
PROOF_SAMPLES = 2  # `make verify-all` proves with more


def main() -> int:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="checkpoints (default: all that are shipped)")
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--weight-bits", type=int, default=8)
    parser.add_argument("--show", action="store_true", help="measure nothing, print the table of the results there are")
    args = parser.parse_args()
    if args.show:
        print(render(json.loads(RESULTS.read_text(encoding="utf-8"))))
        return 0
    rows = {}
    for path in args.files or sorted(MODELS.glob("*.pt")):
        rows[path.stem] = measure(load(path), args.samples, args.weight_bits)
        print(json.dumps({path.stem: rows[path.stem]}), file=sys.stderr)
    results = {"samples": args.samples, "seed": SEED, "split": "test", "weight_bits": args.weight_bits, "rows": rows}
    if not args.files and args.samples == SAMPLES and args.weight_bits == 8:
        replace_file(RESULTS, json.dumps(results, indent=1, sort_keys=True).encode() + b"\n")
    print(render(results))
    return 0


def measure(checkpoint: Checkpoint, samples: int, weight_bits: int) -> dict[str, Any]:
    """Return accuracy of float and integers, and their paired difference."""
    source = checkpoint.training["data"]
    data = catalogue.make(source["name"], samples, split="test", seed=SEED, values=source["values"])
    right = evaluate(checkpoint.build(), data).right
    bundle = convert(checkpoint, target="loihi2", weight_bits=weight_bits, proof_samples=PROOF_SAMPLES)
    goals = data.targets()
    known = Labelled(name=source["name"], inputs={}, labels=goals["label"], azimuth=goals.get("azimuth"))
    values = data.inputs()
    inputs = {name: values[name] for name in checkpoint.input_spec}
    parts = batches(bundle.graph("scheduled"), inputs, goals["label"], 250)
    scores = np.concatenate([run(bundle, part, backend="cpu").raw for part, _ in parts])
    whole = known.right(scores, len(checkpoint.labels))
    both = {"float": right, "quantised": whole}
    found: dict[str, Any] = {name: Proportion(correct=int(r.sum()), count=samples).record() for name, r in both.items()}
    found["difference"] = PairedDifference.of(right, whole).record()
    found["data"] = source["name"]
    return found


def render(results: dict[str, Any]) -> str:
    """Return the table of the README."""
    lines = ["| network | data | float | 8 bits | difference (paired, points) |", "| --- | --- | --- | --- | --- |"]
    for name, row in results["rows"].items():
        cells = [f"`{name}.pt`", f"`{row['data']}`"]
        for kind in ("float", "quantised"):
            low, high = row[kind]["interval95"]
            cells.append(f"{row[kind]['accuracy']:.3f} ({low:.3f} to {high:.3f})")
        low, high = (100 * edge for edge in row["difference"]["interval95"])
        cells.append(f"{100 * row['difference']['difference']:+.1f} [{low:+.1f}, {high:+.1f}]")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
