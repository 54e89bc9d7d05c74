"""The quantised graph against the folded one, parameter by parameter, and its neurons against exact fractions.

Quantising is the only lossy step, so it is not compared spike by spike. Instead two things are proved: every integer
is its real value rounded (within half a step, or within one in rows that sum to 0 for it), and every integer neuron,
ties included, does what a neuron with exact rational arithmetic does on the same integer currents.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.fixed_interpreter import bias_of, lif_step
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.kernels import per_channel
from avsnn.convert.ir.node import Array
from avsnn.convert.ir.products import UNIT_BITS
from avsnn.convert.passes.currents import Sent, Term, arriving, terms
from avsnn.convert.passes.integer_formats import FRACTION_BITS, growth
from avsnn.convert.passes.quantise import Scale
from avsnn.convert.passes.quantise_products import ATTENDING, misjudged
from avsnn.convert.passes.split_layer_norm import is_plain
from avsnn.errors import VerifyError

SLACK = 1e-6  # of a step: the float64 product S w is itself rounded
SEQUENCES = 2048
TIED = 512  # of them, steered to a tie in the last step
FINE_BITS = FRACTION_BITS + 2  # the finest tie rule puts a threshold a quarter of the last fractional bit up
FINE = 1 << FINE_BITS  # thresholds are multiples of 1 / FINE of an activation unit


@dataclass(frozen=True, kw_only=True)
class NeuronCheck:
    """Integer against rational neuron on tie-rich currents: how many windows, how many hit a tie, how many differ.

    Where a population has several thresholds or its reset subtracts, no membrane lies on a threshold: a tie is then a
    membrane as near to it as the fractional bits allow.
    """

    population: str
    windows: int
    ties: int
    mismatches: int


def check_parameters(folded: Graph, quantised: Graph, scales: tuple[Scale, ...]) -> int:
    """Return how many integers were checked.

    Raises:
        VerifyError: one is further than half a step from the folded value it stands for, naming layer and index; where
            rows were balanced, a step in those that sum to exactly 0 and should.
    """
    return sum(_check_population(folded, quantised, scale) for scale in scales)


def _check_population(folded: Graph, quantised: Graph, scale: Scale) -> int:
    node, real = quantised[scale.population], folded[scale.population]
    unit = scale.scale
    steps = [getattr(each, "steps", 0) for each in (real, node)]
    if steps[0] != steps[1]:
        raise VerifyError("another window", where=node.name, expected=steps[0], found=steps[1])
    if isinstance(real, ir.LIF) and isinstance(folded[real.inputs[0]], ATTENDING):
        return _check_counts(folded, quantised, scale)
    if isinstance(real, ir.LIF) and isinstance(quantised[node.inputs[0]], fixed.FixedUnitCurrent):
        return _check_unit_current(folded, quantised, scale)
    sent = {n.name: Sent(step=n.step, levels=n.levels) for n in quantised.of(fixed.Received)}
    if isinstance(real, ir.LIF):
        found = arriving(folded, real, sent)
    else:
        found = [t for name in real.inputs for t in terms(folded, name, sent)]
    if isinstance(node, fixed.FixedStepGain):
        return _check_gain(quantised, node, found, unit)
    balanced = scale.rows_balanced > 0
    checked = sum(_check_term(quantised, term, unit, balanced=balanced) for term in found)
    if isinstance(node, fixed.FixedLayerNorm):
        assert isinstance(real, ir.LayerNorm)
        return checked + _check_norm(node, real, [t.layer for t in found], unit)
    if isinstance(node, fixed.FixedReadout):
        assert isinstance(real, ir.Readout)
        whole = unit * folded.timesteps
        if real.step_weights is not None:
            if node.step_weights is None:
                raise VerifyError("weights of the steps are missing", where=node.name)
            whole = unit * np.abs(node.step_weights).max() / np.abs(real.step_weights).max()
            _near(node.name, "weight of a step", node.step_weights, real.step_weights * whole / unit, 1.0)
        _near(node.name, "bias", node.bias, real.bias * whole, 1.0)
        _near(node.name, "scale", np.array(1 / node.scale), np.array(whole), SLACK * whole)
        return checked + node.bias.size
    assert isinstance(node, fixed.FixedLIF)
    assert isinstance(real, ir.LIF)
    return checked + _check_neuron(node, real, scale, [t.layer for t in found], quantised)


def _check_term(quantised: Graph, term: Term, unit: float, *, balanced: bool = False) -> int:
    """One connection at scale ``unit``; rows that were ``balanced`` may be a step off if they sum to 0 for it."""
    synapse, weight = quantised[term.name], term.weight
    if isinstance(synapse, fixed.HeldCurrent):
        fine = unit * 2.0**synapse.shift
        _near(synapse.name, "weight", synapse.weight, weight * fine, 1.0)
        _near(synapse.name, "bias", synapse.bias, per_channel(term.layer.bias, synapse.bias.ndim) * fine, 1.0)
        return synapse.weight.size + synapse.bias.size
    assert isinstance(synapse, fixed.Synapse)
    wide = _wider(synapse, weight * unit, term.channels) if balanced else np.ones(1)
    _near(synapse.name, "weight", synapse.weight, weight * unit, _steps(synapse) * wide)
    return synapse.weight.size


def _check_norm(
    node: fixed.FixedLayerNorm, real: ir.LayerNorm, layers: list[ir.Conv2d | ir.Linear], unit: float
) -> int:
    """A layer norm of the host: bias and eps within half a step, its unit, and nothing that a layer should have."""
    n = node.shape[0]
    _near(node.name, "bias", node.bias, _sum_of_biases(layers, node.bias.ndim) * unit, 1.0)
    _near(node.name, "eps", np.array(node.eps), np.array((n * unit) ** 2 * real.eps), 1.0)
    step = 2.0**node.shift / (n * unit) ** 2 if node.variant else 2.0**-node.shift
    _near(node.name, "step", np.array(node.step / step), np.ones(()), SLACK)
    if node.variant != real.variant or not is_plain(real):
        raise VerifyError("another norm", where=node.name, expected=real.variant, found=node.variant)
    return node.bias.size + 2


def _check_gain(quantised: Graph, node: fixed.FixedStepGain, found: list[Term], unit: float) -> int:
    """A gain of the host: its weights and bias at scale ``unit``, what it multiplies at what ``step`` leaves."""
    multiplied, gains = (
        [t for t in found if (t.name in node.inputs[: node.factors]) is first] for first in (True, False)
    )
    other = 2.0**node.shift / (node.step * unit)
    checked = sum(_check_term(quantised, t, other) for t in multiplied)
    checked += sum(_check_term(quantised, t, unit) for t in gains)
    _near(node.name, "bias", node.bias, _sum_of_biases([t.layer for t in gains], node.bias.ndim) * unit, 1.0)
    return checked + node.bias.size


def _sum_of_biases(layers: list[ir.Conv2d | ir.Linear], ndim: int) -> Array:
    """Of each layer once."""
    own = {layer.name: layer.bias for layer in layers}
    total: Array = sum((per_channel(bias, ndim) for bias in own.values()), start=np.zeros(1))
    return total


def _check_counts(folded: Graph, quantised: Graph, scale: Scale) -> int:
    """A population that reads counts: gain and constants within half a step, or no count on the wrong side."""
    node, real = quantised[scale.population], folded[scale.population]
    assert isinstance(node, fixed.FixedLIF)
    assert isinstance(real, ir.LIF)
    counts, source = quantised[node.inputs[0]], folded[real.inputs[0]]
    assert isinstance(counts, fixed.Product)
    factor, T = float(getattr(source, "scale", 1.0)), real.steps or folded.timesteps
    _near(node.name, "decay", np.array(node.decay_v), np.array(4096 * (1 - real.decay)), 1.0)
    if isinstance(source, ir.AttentionMap) and source.bias.any():
        _near(node.name, "gain", np.array(counts.gain), np.array(scale.scale * factor), 1.0)
        step = 2.0**fixed.ACTIVATION_SHIFT
        whole = node.bias_mant.astype(np.int64) << node.bias_exp
        _near(node.name, "bias", whole, source.bias[None] * scale.scale * step, step)
        return 3 + node.bias_mant.size
    h, gain = int(node.threshold_mant), counts.gain
    wrong = _unsuited(real, factor, gain, h, T) or ("" if gain % (1 << scale.shift) == 0 else "counts are off the grid")
    if not wrong and not _unsuited(real, factor, gain, h + math.ceil(Fraction(gain, 1 << (T - 1))), T):
        wrong = "the check of thresholds behind counts did not notice one a step off"
    if wrong or node.bias_mant.any():
        what = wrong or "counts alone have no bias"
        raise VerifyError(what, where=node.name, found=f"threshold {h}, gain {gain}")
    return 3


def _unsuited(real: ir.LIF, factor: float, gain: int, h: int, T: int) -> str:
    """What is wrong with the threshold h of counts times ``gain``, or nothing.

    No v may lie between it and the real one; where v is rounded, h is the integer just below the real threshold.
    """
    if real.decay == 0.5 and gain >= 1 << (T - 1):
        return misjudged(real, factor, gain, h, T)
    top = Fraction(float(real.threshold)) / Fraction(real.gain) / Fraction(factor) * gain
    right = h <= top < h + 1 if real.strict else h < top <= h + 1
    return "" if right else f"the threshold should be just below {float(top)}"


def _check_unit_current(folded: Graph, quantised: Graph, scale: Scale) -> int:
    """A population that reads vectors of length 1: the host's weights and constants within half a step."""
    node, real = quantised[scale.population], folded[scale.population]
    assert isinstance(node, fixed.FixedLIF)
    assert isinstance(real, ir.LIF)
    current, layer = quantised[node.inputs[0]], folded[real.inputs[0]]
    assert isinstance(current, fixed.FixedUnitCurrent)
    assert isinstance(layer, ir.Linear)
    fine = scale.scale * 2.0**current.shift
    _near(current.name, "weight", current.weight, layer.weight.astype(np.float64) * fine / (1 << UNIT_BITS), 1.0)
    _near(current.name, "bias", current.bias, np.broadcast_to(layer.bias, layer.shape) * fine, 1.0)
    _near(node.name, "bias", node.bias_mant, np.zeros(1), 1.0)
    return current.weight.size + current.bias.size + 2


