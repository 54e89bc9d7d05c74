"""Where fine-tuning starts: real mantissas at the scale that loses least, of layers whose integers are few.

Quantising chooses scales at which nothing is clipped. Few bits are better spent on the many small weights than on the
few large ones, and training may clip: every integer threshold of one octave is tried, with the best exponent for each
connection, and the one kept whose weights, rounded and clipped, are nearest to the real ones (least squares).

**Equalisation.** Spikes are 0 or 1, so no factor can move from one layer into the next, as it can between ReLUs. What
remains is the threshold: ``v > h`` is ``c v > c h``, a factor per channel on weights, bias and threshold together,
which changes no spike and lets every row fill its mantissas. It needs a threshold per channel, which the target must
grant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from avsnn.convert.finetune_grid import mantissa_grid
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.kernels import per_channel
from avsnn.convert.ir.node import Array, Node
from avsnn.convert.passes.currents import Term, terms, total_bias
from avsnn.convert.passes.integer_formats import Target
from avsnn.convert.passes.quantise import Scale
from avsnn.convert.passes.quantise_products import ATTENDING
from avsnn.convert.passes.thresholds import Thresholds

STEPS = 12  # thresholds tried per octave
GRANTING = ("neuron",)
LOWEST_ROW = 1 / 16  # of a population's threshold: what equalisation may lower a channel's to


@dataclass(frozen=True, kw_only=True, eq=False)
class Start:
    """What training begins with.

    Attributes:
        graph: integers at the new scales, rounded and clipped.
        scales: of its populations.
        mantissas: real mantissas by synapse.
        equalised: populations with a threshold per channel now, and why the others have none.
        errors: relative squared error of the weights of each population.
    """

    graph: Graph
    scales: tuple[Scale, ...]
    mantissas: Mapping[str, Array]
    equalised: tuple[str, ...] = ()
    not_equalised: str = ""
    errors: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Fit:
    """Connections at one scale per row: real mantissas and exponents by name, and the squared error of each row."""

    scale: Array
    mantissas: dict[str, Array]
    exponents: dict[str, Array]
    error: Array


def start(
    folded: Graph, quantised: Graph, scales: tuple[Scale, ...], target: Target, *, granularity: str = "population"
) -> Start:
    """Return where fine-tuning of ``quantised`` starts.

    Args:
        folded: the real network.
        quantised: its integers.
        scales: as quantised.
        target: formats.
        granularity: of thresholds, as the target's profile grants it.
    """
    granted = granularity in GRANTING
    changed: dict[str, Node] = {}
    mantissas, errors, kept, equalised = dict[str, Array](), dict[str, float](), list[Scale](), list[str]()
    for scale in scales:
        found = _terms(folded, quantised, scale.population)
        if not found or scale.shift:  # the latter's exponents keep ties exact in long windows
            kept.append(scale)
            continue
        node = quantised[scale.population]
        fit = _best(found, node, folded[scale.population], scale, target, folded.timesteps)
        if granted and isinstance(node, fixed.FixedLIF):
            fit = _rows(found, fit, node, target)
            equalised.append(node.name)
        changed |= _nodes(found, fit, quantised, folded, scale, target)
        mantissas |= fit.mantissas
        total = sum(float((term.weight**2).sum()) for term in found)
        errors[scale.population] = float(fit.error.sum()) / max(total, 1e-30)
        kept.append(replace(scale, scale=float(fit.scale.max())))
    graph = replace(quantised, nodes=tuple(changed.get(node.name, node) for node in quantised))
    why = "" if granted else f"one threshold per {granularity} on this target: one factor each, chosen by search"
    return Start(
        graph=graph,
        scales=tuple(kept),
        mantissas=mantissas,
        equalised=tuple(equalised),
        not_equalised=why,
        errors=errors,
    )


def _terms(folded: Graph, quantised: Graph, name: str) -> list[Term]:
    """The weighted connections of a population or read-out; none where a host or counts make the current."""
    real = folded[name]
    if isinstance(real, ir.LIF) and isinstance(folded[real.inputs[0]], ATTENDING):
        return []
    if any(not isinstance(quantised[source], fixed.Synapse) for source in quantised[name].inputs):
        return []
    return [term for source in real.inputs for term in terms(folded, source)]


def _best(found: list[Term], node: Node, real: Node, scale: Scale, target: Target, timesteps: int) -> _Fit:
    """The scale of one octave, from the quantised one upwards, at which weights lose least."""
    bias, tries = total_bias(found), []
    for step in range(STEPS):
        S = scale.scale * 2.0 ** (step / STEPS)
        if isinstance(node, fixed.FixedLIF):
            assert isinstance(real, ir.LIF)
            level, most = float(np.max(real.threshold)) / real.gain, float(np.abs(bias).max())
            h = int(np.rint(S * level - scale.tie))
            S = (h + scale.tie) / level
            room = Thresholds(node=real, target=target, timesteps=timesteps).room(level, found, most)
            if step and (h > min(room, target.threshold_room) or most * S > target.bias_room):
                break
        tries.append(_fit(found, np.full(len(found[0].weight), S), target))
    return min(tries, key=lambda fit: float(fit.error.sum()))


def _fit(found: list[Term], scale: Array, target: Target, exponents: Mapping[str, Array] | None = None) -> _Fit:
    """All connections at one scale per row (out,), each row with the exponent that loses least, or a given one."""
    mantissas, chosen, error = {}, {}, np.zeros(len(scale))
    for term in found:
        rows = scale.reshape(-1, *(1,) * (term.weight.ndim - 1))
        wanted = term.weight * rows
        off = np.stack([_off(wanted, e, term, target) / scale**2 for e in range(target.weight_exp_max + 1)])
        exp = _cheapest(off, target.exponents(len(found))) if exponents is None else exponents[term.name]
        mantissas[term.name], chosen[term.name] = wanted / 2.0 ** exp.reshape(rows.shape), exp
        error = error + np.take_along_axis(off, exp[None], axis=0)[0]
    return _Fit(scale=scale, mantissas=mantissas, exponents=chosen, error=error)


def _cheapest(off: Array, formats: int) -> Array:
    """The exponent of each row (out,), out of so many in a row, at which ``off`` (exponents, out) is least."""
    best, least = np.zeros(off.shape[1], dtype=np.int64), np.inf
    for low in range(max(1, len(off) - formats + 1)):
        chosen = low + off[low : low + formats].argmin(axis=0)
        total = float(np.take_along_axis(off, chosen[None], axis=0).sum())
        if total < least:
            best, least = chosen, total
    return best


def _off(wanted: Array, exp: int, term: Term, target: Target) -> Array:
    """Squared distance of each row to the nearest integers of the format."""
    nearest = _nearest(wanted / 2.0**exp, _mode(term.weight), target) * 2.0**exp
    off: Array = ((nearest - wanted) ** 2).reshape(len(wanted), -1).sum(axis=1)
    return off


def _nearest(mantissas: Array, mode: str, target: Target) -> Array:
    low, high, grain = mantissa_grid(mode, target)
    nearest: Array = np.clip(grain * np.rint(mantissas / grain), low, high)
    return nearest


def _mode(weight: Array) -> str:
    low, high = float(weight.min(initial=0.0)), float(weight.max(initial=0.0))
    return "mixed" if low < 0 < high else "inhibitory" if low < 0 else "excitatory"


def _rows(found: list[Term], fit: _Fit, node: fixed.FixedLIF, target: Target) -> _Fit:
    """A factor for each channel: the one at which its row loses least."""
    bias = np.abs(total_bias(found)).reshape(len(fit.scale), -1).max(axis=1) if total_bias(found).shape[0] > 1 else None
    top = float(np.max(node.threshold_mant)) + 1
    best, least = fit.scale.copy(), fit.error.copy()
    for step in range(-4 * STEPS, STEPS):
        factor = 2.0 ** (step / STEPS)
        if factor < LOWEST_ROW or top * factor > target.threshold_room:
            continue
        tried = fit.scale * factor
        error = _fit(found, tried, target, fit.exponents).error
        better = error < least
        if bias is not None:
            better &= bias * tried <= target.bias_room
        best, least = np.where(better, tried, best), np.where(better, error, least)
    return _fit(found, best, target, fit.exponents)


def _nodes(
    found: list[Term], fit: _Fit, quantised: Graph, folded: Graph, scale: Scale, target: Target
) -> dict[str, Node]:
    """The integer nodes of a population or read-out at its new scale."""
    node, real = quantised[scale.population], folded[scale.population]
    changed: dict[str, Node] = {}
    for term in found:
        synapse = quantised[term.name]
        assert isinstance(synapse, fixed.Synapse)
        mode, exp, wanted = _mode(term.weight), fit.exponents[term.name], fit.mantissas[term.name]
        mant = _nearest(wanted, mode, target).astype(np.int64)
        changed[term.name] = replace(synapse, weight_mant=mant, weight_exp=_alike(exp), sign_mode=mode)
    if isinstance(node, fixed.FixedReadout):
        assert isinstance(real, ir.Readout)
        S, T = float(fit.scale[0]), folded.timesteps
        changed[node.name] = replace(node, bias=np.rint(real.bias * S * T).astype(np.int64), scale=1.0 / (S * T))
        return changed
    assert isinstance(node, fixed.FixedLIF)
    assert isinstance(real, ir.LIF)
    one = bool((fit.scale == fit.scale[0]).all())
    rows = fit.scale[0] if one else fit.scale.reshape(-1, *(1,) * (len(node.shape) - 1))
    levels = np.asarray(real.threshold, dtype=np.float64) / real.gain
    h = np.rint(levels * rows - scale.tie).astype(np.int64)
    threshold: int | Array = int(h) if h.ndim == 0 else h
    bias = per_channel(total_bias(found), len(node.shape)) * (rows if not one else fit.scale[0])
    if one and total_bias(found).ndim == 1:
        bias = total_bias(found) * fit.scale[0]
    changed[node.name] = replace(
        node,
        threshold_mant=threshold,
        subtract=0 if node.reset == "hard" else threshold << fixed.ACTIVATION_SHIFT,
        bias_mant=np.rint(bias).astype(np.int64),
    )
    return changed


def _alike(exponents: Array) -> int | Array:
    return int(exponents[0]) if (exponents == exponents[0]).all() else exponents


def describe(begun: Start) -> dict[str, Any]:
    """What the record of a bundle says about the start."""
    return {
        "equalised": list(begun.equalised),
        "not_equalised": begun.not_equalised,
        "weight_error": {name: round(error, 6) for name, error in begun.errors.items()},
    }
