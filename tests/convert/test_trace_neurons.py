"""Neurons of norse, snnTorch and SpikingJelly, by the names of their classes, through the whole compiler.

The classes here only stand in for the libraries' own, which need not be installed: the same names, attributes and
equations, written from their documentation. Where a library is installed, its own neurons are tried as well.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from avsnn.convert.equivalence import compare
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.interpreter import interpret
from avsnn.convert.pipeline import convert
from avsnn.convert.tracer import trace, witness
from avsnn.deploy import lava_env
from avsnn.deploy.run import run
from avsnn.errors import TraceError
from tests.strategies import randomise

FOUND = lava_env.doctor()
T = 4
IMAGE = {"image": np.random.default_rng(0).integers(0, 256, size=(6, 1, 6, 6)) / 255}
EVENTS = {"x": np.random.default_rng(1).integers(0, 2, size=(T, 6, 1, 6, 6)).astype(np.float64)}
SEQUENCE = {"x": {"coding": "sequence", "step": 1.0}}


class LIFCell(nn.Module):
    """norse's: a current that jumps, then decays; the membrane between the two."""

    def __init__(self, syn: float = 0.3, mem: float = 0.4, th: float = 0.5, leak: float = 0.0) -> None:
        super().__init__()
        number = torch.tensor
        self.p = SimpleNamespace(
            tau_syn_inv=number(syn * 100), tau_mem_inv=number(mem * 100), v_th=number(th + leak), v_leak=number(leak),
            v_reset=number(leak),
        )  # fmt: skip
        self.dt = 0.01

    def step(self, x: Tensor, v: Tensor, i: Tensor) -> tuple[Tensor, Any]:
        i = i + x
        v = v + self.dt * self.p.tau_mem_inv * (self.p.v_leak - v + i)
        z = (v > self.p.v_th).to(x.dtype)
        return z, (v * (1 - z) + self.p.v_reset * z, i - self.dt * self.p.tau_syn_inv * i)

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        return self.step(x, *((self.p.v_leak + 0 * x, 0 * x) if state is None else state))


class LIF(LIFCell):
    """norse's, over all steps."""

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        found = []
        for each in x:
            z, state = super().forward(each, state)
            found.append(z)
        return torch.stack(found), state


class Leaky(nn.Module):
    """snnTorch's: the reset of a spike comes with the next step."""

    beta: Tensor
    threshold: Tensor
    mem: Tensor

    def __init__(self, beta: float = 0.8, threshold: float = 0.7, **switches: Any) -> None:
        super().__init__()
        self.register_buffer("beta", torch.tensor(beta))
        self.register_buffer("threshold", torch.tensor(threshold))
        self.register_buffer("mem", torch.zeros(0), persistent=False)
        known = {"init_hidden": False, "reset_mechanism": "subtract", "reset_delay": True, "inhibition": False}
        for name, value in (known | {"state_quant": False, "graded_spikes_factor": 1.0} | switches).items():
            setattr(self, name, value)

    def reset_mem(self) -> Any:
        self.mem = torch.zeros(0)
        return self.mem

    def integrated(self, x: Tensor, last: Tensor) -> Tensor:
        """The membrane after a step: x arrives where ``last`` says who has to be reset."""
        if self.reset_mechanism == "zero":
            return self.beta.clamp(0, 1) * (1 - last) * self.mem + x
        return self.beta.clamp(0, 1) * self.mem + x - last * self.threshold * (self.reset_mechanism == "subtract")

    def forward(self, x: Tensor, mem: Tensor | None = None) -> Any:
        self.mem = self.mem if mem is None else mem
        if self.mem.shape != x.shape:
            self.mem = torch.zeros_like(x)
        self.mem = self.integrated(x, (self.mem > self.threshold).to(x.dtype))
        spikes = (self.mem > self.threshold).float()  # float32, whatever x is
        return spikes if self.init_hidden else (spikes, self.mem)