def _check_neuron(
    node: fixed.FixedLIF, real: ir.LIF, scale: Scale, layers: list[ir.Conv2d | ir.Linear], quantised: Graph
) -> int:
    checked = _check_threshold(node, real, scale)
    _near(node.name, "decay", np.array(node.decay_v), np.array(4096 * (1 - real.decay)), 1.0)
    _near(node.name, "decay of its current", np.array(node.decay_u + 1), np.array(4096 * (1 - real.current_decay)), 1.0)
    if isinstance(quantised[node.inputs[0]], fixed.HeldCurrent):
        _near(node.name, "bias", node.bias_mant, np.zeros(1), 1.0)  # the host has added it to the current
        return checked + 1 + node.bias_mant.size
    total = _sum_of_biases(layers, max(layer.bias.ndim for layer in layers))
    step = 2.0**fixed.ACTIVATION_SHIFT
    whole = node.bias_mant.astype(np.int64) << node.bias_exp
    _near(node.name, "bias", whole, total * scale.scale * step, step * 2.0**scale.shift)
    _check_multiples(node, scale.shift, quantised)
    return checked + 1 + node.bias_mant.size


def _check_multiples(node: fixed.FixedLIF, shift: int, quantised: Graph) -> None:
    """Everything that v is made of is a multiple of ``2^shift`` activation units, as the tie rule says."""
    parts = {"bias": bias_of(node) >> fixed.ACTIVATION_SHIFT}
    parts |= {"amount to subtract": np.asarray(node.subtract) >> fixed.ACTIVATION_SHIFT}
    parts |= {s.name: s.weight for s in quantised.sources(node) if shift and isinstance(s, fixed.Synapse)}
    for what, values in parts.items():
        off = values % (1 << shift)
        if off.any():
            raise VerifyError(f"{what} is off the grid of 2^{shift}", where=node.name, found=int(off[off != 0].flat[0]))


