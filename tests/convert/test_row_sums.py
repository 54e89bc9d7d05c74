"""Rows that should sum to 0 do, each weight within a step; all other rows are as they were."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avsnn.convert.integer_check import check_parameters
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array
from avsnn.convert.passes.integer_formats import Target, mantissas
from avsnn.convert.passes.populations import Populations
from avsnn.convert.passes.quantise import Scale, quantise
from avsnn.convert.passes.row_sums import with_row_sums
from avsnn.convert.pipeline import FOLDS
from avsnn.errors import VerifyError
from avsnn.hw_profiles.profile import load_profile
from tests.convert.mutants import NETWORKS, samples
from tests.strategies import SEEDS

TARGETS = {name: Target.of(load_profile(name)) for name in ("loihi2", "cpu")}


def synapse(weight: Array, target: Target, exponents: int = 1) -> fixed.Synapse:
    mant, exp, mode = mantissas(weight, target, exponents)
    common: dict[str, Any] = {"name": "s", "inputs": ("p",), "shape": (len(weight),)}
    return fixed.FixedLinear(**common, weight_mant=mant, weight_exp=exp, sign_mode=mode)


@given(SEEDS, st.sampled_from(sorted(TARGETS)), st.integers(2, 40), st.integers(1, 3), st.integers(1, 3))
def test_balanced_rows_sum_to_zero_within_a_step(seed: int, name: str, channels: int, taps: int, groups: int) -> None:
    rng, target = np.random.default_rng(seed), TARGETS[name]
    weight = rng.normal(size=(6, channels, taps)) * rng.uniform(1, 60, size=(6, 1, 1))
    weight -= weight.mean(axis=1, keepdims=True)
    weight[4:] += 3.0  # two rows that need not
    weight = weight.reshape(6, -1)
    before = synapse(weight, target, groups)
    after, changed = with_row_sums(before, weight, channels, target)
    step = (target.grain(weight) << before.row_exp)[:, None, None]
    ints, real = (x.reshape(6, channels, taps) for x in (after.weight, weight))
    sums = before.weight.reshape(ints.shape)[:4].sum(axis=1)
    assert (ints[:4].sum(axis=1) == 0).all()  # these rows have room
    assert changed == np.count_nonzero(sums)
    assert (np.abs(ints - real) <= step * (1 + 1e-9)).all()
    np.testing.assert_array_equal(ints[4:], before.weight.reshape(ints.shape)[4:])
    assert with_row_sums(after, weight, channels, target)[1] == 0
    low, high = target.mantissa_range(target.grain(weight))
    assert low <= after.weight_mant.min() <= after.weight_mant.max() <= high


def test_the_least_harmful_weights_move() -> None:
    target = TARGETS["loihi2"]
    weight = np.array([[100.0, 41.1, 40.9, -61.0, -121.0]])  # rounded to even: 100, 42, 40, -60 (or -62), -120
    before = synapse(weight, target)
    after, _ = with_row_sums(before, weight, 5, target)
    best = min(
        (m for m in np.stack(np.meshgrid(*[[-2, 0, 2]] * 5), -1).reshape(-1, 5) if (before.weight[0] + m).sum() == 0),
        key=lambda m: float(((before.weight[0] + m - weight[0]) ** 2).sum()),
    )
    error = float(((after.weight - weight) ** 2).sum())
    assert error == pytest.approx(float(((before.weight[0] + best - weight[0]) ** 2).sum()))


def quantised() -> tuple[Graph, Graph, tuple[Scale, ...]]:
    graph = NETWORKS["tokens"]()
    for _, fold in FOLDS:
        graph = fold(graph)
    folded = replace(graph, stage="folded")
    return folded, *quantise(folded, target=TARGETS["loihi2"], calibration=samples(folded))


def test_a_norm_over_tokens_is_balanced_and_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    folded, graph, scales = quantised()
    balanced = [scale for scale in scales if scale.rows_balanced]
    assert balanced
    assert check_parameters(folded, graph, scales)
    strict = tuple(replace(scale, rows_balanced=0) for scale in scales)
    with pytest.raises(VerifyError, match="is not its folded value rounded"):
        check_parameters(folded, graph, strict)
    monkeypatch.setattr(Populations, "_with_row_sums", lambda *_: None)
    _, plain, before = quantised()
    assert not any(scale.rows_balanced for scale in before)
    worse = {scale.population: scale.disagreement for scale in before}
    assert all(scale.disagreement <= worse[scale.population] for scale in scales)
    assert {n.name for n in plain} == {n.name for n in graph}
