"""Our counts of operations beside those of SpikingJelly, NeuroBench and sinabs, on the same spikes and weights.

    make counters                                     # in an environment of its own, .venv-counters

Where they count what we count, equality is asserted, layer by layer. Where they do not, what they make of it is
asserted as well, with the reason: nothing here is a tolerance. One spike more must be noticed.

Results go to ``benchmarks/counters.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
import zipfile
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from avsnn.convert.ir import fixed_nodes as ir
from avsnn.convert.ir.fixed_interpreter import filled, to_integers
from avsnn.convert.ir.graph import Graph
from avsnn.convert.unproved import scheduled_integers
from avsnn.deploy.backends.cpu import simulate
from avsnn.deploy.reports.counts import SynapseCount, count
from avsnn.deploy.reports.dense import dense_order
from avsnn.hw_profiles.profile import load_profile
from avsnn.train.checkpoints import load

if __name__ != "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
from counter_tools import as_batch, as_module, neurobench, sinabs, spikingjelly, spikingjelly_macs

HERE = Path(__file__).resolve().parent
MODELS = HERE.parent / "examples" / "models"
TOOLS = ("spikingjelly", "neurobench", "sinabs")
SAMPLES = 2
SUMS = ("connections", "stored", "nonzero", "dense", "attentions", "dynamic", "first")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One quantity: ours, theirs (None: the tool has no such count), and why those that differ do."""

    what: str
    ours: int
    spikingjelly: int | None = None
    neurobench: int | None = None
    sinabs: int | None = None
    why: str = ""

    def __post_init__(self) -> None:
        differ = [tool for tool in TOOLS if getattr(self, tool) not in (None, self.ours)]
        if bool(differ) != bool(self.why):
            raise SystemExit(f"{self.what}: {differ or 'nobody'} differs, explanation {self.why!r}")


