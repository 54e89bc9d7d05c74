"""Which part of a target runs each node: a stock process, microcode, the host, or nothing.

The profile answers per kind (`avsnn.hw_profiles.schema.CAPABILITY_KINDS`); this file says which kinds a node needs.
"""

from __future__ import annotations

from dataclasses import dataclass

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Node
from avsnn.errors import CapabilityError
from avsnn.hw_profiles.profile import Profile

_ROLES = {"neuron": "lif_hard", "or": "or_pool", "relay": "relay"}


@dataclass(frozen=True, kw_only=True)
class Capability:
    """One need of one node and the profile's answer."""

    node: str
    kind: str
    answer: str


def needs(node: Node) -> tuple[str, ...]:
    """The kinds of ability that a node asks for.

    Raises:
        CapabilityError: a node that no kind describes.
    """
    match node:
        case fixed.FixedInput():
            return ("input_events",) if node.coding == "sequence" else ()
        case fixed.HeldCurrent():
            return ("input_host_bias",)
        case fixed.Synapse():
            kind = "conv2d" if isinstance(node, fixed.FixedConv2d) else "linear"
            return (kind, "axon_delay") if node.delay else (kind,)
        case fixed.FixedLIF():
            return (_ROLES[node.role],)
        case fixed.FixedReadout():
            return ("readout_host_sum",)
        case _:
            raise CapabilityError("no ability is known for this node", where=node.name, found=node.kind)


def capabilities(graph: Graph, profile: Profile) -> tuple[Capability, ...]:
    """The profile's answer to every need of a scheduled graph.

    Raises:
        CapabilityError: the profile refuses a node, or does not say; the message lists all of them.
    """
    answers = [
        Capability(node=node.name, kind=kind, answer=profile.capabilities.get(kind, "refused"))
        for node in graph
        for kind in needs(node)
    ]
    refused = [f"{a.node} ({a.kind})" for a in answers if a.answer == "refused"]
    if refused:
        raise CapabilityError("the target cannot run these", where=profile.id, found=", ".join(refused))
    return tuple(answers)