def _check_threshold(node: fixed.FixedLIF, real: ir.LIF, scale: Scale) -> int:
    """One threshold is exact, several are within half a unit; what a reset subtracts is the integer threshold."""
    wanted = np.asarray(real.threshold) / real.gain * scale.scale
    found = np.asarray(node.threshold_mant)
    step = 1.0 if found.ndim else SLACK + 8 * np.spacing(float(np.max(wanted)))
    everywhere = np.broadcast_to(found, np.broadcast_shapes(found.shape, wanted.shape))
    _near(node.name, "threshold", everywhere + scale.tie, wanted, step)
    if node.reset != real.reset:
        raise VerifyError("another reset", where=node.name, expected=real.reset, found=node.reset)
    taken = np.asarray(node.subtract)
    amount = 0 * taken if node.reset == "hard" else found << fixed.ACTIVATION_SHIFT
    if taken.shape != amount.shape:
        raise VerifyError("amounts to subtract misfit", where=node.name, expected=amount.shape, found=taken.shape)
    _near(node.name, "amount to subtract", taken, amount, SLACK)
    return found.size + (0 if node.reset == "hard" else taken.size)


def _steps(synapse: fixed.Synapse) -> Array:
    """The distance between neighbouring weights, row by row: twice as far where signs share mantissas."""
    grain = 2 if synapse.sign_mode == "mixed" and not np.any(synapse.weight_mant % 2) else 1
    rows = (grain << synapse.row_exp).reshape(-1, *(1,) * (synapse.weight_mant.ndim - 1))
    return np.broadcast_to(rows, synapse.weight_mant.shape).astype(np.float64)


