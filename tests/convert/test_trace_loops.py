"""Loops over steps and neurons of other libraries become the same graphs as sequences of ours."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from avsnn.convert.check import Traced, check
from avsnn.convert.equivalence import compare
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.interpreter import interpret
from avsnn.convert.ir.node import Array
from avsnn.convert.pipeline import convert
from avsnn.convert.tracer import survey, trace, witness
from avsnn.errors import TraceError
from avsnn.hw_profiles.profile import load_profile
from tests.strategies import randomise

T = 4
SPEC = {"x": {"coding": "sequence", "step": 1.0}}
IMAGE = {"image": np.random.default_rng(0).integers(0, 256, size=(6, 1, 6, 6)) / 255}
EVENTS = {"x": np.random.default_rng(1).integers(0, 2, size=(T, 6, 1, 6, 6)).astype(np.float64)}


def reset_value(z: Tensor, v: Tensor, reset: Tensor, _th: Tensor) -> Tensor:
    return (1 - z) * v + z * reset


def reset_subtract(z: Tensor, v: Tensor, _reset: Tensor, th: Tensor) -> Tensor:
    return (1 - z) * v + z * (v - th)


class LIFBoxCell(nn.Module):
    """A stand-in for norse's cell of that name, written from its equations."""

    def __init__(self, rate: float = 0.5, th: float = 0.5, **p: Any) -> None:
        super().__init__()
        number = torch.tensor
        known = {"tau_mem_inv": number(rate), "v_leak": number(0.0), "v_th": number(th), "v_reset": number(0.0)}
        self.p, self.dt = SimpleNamespace(**{**known, "reset_method": reset_value, **p}), 1.0

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        v = torch.zeros_like(x) if state is None else state
        v = v + self.dt * self.p.tau_mem_inv * (x + self.p.v_leak - v)
        z = (v - self.p.v_th > 0).to(x.dtype)
        return z, self.p.reset_method(z, v, self.p.v_reset, self.p.v_th)


LIFBoxCell.__module__ = "norse.torch.module.lif_box"


