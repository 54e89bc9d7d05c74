"""The table of what the tracer understands: one function per kind of module, call and method.

A rule gets the module (or nothing), and a `Site`: the name, inputs, shape and origin of the node to make. It returns
the node, or the name of an existing node when the operation changes nothing at inference (dropout, direct coding).
To teach the tracer a layer of your own, pass ``trace(..., rules=MODULE_RULES | {MyLayer: my_rule})``.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.node import Array, Node, Shape
from avsnn.errors import TraceError
from avsnn.train.layers import DirectCoding, Normalise
from avsnn.train.neurons import LIF


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where a node will stand.

    Attributes:
        name: its name.
        inputs: names of the nodes it reads.
        shape: features it emits.
        origin: module path and class, for messages.
        lead: leading axes of the tensors read that are not features (1: batch; 2: time, batch).
        arguments: the remaining positional arguments and keywords of the call, all constants.
    """

    name: str
    inputs: tuple[str, ...]
    shape: Shape
    origin: str
    lead: int = 2
    arguments: tuple[Any, ...] = ()
    keywords: Mapping[str, Any]

    @property
    def common(self) -> dict[str, Any]:
        """The fields that every node has."""
        return {"name": self.name, "inputs": self.inputs, "shape": self.shape, "origin": self.origin}


Rule = Callable[[Any, Site], Node | str]


def array(tensor: torch.Tensor) -> Array:
    """Weights as numpy, detached."""
    values: Array = tensor.detach().cpu().numpy()
    return values.copy()


def refuse(site: Site, what: str, *, remedy: str = "") -> TraceError:
    """The error of a rule that meets an option it has no node for."""
    return TraceError(what, where=site.origin, remedy=remedy)


def pair(value: Any) -> ir.Pair:
    """An int or a pair, as a pair."""
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[1]))


def conv2d(module: nn.Conv2d, site: Site) -> Node:
    """Convolution with zero padding, given in pixels."""
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        raise refuse(site, "padding must be zeros, given in pixels", remedy="set padding_mode='zeros', padding=<int>")
    bias = torch.zeros(module.out_channels) if module.bias is None else module.bias
    return ir.Conv2d(
        **site.common,
        weight=array(module.weight),
        bias=array(bias),
        stride=pair(module.stride),
        padding=pair(module.padding),
        dilation=pair(module.dilation),
        groups=module.groups,
    )


def linear(module: nn.Linear, site: Site) -> Node:
    """Dense layer on a vector of features."""
    if len(site.shape) != 1:
        raise refuse(site, "a linear layer over one axis of several", remedy="use a 1x1 nn.Conv2d, or flatten first")
    bias = torch.zeros(module.out_features) if module.bias is None else module.bias
    return ir.Linear(**site.common, weight=array(module.weight), bias=array(bias))


def batch_norm(module: nn.BatchNorm2d, site: Site) -> Node:
    """Batch normalisation with its running statistics."""
    if module.running_mean is None or module.running_var is None:
        raise refuse(site, "batch statistics are needed at inference", remedy="set track_running_stats=True")
    gamma = torch.ones(module.num_features) if module.weight is None else module.weight
    beta = torch.zeros(module.num_features) if module.bias is None else module.bias
    mean, var = array(module.running_mean), array(module.running_var)
    return ir.BatchNorm(**site.common, mean=mean, var=var, gamma=array(gamma), beta=array(beta), eps=module.eps)


def lif(module: LIF, site: Site) -> Node:
    """Our own neuron."""
    return ir.LIF(
        **site.common,
        decay=module.decay,
        gain=module.gain,
        threshold=module.v_threshold,
        reset=module.reset,
        strict=module.strict,
    )


def max_pool(module: nn.MaxPool2d, site: Site) -> Node:
    """Maximum over windows."""
    if module.ceil_mode or pair(module.dilation) != (1, 1) or module.return_indices:
        raise refuse(site, "max pooling with ceil_mode, dilation or indices")
    stride = module.kernel_size if module.stride is None else module.stride
    return ir.MaxPool2d(
        **site.common, kernel=pair(module.kernel_size), stride=pair(stride), padding=pair(module.padding)
    )


def normalise(module: Normalise, site: Site) -> Node:
    """Fixed input normalisation."""
    return ir.Normalise(**site.common, mean=array(module.mean), std=array(module.std))


def nothing(module: object, site: Site) -> str:
    """An operation that does nothing at inference."""
    return site.inputs[0]


def flatten(module: object, site: Site) -> Node:
    """All features to one axis."""
    if len(site.shape) != 1:
        raise refuse(site, "flatten must join all feature axes, and no other", remedy=f"flatten({site.lead})")
    return ir.Flatten(**site.common)


def add(module: object, site: Site) -> Node:
    """Sum of two activities."""
    if len(site.inputs) != 2 or site.keywords.get("alpha", 1) != 1:
        raise refuse(site, "only the sum of two activities is known", remedy="fold constants into the layer before")
    return ir.Add(**site.common)


def concat(module: object, site: Site) -> Node:
    """Activities along the first feature axis."""
    dim = site.arguments[0] if site.arguments else site.keywords.get("dim", 0)
    rank = site.lead + len(site.shape)
    if dim % rank != site.lead:
        raise refuse(site, "concat along another axis than the channels", remedy=f"torch.cat(..., dim={site.lead})")
    return ir.Concat(**site.common)


def mean(module: object, site: Site) -> Node:
    """Mean over height and width, or over time."""
    dims = site.arguments[0] if site.arguments else site.keywords.get("dim")
    if dims is None or site.keywords.get("keepdim"):
        raise refuse(site, "mean needs its axes, without keepdim")
    dims = (dims,) if isinstance(dims, int) else tuple(dims)
    rank = site.lead + len(site.shape) + len(dims)
    axes = {d % rank for d in dims}
    if axes == {0} and site.lead == 1:
        return ir.MeanTime(**site.common)
    if axes == {rank - 2, rank - 1} and len(site.shape) == 1:
        return ir.MeanSpace(**site.common)
    raise refuse(site, f"mean over axes {sorted(axes)}", remedy="average over (height, width) or over time, one by one")


MODULE_RULES: dict[type[nn.Module], Rule] = {
    nn.Conv2d: conv2d,
    nn.Linear: linear,
    nn.BatchNorm2d: batch_norm,
    nn.MaxPool2d: max_pool,
    nn.Flatten: flatten,
    nn.Identity: nothing,
    nn.Dropout: nothing,
    LIF: lif,
    Normalise: normalise,
    DirectCoding: nothing,
}

CALL_RULES: dict[object, Rule] = {
    operator.add: add,
    operator.iadd: add,
    torch.add: add,
    torch.cat: concat,
    torch.flatten: flatten,
    torch.mean: mean,
    "add": add,
    "flatten": flatten,
    "mean": mean,
}
