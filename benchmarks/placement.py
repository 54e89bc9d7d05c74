"""Cores, chips and hops of networks on Loihi 2: measured placement against two row-major ones.

    python benchmarks/placement.py                                       # the shipped networks
    python benchmarks/placement.py examples/models/*.pt pilotnet scmrl-64 scmrl-256 --json benchmarks/placement.json

"Row by row" puts core k on tile k, "tile by tile" fills tiles with all their cores, both in the order of the network.
"At least" is a bound that no placement can go below: where both are equal, the placement is the best there is.

Names are those of `benchmarks/reference_presets.py`, ``pilotnet`` (the network in the lava-dl wheel, in the download
cache), or files. Messages are counted on calibration samples; the placement is made for them.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import time
import zipfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from avsnn.convert.core_traffic import distances, emitted, messages, place_on, sent_counts
from avsnn.convert.ir.fixed_interpreter import to_integers
from avsnn.convert.ir.fixed_nodes import FixedInput, Slice
from avsnn.convert.ir.graph import Graph
from avsnn.convert.passes.map_cores import map_cores
from avsnn.convert.passes.place_cores import place_cores
from avsnn.convert.unproved import scheduled_integers
from avsnn.deploy.backends.cpu import simulate
from avsnn.deploy.reports.cores import utilisation
from avsnn.hw_profiles.profile import load_profile
from avsnn.train.checkpoints import load

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = tuple(str(path.relative_to(ROOT)) for path in sorted((ROOT / "examples" / "models").glob("*.pt")))
WHEEL, NET = "lava_dl-0.6.0-py3-none-any.whl", "tests/lava/lib/dl/netx/gts/pilotnet_lif"
LOIHI2 = load_profile("loihi2")
KEYS = ("hops", "least_hops", "packed_hops", "row_major_hops")
FEW = 10  # cores of which all ways to share them among tiles are tried


def main() -> int:
    """Print a row per network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="networks (default: the shipped ones)")
    parser.add_argument("--samples", type=int, default=4, help="that messages are counted on")
    parser.add_argument("--json", metavar="FILE", help="write the rows there, too")
    args = parser.parse_args()
    rows = []
    for name in args.names or SHIPPED:
        rows.append(measure(name, args.samples))
        print(" ".join(f"{key}={value}" for key, value in rows[-1].items()), flush=True)
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


def render(rows: list[dict[str, Any]]) -> str:
    """The rows as a table for the README."""
    columns = ("network", "neurons", "cores", "chips", "neurons of a core, mean", "hops per sample", "at least")
    columns += ("tile by tile", "row by row")
    lines = [f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|"]
    for row in rows:
        name = f"`{row['network']}.pt`" if row["network"].endswith("-tiny") else row["network"]
        hops = (f"{row[key] / row['samples']:,.0f}" for key in KEYS)
        share = f"{100 * row['neurons_mean']:.0f} %"
        lines.append(
            f"| {name} | {row['neurons']:,} | {row['cores']} | {row['chips']} | {share} | {' | '.join(hops)} |"
        )
    return "\n".join(lines)


def measure(name: str, samples: int) -> dict[str, Any]:
    """One network: cut, placed for the messages of a run."""
    graph, inputs = network(name)
    start = time.perf_counter()
    mapped, mapping = map_cores(graph, LOIHI2)
    cut = time.perf_counter()
    direct = {node.name: node.coding == "direct" for node in graph.of(FixedInput)}
    few = {key: inputs[key][:samples] if direct[key] else inputs[key][:, :samples] for key in direct}
    spikes = simulate(graph, to_integers(graph, few), record="all").spikes
    begin = time.perf_counter()
    counts = sent_counts(emitted(graph, spikes))
    _, placed = place_cores(mapped, LOIHI2, counts)
    took = time.perf_counter() - begin
    used = utilisation(asdict(mapping))
    return {
        "network": Path(name).stem,
        "cores": len(mapping.cores),
        "chips": mapping.chips,
        "neurons": sum(core.neurons for core in mapping.cores),
        **{f"{key}_{which}": share for key, shares in used.items() for which, share in shares.items()},
        **asdict(placed),
        "least_hops": least_hops(mapped, messages(mapped, counts)),
        "samples": next(iter(spikes.values())).shape[1],
        "silent": sum(not each.any() for each in spikes.values()),
        "cut_s": round(cut - start, 2),
        "place_s": round(took, 2),
    }


def least_hops(mapped: Graph, flow: np.ndarray) -> int:
    """Hops that every placement makes at least.

    A core's messages, largest flows first, go to the nearest places there are; each flow has two ends, so half of the
    sum over cores is a bound. Of few cores, every way to share them among tiles is tried: what leaves a tile passes a
    link at least.
    """
    chip, cores = LOIHI2.limits.cores_per_chip or 0, len(flow)
    part = mapped.of(Slice)[0]
    places = tuple(place_on(replace(part, core=k), LOIHI2, k) for k in range(-(-cores // chip) * chip))
    assert LOIHI2.mesh is not None
    nearest = np.sort(distances(places, LOIHI2.mesh.tiles_x), axis=1).min(axis=0)[1:cores]
    both = flow + flow.T
    np.fill_diagonal(both, 0)
    largest = np.sort(both, axis=1)[:, :0:-1]
    bound = -(-int((largest * nearest).sum()) // 2)
    return max(bound, _shared(both, LOIHI2.mesh.cores_per_tile)) if cores <= FEW else bound


def _shared(both: np.ndarray, room: int) -> int:
    """The fewest messages between tiles of ``room`` cores each, by trying all ways to share cores among them."""
    best = int(both.sum()) // 2

    def add(core: int, tiles: list[list[int]], passed: int) -> None:
        nonlocal best
        if passed >= best:
            return
        if core == len(both):
            best = passed
            return
        before = int(both[core, :core].sum())
        for tile in tiles:
            if len(tile) < room:
                inside = int(both[core, tile].sum())
                tile.append(core)
                add(core + 1, tiles, passed + before - inside)
                tile.pop()
        add(core + 1, [*tiles, [core]], passed + before)

    add(0, [], 0)
    return best


def network(name: str) -> tuple[Graph, dict[str, np.ndarray]]:
    """Scheduled integers, and values that its inputs take."""
    if name == "pilotnet":
        return pilotnet()
    if name.endswith(".pt"):
        checkpoint = load(ROOT / name)
        return scheduled_integers(checkpoint, LOIHI2), dict(checkpoint.calibration)
    sys.path.insert(0, str(Path(__file__).parent))
    from reference_presets import build

    module, inputs = build(name)
    return scheduled_integers(module, LOIHI2, calibration=inputs), inputs


def pilotnet() -> tuple[Graph, dict[str, np.ndarray]]:
    """PilotNet LIF and its recorded image."""
    from avsnn.deploy.formats.net import read_net

    folder = Path(os.environ.get("AVSNN_WHEELS") or ROOT / ".cache" / "wheels")
    with zipfile.ZipFile(folder / WHEEL) as wheel:
        graph = read_net(io.BytesIO(wheel.read(f"{NET}/network.net")), timesteps=16, reset_interval=16)
        image = np.load(io.BytesIO(wheel.read(f"{NET}/image.npy")), allow_pickle=False).T
    return graph, {"input": image[None]}


if __name__ == "__main__":
    sys.exit(main())
