"""Synapses to the connections of each neuron that they read: what makes synaptic operations differentiable."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from avsnn.convert.finetune_graph import IntegerNet
from avsnn.convert.finetune_layers import Weights
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.kernels import image_shape


def fanouts(net: IntegerNet) -> dict[str, Tensor]:
    """Return synapse to stored connections per neuron of its source, (*source).

    Each message that is not 0 is as many synaptic operations as its neuron has connections, those at borders fewer
    (`avsnn.deploy.reports.counts`).
    """
    graph = net.graph
    found = {}
    for layer in net.layers.values():
        if isinstance(layer, Weights):
            node = layer.synapse
            found[node.name] = _fanout(node, graph[node.inputs[0]].shape).to(layer.latent.device)
    return found


def _fanout(node: fixed.Synapse, source: tuple[int, ...]) -> Tensor:
    if not isinstance(node, fixed.FixedConv2d):
        return torch.full(source, float(len(node.weight_mant)))
    ones = torch.ones(node.weight_mant.shape)
    with torch.enable_grad():
        x = torch.ones(1, *image_shape(source), requires_grad=True)
        y = functional.conv2d(x, ones, None, node.stride, node.padding, node.dilation, node.groups)
        (reached,) = torch.autograd.grad(y.sum(), x)
    return reached[0].round().reshape(source)
