"""Train the shipped `avdigits-tiny.pt` again: the fused network and each modality alone, then test all three.

    python examples/models/train_tiny.py --out runs/tiny --target examples/models/avdigits-tiny.pt

About 20 minutes on one free core. Stop it at any time: the same command goes on after the last finished epoch. The
three networks have trunks of the same size and are trained alike; test pairs are drawn once, at the end, for all three.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from avsnn.train import plans, runs
from avsnn.train.loop import Options, Row

TEST_PAIRS = 4_000
MODALITIES = {"fused": ["image", "audio"], "image": ["image"], "audio": ["audio"]}


def main() -> int:
    """Train, test, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/tiny"), help="folder of the three runs")
    parser.add_argument("--target", type=Path, default=Path("examples/models/avdigits-tiny.pt"))
    args = parser.parse_args()
    trained = {name: train(name, args.out / name) for name in MODALITIES}
    tests = {name: runs.measure(path, pairs=TEST_PAIRS).accuracy for name, path in trained.items()}
    for name, accuracy in tests.items():
        print(f"{name}: test accuracy {accuracy}")
    record = {name: accuracy.record() for name, accuracy in tests.items()}
    test = {"split": "test", "seed": runs.TEST_SEED, **record}
    reproduce = "python examples/models/train_tiny.py"
    print(runs.amend(trained["fused"], args.target, {"test": test, "reproduce": reproduce}))
    return 0


def train(name: str, out: Path) -> Path:
    """Train one of the three, or go on with it; returns its checkpoint."""
    plan = plans.Plan(
        values={"modalities": MODALITIES[name]}, pairs=16_000, options=Options(epochs=8, batch=32, lr=1e-2, shift=1)
    )
    if not (out / plans.PLAN).exists():
        plans.begin(plan, out)
    elif plans.recall(out) != plan:
        raise SystemExit(f"{out} holds another run; pass another --out")

    def show(row: Row) -> None:
        print(f"{name} epoch {row['epoch']}: loss {row['loss']:.3f}, val {row['val_accuracy']:.4f}", file=sys.stderr)

    return runs.execute(plan, out, on_epoch=show).checkpoint


if __name__ == "__main__":
    sys.exit(main())
