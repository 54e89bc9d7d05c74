from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from avsnn.convert.equivalence import compare
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.interpreter import interpret
from avsnn.convert.trace_rules import MODULE_RULES
from avsnn.convert.trace_site import Site
from avsnn.convert.tracer import trace, witness
from avsnn.errors import InputError, TraceError
from avsnn.train.layers import DirectCoding, Normalise, TimeBatched
from avsnn.train.neurons import LIF
from tests.strategies import Small, images, randomise

IMAGE = {"image": np.zeros((2, 2, 6, 6))}


class Wrapped(nn.Module):
    """Modules by name, for a ``forward`` of a few lines."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    def __init__(self, **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        randomise(self, 0)


def kinds(graph: Graph) -> dict[str, str]:
    return {node.name: node.kind for node in graph}


def equal(module: nn.Module, graph: Graph, inputs: dict[str, Any]) -> None:
    expected = witness(module, inputs)
    compare("traced", "test", expected, interpret(graph, inputs, force=expected.spikes), exact=False)


def test_every_rule_in_one_network() -> None:
    module = Small(seed=1)
    graph = trace(module, IMAGE)
    assert (graph.stage, graph.timesteps) == ("traced", 4)
    assert kinds(graph) == {
        "image": "Input", "norm": "Normalise", "conv1": "Conv2d", "bn1": "BatchNorm", "lif1": "LIF",
        "conv2": "Conv2d", "bn2": "BatchNorm", "lif2": "LIF", "conv3": "Conv2d", "bn3": "BatchNorm",
        "skip": "Conv2d", "add": "Add", "lif3": "LIF", "pool": "MaxPool2d", "pool#2": "MaxPool2d", "cat": "Concat",
        "mean": "MeanSpace", "mean_1": "MeanTime", "head": "Linear",
    }  # fmt: skip
    assert graph["conv1"].origin == "conv1 (Conv2d)"
    assert graph["cat"].inputs == ("pool", "pool#2")
    assert graph["cat"].shape == (8, 3, 3)
    equal(module, graph, images(0))


def test_geometry_groups_and_missing_biases_are_kept() -> None:
    graph = trace(Small(), IMAGE)
    conv1, conv2, norm = graph["conv1"], graph["conv2"], graph["norm"]
    assert isinstance(conv1, ir.Conv2d)
    assert isinstance(conv2, ir.Conv2d)
    assert isinstance(norm, ir.Normalise)
    assert not conv1.bias.any()
    assert (conv2.groups, conv2.padding, conv2.stride, conv2.dilation) == (2, (1, 1), (1, 1), (1, 1))
    np.testing.assert_allclose(norm.mean, [0.4, 0.5], rtol=1e-7)


def test_the_module_is_left_as_it_was() -> None:
    module = Small().train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    trace(module, IMAGE)
    assert module.training
    assert next(module.parameters()).dtype == torch.float32
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])


class Calls(Wrapped):
    """Sums, flattening and means in all their spellings; one neuron and one layer called twice."""

    def forward(self, image: Tensor) -> Tensor:
        x = self.code(torch.add(image, self.plain(image)))
        a = self.lif(self.conv(x))
        b = self.lif(self.conv(a.add(a)))
        flat = torch.cat((torch.flatten(a, 2), self.flat(b), b.flatten(start_dim=2)), -1)
        answer: Tensor = torch.mean(self.head(flat), dim=0)
        return answer


def calls() -> Calls:
    return Calls(
        code=DirectCoding(3), plain=nn.Identity(), conv=TimeBatched(nn.Conv2d(2, 2, 3, padding=1)), lif=LIF(),
        flat=TimeBatched(nn.Flatten()), head=nn.Linear(216, 3),
    )  # fmt: skip


def test_functions_and_methods_and_repeated_calls() -> None:
    module = calls()
    graph = trace(module, IMAGE)
    assert {"conv", "conv#2", "lif", "lif#2"} <= set(kinds(graph))
    assert graph["lif#2"].inputs == ("conv#2",)
    assert set(witness(module, images(0)).spikes) == {"lif", "lif#2"}
    equal(module, graph, images(0))


def test_an_activity_added_to_itself_lost_one_of_the_two() -> None:
    graph = trace(calls(), IMAGE)
    assert graph["add"].inputs == ("image", "image")
    assert graph["add_1"].inputs == ("lif", "lif")


class Twice(Wrapped):
    """The same activity at both ends of a concatenation."""

    def forward(self, image: Tensor) -> Tensor:
        a = self.lif(self.conv(self.code(image)))
        b = self.lif2(self.conv(a))
        answer: Tensor = self.head(torch.cat([a, b, a], dim=2).flatten(2).mean(0))
        return answer


def test_an_activity_concatenated_twice_was_taken_once() -> None:
    module = Twice(
        code=DirectCoding(3), conv=TimeBatched(nn.Conv2d(2, 2, 3, padding=1)), lif=LIF(), lif2=LIF(),
        head=nn.Linear(216, 3),
    )  # fmt: skip
    graph = trace(module, IMAGE)
    assert graph["cat"].inputs == ("lif", "lif2", "lif")
    equal(module, graph, images(0))


class Strange(Wrapped):
    """Four things without a rule, and one that nothing is wrong with."""

    def forward(self, image: Tensor) -> Tensor:
        x = self.code(self.lead(image))
        x = torch.relu(self.act(self.conv(x)))
        answer: Tensor = (torch.exp(x) + 1).mean((3, 4)).mean(0)
        return answer


def test_everything_without_a_rule_is_listed_at_once() -> None:
    module = Strange(
        code=DirectCoding(2), lead=nn.GELU(), act=nn.Sigmoid(), conv=TimeBatched(nn.Conv2d(2, 2, 3, padding=1))
    )
    with pytest.raises(TraceError) as caught:
        trace(module, IMAGE)
    message = str(caught.value)
    assert message.startswith("Strange: 5 operations have no rule:")
    for part in ("lead: no rule for this module, found GELU", "act: no rule", "Sigmoid", "relu", "exp", "only the sum"):
        assert part in message
    assert "conv" not in message


OPTIONS: dict[str, tuple[nn.Module, str]] = {
    "reflect": (nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), "padding must be zeros"),
    "same": (nn.Conv2d(2, 2, 3, padding="same"), "padding must be zeros"),
    "no statistics": (nn.BatchNorm2d(2, track_running_stats=False), "batch statistics are needed"),
    "ceil": (nn.MaxPool2d(2, ceil_mode=True), "max pooling with ceil_mode"),
    "dilated pool": (nn.MaxPool2d(2, dilation=2), "max pooling with"),
    "linear over one axis": (nn.Linear(6, 6), "reads features whose channels and positions are mixed"),
    "sequential": (nn.Sequential(nn.Conv2d(2, 2, 1)), "holds a Sequential.*wrap each layer"),
}


class One(Wrapped):
    def forward(self, image: Tensor) -> Tensor:
        answer: Tensor = self.one(self.code(image)).mean((3, 4)).mean(0)
        return answer


@pytest.mark.parametrize("option", OPTIONS)
def test_options_without_a_meaning_are_refused(option: str) -> None:
    module, message = OPTIONS[option]
    with pytest.raises(TraceError, match=rf"one.*{message}"):
        trace(One(code=DirectCoding(2), one=TimeBatched(module)), IMAGE)


class Keepdim(Wrapped):
    def forward(self, image: Tensor) -> Tensor:
        answer: Tensor = self.code(image).mean((3, 4), keepdim=True).mean(0)
        return answer


class Mixed(Wrapped):
    def forward(self, image: Tensor) -> Tensor:
        answer: Tensor = self.code(image).mean((0, 3, 4))
        return answer


class Sideways(Wrapped):
    def forward(self, image: Tensor) -> Tensor:
        x = self.code(image)
        answer: Tensor = torch.cat([x, x], dim=3).mean((3, 4)).mean(0)
        return answer


@pytest.mark.parametrize(
    ("module", "message"),
    [(Keepdim, "without keepdim"), (Mixed, "mean over axes"), (Sideways, "another axis than the channels")],
)
def test_calls_with_other_axes_are_refused(module: type[Wrapped], message: str) -> None:
    with pytest.raises(TraceError, match=message):
        trace(module(code=DirectCoding(2)), IMAGE)


class Branches(Wrapped):
    def forward(self, image: Tensor) -> Tensor:
        return self.code(image) if image.sum() > 0 else image


def test_control_flow_on_data_raised_an_error_of_torch() -> None:
    with pytest.raises(TraceError, match=r"^Branches: forward cannot be followed"):
        trace(Branches(code=DirectCoding(2)), IMAGE)


class Pair(Wrapped):
    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = self.code(image).mean((3, 4)).mean(0)
        return x, x


class Timeless(Wrapped):
    def forward(self, image: Tensor) -> Tensor:
        answer: Tensor = self.code(image).mean((3, 4))
        return answer


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Pair, r"^Pair: forward must return one tensor, found \(mean_1, mean_1\)$"),
        (Timeless, r"^Timeless: forward returns an answer at every step, found mean; .*\.mean\(0\)$"),
    ],
)
def test_answers_that_are_not_one_vector_a_sample_are_refused_without_lines_of_torch(
    module: type[Wrapped], message: str
) -> None:
    with pytest.raises(TraceError, match=message):
        trace(module(code=DirectCoding(2)), IMAGE)


class Sequence(Wrapped):
    def forward(self, events: Tensor, image: Tensor) -> Tensor:
        a = self.lif(self.conv(events) + self.conv2(self.code(image)))
        answer: Tensor = self.head(a.flatten(2)).mean(0)
        return answer


def sequence(T: int = 3) -> Sequence:
    return Sequence(
        code=DirectCoding(T), conv=TimeBatched(nn.Conv2d(1, 2, 3, padding=1)),
        conv2=TimeBatched(nn.Conv2d(2, 2, 3, padding=1)), lif=LIF(), head=nn.Linear(72, 3),
    )  # fmt: skip


EVENTS = {"events": np.zeros((3, 2, 1, 6, 6))} | IMAGE
SPEC: dict[str, dict[str, Any]] = {
    "events": {"coding": "sequence", "low": 0, "high": 1, "step": 1},
    "image": {"high": 2.0, "step": 0.5},
}


def test_two_inputs_of_either_coding() -> None:
    module = sequence()
    graph = trace(module, EVENTS, input_spec=SPEC)
    events, image = graph["events"], graph["image"]
    assert isinstance(events, ir.Input)
    assert isinstance(image, ir.Input)
    assert (events.coding, events.shape, events.step) == ("sequence", (1, 6, 6), 1.0)
    assert (image.coding, image.shape, image.high, image.step) == ("direct", (2, 6, 6), 2.0, 0.5)
    rng = np.random.default_rng(0)
    inputs = {"events": rng.integers(0, 2, size=(3, 4, 1, 6, 6)), "image": rng.integers(0, 5, size=(4, 2, 6, 6)) / 2}
    equal(module, graph, inputs)


def test_numbers_of_steps_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(TraceError, match=r"windows of different length meet, found .*conv.*3.*conv2.*4"):
        trace(sequence(T=4), EVENTS, input_spec=SPEC)
    with pytest.raises(InputError, match="several numbers of steps"):
        trace(Small(), IMAGE, timesteps=5)
    assert trace(Small(), IMAGE, timesteps=4).timesteps == 4


class Plain(Wrapped):
    def forward(self, image: Tensor) -> Tensor:
        answer: Tensor = self.norm(image).mean((2, 3))
        return answer


def test_a_module_that_does_not_say_how_long_it_runs_is_asked() -> None:
    module = Plain(norm=Normalise([0.0, 0.0], [1.0, 1.0]))
    with pytest.raises(InputError, match=r"^Plain: nobody says how many steps there are; pass timesteps=T"):
        trace(module, IMAGE)
    graph = trace(module, IMAGE, timesteps=2)
    assert (graph.timesteps, kinds(graph)["mean"]) == (2, "MeanSpace")


def test_inputs_are_named_by_forward() -> None:
    with pytest.raises(InputError, match=r"named by forward's parameters, found \['picture'\], limit \['image'\]"):
        trace(Small(), {"picture": IMAGE["image"]})


class Double(nn.Module):
    """A layer of the user's own."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.ldexp(x, torch.ones(()))


