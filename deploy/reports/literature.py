"""Turns counts into the figure that papers print: accumulates and first-layer products at two prices, nothing else.

``E = e_ac n_sop + e_mac n_mac``, floating point at 45 nm, without memory, neurons, routing and static power. It is the
same for every chip, an estimate of none, and stands in a column of its own, never as the headline.

Papers do not count, they multiply: ``n = rate FLOPs T`` with the mean rate of a layer's source and the dense operations
of the layer, padding included. That is beside it (`rate_flops`); borders and strides make it higher than the count.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.graph import Graph
from avsnn.deploy.reports.counts import Counts
from avsnn.deploy.reports.dense import is_layer
from avsnn.errors import ProfileError
from avsnn.hw_profiles.profile import load_profile
from avsnn.hw_profiles.schema import Constant, Profile

CONVENTION = "cmos45"
"""The shipped profile whose table ``literature_pj`` holds the two prices."""


@dataclass(frozen=True, kw_only=True)
class Literature:
    """``energy_pj = ac * sop_stored + mac * host_macs``, pJ over all samples."""

    name: str
    energy_pj: float


def literature(counts: Counts) -> Literature:
    """The convention's figure of a run.

    Raises:
        ProfileError: the shipped profile lacks its prices.
    """
    ac, mac = (_price(key) for key in ("ac", "mac"))
    return Literature(
        name=f"literature convention ({ac:g} pJ per accumulate, {mac:g} pJ per first-layer product; "
        "no memory, neurons, routing)",
        energy_pj=ac * counts.sop_stored + mac * counts.host_macs,
    )


def rate_flops(counts: Counts, graph: Graph) -> Fraction:
    """Operations as papers count them, over all samples: events of a source times FLOPs per source neuron, by layer.

    FLOPs of a convolution are output positions x kernel volume x output channels, as if the border did not exist.
    """
    total = Fraction(0)
    for row in counts.synapses:
        node = graph[row.name]
        if isinstance(node, fixed.Synapse) and is_layer(node, graph):
            flops = math.prod(node.shape) * node.weight_mant[0].size
            total += Fraction(row.events * flops, math.prod(graph[row.source].shape))
    return total


def literature_json(counts: Counts, graph: Graph) -> dict[str, Any]:
    """The convention on exact counts and on rates, per sample, for the report."""
    found, rated = literature(counts), float(rate_flops(counts, graph))
    multiplied = _price("ac") * rated + _price("mac") * counts.host_macs
    return {
        "name": found.name,
        "pj_per_sample": found.energy_pj / counts.samples,
        "rate_flops_per_sample": rated / counts.samples,
        "rate_flops_pj_per_sample": multiplied / counts.samples,
    }


@lru_cache
def _convention() -> Profile:
    return load_profile(CONVENTION)


def _price(key: str) -> float:
    constant: Constant | None = _convention().literature.get(key)
    if constant is None or constant.value is None:
        raise ProfileError("has no price of the convention", where=f"{CONVENTION}: literature_pj", found=key)
    return constant.value
