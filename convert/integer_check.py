"""The quantised graph against the folded one, parameter by parameter, and its neurons against exact fractions.

Quantising is the only lossy step, so it is not compared spike by spike. Instead two things are proved: every integer
is its real value rounded (within half a step), and every integer neuron, ties included, does what a neuron with exact
rational arithmetic does on the same integer currents.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.fixed_interpreter import bias_of, lif_step
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.kernels import per_channel
from avsnn.convert.ir.node import Array
from avsnn.convert.passes.integer_formats import TIE_STEPS
from avsnn.convert.passes.quantise import Scale, terms
from avsnn.errors import VerifyError

SLACK = 1e-6  # of a step: the float64 product S w is itself rounded
SEQUENCES = 2048


@dataclass(frozen=True, kw_only=True)
class NeuronCheck:
    """Integer against rational neuron on tie-rich currents: how many windows, how many hit a tie, how many differ."""

    population: str
    windows: int
    ties: int
    mismatches: int


def check_parameters(folded: Graph, quantised: Graph, scales: tuple[Scale, ...]) -> int:
    """Return how many integers were checked.

    Raises:
        VerifyError: one is further than half a step from the folded value it stands for, naming layer and index.
    """
    return sum(_check_population(folded, quantised, scale) for scale in scales)


def _check_population(folded: Graph, quantised: Graph, scale: Scale) -> int:
    node, real = quantised[scale.population], folded[scale.population]
    unit = scale.scale * 2.0**scale.lift
    found = [t for name in real.inputs for t in terms(folded, name)]
    checked = 0
    for term in found:
        synapse = quantised[term.name]
        weight = term.weight
        if isinstance(synapse, fixed.HeldCurrent):
            fine = scale.scale * 2.0**synapse.shift
            _near(synapse.name, "lift", np.array(synapse.lift), np.array(scale.lift), 1.0)
            _near(synapse.name, "weight", synapse.weight, weight * fine, 1.0)
            _near(synapse.name, "bias", synapse.bias, per_channel(term.layer.bias, synapse.bias.ndim) * fine, 1.0)
            checked += synapse.weight.size + synapse.bias.size
        else:
            assert isinstance(synapse, fixed.Synapse)
            grain = 2 if synapse.sign_mode == "mixed" and not np.any(synapse.weight_mant % 2) else 1
            _near(synapse.name, "weight", synapse.weight, weight * unit, float(grain << synapse.weight_exp))
            checked += synapse.weight.size
    if isinstance(node, fixed.FixedReadout):
        assert isinstance(real, ir.Readout)
        whole = unit * folded.timesteps
        _near(node.name, "bias", node.bias, real.bias * whole, 1.0)
        _near(node.name, "scale", np.array(1 / node.scale), np.array(whole), SLACK * whole)
        return checked + node.bias.size
    assert isinstance(node, fixed.FixedLIF)
    assert isinstance(real, ir.LIF)
    return checked + _check_neuron(node, real, scale, [t.layer for t in found], quantised)


def _check_neuron(
    node: fixed.FixedLIF, real: ir.LIF, scale: Scale, layers: list[ir.Conv2d | ir.Linear], quantised: Graph
) -> int:
    unit = scale.scale * 2.0**scale.lift
    threshold = np.array(node.threshold_mant + (1 if scale.tie == "shift" else 0))
    _near(node.name, "threshold", threshold, np.array(real.threshold / real.gain * unit), 1.0)
    _near(node.name, "decay", np.array(node.decay_v), np.array(4096 * (1 - real.decay)), 1.0)
    if isinstance(quantised[node.inputs[0]], fixed.HeldCurrent):
        _near(node.name, "bias", node.bias_mant, np.zeros(1), 1.0)  # the host has added it to the current
        return 2 + node.bias_mant.size
    rank = max(layer.bias.ndim for layer in {layer.name: layer for layer in layers}.values())
    total = sum(per_channel(layer.bias, rank) for layer in {layer.name: layer for layer in layers}.values())
    step = 2.0**scale.lift
    _near(node.name, "bias", _whole_bias(node, scale) * step, np.asarray(total) * unit, step)
    added = (node.bias_mant.astype(np.int64) << node.bias_exp) - _plain(node, scale)
    tie = 2.0 ** (fixed.ACTIVATION_SHIFT - min(quantised.timesteps, TIE_STEPS)) if scale.tie == "offset" else 0.0
    _near(node.name, "bias added by the tie rule", added, np.array(tie), 1.0)
    return 2 + node.bias_mant.size


def _whole_bias(node: fixed.FixedLIF, scale: Scale) -> Array:
    """The bias in activation units without what the tie rule added (which is less than one unit)."""
    return (node.bias_mant.astype(np.int64) << node.bias_exp) >> (fixed.ACTIVATION_SHIFT + scale.lift)


def _near(layer: str, what: str, found: Array, wanted: Array, step: float) -> None:
    wanted = np.broadcast_to(wanted, found.shape)
    wrong = ~(np.abs(found - wanted) <= (0.5 + SLACK) * step)
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise VerifyError(
            f"{what} {place} is not its folded value rounded (half a step is {step / 2:g})",
            where=layer,
            expected=f"{wanted[place]:.6g}",
            found=found[place],
        )


def check_neurons(quantised: Graph, scales: tuple[Scale, ...], *, seed: int = 0) -> tuple[NeuronCheck, ...]:
    """Compare every integer population with exact fractions on currents made to hit the threshold exactly.

    Raises:
        VerifyError: a population whose decay halves differs anywhere, or the same comparison does not notice that the
            tie rule is gone (then it proves nothing).
    """
    rng = np.random.default_rng(seed)
    checks = []
    for scale in scales:
        node = quantised[scale.population]
        if not isinstance(node, fixed.FixedLIF):
            continue
        theta = _theta(node, scale)
        check = _against_fractions(node, theta, scale, quantised.timesteps, rng)
        halves = node.decay_v in (2048, fixed.MEMORYLESS, 0) and quantised.timesteps <= 6 + scale.lift
        if halves and check.mismatches:
            raise VerifyError(
                f"the integer neuron differs from the exact one in {check.mismatches} of {check.windows} windows "
                f"({check.ties} with a tie)",
                where=node.name,
                remedy="the tie rule (bias offset or shifted threshold) is missing or too weak",
            )
        naive = replace(node, threshold_mant=theta << scale.lift, bias_mant=_plain(node, scale), bias_exp=0)
        if (
            halves
            and scale.tie != "none"
            and not _against_fractions(naive, theta, scale, quantised.timesteps, rng).mismatches
        ):
            raise VerifyError("the neuron check did not notice a missing tie rule", where=node.name)
        checks.append(check)
    return tuple(checks)


def _theta(node: fixed.FixedLIF, scale: Scale) -> int:
    return (node.threshold_mant + (1 if scale.tie == "shift" else 0)) >> scale.lift


def _plain(node: fixed.FixedLIF, scale: Scale) -> Array:
    return _whole_bias(node, scale) << (fixed.ACTIVATION_SHIFT + scale.lift)


def _against_fractions(node: fixed.FixedLIF, theta: int, scale: Scale, T: int, rng: np.random.Generator) -> NeuronCheck:
    """Membranes as Python integers over 4096^t: exact for every decay the chip has.

    Currents stay where neither u leaves its state nor v saturates, which a large threshold alone could make them do.
    """
    keep = 4096 - node.decay_v
    biases = bias_of(node).ravel()
    chosen = biases[rng.integers(len(biases), size=SEQUENCES)]
    whole = (chosen >> (fixed.ACTIVATION_SHIFT + scale.lift)).astype(object)
    room = ((1 << (node.state_bits - 1 - fixed.ACTIVATION_SHIFT)) >> scale.lift) - 1
    low = -min(theta, max(0, room // T - int(np.abs(whole).max()) - 1))
    exact = np.zeros(SEQUENCES, dtype=object)  # membrane times 4096^t
    u = v = np.zeros((SEQUENCES, 1), dtype=np.int64)
    differs, tied = np.zeros(SEQUENCES, dtype=bool), np.zeros(SEQUENCES, dtype=bool)
    for t in range(T):
        one = 4096**t
        current = rng.integers(low, min(2 * theta, room) + 1, size=SEQUENCES).astype(object)
        carried = exact * keep  # the old membrane, decayed, times 4096^t
        missing = theta * one - carried - whole * one
        hit = (rng.random(SEQUENCES) < 0.5) & (missing % one == 0) & (missing // one <= room)
        current = np.where(hit, missing // one, current)
        exact = carried + (current + whole) * one
        fires = exact > theta * one if scale.tie == "none" else exact >= theta * one
        tied |= (exact == theta * one).astype(bool)
        exact = np.where(fires, 0, exact)
        a = (current.astype(np.int64) << scale.lift)[:, None]
        u, v, spikes = lif_step(node, u, v, a, chosen[:, None], t)
        differs |= spikes[:, 0] != fires.astype(bool)
    return NeuronCheck(population=node.name, windows=SEQUENCES, ties=int(tied.sum()), mismatches=int(differs.sum()))