class Synaptic(Leaky):
    """snnTorch's, with a current."""

    alpha: Tensor
    syn: Tensor

    def __init__(self, alpha: float = 0.6, beta: float = 0.8, threshold: float = 1.2, **switches: Any) -> None:
        super().__init__(beta, threshold, **switches)
        self.register_buffer("alpha", torch.tensor(alpha))
        self.register_buffer("syn", torch.zeros(0), persistent=False)

    def reset_mem(self) -> Any:
        self.syn = torch.zeros(0)
        return self.syn, super().reset_mem()

    def forward(self, x: Tensor, syn: Tensor | None = None, mem: Tensor | None = None) -> Any:  # type: ignore[override]
        self.syn = self.syn if syn is None else syn
        if self.syn.shape != x.shape:
            self.syn = torch.zeros_like(x)
        self.syn = self.alpha.clamp(0, 1) * self.syn + x
        found = super().forward(self.syn, mem)
        if self.reset_mechanism == "zero":  # with reset_delay=False: at once
            self.mem = self.mem * (self.mem <= self.threshold)
        return found if self.init_hidden else (found[0], self.syn, self.mem)


class IFNode(nn.Module):
    """SpikingJelly's: it fires on >=, and keeps its membrane in v until somebody resets it."""

    def __init__(
        self, v_threshold: float = 0.9, v_reset: float | None = 0.0, step_mode: str = "s", **more: Any
    ) -> None:
        super().__init__()
        self.v_threshold, self.v_reset, self.step_mode, self.v = v_threshold, v_reset, step_mode, 0.0
        self.surrogate_function = SimpleNamespace(spiking=True)
        for name, value in more.items():
            setattr(self, name, value)

    def reset(self) -> None:
        self.v = 0.0

    def charged(self, x: Tensor) -> Any:
        return self.v + x

    def single(self, x: Tensor) -> Tensor:
        v = self.charged(x)
        s = (v >= self.v_threshold).to(x.dtype)
        self.v = v - s * self.v_threshold if self.v_reset is None else v * (1 - s)
        return s

    def forward(self, x: Tensor) -> Tensor:
        return self.single(x) if self.step_mode == "s" else torch.stack([self.single(each) for each in x])


class LIFNode(IFNode):
    """SpikingJelly's leaky one."""

    tau, decay_input = 3.0, True

    def rate(self) -> Any:
        return 1 / self.tau

    def charged(self, x: Tensor) -> Any:
        leaked = self.v - self.v * self.rate()
        return leaked + x * self.rate() if self.decay_input else leaked + x


class ParametricLIFNode(LIFNode):
    """SpikingJelly's with a learnt time constant."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.w = nn.Parameter(torch.tensor(-0.4))

    def rate(self) -> Any:
        return self.w.sigmoid()


class MultiStepLIFNode(LIFNode):
    """SpikingJelly's before it had step modes."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        del self.step_mode

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.single(each) for each in x])


LIFCell.__module__ = LIF.__module__ = "norse.torch.module.lif"
Leaky.__module__, Synaptic.__module__ = "snntorch._neurons.leaky", "snntorch._neurons.synaptic"
for kind in (IFNode, LIFNode, ParametricLIFNode):
    kind.__module__ = "spikingjelly.activation_based.neuron"
MultiStepLIFNode.__module__ = "spikingjelly.clock_driven.neuron"


