"""Convert networks of the papers' own sizes, every proof included, and print time, memory and what was compared.

    OMP_NUM_THREADS=2 python benchmarks/reference_presets.py scmrl-64 spikslc

Weights are random: only shapes matter here. Norms take their statistics from random images, and their gains are raised
until every population fires, because comparing silence proves nothing. Each network runs in a process of its own, so
that its peak of memory is its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import numpy as np
import torch
from torch import nn

from avsnn.convert.ir.fixed_interpreter import to_integers
from avsnn.convert.pipeline import convert
from avsnn.deploy.executions import execute_all
from avsnn.train.models.table import find_model, make_config

PRESETS: dict[str, tuple[str, str, dict[str, Any], dict[str, tuple[int, ...]]]] = {
    "scmrl-64": ("scmrl", "reference", {}, {"image": (3, 128, 128), "audio": (1, 128, 128)}),
    "scmrl-256": ("scmrl", "reference-256", {}, {"image": (3, 128, 128), "audio": (1, 128, 128)}),
    "l2net": ("l2net", "reference", {"readout": "accumulate"}, {"image": (3, 32, 32)}),
    "smlp": (
        "smlp",
        "reference",
        {"readout": "accumulate", "frozen": False},
        {"image": (3, 32, 32), "audio": (1, 64, 431)},
    ),
    "spikslc": ("spikslc", "reference", {"scale": 2.0}, {"gcc": (16, 306), "mel": (16, 204)}),
}
"""Name to model, preset, values in place of its own, and the shapes of its inputs."""
GAIN = 2.0
"""Of norms: with less, deep layers of random weights are silent."""
THRESHOLDS = (0.5, 0.25)
"""Of neurons behind attention within a step and over time: of coincidences of random spikes there are few."""
ALIGN = 1.0
"""Standard deviation of the weights that read products of means, which are small. Without it the compiler would prove
that S-CMRL's fusion can never fire, and leave it out."""


def main() -> int:
    """Run each in its own process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"which (default all): {', '.join(PRESETS)}")
    parser.add_argument("--samples", type=int, default=2, help="compared in each proof and on the CPU simulator")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        print(json.dumps(measure(args.names[0], args.samples)))
        return 0
    for name in args.names or PRESETS:
        command = [sys.executable, __file__, name, "--inside", "--samples", str(args.samples)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{name}: failed\n{done.stderr[-2000:]}", file=sys.stderr)
            return done.returncode
        row = json.loads(done.stdout.splitlines()[-1])
        print(json.dumps(row) if args.json else " ".join(f"{key}={value}" for key, value in row.items()), flush=True)
    return 0


def build(name: str) -> tuple[nn.Module, dict[str, np.ndarray]]:
    """Return the network and eight random samples, its norms used to such."""
    model, preset, values, shapes = PRESETS[name]
    torch.manual_seed(0)
    module = find_model(model).build(make_config(model, preset, values))
    rng = np.random.default_rng(0)
    inputs = {key: rng.integers(0, 256, size=(8, *shape)) / 255 for key, shape in shapes.items()}
    for path, child in module.named_modules():
        if isinstance(child, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.constant_(child.weight, GAIN)
            child.momentum = None  # a plain mean over the passes
        elif path.endswith("attention_lif"):
            child.v_threshold = THRESHOLDS["temporal" in path]
        elif path.endswith("align.linear.module"):
            nn.init.normal_(child.weight, std=ALIGN)
    with torch.no_grad():
        module.train()(**{key: torch.as_tensor(x).float() for key, x in inputs.items()})
    return module.eval(), inputs


def measure(name: str, samples: int) -> dict[str, Any]:
    """Convert one and compare reference interpreter and CPU simulator."""
    module, inputs = build(name)
    start = time.perf_counter()
    bundle = convert(
        module, {k: x[:2] for k, x in inputs.items()}, target="loihi2", calibration=inputs, proof_samples=samples
    )
    converted = time.perf_counter() - start
    scheduled = bundle.graph("scheduled")
    integers = to_integers(scheduled, {key: x[:samples] for key, x in inputs.items()})
    done = execute_all(scheduled, integers, data="random", lava=None)
    check = done.checks[0]
    checks = bundle.record["checks"]
    return {
        "network": name,
        "parameters": sum(part.numel() for part in module.parameters()),
        "neurons": sum(int(np.prod(spikes.shape[2:])) for spikes in done.activity.spikes.values()),
        "convert_s": round(converted, 1),
        "run_and_compare_s": round(sum(done.seconds.values()), 1),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "values_compared": sum(c["compared"] for c in checks) + check.compared,
        "silent": len(check.silent),
    }


if __name__ == "__main__":
    sys.exit(main())
