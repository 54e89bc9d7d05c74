"""Convert the shipped network, run it on the frozen test pairs, print accuracy, operations and energy.

    python examples/01_convert_and_run.py [CHECKPOINT]

Everything happens in memory, for the target ``cpu`` (wide integers, no chip limits), and needs no Lava.
"""

from __future__ import annotations

import sys
from pathlib import Path

from avsnn.convert.pipeline import convert
from avsnn.deploy.reports.counts import count
from avsnn.deploy.reports.energy import price, render
from avsnn.deploy.run import run
from avsnn.hw_profiles.profile import load_profile
from avsnn.train.checkpoints import load
from avsnn.train.data.avdigits import frozen
from avsnn.train.proportion import Proportion

MODEL = Path(__file__).resolve().parent / "models" / "avdigits-tiny.pt"
COUNTED = 32  # pairs whose every spike is kept to count operations; all of them are used for the accuracy


def main() -> int:
    """Convert, run, count, price."""
    checkpoint = load(sys.argv[1] if len(sys.argv) > 1 else MODEL)

    # Every step is proved before the next one begins; a step that changed the network would raise VerifyError here.
    bundle = convert(checkpoint, target="cpu", progress=lambda step: print(f"  {step}", file=sys.stderr))
    for check in bundle.record["checks"]:
        print(f"{check['name']:32} {check['data']:14} {check['compared']:>12,} values, {check['mismatches']} differ")

    pairs = frozen()
    answers = run(bundle, pairs.inputs()).raw.argmax(axis=1)
    print(f"\naccuracy of the integers: {Proportion(correct=int((answers == pairs.label).sum()), count=len(pairs))}")

    # Spikes and states are kept on request: they are large.
    activity = run(bundle, pairs[:COUNTED].inputs(), record="all").spikes
    counts = count(bundle.graph("scheduled"), activity, driven=True)
    print(f"\nper pair, mean of {COUNTED}:")
    print(f"  {counts.sop_stored // COUNTED:,} synaptic operations, {counts.sop_nonzero // COUNTED:,} of weights not 0")
    print(f"  {counts.neuron_updates // COUNTED:,} neuron updates, {counts.spikes // COUNTED:,} spikes")
    for name in ("loihi2", "loihi1"):
        print(f"\n{render(price(counts, load_profile(name)))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
