"""A PyTorch module to a float graph (stage ``traced``), and the module itself run as its witness.

``torch.fx`` walks through ``forward``; every module with a rule is one node. Tensors are (B, *features) until
`DirectCoding` gives them time, (T, B, *features) after it, which the tracer follows by running the module once.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.activity import Activity
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array, Node
from avsnn.convert.problems import Problem, calling_line
from avsnn.convert.trace_rules import CALL_RULES, MODULE_RULES, Rule, Site
from avsnn.errors import InputError, TraceError
from avsnn.train.layers import DirectCoding, TimeBatched
from avsnn.train.neurons import LIF

NEURONS = (LIF,)


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What following a module has found, whether or not all of it has a rule.

    Attributes:
        graph: stage ``traced``, if nothing stands in its way.
        problems: each operation without a rule.
        refusal: why there is no answer to read, if that is so.
        nodes: all nodes in topological order; a plain `Node` stands in for each problem.
        lines: node name to the line of ``forward`` that calls it.
    """

    graph: Graph | None
    problems: tuple[Problem, ...]
    refusal: TraceError | None
    nodes: tuple[Node, ...]
    lines: Mapping[str, str]


def trace(
    module: nn.Module,
    example_inputs: Mapping[str, Any],
    *,
    input_spec: Mapping[str, Mapping[str, Any]] | None = None,
    timesteps: int | None = None,
    rules: Mapping[type[nn.Module], Rule] = MODULE_RULES,
) -> Graph:
    """Return the float graph of ``module``.

    Args:
        module: built from layers that ``rules`` knows; traced in evaluation mode, left as it was.
        example_inputs: name of each parameter of ``forward`` to an array; (B, *shape), or (T, B, *shape) where the
            spec says ``"coding": "sequence"``. Two samples are enough; values do not matter, shapes do.
        input_spec: name to {"coding", "low", "high", "step"}; see `avsnn.convert.ir.nodes.Input`.
        timesteps: T; needed only if the module does not say (no `DirectCoding` inside and no sequence input).
        rules: module type to rule.

    Raises:
        TraceError: something has no rule; the message lists all of it.
        InputError: T is unknown or contradicts itself.
    """
    found = survey(module, example_inputs, input_spec=input_spec, timesteps=timesteps, rules=rules)
    if found.problems:
        listed = "".join(f"\n  {problem}" for problem in found.problems)
        raise TraceError(f"{len(found.problems)} operations have no rule:{listed}", where=type(module).__name__)
    if found.refusal:
        raise found.refusal
    assert found.graph is not None
    return found.graph


def survey(
    module: nn.Module,
    example_inputs: Mapping[str, Any],
    *,
    input_spec: Mapping[str, Mapping[str, Any]] | None = None,
    timesteps: int | None = None,
    rules: Mapping[type[nn.Module], Rule] = MODULE_RULES,
) -> Survey:
    """Follow ``module`` as `trace` does, and return all that was found instead of raising over it.

    Raises:
        TraceError: ``forward`` cannot be followed at all.
        InputError: T is unknown or contradicts itself.
    """
    double = copy.deepcopy(module).double().eval()
    tensors = {name: torch.as_tensor(np.asarray(x)).double() for name, x in example_inputs.items()}
    program = _follow(double, rules)
    spec = {name: dict((input_spec or {}).get(name, {})) for name in tensors}
    T = _timesteps(double, tensors, spec, timesteps)
    walker = _Walker(program, double, spec, T, rules)
    placeholders = [node.target for node in program.nodes if node.op == "placeholder"]
    missing = [str(name) for name in placeholders if name not in tensors]
    if missing or len(placeholders) != len(tensors):
        raise InputError("example inputs must be named by forward's parameters", found=[*tensors], limit=placeholders)
    with torch.no_grad():
        walker.run(*(tensors[str(name)] for name in placeholders))
    graph = None
    if not walker.problems and not walker.refusal:
        graph = Graph(nodes=tuple(walker.built), outputs=walker.outputs, timesteps=T, stage="traced")
    return Survey(
        graph=graph,
        problems=tuple(walker.problems),
        refusal=walker.refusal,
        nodes=tuple(walker.built),
        lines=walker.lines,
    )