def test_a_rule_of_ones_own_teaches_the_tracer_a_layer() -> None:
    def double(module: Any, site: Site) -> ir.Normalise:
        assert isinstance(module, Double)
        return ir.Normalise(**site.common, mean=np.zeros(2), std=np.full(2, 0.5))

    class Net(Wrapped):
        def forward(self, image: Tensor) -> Tensor:
            answer: Tensor = self.twice(self.code(image)).mean((3, 4)).mean(0)
            return answer

    module = Net(code=DirectCoding(2), twice=Double())
    graph = trace(module, IMAGE, rules=MODULE_RULES | {Double: double})
    x = images(0)
    np.testing.assert_allclose(interpret(graph, x).outputs["mean_1"], witness(module, x).outputs["output"], rtol=1e-12)
    with pytest.raises(TraceError, match=r"no rule for this call, found .*ldexp"):
        trace(module, IMAGE)


def test_neurons_keep_all_their_switches() -> None:
    module = One(code=DirectCoding(2), one=LIF(tau=4.0, v_threshold=0.5, reset="subtract", strict=True))
    node = trace(module, IMAGE)["one"]
    assert isinstance(node, ir.LIF)
    assert (node.decay, node.gain, node.threshold, node.reset, node.strict) == (0.75, 0.25, 0.5, "subtract", True)


