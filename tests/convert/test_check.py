"""Everything that is wrong with a network is listed, with its place; what is only risky is told apart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from avsnn.convert.check import Checked, Entry, Traced, check, of_graph
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array, Node
from avsnn.convert.passes.quantise import quantise
from avsnn.convert.pipeline import convert
from avsnn.convert.shares import Shares
from avsnn.convert.tracer import survey
from avsnn.convert.unruled import unruled
from avsnn.hw_profiles.profile import load_profile
from avsnn.train.layers import DirectCoding, TimeBatched
from avsnn.train.neurons import LIF
from tests.strategies import Small, images, inputs_for, randomise, spiking_graph

LOIHI2 = load_profile("loihi2")


class Bad(nn.Module):
    """Three layers without a rule, one neuron at risk, 16 and 8 neurons."""

    def __init__(self) -> None:
        super().__init__()
        self.code = DirectCoding(12)
        self.conv = TimeBatched(nn.Conv2d(2, 4, 3, stride=3))
        self.norm = TimeBatched(nn.GroupNorm(2, 4))
        self.lif = LIF()
        self.conv2 = TimeBatched(nn.Conv2d(4, 2, 1))
        self.act = nn.GELU()
        self.lif2 = LIF(beta=0.95)
        self.head = nn.Linear(2, 3)

    def forward(self, image: Tensor) -> Tensor:
        x = self.lif(self.norm(self.conv(self.code(image))))
        x = self.lif2(torch.sigmoid(self.act(self.conv2(x))))
        answer: Tensor = self.head(x.mean((3, 4)).mean(0))
        return answer


def traced(module: nn.Module) -> Traced:
    found = survey(module, images(0))
    return Traced(
        name=type(module).__name__,
        graph=found.graph,
        nodes=found.nodes,
        problems=found.problems,
        refusal=found.refusal,
        lines=found.lines,
        timesteps=found.timesteps,
    )


def entry(done: Checked, where: str) -> Entry:
    (one,) = (e for e in done.entries if e.where == where)
    return one


def test_every_operation_without_a_rule_is_listed_with_its_line() -> None:
    done = check(traced(Bad()), LOIHI2, images(0))
    assert not done.convertible
    assert [e.where for e in done.entries] == [
        "norm (GroupNorm)", "act (GELU)", "sigmoid", "lif (LIF)", "lif2 (LIF)",
    ]  # fmt: skip
    assert [e.severity for e in done.entries] == ["unsupported"] * 3 + ["risky"] * 2
    norm, act = done.entries[:2]
    assert "test_check.py:" in norm.line
    assert norm.line.endswith("x = self.lif(self.norm(self.conv(self.code(image))))")
    assert norm.reason == "no rule for this module, found GroupNorm"
    assert "BatchNorm2d" in norm.suggestion
    assert entry(done, "sigmoid").reason.endswith("found torch.sigmoid"), "no address in memory"
    assert norm.neurons == pytest.approx(16 / 24)
    assert act.neurons == pytest.approx(8 / 24)
    assert act.operations > 0
    assert done.reached == ""
    assert done.record()["convertible"] is False


def test_a_network_that_converts_goes_through_every_stage() -> None:
    done = check(traced(Small()), LOIHI2, images(0))
    assert done.convertible
    assert done.reached == "target"
    assert (done.nodes, done.populations) == (len(traced(Small()).nodes), 3)
    assert all(e.severity == "risky" for e in done.entries)


def pooled(norm: nn.Module) -> nn.Module:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.code = DirectCoding(2)
            self.conv = TimeBatched(nn.Conv2d(2, 2, 1))
            self.lif = LIF()
            self.left = TimeBatched(norm)
            self.pool = TimeBatched(nn.MaxPool2d(2))
            self.lif2 = LIF()
            self.head = nn.Linear(2, 3)

        def forward(self, image: Tensor) -> Tensor:
            x = self.lif2(self.pool(self.left(self.lif(self.conv(self.code(image))))))
            answer: Tensor = self.head(x.mean((3, 4)).mean(0))
            return answer

    module = Normed()
    randomise(module, 0)
    assert isinstance(module.conv.module, nn.Conv2d)
    nn.init.constant_(module.conv.module.weight, 0.8)
    return module


def test_a_maximum_behind_a_norm_was_unsupported_though_it_converts() -> None:
    module = pooled(nn.BatchNorm2d(2))
    assert check(traced(module), LOIHI2, images(0)).convertible
    assert convert(module, images(0)).graph("scheduled")


def test_a_norm_that_no_fold_can_move_is_named_once_and_what_is_behind_it_is_tried() -> None:
    graph = changed(spiking_graph(1, depth=4, T=3), "p3", threshold=np.array([[[1.0]], [[-1.0]]]))
    norm = ir.DSLN(
        name="norm", inputs=("p0",), shape=(2, 5, 5), var=np.ones((5, 5)), gamma=np.ones(2), beta=np.zeros(2)
    )
    nodes = [replace(n, inputs=("norm",)) if n.name == "c1" else n for n in graph]
    nodes.insert(3, norm)
    done = check(of_graph(replace(graph, nodes=tuple(nodes), stage="traced"), "net"), LOIHI2, inputs_for(graph, 0))
    assert {(e.stage, e.where) for e in done.entries if e.severity == "unsupported"} == {
        ("fold", "norm"), ("quantise", "p3"),
    }  # fmt: skip
    assert done.reached == "trace"


def test_every_population_without_integers_is_listed_and_the_schedule_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three populations with a problem of their own, and a held current where spikes arrive later."""
    graph = spiking_graph(1, depth=6, T=3)
    graph = changed(graph, "p1", threshold=np.array([[[1.0]], [[-1.0]]]))
    graph = changed(graph, "c2", bias=np.array([1e12, 0.0]))
    total = ir.Add(name="sum", inputs=("p2", "p0"), shape=(2, 5, 5))
    window: dict[str, Any] = {"kernel": (3, 3), "stride": (1, 1), "padding": (1, 1)}
    pool = ir.MaxPool2d(name="pool", inputs=("sum",), shape=(2, 5, 5), **window)
    nodes = [replace(n, inputs=("pool",)) if n.name == "c3" else n for n in graph]
    nodes[[n.name for n in nodes].index("c3") : 0] = [total, pool]
    graph = replace(graph, nodes=tuple(nodes), stage="traced")

    def held_too(*arguments: Any, **options: Any) -> Any:
        found, scales = quantise(*arguments, **options)
        return changed(found, "p4", inputs=(*found["p4"].inputs, "c0")), scales

    monkeypatch.setattr("avsnn.convert.check.quantise", held_too)
    lines = {"p1": "net.py:1: x = self.p1(x)", "c2": "net.py:2: x = self.c2(x)"}
    done = check(replace(of_graph(graph, "net"), lines=lines), LOIHI2, inputs_for(graph, 0))
    found = [e for e in done.entries if e.severity == "unsupported"]
    assert [(e.stage, e.where) for e in found] == [
        ("quantise", "p1"), ("quantise", "p2"), ("quantise", "pool"), ("schedule", "c0"),
    ]  # fmt: skip
    assert [e.reason.partition(",")[0] for e in found] == [
        "thresholds must be positive",
        "weights and bias do not fit one scale",
        "max pooling of sums or inputs",
        "a held current cannot wait for the spikes of later layers",
    ]
    assert found[0].line == lines["p1"]
    assert all(e.neurons > 0 and e.operations > 0 for e in found)
    assert not done.record()["convertible"]
    assert done.reached == "fold"


