"""What converts, but may not do what the user expects; and a few things that surely do not convert, found early."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from avsnn.convert.freeze_norms import freeze_norms
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.interpreter import interpret
from avsnn.convert.ir.node import Array, Node
from avsnn.convert.passes.integer_formats import FRACTION_BITS, Target
from avsnn.convert.passes.quantise import Scale
from avsnn.convert.passes.thresholds import MIN_THRESHOLD

EXACT_DECAYS = (0.0, 0.5, 1.0)  # halving is exact as long as v has fractional bits; others round in every step
UNITY = 4096  # decays are stored as multiples of 1/4096
LOST_WEIGHTS = 0.25  # share of weights that may become 0
CHANGED_SPIKES = 0.02  # share of spikes that quantising may change
_EXTRA_BITS = {"hard": 0, "subtract": 1, "subtract_delayed": 2}


@dataclass(frozen=True, kw_only=True)
class Risk:
    """One finding about a node.

    Attributes:
        node: its name.
        reason: what may go wrong.
        suggestion: what to do about it.
        surely: it will go wrong: no bundle.
    """

    node: str
    reason: str
    suggestion: str = ""
    surely: bool = False


def layer_risks(nodes: Iterable[Node], timesteps: int, *, traced: bool) -> Iterator[Risk]:
    """What shapes and switches alone show, also of networks that could not be ``traced`` as a whole."""
    table = {node.name: node for node in nodes}
    for node in table.values():
        match node:
            case ir.LIF():
                yield from _neuron(node, timesteps)
            case ir.MaxPool2d() if not traced and not _reads_spikes(node, table):  # else folds and quantiser tell
                what = "a maximum over values that are no spikes; over spikes it is an OR of the window"
                yield Risk(node=node.name, reason=what, suggestion="pool after the neurons, or average", surely=True)
            case ir.Attention() if node.over == "time":
                yield _window(node, timesteps, "attention over time")
            case ir.LeakyIntegrator() if any(isinstance(table[r], ir.LIF) for r in _ahead(node, table)):
                what = "neurons read a leaky integrator: a number at every step, where chips send spikes"
                yield Risk(node=node.name, reason=what, suggestion="let it answer, or put neurons there", surely=True)
            case ir.ProductOfMeans():
                yield _window(node, timesteps, "a mean over the window")
            case ir.MeanTime() if any(isinstance(table[r], ir.LIF) for r in _ahead(node, table)):
                yield _window(node, timesteps, "a mean over time that neurons read")
            case _:
                pass


def _window(node: Node, timesteps: int, what: str) -> Risk:
    reason = f"{what} needs the whole window: what reads it waits {timesteps} steps, and its other inputs with it"
    return Risk(node=node.name, reason=reason, suggestion="attend over space, or accept the latency")


def _neuron(node: ir.LIF, timesteps: int) -> Iterator[Risk]:
    if node.decay not in EXACT_DECAYS:
        stored = round(node.decay * UNITY) / UNITY
        kept = "" if stored == node.decay else f"{node.decay:g} is stored as {stored:.6f}, and "
        reason = f"{kept}v is rounded toward zero in every step"
        yield Risk(node=node.name, reason=reason, suggestion="a decay of 0.5 (tau=2) is exact; see its disagreement")
    elif node.current_decay not in EXACT_DECAYS:
        stored = round(node.current_decay * UNITY) / UNITY
        kept = "" if stored == node.current_decay else f"{node.current_decay:g} is stored as {stored:.6f}, and "
        reason = f"{kept}its current is rounded toward zero in every step"
        yield Risk(node=node.name, reason=reason, suggestion="a current that halves (or is gone) is exact")
    elif node.decay == 0.5 and not node.strict:
        exact = FRACTION_BITS + 1 - _EXTRA_BITS.get(node.reset, 0)
        if timesteps > exact:
            reason = (
                f"a current that meets the threshold exactly (>=) is told apart for {exact} steps, T is {timesteps}"
            )
            yield Risk(node=node.name, reason=reason, suggestion="fewer steps, or strict=True when training")


def _reads_spikes(node: Node, table: Mapping[str, Node]) -> bool:
    """Whether what it reads are the spikes of one population (or something unknown, of which nobody can tell)."""
    source = table[node.inputs[0]]
    if isinstance(source, ir.Flatten | ir.Permute | ir.MaxPool2d):
        return _reads_spikes(source, table)
    return isinstance(source, ir.LIF) or type(source) is Node


def _ahead(node: Node, table: Mapping[str, Node]) -> list[str]:
    """Everything that depends on ``node``."""
    found = {node.name}
    for each in table.values():
        if found & set(each.inputs):
            found.add(each.name)
    return [name for name in found if name != node.name]


def norms(graph: Graph, calibration: Mapping[str, Array]) -> Iterator[Risk]:
    """Layer norms, which a host computes in every step, and what a frozen variance would change instead."""
    for cost in freeze_norms(graph, calibration)[1]:
        reason = "a host divides by the deviation of the moment: the chip waits for it in every step"
        changed, mean, most = (f"{100 * x:.2g} %" for x in (cost.changed, cost.spread, cost.largest))
        suggestion = (
            f"train with DSLN; frozen (avsnn.convert.freeze_norms) it folds, but changes {changed} of all spikes on "
            f"calibration data, as deviations are {mean} off, {most} at most"
        )
        yield Risk(node=cost.norm, reason=reason, suggestion=suggestion)


def silence(graph: Graph, calibration: Mapping[str, Array]) -> Iterator[Risk]:
    """Populations that never fire on the calibration data: nothing is learnt about them there."""
    done = interpret(graph, calibration)
    samples = next((s.shape[1] for s in done.spikes.values()), 0)
    for name, spikes in done.spikes.items():
        if not spikes.any():
            reason = f"never fires on {samples} calibration samples, so its scale is chosen without any spike of it"
            yield Risk(node=name, reason=reason, suggestion="more or other samples; or it died in training")


def weight_risks(folded: Graph, target: Target) -> Iterator[Risk]:
    """Connections of which much would be rounded to nothing."""
    for node in folded:
        if not isinstance(node, ir.Conv2d | ir.Linear):
            continue
        size = np.abs(node.weight.astype(np.float64))
        largest = float(size.max(initial=0.0))
        if largest == 0.0:
            yield Risk(node=node.name, reason="all weights are 0", suggestion="leave the layer out")
            continue
        flat = size.reshape(len(size), -1)
        rows = flat.max(axis=1)
        finer = 1 << (target.exponents(1) - 1)  # than the largest weights, channels of small ones may be kept
        half = np.maximum(rows, largest / finer) / 2**target.weight_bits
        lost = float(((flat > 0) & (flat < half[:, None])).sum() / max(1, (size > 0).sum()))
        dead = int(((rows > 0) & (rows < half)).sum())
        suggestion = "prune or clip its largest weights when training; a layer has few exponents"
        if dead:
            below = f"below {largest:.3g} / {finer << target.weight_bits}, so all of them become 0"
            reason = f"{dead} of {len(rows)} output channels have weights {below}"
            yield Risk(node=node.name, reason=reason, suggestion=suggestion)
        elif lost > LOST_WEIGHTS:
            below = f"1 / {2**target.weight_bits} of the largest of their channel"
            reason = f"{100 * lost:.0f} % of its weights are below {below} and become 0"
            yield Risk(node=node.name, reason=reason, suggestion=suggestion)


def integer_risks(folded: Graph, scales: Iterable[Scale], target: Target) -> Iterator[Risk]:
    """Populations whose integers say little: few levels below the threshold, or many spikes that differ."""
    for scale in scales:
        node = folded.by_name.get(scale.population)
        if not isinstance(node, ir.LIF):
            continue
        levels = float(np.min(node.threshold)) / (node.gain or 1.0) * scale.scale
        counts = isinstance(folded[node.inputs[0]], ir.Attention | ir.AttentionMap | ir.MappedValues)
        if levels < MIN_THRESHOLD and not counts:  # counts of pairs are integers already: few levels say it all
            reason = f"its currents are so large that the threshold is only {levels:.0f} integers above 0"
            suggestion = "shrink biases and weights, or a higher threshold, when training"
            yield Risk(node=node.name, reason=reason, suggestion=suggestion)
        if scale.disagreement > CHANGED_SPIKES:
            reason = f"quantising changes {100 * scale.disagreement:.1f} % of its spikes on calibration data"
            yield Risk(node=node.name, reason=reason, suggestion="more weight bits, or train with quantised weights")
