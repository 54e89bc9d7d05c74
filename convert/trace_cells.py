"""Neurons of other libraries: known by the name of their class, so that nothing needs to be installed to know them.

A neuron is called in one of three ways. A *cell* is called once per step with the state that it returned in the step
before, ``z, state = cell(x, state)``; one that *keeps* its state is called once per step without it, ``z = neuron(x)``;
a *layer* is called once with all steps.
"""

from __future__ import annotations

from torch import nn

from avsnn.convert import trace_neurons as neurons
from avsnn.convert.trace_site import Rule
from avsnn.errors import TraceError

NORSE, SNNTORCH, SPIKINGJELLY = "norse.torch.module", "snntorch._neurons", "spikingjelly.activation_based.neuron"
OLD_SPIKINGJELLY = "spikingjelly.clock_driven.neuron"  # until 0.0.0.0.14; most published networks import this one
RULES: dict[tuple[str, str], Rule] = {
    (NORSE, "LIFBoxCell"): neurons.norse_lif_box,
    (NORSE, "LIFCell"): neurons.norse_lif,
    (NORSE, "LIF"): neurons.norse_lif,
    (NORSE, "LICell"): neurons.norse_li,
    (NORSE, "LI"): neurons.norse_li,
    (NORSE, "LIBoxCell"): neurons.norse_li_box,
    (SNNTORCH, "Leaky"): neurons.snntorch_leaky,
    (SNNTORCH, "Synaptic"): neurons.snntorch_synaptic,
    (SPIKINGJELLY, "IFNode"): neurons.spikingjelly_if,
    (SPIKINGJELLY, "LIFNode"): neurons.spikingjelly_lif,
    (SPIKINGJELLY, "ParametricLIFNode"): neurons.spikingjelly_plif,
    **{(OLD_SPIKINGJELLY, f"{steps}IFNode"): neurons.spikingjelly_if for steps in ("", "MultiStep")},
    **{(OLD_SPIKINGJELLY, f"{steps}LIFNode"): neurons.spikingjelly_lif for steps in ("", "MultiStep")},
    **{(OLD_SPIKINGJELLY, f"{steps}ParametricLIFNode"): neurons.spikingjelly_plif for steps in ("", "MultiStep")},
}
"""Package and class to rule."""


def rule_of(module: nn.Module) -> Rule:
    """The rule of a foreign neuron, by its own class.

    Raises:
        TraceError: it has none.
    """
    name = type(module).__qualname__
    rule = RULES.get((_package(module), name))
    if rule is None:
        known = ", ".join(kind for package, kind in RULES if package == _package(module))
        where = f"{type(module).__module__}.{name}"
        raise TraceError("no rule for this neuron", where=where, found=name, limit=known)
    return rule


def is_foreign(module: nn.Module) -> bool:
    """Whether a module is a neuron of another library, with or without a rule."""
    package = _package(module)
    return bool(package) and not (package == NORSE and any(module.children()))  # norse has containers in there


def fires(module: nn.Module) -> bool:
    """Whether a foreign neuron sends spikes; a leaky integrator sends numbers."""
    return is_foreign(module) and type(module).__qualname__ not in ("LICell", "LI", "LIBoxCell")


def way(module: nn.Module) -> str:
    """How a foreign neuron is called: "cell", "keeps" or "layer", see above; "" for anything else."""
    if not is_foreign(module):
        return ""
    if hasattr(module, "step_mode"):  # SpikingJelly
        return "layer" if module.step_mode == "m" else "keeps"
    if _package(module) == OLD_SPIKINGJELLY:
        return "layer" if type(module).__qualname__.startswith("MultiStep") else "keeps"
    if hasattr(module, "init_hidden"):  # snnTorch
        return "keeps" if module.init_hidden else "cell"
    return "cell" if type(module).__qualname__.endswith("Cell") else "layer"


def is_cell(module: nn.Module) -> bool:
    """Whether a foreign neuron is called step by step."""
    return way(module) in ("cell", "keeps")


def forget(module: nn.Module) -> None:
    """Let all foreign neurons in a module begin anew, as their libraries' own functions do before a sample."""
    for child in module.modules():
        if is_foreign(child):
            for method in ("reset", "reset_mem"):  # SpikingJelly's, snnTorch's
                if callable(getattr(child, method, None)):
                    getattr(child, method)()


def _package(module: nn.Module) -> str:
    """The package of neurons that a module's class is of, or nothing."""
    name = type(module).__module__
    return next(
        (known for known in (NORSE, SNNTORCH, SPIKINGJELLY, OLD_SPIKINGJELLY) if f"{name}.".startswith(f"{known}.")), ""
    )