def _wider(synapse: fixed.Synapse, weight: Array, channels: int) -> Array:
    """2 in the rows that sum to 0 over channels, in integers exactly and as real numbers, else 1."""
    channels = channels if isinstance(synapse, fixed.FixedLinear) else weight.shape[1]
    whole, real = (x.reshape(len(weight), channels, -1) for x in (synapse.weight, weight))
    balanced = (whole.sum(axis=1) == 0) & (np.abs(real.sum(axis=1)) <= SLACK * np.abs(real).sum(axis=1))
    return np.broadcast_to(np.where(balanced, 2.0, 1.0)[:, None], real.shape).reshape(weight.shape)


def _near(layer: str, what: str, found: Array, wanted: Array, step: float | Array) -> None:
    wanted, step = np.broadcast_to(wanted, found.shape), np.broadcast_to(step, found.shape)
    wrong = ~(np.abs(found - wanted) <= (0.5 + SLACK) * step)
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise VerifyError(
            f"{what} {place} is not its folded value rounded (half a step is {step[place] / 2:g})",
            where=layer,
            expected=f"{wanted[place]:.6g}",
            found=found[place],
        )


def check_neurons(
    folded: Graph, quantised: Graph, scales: tuple[Scale, ...], *, seed: int = 0
) -> tuple[NeuronCheck, ...]:
    """Compare every integer population with exact fractions, on currents made to land on and around the threshold.

    The exact neuron has the real threshold ``S threshold / gain``, fires on ``>=`` (on ``>`` if strict) and subtracts
    that threshold where its reset does. Thresholds that differ within a population are compared as rounded, as weights
    and decays are: `check_parameters` bounds their rounding, and ties of the real ones may turn out otherwise.

    Raises:
        VerifyError: a population whose decay is exact differs anywhere, or the same comparison does not notice that
            the tie rule is gone (then it proves nothing).
    """
    rng = np.random.default_rng(seed)
    checks = []
    for scale in scales:
        node, real = quantised[scale.population], folded[scale.population]
        if not isinstance(node, fixed.FixedLIF) or not isinstance(real, ir.LIF):
            continue
        T = real.steps or folded.timesteps
        threshold = (np.asarray(node.threshold_mant) << FINE_BITS) + round(scale.tie * FINE)
        if not threshold.ndim:  # one threshold is not rounded
            threshold = np.rint(np.asarray(real.threshold) / real.gain * scale.scale * FINE).astype(np.int64)
        k = scale.shift
        check = _against_fractions(node, real, threshold, T, rng, k)
        exact = _exact(node, T) or k > 0
        if exact and check.mismatches:
            raise VerifyError(
                f"the integer neuron differs from the exact one in {check.mismatches} of {check.windows} windows "
                f"({check.ties} with a tie)",
                where=node.name,
                expected=f"threshold {Fraction(int(threshold.flat[0]), FINE)}, {'>' if real.strict else '>='}",
                found=f"threshold {int(np.asarray(node.threshold_mant).flat[0])}, >",
                remedy="the tie rule (a threshold just above an integer) is missing or wrong",
            )
        naive = (np.asarray(node.threshold_mant) << FINE_BITS) + (1 if real.strict else 0)
        if exact and not _against_fractions(node, real, naive, T, rng, k).mismatches and not real.strict:
            raise VerifyError("the neuron check did not notice a missing tie rule", where=node.name)
        checks.append(check)
    return tuple(checks)


