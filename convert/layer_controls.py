"""One planted mistake per weighted layer of a float graph: noticed, or shown to change nothing that is compared.

A further one, where parts have shorter windows, is that these are one step too long.

In float comparisons the spikes of the other stage are sent on. So a mistake in a layer shows in the populations and
answers that it reaches through no other population, its *ends*, and nowhere else: layers whose ends lie apart are
spoiled together, and a few runs on the liveliest samples try all of them. A mistake that goes unnoticed stops
everything, unless neurons and answers, computed at its ends once more and without the comparison, are the same with it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

import numpy as np

from avsnn.convert import equivalence as eq
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.activity import Activity
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.interpreter import fire, interpret, values
from avsnn.convert.ir.node import Array
from avsnn.convert.proof_data import Inputs
from avsnn.errors import VerifyError

SAMPLES = 4  # of a comparison, for its planted mistakes


def with_layer_controls(check: eq.Check, expected: Activity, graph: Graph, inputs: Inputs, force: Inputs) -> eq.Check:
    """``check`` with the planted mistakes that it notices, and those that can change nothing on these inputs.

    Args:
        check: that ``graph``, sending ``force``, does what is expected.
        expected: the run whose truth is not in question.
        graph: the float graph that was judged.
        inputs: of both.
        force: spikes that all populations send.

    Raises:
        VerifyError: a mistake that changes spikes, states or answers goes unnoticed, or none changes any.
    """
    inputs, expected, force = _liveliest(graph, inputs, expected, force)
    ends = _ends(graph, expected.spikes)
    noticed, idle = [], []
    for layers in _apart(ends):
        spoiled = eq.negated(graph, layers)
        different = eq.differing(expected, interpret(spoiled, inputs, force=force), exact=False)
        missed = [layer for layer in layers if not ends[layer] & different]
        shown = _shown(spoiled, expected, values(spoiled, inputs, force), force) if missed else set()
        for layer in missed:
            if ends[layer] & shown:
                raise VerifyError(f"{check.name} on {check.data} did not notice a planted mistake", where=layer)
        idle += missed
        noticed += [layer for layer in layers if layer not in missed]
    if not noticed:
        raise VerifyError(f"{check.name} on {check.data}: no planted mistake changes anything", where=", ".join(idle))
    what = "weights of the strongest output negated"
    controls, nothing = ([f"{name}: {what}" for name in names] for names in (noticed, idle))
    for mistake, spoiled in eq.longer_windows(graph).items():
        seen = bool(eq.differing(expected, interpret(spoiled, inputs, force=force), exact=False))
        if not seen and _shown(spoiled, expected, values(spoiled, inputs, force), force):
            raise VerifyError(f"{check.name} on {check.data} did not notice a planted mistake", where=mistake)
        (controls if seen else nothing).append(mistake)
    return replace(check, controls=tuple(controls), idle=tuple(nothing), planted=len(controls) + len(nothing))


def _liveliest(graph: Graph, inputs: Inputs, run: Activity, force: Inputs) -> tuple[Inputs, Activity, Inputs]:
    """The samples that make most spikes, of all that has samples."""
    index = eq.liveliest(run, SAMPLES)
    codings = {node.name: node.coding for node in graph.of(ir.Input)}
    few = replace(
        run,
        outputs={name: y[index] for name, y in run.outputs.items()},
        spikes={name: s[:, index] for name, s in run.spikes.items()},
        states={name: {k: v[:, index] for k, v in of.items()} for name, of in run.states.items()},
        ties={},
    )
    cut = {name: x[index] if codings[name] == "direct" else x[:, index] for name, x in inputs.items()}
    return cut, few, {name: s[:, index] for name, s in force.items()}


def _ends(graph: Graph, compared: Collection[str]) -> dict[str, frozenset[str]]:
    """Weighted layer to the populations compared, and `eq.ANSWER`, that read it through no other one.

    Populations that a fold has made (minima) are not compared: they send their own spikes on.
    """
    found: dict[str, frozenset[str]] = {}
    for node in reversed(graph.nodes):  # readers first
        readers = [reader.name for reader in graph.readers[node.name]]
        below = [frozenset({name}) if name in compared else found[name] for name in readers]
        answer = {eq.ANSWER} if node.name in graph.outputs else ()
        found[node.name] = frozenset().union(answer, *below)
    return {n.name: found[n.name] for n in graph if eq.spoils(n) and found[n.name]}


def _apart(ends: Mapping[str, frozenset[str]]) -> Iterable[list[str]]:
    """The layers in groups, no two of a group with an end in common."""
    groups: list[tuple[set[str], list[str]]] = []
    for layer, own in ends.items():
        taken, members = next((group for group in groups if not group[0] & own), (set(), []))
        if not members:
            groups.append((taken, members))
        taken |= own
        members.append(layer)
    return [members for _, members in groups]


def _shown(graph: Graph, expected: Activity, found: Mapping[str, Array], force: Inputs) -> set[str]:
    """Where the values ``found`` make other spikes, states or answers than expected."""
    different = set()
    for node in graph.of(ir.LIF):
        if node.name not in expected.spikes:
            continue
        spikes, v, tie = fire(node, found[node.inputs[0]], graph.timesteps, force.get(node.name))
        wanted = expected.states.get(node.name, {}).get("v", v)
        apart = ~(np.abs(v - wanted) <= eq.slack(wanted)) | (spikes != expected.spikes[node.name])
        if (apart & ~tie).any():
            different.add(node.name)
    answers = {name: found[name][-1] for name in graph.outputs}
    if any((~(np.abs(a - b) <= eq.slack(a))).any() for _, a, b in eq.paired_answers(expected.outputs, answers)):
        different.add(eq.ANSWER)
    return different
