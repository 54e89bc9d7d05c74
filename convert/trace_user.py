"""Tracer rules of layers that networks written elsewhere bring along: average pools, divisions, lines of features.

Lines, features (C, L) behind a layer of one dimension, are images (C, 1, L) of height 1 in the graph.
"""

from __future__ import annotations

import numpy as np
from torch import nn

from avsnn.convert.ir import nodes as ir
from avsnn.convert.trace_site import Made, Site, array, pair, refuse


def average_pool(module: nn.AvgPool2d, site: Site) -> Made:
    """A mean over windows: the same small kernel for every channel."""
    kernel, padding = pair(module.kernel_size), pair(module.padding)
    if module.ceil_mode or (padding != (0, 0) and not module.count_include_pad):
        remedy = "ceil_mode=False, and count_include_pad=True or no padding"
        raise refuse(site, "average pooling whose windows differ in size", remedy=remedy)
    stride = pair(module.kernel_size if module.stride is None else module.stride)
    return _mean(site, kernel, stride, padding, module.divisor_override or kernel[0] * kernel[1])


def adaptive_average_pool(module: nn.AdaptiveAvgPool2d, site: Site) -> Made:
    """A mean over equal parts of the image."""
    (height, width), (rows, columns) = site.reads[0][1:], site.shape[1:]
    if height % rows or width % columns:
        found = f"({height}, {width}) to ({rows}, {columns})"
        raise refuse(site, f"adaptive pooling of {found}: parts that overlap", remedy="choose sizes that divide")
    kernel = (height // rows, width // columns)
    return _mean(site, kernel, kernel, (0, 0), kernel[0] * kernel[1])


def _mean(site: Site, kernel: ir.Pair, stride: ir.Pair, padding: ir.Pair, divisor: int) -> Made:
    if len(site.shape) != 3:
        raise refuse(site, "average pooling of something else than images")
    channels = site.shape[0]
    weight = np.full((channels, 1, *kernel), 1.0 / divisor)
    return ir.Conv2d(
        **site.common, weight=weight, bias=np.zeros(channels), stride=stride, padding=padding, groups=channels
    )


def divided(module: object, site: Site) -> Made:
    """An activity divided by a number."""
    by = site.arguments[0] if site.arguments else None
    if len(site.inputs) != 1 or not isinstance(by, int | float) or by == 0:
        raise refuse(site, "only the division by a number is known", remedy="fold tensors into the layer before")
    if site.keywords.get("rounding_mode"):
        raise refuse(site, "a division that rounds", remedy="leave rounding_mode out")
    return ir.Scale(**site.common, gain=1.0 / float(by))


def permuted(module: object, site: Site) -> Made:
    """Feature axes in another order; time and samples stay where they are."""
    given = site.arguments or (site.keywords["dims"],)
    dims = given[0] if isinstance(given[0], tuple | list) else given
    rank = site.lead + len(site.reads[0])
    order = [int(d) % rank for d in dims]
    if order[: site.lead] != list(range(site.lead)):
        raise refuse(site, "moves time or samples", remedy="permute feature axes alone")
    axes = tuple(axis - site.lead for axis in order[site.lead :])
    return site.inputs[0] if axes == tuple(range(len(axes))) else ir.Permute(**site.common, axes=axes)


def conv1d(module: nn.Conv1d, site: Site) -> Made:
    """A convolution over lines: one of height 1, or, over an input (C, L), of height C over one channel."""
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        raise refuse(site, "padding must be zeros, given in steps", remedy="set padding_mode='zeros', padding=<int>")
    kernel, groups = array(module.weight), module.groups
    weight = kernel[:, :, None, :]
    if len(site.reads[0]) == 2:
        weight = np.zeros((len(kernel), 1, module.in_channels, kernel.shape[2]), dtype=kernel.dtype)
        rows, columns = len(kernel) // groups, kernel.shape[1]
        for out in range(len(kernel)):
            first = out // rows * columns
            weight[out, 0, first : first + columns] = kernel[out]
        groups = 1
    return ir.Conv2d(
        **site.common,
        weight=weight,
        bias=np.zeros(len(kernel)) if module.bias is None else array(module.bias),
        stride=(1, module.stride[0]),
        padding=(0, int(module.padding[0])),
        dilation=(1, module.dilation[0]),
        groups=groups,
    )


def max_pool_line(module: nn.MaxPool1d, site: Site) -> Made:
    """Maximum over stretches of a line."""
    if module.ceil_mode or _one(module.dilation) != 1 or module.return_indices:
        raise refuse(site, "max pooling with ceil_mode, dilation or indices")
    kernel = (1, _one(module.kernel_size))
    stride = kernel if module.stride is None else (1, _one(module.stride))
    return ir.MaxPool2d(**site.common, kernel=kernel, stride=stride, padding=(0, _one(module.padding)))


def average_pool_line(module: nn.AvgPool1d, site: Site) -> Made:
    """A mean over stretches of a line."""
    kernel, padding = _one(module.kernel_size), _one(module.padding)
    if module.ceil_mode or (padding and not module.count_include_pad):
        raise refuse(site, "average pooling whose windows differ in size", remedy="ceil_mode=False, no padding")
    return _mean(site, (1, kernel), (1, _one(module.stride)), (0, padding), kernel)


def mean_line(module: object, site: Site) -> Made:
    """Mean over a line."""
    return ir.MeanSpace(**site.common)


def _one(value: int | tuple[int, ...]) -> int:
    return value if isinstance(value, int) else value[0]


LINES = (nn.Conv1d, nn.MaxPool1d, nn.AvgPool1d)
"""Layers whose answer are lines."""