class Net(nn.Module):
    """Two populations of a kind; the second reads the first through two layers."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.lif = make()
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.conv3 = nn.Conv2d(4, 4, 1)
        self.lif2 = make()
        self.head = nn.Linear(4, 3)
        randomise(self, 1)
        with torch.no_grad():
            self.conv2.weight.mul_(0.4)

    def scores(self, rates: Tensor) -> Tensor:
        made: Tensor = self.head(rates.mean((2, 3)))
        return made


class Pair(Net):
    """One state goes round (norse), or is begun with what the neuron hands out (snnTorch)."""

    def forward(self, image: Tensor) -> Tensor:
        a, b = (getattr(lif, "reset_mem", lambda: None)() for lif in (self.lif, self.lif2))
        found = []
        for _ in range(T):
            z, a = self.lif(self.conv(image), a)
            y, b = self.lif2(self.conv2(z) + self.conv3(z), b)
            found.append(y)
        return self.scores(torch.stack(found).mean(0))


class Triple(Net):
    """As `Pair` for neurons with two states."""

    def forward(self, image: Tensor) -> Tensor:
        (i, a), (j, b) = self.lif.reset_mem(), self.lif2.reset_mem()  # type: ignore[operator]
        found = []
        for _ in range(T):
            z, i, a = self.lif(self.conv(image), i, a)
            y, j, b = self.lif2(self.conv2(z) + self.conv3(z), j, b)
            found.append(y)
        return self.scores(torch.stack(found).mean(0))


class Kept(Net):
    """Neurons that remember by themselves."""

    def forward(self, image: Tensor) -> Tensor:
        total: Any = 0.0
        for _ in range(T):
            z = self.lif(self.conv(image))
            total = total + self.lif2(self.conv2(z) + self.conv3(z))
        return self.scores(total / T)


class Sequences(Net):
    """Neurons that are given all steps at once, between layers that know no time."""

    def forward(self, x: Tensor) -> Tensor:
        z = self.spikes(self.lif(self.over(self.conv, x)))
        y = self.spikes(self.lif2(self.over(self.conv2, z) + self.over(self.conv3, z)))
        return self.scores(y.mean(0))

    def over(self, layer: nn.Module, x: Tensor) -> Tensor:
        made: Tensor = layer(x)
        return made

    def spikes(self, found: Any) -> Any:
        return found[0] if isinstance(self.lif, LIF) else found


class Conv2d(nn.Conv2d):
    """SpikingJelly's convolution in multi-step mode: each step by itself."""

    step_mode = "m"

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, 1)).unflatten(0, x.shape[:2])  # type: ignore[no-untyped-call]


Conv2d.__module__ = "spikingjelly.activation_based.layer"


def multi_step(make: Callable[[], nn.Module]) -> nn.Module:
    net = Sequences(make)
    for name in ("conv", "conv2", "conv3"):
        old = getattr(net, name)
        new = Conv2d(old.in_channels, old.out_channels, old.kernel_size, padding=old.padding)
        new.load_state_dict(old.state_dict())
        setattr(net, name, new)
    return net.eval()


CASES: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "norse LIFCell": (lambda: Pair(LIFCell), {"current_decay": 0.7, "decay": 0.6, "gain": 0.4, "strict": True}),
    "norse LIFCell, leak": (lambda: Pair(lambda: LIFCell(leak=-0.25)), {"threshold": 0.5, "reset": "hard"}),
    "norse LIF": (lambda: multi_step(LIF), {"current_decay": 0.7, "decay": 0.6, "gain": 0.4}),
    "Leaky": (lambda: Pair(Leaky), {"decay": 0.8, "gain": 1.0, "strict": True, "reset": "subtract_delayed"}),
    "Leaky, zero": (lambda: Pair(lambda: Leaky(reset_mechanism="zero")), {"reset": "hard", "current_decay": 0.0}),
    "Leaky, hidden": (lambda: Kept(lambda: Leaky(init_hidden=True)), {"decay": 0.8, "reset": "subtract_delayed"}),
    "Synaptic": (lambda: Triple(Synaptic), {"current_decay": 0.6, "decay": 0.8, "reset": "subtract_delayed"}),
    "Synaptic, hidden": (lambda: Kept(lambda: Synaptic(init_hidden=True)), {"current_decay": 0.6}),
    "Synaptic, zero": (
        lambda: Triple(lambda: Synaptic(reset_mechanism="zero", reset_delay=False)),
        {"reset": "hard", "current_decay": 0.6},
    ),
    "IFNode": (lambda: Kept(IFNode), {"decay": 1.0, "gain": 1.0, "reset": "hard", "strict": False}),
    "IFNode, subtract": (lambda: Kept(lambda: IFNode(v_reset=None)), {"decay": 1.0, "reset": "subtract"}),
    "LIFNode": (lambda: Kept(lambda: LIFNode(v_threshold=0.4)), {"decay": 2 / 3, "gain": 1 / 3, "strict": False}),
    "LIFNode, all steps": (
        lambda: multi_step(lambda: LIFNode(step_mode="m", decay_input=False, v_reset=None)),
        {"decay": 2 / 3, "gain": 1.0, "reset": "subtract"},
    ),
    "MultiStepLIFNode": (
        lambda: multi_step(lambda: MultiStepLIFNode(v_threshold=0.4)), {"decay": 2 / 3, "gain": 1 / 3, "reset": "hard"},
    ),
    "ParametricLIFNode": (
        lambda: Kept(lambda: ParametricLIFNode(v_threshold=0.4)),
        {"decay": 1 - 1 / (1 + np.exp(0.4)), "gain": 1 / (1 + np.exp(0.4)), "threshold": 0.4},
    ),
}  # fmt: skip