@pytest.mark.parametrize("reset", ["hard", "subtract", "subtract_delayed"])
def test_every_reset_means_the_same_as_in_training(reset: Any) -> None:
    module = One(code=DirectCoding(16), one=LIF(beta=0.95, reset=reset, strict=True))
    graph = trace(module, IMAGE)
    x = images(0)
    spikes = interpret(graph, x).spikes["one"]
    np.testing.assert_array_equal(spikes, witness(module, x).spikes["one"])
    assert 0 < spikes.mean() < 1


def test_a_neuron_that_takes_steps_for_samples_was_accepted() -> None:
    with pytest.raises(TraceError, match=r"^One: .*\n.*one: TimeBatched holds a LIF"):
        trace(One(code=DirectCoding(2), one=TimeBatched(LIF())), IMAGE)


def test_the_witness_in_float32_may_differ_and_says_so() -> None:
    module = Small(seed=2)
    single, double = (witness(module, images(0), dtype=kind) for kind in ("float32", "float64"))
    assert single.outputs["output"].dtype == np.float32
    assert double.outputs["output"].dtype == np.float64
    assert set(single.spikes) == {"lif1", "lif2", "lif3"}


class Ends(Wrapped):
    """Two answers side by side, sums over time, numbers, a norm of vectors and a shape that is read."""

    def forward(self, image: Tensor) -> Tensor:
        spikes = self.lif(self.conv(self.code(image)))
        flat = spikes.reshape(spikes.shape[0], spikes.size(1), -1)
        vector = self.norm(torch.sum(flat, dim=0) * 0.5)
        left = self.head(2.0 * vector)
        right = self.other(spikes.mean((3, 4)).sum(0))
        answer: Tensor = torch.cat((left, torch.add(right, right, alpha=3)), dim=1)
        return answer


