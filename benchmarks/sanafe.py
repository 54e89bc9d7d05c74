"""Dynamic energy of three small networks against SANA-FE, a simulator of neuromorphic chips by other authors.

    make sanafe

SANA-FE (GPL-3.0) is a program of its own here: it runs in its own environment, reads files that are written for it, and
nothing of this package is linked with it. Both get the same networks, mapping, input spikes and constants, those of
the profile ``loihi1-sanafe``. First every spike must be the same, in every step; then energies are compared, and what
differs is taken apart until nothing is left:

- SANA-FE also simulates the steps in which the pipeline fills and drains, in which neurons are visited as well.
- It updates a neuron that something arrives at, as we do, and besides one whose potential is not 0.
- Inputs lie on a core of the chip there, so that their messages pass links; here they come from outside.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array
from avsnn.convert.passes.map_cores import map_cores
from avsnn.convert.passes.place_cores import place_cores
from avsnn.convert.passes.schedule import depth, schedule
from avsnn.deploy.backends.base import Execution
from avsnn.deploy.backends.cpu import simulate
from avsnn.deploy.reports.core_counts import CoreCounts, core_counts, messages_sent
from avsnn.deploy.reports.counts import Counts, count
from avsnn.deploy.reports.energy import price
from avsnn.deploy.reports.fanout import reached
from avsnn.hw_profiles.fixed_point import UNITY, decay
from avsnn.hw_profiles.profile import load_profile
from avsnn.hw_profiles.schema import Profile

if __name__ != "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
from sanafe_files import architecture, network, pj, plain

STEPS = 200
NEURONS_PER_CORE = 40  # few, so that small networks spread over several tiles
RATE = 0.15
TOLERANCE, LEFT = 0.02, 1e-3  # of the energy; pJ that nothing explains, rounding of sums in joules
ENGINE = """
import json, sanafe
arch = sanafe.load_arch("arch.yaml")
chip = sanafe.SpikingChip(arch)
chip.load(sanafe.load_net("net.yaml", arch))
done = chip.sim(json.load(open("steps.json")), spike_trace=True, message_trace=True, timing_model="simple")
spikes = [[(n.group_name, n.neuron_offset) for n in step] for step in done["spike_trace"]]
keys = ("src_neuron_group_id", "src_x", "src_y", "dest_x", "dest_y")
messages = [[m[key] for key in keys] for step in done["message_trace"] for m in step if not m["placeholder"]]
json.dump({"energy": done["energy"], "spikes": spikes, "messages": messages}, open("done.json", "w"))
"""


def main() -> int:
    """Compare every network; exit code 1 if spikes differ, energies by more than 2 %, or by what nothing explains."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="the interpreter that SANA-FE is installed in")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    args = parser.parse_args()
    python = str(Path(args.python).absolute())  # it runs in a folder of its own
    rows = [compare(name, ours(graph), python) for name, graph in networks().items()]
    for row in rows:
        print("\n".join(lines(row)))
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return int(not all(holds(row) for row in rows))


def holds(row: dict[str, Any]) -> bool:
    """The same spikes, and noticed if not; within 2 %, and nothing left that is not explained."""
    spikes = row["same_spikes"] and row["noticed_a_changed_weight"]
    return bool(spikes and abs(row["difference"]) <= TOLERANCE and abs(row["left_pj"]) < LEFT)


def lines(row: dict[str, Any]) -> list[str]:
    """What came out, for people."""
    parts = ", ".join(f"{name} {energy:,.1f}" for name, energy in row["explained_pj"].items())
    return [
        f"{row['network']}: {row['neurons']} neurons on {row['cores']} cores, {row['spikes']:,} spikes, "
        f"{'all the same' if row['same_spikes'] else 'NOT the same'}",
        f"  SANA-FE {row['sanafe_pj']:,.0f} pJ, ours {row['ours_pj']:,.0f} pJ: {100 * row['difference']:+.2f} %",
        f"  theirs less ours, pJ: {parts}; left {row['left_pj']:.3g}",
    ]