def main() -> int:
    """Compare, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", default=str(HERE / "counters.json"))
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = [*shipped(), *pilotnet(), *borders(), *zero_weights(), *messages(), *first_layer(), *many()]
    found = {"versions": {tool: version(tool) for tool in TOOLS}, "rows": [asdict(row) for row in rows]}
    Path(args.json).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(render(found))
    return 0


def render(found: dict[str, Any]) -> str:
    """The rows as a table for the README."""
    names = ("SpikingJelly", "NeuroBench", "sinabs")
    heads = [f"{name} {found['versions'][tool]}" for name, tool in zip(names, TOOLS, strict=True)]
    lines = [f"| what | avsnn | {' | '.join(heads)} | why |", "| --- " * 6 + "|"]
    for row in found["rows"]:
        theirs = [("same" if row[tool] == row["ours"] else _number(row[tool])) for tool in TOOLS]
        lines.append(f"| {row['what']} | {_number(row['ours'])} | {' | '.join(theirs)} | {row['why']} |")
    return "\n".join(lines)


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def tiny(node: ir.Synapse, shape: tuple[int, ...], x: np.ndarray) -> tuple[nn.Module, torch.Tensor, SynapseCount]:
    """One connection by itself: (module, what enters it, our row)."""
    low, high = min(0, int(x.min())), max(1, int(x.max()))
    source = ir.FixedInput(name="x", shape=shape, coding="sequence", low=low, high=high, step=1.0)
    bias = np.zeros(1, np.int64)
    end = ir.FixedLIF(name="p", inputs=("w",), shape=node.shape, threshold_mant=1, decay_v=0, bias_mant=bias)
    graph = Graph(nodes=(source, node, end), outputs=("p",), timesteps=len(x), stage="quantised")
    quiet = {"p": np.zeros((x.shape[1], *node.shape), np.int64)}
    (row,) = count(graph, {"x": x}, messages=quiet).synapses
    return as_module(node), as_batch(node, x, shape), row


def conv(rng: np.random.Generator, **how: Any) -> ir.FixedConv2d:
    """5 x 5 over 4 x 9 x 9, weights without a 0 unless given."""
    weight = how.pop("weight", rng.integers(1, 60, (6, 4 // how.get("groups", 1), 5, 5)) * 2)
    strides, paddings, dilations = (how.get(key, (n, n)) for key, n in (("stride", 1), ("padding", 0), ("dilation", 1)))
    sides = [(8 + 2 * p - 4 * d) // s + 1 for s, p, d in zip(strides, paddings, dilations, strict=True)]
    return ir.FixedConv2d(name="w", inputs=("x",), shape=(6, *sides), weight_mant=weight, **how)


# --- the comparisons


def shipped() -> list[Row]:
    """Every connection that reads spikes in every shipped network, and every attention within a step."""
    sums = dict.fromkeys(SUMS, 0)
    for path in sorted(MODELS.glob("*.pt")):
        checkpoint = load(path)
        graph = scheduled_integers(checkpoint, load_profile("loihi2"))
        direct = {node.name: node.coding == "direct" for node in graph.of(ir.FixedInput)}
        samples = checkpoint.calibration
        few = {name: samples[name][:SAMPLES] if direct[name] else samples[name][:, :SAMPLES] for name in direct}
        integers = to_integers(graph, few)
        seen = {node.name: filled(node, integers[node.name], graph.timesteps) for node in graph.of(ir.FixedInput)}
        seen |= simulate(graph, integers, record="all").spikes
        counts = count(graph, {**integers, **{n: x for n, x in seen.items() if n not in integers}})
        _layers(graph, seen, {row.name: row for row in counts.synapses}, sums)
        for product in counts.products:
            node = graph[product.name]
            if isinstance(node, ir.FixedAttention) and not node.windowed:
                ours, first = _attention(node, [seen[name] for name in node.inputs])
                _same(f"{path.stem} {node.name}", (product.accs or 0), ours)
                sums["attentions"] += 1
                sums["dynamic"] += ours
                sums["first"] += first
    n = sums["connections"]
    if n < 100 or sums["attentions"] < 3:
        raise SystemExit(f"hardly anything was compared: {sums}")
    return [
        Row(what=f"SOP, stored: {n} layers of the shipped networks", ours=sums["stored"], spikingjelly=sums["stored"],
            sinabs=sums["stored"]),
        Row(what="their SOP, weights not 0", ours=sums["nonzero"], neurobench=sums["nonzero"]),
        Row(what="their dense order", ours=sums["dense"], neurobench=sums["dense"]),
        Row(what=f"additions of {sums['attentions']} attentions, k and v first", ours=sums["dynamic"],
            spikingjelly=sums["dynamic"], neurobench=0, sinabs=0, why="these two see layers only"),
        Row(what="the same, q and k first", ours=sums["dynamic"], spikingjelly=sums["first"],
            why="counted in the order of the program"),
    ]  # fmt: skip


def pilotnet() -> list[Row]:
    """Intel's network with the spikes recorded of it, in the lava-dl wheel of the download cache."""
    from pilotnet_energy import ROOT, WHEEL, recording

    folder = Path(os.environ.get("AVSNN_WHEELS") or ROOT / ".cache" / "wheels")
    with zipfile.ZipFile(folder / WHEEL) as wheel:
        graph, seen = recording(wheel)
    rows, sums = {row.name: row for row in count(graph, seen).synapses}, dict.fromkeys(SUMS, 0)
    _layers(graph, seen, rows, sums)
    single = 0
    for node in graph.of(ir.Synapse):
        x = as_batch(node, seen[node.inputs[0]], graph[node.inputs[0]].shape)
        found = neurobench("Effective_ACs")(as_module(node).float(), x.float()) if rows[node.name].events else 0
        _same(f"PilotNet {node.name}, float32", int(np.float32(rows[node.name].sop_nonzero)), found)
        single += found
    return [
        Row(what="SOP, stored: PilotNet's recorded spikes", ours=sums["stored"], spikingjelly=sums["stored"],
            sinabs=sums["stored"]),
        Row(what="its SOP, weights not 0, in float32", ours=sums["nonzero"], neurobench=single,
            why="sums in 32-bit floats"),
    ]  # fmt: skip


def _layers(graph: Graph, seen: dict[str, np.ndarray], rows: dict[str, SynapseCount], sums: dict[str, int]) -> None:
    dense = {row.name: row for row in dense_order(graph).layers}
    for node in graph.of(ir.Synapse):
        source, row = graph[node.inputs[0]], rows[node.name]
        if source.name not in seen or row.events_graded or not row.events:
            continue
        module, x = as_module(node), as_batch(node, seen[source.name], source.shape)
        binary = bool(((module.weight == 0) | (module.weight == 1)).all())  # then SpikingJelly leaves zeros out
        _same(f"{node.name} SpikingJelly", row.sop_nonzero if binary else row.sop_stored, spikingjelly(module, x))
        _same(f"{node.name} NeuroBench", row.sop_nonzero, neurobench("Effective_ACs")(module, x))
        _same(f"{node.name} sinabs", row.sop_stored, sinabs(module, x))
        if binary and row.sop_nonzero != row.sop_stored:
            continue
        sums["connections"] += 1
        sums["stored"] += row.sop_stored
        sums["nonzero"] += row.sop_nonzero
        if node.name in dense and dense[node.name].executions == graph.timesteps:
            macs = dense[node.name].macs * len(x)
            _same(f"{node.name} NeuroBench Dense", macs, neurobench("Dense")(module, x))
            sums["dense"] += macs