def ends() -> Ends:
    return Ends(
        code=DirectCoding(3), conv=TimeBatched(nn.Conv2d(2, 2, 3, padding=1)), lif=LIF(), norm=nn.BatchNorm1d(72),
        head=nn.Linear(72, 3), other=nn.Linear(2, 4),
    )  # fmt: skip


def test_two_answers_and_what_leads_to_them() -> None:
    module = ends()
    graph = trace(module, IMAGE)
    assert kinds(graph) == {
        "image": "Input", "conv": "Conv2d", "lif": "LIF", "reshape": "Flatten", "sum_1.mean": "MeanTime",
        "sum_1": "Scale", "mul": "Scale", "norm": "BatchNorm", "mul_1": "Scale", "head": "Linear",
        "mean": "MeanSpace", "sum_2.mean": "MeanTime", "sum_2": "Scale", "other": "Linear",
        "add.scaled": "Scale", "add": "Add", "cat": "Concat",
    }  # fmt: skip
    assert (graph.outputs, graph["cat"].shape) == (("cat",), (7,))
    assert [n.gain for n in graph.of(ir.Scale)] == [3.0, 0.5, 2.0, 3.0, 3.0]
    equal(module, graph, images(0))


class Unused(Wrapped):
    """Neurons and a call without a rule that no answer depends on."""

    def forward(self, image: Tensor) -> Tensor:
        spikes = self.lif(self.conv(self.code(image)))
        torch.exp(self.idle(spikes))
        answer: Tensor = spikes.mean((3, 4)).mean(0)
        return answer


