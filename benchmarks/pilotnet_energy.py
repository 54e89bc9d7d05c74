"""PilotNet LIF priced with the constants of both Loihis, beside what Intel measured on a Loihi 2.

    python benchmarks/pilotnet_energy.py --json benchmarks/pilotnet_energy.json     # a minute

The network and its recorded spikes come from the lava-dl wheel in the download cache; they are counted over the 24
recorded steps, and an inference is 16 of them. Intel's notebook measured the same network, on a frame that is not known
to be the recorded one. No constant was chosen for this comparison but those of ``loihi2``, which were fitted to it.
Messages, links and the busiest core are those of our own mapping on a Loihi 2 with no core larger than Intel's largest;
every profile prices that one, as if its constants were those of the chip that was measured.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import zipfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from avsnn.convert.ir.fixed_nodes import FixedLIF
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array
from avsnn.convert.passes.map_cores import map_cores
from avsnn.convert.passes.place_cores import place_cores
from avsnn.deploy.backends.cpu import simulate
from avsnn.deploy.formats.net import read_net
from avsnn.deploy.reports.core_counts import CoreCount, CoreCounts, Routes, core_counts, messages_sent
from avsnn.deploy.reports.counts import Counts, PopulationCount, SynapseCount, count
from avsnn.deploy.reports.energy import price
from avsnn.deploy.reports.interval import Interval
from avsnn.hw_profiles.profile import Profile, load_profile
from avsnn.hw_profiles.schema import Mesh

ROOT = Path(__file__).resolve().parents[1]
WHEEL, FOLDER = "lava_dl-0.6.0-py3-none-any.whl", "tests/lava/lib/dl/netx/gts/pilotnet_lif"
PROFILES = {
    "loihi1": "Davies 2018, simulated before silicon",
    "loihi1-sanafe": "SANA-FE's fit of Loihi 1",
    "loihi2": "fitted to this very measurement: no validation",
}
RECORDINGS = {"layer0": "input", "layer1": "conv-0", "layer2": "conv-1", "layer3": "conv-2", "layer4": "conv-3",
              "layer5": "conv-4", "layer7": "fc-0", "layer8": "fc-1", "layer9": "fc-2"}  # fmt: skip
RECORDED, STEPS = 24, 16
GOLDEN = {"sop_stored": 72_845_070, "sop_nonzero": 61_653_639, "neuron_updates": 24 * 158_509, "spikes": 1_118_521}
"""Of the 24 recorded steps; recomputed independently before this package existed."""
MJ, UNITS = 1e9, ("value", "lo", "hi")  # pJ
CORES = 74  # that Intel's compiler took
LARGEST = 3168  # neurons of its largest core


def main() -> int:
    """Count, compare with the golden integers, price, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    folder = Path(os.environ.get("AVSNN_WHEELS") or ROOT / ".cache" / "wheels")
    args = parser.parse_args()
    with zipfile.ZipFile(folder / WHEEL) as wheel:
        (recorded, cores), simulated = counted(wheel), one_frame(wheel)
    found = {name: getattr(recorded, name) for name in GOLDEN}
    if found != GOLDEN:
        print(f"counts differ from the golden integers: {found}", file=sys.stderr)
        return 1
    result = evaluate(totals(recorded), cores) | {"simulated_frame": totals(simulated)}
    print(render(result))
    print("\n".join(notes(result)))
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


def counted(wheel: zipfile.ZipFile) -> tuple[Counts, CoreCounts]:
    """Operations of the recorded spikes, and what cores did of them."""
    graph, spikes = recording(wheel)
    loihi2 = load_profile("loihi2")
    chip = replace(loihi2, limits=replace(loihi2.limits, neurons_per_core=LARGEST))
    sent = messages_sent(graph, spikes) | {"input": np.zeros(graph["input"].shape, np.int64)}  # layer0 has the spikes
    mapped, _ = place_cores(map_cores(graph, chip)[0], chip, sent)
    return count(graph, spikes, driven=True), core_counts(mapped, sent, chip, samples=1, steps=RECORDED)


