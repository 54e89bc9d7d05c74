"""A network that some input overflows is refused, and the input is written on demand and overflows again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avsnn.convert import pipeline
from avsnn.convert.bundle import Bundle
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.graph import Graph
from avsnn.convert.passes.quantise import quantise
from avsnn.deploy.run import run
from avsnn.errors import DomainError

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def _overflowing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A population behind others gets weights of which hardly any fit its state together."""

    def spoilt(folded: Graph, **options: Any) -> Any:
        graph, scales = quantise(folded, **options)
        node = next(n for n in graph.of(fixed.FixedLIF) if n.role == "neuron" and n.inputs[0] in deep(graph))
        wrong: Any = graph[node.inputs[0]]
        made = replace(wrong, weight_exp=int(np.max(wrong.weight_exp)) + 9)
        return replace(graph, nodes=tuple(made if n is wrong else n for n in graph)), scales

    def deep(graph: Graph) -> set[str]:
        return {n.name for n in graph.of(fixed.FixedConv2d) if n.groups == 1}

    monkeypatch.setattr(pipeline, "quantise", spoilt)
    for check in ("check_parameters", "check_formats", "compare_currents"):  # which would see it at once
        monkeypatch.setattr(pipeline, check, lambda *_a: 0)


@pytest.mark.usefixtures("_overflowing")
def test_an_input_that_overflows_is_written_and_overflows_again(
    avsnn: Command, checkpoint: Path, tmp_path: Path
) -> None:
    folder, options = tmp_path / "broken", ("--backend", "cpu", "--samples", "4")
    code, out, err = avsnn("convert", checkpoint, "--out", tmp_path / "net", *options, "--counter-example", folder)
    assert (code, out) == (1, ""), err
    told, error = err.splitlines()
    assert told.startswith(f"An input that overflows is in {folder}")
    assert " out of the state, expected at most 83886" in error
    assert not (tmp_path / "net").exists()
    layer, inputs = Bundle.load(folder / "a"), dict(np.load(folder / "inputs.npz"))
    for backend in ("reference", "cpu"):
        with pytest.raises(DomainError) as again:
            run(layer, inputs, backend=backend)
        assert again.value.where in error
        assert str(again.value.found) in error
    code, _, err = avsnn("run", folder / "a", "--data", folder / "inputs.npz")
    assert code == 2
    assert "leaves the 24-bit state" in err
    assert (folder / "network.npz").exists()
    code, _, err = avsnn("convert", checkpoint, "--out", tmp_path / "net", "--counter-example", folder)
    assert code == 2
    assert "exists already" in err