def _follow(module: nn.Module, rules: Mapping[type[nn.Module], Rule]) -> fx.Graph:
    try:
        return _Tracer(rules).trace(module)
    except fx.proxy.TraceError as error:
        raise TraceError(
            f"forward cannot be followed ({error})",
            where=type(module).__name__,
            remedy="decide nothing by the values of tensors, and loop over nothing but constants",
        ) from error


def witness(module: nn.Module, inputs: Mapping[str, Array], *, dtype: str = "float64") -> Activity:
    """Run the module itself and keep every spike: what the traced graph must equal.

    Returns:
        `Activity` with ``outputs`` {"output": (B, K)} and the spikes of each neuron module, no states.
    """
    kind: torch.dtype = getattr(torch, dtype)
    double = copy.deepcopy(module).to(kind).eval()
    spikes: dict[str, Array] = {}
    calls: dict[str, int] = {}

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
            calls[name] = calls.get(name, 0) + 1
            spikes[name if calls[name] == 1 else f"{name}#{calls[name]}"] = output.numpy() > 0

        return hook

    for name, child in double.named_modules():
        if isinstance(child, NEURONS):
            child.register_forward_hook(keep(name))
    with torch.no_grad():
        output = double(**{name: torch.as_tensor(np.asarray(x)).to(kind) for name, x in inputs.items()})
    return Activity(outputs={"output": output.numpy()}, spikes=spikes, states={})