def networks() -> dict[str, Graph]:
    """A chain of linear layers with a leak, one of convolutions, and one with a skip that a relay delays."""
    rng = np.random.default_rng(7)
    return {
        "linear": _graph([
            _input((48,)), _linear(rng, "a", "x", (64, 48)), _lif("A", "a", (64,), 90, decay_v=400),
            _linear(rng, "b", "A", (32, 64)), _lif("B", "b", (32,), 70, decay_v=400),
            _linear(rng, "c", "B", (10, 32)), _lif("C", "c", (10,), 50),
        ]),
        "convolutions": _graph([
            _input((2, 10, 10)), _conv(rng, "a", "x", (6, 10, 10), 2), _lif("A", "a", (6, 10, 10), 60, decay_v=300),
            _conv(rng, "b", "A", (8, 5, 5), 6, stride=2), _lif("B", "b", (8, 5, 5), 60),
            _linear(rng, "c", "B", (10, 200)), _lif("C", "c", (10,), 120, decay_v=1000),
        ]),
        "skip": _graph([
            _input((2, 8, 8)), _conv(rng, "a", "x", (4, 8, 8), 2), _lif("A", "a", (4, 8, 8), 50),
            _conv(rng, "b", "A", (4, 8, 8), 4), _lif("B", "b", (4, 8, 8), 60, decay_v=200),
            _conv(rng, "past", "A", (4, 8, 8), 4), _conv(rng, "through", "B", (4, 8, 8), 4),
            _lif("C", "past through", (4, 8, 8), 80), _linear(rng, "d", "C", (10, 256)), _lif("D", "d", (10,), 90),
        ]),
    }  # fmt: skip


def _graph(nodes: list[Any]) -> Graph:
    """Scheduled, with relays for every delay."""
    graph = Graph(nodes=tuple(nodes), outputs=(nodes[-1].name,), timesteps=STEPS, stage="quantised")
    return schedule(graph, delay_steps_max=0)[0]


def _input(shape: tuple[int, ...]) -> fixed.FixedInput:
    return fixed.FixedInput(name="x", inputs=(), shape=shape, coding="sequence", low=0, high=1, step=1.0)


def _lif(name: str, inputs: str, shape: tuple[int, ...], threshold: int, decay_v: int = 0) -> fixed.FixedLIF:
    return fixed.FixedLIF(
        name=name, inputs=tuple(inputs.split()), shape=shape, threshold_mant=threshold, decay_v=decay_v,
        bias_mant=np.zeros((1,) * len(shape), np.int64),
    )  # fmt: skip


def _linear(rng: np.random.Generator, name: str, source: str, size: tuple[int, int]) -> fixed.FixedLinear:
    return fixed.FixedLinear(name=name, inputs=(source,), shape=size[:1], weight_mant=2 * rng.integers(-12, 17, size))