def changed(graph: Graph, name: str, **fields: Any) -> Graph:
    return replace(graph, nodes=tuple(replace(n, **fields) if n.name == name else n for n in graph))


def risky(graph: Graph, calibration: dict[str, Array] | None = None, *, representative: bool = True) -> dict[str, str]:
    traced = of_graph(replace(graph, stage="traced"), "net")
    done = check(traced, LOIHI2, calibration or inputs_for(graph, 0), representative=representative)
    assert done.convertible, done.entries
    return {e.where: e.reason for e in done.entries}


def test_what_is_risky_is_said_where_it_is_and_nowhere_else() -> None:
    graph = spiking_graph(1, T=4)
    assert risky(graph) == {}
    found = risky(changed(graph, "p1", decay=0.95, gain=1.0))
    assert "0.95 is stored as 0.949951" in found["p1"]
    assert "v is rounded" in risky(changed(graph, "p1", decay=0.75))["p1"]
    longer = spiking_graph(1, T=8)
    assert all("exactly (>=) is told apart for 7 steps, T is 8" in reason for reason in risky(longer).values())
    assert set(risky(longer)) >= {"p0", "p1", "p2"}
    assert not any("told apart" in reason for reason in risky(spiking_graph(1, T=8, strict=True)).values())
    assert not any("told apart" in reason for reason in risky(spiking_graph(1, T=7)).values())