class Net(nn.Module):
    """Two populations and a skip; image or events to three scores."""

    def __init__(self, **p: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.lif = LIFBoxCell(**p)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.lif2 = LIFBoxCell(**p)
        self.head = nn.Linear(4, 3)
        randomise(self, 1)

    def step(self, x: Tensor, a: Any, b: Any) -> tuple[Tensor, Any, Any]:
        z, a = self.lif(self.bn(self.conv(x)), a)
        y, b = self.lif2(self.conv2(z) + z, b)
        return y, a, b

    def scores(self, y: Tensor) -> Tensor:
        made: Tensor = self.head(y.mean((2, 3)))
        return made


class Summed(Net):
    def forward(self, image: Tensor) -> Tensor:
        a = b = None
        total: Any = 0.0
        for _ in range(T):
            y, a, b = self.step(image, a, b)
            total = total + self.scores(y)
        made: Tensor = total / T
        return made


class SummedFromTheFirst(Net):
    def forward(self, image: Tensor) -> Tensor:
        a = b = total = None
        for _ in range(T):
            y, a, b = self.step(image, a, b)
            total = self.scores(y) if total is None else total + self.scores(y)
        assert total is not None
        return total / T


class SummedFromZeros(Net):
    def forward(self, image: Tensor) -> Tensor:
        a = b = None
        total = torch.zeros(1, 3)
        for _ in range(T):
            y, a, b = self.step(image, a, b)
            total = total + self.scores(y)
        return total / T


class Joined(Net):
    def forward(self, image: Tensor) -> Tensor:
        a = b = None
        out = []
        for _ in range(T):
            y, a, b = self.step(image, a, b)
            out.append(self.scores(y))
        return torch.stack(out).mean(0)


class Picked(Net):
    def forward(self, x: Tensor) -> Tensor:
        a = b = None
        out = []
        for t in range(x.shape[0]):
            y, a, b = self.step(x[t], a, b)
            out.append(y)
        return self.scores(torch.stack(out, dim=0).mean(0))


class Walked(Net):
    def forward(self, x: Tensor) -> Tensor:
        a = b = None
        out = []
        for each in x:
            y, a, b = self.step(each, a, b)
            out.append(y)
        return self.scores(torch.stack(out).sum(0) / x.size(0))


def inputs_of(module: nn.Module) -> tuple[dict[str, Array], Any]:
    return (EVENTS, SPEC) if isinstance(module, Picked | Walked) else (IMAGE, None)


def traced(module: nn.Module) -> Graph:
    inputs, spec = inputs_of(module)
    return trace(module, inputs, input_spec=spec)


@pytest.mark.parametrize("reset", [reset_value, reset_subtract])
@pytest.mark.parametrize("kind", [Summed, SummedFromTheFirst, SummedFromZeros, Joined, Picked, Walked])
def test_a_loop_is_one_step_of_it(kind: type[Net], reset: Any) -> None:
    module = kind(reset_method=reset)
    graph = traced(module)
    assert graph.timesteps == T
    assert [n.name for n in graph.of(ir.LIF)] == ["lif", "lif2"]
    assert len(graph.of(ir.Conv2d)) == 2
    node = graph["lif"]
    assert isinstance(node, ir.LIF)
    assert (node.decay, node.gain, node.threshold, node.strict) == (0.5, 0.5, 0.5, True)
    inputs, _ = inputs_of(module)
    expected, found = witness(module, inputs), interpret(graph, inputs)
    checked = compare("loop", "data", expected, found, exact=False)
    assert not checked.silent
    assert checked.populations[0].rate < 0.9


def test_a_loop_goes_through_the_whole_compiler() -> None:
    module = Summed()
    bundle = convert(module, IMAGE, calibration=IMAGE)
    assert set(bundle.graph("scheduled").by_name) >= {"lif", "lif2"}
    assert all(check["mismatches"] == 0 for check in bundle.record["checks"])


def test_a_module_called_twice_per_step_is_two_populations() -> None:
    class Twice(Net):
        def forward(self, image: Tensor) -> Tensor:
            a = b = None
            out = []
            for _ in range(T):
                z, a = self.lif(self.bn(self.conv(image)), a)
                y, b = self.lif(self.conv2(z), b)
                out.append(y)
            return self.scores(torch.stack(out).mean(0))

    module = Twice()
    graph = traced(module)
    assert [n.name for n in graph.of(ir.LIF)] == ["lif", "lif#2"]
    compare("loop", "data", witness(module, IMAGE, graph=graph), interpret(graph, IMAGE), exact=False)


class Recurrent(Net):
    def forward(self, image: Tensor) -> Tensor:
        a, last = None, self.bn(self.conv(image))
        out = []
        for _ in range(T):
            z, a = self.lif(last, a)
            last = self.conv2(z)
            out.append(z)
        return self.scores(torch.stack(out).mean(0))


class StateRead(Net):
    def forward(self, image: Tensor) -> Tensor:
        a = None
        for _ in range(T):
            _, a = self.lif(self.conv(image), a)
        assert a is not None
        return self.scores(a + 1.0)


class Uneven(Net):
    def forward(self, image: Tensor) -> Tensor:
        a = None
        out = []
        for t in range(T):
            z, a = self.lif(self.conv(image) if t else self.bn(self.conv(image)), a)
            out.append(z)
        return self.scores(torch.stack(out).mean(0))


class LastOnly(Net):
    def forward(self, image: Tensor) -> Tensor:
        a = None
        out = []
        for _ in range(T):
            z, a = self.lif(self.conv(image), a)
            out.append(z)
        return self.scores(torch.stack(out[1:]).mean(0))


class Swapped(Net):
    def forward(self, image: Tensor) -> Tensor:
        a = b = None
        out = []
        for _ in range(T):
            y, b, a = self.step(image, a, b)
            out.append(y)
        return self.scores(torch.stack(out).mean(0))


class Partly(Net):
    def forward(self, image: Tensor) -> Tensor:
        a = None
        total: Any = 0
        for t in range(T):
            z, a = self.lif(self.conv(image), a)
            total = total + z if t < T - 1 else total
        out: Tensor = self.scores(total)
        return out


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Recurrent, "lif: reads step 0 in step 1: a connection back in time"),
        (StateRead, "reads the state of a neuron"),
        (Uneven, "lif: reads something else in step 1 than in the step before"),
        (LastOnly, "stack: stacks something else than one value of every step, in order"),
        (Swapped, "starts from a state that is not its own"),
        (Partly, "sums 3 of 4 steps"),
    ],
)
def test_what_is_no_loop_over_steps_is_refused(kind: type[Net], message: str) -> None:
    with pytest.raises(TraceError, match=message):
        traced(kind())


@pytest.mark.parametrize(
    ("p", "message"),
    [
        ({"v_leak": torch.tensor(0.1)}, "a reset to something else than the leak potential"),
        ({"v_reset": torch.tensor(-0.1)}, "a reset to something else than the leak potential"),
        ({"v_leak": torch.tensor(0.1), "reset_method": reset_subtract}, "that subtracts, and a leak potential"),
        ({"reset_method": lambda z, v, reset, th: v}, "unknown reset"),
        ({"tau_mem_inv": torch.full((4, 1, 1), 0.5)}, "time constants that differ between neurons"),
    ],
)
def test_switches_without_a_node_are_refused_by_name(p: dict[str, Any], message: str) -> None:
    with pytest.raises(TraceError, match=message):
        traced(Summed(**p))


def test_thresholds_of_ones_own() -> None:
    module = Summed(v_th=torch.linspace(0.3, 0.6, 4).double()[:, None, None])
    graph = traced(module)
    compare("loop", "data", witness(module, IMAGE), interpret(graph, IMAGE), exact=False)


