"""Which part of a target runs each node: a stock process, microcode, the host, or nothing.

The profile answers per kind (`avsnn.hw_profiles.schema.CAPABILITY_KINDS`); this file says which kinds a node needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Node
from avsnn.deploy.payload import payload_bits
from avsnn.errors import CapabilityError
from avsnn.hw_profiles.profile import Profile

REFUSED = "refused"
REMEDIES = {
    "layer_norm": "train with norm='dsln' (dynamic mean, frozen variance) or norm='batch', which fold exactly",
    "step_gain": "fuse by addition or attention instead (fusion='spatial', for instance)",
}
_ROLES = {"or": "or_pool", "relay": "relay", "coincidence": "lif_hard", "bias": "lif_hard"}
_RESETS = {"hard": "lif_hard", "subtract": "lif_subtract", "subtract_delayed": "lif_subtract"}


@dataclass(frozen=True, kw_only=True)
class Capability:
    """One need of one node, the profile's answer, and why it is not native."""

    node: str
    kind: str
    answer: str
    reason: str = ""


def needs(node: Node, graph: Graph) -> tuple[str, ...]:
    """The kinds of ability that a node of ``graph`` asks for.

    Raises:
        CapabilityError: a node that no kind describes.
    """
    match node:
        case fixed.FixedInput():
            return ("input_events",) if node.coding == "sequence" else ()
        case fixed.HeldCurrent():
            remembered = any(_has_current(reader) for reader in graph.readers[node.name])
            return ("input_host_message",) if remembered else ("input_host_bias",)
        case fixed.Synapse():
            kinds = ["conv2d" if isinstance(node, fixed.FixedConv2d) else "linear"]
            kinds += ["axon_delay"] if node.delay else []
            return (*kinds, "graded_message") if payload_bits(graph[node.inputs[0]], graph) else tuple(kinds)
        case fixed.FixedLIF():
            return _of_population(node)
        case fixed.Product():
            return (node.ability,)
        case fixed.FixedReadout():
            return ("readout_host_sum",)
        case _:
            raise CapabilityError("no ability is known for this node", where=node.name, found=node.kind)


def _has_current(node: Node) -> bool:
    """Whether a population keeps a current, which a bias would go past."""
    return isinstance(node, fixed.FixedLIF) and node.decay_u != fixed.NO_CURRENT_MEMORY


def _of_population(node: fixed.FixedLIF) -> tuple[str, ...]:
    known = _RESETS if node.role == "neuron" else _ROLES
    word = node.reset if node.role == "neuron" else node.role
    if word not in known:
        raise CapabilityError("no ability is known for this neuron", where=node.name, found=word)
    kinds = [known[word]]
    kinds += ["lif_threshold_array"] if np.size(node.threshold_mant) > 1 else []
    kinds += ["lif_rest"] if node.steps else []
    return tuple(kinds)


def answers(graph: Graph, profile: Profile) -> tuple[Capability, ...]:
    """The profile's answer to every need of a scheduled graph, refusals and needs that it does not know included."""
    return tuple(
        Capability(
            node=node.name,
            kind=kind,
            answer=profile.capabilities.get(kind, REFUSED),
            reason=profile.capability_reasons.get(kind, ""),
        )
        for node in graph
        for kind in needs(node, graph)
    )


def wide_messages(graph: Graph, profile: Profile) -> Iterator[CapabilityError]:
    """An error for each synapse whose messages do not fit the payload that the profile grants."""
    limit = profile.limits.message_bits
    for synapse in graph.of(fixed.Synapse):
        bits = payload_bits(graph[synapse.inputs[0]], graph)
        if limit is not None and bits > limit:
            yield CapabilityError(
                "message is too wide", where=synapse.name, found=f"{bits} bits", limit=f"{limit} bits of {profile.id}"
            )


def capabilities(graph: Graph, profile: Profile) -> tuple[Capability, ...]:
    """The profile's answer to every need of a scheduled graph.

    Raises:
        CapabilityError: the profile refuses a node, or does not say; the message lists all of them. Or a message does
            not fit the payload that the profile grants.
    """
    found = answers(graph, profile)
    refused = [f"{a.node} ({a.kind})" for a in found if a.answer == REFUSED]
    if refused:
        remedy = next((REMEDIES[a.kind] for a in found if a.answer == REFUSED and a.kind in REMEDIES), "")
        raise CapabilityError("the target cannot run these", where=profile.id, found=", ".join(refused), remedy=remedy)
    for error in wide_messages(graph, profile):
        raise error
    return found