def given(module: nn.Module) -> tuple[dict[str, Any], Any]:
    return (EVENTS, SEQUENCE) if isinstance(module, Sequences) else (IMAGE, None)


def agrees(module: nn.Module) -> Graph:
    """The traced graph, which does what the module does, neither silent nor always firing."""
    inputs, spec = given(module)
    graph = trace(module, inputs, input_spec=spec)
    checked = compare("neuron", "data", witness(module, inputs), interpret(graph, inputs), exact=False)
    assert [p.name for p in checked.populations] == ["lif", "lif2"]
    assert all(0.05 < p.rate < 0.95 for p in checked.populations), checked.populations
    assert graph.timesteps == T
    return graph


@pytest.mark.parametrize("name", CASES)
def test_a_neuron_is_known_by_its_class(name: str) -> None:
    make, fields = CASES[name]
    node = agrees(make())["lif2"]
    assert isinstance(node, ir.LIF)
    assert {key: getattr(node, key) for key in fields} == pytest.approx(fields)


@pytest.mark.parametrize("name", ["norse LIFCell", "Synaptic", "Leaky, hidden", "LIFNode, all steps"])
def test_it_goes_through_the_whole_compiler(name: str) -> None:
    module = CASES[name][0]()
    inputs, spec = given(module)
    bundle = convert(module, inputs, calibration=inputs, input_spec=spec, proof_samples=4)
    assert all(check["mismatches"] == 0 for check in bundle.record["checks"])
    agree(bundle, inputs, ["cpu"])


def agree(bundle: Any, inputs: Any, backends: list[Any]) -> None:
    expected = run(bundle, inputs, backend="reference", record="all")
    for backend in backends:
        found = run(bundle, inputs, backend=backend, record="all")
        for population, spikes in expected.spikes.items():
            assert spikes.any()
            assert np.array_equal(spikes, found.spikes[population])
            states = expected.states[population]
            assert all(np.array_equal(states[key], found.states[population][key]) for key in "uv")
        assert np.array_equal(expected.raw, found.raw)


@pytest.mark.lava
@pytest.mark.skipif(bool(FOUND.missing), reason=f"no Lava interpreter: {FOUND.missing}")
@pytest.mark.parametrize("name", ["norse LIF", "Synaptic", "IFNode, subtract"])
def test_lava_agrees(name: str) -> None:
    module = CASES[name][0]()
    inputs, spec = given(module)
    agree(convert(module, inputs, calibration=inputs, input_spec=spec, proof_samples=2), inputs, ["lava"])


def test_what_was_remembered_before_does_not_matter() -> None:
    module = Kept(IFNode)
    first = witness(module, IMAGE)
    with torch.no_grad():
        module.double()(torch.as_tensor(IMAGE["image"]))
    assert torch.is_tensor(module.lif.v)
    compare("again", "data", first, witness(module, IMAGE), exact=True)
    agrees(module)
    assert torch.is_tensor(module.lif.v), "the user's own module was changed"