def _exact(node: fixed.FixedLIF, T: int) -> bool:
    """Whether the decays lose nothing in a window of any integers, so that ties are exact."""
    kept = 4096 - node.decay_v, fixed.NO_CURRENT_MEMORY - node.decay_u
    if any(keep not in (0, 2048, 4096) for keep in kept):
        return False
    if kept[0] == 4096 and node.reset != "hard":  # what spikes have subtracted in excess adds up
        return T <= FINE // 4 and kept[1] != 2048
    return 2048 not in kept or T - 1 <= FRACTION_BITS


def _rest(t: int, T: int, h: int, goal: Array, rng: np.random.Generator) -> Array:
    """Currents too small to fire whose sum, halved until the last step, has the fraction of ``goal / 2^(T-1)``."""
    unit = 1 << (T - 1 - t)
    small = h // (4 * unit)
    rest: Array = rng.integers(-small, small + 1, size=TIED).astype(object) * unit + (goal >> t) % 2
    return rest


def _chosen(node: fixed.FixedLIF, threshold: Array, rng: np.random.Generator) -> tuple[fixed.FixedLIF, Array, Array]:
    """A neuron of the population for every window, as (SEQUENCES, 1): the population, biases, exact thresholds."""

    def spread(values: int | Array) -> Array:
        return np.broadcast_to(values, node.shape).ravel()[index]

    index = rng.integers(int(np.prod(node.shape)), size=SEQUENCES)
    h, subtract = (spread(x)[:, None] for x in (node.threshold_mant, node.subtract))
    return replace(node, threshold_mant=h, subtract=subtract), spread(bias_of(node)), spread(threshold)