def _conv(
    rng: np.random.Generator, name: str, source: str, shape: tuple[int, int, int], channels: int, stride: int = 1
) -> fixed.FixedConv2d:
    weight = 2 * rng.integers(-12, 17, (shape[0], channels, 3, 3))
    return fixed.FixedConv2d(
        name=name, inputs=(source,), shape=shape, weight_mant=weight, stride=(stride, stride), padding=(1, 1)
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Ours:
    """One network on our side: mapped, run, counted, priced."""

    graph: Graph
    mapped: Graph
    profile: Profile
    x: Array
    run: Execution
    counts: Counts
    cores: CoreCounts
    dynamic_pj: float


def ours(graph: Graph) -> Ours:
    """Run a network on random spikes and price it with the constants of ``loihi1-sanafe``."""
    fit = load_profile("loihi1-sanafe")  # the same constants on smaller cores, whose memory is not looked at
    profile = replace(fit, limits=replace(fit.limits, neurons_per_core=NEURONS_PER_CORE), storage=None)
    (source,) = graph.of(fixed.FixedInput)
    x = (np.random.default_rng(3).random((STEPS, 1, *source.shape)) < RATE).astype(np.int64)
    run = simulate(graph, {source.name: x}, record="all")
    activity = {source.name: x, **run.spikes}
    sent = messages_sent(graph, activity)
    mapped, _ = place_cores(map_cores(graph, profile)[0], profile, sent)
    counts, cores = count(graph, activity, driven=True), core_counts(mapped, sent, profile, samples=1)
    report = price(counts, profile, cores=cores)
    assert report.dynamic is not None
    return Ours(graph=graph, mapped=mapped, profile=profile, x=x, run=run, counts=counts, cores=cores,
                dynamic_pj=report.dynamic.value)  # fmt: skip


def compare(name: str, mine: Ours, python: str) -> dict[str, Any]:
    """Run SANA-FE on the same and take the difference apart; a changed weight must be noticed."""
    steps, counts = STEPS + depth(mine.graph), mine.counts
    theirs = _simulated(mine.mapped, mine, steps, python)
    changed = _simulated(_negated(mine.mapped), mine, steps, python)
    update, idle = (pj(mine.profile, key) for key in ("neuron_active", "neuron_inactive"))
    updated, spikes = _updated(mine, steps), counts.spikes
    (source,) = mine.graph.of(fixed.FixedInput)
    outside = [message for message in theirs["messages"] if message[0] == source.name]
    explained = {
        "visits while the pipeline fills and drains": (steps - STEPS) * counts.neurons * idle,
        "updates of neurons that nothing arrives at": (updated - (counts.driven or 0)) * (update - idle),
        "links passed by messages of the input": sum(_hop_pj(mine.profile, message) for message in outside),
    }
    total = theirs["energy"]["total"] * 1e12
    return {
        "network": name,
        "neurons": counts.neurons,
        "cores": len(mine.cores.cores),
        "relays": counts.only("relay").neurons,
        "spikes": spikes,
        "same_spikes": _same(mine, theirs["spikes"]) and spikes > 0,
        "noticed_a_changed_weight": not _same(mine, changed["spikes"]),
        "sop_stored": counts.sop_stored,
        "updates": {"driven": counts.driven, "by_their_rule": updated},
        "messages": {"ours": mine.cores.messages, "theirs": len(theirs["messages"]) - len(outside)},
        "sanafe_pj": round(total, 3),
        "ours_pj": round(mine.dynamic_pj, 3),
        "difference": total / mine.dynamic_pj - 1,
        "explained_pj": {what: round(energy, 3) for what, energy in explained.items()},
        "left_pj": round(total - mine.dynamic_pj - sum(explained.values()), 3) + 0.0,  # no -0.0
    }


def _negated(mapped: Graph) -> Graph:
    """The same but for one output channel of the first connection: the control of the comparison of spikes."""
    first = mapped.of(fixed.Synapse)[0]
    weight = first.weight_mant.copy()
    weight[0] = -weight[0]
    changed = replace(first, weight_mant=weight)
    return replace(mapped, nodes=tuple(changed if node is first else node for node in mapped))


def _updated(mine: Ours, steps: int) -> int:
    """Updates by SANA-FE's rule, from our run: a message over any stored connection, or a potential that is not 0."""
    total, sent = 0, {mine.graph.of(fixed.FixedInput)[0].name: mine.x, **mine.run.spikes}
    for node in mine.graph.of(fixed.FixedLIF):
        states = mine.run.states[node.name]["v"][:, 0]
        active = np.concatenate([np.zeros_like(states[:1]), states[:-1]]) != 0
        for wire in mine.graph.sources(node):
            assert isinstance(wire, fixed.Synapse)
            every = replace(wire, weight_mant=np.ones_like(wire.weight_mant))
            active |= reached(every, sent[wire.inputs[0]][:, 0] != 0).reshape(active.shape)
        total += int(np.count_nonzero(active))
        left = states[-1]
        for _ in range(steps - STEPS - node.offset):  # after its window, while later ones drain
            total += int(np.count_nonzero(left))
            left = decay(left, UNITY - node.decay_v)
    return total


def _hop_pj(profile: Profile, message: list[Any]) -> float:
    _, x, y, to_x, to_y = message
    return float(abs(to_x - x) * pj(profile, "hop_x") + abs(to_y - y) * pj(profile, "hop_y"))


def _same(mine: Ours, trace: list[list[list[Any]]]) -> bool:
    """Whether every neuron fires in the same steps; theirs count from the first step of the input."""
    spikes = mine.run.spikes
    found = {plain(name): np.zeros((len(trace), each[0, 0].size), bool) for name, each in spikes.items()}
    for step, fired in enumerate(trace):
        for group, neuron in fired:
            if group in found:
                found[group][step, neuron] = True
    for name, each in spikes.items():
        node = mine.graph[name]
        assert isinstance(node, fixed.FixedLIF)
        expected = np.zeros_like(found[plain(name)])
        expected[node.offset : node.offset + STEPS] = each.reshape(STEPS, -1) != 0
        if (found[plain(name)] != expected).any():
            return False
    return True


def _simulated(mapped: Graph, mine: Ours, steps: int, python: str) -> dict[str, Any]:
    """SANA-FE's energies, spikes and messages of a graph on our inputs."""
    profile, x = mine.profile, mine.x
    assert profile.mesh is not None
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "arch.yaml").write_text(architecture(profile, x[0].size), encoding="utf-8")
        (place / "net.yaml").write_text("\n".join(network(mapped, x, profile.mesh)) + "\n", encoding="utf-8")
        (place / "steps.json").write_text(str(steps), encoding="utf-8")
        subprocess.run([python, "-I", "-c", ENGINE], cwd=place, check=True, stdout=subprocess.DEVNULL, timeout=600)
        done: dict[str, Any] = json.loads((place / "done.json").read_text(encoding="utf-8"))
    return done


if __name__ == "__main__":
    sys.exit(main())
