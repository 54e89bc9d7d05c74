"""Leaky integrators as read-outs: the host weighs the steps, which is exact in integers on every back end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from avsnn.convert.equivalence import compare
from avsnn.convert.integer_check import check_parameters
from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.fixed_interpreter import logical, to_integers
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.interpreter import interpret
from avsnn.convert.passes.fold_readout import fold_readout
from avsnn.convert.passes.integer_formats import Target
from avsnn.convert.passes.quantise import quantise
from avsnn.convert.pipeline import convert
from avsnn.convert.risks import layer_risks
from avsnn.convert.tracer import trace, witness
from avsnn.deploy import lava_env
from avsnn.deploy.run import run
from avsnn.errors import CapabilityError, TraceError, VerifyError
from avsnn.hw_profiles.profile import load_profile
from tests.convert.test_trace_neurons import IMAGE, LIF, LIFCell, Net, T
from tests.strategies import randomise

FOUND = lava_env.doctor()


class LICell(nn.Module):
    """norse's: a current that jumps, a membrane that follows it, and no spike."""

    def __init__(self, syn: float = 0.3, mem: float = 0.4, leak: float = 0.0) -> None:
        super().__init__()
        number = torch.tensor
        self.p = SimpleNamespace(tau_syn_inv=number(syn), tau_mem_inv=number(mem), v_leak=number(leak))
        self.dt = 1.0

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        v, i = (0 * x + self.p.v_leak, 0 * x) if state is None else state
        i = i + x
        v = v + self.p.tau_mem_inv * (self.p.v_leak - v + i)
        return v, (v, i - self.p.tau_syn_inv * i)


class LI(LICell):
    """norse's, over all steps."""

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        found = []
        for each in x:
            v, state = super().forward(each, state)
            found.append(v)
        return torch.stack(found), state


LICell.__module__ = LI.__module__ = "norse.torch.module.leaky_integrator"


class Looped(Net):
    """Spikes, a layer, a leaky integrator, and one of its values or their mean."""

    def __init__(self, answer: Callable[[list[Tensor]], Tensor], leak: float = 0.0) -> None:
        super().__init__(LIFCell)
        self.li, self.answer = LICell(leak=leak), answer
        self.last = nn.Linear(3, 2)

    def forward(self, image: Tensor) -> Tensor:
        a = b = c = None
        found = []
        for _ in range(T):
            z, a = self.lif(self.conv(image), a)
            y, b = self.lif2(self.conv2(z) + self.conv3(z), b)
            v, c = self.li(self.head(y.mean((2, 3))), c)
            found.append(v)
        made: Tensor = self.last(self.answer(found))
        return made


ANSWERS: dict[str, Callable[[list[Tensor]], Tensor]] = {
    "last": lambda found: found[-1],
    "mean": lambda found: torch.stack(found).mean(0),
    "sum": lambda found: torch.stack(found).sum(0),
}


def readout(graph: Graph) -> ir.Readout:
    (node,) = fold_readout(graph).of(ir.Readout)
    return node


@pytest.mark.parametrize("name", ANSWERS)
def test_a_leaky_integrator_weighs_the_steps(name: str) -> None:
    module = Looped(ANSWERS[name])
    graph = trace(module, IMAGE)
    expected, found = witness(module, IMAGE, graph=graph), interpret(graph, IMAGE)
    assert not compare("integrator", "data", expected, found, exact=False).silent
    weights = readout(graph).step_weights
    assert weights is not None
    one = [0.4 * sum(0.6**j * 0.7 ** (n - j) for j in range(n + 1)) for n in range(T)]  # of an input, n steps later
    wanted = {"last": one[::-1], "mean": [sum(one[: T - t]) / T for t in range(T)]}
    wanted["sum"] = wanted["mean"]  # the factor T is a gain
    assert weights == pytest.approx(np.array(wanted[name]))
    (answer,) = interpret(fold_readout(graph), IMAGE).outputs.values()
    assert answer == pytest.approx(expected.outputs["output"])
    assert np.ptp(answer) > 0.01


def agree(bundle: Any, backends: list[Any]) -> None:
    expected = run(bundle, IMAGE, backend="reference")
    assert np.abs(expected.raw).max() > 1000
    for backend in backends:
        assert np.array_equal(run(bundle, IMAGE, backend=backend).raw, expected.raw)


class Whole(nn.Module):
    """Layers that are given all steps."""

    def __init__(self) -> None:
        super().__init__()
        self.lif, self.fc, self.li = LIF(th=0.4), nn.Linear(5, 3), LI()
        randomise(self, 3)

    def forward(self, x: Tensor) -> Tensor:
        z, _ = self.lif(x)
        v, _ = self.li(self.fc(z))
        made: Tensor = v[-1]
        return made


