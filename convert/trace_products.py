"""Tracer rules of what multiplies activity with activity, and of norms over tokens."""

from __future__ import annotations

import torch
from torch import nn

from avsnn.convert.ir import nodes as ir
from avsnn.convert.trace_site import Made, Site, array, over_time, refuse
from avsnn.convert.view_graph import MatMul, PointNorm
from avsnn.train import attention, norms
from avsnn.train.models.shaf import Frames


def matrix_product(module: object, site: Site) -> Made:
    """Spikes times spikes, over the last two axes."""
    if len(site.inputs) != 2 or any(len(shape) < 2 for shape in site.reads):
        raise refuse(over_time(site), "only the product of two matrices of spikes is known")
    return MatMul(**over_time(site).common)


def spike_attention(module: attention.SpikeAttention, site: Site) -> Made:
    """Attention over space or time."""
    return ir.Attention(**over_time(site).common, heads=module.heads, scale=module.scale, over=module.over)


def positioned_scores(module: attention.PositionedScores, site: Site) -> Made:
    """A map of attention with a bias per pair of tokens."""
    bias = module.table.flatten()[module.place]
    return ir.AttentionMap(**over_time(site).common, heads=module.heads, bias=array(bias))


def mapped_values(module: attention.MappedValues, site: Site) -> Made:
    """Values where a map says so."""
    return ir.MappedValues(**over_time(site).common, scale=module.scale)


def product_of_means(module: attention.ProductOfMeans, site: Site) -> Made:
    """Mean over tokens times mean over time."""
    return ir.ProductOfMeans(**over_time(site).common)


def add_scaled(module: attention.AddScaled, site: Site) -> Made:
    """``x + gain r``: a gain, then a sum."""
    x, r = site.inputs
    scaled = ir.Scale(**site.before("scaled", inputs=(r,)), gain=module.gain)
    return scaled, ir.Add(**{**site.common, "inputs": (x, scaled.name)})


def step_gain(module: attention.StepGain, site: Site) -> Made:
    """A gain per step."""
    return ir.StepGain(**over_time(site).common)


def token_mean(module: attention.TokenMean, site: Site) -> Made:
    """Mean over tokens that have rows and columns."""
    if len(over_time(site).reads[0]) != 3:
        raise refuse(site, "tokens must have rows and columns", remedy="give them a second axis of length 1")
    return ir.MeanSpace(**site.common)


def dsln(module: norms.DSLN, site: Site) -> Made:
    """Norm over channels with a frozen variance."""
    return ir.DSLN(
        **over_time(site).common,
        var=array(module.running_var),
        gamma=array(module.weight),
        beta=array(module.bias),
        eps=module.eps,
    )


def layer_norm(module: norms.LayerNorm, site: Site) -> Made:
    """Norm over channels with the variance of the moment."""
    gamma, beta = array(module.weight), array(module.bias)
    return ir.LayerNorm(**over_time(site).common, gamma=gamma, beta=beta, variant=module.variant, eps=module.eps)


def token_norm(module: nn.LayerNorm, site: Site) -> Made:
    """Norm over the last axis, which holds the channels of each token."""
    if len(module.normalized_shape) != 1:
        raise refuse(over_time(site), "a layer norm over several axes", remedy="normalise the channels of each token")
    gamma = torch.ones(site.shape[-1]) if module.weight is None else module.weight
    beta = torch.zeros(site.shape[-1]) if module.bias is None else module.bias
    kind = ir.LayerNorm if len(site.shape) == 1 else PointNorm
    return kind(**over_time(site).common, gamma=array(gamma), beta=array(beta), eps=module.eps)


def frames(module: Frames, site: Site) -> Made:
    """Frames of features to channels with positions."""
    if site.lead != 1:
        raise refuse(site, "takes the axis of samples for frames", remedy="call it before DirectCoding")
    return ir.Permute(**site.common, axes=(1, 0))
