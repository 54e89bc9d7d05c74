"""`avsnn diff` on folders: equal bundles, a planted weight, and the command that its repro hands out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from avsnn.convert.bundle import Bundle
from avsnn.convert.ir import fixed_nodes as fixed
from tests.cli.conftest import Command, samples


@pytest.fixture(scope="module")
def spoiled(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle with one weight of its second connection changed."""
    loaded = Bundle.load(bundle)
    graph = loaded.graph("scheduled")
    node = graph.of(fixed.FixedConv2d)[2]
    mantissas = node.weight_mant.copy()
    mantissas.flat[np.abs(mantissas).argmax()] *= -1
    changed = replace(node, weight_mant=mantissas)
    nodes = tuple(changed if each is node else each for each in graph)
    out = tmp_path_factory.mktemp("spoiled") / "net"
    return replace(loaded, graphs={**loaded.graphs, "scheduled": replace(graph, nodes=nodes)}).save(out)


def test_equal_bundles_say_what_was_compared(avsnn: Command, bundle: Path) -> None:
    code, out, err = avsnn("diff", f"{bundle}:quantised", f"{bundle}", "--samples", "3")
    assert (code, err) == (0, "")
    assert out.startswith("equal: ")
    assert "on 3 samples of generated inputs" in out


def test_a_planted_weight_is_shown_and_its_repro_shows_it_again(
    avsnn: Command, bundle: Path, spoiled: Path, tmp_path: Path
) -> None:
    np.savez(tmp_path / "x.npz", **samples(5))
    again = tmp_path / "repro"
    arguments = ("diff", bundle, spoiled, "--input", tmp_path / "x.npz")
    code, out, err = avsnn(*arguments, "--json", "--repro", again)
    assert (code, err) == (1, "")
    result = json.loads(out)
    difference = result["difference"]
    assert not result["equal"]
    assert difference["a"]["delivered"] != difference["b"]["delivered"]
    assert difference["a"]["threshold"] == difference["b"]["threshold"]
    code, out, err = avsnn(*result["repro"]["command"].split()[1:])
    assert (code, err) == (1, "")
    assert f"{difference['node']}: first difference" in out
    assert "everything before it is equal" in out
    code, out, _ = avsnn(*arguments)
    assert code == 1
    assert f"step {difference['step']}, sample {difference['sample']}" in out
    assert avsnn(*arguments, "--repro", again)[0] == 2, "a folder that is there is kept"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{b}:placed", "{b}"), "not a bundle"),
        (("{b}:folded@cpu", "{b}"), "only scheduled graphs run there"),
        (("{b}", "{b}", "--samples", "0"), "--samples: must be above zero"),
        (("{b}", "{b}", "--input", "nothing.npz"), "no such file or data set"),
    ],
)
def test_what_cannot_be_compared_is_named(
    avsnn: Command, bundle: Path, arguments: tuple[str, ...], message: str
) -> None:
    code, out, err = avsnn("diff", *(argument.format(b=bundle) for argument in arguments))
    assert (code, out) == (2, "")
    assert message in err