def recording(wheel: zipfile.ZipFile) -> tuple[Graph, dict[str, Array]]:
    """The network, and what was recorded of it, step by step as it was."""
    graph = read_net(io.BytesIO(wheel.read(f"{FOLDER}/network.net")), timesteps=RECORDED, reset_interval=STEPS)
    graph = graph.with_nodes(replace(n, offset=0) if isinstance(n, FixedLIF) else n for n in graph)
    spikes = {name: _array(wheel, file)[:, None].astype(bool) for name, file in RECORDINGS.items()}
    spikes["layer10"] = np.zeros((RECORDED, 1, 1), bool)  # its recording is from another run; nothing reads it
    return graph, spikes


def one_frame(wheel: zipfile.ZipFile) -> Counts:
    """Operations of one inference of the recorded image, simulated."""
    graph: Graph = read_net(io.BytesIO(wheel.read(f"{FOLDER}/network.net")), timesteps=STEPS, reset_interval=STEPS)
    run = simulate(graph, {"input": _array(wheel, "image")[None]}, record="all")
    return count(graph, run.spikes, driven=True)


def _array(wheel: zipfile.ZipFile, name: str) -> Array:
    """Time first, features as (C, H, W)."""
    values: Array = np.load(io.BytesIO(wheel.read(f"{FOLDER}/{name}.npy")), allow_pickle=False)
    return values.T


def totals(counts: Counts) -> dict[str, Any]:
    """What prices depend on."""
    names = (*GOLDEN, "events", "neurons", "driven", "samples", "steps")
    return {name: getattr(counts, name) for name in names}


def counts_of(total: dict[str, Any]) -> Counts:
    """Counts with these totals, in one row of each kind."""
    synapse = SynapseCount(
        name="all", source="all", targets=("all",), role="neuron", weights=0, connections=0, connections_nonzero=0,
        events=total["events"], events_graded=0, sop_stored=total["sop_stored"], sop_nonzero=total["sop_nonzero"],
        sop_graded=0, sop_by_sample=(total["sop_stored"],),
    )  # fmt: skip
    population = PopulationCount(
        name="all", role="neuron", neurons=total["neurons"], updates=total["neuron_updates"], driven=total["driven"],
        spikes=total["spikes"],
    )  # fmt: skip
    return Counts(synapses=(synapse,), populations=(population,), hosts=(), samples=1, steps=total["steps"])


def cores_of(held: dict[str, Any]) -> CoreCounts:
    """What `evaluate` wrote of cores, one of which stands for all: enough for energies, not for times."""
    table = {key: value for key, value in held.items() if key != "number"}
    parts = {"cores": tuple(CoreCount(**row) for row in held["cores"]), "mesh": Mesh(**held["mesh"])}
    return CoreCounts(**table | parts | {"routes": Routes(**held["routes"])})


def evaluate(total: dict[str, Any], cores: CoreCounts) -> dict[str, Any]:
    """Prices of an inference with every profile, beside the measurement."""
    record = load_profile("loihi2").measurements[0]
    assert record.dynamic_mj is not None
    assert record.total_mj is not None
    assert record.latency_ms is not None
    counts, share = counts_of(total), STEPS / total["steps"]
    convention = price(counts, load_profile("cmos45")).literature
    assert convention is not None
    return {
        "recorded": total,
        "cores": asdict(cores) | {"cores": [asdict(cores.cores[0])], "number": len(cores.cores)},
        "measured": {"dynamic_mj": record.dynamic_mj, "total_mj": record.total_mj, "latency_ms": record.latency_ms},
        "profiles": {name: _priced(counts, cores, load_profile(name), share, record.latency_ms) for name in PROFILES},
        "literature_mj": convention.energy_pj * share / MJ,
    }