def test_the_last_step_of_a_sequence() -> None:
    module, x = Whole(), {"x": np.random.default_rng(2).integers(0, 2, size=(T, 6, 5)).astype(np.float64)}
    graph = trace(module, x, input_spec={"x": {"coding": "sequence", "step": 1.0}})
    assert [node.kind for node in graph][-2:] == ["LeakyIntegrator", "LastStep"]
    assert not compare("last", "data", witness(module, x), interpret(graph, x), exact=False).silent
    weights = readout(graph).step_weights
    assert weights is not None
    assert weights[-1] == pytest.approx(0.4)


@pytest.mark.parametrize("name", ["last", "mean"])
def test_integers_follow(name: str) -> None:
    module = Looped(ANSWERS[name])
    bundle = convert(module, IMAGE, calibration=IMAGE, proof_samples=4)
    assert all(check["mismatches"] == 0 for check in bundle.record["checks"])
    agree(bundle, ["cpu"])
    found = run(bundle, IMAGE, backend="cpu").outputs
    wanted = witness(module, IMAGE).outputs["output"]
    assert np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()


@pytest.mark.lava
@pytest.mark.skipif(bool(FOUND.missing), reason=f"no Lava interpreter: {FOUND.missing}")
def test_lava_agrees() -> None:
    agree(convert(Looped(ANSWERS["last"]), IMAGE, calibration=IMAGE, proof_samples=2), ["lava"])


def test_wrong_weights_of_steps_are_noticed() -> None:
    folded = convert(Looped(ANSWERS["last"]), IMAGE, calibration=IMAGE, proof_samples=2).graph("folded")
    target = Target.of(load_profile("loihi2"))
    integers, scales = quantise(folded, target=target, calibration=IMAGE)
    node = integers[integers.outputs[0]]
    assert isinstance(node, fixed.FixedReadout)
    assert node.step_weights is not None
    check_parameters(folded, integers, scales)
    x = to_integers(integers, IMAGE)
    for wrong in (node.step_weights[::-1], node.step_weights + np.arange(T), None):
        spoiled = replace(integers, nodes=(*integers.nodes[:-1], replace(node, step_weights=wrong)))
        with pytest.raises(VerifyError, match="weight"):
            check_parameters(folded, spoiled, scales)
        assert not np.array_equal(logical(integers, x).outputs[node.name], logical(spoiled, x).outputs[node.name])


@pytest.mark.parametrize("change", [lambda x: x.amax(0), lambda x: x.max(0)[0], lambda x: torch.max(x, 0).values])
def test_a_maximum_over_time_is_refused_with_a_remedy(change: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(TraceError, match="over steps, take the last one or their mean"):
        trace(Looped(lambda found: change(torch.stack(found))), IMAGE)


def test_another_step_than_the_last_is_refused() -> None:
    with pytest.raises(TraceError, match="happens in step 1, and not alike in all"):
        trace(Looped(lambda found: found[1]), IMAGE)


def test_a_leak_is_refused() -> None:
    with pytest.raises(TraceError, match="a leak potential other than 0"):
        trace(Looped(ANSWERS["last"], leak=0.1), IMAGE)


def test_two_ways_through_time_are_refused() -> None:
    with pytest.raises(CapabilityError, match="two sums over time of the same spikes"):
        fold_readout(trace(Looped(lambda found: found[-1] + torch.stack(found).mean(0)), IMAGE))


def test_an_integrator_that_neurons_read_is_named() -> None:
    graph = trace(Looped(ANSWERS["last"]), IMAGE)
    (node,) = graph.of(ir.LeakyIntegrator)
    assert not [risk for risk in layer_risks(graph.nodes, T, traced=True) if risk.surely]
    late = ir.LIF(name="late", inputs=(node.name,), shape=node.shape, decay=0.5, gain=0.5, threshold=1.0)
    (risk,) = (risk for risk in layer_risks((*graph.nodes, late), T, traced=True) if risk.surely)
    assert (risk.node, risk.suggestion) == (node.name, "let it answer, or put neurons there")


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # norse on new torch
@pytest.mark.parametrize("name", ["last", "mean"])
def test_norse_itself(name: str) -> None:
    norse = pytest.importorskip("norse.torch", reason="norse is not installed (requirements/norse.txt)")
    module = Looped(ANSWERS[name])
    rates = {"tau_syn_inv": torch.tensor(300.0), "tau_mem_inv": torch.tensor(400.0)}
    module.li = norse.LICell(p=norse.LIParameters(**rates, v_leak=torch.tensor(0.0)))
    graph = trace(module, IMAGE)
    compare("integrator", "data", witness(module, IMAGE, graph=graph), interpret(graph, IMAGE), exact=False)
    (node,) = graph.of(ir.LeakyIntegrator)
    assert node.current_decay == pytest.approx(0.7)
