"""Train the small network of each paper again, on data that comes with avsnn, and test it.

    OMP_NUM_THREADS=1 python examples/models/train_networks.py scmrl-tiny l2net-tiny --out runs/networks

Without names all are trained: about 45 minutes on one free core. Stop it at any time: the same command goes on after
the last finished epoch. ``avsnn-convert`` takes what comes out. (`avdigits-tiny.pt` is `train_tiny.py`'s.)
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from avsnn.train import plans, runs
from avsnn.train.loop import Options, Row

TEST_SAMPLES = 4_000
_DIGITS = Options(epochs=8, batch=32, lr=1e-2, shift=1)
_COUNTS: dict[str, Any] = {"readout": "accumulate"}  # the same winner without a norm at run time
_BACKBONES = {"image_checkpoint": "l2net-tiny", "audio_checkpoint": "audio-snn-tiny"}
NETWORKS = {
    "scmrl-tiny": plans.Plan(model="scmrl", preset="tiny-fused", pairs=16_000, options=_DIGITS),
    "l2net-tiny": plans.Plan(model="l2net", values=_COUNTS, pairs=16_000, options=replace(_DIGITS, epochs=16)),
    "audio-snn-tiny": plans.Plan(model="audio-snn", values=_COUNTS, pairs=16_000, options=replace(_DIGITS, epochs=16)),
    "smlp-tiny": plans.Plan(
        model="smlp", values={**_COUNTS, "frozen": True}, pairs=16_000, options=replace(_DIGITS, epochs=6)
    ),
    "spikslc-tiny": plans.Plan(
        model="spikslc", data="sloclas-sim", pairs=12_000, options=Options(epochs=20, batch=32, lr=5e-3)
    ),
}


def main() -> int:
    """Train, test, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"which (default all): {', '.join(NETWORKS)}")
    parser.add_argument("--out", type=Path, default=Path("runs/networks"), help="folder of the runs")
    parser.add_argument("--target", type=Path, default=Path("examples/models"), help="folder of the checkpoints")
    args = parser.parse_args()
    for name in args.names or NETWORKS:
        if name not in NETWORKS:
            parser.error(f"no network {name}; there are: {', '.join(NETWORKS)}")
        trained = train(name, args.out / name, args.target)
        seen = runs.measure(trained, pairs=TEST_SAMPLES)
        test: dict[str, Any] = {"split": "test", "seed": runs.TEST_SEED, **seen.accuracy.record()}
        if seen.localisation is not None:
            test["localisation"] = seen.localisation.record()
        reproduce = f"python examples/models/train_networks.py {name}"
        changes = {"test": test, "reproduce": reproduce, "test_rates": seen.rates}
        print(runs.amend(trained, args.target / f"{name}.pt", changes), f"test {seen.score}")
    return 0


def train(name: str, out: Path, models: Path) -> Path:
    """Train one network, or go on with it; returns its checkpoint. What it is built on lies in ``models``."""
    plan = NETWORKS[name]
    if plan.model == "smlp":
        files = {field: str(models / f"{backbone}.pt") for field, backbone in _BACKBONES.items()}
        plan = replace(plan, values={**plan.values, **files})
    if not (out / plans.PLAN).exists():
        plans.begin(plan, out)
    elif plans.recall(out).command() != plan.command():
        raise SystemExit(f"{out} holds another run; pass another --out")

    def show(row: Row) -> None:
        print(f"{name} epoch {row['epoch']}: loss {row['loss']:.3f}, val {row['val_accuracy']:.4f}", file=sys.stderr)

    return runs.execute(plan, out, on_epoch=show).checkpoint


if __name__ == "__main__":
    sys.exit(main())
