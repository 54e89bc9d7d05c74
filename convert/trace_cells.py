"""Neurons of other libraries: known by the name of their class, so that nothing needs to be installed to know them.

A *cell* is called once per step with the state that it returned in the step before, ``z, state = cell(x, state)``; a
*layer* is called once with all steps, ``z, state = layer(x)``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from avsnn.convert.ir import nodes as ir
from avsnn.convert.trace_site import Made, Never, Rule, Site, array, refuse
from avsnn.errors import TraceError


def norse_lif_box(module: Any, site: Site) -> Made:
    """``v = v + dt tau_mem_inv (x - v)``, a spike where ``v > v_th``: ours with ``strict``.

    Source: norse 1.1, ``norse.torch.functional.lif_box.lif_box_feed_forward_step`` (its documentation).
    """
    p = module.p
    method = getattr(p.reset_method, "__name__", "") if hasattr(p, "reset_method") else "reset_value"
    if float(torch.as_tensor(p.v_leak).abs().max()) != 0:
        raise refuse(site, "a leak potential other than 0", remedy="add it to the bias of the layer before")
    if method == "reset_value" and float(torch.as_tensor(p.v_reset).abs().max()) != 0:
        raise refuse(site, "a reset to something else than 0", remedy="v_reset=0, or reset_method=reset_subtract")
    if method not in _RESETS:
        raise refuse(site, f"unknown reset {method}", remedy=f"one of {', '.join(_RESETS)}")
    rate = torch.as_tensor(module.dt * p.tau_mem_inv)
    if rate.numel() != 1:
        raise refuse(site, "time constants that differ between neurons", remedy="one tau_mem_inv per layer")
    threshold = torch.as_tensor(p.v_th)
    return ir.LIF(
        **site.common,
        decay=1.0 - float(rate),
        gain=float(rate),
        threshold=float(threshold) if threshold.numel() == 1 else array(threshold),
        reset=_RESETS[method],
        strict=True,
    )


def norse_lif(module: Any, site: Site) -> Made:
    """With a current of its own; ours has none, so the current must be gone after a step."""
    p = module.p
    if abs(float(torch.as_tensor(module.dt * p.tau_syn_inv).reshape(-1)[0]) - 1.0) > 1e-6:
        remedy = "use LIFBoxCell, or tau_syn_inv=1/dt"
        raise refuse(site, "a synaptic current that outlives its step", remedy=remedy)
    return norse_lif_box(module, site)


_RESETS = {"reset_value": "hard", "reset_subtract": "subtract"}
_LEAKY = Never("a leaky integrator answers with a potential", remedy="average a linear layer over the steps instead")

CELLS: dict[str, Rule] = {
    "norse.torch.module.lif_box.LIFBoxCell": norse_lif_box,
    "norse.torch.module.lif.LIFCell": norse_lif,
    "norse.torch.module.leaky_integrator.LICell": _LEAKY,
    "norse.torch.module.leaky_integrator_box.LIBoxCell": _LEAKY,
}
"""Class to rule of what is called step by step."""

LAYERS: dict[str, Rule] = {
    "norse.torch.module.lif.LIF": norse_lif,
    "norse.torch.module.leaky_integrator.LI": _LEAKY,
}
"""Class to rule of what is called with all steps."""


_PACKAGES = ("norse.torch.module.",)


def rule_of(module: nn.Module) -> Rule:
    """The rule of a foreign neuron, by its own class.

    Raises:
        TraceError: it has none.
    """
    name = _name(module)
    rule = CELLS.get(name) or LAYERS.get(name)
    if rule is None:
        known = ", ".join(kind.rpartition(".")[2] for kind in (*CELLS, *LAYERS))
        raise TraceError("no rule for this neuron", where=name, found=type(module).__name__, limit=known)
    return rule


def is_foreign(module: nn.Module) -> bool:
    """Whether a module is a neuron of another library, with or without a rule."""
    return _name(module).startswith(_PACKAGES) and not any(module.children())


def is_cell(module: nn.Module) -> bool:
    """Whether a foreign neuron is called step by step."""
    return is_foreign(module) and (_name(module) in CELLS or _name(module).endswith("Cell"))


def _name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"