def _against_fractions(
    node: fixed.FixedLIF, real: ir.LIF, threshold: Array, T: int, rng: np.random.Generator, shift: int
) -> NeuronCheck:
    """Membranes as Python integers over ``FINE 4096^t``: exact for every decay the chip has.

    threshold: of exact neurons like ``real``, in units of ``1 / FINE``, and what they subtract; broadcasts to the shape
    of the population. Currents are multiples of ``2^shift``, and stay where neither u leaves its state nor v saturates,
    which a large threshold alone could make them do.
    """
    single = real.reset == "hard" and not np.ndim(node.threshold_mant)
    node, chosen, top = _chosen(node, threshold, rng)
    h, keep = np.asarray(node.threshold_mant)[:, 0], 4096 - node.decay_v
    whole = (chosen >> fixed.ACTIVATION_SHIFT).astype(object)
    room = (1 << (node.state_bits - 1 - fixed.ACTIVATION_SHIFT)) - 1
    span = int(np.abs(whole).max())  # a current must be able to make up for the bias
    step, memory = 1 << shift, min(T, -(-4096 // max(1, node.decay_v)))  # steps that add up to what v can reach
    keep_u = fixed.NO_CURRENT_MEMORY - node.decay_u
    added = growth(T, keep_u / 4096)  # and to what u can reach
    high = np.minimum(2 * h + 1 + span, int(room / added)) // step
    low = -(np.minimum(h + span, max(0, int(room / (added * memory)) - span - 1)) // step)
    # what the membrane is a multiple of in the last step, and where among these the threshold is, or next to it
    goal = (top[:TIED].astype(object) << (T - 1)) // (FINE * step) + rng.choice([-1, 0, 0, 1], size=TIED)
    exact = np.zeros(SEQUENCES, dtype=object)  # membrane times FINE 4096^t
    owed, drive = 0 * exact, 0 * exact  # as is the current
    u = v = np.zeros((SEQUENCES, 1), dtype=np.int64)
    spikes = None
    differs, tied = np.zeros(SEQUENCES, dtype=bool), np.zeros(SEQUENCES, dtype=bool)
    for t in range(T):
        one = FINE * 4096**t
        drive, limit = drive * keep_u, top.astype(object) * 4096**t
        carried = exact * keep - owed * 4096 + drive
        one = one * step
        near = (limit - carried) // one - whole // step + rng.integers(0, 2, size=SEQUENCES)  # below, or on and above
        aimed = (rng.random(SEQUENCES) < 0.5) & (near >= low) & (near <= high)
        current = np.where(aimed, near, rng.integers(low, high + 1).astype(object))
        if t < T - 1:  # these windows reach the last step with the fraction of the threshold, and are aimed there
            rest = _rest(t, T, int(h.min()) // step, goal, rng)
            if (keep, keep_u) in ((4096, 2048), (2048, 4096)):  # a current counts 2 - 2^-n times n steps later
                rest = -rest
            rest = rest - whole[:TIED] // step
            current[:TIED] = np.where((rest >= low[:TIED]) & (rest <= high[:TIED]), rest, current[:TIED])
        else:
            current[:TIED] = np.where((near >= low) & (near <= high), near, current)[:TIED]
        if real.reset != "hard":  # what a spike leaves adds up
            units = room // step
            lowest, highest = -(units * one + carried) // one + 1, (units * one - carried) // one
            current = np.maximum(lowest, np.minimum(highest, current + whole // step)) - whole // step
        exact, drive = carried + (current + whole // step) * one, drive + current * one
        fires = (exact > limit if real.strict else exact >= limit).astype(bool)
        tied |= (exact == limit if single else abs(exact - limit) * 2 ** (T - 1) < one).astype(bool)
        a = (current * step).astype(np.int64)[:, None]
        u, v, spikes = lif_step(node, u, v, a, chosen[:, None], t, spikes)
        differs |= spikes[:, 0] != fires
        match real.reset:
            case "hard":
                exact = np.where(fires, 0, exact)
            case "subtract":
                exact = exact - limit * fires
            case _:
                owed = limit * fires
        # one that differs is judged; where it went on, a spike too few could carry it out of its state
        over = differs[:, None]
        exact, drive, owed = (np.where(differs, 0, x) for x in (exact, drive, owed))
        u, v, spikes = np.where(over, 0, u), np.where(over, 0, v), spikes & ~over
    return NeuronCheck(population=node.name, windows=SEQUENCES, ties=int(tied.sum()), mismatches=int(differs.sum()))
