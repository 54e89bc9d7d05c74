"""How each rule of the compiler is broken, for the test that a proof stops the conversion and names the place.

A mutation replaces one function of ``convert/passes`` by one that makes a plausible mistake. None raises by itself, so
only the proofs can notice, and they see nothing but graphs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.kernels import per_channel
from avsnn.convert.ir.node import Array, Node
from avsnn.convert.ir.products import UNIT_BITS
from avsnn.convert.passes import currents, pointwise

Function = Callable[..., Any]
Breaker = Callable[[Function], Function]


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """``at``, by default ``rule`` itself, replaced by ``how(at)``, while ``network`` is converted.

    found: how the proof's message begins: the place (sample, step and neuron left out), and what was noticed there.
    """

    rule: str
    what: str
    network: str
    how: Breaker
    found: str
    at: str = ""
    besides: tuple[str, Breaker] | None = None  # a second one, where the first only guards


def after(change: Callable[..., Any]) -> Breaker:
    """What the rule returns, changed: ``change(result, *arguments)``."""
    return lambda rule: lambda *a, **k: change(rule(*a, **k), *a)


def instead(rule: Function) -> Breaker:
    """Another rule altogether."""
    return lambda _old: rule


def arguments(change: Callable[..., tuple[Any, ...]]) -> Breaker:
    """The rule given other arguments."""
    return lambda rule: lambda *a, **k: rule(*change(*a), **k)


def slices(change: Callable[[Any], Node], kind: type[Node]) -> Callable[..., Any]:
    """What a pass about cores returns, its nodes of a kind changed."""
    return lambda out, *_a: (
        replace(out[0], nodes=tuple(change(n) if isinstance(n, kind) else n for n in out[0])),
        out[1],
    )


def nodes(change: Callable[[Any], Node], *kinds: type[Node], names: str = "") -> Breaker:
    """The graph that a pass returns, alone or first of several results, with nodes of some kinds changed."""

    def changed(graph: Graph) -> Graph:
        picked = [n for n in graph if isinstance(n, kinds) and (not names or n.name in names.split())]
        assert picked
        table = {node.name: change(node) for node in picked}
        return replace(graph, nodes=tuple(table.get(node.name, node) for node in graph))

    return after(lambda out, *_a: (changed(out[0]), *out[1:]) if isinstance(out, tuple) else changed(out))


def by_row(exps: int | Array) -> int | Array:
    """What rows have one each of, against weights of four axes."""
    return exps if isinstance(exps, int) else exps[:, None, None, None]


def borderless(rule: Function) -> Function:
    """The constant of a norm as though nothing were padded: the same everywhere."""

    def constant(layer: ir.Conv2d, shift: Array, shape: Any) -> Array:
        whole = layer.weight.sum(axis=(2, 3))
        return whole @ shift if layer.groups == 1 else rule(layer, shift, shape)

    return constant


def plain_norms(of: type[Node], **change: Any) -> Breaker:
    """`pointwise` for norms of one type, with its matrix or shift replaced."""

    def broken(found: Any, node: Node) -> Any:
        if found is None or not isinstance(node, of):
            return found
        return replace(found, **{key: make(getattr(found, key)) for key, make in change.items()})

    return after(broken)


def all_read_once(rule: Function) -> Function:
    """A norm goes into a layer although others read the layer as well."""

    def fold(graph: Graph) -> Graph:
        copy = replace(graph)
        readers = {n: r if isinstance(copy[n], ir.LIF) else r[:1] for n, r in graph.readers.items()}
        vars(copy)["readers"] = readers
        return rule(copy)

    return fold


def shift_for_each(total: ir.Add, outer: Any, before: dict[str, Node]) -> Node:
    """A norm behind a sum: every layer takes its shift."""
    for name in total.inputs:
        layer: Any = before[name]
        before[name] = pointwise.follow(layer, outer)
    return total


def with_bias_each(rule: Function) -> Function:
    """Of a layer that is split, every part with the whole bias."""

    def split(layer: Any, parts: Any, before: dict[str, Node], kinds: Any) -> Node:
        made: Node = rule(layer, parts, before, kinds)
        for name in made.inputs if isinstance(made, ir.Add) else ():
            part: Any = before[name]
            if not np.any(part.bias):
                before[name] = replace(part, bias=part.bias + per_channel(layer.bias, part.bias.ndim))
        return made

    return split


class Forgetful(dict[str, Array]):
    """Each population's last weights alone."""

    def __contains__(self, name: object) -> bool:
        return False


def counting_once(rule: Function) -> Function:
    """A population that is read twice has the weights of its last reading."""

    def expand(graph: Graph, node: Node, weight: Array, averaged: int, span: Any, terms: Any, *rest: Any) -> None:
        last = Forgetful(terms)
        rule(graph, node, weight, averaged, span, last, *rest)
        terms.update(last)

    return expand


def one_step(rule: Function) -> Function:
    """A schedule in which attention over time costs as much as a synapse."""

    def schedule(graph: Graph, **options: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fixed.FixedAttention, "windowed", False)
            return rule(graph, **options)

    return schedule


