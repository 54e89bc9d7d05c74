"""A module whose ``forward`` cannot be followed to the layers in it that have no rule, by running it once."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from avsnn.convert.problems import Problem, calling_line
from avsnn.convert.trace_rules import MODULE_RULES
from avsnn.convert.trace_site import Never, Rule
from avsnn.errors import TraceError


def unruled(
    module: nn.Module, inputs: Mapping[str, Any], *, rules: Mapping[type[nn.Module], Rule] = MODULE_RULES
) -> tuple[Problem, ...]:
    """Each layer without a rule that runs, once, with the line that calls it; what does not run is not looked for.

    Args:
        module: of the user's.
        inputs: example inputs by name.
        rules: module type to rule.
    """
    double = copy.deepcopy(module).double().eval()
    found: dict[str, Problem] = {}

    def note(name: str) -> Any:
        def hook(child: nn.Module, _inputs: Any) -> None:
            error = TraceError("no rule for this module", where=name, found=type(child).__name__)
            found.setdefault(name, Problem.of(error, line=calling_line()))

        return hook

    for name, child in double.named_modules():
        mine = [rule for kind, rule in rules.items() if isinstance(child, kind)]
        if not any(child.children()) and all(isinstance(rule, Never) for rule in mine):
            child.register_forward_pre_hook(note(name))
    try:
        with torch.no_grad():
            double(**{name: torch.as_tensor(np.asarray(x)).double() for name, x in inputs.items()})
    except Exception as error:  # the user's code can fail in any way
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        what, remedy = f"forward fails on the example inputs ({reason})", "give it inputs of the shapes it takes"
        failed = TraceError(what, where=type(module).__name__, remedy=remedy)
        found[""] = Problem.of(failed)
    return tuple(found.values())