def test_silence_counts_on_real_data_only() -> None:
    graph = changed(spiking_graph(1), "p2", threshold=4.5)
    assert "never fires on 3 calibration samples" in risky(graph)["p2"]
    assert not any("never fires" in reason for reason in risky(graph, representative=False).values())


def test_what_can_never_fire_is_said_and_what_becomes_of_it() -> None:
    graph = spiking_graph(1, depth=3)
    layer = graph["c2"]
    assert isinstance(layer, ir.Conv2d)
    weak = changed(graph, "c2", weight=0.01 * layer.weight, bias=np.zeros(2))
    found = risky(weak, representative=False)
    assert found["p2"].startswith("can never fire: its membrane reaches ")
    assert found["p2"].endswith("it is kept, as what reads it has no form without it")  # the answer reads nothing else
    assert risky(graph, representative=False) == {}


def test_weights_that_become_nothing_are_counted() -> None:
    graph = spiking_graph(1)
    node = graph["c1"]
    assert isinstance(node, ir.Conv2d)
    one, small = node.weight.copy(), node.weight.copy()
    one[1] *= 1e-4
    assert "1 of 2 output channels have weights below" in risky(changed(graph, "c1", weight=one))["c1"]
    small[:, :, 1:] *= 1e-4
    assert "67 % of its weights" in risky(changed(graph, "c1", weight=small))["c1"]


def test_windows_and_pools_of_currents() -> None:
    graph = spiking_graph(1)
    shape = (2, 5, 5)
    window = ir.Attention(name="att", inputs=("p0", "p0", "p1"), shape=shape, heads=1, scale=0.1, over="time")
    pool = ir.MaxPool2d(name="pool", inputs=("c2",), shape=shape, kernel=(3, 3), stride=(1, 1), padding=(1, 1))
    nodes: tuple[Node, ...] = (*graph.nodes, window, pool)
    done = check(Traced(name="net", graph=None, nodes=nodes, timesteps=4), LOIHI2, {})
    assert {e.where: e.severity for e in done.entries} == {"att": "risky", "pool": "unsupported"}
    assert "waits 4 steps" in entry(done, "att").reason


def test_what_a_later_stage_refuses_names_the_layer_of_the_user() -> None:
    def refuse(graph: Graph, _profile: object) -> Any:
        from avsnn.errors import CapabilityError

        raise CapabilityError("the target cannot run these", where="p1", found=len(graph.nodes))
        yield

    graph = spiking_graph(1)
    traced = replace(of_graph(replace(graph, stage="traced"), "net"), lines={"p1": "net.py:1: here"})
    done = check(traced, LOIHI2, inputs_for(graph, 0), capabilities=refuse)
    one = entry(done, "p1")
    assert (one.severity, one.stage, one.line) == ("unsupported", "target", "net.py:1: here")
    assert done.reached == "schedule"
    assert one.neurons == pytest.approx(1 / 3)


@pytest.mark.parametrize("name", ["c1", "p1"])
def test_shares_are_of_the_segment(name: str) -> None:
    graph = spiking_graph(1, depth=3)
    neurons, operations = Shares(graph.nodes).of(name)
    assert neurons == pytest.approx(1 / 3)
    macs = {"c1": 900, "p1": 1800}[name]  # into p1; into p1 and out of it
    assert operations == pytest.approx(macs / (3 * 900 + 150))
    assert Shares(graph.nodes).of("nobody") == (0.0, 0.0)


def test_a_forward_that_decides_by_values_still_gets_its_layers_listed() -> None:
    class Deciding(Bad):
        def forward(self, image: Tensor) -> Tensor:
            x = self.act(self.conv(self.code(image)))
            return self.lif(x) if x.sum() > 1e9 else self.norm(x)

    found = unruled(Deciding(), images(0))
    assert [(p.where, p.found) for p in found] == [("act", "GELU"), ("norm.module", "GroupNorm")]
    assert all("test_check.py:" in p.line for p in found)


def test_a_bad_forward_is_one_more_problem() -> None:
    class Failing(Bad):
        def forward(self, image: Tensor) -> Tensor:
            raise ValueError("no such luck")

    (one,) = unruled(Failing(), images(0))
    assert "no such luck" in one.what