def test_a_cell_without_a_rule_is_one_entry_of_the_check() -> None:
    class LIFRefracCell(LIFBoxCell):
        pass

    LIFRefracCell.__module__ = "norse.torch.module.lif_refrac"
    LIFRefracCell.__qualname__ = "LIFRefracCell"
    module = Summed()
    module.lif = LIFRefracCell()
    found = survey(module, IMAGE)
    assert [p.what for p in found.problems] == ["no rule for this neuron"]
    traced = Traced(name="net", graph=None, nodes=found.nodes, problems=found.problems, lines=found.lines, timesteps=T)
    (entry,) = check(traced, load_profile("loihi2"), IMAGE).entries
    assert (entry.where, entry.neurons) == ("lif (LIFRefracCell)", 0.5)
    assert "z, a = self.lif(" in entry.line


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # norse on new torch
@pytest.mark.parametrize(("method", "known"), [("reset_value", "hard"), ("reset_subtract", "subtract")])
def test_norse_itself_means_what_its_stand_in_means(method: str, known: str) -> None:
    norse = pytest.importorskip("norse.torch", reason="norse is not installed (requirements/norse.txt)")
    reset = getattr(norse.functional.reset, method)
    p = norse.LIFBoxParameters(tau_mem_inv=torch.tensor(500.0), v_th=torch.tensor(0.5), reset_method=reset)
    module = Summed()
    module.lif, module.lif2 = norse.LIFBoxCell(p=p), norse.LIFBoxCell(p=p)
    graph = traced(module)
    node = graph["lif"]
    assert isinstance(node, ir.LIF)
    assert (node.reset, node.gain) == (known, 0.5)
    checked = compare("norse", "data", witness(module, IMAGE), interpret(graph, IMAGE), exact=False)
    assert not checked.silent


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_norses_cell_with_a_current_that_is_gone_after_its_step() -> None:
    norse = pytest.importorskip("norse.torch", reason="norse is not installed (requirements/norse.txt)")
    rate, th, module = torch.tensor(500.0), torch.tensor(0.5), Summed()
    module.lif = norse.LIFCell(p=norse.LIFParameters(tau_mem_inv=rate, tau_syn_inv=torch.tensor(1000.0), v_th=th))
    checked = compare("norse", "data", witness(module, IMAGE), interpret(traced(module), IMAGE), exact=False)
    assert not checked.silent
    assert traced(module)["lif"].current_decay == 0.0  # type: ignore[attr-defined]
    module.lif = norse.LIFCell(p=norse.LIFParameters(tau_mem_inv=rate, v_th=th))  # tau_syn_inv = 200 / s
    assert traced(module)["lif"].current_decay == pytest.approx(0.8)  # type: ignore[attr-defined]


class TwoLoops(Net):
    """Image for T steps and sound for ``steps``, added when both are over; ``how`` says where they meet too early."""

    def __init__(self, steps: int, how: str = "") -> None:
        super().__init__()
        self.steps, self.how, self.ear, self.weigh = steps, how, LIFBoxCell(), nn.Conv2d(1, 4, 3, padding=1)
        randomise(self, 2)

    def forward(self, image: Tensor, sound: Tensor) -> Tensor:
        a = b = c = None
        total: Any = 0.0
        heard = []
        for t in range(T):
            y, a, b = self.step(image, a, b)
            total = total + self.scores(y)
            if t < self.steps:
                z, c = self.ear(self.weigh(sound), c)
                if self.how == "added":
                    z = z + y
                heard.append(self.head(z.mean((2, 3))))
        if self.how == "last":
            heard = heard[-1:]
        late = torch.stack(heard).mean(0)
        made: Tensor = total / T + late
        return made


SOUND = {"sound": np.random.default_rng(3).integers(0, 256, size=(6, 1, 6, 6)) / 255}


@pytest.mark.parametrize("steps", [1, 3])
def test_two_loops_of_unequal_length_are_two_windows(steps: int) -> None:
    module, x = TwoLoops(steps), {**IMAGE, **SOUND}
    graph = trace(module, x)
    windows = {node.name: node.steps for node in graph.of(ir.LIF)}
    assert (graph.timesteps, windows) == (T, {"lif": 0, "lif2": 0, "ear": steps})
    expected = witness(module, x, graph=graph)
    assert all(spikes.any() for spikes in expected.spikes.values())
    compare("graph = module", "x", expected, interpret(graph, x), exact=False)
    bundle = convert(module, x, proof_samples=2)
    assert bundle.graph("mapped").timesteps == T


@pytest.mark.parametrize(("how", "what"), [
    ("added", r"windows of different length meet, found \{'ear': 3, 'lif2': 4\}"),
    ("last", r"stacks something else than one value of every step"),
])  # fmt: skip
def test_loops_that_meet_too_early_are_refused(how: str, what: str) -> None:
    with pytest.raises(TraceError, match=what):
        trace(TwoLoops(3, how), {**IMAGE, **SOUND})
