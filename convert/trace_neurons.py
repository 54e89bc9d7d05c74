"""Rules of neurons that other libraries define: the equation of each to `ir.LIF`, or what of it has no node.

Nothing is imported from these libraries; `avsnn.convert.trace_cells` knows their neurons by name.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.node import Array
from avsnn.convert.trace_site import Made, Site, array, refuse


def _number(value: Any, site: Site, what: str) -> float:
    """The one number that a neuron has for all its features."""
    found = torch.as_tensor(value).detach()
    if found.numel() != 1:
        raise refuse(site, f"{what} that differ between neurons", remedy="one for the whole layer")
    return float(found)


def _threshold(value: Any) -> float | Array:
    found = torch.as_tensor(value).detach()
    return float(found) if found.numel() == 1 else array(found)


def _largest(value: Any) -> float:
    return float(torch.as_tensor(value).detach().abs().max())


_NORSE_RESETS = {"reset_value": "hard", "reset_subtract": "subtract"}


def norse_lif_box(module: Any, site: Site) -> Made:
    """``v = v + dt tau_mem_inv (x + v_leak - v)``, a spike where ``v > v_th``, v starting at v_leak: ours, strict.

    Counted from v_leak, ``w = v - v_leak``, the leak is gone, and the threshold is ``v_th - v_leak``; a reset to a
    value must then lead to ``w = 0``. Source: norse 1.1, ``norse.torch.functional.lif_box`` (its documentation).
    """
    p = module.p
    method = getattr(p.reset_method, "__name__", "") if hasattr(p, "reset_method") else "reset_value"
    if method not in _NORSE_RESETS:
        raise refuse(site, f"unknown reset {method}", remedy=f"one of {', '.join(_NORSE_RESETS)}")
    leak = torch.as_tensor(p.v_leak)
    if method == "reset_value" and _largest(torch.as_tensor(p.v_reset) - leak) != 0:
        raise refuse(site, "a reset to something else than the leak potential", remedy="v_reset = v_leak")
    if method == "reset_subtract" and _largest(leak) != 0:
        raise refuse(site, "a reset that subtracts, and a leak potential other than 0", remedy="v_leak = 0")
    rate = _number(module.dt * p.tau_mem_inv, site, "time constants")
    return ir.LIF(
        **site.common,
        decay=1.0 - rate,
        gain=rate,
        threshold=_threshold(p.v_th - leak),
        reset=_NORSE_RESETS[method],
        strict=True,
    )


def norse_lif(module: Any, site: Site) -> Made:
    """``i = i + x``, then v as in `norse_lif_box` with i for x, then ``i = i - dt tau_syn_inv i``; v alone is reset.

    So the i that v sees is ``i[t] = (1 - dt tau_syn_inv) i[t-1] + x[t]``, the order of the chip's current.
    Source: norse 1.1, ``norse.torch.functional.lif`` (its documentation).
    """
    made = norse_lif_box(module, site)
    assert isinstance(made, ir.LIF)
    gone = _number(module.dt * module.p.tau_syn_inv, site, "time constants")
    return _with_current(made, 0.0 if abs(gone - 1.0) <= 1e-6 else 1.0 - gone)


def _with_current(node: ir.LIF, decay: float) -> ir.LIF:
    return replace(node, current_decay=decay)


def snntorch_leaky(module: Any, site: Site) -> Made:
    """``mem = beta mem + x - threshold R``, a spike where ``mem > threshold``, R those of the step before: ours.

    Reset "zero" sets mem to 0 in the next step, before it decays: that is a hard reset. Source: snnTorch 1.0,
    ``snntorch.Leaky`` (its documentation).
    """
    _plain_snntorch(module, site)
    way = str(module.reset_mechanism)
    if way == "none" or (way == "subtract" and not getattr(module, "reset_delay", True)):
        what = "never resets" if way == "none" else "subtracts at once, and once more where a spike leaves enough"
        raise refuse(site, f"a neuron that {what}", remedy="reset_mechanism='subtract' or 'zero', reset_delay=True")
    return _snntorch(module, site, "subtract_delayed" if way == "subtract" else "hard")


def snntorch_synaptic(module: Any, site: Site) -> Made:
    """``syn = alpha syn + x``, then `snntorch_leaky` with syn for x; but "zero" must act at once.

    With ``reset_delay=True`` it sets mem to 0 in the next step after the current has come in, so that a step is lost;
    no node does that. Source: snnTorch 1.0, ``snntorch.Synaptic`` (its documentation).
    """
    _plain_snntorch(module, site)
    way, late = str(module.reset_mechanism), bool(getattr(module, "reset_delay", True))
    if (way, late) not in (("subtract", True), ("zero", False)):
        remedy = "reset_mechanism='subtract', or 'zero' with reset_delay=False"
        raise refuse(site, f"reset {way} with reset_delay={late}", remedy=remedy)
    made = _snntorch(module, site, "subtract_delayed" if late else "hard")
    return _with_current(made, _number(module.alpha.clamp(0, 1), site, "decays"))


def _plain_snntorch(module: Any, site: Site) -> None:
    """Refuse the switches that change what a spike is."""
    if module.inhibition:
        raise refuse(site, "a spike that keeps the others of its layer silent", remedy="inhibition=False")
    if module.state_quant:
        raise refuse(site, "a state that is rounded in training", remedy="state_quant=False")
    if _number(getattr(module, "graded_spikes_factor", 1.0), site, "factors of spikes") != 1.0:
        raise refuse(site, "spikes that are multiplied", remedy="put graded_spikes_factor into the layer behind")


def _snntorch(module: Any, site: Site, reset: str) -> ir.LIF:
    return ir.LIF(
        **site.common,
        decay=_number(module.beta.clamp(0, 1), site, "decays"),
        gain=1.0,
        threshold=_threshold(module.threshold),
        reset=reset,
        strict=True,
    )


def spikingjelly_if(module: Any, site: Site) -> Made:
    """``v = v + x``, a spike where ``v >= v_threshold``; v to 0, or minus the threshold where v_reset is None.

    Source: SpikingJelly 0.0.0.0.14 and 2.0, ``activation_based.neuron.IFNode`` (its documentation).
    """
    return _spikingjelly(module, site, decay=1.0, gain=1.0)


def spikingjelly_lif(module: Any, site: Site) -> Made:
    """``v = v + (x - v) / tau``, or ``v - v / tau + x`` with decay_input=False; else as `spikingjelly_if`."""
    rate = 1.0 / _number(module.tau, site, "time constants")
    return _spikingjelly(module, site, decay=1.0 - rate, gain=rate if module.decay_input else 1.0)


def spikingjelly_plif(module: Any, site: Site) -> Made:
    """As `spikingjelly_lif` with ``1 / tau = sigmoid(w)``, w learnt."""
    rate = _number(torch.sigmoid(module.w), site, "time constants")
    return _spikingjelly(module, site, decay=1.0 - rate, gain=rate if module.decay_input else 1.0)


def _spikingjelly(module: Any, site: Site, *, decay: float, gain: float) -> Made:
    if module.v_reset not in (None, 0):
        raise refuse(site, "a reset to something else than 0", remedy="v_reset=0, or None to subtract")
    if not getattr(module.surrogate_function, "spiking", True):
        raise refuse(site, "a neuron that sends its surrogate, no spikes", remedy="set_spiking_mode(True)")
    reset = "subtract" if module.v_reset is None else "hard"
    return ir.LIF(**site.common, decay=decay, gain=gain, threshold=_threshold(module.v_threshold), reset=reset)


def norse_li(module: Any, site: Site) -> Made:
    """`norse_lif` without threshold and reset: it answers with v at every step. Source: norse 1.1."""
    made = norse_li_box(module, site)
    gone = _number(module.dt * module.p.tau_syn_inv, site, "time constants")
    assert isinstance(made, ir.LeakyIntegrator)
    return replace(made, current_decay=0.0 if abs(gone - 1.0) <= 1e-6 else 1.0 - gone)


def norse_li_box(module: Any, site: Site) -> Made:
    """`norse_lif_box` without threshold and reset."""
    if _largest(module.p.v_leak) != 0:
        raise refuse(site, "a leak potential other than 0", remedy="v_leak = 0, and a bias behind it")
    rate = _number(module.dt * module.p.tau_mem_inv, site, "time constants")
    return ir.LeakyIntegrator(**site.common, decay=1.0 - rate, gain=rate)