MUTATIONS: tuple[Mutation, ...] = (
    # fold_forward
    Mutation(
        rule="fold_forward.fold_forward", what="bias map without border", network="images",
        at="pointwise._constant", how=borderless, found="a: fold_forward changes nothing",
    ),
    Mutation(
        rule="fold_forward.fold_forward", what="input not divided by its deviation", network="images",
        at="pointwise.pointwise", how=plain_norms(ir.Normalise, matrix=np.ones_like),
        found="a: fold_forward changes nothing",
    ),
    Mutation(
        rule="fold_forward.fold_forward", what="maximum where a negative gain asks for a minimum", network="images",
        at="fold_forward._extremes", how=arguments(lambda pool, negative, shape: (pool, negative & False, shape)),
        found="b: fold_forward changes nothing",
    ),
    Mutation(
        rule="fold_forward.fold_forward", what="minimum without the smaller windows at the border", network="images",
        at="fold_forward._extremes",
        how=after(lambda made, *_a: (replace(made[0], bias=np.minimum(made[0].bias, made[0].bias.min())), made[1])),
        found="b: fold_forward changes nothing",
    ),
    Mutation(
        rule="fold_forward.fold_forward", what="norms stay", network="images",
        how=instead(lambda graph: graph), found="grey: Normalise left in stage folded",
    ),
    # fold_backward
    Mutation(
        rule="fold_backward.fold_backward", what="without the mean", network="images", at="fold_backward.pointwise",
        how=arguments(lambda node: (replace(node, mean=0 * node.mean) if hasattr(node, "mean") else node,)),
        found="a: fold_backward changes nothing",
    ),
    Mutation(
        rule="fold_backward.fold_backward", what="every layer of a sum takes the shift", network="images",
        at="fold_backward._into_sum",
        how=instead(shift_for_each), found="b: fold_backward changes nothing",
    ),
    Mutation(
        rule="fold_backward.fold_backward", what="a layer that others read takes the norm of one", network="images",
        how=all_read_once, found="f: fold_backward changes nothing",
    ),
    # pointwise
    Mutation(
        rule="pointwise.pointwise", what="a gain dropped", network="images",
        how=plain_norms(ir.Scale, matrix=np.ones_like), found="b: fold_forward changes nothing",
    ),
    Mutation(
        rule="pointwise.centring", what="without the mean over channels", network="tokens",
        how=after(lambda out, node, gain: replace(out, matrix=np.diag(gain * node.gamma))),
        found="b: fold_dsln changes nothing",
    ),
    Mutation(
        rule="pointwise.absorb", what="bias of the layer lost", network="images",
        how=arguments(lambda layer, *rest: (replace(layer, bias=0 * layer.bias), *rest)),
        found="a: fold_forward changes nothing",
    ),
    Mutation(
        rule="pointwise.follow", what="bias not scaled", network="images",
        how=after(lambda out, layer, outer: replace(
            out, bias=layer.bias + per_channel(outer.shift, layer.bias.ndim))),
        found="a: fold_backward changes nothing",
    ),
    Mutation(
        rule="pointwise.dense", what="groups read the first channels", network="images",
        how=after(lambda out, layer: out if layer.groups == 1 else replace(out, weight=np.concatenate(
            [layer.weight, 0 * layer.weight], axis=1))), found="e: fold_forward changes nothing",
    ),
    # fold_identity
    Mutation(
        rule="fold_identity.fold_identity", what="weight of a shortcut 1 + 1/256", network="images",
        at="fold_identity._identity", how=after(lambda out, *_a: replace(out, weight=out.weight * (1 + 1 / 256))),
        found="d: fold_identity changes nothing",
    ),
    Mutation(
        rule="fold_identity.fold_identity", what="shift of a norm on a shortcut lost", network="images",
        at="fold_identity.take_in",
        how=after(lambda out, *_a: replace(out, bias=0 * out.bias) if hasattr(out, "bias") else out),
        found="d: fold_identity changes nothing",
    ),
    Mutation(
        rule="fold_identity.fold_identity", what="a shortcut not seen", network="images",
        at="fold_identity._operands", how=after(lambda out, *_a: out[:1]), found="n6: BatchNorm left in stage folded",
    ),
    # fold_dsln
    Mutation(
        rule="fold_dsln.fold_dsln", what="thresholds not scaled", network="tokens", at="fold_dsln._plan",
        how=after(lambda out, *_a: {k: replace(p, deviation=np.ones_like(p.deviation)) for k, p in out.items()}),
        found="b: fold_dsln changes nothing",
    ),
    Mutation(
        rule="fold_dsln.fold_dsln", what="variances of other positions", network="tokens", at="fold_dsln._plan",
        how=after(lambda out, *_a: {k: replace(p, deviation=np.roll(p.deviation, 1, 0)) for k, p in out.items()}),
        found="b: fold_dsln changes nothing",
    ),
    Mutation(
        rule="fold_dsln.fold_dsln", what="variance without its constant", network="tokens", at="fold_dsln._plan",
        how=arguments(lambda graph, norm: (graph, replace(norm, eps=0.0))), found="b: fold_dsln changes nothing",
    ),
    Mutation(
        rule="fold_dsln.fold_dsln", what="bias not divided by the deviation, layer behind", network="tokens",
        at="fold_dsln._behind",
        how=arguments(lambda layer, plan, before: (
            replace(layer, bias=layer.bias / 2), plan, before)), found="b: fold_dsln changes nothing",
    ),
    Mutation(
        rule="fold_dsln.fold_dsln", what="beta not divided by the deviation, layer before", network="tokens",
        at="fold_dsln._ahead",
        how=after(lambda out, layer, plan: replace(out, bias=out.bias.mean(axis=(1, 2)))),
        found="d: fold_dsln changes nothing",
    ),
    # fold_linear, chains
    Mutation(
        rule="fold_linear.fold_linear", what="layers in the other order", network="chains", at="chains.chain",
        how=lambda rule: lambda layer, first, shape: rule(
            *((replace(layer, weight=first.weight), replace(first, weight=layer.weight))
              if layer.weight.shape == first.weight.shape and isinstance(layer, ir.Linear) else (layer, first)), shape),
        found="e: fold_linear changes nothing",
    ),
    Mutation(
        rule="chains.chain", what="bias of the first layer lost", network="chains",
        how=arguments(lambda layer, first, shape: (layer, replace(first, bias=0 * first.bias), shape)),
        found="d: fold_linear changes nothing",
    ),
    Mutation(
        rule="chains.chain", what="taps of the later layer turned round", network="chains", at="chains._convolve",
        how=arguments(lambda layer, first, shape: (
            replace(layer, weight=layer.weight[:, :, ::-1]), first, shape)), found="b: fold_linear changes nothing",
    ),
    Mutation(
        rule="chains.chain", what="padding as though it were zero beyond the edge", network="apart",
        at="chains._zero_beyond", how=instead(lambda *_a: True), found="b: fold_linear changes nothing",
    ),
    Mutation(
        rule="chains.behind", what="taps turned round", network="chains",
        how=arguments(lambda weight, layer, shape: (
            weight, replace(layer, weight=layer.weight[:, :, ::-1, ::-1]), shape)),
        found="y: fold_linear changes nothing",
    ),
    # fold_readout
    Mutation(
        rule="fold_readout.fold_readout", what="without 1 / T", network="images",
        how=nodes(lambda row: replace(row, weight=3 * row.weight), ir.Linear), found="y: fold_readout changes nothing",
    ),
    Mutation(
        rule="fold_readout.fold_readout", what="a mean of fewer steps divided by T", network="windows",
        at="fold_readout._expand",
        how=arguments(lambda graph, node, weight, averaged, *rest: (
            graph, node, weight, averaged and graph.timesteps, *rest)),
        found="y: fold_readout changes nothing",
    ),
    Mutation(
        rule="fold_readout.fold_readout", what="without 1 / N", network="images", at="fold_readout.columns",
        how=after(lambda out, weight, node, shape: out * math.prod(shape[1:])), found="y: fold_readout changes nothing",
    ),
    Mutation(
        rule="fold_readout.fold_readout", what="constants lost", network="images", at="fold_readout._constant",
        how=after(lambda out, *_a: 0 * out), found="y: fold_readout changes nothing",
    ),
    Mutation(
        rule="fold_readout.fold_readout", what="a population read twice counts once", network="images",
        at="fold_readout._expand",
        how=counting_once, found="y: fold_readout changes nothing",
    ),
    Mutation(
        rule="fold_readout.fold_readout", what="joined answers exchanged", network="images",
        at="fold_readout._expand",
        how=arguments(lambda graph, node, weight, *rest: (
            graph, node, np.roll(weight, 4, axis=1) if isinstance(node, ir.Concat) else weight, *rest)),
        found="y: fold_readout changes nothing",
    ),
    # fold_dead, bounds
    Mutation(
        rule="fold_dead.fold_dead", what="constants of a sum lost", network="dead", at="fold_dead._Walk._shorter",
        how=arguments(lambda walk, node, left, constant: (walk, node, left, 0 * constant)),
        found="b: fold_dead changes nothing",
    ),
    Mutation(
        rule="fold_dead.fold_dead", what="another operand of a sum lost as well", network="dead",
        at="fold_dead._Walk._shorter",
        how=arguments(lambda walk, node, left, constant: (walk, node, left[:1] if len(left) > 1 else left, constant)),
        found="end: fold_dead changes nothing",
    ),
    Mutation(
        rule="fold_dead.never_fire", what="a population that fires", network="dead",
        how=after(lambda out, *_a: (*out, replace(out[0], population="b")) if out else out),
        found="b: fold_dead: said never to fire, but it does",
    ),
    Mutation(
        rule="bounds.membranes", what="membranes that forget", network="dead", at="bounds._highest",
        how=arguments(lambda node, low, high, T: (node, low, high, 1)),
        found="slow: fold_dead: said never to fire, but it does",
    ),
    Mutation(
        rule="bounds.membranes", what="weights of both signs meet the highest", network="dead", at="bounds._weighted",
        how=arguments(lambda node, low, high, size: (node, high, high, size)),
        found="slow: fold_dead: said never to fire, but it does",
    ),
    Mutation(
        rule="bounds.below", what="a third above the threshold", network="dead",
        how=arguments(lambda node, membrane: (node, 0.75 * membrane)),
        found="slow: fold_dead: said never to fire, but it does",
    ),
    # take_in
    Mutation(
        rule="take_in.take_in", what="every part of a sum takes the bias", network="images", at="take_in._split",
        how=with_bias_each, found="e: fold_forward changes nothing",
    ),
    Mutation(
        rule="take_in.leads_to", what="norms not seen", network="images",
        how=after(lambda out, name, before, kinds: out and not isinstance(before[name], ir.BatchNorm)),
        found="n2: BatchNorm left in stage folded",
    ),
    Mutation(
        rule="take_in.take_in", what="joined channels split at the wrong one", network="images",
        at="take_in._by_channel",
        how=arguments(lambda layer, *rest: (replace(layer, weight=np.roll(layer.weight, 1, axis=1)), *rest)),
        found="e: fold_forward changes nothing",
    ),
    Mutation(
        rule="take_in.columns", what="features turned the other way", network="chains",
        how=arguments(lambda weight, node, shape: (
            weight, replace(node, axes=(1, 2, 0)) if isinstance(node, ir.Permute) else node, shape)),
        found="e: fold_linear changes nothing",
    ),
    Mutation(
        rule="take_in.columns", what="rows that do not sum to zero", network="tokens",
        how=lambda rule: lambda weight, node, shape: rule(weight, node, shape) if not isinstance(node, ir.DSLN) else (
            weight.reshape(len(weight), *shape) * (node.gamma[:, None, None] / np.sqrt(node.var + node.eps))
        ).reshape(len(weight), -1), found="f: fold_dsln changes nothing",
    ),
    Mutation(
        rule="take_in.along_frames", what="steps of the recording backwards", network="frames",
        how=after(lambda out, *_a: out and replace(out, weight=out.weight[:, :, ::-1])),
        found="a: fold_linear changes nothing",
    ),
    # currents
    Mutation(
        rule="currents.terms", what="a product of means read in whole units", network="sums",
        at="currents.unit", how=after(lambda out, *_a: replace(out, step=1.0) if out.levels > 1 else out),
        found="a: quantised = folded: current differs",
    ),
    Mutation(
        rule="currents.unit", what="a step of the input twice as large", network="hard",
        how=after(lambda out, _g, node: replace(out, step=(2 if isinstance(node, ir.Input) else 1) * out.step)),
        found="a: quantised = folded: current differs",
    ),
    Mutation(
        rule="currents.terms", what="a layer of a sum forgotten", network="hard",
        how=after(lambda out, graph, name, *_a: out[:1] if isinstance(graph[name], ir.Add) else out),
        found="d: quantised = folded: current differs",
    ),
    Mutation(
        rule="currents.weighted_sources", what="a gain dropped", network="time",
        how=after(lambda out, *_a: dict.fromkeys(out, 1.0)), found="end: quantised = folded: current differs",
    ),
    Mutation(
        rule="currents.weighted_sources", what="a maximum read as the first of its window", network="skips",
        how=after(lambda out, *_a: {"p1" if k == "p2" else k: g for k, g in out.items()}),
        found="p3: quantised = folded: current differs",
    ),
    Mutation(
        rule="currents.spike_sources", what="a maximum over another population", network="images",
        how=after(lambda out, *_a: ["d" if name == "e" else name for name in out]),
        found="last.or: quantised = folded: maximum differs",
    ),
    Mutation(
        rule="currents.total_bias", what="only the first layer's bias", network="hard",
        how=arguments(lambda found: (found[:1],)), found="d: bias",
    ),
    # integer_formats
    Mutation(
        rule="integer_formats.mantissas", what="mantissas rounded down", network="hard",
        how=after(lambda out, weight, *_a: (2 * np.floor(weight / by_row(2 << out[1])).astype(np.int64), *out[1:])),
        found="c2: weight",
    ),
    Mutation(
        rule="integer_formats.mantissas", what="weights clipped instead of an exponent", network="hard",
        how=lambda rule: lambda weight, *_a: (
            np.clip(2 * np.rint(weight / 2).astype(np.int64), -8, 8), 0, "mixed"), found="c2: weight",
    ),
    Mutation(
        rule="integer_formats.mantissas", what="a bit too many", network="hard",
        how=arguments(lambda weight, target, *n: (weight, replace(target, weight_bits=target.weight_bits + 1), *n)),
        found="c2: weight mantissa does not fit",
    ),
    Mutation(
        rule="integer_formats.mantissas", what="exponents of other rows", network="hard",
        how=after(lambda out, *_a: (out[0], np.roll(out[1], 1) if np.ndim(out[1]) else out[1], out[2])),
        found="y@d: weight",
    ),
    Mutation(
        rule="integer_formats.shift", what="one bit too few for a long window", network="long",
        how=after(lambda out, *_a: max(0, out - 1)), found="p0: the integer neuron differs from the exact",
    ),
    Mutation(
        rule="integer_formats.shift", what="a bias between the bits of a long window", network="long",
        at="populations.Populations._neuron", how=after(lambda out, *_a: replace(out, bias_mant=out.bias_mant + 1)),
        found="p0: bias",
    ),
    Mutation(
        rule="integer_formats.shift", what="weights between the bits of a long window", network="long",
        at="thresholds.Thresholds.least", how=after(lambda out, *_a: max(0, out - 1)), found="p0: c0 is off the grid",
    ),
    Mutation(
        rule="integer_formats.grid", what="one halving forgotten", network="hard",
        how=after(lambda out, *_a: 2 * out), found="a: the integer neuron differs from the exact",
    ),
    *(
        Mutation(
            rule="integer_formats.tie", what=f"tie rule gone, reset {reset}", network=reset,
            how=instead(lambda *_a: 0.0), found="a: the integer neuron differs from the exact",
        )
        for reset in ("hard", "subtract", "subtract_delayed")
    ),
    *(
        Mutation(
            rule="integer_formats.tie", what=f"tie rule twice as high, reset {reset}", network=reset,
            how=after(lambda out, *_a: 2 * out), found=f"{where}: the integer neuron differs",
        )
        for reset, where in (("hard", "a"), ("subtract", "a"), ("subtract_delayed", "b"))
    ),
    Mutation(
        rule="integer_formats.growth", what="v as though it forgot every step", network="graded",
        how=instead(lambda *_a: 1.0), found="a: an input of the network can push v out of the state",
    ),
    Mutation(
        rule="integer_formats.rooms", what="a state of two bits more", network="graded",
        how=after(lambda out, *_a: tuple((sign, 4 * room) for sign, room in out)),
        found="a: an input of the network can push v out of the state",
    ),
    Mutation(
        rule="integer_formats.reach", what="currents twice as large as expected", network="hard",
        how=after(lambda out, *_a: out / 2), found="c1: current does not fit",
    ),
    Mutation(
        rule="integer_formats.check_range", what="a bias too large let through", network="map",
        how=instead(lambda *_a: None), found="m: bias mantissa does not fit",
        besides=("quantise_products.count_scale", arguments(lambda graph, node, source, target, *bias: (
            graph, node, source, replace(target, bias_mant_bits=20), *bias))),
    ),
    # row_sums
    Mutation(
        rule="row_sums.with_row_sums", what="a step in another direction", network="tokens",
        how=after(lambda out, synapse, *_a: (
            replace(out[0], weight_mant=2 * synapse.weight_mant - out[0].weight_mant), out[1])),
        found="c2: weight",
    ),
    # quantise
    Mutation(
        rule="quantise.quantise", what="decay rounded down", network="hard", at="populations.Populations._neuron",
        how=after(lambda out, _s, node, *_a: replace(out, decay_v=math.floor(4096 * (1 - node.decay)))),
        found="d: decay",
    ),
    Mutation(
        rule="quantise.quantise", what="bias of the population lost", network="hard",
        at="populations.Populations._neuron", how=after(lambda out, *_a: replace(out, bias_mant=0 * out.bias_mant)),
        found="b: bias",
    ),
    Mutation(
        rule="quantise.quantise", what="every reset hard", network="subtract", at="populations.Populations._neuron",
        how=after(lambda out, *_a: replace(out, reset="hard", subtract=0)), found="a: another reset",
    ),
    Mutation(
        rule="quantise.quantise", what="the real threshold subtracted, off the grid", network="subtract",
        at="populations.Populations._neuron", how=after(lambda out, *_a: replace(out, subtract=out.subtract + 4)),
        found="a: amount to subtract",
    ),
    Mutation(
        rule="quantise.quantise", what="strict neurons with a tie rule", network="hard",
        at="thresholds.Thresholds.tie", how=instead(lambda _self: 0.125),
        found="b: the integer neuron differs from the exact",
    ),
    Mutation(
        rule="quantise.quantise", what="thresholds rounded down", network="hard",
        at="thresholds.Thresholds.rounded", how=after(lambda out, *_a: out if isinstance(out, int) else out - 1),
        found="d: threshold",
    ),
    Mutation(
        rule="quantise.quantise", what="the host rounds down", network="hard",
        how=nodes(lambda n: replace(n, bias=n.bias - (1 << n.shift >> 1)), fixed.HeldCurrent), found="c1: bias",
    ),
    Mutation(
        rule="quantise.quantise", what="a maximum that two spikes make", network="skips",
        how=nodes(lambda n: replace(n, threshold_mant=1), fixed.FixedLIF, names="pool.or"),
        found="pool.or: quantised = folded: maximum differs",
    ),
    Mutation(
        rule="quantise.quantise", what="a connection that reads another population", network="skips",
        how=nodes(lambda n: replace(n, inputs=("p2",)), fixed.FixedConv2d, names="c1to4"),
        found="p4: quantised = folded: current differs",
    ),
    Mutation(
        rule="quantise.quantise", what="a connection forgotten", network="skips",
        how=nodes(lambda n: replace(n, inputs=n.inputs[:1]), fixed.FixedLIF, names="p4"),
        found="p4: quantised = folded: current differs",
    ),
    Mutation(
        rule="quantise.quantise", what="the answer divided by another number of steps", network="hard",
        how=nodes(lambda n: replace(n, scale=n.scale / 2), fixed.FixedReadout), found="y: scale",
    ),
    Mutation(
        rule="quantise.quantise", what="an answer that reads another population", network="skips",
        how=nodes(lambda n: replace(n, inputs=("p3",)), fixed.FixedLinear, names="out@p1"),
        found="out: quantised = folded: answer differs",
    ),
    Mutation(
        rule="quantise.quantise", what="half of the answer forgotten", network="skips",
        how=nodes(lambda n: replace(n, inputs=n.inputs[1:]), fixed.FixedReadout),
        found="out: quantised = folded: answer differs",
    ),
    # quantise_products
    Mutation(
        rule="quantise_products.sources_of", what="keys and values exchanged", network="space",
        how=after(lambda out, *_a: (out[0], *out[:0:-1])), found="a: quantised = folded: current differs",
    ),
    Mutation(
        rule="quantise_products.integer_product", what="one head", network="time",
        how=after(lambda out, *_a: replace(out, heads=1) if hasattr(out, "heads") else out),
        found="a: quantised = folded: current differs",
    ),
    Mutation(
        rule="quantise_products.integer_product", what="tokens for steps", network="time",
        how=after(lambda out, *_a: replace(out, over="space")), found="a: quantised = folded: current differs",
    ),
    Mutation(
        rule="quantise_products.most", what="counts twice as large as expected", network="wide",
        how=after(lambda out, *_a: out // 2), found="attention: count does not fit",
    ),
    Mutation(
        rule="quantise_products.count_scale", what="threshold one up", network="space",
        how=after(lambda out, *_a: replace(out, threshold=out.threshold + 1)), found="a: v = ",
    ),
    Mutation(
        rule="quantise_products.count_scale", what="threshold one down", network="time",
        how=after(lambda out, *_a: replace(out, threshold=out.threshold - 1)), found="a: v = ",
    ),
    Mutation(
        rule="quantise_products.count_scale", what="scale of attention not in the threshold", network="space",
        how=arguments(lambda graph, node, source, *rest: (graph, node, replace(source, scale=1.0), *rest)),
        found="a: v = ",
    ),
    Mutation(
        rule="quantise_products.count_scale", what="half the gain", network="space",
        how=after(lambda out, *_a: replace(out, gain=out.gain // 2)), found="a: the threshold should be just below",
    ),
    Mutation(
        rule="quantise_products.count_scale", what="half the gain, with a constant per pair", network="map",
        how=after(lambda out, *_a: replace(out, gain=out.gain // 2)), found="m: gain",
    ),
    Mutation(
        rule="quantise_products.misjudged", what="finds nothing", network="space", how=instead(lambda *_a: ""),
        found="a: the check of thresholds behind counts did not notice",
    ),
    Mutation(
        rule="quantise_products.normed", what="vectors exchanged", network="units",
        how=after(lambda out, *_a: out and (out[0], out[1][::-1])), found="join: quantised = folded: current differs",
    ),
    Mutation(
        rule="quantise_products.counted", what="the spikes of another population", network="units",
        how=after(lambda out, *_a: ("first" if out[0] == "a" else out[0], out[1])),
        found="join: quantised = folded: current differs",
    ),
    Mutation(
        rule="quantise_products.unit_current", what="length 1 is half as long", network="units",
        how=after(lambda out, *_a: (replace(out[0], shift=out[0].shift + 1), *out[1:])), found="c3: weight",
    ),
    Mutation(
        rule="quantise_products.unit_current", what="bias in units of weights", network="units",
        how=after(lambda out, *_a: (replace(out[0], bias=out[0].bias >> UNIT_BITS), *out[1:])), found="c3: bias",
    ),
    Mutation(
        rule="quantise.quantise", what="a window that never ends", network="windows",
        at="populations.Populations._neuron", how=after(lambda out, *_a: replace(out, steps=0)),
        found="b: another window",
    ),
    Mutation(
        rule="currents.unit", what="a product of fewer steps as one of T", network="windows",
        how=arguments(lambda graph, source: (graph, replace(source, steps=0) if hasattr(source, "steps") else source)),
        found="e: quantised = folded: current",
    ),
    # hosts
    Mutation(
        rule="split_layer_norm.split_layer_norm", what="gain forgotten", network="norms",
        how=nodes(lambda n: replace(n, gamma=0 * n.gamma + 1), ir.BatchNorm),
        found="d: split_layer_norm changes nothing",
    ),
    Mutation(
        rule="split_layer_norm.split_layer_norm", what="a norm that divides, for one that multiplies",
        network="variants", how=nodes(lambda n: replace(n, variant=False), ir.LayerNorm),
        found="d: split_layer_norm changes nothing",
    ),
    Mutation(
        rule="split_layer_norm.is_plain", what="always", network="norms", how=instead(lambda _node: True),
        found="n1: quantised = folded: message differs",
    ),
    *(
        Mutation(
            rule="quantise.quantise", what=f"{name} of a host ({network})", network=network,
            at=f"quantise_hosts.Hosts.{method}",
            how=after(lambda out, *_a, change=change: replace(
                out, nodes=(*out.nodes[:-1], change(out.nodes[-1])))), found=found,
        )
        for name, network, method, change, found in (
            ("eps", "norms", "norm", lambda n: replace(n, eps=n.eps + 1), "n1.plain: eps"),
            ("bias", "norms", "norm", lambda n: replace(n, bias=n.bias - 1), "n1.plain: bias"),
            ("unit", "norms", "norm", lambda n: replace(n, shift=n.shift - 1), "n1.plain: step"),
            ("unit of the variant", "variants", "norm", lambda n: replace(n, shift=n.shift + 1), "n1.plain: step"),
            ("largest message", "norms", "norm", lambda n: replace(n, levels=n.levels - 2), "n1.plain: message"),
            ("kind", "variants", "norm", lambda n: replace(n, variant=False), "n1.plain: step"),
            ("one synapse", "norms", "norm", lambda n: replace(n, inputs=n.inputs[:1]), "n1.plain: quantised = folded"),
            ("bias", "gains", "gain", lambda n: replace(n, bias=n.bias + 1), "gain: bias"),
            ("unit", "gains", "gain", lambda n: replace(n, shift=n.shift + 1), "gain.identity@a: weight"),
            ("largest message", "gains", "gain", lambda n: replace(n, levels=n.levels // 2), "gain: message"),
            ("factors", "gains", "gain", lambda n: replace(n, inputs=(n.inputs[0], *n.inputs[0:1], *n.inputs[2:])),
             "gain.identity@b: weight"),
        )
    ),
    Mutation(
        rule="fold_identity.fold_identity", what="spikes of a shortcut to a host halved", network="gains",
        at="fold_identity._identity", how=after(lambda out, *_a: replace(out, weight=out.weight / 2)),
        found="d: fold_identity changes nothing",
    ),
    Mutation(
        rule="schedule.schedule", what="a host that answers at once", network="norms",
        how=nodes(lambda n: replace(n, offset=n.offset - 1), fixed.Received),
        found="n1.plain, from n1.plain.identity@a: arrives at another step",
    ),
    # lower_attention
    Mutation(
        rule="lower_attention.lower_attention", what="neurons that fire when a spike is missing", network="stock space",
        how=nodes(lambda n: replace(n, threshold_mant=n.threshold_mant - 1), fixed.FixedLIF,
                  names="attention.coincidences"),
        found="a: attention in stock neurons = quantised",
    ),
    Mutation(
        rule="lower_attention.lower_attention", what="half the gain", network="stock map",
        at="lower_attention._weights_of", how=after(lambda out, *_a: [(m // 2, e) for m, e in out]),
        found="m: attention in stock neurons = quantised",
    ),
    Mutation(
        rule="lower_attention.coincidences", what="keys of another token", network="stock space",
        how=after(lambda out, *_a: replace(
            out, factors=(out.factors[0], np.roll(out.factors[1], 1), *out.factors[2:]))),
        found="a: attention in stock neurons = quantised",
    ),
    Mutation(
        rule="lower_attention.coincidences", what="values of another channel", network="stock map",
        how=after(lambda out, _graph, node: replace(out, result=np.roll(out.result, 4))),
        found="m: attention in stock neurons = quantised",
    ),
    Mutation(
        rule="lower_attention.neurons_of", what="half as many neurons", network="stock space",
        how=after(lambda out, *_a: out and out // 2), found="attention: another number of neurons in its place",
    ),
    # leaky integrators
    Mutation(
        rule="fold_readout.fold_readout", what="steps counted from the other end", network="leaky",
        at="fold_readout._integrated", how=after(lambda out, *_a: out[::-1]),
        found="y: fold_readout changes nothing on calibration: answer differs",
    ),
    Mutation(
        rule="quantise.quantise", what="weights of steps in another order", network="leaky",
        how=nodes(lambda n: replace(n, step_weights=n.step_weights[::-1]), fixed.FixedReadout),
        found="y: weight of a step (0,) is not its folded value rounded",
    ),
    # synaptic currents
    Mutation(
        rule="currents.arriving", what="a bias that goes past the current", network="synaptic",
        how=instead(lambda graph, node, *a: currents.terms(graph, node.inputs[0], *a)),
        found="b: quantised = folded: a bias goes past the current",
    ),
    Mutation(
        rule="currents.arriving", what="a bias forgotten", network="synaptic",
        how=after(lambda out, *_a: out[:-1] or out), found="b: quantised = folded: current differs",
    ),
    Mutation(
        rule="quantise.quantise", what="neurons that bring a bias never fire", network="synaptic",
        how=nodes(lambda n: replace(n, bias_mant=0 * n.bias_mant), fixed.FixedLIF, names="b.bias d.bias"),
        found="b: quantised = folded: current differs",
    ),
    Mutation(
        rule="quantise.quantise", what="currents that decay by a little less", network="synaptic",
        how=nodes(lambda n: replace(n, decay_u=n.decay_u - 1), fixed.FixedLIF, names="b"),
        found="b: decay of its current () is not its folded value rounded",
    ),
    Mutation(
        rule="integer_formats.growth", what="a current does not add up", network="synaptic",
        how=instead(lambda *_a: 1.0),
        found="a: an input of the network can push v out of the state",
    ),
    # schedule
    *(
        Mutation(
            rule="schedule.schedule", what=f"reset {'late' if by > 0 else 'early'} by a step", network="skips",
            at="schedule._place", how=after(lambda out, node, offset, T, by=by: replace(
                out, reset_phase=(offset + by) % T) if isinstance(out, fixed.FixedLIF) else out),
        found="p0: scheduled = quantised",
        )
        for by in (1, -1)
    ),
    Mutation(
        rule="schedule.schedule", what="a window that ends a step late", network="windows", at="schedule._place",
        how=after(lambda out, *_a: replace(out, steps=3) if getattr(out, "steps", 0) else out),
        found="b: scheduled = quantised",
    ),
    Mutation(
        rule="schedule.schedule", what="resets forgotten", network="skips", at="schedule._place",
        how=after(lambda out, *_a: replace(out, reset_interval=0) if isinstance(out, fixed.FixedLIF) else out),
        found="p0: scheduled = quantised",
    ),
    *(
        Mutation(
            rule="schedule.schedule", what=f"delay of a shortcut {by:+d}", network="skips", at="schedule._delay",
            how=arguments(lambda nodes, offsets, synapse, wait, limit, by=by: (
                nodes, offsets, synapse, wait + by, limit)), found="p2: scheduled = quantised",
        )
        for by in (1, -1)
    ),
    Mutation(
        rule="schedule.schedule", what="a relay that waits a step less", network="relays", at="schedule._relay",
        how=arguments(lambda nodes, source, name, delay, offset: (nodes, source, name, delay - 1, offset)),
        found="p2: scheduled = quantised",
    ),
    Mutation(
        rule="schedule.schedule", what="a relay that needs two spikes", network="relays", at="schedule._relay",
        how=lambda rule: lambda nodes, *rest: nodes.__setitem__(
            rest[1], replace(rule(nodes, *rest), threshold_mant=1)) or nodes[rest[1]],
        found="p2: scheduled = quantised",
    ),
    Mutation(
        rule="schedule.schedule", what="a delay of nothing that fires", network="silent", at="schedule._delay",
        how=arguments(lambda nodes, offsets, synapse, wait, limit: (
            nodes, offsets, synapse, wait - (synapse.name == "c0to2"), limit)),
        found="p2, from c0to2: arrives at another step",
    ),
    Mutation(
        rule="schedule.depth", what="a step too short", network="skips", how=after(lambda out, *_a: out - 1),
        found="out: the answer comes at another step",
    ),
    Mutation(
        rule="schedule.schedule", what="inputs of a product not balanced", network="space",
        how=nodes(lambda n: replace(n, delays=(0, 0, 0)), fixed.FixedAttention), found="a: scheduled = quantised",
    ),
    Mutation(
        rule="schedule.schedule", what="attention over time a step early", network="time",
        how=nodes(lambda n: replace(n, offset=n.offset - 1), fixed.FixedAttention), found="a: scheduled = quantised",
    ),
    Mutation(
        rule="schedule.schedule", what="attention over time costs one step", network="time",
        how=one_step, found="a: scheduled = quantised",
    ),
    Mutation(
        rule="schedule.schedule", what="counts of a window a step early", network="units",
        how=nodes(lambda n: replace(n, offset=n.offset - 1), fixed.FixedUnitCurrent),
        found="join: scheduled = quantised",
    ),
    *(
        Mutation(
            rule="map_cores.map_cores", what=what, network=network, how=after(slices(change, kind)), found=found,
        )
        for what, network, kind, change, found in (
            ("half of what attention reads left out", "space", fixed.Axons,
             lambda n: replace(n, last=(n.last[0] // 2,)) if n.inputs[0] == "attention" else n,
             "attention: cores make another product than the whole"),
            ("half of a window's spikes left out", "time", fixed.Axons,
             lambda n: replace(n, last=(n.last[0] // 2,)) if n.inputs[0] == "attention" else n,
             "attention: cores make another product than the whole"),
            ("a product of sums on no core", "sums", fixed.Slice,
             lambda n: replace(n, first=(1, *n.first[1:])) if n.inputs[0] == "sums" else n,
             "sums: not on exactly one core"),
            ("a sum that the host reads on no core", "norms", fixed.Slice,
             lambda n: replace(n, first=(1, *n.first[1:])) if n.inputs[0] == "n1.plain" else n,
             "n1.plain: not on exactly one core"),
            ("a gain without its sum", "gains", fixed.Slice,
             lambda n: replace(n, first=n.last) if n.group else n, "gain[1]: not on exactly one core"),
            ("messages of a host that one core lacks", "norms", fixed.Axons,
             lambda n: replace(n, last=(n.last[0] - 1, *n.last[1:])) if n.inputs[0] == "c3" else n,
             "c3 on core 3: a core computes another sum than the whole"),
        )
    ),
    *(
        Mutation(
            rule=f"{rule}.{rule}", what=what, network="skips", how=after(slices(change, kind)), found=found,
        )
        for rule, what, kind, change, found in (
            ("map_cores", "a neuron on no core", fixed.Slice, lambda n: replace(n, first=(*n.first[:-1], 1)),
             "p0: not on exactly one core"),
            ("map_cores", "axons of one channel left out", fixed.Axons,
             lambda n: replace(n, last=(n.last[0] - 1, *n.last[1:])),
             "pool.window on core 1: a core computes another sum than the whole"),
            ("map_cores", "all cores have one number", fixed.Slice, lambda n: replace(n, core=0),
             "slices: cores are not numbered one by one"),
            ("place_cores", "a tile beside the mesh", fixed.Slice, lambda n: replace(n, x=8),
             "slices: a tile that is not there"),
            ("place_cores", "all cores on one tile", fixed.Slice, lambda n: replace(n, x=1, y=2),
             "chip, x, y = (0, 1, 2): more cores than are there"),
            ("place_cores", "another delay", fixed.Synapse, lambda n: replace(n, delay=n.delay + 1),
             "graph: mapping changed the network itself"),
        )
    ),
)  # fmt: skip
