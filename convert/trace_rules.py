"""The table of what the tracer understands: one function per kind of module, call and method.

`avsnn.convert.trace_site` says what a rule is given and returns. To teach the tracer a layer of your own, pass
``trace(..., rules=MODULE_RULES | {MyLayer: my_rule})``.
"""

from __future__ import annotations

import operator

import torch
from torch import nn

from avsnn.convert import trace_calls as calls
from avsnn.convert import trace_products as products
from avsnn.convert import trace_user as user
from avsnn.convert.ir import nodes as ir
from avsnn.convert.trace_site import Made, Never, Rule, Site, array, over_time, pair, refuse
from avsnn.convert.view_graph import PointLinear
from avsnn.train import attention, norms
from avsnn.train.layers import DirectCoding, Normalise
from avsnn.train.models import counting, shaf
from avsnn.train.neurons import LIF


def conv2d(module: nn.Conv2d, site: Site) -> Made:
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


def linear(module: nn.Linear, site: Site) -> Made:
    """Dense layer on a vector of features, or on each of several positions."""
    bias = torch.zeros(module.out_features) if module.bias is None else module.bias
    kind = ir.Linear if len(site.shape) == 1 else PointLinear
    return kind(**site.common, weight=array(module.weight), bias=array(bias))


def batch_norm(module: nn.BatchNorm1d | nn.BatchNorm2d, site: Site) -> Made:
    """Batch normalisation with its running statistics."""
    if module.running_mean is None or module.running_var is None:
        raise refuse(site, "batch statistics are needed at inference", remedy="set track_running_stats=True")
    gamma = torch.ones(module.num_features) if module.weight is None else module.weight
    beta = torch.zeros(module.num_features) if module.bias is None else module.bias
    mean, var = array(module.running_mean), array(module.running_var)
    return ir.BatchNorm(**site.common, mean=mean, var=var, gamma=array(gamma), beta=array(beta), eps=module.eps)


def lif(module: LIF, site: Site) -> Made:
    """Our own neuron."""
    return ir.LIF(
        **over_time(site).common,
        decay=module.decay,
        gain=module.gain,
        threshold=module.v_threshold,
        reset=module.reset,
        strict=module.strict,
    )


def max_pool(module: nn.MaxPool2d, site: Site) -> Made:
    """Maximum over windows."""
    if module.ceil_mode or pair(module.dilation) != (1, 1) or module.return_indices:
        raise refuse(site, "max pooling with ceil_mode, dilation or indices")
    stride = module.kernel_size if module.stride is None else module.stride
    return ir.MaxPool2d(
        **site.common, kernel=pair(module.kernel_size), stride=pair(stride), padding=pair(module.padding)
    )


def normalise(module: Normalise, site: Site) -> Made:
    """Fixed input normalisation."""
    return ir.Normalise(**site.common, mean=array(module.mean), std=array(module.std))


def nothing(module: object, site: Site) -> Made:
    """An operation that does nothing at inference."""
    return site.inputs[0]


MODULE_RULES: dict[type[nn.Module], Rule] = {
    nn.Conv2d: conv2d,
    nn.Linear: linear,
    nn.BatchNorm1d: batch_norm,
    nn.BatchNorm2d: batch_norm,
    nn.MaxPool2d: max_pool,
    nn.Flatten: calls.flatten,
    nn.Identity: nothing,
    nn.Dropout: nothing,
    nn.Dropout1d: nothing,
    nn.Dropout2d: nothing,
    nn.Conv1d: user.conv1d,
    nn.MaxPool1d: user.max_pool_line,
    nn.AvgPool1d: user.average_pool_line,
    nn.AvgPool2d: user.average_pool,
    nn.AdaptiveAvgPool2d: user.adaptive_average_pool,
    LIF: lif,
    Normalise: normalise,
    DirectCoding: nothing,  # a value without time means the same in every step
    attention.SpikeAttention: products.spike_attention,
    attention.PositionedScores: products.positioned_scores,
    attention.MappedValues: products.mapped_values,
    attention.ProductOfMeans: products.product_of_means,
    attention.AddScaled: products.add_scaled,
    attention.StepGain: products.step_gain,
    attention.TokenMean: products.token_mean,
    norms.DSLN: products.dsln,
    norms.LayerNorm: products.layer_norm,
    nn.LayerNorm: products.token_norm,
    shaf.Frames: products.frames,
    counting.Unit: calls.unit,
    shaf.SoftmaxAttention: Never(
        "a softmax divides by a sum of exponentials, which no neuron computes",
        remedy="attention=spike attends with spikes alone",
    ),
    nn.ReLU: Never("sends numbers, and a chip sends spikes", remedy="use LIF (neuron=lif in spikslc)"),
}

CALL_RULES: dict[object, Rule] = {
    operator.add: calls.add,
    operator.iadd: calls.add,
    torch.add: calls.add,
    operator.sub: calls.subtract,
    operator.isub: calls.subtract,
    torch.sub: calls.subtract,
    torch.cat: calls.concat,
    torch.flatten: calls.flatten,
    torch.amax: calls.largest,
    torch.max: calls.largest,
    torch.mean: calls.mean,
    operator.matmul: products.matrix_product,
    torch.matmul: products.matrix_product,
    torch.bmm: products.matrix_product,
    operator.mul: calls.times,
    torch.mul: calls.times,
    torch.sum: calls.total,
    operator.truediv: user.divided,
    torch.div: user.divided,
    torch.permute: user.permuted,
    torch.reshape: calls.flatten,
    "add": calls.add,
    "amax": calls.largest,
    "max": calls.largest,
    "sub": calls.subtract,
    "flatten": calls.flatten,
    "mean": calls.mean,
    "matmul": products.matrix_product,
    "bmm": products.matrix_product,
    "mul": calls.times,
    "div": user.divided,
    "permute": user.permuted,
    "reshape": calls.flatten,
    "sum": calls.total,
    "view": calls.flatten,
    counting.unit: calls.unit,
    counting.ranked: calls.ranked,
}