def test_what_no_answer_depends_on_stood_in_the_way() -> None:
    module = Unused(code=DirectCoding(3), conv=TimeBatched(nn.Conv2d(2, 2, 3, padding=1)), lif=LIF(), idle=LIF())
    graph = trace(module, IMAGE)
    assert set(kinds(graph)) == {"image", "conv", "lif", "mean", "mean_1"}
    assert set(witness(module, images(0)).spikes) == {"lif", "idle"}
    assert set(witness(module, images(0), graph=graph).spikes) == {"lif"}


def over_batch(x: Tensor) -> Tensor:
    return x.mean((3, 4)).mean(1)


def joined_with_time(x: Tensor) -> Tensor:
    return x.flatten(0, 2).mean((1, 2))


def by_size(x: Tensor) -> Tensor:
    return (x * x.shape[1]).mean((3, 4)).mean(0)


def of_two(x: Tensor) -> Tensor:
    return (x * x).mean((3, 4)).mean(0)


def of_two_shapes(x: Tensor) -> Tensor:
    y = x.mean((3, 4))
    return (y.mean(0) + torch.cat((y, y), dim=2).mean(0)[:, :2]).sum(1)


def summed_over_space(x: Tensor) -> Tensor:
    return x.sum((3, 4)).mean(0)


def reordered(x: Tensor) -> Tensor:
    return x.reshape(*[3, 2], 4, 18).mean((2, 3)).mean(0)


def in_parts(x: Tensor) -> Tensor:
    return torch.cat(x.chunk(2, dim=2), dim=2).mean((3, 4)).mean(0)


CALLS: dict[str, tuple[Any, str]] = {
    "mean over samples": (over_batch, "mean_1: (mixes features with time or samples|mean over axes)"),
    "time among features": (joined_with_time, "flatten: mixes features with time or samples"),
    "size of a tensor": (by_size, "mul: computes with the size of a tensor"),
    "product": (of_two, "mul: multiplies what are not spikes, found image"),
    "parts": (in_parts, "cat: reads several tensors at once"),
    "sum over classes": (of_two_shapes, r"sum_1: sum over axes \[1\]"),
    "sum over space": (summed_over_space, r"sum_1: sum over axes \[3, 4\]"),
    "mean over mixed axes": (reordered, "mean: a mean over a part of the positions"),
}