def _priced(counts: Counts, cores: CoreCounts, profile: Profile, share: float, latency_ms: float) -> dict[str, Any]:
    """One profile: dynamic energy; with static power over the measured time; the bound of the time itself."""
    cores = replace(cores, profile=profile.id)
    seconds = latency_ms / 1e3
    report = price(counts, profile, latency_s=seconds, cores_used=CORES, cores=cores)
    bound = price(counts, profile, cores=cores).latency
    assert report.dynamic is not None
    assert bound is not None
    dynamic = report.dynamic.scaled(share / MJ)
    whole = report.static[0].energy.scaled(1 / MJ)
    terms = {term.name: term.energy.value * share / MJ for term in report.terms}
    return {
        "dynamic_mj": asdict(dynamic),
        "total_mj": asdict(dynamic + whole),
        "terms_mj": terms,
        "evidence": report.evidence,
        "label": report.label,
        "latency_bound_ms": asdict(bound.seconds.scaled(share * 1e3)),
        "latency_set_by": bound.sets,
    }


def render(result: dict[str, Any]) -> str:
    """A row per profile, for the README."""
    measured = result["measured"]["dynamic_mj"]
    lines = [
        f"| constants | dynamic energy of an inference (measured {measured:.2f} mJ) | over measured | unpriced "
        f"| time at least (measured {result['measured']['latency_ms']:.2f} ms) |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, about in PROFILES.items():
        row = result["profiles"][name]
        value, lo, hi = (row["dynamic_mj"][key] for key in UNITS)
        ratios = [f"{energy / measured:.2f}" for energy in (value, lo, hi)]
        unpriced = row["label"].removeprefix("partial, unpriced: ").replace("complete", "nothing")
        lines.append(
            f"| `{name}`: {about} | {value:.2f} mJ ({lo:.2f} to {hi:.2f}) | {ratios[0]} ({ratios[1]} to {ratios[2]}) "
            f"| {unpriced} | {_time(name, row)} |"
        )
    share = result["literature_mj"] / measured
    lines.append(
        f"| 0.9 pJ per accumulate (the papers' convention) | {result['literature_mj']:.3f} mJ "
        f"| {share:.2f}, {1 / share:.0f} times too little | all but accumulates | |"
    )
    return "\n".join(lines)


def _time(name: str, row: dict[str, Any]) -> str:
    """Only Loihi 2's circuits ran."""
    return f"{row['latency_bound_ms']['value']:.2f} ms" if name == "loihi2" else "another chip"


def notes(result: dict[str, Any]) -> list[str]:
    """What the table leaves out."""
    measured, cores = result["measured"], result["cores"]
    lines = [f"{cores['number']} cores of at most {LARGEST} neurons; Intel's compiler took {CORES}"]
    for name, row in result["profiles"].items():
        dynamic, total, bound = Interval(**row["dynamic_mj"]), row["total_mj"], row["latency_bound_ms"]
        low, high = (100 * (end / measured["dynamic_mj"] - 1) for end in (dynamic.lo, dynamic.hi))
        holds = "holds" if dynamic.holds(measured["dynamic_mj"]) else "misses"
        taken, all_mj = measured["latency_ms"], measured["total_mj"]
        span = f"{total['lo']:.2f} to {total['hi']:.2f}"
        lines += [
            f"{name}: the interval {holds} the measurement, from {low:+.2f} % to {high:+.2f} %; {row['evidence']}",
            f"  with static power over the {taken} ms measured {total['value']:.2f} mJ ({span}), "
            f"{total['value'] / all_mj:.2f} of {all_mj} mJ measured",
            f"  time at least {bound['value']:.2f} ms, {bound['value'] / taken:.2f} of what Loihi 2 took, "
            f"set by {row['latency_set_by']}",
        ]
    frame, share = result["simulated_frame"], STEPS / RECORDED
    lines.append(
        f"one simulated inference of the recorded image: {frame['sop_stored']:,} stored operations against "
        f"{result['recorded']['sop_stored'] * share:,.0f} in 16 of the 24 recorded steps"
    )
    return lines


if __name__ == "__main__":
    sys.exit(main())