def test_a_state_that_training_left_behind_is_named() -> None:
    module = Kept(IFNode)
    module(torch.as_tensor(IMAGE["image"]).float())  # no reset: v knows where it came from
    with pytest.raises(TraceError, match="reset its neurons after training"):
        trace(module, IMAGE)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Pair(lambda: Leaky(reset_mechanism="none")), "a neuron that never resets"),
        (lambda: Pair(lambda: Leaky(reset_delay=False)), "subtracts at once, and once more"),
        (lambda: Pair(lambda: Leaky(inhibition=True)), "keeps the others of its layer silent"),
        (lambda: Pair(lambda: Leaky(state_quant=True)), "a state that is rounded in training"),
        (lambda: Pair(lambda: Leaky(graded_spikes_factor=2.0)), "spikes that are multiplied"),
        (lambda: Triple(lambda: Synaptic(reset_mechanism="zero")), "reset zero with reset_delay=True"),
        (lambda: Kept(lambda: IFNode(v_reset=-0.1)), "a reset to something else than 0"),
        (lambda: Kept(lambda: IFNode(surrogate_function=SimpleNamespace(spiking=False))), "sends its surrogate"),
    ],
)
def test_switches_without_a_node_are_refused(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(TraceError, match=message):
        trace(make(), IMAGE)


def test_states_in_another_order_are_refused() -> None:
    class Crossed(Triple):
        def forward(self, image: Tensor) -> Tensor:
            i, a = self.lif.reset_mem()  # type: ignore[operator]
            for _ in range(T):
                z, a, i = self.lif(self.conv(image), i, a)
            return self.scores(z)

    with pytest.raises(TraceError, match="starts from a state that is not its own"):
        trace(Crossed(Synaptic), IMAGE)


def of_snntorch(name: str, **switches: Any) -> Callable[[], nn.Module]:
    library = pytest.importorskip("snntorch", reason="snnTorch is not installed")
    return lambda: getattr(library, name)(**switches)


@pytest.mark.parametrize(
    ("net", "name", "switches"),
    [
        (Pair, "Leaky", {"beta": 0.8, "threshold": 0.7}),
        (Pair, "Leaky", {"beta": 0.8, "threshold": 0.7, "reset_mechanism": "zero"}),
        (Kept, "Leaky", {"beta": 0.8, "threshold": 0.7, "init_hidden": True}),
        (Triple, "Synaptic", {"alpha": 0.6, "beta": 0.8, "threshold": 1.2}),
        (Triple, "Synaptic", {"alpha": 0.6, "beta": 0.8, "reset_mechanism": "zero", "reset_delay": False}),
        (Kept, "Synaptic", {"alpha": 0.6, "beta": 0.8, "threshold": 1.2, "init_hidden": True}),
    ],
)
def test_snntorch_itself(net: type[Net], name: str, switches: dict[str, Any]) -> None:
    agrees(net(of_snntorch(name, **switches)))


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("reset", [None, 0.0])
@pytest.mark.parametrize("name", ["IFNode", "LIFNode", "ParametricLIFNode"])
def test_spikingjelly_itself(name: str, reset: float | None) -> None:
    pytest.importorskip("spikingjelly", reason="SpikingJelly is not installed")
    library = importlib.import_module("spikingjelly.activation_based.neuron")
    agrees(Kept(lambda: getattr(library, name)(v_reset=reset, v_threshold=0.9)))
    if importlib.util.find_spec("spikingjelly.clock_driven"):  # gone in 2.0
        old = importlib.import_module("spikingjelly.clock_driven.neuron")
        threshold = 0.9 if name == "IFNode" else 0.5
        agrees(multi_step(lambda: getattr(old, f"MultiStep{name}")(v_reset=reset, v_threshold=threshold)))
    if name != "IFNode":
        agrees(multi_step(lambda: getattr(library, name)(v_reset=reset, decay_input=False, step_mode="m")))


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # norse on new torch
@pytest.mark.parametrize("name", ["LIFCell", "LIF"])
def test_norse_itself(name: str) -> None:
    norse = pytest.importorskip("norse.torch", reason="norse is not installed (requirements/norse.txt)")
    number = torch.tensor
    p = norse.LIFParameters(tau_syn_inv=number(300.0), tau_mem_inv=number(400.0), v_th=number(0.5))

    class Whole(Sequences):
        def spikes(self, found: Any) -> Any:
            return found[0]

    made = Pair(lambda: norse.LIFCell(p=p)) if name == "LIFCell" else multi_step(lambda: norse.LIF(p=p))
    made.__class__ = Whole if name == "LIF" else Pair
    node = agrees(made)["lif2"]
    assert isinstance(node, ir.LIF)
    assert node.current_decay == pytest.approx(0.7)
