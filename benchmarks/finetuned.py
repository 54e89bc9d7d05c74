"""What fine-tuning recovers of few weight bits: networks of the papers against their float modules, same test samples.

    OMP_NUM_THREADS=1 python benchmarks/finetuned.py
    python benchmarks/finetuned.py scmrl-tiny --bits 4
    python benchmarks/finetuned.py --show

Each network is converted with its integers trained (`avsnn.convert.finetune`), and the same network without training
beside it. The float answers are the module's in float32; the integer answers are the CPU simulator's on the scheduled
graph, and the first samples run in Lava as well, every spike and state compared. Test samples are drawn with a seed
that neither training nor any choice has seen. A run that was stopped goes on (``--work``). Writes
``benchmarks/finetuned.json`` after every network; the table in the README is rendered from it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from avsnn.archive import replace_file
from avsnn.cli.inputs import Labelled
from avsnn.convert.accuracy import batches
from avsnn.convert.bundle import Bundle
from avsnn.convert.finetune import Retraining
from avsnn.convert.finetune_data import Drawn
from avsnn.convert.finetune_loop import Options
from avsnn.convert.ir.fixed_interpreter import to_integers
from avsnn.convert.pipeline import convert
from avsnn.deploy.executions import execute_all
from avsnn.deploy.exports.lava import write_lava
from avsnn.deploy.run import run
from avsnn.train.checkpoints import Checkpoint, load
from avsnn.train.data import catalogue
from avsnn.train.metrics import evaluate
from avsnn.train.proportion import PairedDifference, Proportion

RESULTS = Path(__file__).with_name("finetuned.json")
MODELS = Path(__file__).parent.parent / "examples" / "models"
SAMPLES, SEED, VAL = 5_000, 2, 1_000
PROOF_SAMPLES = 2  # `make verify-all` proves with more
LAVA_SAMPLES = 8
TUNING = {  # samples drawn, epochs
    "scmrl-tiny": (6_000, 2),
    "l2net-tiny": (12_000, 3),
    "audio-snn-tiny": (12_000, 3),
    "spikslc-tiny": (12_000, 3),
}
BITS = (6, 4)
RATES = {6: 5e-4, 4: 1e-3, 2: 2e-3}  # fewer bits have further to go


def main() -> int:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"which (default all): {', '.join(TUNING)}")
    parser.add_argument("--bits", type=int, action="append", choices=sorted(RATES), help="default 6 and 4")
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--work", type=Path, default=Path("runs/finetuned"), help="folder for the state of runs")
    parser.add_argument("--show", action="store_true", help="measure nothing, print the table of the results there are")
    args = parser.parse_args()
    if not args.show:
        for name in args.names or TUNING:
            for bits in args.bits or BITS:
                row = measure(load(MODELS / f"{name}.pt"), name, bits, args.samples, args.work / f"{name}-{bits}")
                print(json.dumps({f"{name}, {bits} bits": row}), file=sys.stderr)
                if args.samples == SAMPLES:
                    _keep(name, bits, row)
    print(render(_results()))
    return 0


def measure(checkpoint: Checkpoint, name: str, bits: int, samples: int, work: Path) -> dict[str, Any]:
    """Return accuracy of float, of integers as quantised and as fine-tuned, and paired differences to float."""
    source, (pairs, epochs) = checkpoint.training["data"], TUNING[name]
    names = tuple(checkpoint.input_spec)

    def draw(split: str, count: int, seed: int | None = None) -> Any:
        return catalogue.make(source["name"], count, split=split, seed=seed, values=source["values"])

    job = Retraining(
        train=Drawn(data=draw("train", pairs), names=names),
        val=Drawn(data=draw("val", VAL), names=names),
        classes=len(checkpoint.labels),
        options=Options(epochs=epochs, lr=RATES[bits]),
        folder=work,
        resume=True,
        on_epoch=lambda row: print(json.dumps({name: bits, **row}), file=sys.stderr),
    )
    tuned = convert(checkpoint, target="loihi2", weight_bits=bits, proof_samples=PROOF_SAMPLES, finetune=job)
    plain = convert(checkpoint, target="loihi2", weight_bits=bits, proof_samples=PROOF_SAMPLES)
    data = draw("test", samples, SEED)
    goals, values = data.targets(), data.inputs()
    inputs = {key: values[key] for key in names}
    known = Labelled(name=source["name"], inputs=inputs, labels=goals["label"], azimuth=goals.get("azimuth"))
    right = {"float": evaluate(checkpoint.build(), data).right}
    right |= {"quantised": _right(plain, known), "finetuned": _right(tuned, known)}
    found: dict[str, Any] = {key: Proportion(correct=int(r.sum()), count=samples).record() for key, r in right.items()}
    for key in ("quantised", "finetuned"):
        found[f"{key}_difference"] = PairedDifference.of(right["float"], right[key]).record()
    found |= {"data": source["name"], "pairs": pairs, "epochs": epochs, "lr": RATES[bits]}
    found["compared_with_lava"] = _compared(tuned, known)
    return found


def _right(bundle: Bundle, data: Labelled) -> Any:
    parts = batches(bundle.graph("scheduled"), data.inputs, data.labels, 250)
    scores = np.concatenate([run(bundle, part, backend="cpu").raw for part, _ in parts])
    return data.right(scores, len(bundle.meta["labels"]))


def _compared(bundle: Bundle, data: Labelled) -> int:
    """Values on which reference, simulator and Lava agree; any difference is an error."""
    scheduled = bundle.graph("scheduled")
    part, _ = next(batches(scheduled, data.inputs, data.labels, LAVA_SAMPLES))
    with tempfile.TemporaryDirectory(prefix="avsnn-") as folder:
        write_lava(scheduled, Path(folder) / "lava")
        done = execute_all(
            scheduled, to_integers(scheduled, part), data=data.name, lava=Path(folder) / "lava", timeout_s=3600
        )
    return sum(check.compared for check in done.checks)


def _results() -> dict[str, Any]:
    if not RESULTS.exists():
        return {"samples": SAMPLES, "seed": SEED, "split": "test", "rows": {}}
    found: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return found


def _keep(name: str, bits: int, row: dict[str, Any]) -> None:
    results = _results()
    results["rows"].setdefault(name, {})[str(bits)] = row
    replace_file(RESULTS, json.dumps(results, indent=1, sort_keys=True).encode() + b"\n")


def render(results: dict[str, Any]) -> str:
    """Return the table of the README."""
    lines = ["| network | bits | float | quantised (paired, points) | fine-tuned (paired, points) |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for name, by_bits in results["rows"].items():
        for bits in sorted(by_bits, key=int, reverse=True):
            row = by_bits[bits]
            cells = [f"`{name}.pt`", bits, f"{row['float']['accuracy']:.3f}"]
            for key in ("quantised", "finetuned"):
                difference = row[f"{key}_difference"]
                low, high = (100 * edge for edge in difference["interval95"])
                gap = f"{100 * difference['difference']:+.1f} [{low:+.1f}, {high:+.1f}]"
                cells.append(f"{row[key]['accuracy']:.3f}, {gap}")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
