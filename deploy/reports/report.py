"""Everything a conversion measured, as one JSON object; `avsnn.deploy.reports.render` makes it readable.

Times are not in it (they go to ``timing.json``), so that the same inputs give the same bytes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from avsnn.convert.equivalence import Check
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.activity import Activity
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array
from avsnn.convert.ir.windows import windows
from avsnn.deploy.capability import Capability
from avsnn.deploy.reports import modality
from avsnn.deploy.reports.comparators import compared_json
from avsnn.deploy.reports.core_counts import CoreCounts
from avsnn.deploy.reports.counts import Counts
from avsnn.deploy.reports.dense import dense_order
from avsnn.deploy.reports.energy import EnergyReport
from avsnn.deploy.reports.latency import first_answer
from avsnn.deploy.reports.literature import literature_json
from avsnn.deploy.reports.sampled import RATE_EDGES, by_rate, by_step, raster
from avsnn.deploy.reports.twin import ann_twin
from avsnn.hw_profiles.schema import Profile
from avsnn.train.proportion import PairedDifference, Proportion

SCHEMA = 1
LOST = 0.5  # of a connection's weights: more zeros than that deserve a look at its scale


def build_report(
    *,
    meta: Mapping[str, Any],
    record: Mapping[str, Any],
    graph: Graph,
    activity: Activity,
    executions: Sequence[Check],
    accuracy: Mapping[str, Any],
    counts: Counts,
    energy: Iterable[EnergyReport],
    cores: Mapping[str, CoreCounts] | None = None,
    comparators: Sequence[Profile] = (),
    capabilities: Sequence[Capability],
) -> dict[str, Any]:
    """Put the parts together.

    Args:
        meta: of the bundle.
        record: of the bundle: what the conversion proved.
        graph: the scheduled graph.
        activity: of the compared samples.
        executions: comparisons of reference, simulator and Lava.
        accuracy: see `accuracy_table`.
        counts: operations of the compared samples.
        energy: one report per profile.
        cores: what each core did, by profile, where cores are known.
        comparators: devices that the same network without spikes is priced on.
        capabilities: the target's answer per node.
    """
    steps = windows(graph)
    dense, twin = dense_order(graph), ann_twin(graph, weight_bits=meta["weight_bits"])
    return {
        "schema": SCHEMA,
        "meta": dict(meta),
        "accuracy": dict(accuracy),
        "proofs": [{k: v for k, v in check.items() if k != "populations"} for check in record["checks"]],
        "integers_checked": record["integers_checked"],
        "finetuned": record.get("finetuned", {}),
        "rows_balanced": sum(scale.get("rows_balanced", 0) for scale in record.get("scales", ())),
        "tie_windows_checked": sum(n["windows"] for n in record["neurons"]),
        "tie_windows_differing": sum(n["mismatches"] for n in record["neurons"]),
        "executions": [_execution(check) for check in executions],
        "populations": [_population(node, activity, executions, steps[node.name]) for node in graph.of(fixed.FixedLIF)],
        "rate_edges_percent": list(RATE_EDGES),
        "raster": raster(graph, activity),
        "delays": record["delays"],
        "attention": record.get("attention", []),
        "left_out": record.get("left_out", []),
        "certificate": record.get("certificate", []),
        "latency_steps": record["latency_steps"],
        "mapping": record.get("mapping", {}),
        "first_answer": first_answer(graph).to_json(),
        "agreement": record["agreement"],
        "capabilities": {
            "by_answer": dict(sorted(Counter(c.answer for c in capabilities).items())),
            "nodes": [asdict(c) for c in capabilities],
        },
        "counts": counts.to_json(),
        "by_modality": modality.to_json(modality.by_modality(graph, counts)),
        "dense": dense.to_json(),
        "twin": twin.to_json(),
        "literature": literature_json(counts, graph),
        "comparators": compared_json(comparators, {"dense": dense.macs, "twin": twin.macs}),
        "warnings": warnings(counts, capabilities) + resting(graph) + approximations(record),
        "core_counts": {name: found.to_json() for name, found in (cores or {}).items()},
        "energy": {report.profile: report.to_json() for report in energy},
    }


def warnings(counts: Counts, capabilities: Sequence[Capability]) -> list[str]:
    """What a reader should look at: connections that are mostly zeros, products that no stock process runs."""
    notes = []
    for row in counts.synapses:
        zeros = 1 - row.connections_nonzero / row.connections if row.connections else 0.0
        if row.role in ("neuron", "readout") and zeros > LOST:
            notes.append(f"{row.name}: {100 * zeros:.1f} % of its connections have weight 0 after quantising")
    own = {row.name for row in counts.products}
    strange = Counter(c.answer for c in capabilities if c.node in own and c.answer != "native")
    notes += [f"{number} products of activity run on {answer}" for answer, number in sorted(strange.items())]
    return notes


def resting(graph: Graph) -> list[str]:
    """Parts whose window is shorter than the period that all share: neurons that are there, and idle, in the rest."""
    steps, T = windows(graph), graph.timesteps
    short = [node for node in graph.of(fixed.FixedLIF) if steps[node.name] < T]
    notes = []
    for n in sorted({steps[node.name] for node in short}):
        mine = [node for node in short if steps[node.name] == n]
        neurons = sum(math.prod(node.shape) for node in mine)
        notes.append(f"{len(mine)} populations ({neurons:,} neurons) work in {n} of {T} steps and rest in the others")
    return notes


def approximations(record: Mapping[str, Any]) -> list[str]:
    """Where neurons are not those of the folded graph: decays and thresholds that rounded, windows that differ."""
    notes = []
    rounded = {
        "decay": "decay_error",
        "decay of the current": "current_decay_error",
        "one of several thresholds, in integer units,": "threshold_error",
    }
    for what, key in rounded.items():
        errors = {scale["population"]: abs(scale.get(key, 0.0)) for scale in record.get("scales", ()) if scale.get(key)}
        if errors:
            worst = max(errors, key=errors.__getitem__)
            notes.append(f"{what} rounded in {len(errors)} populations, most in {worst}: by {errors[worst]:.2g}")
    for check in record["neurons"]:
        if check["mismatches"]:
            share = f"{check['mismatches']} of {check['windows']:,}"
            notes.append(f"{check['population']}: {share} windows steered to ties differ from exact fractions")
    return notes


def accuracy_table(right: Mapping[str, Array], *, data: str) -> dict[str, Any]:
    """Accuracy of each stage or back end on the same samples, and the paired difference of the integers to the float.

    Args:
        right: name to which samples it got right, bool (B,); the first is what the others are compared with.
        data: name of the samples.
    """
    first, *others = right
    table: dict[str, Any] = {
        "data": data,
        "samples": len(right[first]),
        "stages": {name: Proportion(correct=int(r.sum()), count=len(r)).record() for name, r in right.items()},
        "against": first,
        "differences": {},
    }
    for name in others:
        pair = PairedDifference.of(right[first], right[name])
        table["differences"][name] = pair.record()
    return table


def _execution(check: Check) -> dict[str, Any]:
    return {
        "name": check.name,
        "data": check.data,
        "samples": check.samples,
        "compared": check.compared,
        "mismatches": 0,  # a single one would have stopped the conversion
        "silent": list(check.silent),
        "controls_noticed": list(check.controls),
        "controls_planted": check.planted,
        "controls_idle": list(check.idle),
    }


def _population(node: fixed.FixedLIF, activity: Activity, executions: Sequence[Check], steps: int) -> dict[str, Any]:
    spikes = activity.spikes[node.name]
    compared = {
        check.name: p.spikes + p.states for check in executions for p in check.populations if p.name == node.name
    }
    states = activity.states[node.name]
    return {
        "name": node.name,
        "role": node.role,
        "neurons": int(np.prod(node.shape)),
        "offset": node.offset,
        "steps": steps,
        "rate": float(spikes[:steps].mean()),
        "spikes_by_step": by_step(spikes[:steps]),
        "neurons_by_rate": by_rate(spikes[:steps]),
        "compared": compared,
        "mismatches": 0,
        "u_max": int(np.abs(states["u"]).max(initial=0)),
        "v_max": int(np.abs(states["v"]).max(initial=0)),
        "state_limit": 2 ** (node.state_bits - 1) - 1,
    }
