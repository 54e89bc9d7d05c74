"""One run of a module, operation by operation: each becomes a node, or a problem with a stand-in for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn

from avsnn.convert.advice import called
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.node import Node
from avsnn.convert.problems import Problem
from avsnn.convert.trace_calls import TIME_ENDS, axes_of, flatten
from avsnn.convert.trace_rules import CALL_RULES
from avsnn.convert.trace_site import Never, Rule, Site
from avsnn.errors import AvsnnError, TraceError
from avsnn.train.layers import DirectCoding, TimeBatched
from avsnn.train.neurons import LIF

NEURONS = (LIF,)
WINDOWED = (ir.LIF, ir.MeanTime, ir.Attention, ir.ProductOfMeans)  # nodes that know how long their window is
TIMELESS = (nn.Conv2d, nn.modules.batchnorm._BatchNorm, nn.MaxPool2d, nn.AvgPool2d)  # layers that know no time


class ForwardError(Exception):
    """The module itself failed; the last problem of the walker says where and why."""


class Walker(fx.Interpreter):
    """Runs the module once, building a node per operation from the shapes it sees."""

    def __init__(
        self,
        program: fx.Graph,
        module: nn.Module,
        spec: Mapping[str, Mapping[str, Any]],
        timesteps: int,
        rules: Mapping[type[nn.Module], Rule],
    ) -> None:
        super().__init__(module, graph=program)  # a GraphModule would hide children named "code" or "graph"
        self.owner, self.spec, self.timesteps, self.rules = module, spec, timesteps, rules
        self.built: list[Node] = []
        self.outputs: tuple[str, ...] = ()
        self.problems: list[Problem] = []
        self.lines: dict[str, str] = {}
        self.refusal: TraceError | None = None
        self.names: dict[fx.Node, str] = {}
        self.lead: dict[fx.Node, int] = {}
        self.steps: dict[fx.Node, int] = {}  # of what has time
        self.calls: dict[str, int] = {}
        self.extra_traceback = False  # torch would add lines of its own to our messages
        self.live = live(program)
        self.sizes: set[fx.Node] = set()

    def run_node(self, n: fx.Node) -> Any:
        """Run one operation and add its node."""
        self._check_windows(n)
        try:
            result = super().run_node(n)
        except AvsnnError:
            raise
        except Exception as error:  # whatever torch says to a forward that does not fit its inputs
            where, reason = str(n.target) if n.op == "call_module" else n.name, (str(error).splitlines() or [""])[0]
            failure = TraceError(f"forward fails on the example inputs ({reason})", where=where)
            self.problems.append(Problem.of(failure, line=n.meta.get("line", "")))
            raise ForwardError from error
        if n.op == "placeholder":
            self._input(n, result)
        elif n.op == "output":
            self._output(n.args[0])
        elif isinstance(result, torch.Size | int):
            self.sizes.add(n)
        elif n in self.live:
            self._operation(n, result)
        return result

    def _check_windows(self, n: fx.Node) -> None:
        """Stop where activities of different windows meet: torch says less about it, or stretches a single step."""
        steps = {self.names[s]: self.steps[s] for s in _sources(n) if s in self.steps}
        if len(set(steps.values())) > 1:
            remedy = "end each window before, with a mean over time"
            where = str(n.target) if n.op == "call_module" else n.name
            error = TraceError("windows of different length meet", where=where, found=steps, remedy=remedy)
            self.problems.append(Problem.of(error, line=n.meta.get("line", "")))
            raise ForwardError

    def _output(self, source: object) -> None:
        """Remember the answer, or why there is none: what else is wrong is said first."""
        owner = type(self.owner).__name__
        if not isinstance(source, fx.Node):
            self.refusal = TraceError("forward must return one tensor", where=owner, found=source)
        elif self.lead.get(source) == 2:
            what = "forward returns an answer at every step"
            remedy = "end it with a mean over time, .mean(0)"
            self.refusal = TraceError(what, where=owner, found=self.names[source], remedy=remedy)
        else:
            self.outputs = (self.names[source],)

    def _input(self, n: fx.Node, result: torch.Tensor) -> None:
        spec = self.spec[str(n.target)]
        coding = str(spec.get("coding", "direct"))
        self.lead[n] = 1 if coding == "direct" else 2
        if coding != "direct":
            self.steps[n] = len(result)
        made = ir.Input(
            name=str(n.target),
            shape=tuple(result.shape[self.lead[n] :]),
            origin="forward",
            coding=coding,
            low=float(spec.get("low", 0.0)),
            high=float(spec.get("high", 1.0)),
            step=float(spec.get("step", 1 / 255)),
            steps=0 if coding == "direct" else self._shorter(len(result)),
        )
        self.built.append(made)
        self.names[n] = str(n.target)

    def _operation(self, n: fx.Node, result: Any) -> None:
        sources = [s for s in _sources(n) if s not in self.sizes]
        lead = max((self.lead[s] for s in sources), default=2)
        child = self.owner.get_submodule(str(n.target)) if n.op == "call_module" else None
        base = str(n.target) if child is not None else n.name
        emits = lead
        try:
            if not all(isinstance(self.env[s], torch.Tensor) for s in sources):
                raise TraceError("reads several tensors at once", where=base, remedy="read each by itself")
            if isinstance(child, TimeBatched):
                rule, child = _module_rule(_unwrapped(child, base, lead), base, self.rules), child.module
            else:
                rule = self._rule(n, child, base)
                if isinstance(child, TIMELESS) and lead == 2 and getattr(child, "step_mode", "") != "m":
                    remedy = "wrap it in TimeBatched"
                    raise TraceError(f"a {type(child).__name__} knows no time", where=base, remedy=remedy)
            emits = self._emits(n, child, rule, sources, lead)
            name = self._place(rule, child, self._site(n, child, base, sources, result, lead, emits))
        except TraceError as error:
            name = self._stand_in(error, n, base, sources, result, emits)
        self.names[n], self.lead[n] = name, emits
        if emits == 2:
            self.steps[n] = self._window(child, sources)
        self.lines.setdefault(name, n.meta.get("line", ""))

    def _window(self, child: nn.Module | None, sources: list[fx.Node]) -> int:
        """Steps of the window that an operation works in."""
        if isinstance(child, DirectCoding):
            return child.timesteps
        return next((self.steps[s] for s in sources if s in self.steps), self.timesteps)

    def _shorter(self, steps: int) -> int:
        """``steps`` as nodes have it: 0 stands for T."""
        return 0 if steps == self.timesteps else steps

    def _emits(self, n: fx.Node, child: nn.Module | None, rule: Rule, sources: list[fx.Node], lead: int) -> int:
        """Leading axes of the result that are not features."""
        if isinstance(child, DirectCoding):
            if lead == 2:
                remedy = "leave the second DirectCoding out"
                raise TraceError("repeats what already has time", where=str(n.target), remedy=remedy)
            return 2
        rank = self.env[sources[0]].ndim if sources else 0
        return 1 if lead == 2 and rule in TIME_ENDS and axes_of(n.args[1:], n.kwargs, rank) == {0} else lead

    def _stand_in(
        self, error: TraceError, n: fx.Node, base: str, sources: list[fx.Node], result: Any, lead: int
    ) -> str:
        """Note the problem, and a plain node in its place, so that what follows still has something to read."""
        name = f"{base}?{len(self.problems) + 1}"
        inputs = tuple(self.names[s] for s in sources)
        shape = tuple(result.shape[lead:]) if isinstance(result, torch.Tensor) else ()
        child = self.owner.get_submodule(base) if n.op == "call_module" else None
        child = child.module if isinstance(child, TimeBatched) else child
        origin = base if child is None else f"{base} ({type(child).__name__})"
        self.problems.append(Problem.of(error, line=n.meta.get("line", ""), node=name))
        self.built.append(Node(name=name, inputs=inputs, shape=shape, origin=origin))
        return name

    def _rule(self, n: fx.Node, child: nn.Module | None, base: str) -> Rule:
        if child is not None:
            return _module_rule(child, base, self.rules)
        if n.op == "get_attr":
            what, remedy = "a weight used outside of its layer", "use a layer that has a rule"
            raise TraceError(what, where=str(n.target), remedy=remedy)
        if n.target in CALL_RULES:
            rule = CALL_RULES[n.target]
            if isinstance(rule, Never):  # before anybody looks at what it returns
                raise TraceError(rule.what, where=base, remedy=rule.remedy)
            return rule
        raise TraceError("no rule for this call", where=base, found=called(n.target))

    def _site(
        self,
        n: fx.Node,
        child: nn.Module | None,
        base: str,
        sources: list[fx.Node],
        result: torch.Tensor,
        lead: int,
        emits: int,
    ) -> Site:
        samples = next(iter(self.env[s].shape[self.lead[s] - 1] for s in sources), 0)
        steps = self._window(child, sources)
        if tuple(result.shape[:emits]) != (steps, samples)[2 - emits :]:
            raise TraceError("mixes features with time or samples", where=base, found=tuple(result.shape))
        if child is None and len(sources) < len(_sources(n)) and CALL_RULES[n.target] is not flatten:
            raise TraceError("computes with the size of a tensor", where=base, remedy="write the number out")
        return Site(
            name=self._unique(base),
            inputs=tuple(self.names[s] for s in sources),
            reads=tuple(tuple(self.env[s].shape[self.lead[s] :]) for s in sources),
            shape=tuple(result.shape[emits:]),
            origin=base if child is None else f"{base} ({type(child).__name__})",
            lead=lead,
            timesteps=steps,
            arguments=tuple(a for a in n.args if not isinstance(a, fx.Node) and not _holds_nodes(a)),
            keywords={**n.kwargs, "reversed": bool(n.args) and isinstance(n.args[0], int | float)},
        )

    def _place(self, rule: Rule, child: nn.Module | None, site: Site) -> str:
        made = rule(child, site)
        if isinstance(made, str):
            return made
        made = made if isinstance(made, tuple) else (made,)
        shorter = self._shorter(site.timesteps)
        self.built.extend(replace(node, steps=shorter) if isinstance(node, WINDOWED) else node for node in made)
        return made[-1].name

    def _unique(self, base: str) -> str:
        self.calls[base] = self.calls.get(base, 0) + 1
        return base if self.calls[base] == 1 else f"{base}#{self.calls[base]}"


def _unwrapped(wrapper: TimeBatched, base: str, lead: int) -> nn.Module:
    """The wrapped module, which is a node where the wrapper stands."""
    inner = wrapper.module
    if isinstance(inner, nn.Sequential):
        raise TraceError("TimeBatched holds a Sequential", where=base, remedy="wrap each layer by itself")
    if isinstance(inner, (*NEURONS, DirectCoding)):
        what = f"TimeBatched holds a {type(inner).__name__}, which needs to see time"
        raise TraceError(what, where=base, remedy="call it directly")
    if lead != 2:
        remedy = "call the layer directly, or put a DirectCoding before it"
        raise TraceError("TimeBatched takes samples for steps", where=base, remedy=remedy)
    return inner


def live(program: fx.Graph) -> set[fx.Node]:
    """The operations that the answer depends on."""
    found: set[fx.Node] = set()
    for node in reversed(program.nodes):
        if node.op == "output" or node in found:
            found.update(node.all_input_nodes)
    return found


def _sources(n: fx.Node) -> list[fx.Node]:
    """What an operation reads, in order; with repetitions, unlike `all_input_nodes`."""
    found: list[fx.Node] = []
    fx.node.map_arg((n.args, n.kwargs), found.append)
    return found


def _module_rule(child: nn.Module, base: str, rules: Mapping[type[nn.Module], Rule]) -> Rule:
    for kind, rule in rules.items():
        if isinstance(child, kind):
            return rule
    raise TraceError("no rule for this module", where=base, found=type(child).__name__)


def _holds_nodes(value: Any) -> bool:
    return isinstance(value, tuple | list) and any(isinstance(item, fx.Node) for item in value)