class Calling(Wrapped):
    def __init__(self, call: Any) -> None:
        super().__init__(code=DirectCoding(3))
        self.call = call

    def forward(self, image: Tensor) -> Tensor:
        answer: Tensor = self.call(self.code(image))
        return answer


@pytest.mark.parametrize("case", CALLS)
def test_calls_that_no_node_means_are_refused(case: str) -> None:
    call, message = CALLS[case]
    with pytest.raises(TraceError, match=message):
        trace(Calling(call), IMAGE)


class Straight(Wrapped):
    def forward(self, image: Tensor) -> Tensor:
        answer: Tensor = self.second(self.first(image)).mean((3, 4)).mean(0)
        return answer


TIMES: dict[str, tuple[nn.Module, nn.Module, str]] = {
    "neurons without time": (LIF(), DirectCoding(3), r"first \(LIF\): needs time"),
    "time twice": (DirectCoding(3), DirectCoding(3), "second: repeats what already has time"),
    "steps as samples": (nn.Identity(), TimeBatched(nn.Identity()), "second: TimeBatched takes samples for steps"),
    "layer without time": (DirectCoding(3), nn.MaxPool2d(2), "second: forward fails on the example inputs"),
    "wrong sizes": (DirectCoding(3), TimeBatched(nn.Conv2d(7, 2, 1)), "second: forward fails on the example inputs"),
}


@pytest.mark.parametrize("case", TIMES)
def test_layers_that_take_one_axis_for_another_are_refused(case: str) -> None:
    first, second, message = TIMES[case]
    with pytest.raises(TraceError, match=message):
        trace(Straight(first=first, second=second), IMAGE, timesteps=3)


class Weighted(Wrapped):
    """A weight by the name of a method that has a rule."""

    def __init__(self) -> None:
        super().__init__(code=DirectCoding(3))
        self.mean = nn.Parameter(torch.ones(()))

    def forward(self, image: Tensor) -> Tensor:
        answer: Tensor = (self.code(image) * self.mean).mean((3, 4)).mean(0)
        return answer


def test_a_weight_without_a_layer_is_named() -> None:
    with pytest.raises(TraceError, match=r"^Weighted: .*\n  mean: a weight used outside of its layer; use a layer"):
        trace(Weighted(), IMAGE)


class Vectors(Wrapped):
    def forward(self, image: Tensor) -> Tensor:
        answer: Tensor = self.norm(self.code(image).mean((3, 4))).mean(0)
        return answer


def test_a_norm_of_vectors_that_took_steps_for_samples_was_followed() -> None:
    with pytest.raises(TraceError, match=r"norm: a BatchNorm1d knows no time; wrap it in TimeBatched"):
        trace(Vectors(code=DirectCoding(3), norm=nn.BatchNorm1d(2)), IMAGE)


def test_a_rule_may_make_several_nodes() -> None:
    def thrice(module: Any, site: Site) -> tuple[ir.Scale, ir.Scale]:
        first = ir.Scale(**site.before("half"), gain=1.5)
        return first, ir.Scale(**{**site.common, "inputs": (first.name,)}, gain=2.0)

    class Net(Wrapped):
        def forward(self, image: Tensor) -> Tensor:
            answer: Tensor = self.one(self.one(self.code(image))).mean((3, 4)).mean(0)
            return answer

    graph = trace(Net(code=DirectCoding(2), one=Double()), IMAGE, rules=MODULE_RULES | {Double: thrice})
    assert list(kinds(graph)) == ["image", "one.half", "one", "one#2.half", "one#2", "mean", "mean_1"]
    x = images(0)
    wanted = 9 * x["image"].mean(axis=(2, 3))
    np.testing.assert_allclose(interpret(graph, x).outputs["mean_1"], wanted, rtol=1e-12)