class _Products(nn.Module):
    """(q k^T) v of (N, heads, tokens, d), one or the other product first."""

    def __init__(self, keys_first: bool) -> None:
        super().__init__()
        self.keys_first = keys_first

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Whole numbers, whichever comes first."""
        return torch.bmm(q, torch.bmm(k.mT, v)) if self.keys_first else torch.bmm(torch.bmm(q, k.mT), v)


def _attention(node: ir.FixedAttention, spikes: list[np.ndarray]) -> tuple[int, int]:
    """Additions that SpikingJelly counts: k^T v first, and q k^T first."""
    parts = []
    for x in spikes:
        heads = x.reshape(-1, node.heads, x.shape[2] // node.heads, int(np.prod(x.shape[3:])))
        parts.append(torch.tensor(heads, dtype=torch.float64).flatten(0, 1).mT.contiguous())
    q, k, v = parts
    found = spikingjelly(_Products(True), q, k, v), spikingjelly(_Products(False), q, k, v)
    # coincidences, then an addition per spike and count; were all counts 0 or 1, it would take them for spikes
    for first, pairs, spikes, each in ((0, k.mT @ v, q, v.shape[2]), (1, q @ k.mT, v, q.shape[1])):
        if not bool((pairs > 1).any()):
            raise SystemExit("attention that hardly anything passes compares nothing")
        _same(f"attention, product {first} first", int(pairs.sum()) + int(spikes.sum()) * each, found[first])
    return found


def borders() -> list[Row]:
    """Stride, padding, dilation, groups: exact everywhere; their dense counts of what is no spike include padding."""
    rng, accumulates = np.random.default_rng(1), neurobench("Effective_ACs")
    stored = dense = padded = 0
    for how in (
        {}, {"padding": (2, 2)}, {"stride": (2, 2), "padding": (2, 1)}, {"dilation": (2, 1), "padding": (3, 0)},
        {"groups": 2, "padding": (4, 4)}, {"stride": (3, 2), "dilation": (1, 2), "padding": (1, 4), "groups": 2},
    ):  # fmt: skip
        node = conv(rng, **how)
        x = (rng.random((8, 2, 4, 9, 9)) < 0.2).astype(np.int64)
        module, batch, row = tiny(node, (4, 9, 9), x)
        stored += row.sop_stored
        corner = batch.clone()
        corner[0, 0, -1, -1] = 1 - corner[0, 0, -1, -1]
        for name, tool in (("SpikingJelly", spikingjelly), ("sinabs", sinabs), ("NeuroBench", accumulates)):
            _same(f"{how} {name}", row.sop_stored, tool(module, batch))
            if tool(module, corner) == row.sop_stored and how.get("stride") is None:
                raise SystemExit(f"{how} {name}: one spike more or less is not noticed")
        dense += row.connections * len(batch)
        _same(f"{how} dense", row.connections * len(batch), neurobench("Dense")(module, batch))
        found = spikingjelly_macs(module, batch + 0.5)
        taps = 25 * node.weight_mant.shape[1]
        _same(f"{how} with padding", int(np.prod(node.shape)) * taps * len(batch), found)
        padded += found
    return [
        Row(what="SOP with strides, padding, dilation, groups", ours=stored, spikingjelly=stored, neurobench=stored,
            sinabs=stored),
        Row(what="the same layers in dense order", ours=dense, spikingjelly=padded, neurobench=dense,
            why="padding is multiplied, too"),
    ]  # fmt: skip


def zero_weights() -> list[Row]:
    """A quarter of the weights is 0."""
    rng = np.random.default_rng(2)
    weight = rng.integers(1, 60, (6, 4, 5, 5)) * 2 * (rng.random((6, 4, 5, 5)) < 0.75)
    module, x, row = tiny(conv(rng, weight=weight), (4, 9, 9), (rng.random((8, 2, 4, 9, 9)) < 0.2).astype(np.int64))
    _same("stored", row.sop_stored, spikingjelly(module, x))
    stored, rest = row.sop_stored, neurobench("Effective_ACs")(module, x)
    _same("non-zero", row.sop_nonzero, rest)
    return [
        Row(what="SOP, stored, a quarter of the weights 0", ours=stored, spikingjelly=stored, neurobench=rest,
            sinabs=sinabs(module, x), why="leaves zeros out, as avsnn's non-zero SOP"),
    ]  # fmt: skip


def messages() -> list[Row]:
    """Messages that are not 0 or 1: an operation per message and connection, with its payload counted apart."""
    rows = []
    rng = np.random.default_rng(3)
    why = {
        "-1, 0 and 1": "SpikingJelly: no spikes, so dense; sinabs adds up signs",
        "0 to 7": "SpikingJelly: dense; NeuroBench: as MACs; sinabs adds up values",
    }
    for name, low, high in (("-1, 0 and 1", -1, 1), ("0 to 7", 0, 7)):
        x = rng.integers(low, high + 1, (8, 2, 4, 9, 9)) * (rng.random((8, 2, 4, 9, 9)) < 0.3)
        module, batch, row = tiny(conv(rng), (4, 9, 9), x)
        whole = int(np.prod((6, 5, 5))) * 100 * len(batch)
        _same(f"{name}: no spikes", 0, spikingjelly(module, batch))
        _same(f"{name}: all", whole, spikingjelly_macs(module, batch))
        key, other = ("Effective_ACs", "Effective_MACs") if low < 0 else ("Effective_MACs", "Effective_ACs")
        _same(f"{name}: NeuroBench", row.sop_stored, neurobench(key)(module, batch))
        _same(f"{name}: NeuroBench, otherwise", 0, neurobench(other)(module, batch))
        reach = torch.nn.functional.conv_transpose2d(torch.ones((1, *node_shape(module, batch)), dtype=torch.float64),
                                                     torch.ones_like(module.weight))  # fmt: skip
        _same(f"{name}: sinabs", int((batch * reach).sum()), sinabs(module, batch))
        rows.append(
            Row(what=f"SOP of messages {name}", ours=row.sop_stored, spikingjelly=whole, neurobench=row.sop_stored,
                sinabs=sinabs(module, batch), why=why[name])
        )  # fmt: skip
    return rows


def node_shape(module: nn.Module, batch: torch.Tensor) -> tuple[int, ...]:
    """Of what leaves a layer."""
    return tuple(module(batch[:1]).shape[1:])


def first_layer() -> list[Row]:
    """An image that is the same in all T = 4 steps: computed once and held, on the host."""
    rng = np.random.default_rng(4)
    weight = rng.integers(1, 60, (6, 4, 5, 5))
    held = ir.HeldCurrent(
        name="w", inputs=("x",), shape=(6, 9, 9), weight=weight, bias=np.zeros(1, np.int64), padding=(2, 2)
    )
    image = ir.FixedInput(name="x", shape=(4, 9, 9), coding="direct", low=0, high=255, step=1.0)
    end = ir.FixedLIF(name="p", inputs=("w",), shape=held.shape, threshold_mant=1, decay_v=0, bias_mant=held.bias)
    reads = ir.FixedLinear(name="r", inputs=("p",), shape=(1,), weight_mant=np.ones((1, 486), np.int64))
    last = ir.FixedReadout(name="y", inputs=("r",), shape=(1,), bias=held.bias, scale=1.0)
    graph = Graph(nodes=(image, held, end, reads, last), outputs=("y",), timesteps=4, stage="quantised")
    x = rng.integers(0, 256, (2, 4, 9, 9)) * (rng.random((2, 4, 9, 9)) < 0.6)
    counts = count(graph, {"x": x, "p": np.zeros((4, 2, 6, 9, 9), bool)})
    module, batch = as_module(held), as_batch(held, np.broadcast_to(x, (4, *x.shape)), image.shape)
    _same("every step, with padding", 4 * 2 * 486 * 100, spikingjelly_macs(module, batch))
    lit = tiny(ir.FixedConv2d(name="w", inputs=("x",), shape=(6, 9, 9), weight_mant=weight * 2, padding=(2, 2)),
               (4, 9, 9), np.broadcast_to(x, (4, *x.shape)))[2].sop_stored  # fmt: skip
    _same("every step, pixels that are not 0", lit, neurobench("Effective_MACs")(module, batch))
    return [
        Row(what="MACs of a first layer, one image for 4 steps", ours=counts.host_macs,
            spikingjelly=4 * 2 * 486 * 100, neurobench=lit,
            why="in every step; SpikingJelly with padding, NeuroBench without black"),
    ]  # fmt: skip


def many() -> list[Row]:
    """More operations than 32-bit floats tell apart."""
    out = 2**24 + 1
    node = ir.FixedLinear(name="w", inputs=("x",), shape=(out,), weight_mant=np.full((out, 1), 2, np.int16))
    module, x, row = tiny(node, (1,), np.ones((1, 1, 1), np.int64))
    single = module.to(torch.float32), x.to(torch.float32)
    _same("exact", out, row.sop_stored)
    return [
        Row(what="2^24 + 1 operations", ours=out, spikingjelly=spikingjelly(*single),
            neurobench=neurobench("Effective_ACs")(*single), sinabs=sinabs(*single), why="sums in 32-bit floats"),
    ]  # fmt: skip


def _same(what: str, expected: int, found: int) -> None:
    if expected != found:
        raise SystemExit(f"{what}: expected {expected:,}, found {found:,}")


if __name__ == "__main__":
    sys.exit(main())