class _Tracer(fx.Tracer):
    """Stops at modules that have a rule."""

    def __init__(self, rules: Mapping[type[nn.Module], Rule]) -> None:
        super().__init__()
        self.known = (*rules, TimeBatched)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module becomes a node rather than being walked through.

        Those of ours without modules inside are single operations, so that one without a rule is named.
        """
        ours = type(m).__module__.startswith("avsnn.train.") and not any(m.children())
        return ours or isinstance(m, self.known) or super().is_leaf_module(m, module_qualified_name)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """Remember where the user wrote it."""
        node = super().create_node(*args, **kwargs)
        node.meta["line"] = calling_line()
        return node


class _Walker(fx.Interpreter):
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
        self.calls: dict[str, int] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run one operation and add its node."""
        result = super().run_node(n)
        if n.op == "placeholder":
            self._input(n, result)
        elif n.op == "output":
            self._output(n.args[0])
        else:
            self._operation(n, result)
        return result

    def _output(self, source: object) -> None:
        """Remember the answer, or why there is none: raised here, torch would add its own lines to the message."""
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
        made = ir.Input(
            name=str(n.target),
            shape=tuple(result.shape[self.lead[n] :]),
            origin="forward",
            coding=coding,
            low=float(spec.get("low", 0.0)),
            high=float(spec.get("high", 1.0)),
            step=float(spec.get("step", 1 / 255)),
        )
        self.built.append(made)
        self.names[n] = str(n.target)

    def _operation(self, n: fx.Node, result: Any) -> None:
        sources: list[fx.Node] = []  # with repetitions, unlike n.all_input_nodes
        fx.node.map_arg((n.args, n.kwargs), sources.append)
        lead = max((self.lead[s] for s in sources), default=2)
        child = self.owner.get_submodule(str(n.target)) if n.op == "call_module" else None
        if isinstance(child, DirectCoding):
            lead = 2
        base = str(n.target) if child is not None else n.name
        try:
            if isinstance(child, TimeBatched):
                name = self._time_batched(child, base, sources, result)
            else:
                rule = self._rule(n, child, base)
                if rule in (CALL_RULES["mean"],) and self._axes(n, result) == {0} and lead == 2:
                    lead = 1  # a mean over time leaves (B, features)
                name = self._place(rule, child, self._site(n, base, sources, result, lead))
        except TraceError as error:
            name = self._stand_in(error, n, base, sources, result, lead)
        self.names[n], self.lead[n] = name, lead
        self.lines.setdefault(name, n.meta.get("line", ""))

    def _stand_in(
        self, error: TraceError, n: fx.Node, base: str, sources: list[fx.Node], result: Any, lead: int
    ) -> str:
        """Note the problem, and a plain node in its place, so that what follows still has something to read."""
        name = f"{base}?{len(self.problems) + 1}"
        inputs = tuple(self.names[s] for s in sources)
        shape = tuple(result.shape[lead:]) if isinstance(result, torch.Tensor) else ()
        origin = f"{base} ({type(self.owner.get_submodule(base)).__name__})" if n.op == "call_module" else base
        self.problems.append(Problem.of(error, line=n.meta.get("line", ""), node=name))
        self.built.append(Node(name=name, inputs=inputs, shape=shape, origin=origin))
        return name

    def _rule(self, n: fx.Node, child: nn.Module | None, base: str) -> Rule:
        if child is not None:
            return _module_rule(child, base, self.rules)
        if n.target in CALL_RULES:
            return CALL_RULES[n.target]
        raise TraceError("no rule for this call", where=base, found=str(n.target))

    @staticmethod
    def _axes(n: fx.Node, result: torch.Tensor) -> set[int]:
        dims = n.args[1] if len(n.args) > 1 else n.kwargs.get("dim")
        dims = (dims,) if isinstance(dims, int) else dims
        return {int(d) % (result.ndim + len(dims)) for d in dims} if isinstance(dims, tuple | list) else set()

    def _site(self, n: fx.Node, base: str, sources: list[fx.Node], result: torch.Tensor, lead: int) -> Site:
        constants = tuple(a for a in n.args if not isinstance(a, fx.Node) and not _holds_nodes(a))
        return Site(
            name=self._unique(base),
            inputs=tuple(self.names[s] for s in sources),
            shape=tuple(result.shape[lead:]),
            origin=f"{base} ({type(self.owner.get_submodule(base)).__name__})" if n.op == "call_module" else base,
            lead=lead,
            arguments=constants,
            keywords=dict(n.kwargs),
        )

    def _time_batched(self, wrapper: TimeBatched, base: str, sources: list[fx.Node], result: torch.Tensor) -> str:
        """The wrapped module, or each one of a wrapped sequence, as if it stood where the wrapper stands."""
        inner = wrapper.module
        if isinstance(inner, nn.Sequential):
            raise TraceError("TimeBatched holds a Sequential", where=base, remedy="wrap each layer by itself")
        if isinstance(inner, (*NEURONS, DirectCoding)):
            what = f"TimeBatched holds a {type(inner).__name__}, which needs to see time"
            raise TraceError(what, where=base, remedy="call it directly")
        site = Site(
            name=self._unique(base),
            inputs=tuple(self.names[s] for s in sources),
            shape=tuple(result.shape[2:]),
            origin=f"{base} ({type(inner).__name__})",
            keywords={},
        )
        return self._place(_module_rule(inner, base, self.rules), inner, site)

    def _place(self, rule: Rule, child: nn.Module | None, site: Site) -> str:
        made = rule(child, site)
        if isinstance(made, str):
            return made
        self.built.append(made)
        return made.name

    def _unique(self, base: str) -> str:
        self.calls[base] = self.calls.get(base, 0) + 1
        return base if self.calls[base] == 1 else f"{base}#{self.calls[base]}"


def _module_rule(child: nn.Module, base: str, rules: Mapping[type[nn.Module], Rule]) -> Rule:
    for kind, rule in rules.items():
        if isinstance(child, kind):
            return rule
    raise TraceError("no rule for this module", where=base, found=type(child).__name__)


def _holds_nodes(value: Any) -> bool:
    return isinstance(value, tuple | list) and any(isinstance(item, fx.Node) for item in value)


def _timesteps(
    module: nn.Module, tensors: Mapping[str, torch.Tensor], spec: Mapping[str, Mapping[str, Any]], given: int | None
) -> int:
    found = {f"{name} (DirectCoding)": m.timesteps for name, m in module.named_modules() if isinstance(m, DirectCoding)}
    found |= {n: int(x.shape[0]) for n, x in tensors.items() if spec[n].get("coding") == "sequence"}
    found |= {"timesteps": given} if given is not None else {}
    if len(set(found.values())) != 1:
        what = "nobody says how many steps there are" if not found else "several numbers of steps"
        raise InputError(what, where=type(module).__name__, found=found or None, remedy="pass timesteps=T")
    return next(iter(found.values()))
