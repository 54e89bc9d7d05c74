"""What SpikingJelly, NeuroBench and sinabs count of a torch layer and what enters it, over the whole batch.

And our connections as such layers. The tools are imported when they are asked, from an environment that has them.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from avsnn.convert.ir import fixed_nodes as ir
from avsnn.convert.ir.kernels import image_shape

Counter = Callable[[nn.Module, torch.Tensor], int]


def spikingjelly(module: nn.Module, *x: torch.Tensor) -> int:
    """Additions that spikes cause."""
    from spikingjelly.activation_based.op_counter import SynOpCounter

    return _dispatched(SynOpCounter(), module, *x)


def spikingjelly_macs(module: nn.Module, *x: torch.Tensor) -> int:
    """Multiply-accumulates of what is no spike."""
    from spikingjelly.activation_based.op_counter import MACCounter

    return _dispatched(MACCounter(), module, *x)


def _dispatched(counter: Any, module: nn.Module, *x: torch.Tensor) -> int:
    from spikingjelly.activation_based.op_counter import DispatchCounterMode

    with torch.no_grad(), DispatchCounterMode([counter]):
        module(*x)
    return int(counter.get_total())


def neurobench(key: str) -> Counter:
    """One number of its metric (Effective_ACs, Effective_MACs, Dense), which averages over the batch."""

    def counter(module: nn.Module, x: torch.Tensor) -> int:
        from neurobench.hooks.layer import LayerHook
        from neurobench.metrics.workload import SynapticOperations

        hook = LayerHook(module)
        with torch.no_grad():
            module(x)
            found = SynapticOperations()(SimpleNamespace(connection_hooks=[hook]), None, (x,))
        hook.close()
        return round(found[key] * len(x))

    return counter


def sinabs(module: nn.Module, x: torch.Tensor) -> int:
    """Its hooks average over the batch."""
    from sinabs.hooks import conv_layer_synops_hook, linear_layer_synops_hook

    hook = conv_layer_synops_hook if isinstance(module, nn.Conv2d) else linear_layer_synops_hook
    with torch.no_grad():
        hook(module, [x], module(x))
    return round(float(module.hook_data["layer_synops_per_timestep"]) * len(x))


def as_module(node: ir.Synapse | ir.HeldCurrent) -> nn.Module:
    """The same connection in torch, float64 so that sums of ours stay exact."""
    weight = torch.tensor(node.weight if isinstance(node, ir.HeldCurrent) else node.weight_mant, dtype=torch.float64)
    module: nn.Module
    if weight.ndim == 2:
        module = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=torch.float64)
    else:
        assert isinstance(node, ir.FixedConv2d | ir.HeldCurrent)
        how: Any = {"stride": node.stride, "padding": node.padding, "dilation": node.dilation, "groups": node.groups}
        wide = weight.shape[1] * node.groups
        module = nn.Conv2d(wide, weight.shape[0], tuple(weight.shape[2:]), bias=False, dtype=torch.float64, **how)
    module.weight = nn.Parameter(weight, requires_grad=False)
    return module


def as_batch(node: ir.Synapse | ir.HeldCurrent, x: np.ndarray, shape: tuple[int, ...]) -> torch.Tensor:
    """(T, B, *shape) as steps times samples."""
    flat = isinstance(node, ir.FixedLinear) or (isinstance(node, ir.HeldCurrent) and node.weight.ndim == 2)
    return torch.tensor(x.reshape(-1, *((int(np.prod(shape)),) if flat else image_shape(shape))), dtype=torch.float64)
