"""The currents of the quantised graph against those of the folded one, population by population, spikes being equal.

`avsnn.convert.integer_check` compares integers one by one, and asks the same walk as the quantiser which real numbers
they stand for. This check asks nobody: both graphs are handed the same spikes, each computes what its populations then
receive, and the two must agree within what the roundings of weights, biases and host arithmetic can add up to. So a
connection that is missing, reads another population, or stands for another factor is noticed whoever forgot it. Counts
are integers in both graphs and must agree exactly, as must maxima over windows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.fixed_interpreter import bias_of, connect, held, product
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.interpreter import apply, values
from avsnn.convert.ir.kernels import per_channel
from avsnn.convert.ir.node import Array, Node
from avsnn.convert.ir.products import UNIT_BITS
from avsnn.convert.passes.quantise import Scale
from avsnn.errors import VerifyError

COINCIDENCE = "coincidence"  # role of neurons that multiply spikes in place of a product: their sums are counts
FINE = 1 << 10  # fractions of a message that its distance from the real one is rounded up to
TINY = 1e-30  # in place of an eps that rounds to 0: of equal channels nothing is left to divide
ROUNDING = 1e-9  # relative: float64 sums in another order


def check_currents(
    folded: Graph, quantised: Graph, scales: tuple[Scale, ...], inputs: Mapping[str, Array], spikes: Mapping[str, Array]
) -> int:
    """Return how many currents were compared.

    Args:
        folded: the float graph.
        quantised: its integers.
        scales: S of each population.
        inputs: user values by name.
        spikes: population of the folded graph to what it sends, (T, B, *shape).

    Raises:
        VerifyError: a current of the integers is further from the real one than rounding can bring it.
    """
    exact = {node.name: np.rint(np.asarray(inputs[node.name]) / node.step) * node.step for node in folded.of(ir.Input)}
    real, T = values(folded, exact, spikes), folded.timesteps  # float32 is off the grid of levels by more than rounding
    scale_of = {scale.population: scale for scale in scales}
    sent: dict[str, Array] = {}
    off: dict[str, Array] = {}  # how far what hosts send is from the real value, in its units
    compared = 0
    for node in quantised:
        if isinstance(node, fixed.FixedInput):
            x = np.rint(real[node.name] / node.step).astype(np.int64)
            sent[node.name] = np.broadcast_to(x, (T, *x.shape[1:]))
        elif isinstance(node, fixed.FixedLIF) and node.name in scale_of:
            sent[node.name] = spikes[node.name].astype(np.int64)
            compared += _population(folded, quantised, node, scale_of[node.name], sent, real, off)
        elif isinstance(node, fixed.FixedLIF) and node.role == "bias":
            sent[node.name] = np.broadcast_to(_steady(node), (T, 1, *node.shape))  # also while its reader rests
        elif isinstance(node, fixed.FixedLIF) and node.role == COINCIDENCE:
            sent[node.name] = _together(quantised, node, sent)
        elif isinstance(node, fixed.FixedLIF):
            sent[node.name] = _maximum(quantised, node, sent, real)
            compared += sent[node.name].size
        elif isinstance(node, fixed.Received):
            sent[node.name], checked = _hosted(folded, quantised, node, scale_of[node.name].scale, sent, real, off)
            off[node.name] = np.abs(sent[node.name] - real[node.name] / node.step)
            compared += checked
        elif isinstance(node, fixed.Product):
            sent[node.name] = product(node, *(sent[name] for name in node.inputs))
        elif isinstance(node, fixed.FixedReadout):
            compared += _answer(quantised, node, sent, real, off)
        else:
            sent[node.name] = _received(node, sent[node.inputs[0]])
    return compared


def _received(node: Node, x: Array) -> Array:
    """What a synapse or a held current makes of messages (T, B, *source)."""
    if isinstance(node, fixed.HeldCurrent):
        return np.broadcast_to(held(node, x[0]), (len(x), x.shape[1], *node.shape))
    assert isinstance(node, fixed.Synapse)
    return connect(node, x.reshape(-1, *x.shape[2:])).reshape(*x.shape[:2], *node.shape)


def _bound(node: Node, sent: Mapping[str, Array], off: Mapping[str, Array]) -> Array:
    """How far rounding can bring what ``node`` makes of its messages, in activation units; and what these are off."""
    if isinstance(node, fixed.FixedUnitCurrent):
        total = len(node.inputs) * float(1 << UNIT_BITS) * np.sqrt(node.weight.shape[1])  # of all |e|, at most
        top = 0.5 + 0.5 * (np.abs(node.weight).sum(axis=1) + total + 1) / 2.0**node.shift
        return np.broadcast_to(top, sent[node.name].shape)
    x = np.abs(sent[node.inputs[0]])
    flat = x.reshape(-1, *x.shape[2:])
    if isinstance(node, fixed.HeldCurrent):
        ones = replace(node, weight=np.ones_like(node.weight), bias=np.zeros(1, dtype=np.int64), shift=0)
        within = 0.5 + (0.5 + 0.5 * connect(ones, flat)) / 2.0**node.shift
    else:
        assert isinstance(node, fixed.Synapse)
        grain = 2 if node.sign_mode == "mixed" and not np.any(node.weight_mant % 2) else 1
        ones_ = replace(node, weight_mant=np.ones_like(node.weight_mant))
        within = 0.5 * grain * connect(ones_, flat)
        if node.inputs[0] in off:  # |w' x' - w x| <= |w' - w| |x'| + |w| |x' - x|
            mistaken = np.ceil(off[node.inputs[0]] * FINE).astype(np.int64).reshape(flat.shape)
            size = replace(node, weight_mant=np.abs(node.weight_mant))
            within = within + (connect(size, mistaken) + 0.5 * grain * connect(ones_, mistaken)) / FINE
    return within.reshape(*x.shape[:2], *node.shape)


def _population(
    folded: Graph,
    quantised: Graph,
    node: fixed.FixedLIF,
    scale: Scale,
    sent: Mapping[str, Array],
    real: Mapping[str, Array],
    off: Mapping[str, Array],
) -> int:
    """Compare the current of one population, in activation units."""
    neuron = folded[node.name]
    source = folded[neuron.inputs[0]]
    if isinstance(neuron, ir.LIF) and neuron.current_decay and bias_of(node).any():
        raise VerifyError("quantised = folded: a bias goes past the current", where=node.name, found=node.bias_mant)
    found = bias_of(node)[None, None] / 2.0**fixed.ACTIVATION_SHIFT
    S, within = scale.scale, np.full(1, 0.5 * (1 << scale.shift))  # of the bias
    parts = quantised.sources(node)
    gain = sum(_gain(quantised, part) for part in parts)
    for part in parts:
        y, counts = sent[part.name], _gain(quantised, part) != 0
        unit = S * getattr(source, "scale", 1.0) / gain if counts else 1.0
        found = found + y.reshape(*y.shape[:2], *node.shape) * unit
        if not counts:
            steps = 2 if scale.rows_balanced else 1  # halves of one
            within = within + steps * _bound(part, sent, off).reshape(-1, *y.shape[1:2], *node.shape)
    return _near(node.name, "current", found, real[source.name] * S, within)


def _gain(quantised: Graph, part: Node) -> int:
    """What one count adds to the current, 0 for what is no count."""
    if isinstance(part, fixed.Product):
        return 0 if isinstance(part, fixed.FixedUnitCurrent) else part.gain
    source = quantised[part.inputs[0]]
    if isinstance(part, fixed.Synapse) and isinstance(source, fixed.FixedLIF) and source.role == COINCIDENCE:
        return int(part.weight.min()) + int(part.weight.max())  # one of them is 0
    return 0


def _steady(node: fixed.FixedLIF) -> Array:
    """The spikes of neurons without memory that read nothing."""
    spikes: Array = (bias_of(node) > (node.threshold_mant << fixed.ACTIVATION_SHIFT)).astype(np.int64)
    return spikes


def _together(quantised: Graph, node: fixed.FixedLIF, sent: Mapping[str, Array]) -> Array:
    """The spikes of neurons without memory and bias."""
    total = sum(sent[part.name] for part in quantised.sources(node))
    spikes: Array = (np.asarray(total) > node.threshold_mant).astype(np.int64)
    return spikes


def _maximum(quantised: Graph, node: fixed.FixedLIF, sent: Mapping[str, Array], real: Mapping[str, Array]) -> Array:
    """The spikes of a population that stands for a maximum over windows: one without memory and bias."""
    spikes = _together(quantised, node, sent)
    _near(node.name, "maximum", spikes.astype(np.float64), real[node.name.removesuffix(".or")], np.zeros(1))
    return spikes


def _hosted(
    folded: Graph,
    quantised: Graph,
    node: fixed.Received,
    S: float,
    sent: Mapping[str, Array],
    real: Mapping[str, Array],
    off: Mapping[str, Array],
) -> tuple[Array, int]:
    """What a host sends, its sums compared with the real ones and what it makes of them with real arithmetic."""
    original, parts = folded[node.name], quantised.sources(node)
    y = product(node, *(sent[part.name] for part in parts))
    if isinstance(node, fixed.FixedLayerNorm):
        assert isinstance(original, ir.LayerNorm)
        x = _summed(node.name, parts, node.bias, real[original.inputs[0]] * S, sent, off)
        same = replace(original, eps=max(node.eps, TINY) / (node.shape[0] * S) ** 2)
        wanted, within = apply(same, [x / S]) / node.step, np.full(1, 0.5)
    else:
        assert isinstance(node, fixed.FixedStepGain)
        scale = 2.0**node.shift / (node.step * S)
        nothing = np.zeros(1, dtype=np.int64)
        x, w = (
            _summed(node.name, part, bias, real[name] * unit, sent, off)
            for name, part, bias, unit in (
                (original.inputs[0], parts[: node.factors], nothing, scale),
                (original.inputs[1], parts[node.factors :], node.bias, S),
            )
        )
        wanted, within = apply(original, [x, w / 2.0**node.shift]), 0.5 * np.abs(x)
    return y, 2 * y.size + _near(node.name, "message", y, wanted, within)


def _summed(
    name: str, parts: tuple[Node, ...], bias: Array, wanted: Array, sent: Mapping[str, Array], off: Mapping[str, Array]
) -> Array:
    """What reaches a host, (T, B, *shape) integers, compared with the real sums in their units."""
    found = sum(sent[part.name] for part in parts) + per_channel(bias, len(parts[0].shape))
    within = 0.5 + sum(_bound(part, sent, off) for part in parts)
    _near(name, "sum", found, wanted, np.asarray(within))
    return np.asarray(found)


def _answer(
    quantised: Graph,
    node: fixed.FixedReadout,
    sent: Mapping[str, Array],
    real: Mapping[str, Array],
    off: Mapping[str, Array],
) -> int:
    parts = quantised.sources(node)
    found = node.bias + sum(node.over_window(sent[part.name]) for part in parts)
    wide = node if node.step_weights is None else replace(node, step_weights=np.abs(node.step_weights))
    within = 0.5 + sum(wide.over_window(_bound(part, sent, off)) for part in parts)
    if node.step_weights is not None:  # which are rounded themselves
        within = within + sum(0.5 * (np.abs(sent[part.name]) + _bound(part, sent, off)).sum(axis=0) for part in parts)
    return _near(node.name, "answer", found[None], real[node.name] / node.scale, np.asarray(within)[None])


def _near(where: str, what: str, found: Array, wanted: Array, within: Array) -> int:
    shape = np.broadcast_shapes(found.shape, wanted.shape)
    found, wanted = np.broadcast_to(found, shape), np.broadcast_to(wanted, shape)
    slack = ROUNDING * max(1.0, float(np.abs(wanted).max(initial=0.0)))
    wrong = ~(np.abs(found - wanted) <= within + slack)
    if wrong.any():
        step, sample, *neuron = (int(i) for i in np.argwhere(wrong)[0])
        place = (step, sample, *neuron)
        raise VerifyError(
            f"quantised = folded: {what} differs in {int(wrong.sum())} of {wrong.size} values by more than rounding",
            where=where,
            sample=sample,
            step=step,
            neuron=tuple(neuron),
            expected=f"{wanted[place]:.12g}",
            found=f"{found[place]:.12g}",
        )
    return int(wrong.size)
