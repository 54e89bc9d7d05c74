"""Each step of the compiler broken on purpose: the conversion must stop with exit code 1 and name the place.

The mistakes are those that a compiler for spiking networks makes in practice; none changes a shape or raises by
itself, so only the proofs can notice.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avsnn.convert import pipeline
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Node
from avsnn.convert.passes.fold_backward import fold_backward
from avsnn.convert.passes.quantise import quantise
from avsnn.convert.passes.schedule import schedule
from avsnn.convert.passes.thresholds import Thresholds
from avsnn.deploy.backends import cpu

Command = Callable[..., tuple[int, str, str]]
Stopped = Callable[[], str]


@pytest.fixture
def stopped(avsnn: Command, checkpoint: Path, tmp_path: Path) -> Stopped:
    """Convert, see that a proof stops it and that nothing is written; return the message."""

    def check() -> str:
        place = tmp_path / "place"
        place.mkdir()
        code, out, err = avsnn("convert", checkpoint, "--out", place / "net", "--backend", "cpu", "--samples", "4")
        assert (code, out, len(err.splitlines())) == (1, "", 1), err
        assert not list(place.iterdir())
        return err

    return check


def swap(graph: Graph, node: Node) -> Graph:
    return replace(graph, nodes=tuple(node if old.name == node.name else old for old in graph.nodes))


def test_unbroken(avsnn: Command, checkpoint: Path, tmp_path: Path) -> None:
    """What the other tests break works."""
    code, *_ = avsnn("convert", checkpoint, "--out", tmp_path / "net", "--backend", "cpu", "--samples", "4")
    assert code == 0


def norms(graph: Graph) -> list[ir.BatchNorm]:
    return list(graph.of(ir.BatchNorm))


@pytest.mark.parametrize("which", [0, -1])
@pytest.mark.parametrize("statistic", ["mean", "var", "gamma", "beta"])
def test_a_statistic_is_left_unfolded(
    stopped: Stopped, monkeypatch: pytest.MonkeyPatch, which: int, statistic: str
) -> None:
    places = []

    def broken(graph: Graph) -> Graph:
        norm = norms(graph)[which]
        places.append(norm.name.rpartition(".")[0])
        value = np.asarray(getattr(norm, statistic))
        neutral = np.zeros_like(value) if statistic in ("mean", "beta") else np.ones_like(value)
        changed: dict[str, Any] = {statistic: neutral}
        return fold_backward(swap(graph, replace(norm, **changed)))

    folds = tuple((name, broken if name == "fold_backward" else fold) for name, fold in pipeline.FOLDS)
    monkeypatch.setattr(pipeline, "FOLDS", folds)
    line = stopped()
    assert "fold_backward changes nothing on calibration" in line
    assert places[0] in line
    for part in ("sample ", "step ", "neuron (", "expected", "found"):
        assert part in line


def test_a_norm_is_folded_twice(stopped: Stopped, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(graph: Graph) -> Graph:
        done = fold_backward(graph)
        layer = next(iter(done.of(ir.Conv2d)))
        gain = 1.0 + 1e-3 * np.arange(len(layer.weight)).reshape(-1, 1, 1, 1)
        return swap(done, replace(layer, weight=layer.weight * gain))

    folds = tuple((name, broken if name == "fold_backward" else fold) for name, fold in pipeline.FOLDS)
    monkeypatch.setattr(pipeline, "FOLDS", folds)
    assert "fold_backward changes nothing" in stopped()


def delayed(graph: Graph) -> list[fixed.Synapse]:
    return [node for node in graph if isinstance(node, fixed.Synapse) and node.delay]


def neurons(graph: Graph) -> list[fixed.FixedLIF]:
    return [node for node in graph.of(fixed.FixedLIF) if node.role == "neuron"]


def spoil_schedule(monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Graph], Node]) -> list[str]:
    """Change one node of the scheduled graph; returns where its name will be."""
    names: list[str] = []

    def broken(graph: Graph, **options: Any) -> Any:
        done, balances = schedule(graph, **options)
        node = spoil(done)
        names.append(node.name)
        return swap(done, node), balances

    monkeypatch.setattr(pipeline, "schedule", broken)
    return names


@pytest.mark.parametrize(("which", "by"), [(0, -1), (0, 1), (1, -1), (3, -1), (5, -1), (5, 1)])
def test_a_delay_is_off_by_one(stopped: Stopped, monkeypatch: pytest.MonkeyPatch, which: int, by: int) -> None:
    def spoil(graph: Graph) -> Node:
        assert len(delayed(graph)) == 6
        node = delayed(graph)[which]
        return replace(node, delay=node.delay + by)

    names = spoil_schedule(monkeypatch, spoil)
    line = stopped()
    assert "scheduled = quantised" in line
    assert names[0].rpartition("@")[0].rpartition(".")[0] in line


@pytest.mark.parametrize(("which", "by"), [(0, 1), (1, -1), (1, 1), (2, 1), (5, -1), (7, 1)])
def test_a_reset_is_off_by_one(stopped: Stopped, monkeypatch: pytest.MonkeyPatch, which: int, by: int) -> None:
    def spoil(graph: Graph) -> Node:
        node = neurons(graph)[which]
        return replace(node, reset_phase=(node.reset_phase + by) % node.reset_interval)

    names = spoil_schedule(monkeypatch, spoil)
    line = stopped()
    assert "scheduled = quantised on calibration" in line
    assert names[0] in line
    assert "step " in line


def spoil_quantise(monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Graph, Any], Node]) -> list[str]:
    names: list[str] = []

    def broken(graph: Graph, **options: Any) -> Any:
        done, scales = quantise(graph, **options)
        node = spoil(done, scales)
        names.append(node.name)
        return swap(done, node), scales

    monkeypatch.setattr(pipeline, "quantise", broken)
    return names


def weighted(graph: Graph) -> list[Any]:
    """Synapses and held currents with their weights, without the windows of pooling."""
    return [n for n in graph if isinstance(n, fixed.Synapse | fixed.HeldCurrent) and not n.name.endswith(".window")]


@pytest.mark.parametrize("which", [0, 1, 2, 5, 8, -1])
def test_the_sign_of_one_weight(stopped: Stopped, monkeypatch: pytest.MonkeyPatch, which: int) -> None:
    places = []

    def spoil(graph: Graph, _scales: Any) -> Node:
        node = weighted(graph)[which]
        field = "weight" if isinstance(node, fixed.HeldCurrent) else "weight_mant"
        weight = getattr(node, field).copy()
        place = np.unravel_index(np.abs(weight).argmax(), weight.shape)
        weight[place] = -weight[place]
        places.append(tuple(int(i) for i in place))
        return replace(node, **{field: weight})

    names = spoil_quantise(monkeypatch, spoil)
    line = stopped()
    assert f"{names[0]}: weight {places[0]} is not its folded value rounded" in line


def test_one_weight_is_off_by_one_grain(stopped: Stopped, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(graph: Graph, _scales: Any) -> Node:
        node = weighted(graph)[1]
        weight = node.weight_mant.copy()
        weight.flat[0] += 2
        return replace(node, weight_mant=weight)

    names = spoil_quantise(monkeypatch, spoil)
    line = stopped()
    assert f"{names[0]}: weight (0, 0, 0, 0) is not" in line


@pytest.mark.parametrize("what", ["threshold", "bias", "decay"])
def test_one_neuron_parameter(stopped: Stopped, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    def spoil(graph: Graph, _scales: Any) -> Node:
        node = neurons(graph)[1]
        if what == "threshold":
            return replace(node, threshold_mant=node.threshold_mant + 1)
        if what == "decay":
            return replace(node, decay_v=node.decay_v + 2)
        bias = node.bias_mant.copy()
        bias.flat[0] += (1 << (fixed.ACTIVATION_SHIFT - node.bias_exp)) if node.bias_exp < 6 else 1
        return replace(node, bias_mant=bias)

    names = spoil_quantise(monkeypatch, spoil)
    line = stopped()
    assert f"{names[0]}: " in line


@pytest.mark.parametrize(("which", "factor"), [(0, 0.0), (1, 0.0), (5, 0.0), (7, 0.0), (0, 2.0), (1, 2.0)])
def test_the_tie_rule(stopped: Stopped, monkeypatch: pytest.MonkeyPatch, which: int, factor: float) -> None:
    """The chip fires on ``v > h``; the scale must keep the threshold just above h, by the finest step of v.

    ``factor`` 0 leaves the rule out, 2 takes a step twice as long.
    """
    names: list[str] = []

    def broken(thresholds: Thresholds) -> float:
        name = thresholds.node.name
        if name not in names:  # the quantiser asks for one population after another
            names.append(name)
        return (factor if names.index(name) == which else 1.0) * tie(thresholds)

    tie = Thresholds.tie
    monkeypatch.setattr(Thresholds, "tie", broken)
    line = stopped()
    assert f"avsnn: {names[which]}: the integer neuron differs from the exact one" in line
    assert "tie rule" in line


def test_the_simulator_is_wrong(stopped: Stopped, monkeypatch: pytest.MonkeyPatch) -> None:
    simulate = cpu.simulate

    def broken(*arguments: Any, **options: Any) -> Any:
        done = simulate(*arguments, **options)
        if options.get("record") == "all":
            done.states["image.mlp.lif1"]["u"][2, 1, 3, 0, 0] += 1
        return done

    monkeypatch.setattr("avsnn.deploy.executions.simulate", broken)
    line = stopped()
    assert "image.mlp.lif1 sample 1 step 2 neuron (3, 0, 0): CPU simulator = reference" in line
    assert "state u differs in 1 of" in line


def test_force_keeps_the_old_bundle(
    avsnn: Command, checkpoint: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(bundle, tmp_path / "net")
    spoil_schedule(monkeypatch, lambda graph: replace(delayed(graph)[0], delay=delayed(graph)[0].delay - 1))
    code, *_ = avsnn("convert", checkpoint, "--out", copy, "--backend", "cpu", "--samples", "4", "--force")
    assert code == 1
    assert json.loads((copy / "manifest.json").read_text()) == json.loads((bundle / "manifest.json").read_text())
    assert [path.name for path in tmp_path.iterdir()] == ["net"]
