"""A network that was trained against the integers that it leaves: every spike, state and answer, with a control."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from avsnn.convert import equivalence as eq
from avsnn.convert.finetune_graph import IntegerNet, tensors
from avsnn.convert.idle_mistakes import idle_on
from avsnn.convert.ir.activity import Activity
from avsnn.convert.ir.fixed_interpreter import logical, to_integers
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array
from avsnn.errors import VerifyError


def activity(net: IntegerNet, integers: Mapping[str, Array]) -> Activity:
    """Run samples on the device of ``net`` and return what the interpreter would: every spike, state and answer."""
    device = next(net.parameters()).device
    found = net.record(tensors(net.graph, integers, device))

    return Activity(
        outputs={name: whole(raw) for name, raw in found.raw.items()},
        spikes={name: spikes.cpu().numpy() != 0 for name, spikes in found.spikes.items()},
        states={name: {key: whole(x) for key, x in state.items()} for name, state in found.states.items()},
    )


def whole(x: Tensor) -> Array:
    """The integers that a tensor of floats holds.

    Raises:
        VerifyError: it holds something else.
    """
    values: Array = x.detach().cpu().double().numpy()
    if (values != np.rint(values)).any():
        raise VerifyError("what was trained computed with fractions", where="fine-tuning")
    return values.astype(np.int64)


def compare(net: IntegerNet, inputs: Mapping[str, Array], data: str) -> eq.Check:
    """Compare what was trained with the graph that is deployed: every spike, state and answer.

    Raises:
        VerifyError: something differs, everything is silent, or a planted mistake goes unnoticed.
    """
    graph = net.integers()
    integers = to_integers(graph, inputs)
    expected = activity(net, integers)
    with torch.no_grad():  # answers of the pass that trains, which computes pools as maxima
        trained = net(tensors(graph, integers, next(net.parameters()).device)).raw
    expected = replace(expected, outputs={name: whole(raw) for name, raw in trained.items()})

    def run(spoiled: Graph) -> Activity:
        return logical(spoiled, integers)

    found = run(graph)
    check = eq.compare("quantised = what was trained", data, expected, found, exact=True)
    return eq.with_controls(check, expected, run, eq.negated_row(graph), idle_on(graph, integers, found))
