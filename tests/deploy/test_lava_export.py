"""What is written, and what is refused; no Lava needed."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Node
from avsnn.deploy.exports import lava
from avsnn.deploy.exports.lava_limits import needs_guard
from avsnn.errors import CapabilityError, InputError, QuantizeError

INPUT = fixed.FixedInput(name="x", shape=(3,), coding="sequence", low=0, high=1, step=1.0)
WIRE = fixed.FixedLinear(name="w", inputs=("x",), shape=(2,), weight_mant=np.array([[2, -4, 254], [-256, 0, 6]]))
CELL = fixed.FixedLIF(
    name="p", inputs=("w",), shape=(2,), threshold_mant=9, decay_v=2048, bias_mant=np.array([1]), reset_interval=4
)


def graph(*nodes: Node, stage: str = "scheduled") -> Graph:
    return Graph(nodes=nodes, outputs=(nodes[-1].name,), timesteps=4, stage=stage)


def tables_module() -> ModuleType:
    """The plain numpy half of the export."""
    path = lava.RUNTIME_FOLDER / "tables.py"
    spec = importlib.util.spec_from_file_location("lava_export_tables", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        lava.write_lava(graph(INPUT, WIRE, CELL), tmp_path / name)
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*") if p.is_file())
    assert {str(f) for f in files} == {*lava.RUNTIME, "network.json", "weights.npz"}
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    lava.check_runtime(tmp_path / "one")


def test_tables_are_plain(tmp_path: Path) -> None:
    lava.write_lava(graph(INPUT, WIRE, replace(CELL, reset_phase=1, offset=1)), tmp_path / "lava")
    tables = json.loads((tmp_path / "lava" / "network.json").read_text())
    (row,) = tables["populations"]
    assert (row["reset_interval"], row["reset_offset"], row["guard"]) == (4, 2, False)
    with np.load(tmp_path / "lava" / "weights.npz", allow_pickle=False) as arrays:
        assert arrays[tables["synapses"][0]["weight"]].tolist() == WIRE.weight_mant.tolist()


def test_nothing_half_written(tmp_path: Path) -> None:
    with pytest.raises(QuantizeError):
        lava.write_lava(graph(INPUT, replace(WIRE, weight_mant=np.array([[1, -1, 0]] * 2)), CELL), tmp_path / "lava")
    with pytest.raises(InputError, match="cannot be written"):
        lava.write_lava(graph(INPUT, WIRE, CELL), tmp_path / "nowhere" / "lava")
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match="exists already"):
        lava.write_lava(graph(INPUT, WIRE, CELL), tmp_path / "there")
    assert [p.name for p in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize(
    ("wire", "where"),
    [
        ({"weight_mant": np.array([[2, 3, -4]] * 2)}, "w"),  # odd: Lava floors mixed weights to even ones
        ({"weight_mant": np.array([[2, 256, -4]] * 2)}, "w"),
        ({"weight_mant": np.array([[2, 0, -258]] * 2)}, "w"),
        ({"sign_mode": "excitatory"}, "w"),
        ({"sign_mode": "inhibitory"}, "w"),
        ({"sign_mode": "neutral"}, "w"),
        ({"weight_exp": -1}, "w"),
        ({"delay": 64}, "w"),
        ({"output_delay": np.array([0, 70])}, "w"),
        ({"weight_exp": 24}, "p"),  # sums leave int32
    ],
)
def test_synapses_that_lava_would_change(wire: dict[str, object], where: str) -> None:
    with pytest.raises(QuantizeError) as caught:
        lava.lower(graph(INPUT, replace(WIRE, **wire), CELL))  # type: ignore[arg-type]
    assert caught.value.where == where


@pytest.mark.parametrize(
    "own",
    [
        {"bias_mant": np.array([2**15, 0])},
        {"bias_exp": -1},
        {"threshold_mant": 2**17},
        {"decay_v": 4097},
        {"decay_u": 4096},
        {"state_bits": 32},
    ],
)
def test_populations_that_lava_would_change(own: dict[str, object]) -> None:
    with pytest.raises(QuantizeError) as caught:
        lava.lower(graph(INPUT, WIRE, replace(CELL, **own)))  # type: ignore[arg-type]
    assert caught.value.where == "p"


def test_connections_that_lava_does_not_have() -> None:
    other = replace(CELL, name="q", inputs=("p",))
    for nodes in ((INPUT, WIRE, CELL, other), (INPUT, replace(CELL, inputs=("x",)))):
        with pytest.raises(CapabilityError, match="cannot read"):
            lava.lower(graph(*nodes))
    with pytest.raises(InputError, match="only a scheduled graph"):
        lava.lower(graph(INPUT, WIRE, CELL, stage="quantised"))


def test_guards_only_where_weights_do_not_bound_u() -> None:
    wide = replace(INPUT, shape=(600,))
    heavy = replace(WIRE, weight_mant=np.full((2, 600), 254))
    assert not needs_guard(graph(INPUT, WIRE, CELL), CELL)
    assert needs_guard(graph(wide, heavy, CELL), CELL)
    fitting = replace(heavy, weight_mant=np.full((2, 600), 254) * (np.arange(600) < (2**17 - 1) // 254))
    assert not needs_guard(graph(wide, fitting, CELL), CELL)
    slow = replace(CELL, decay_u=2047)  # u keeps half: 1 + 1/2 + 1/4 + 1/8 over a window of 4
    assert needs_guard(graph(wide, fitting, slow), slow)
    assert needs_guard(graph(INPUT, WIRE, CELL), replace(CELL, decay_u=-1, reset_interval=0)), "it never forgets"


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 2), st.integers(1, 2), st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 2), st.integers(1, 3)), st.tuples(st.integers(0, 2), st.integers(0, 2)),
    st.tuples(st.integers(1, 2), st.integers(1, 2)), st.integers(0, 2**31),
)  # fmt: skip
def test_expanded_convolution(
    groups: int, group_in: int, group_out: int, kernel: tuple[int, int], stride: tuple[int, int],
    padding: tuple[int, int], dilation: tuple[int, int], seed: int,
) -> None:  # fmt: skip
    """The matrix times a flat picture is the convolution, one output at a time."""
    rng, size = np.random.default_rng(seed), (6, 7)
    out = [(size[k] + 2 * padding[k] - dilation[k] * (kernel[k] - 1) - 1) // stride[k] + 1 for k in range(2)]
    weight = rng.integers(-3, 4, (groups * group_out, group_in, *kernel))
    x = rng.integers(-5, 6, (groups * group_in, *size))
    row = {"kind": "conv", "source_shape": x.shape, "shape": (len(weight), *out), "groups": groups}
    row |= {"stride": stride, "padding": padding, "dilation": dilation}
    y = (tables_module().matrix(row, weight) @ x.ravel()).reshape(len(weight), *out)
    padded = np.pad(x, ((0, 0), (padding[0],) * 2, (padding[1],) * 2))
    for o, i, j in np.ndindex(*y.shape):
        first = o // group_out * group_in
        window = padded[
            first : first + group_in,
            i * stride[0] : i * stride[0] + dilation[0] * (kernel[0] - 1) + 1 : dilation[0],
            j * stride[1] : j * stride[1] + dilation[1] * (kernel[1] - 1) + 1 : dilation[1],
        ]
        assert y[o, i, j] == (window * weight[o]).sum()
