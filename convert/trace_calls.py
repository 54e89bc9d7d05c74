"""Tracer rules of functions, operators and methods: sums, joins, means, and what no chip can compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from avsnn.convert.ir import nodes as ir
from avsnn.convert.trace_site import Made, Never, Site, over_time, refuse, size
from avsnn.convert.view_graph import Complement, Gate, MeanAxes


def flatten(module: object, site: Site) -> Made:
    """All features to one axis, in their order; also what a ``reshape`` does that joins them and moves none."""
    if site.shape != (size(site.reads[0]),):
        raise refuse(site, "flatten must join all feature axes, and no other", remedy=f"flatten({site.lead})")
    return ir.Flatten(**site.common)


def add(module: object, site: Site) -> Made:
    """Sum of two activities, the second times ``alpha``."""
    if len(site.inputs) != 2:
        raise refuse(site, "only the sum of two activities is known", remedy="fold constants into the layer before")
    if site.reads[0] != site.reads[1]:
        raise refuse(site, f"the sum of activities of shapes {site.reads[0]} and {site.reads[1]}")
    alpha, (x, y) = float(site.keywords.get("alpha", 1)), site.inputs
    if alpha == 1:
        return ir.Add(**site.common)
    scaled = ir.Scale(**site.before("scaled", inputs=(y,)), gain=alpha)
    return scaled, ir.Add(**{**site.common, "inputs": (x, scaled.name)})


def times(module: object, site: Site) -> Made:
    """An activity times a number."""
    if len(site.inputs) == 2:
        if site.reads[0] != site.reads[1]:
            raise refuse(site, f"the product of activities of shapes {site.reads[0]} and {site.reads[1]}")
        return Gate(**over_time(site).common)
    gain = site.arguments[0] if site.arguments else None
    if not isinstance(gain, int | float):
        raise refuse(site, "only the product with a number is known", remedy="fold tensors into the layer before")
    return ir.Scale(**site.common, gain=float(gain))


def subtract(module: object, site: Site) -> Made:
    """Difference of two activities, or where spikes are missing: ``1 - x``."""
    if len(site.inputs) == 1 and site.arguments == (1,) and site.keywords.get("reversed"):
        return Complement(**over_time(site).common)
    if len(site.inputs) != 2 or site.reads[0] != site.reads[1]:
        raise refuse(site, "only differences of two activities are known, and 1 - x of spikes x")
    x, y = site.inputs
    minus = ir.Scale(**site.before("minus", inputs=(y,)), gain=-float(site.keywords.get("alpha", 1)))
    return minus, ir.Add(**{**site.common, "inputs": (x, minus.name)})


def concat(module: object, site: Site) -> Made:
    """Activities along the first feature axis."""
    dim = site.arguments[0] if site.arguments else site.keywords.get("dim", 0)
    if dim % (site.lead + len(site.shape)) != site.lead:
        raise refuse(site, "concat along another axis than the channels", remedy=f"torch.cat(..., dim={site.lead})")
    return ir.Concat(**site.common)


def axes_of(arguments: Sequence[Any], keywords: Mapping[str, Any], rank: int) -> set[int]:
    """The axes, counted from the front, that a call reduces; none if it does not say."""
    dims = arguments[0] if arguments else keywords.get("dim")
    dims = (dims,) if isinstance(dims, int) else dims
    return {int(d) % rank for d in dims} if isinstance(dims, tuple | list) else set()


def _reduced(site: Site, name: str) -> set[int]:
    axes = axes_of(site.arguments, site.keywords, site.lead + len(site.reads[0]))
    if not axes or site.keywords.get("keepdim") or any(site.arguments[1:]):
        raise refuse(site, f"{name} needs its axes, without keepdim")
    return axes


def mean(module: object, site: Site) -> Made:
    """Mean over height and width, or over time."""
    axes, rank = _reduced(site, "mean"), site.lead + len(site.reads[0])
    if axes == {0} and site.lead == 2:
        return ir.MeanTime(**site.common)
    if axes == {rank - 2, rank - 1} and len(site.reads[0]) == 3:
        return ir.MeanSpace(**site.common)
    if min(axes) < site.lead:
        remedy = "average over positions or over time, one by one"
        raise refuse(site, f"mean over axes {sorted(axes)}", remedy=remedy)
    return MeanAxes(**site.common, axes=tuple(sorted(axis - site.lead for axis in axes)))


def total(module: object, site: Site) -> Made:
    """Sum over time: T times the mean."""
    axes = _reduced(site, "sum")
    if axes != {0}:
        raise refuse(site, f"sum over axes {sorted(axes)}", remedy="sum over time, or take the mean")
    average = ir.MeanTime(**over_time(site).before("mean"))
    return average, ir.Scale(**{**site.common, "inputs": (average.name,)}, gain=float(site.timesteps))


largest = Never(
    "a maximum of numbers is not linear in spikes",
    remedy="over steps, take the last one or their mean; over an image, nn.MaxPool2d of spikes",
)

TIME_ENDS = (mean, total)
"""Rules of what may reduce the time axis, so that what it emits is (B, *features)."""


def unit(module: object, site: Site) -> Made:
    """A vector scaled to length 1."""
    return ir.Unit(**site.common)


ranked = Never(
    "the answer counts spikes and puts equal counts in order by the evidence: two answers in one",
    remedy="set readout=accumulate; its winner is the same where the current is constant (l2net, audio-snn)",
)
