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
from avsnn.convert.trace_calls import TIME_ENDS, axes_of, flatten
from avsnn.convert.trace_rules import CALL_RULES, MODULE_RULES
from avsnn.convert.trace_site import Rule, Site
from avsnn.errors import AvsnnError, InputError, TraceError
from avsnn.train.layers import DirectCoding, TimeBatched
from avsnn.train.models import counting
from avsnn.train.neurons import LIF

NEURONS = (LIF,)
TIMELESS = (nn.Conv2d, nn.modules.batchnorm._BatchNorm, nn.MaxPool2d, nn.AvgPool2d)  # layers that know no time
FUNCTIONS = (counting.unit, counting.ranked)  # functions of ours that are one operation


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
    except (fx.proxy.TraceError, TypeError) as error:
        unknown = [f"{name} ({type(m).__name__})" for name, m in module.named_modules() if _without_rule(m, rules)]
        listed = f"; without a rule: {', '.join(unknown)}" if unknown else ""
        raise TraceError(
            f"forward cannot be followed ({error}){listed}",
            where=type(module).__name__,
            remedy="decide nothing by the values of tensors, and loop over nothing but constants",
        ) from error


def _without_rule(module: nn.Module, rules: Mapping[type[nn.Module], Rule]) -> bool:
    return not any(module.children()) and not isinstance(module, (*rules, nn.Sequential, nn.ModuleList))


def witness(
    module: nn.Module, inputs: Mapping[str, Array], *, dtype: str = "float64", graph: Graph | None = None
) -> Activity:
    """Run the module itself and keep every spike: what the traced graph must equal.

    Args:
        module: as given to `trace`.
        inputs: as given to `avsnn.convert.ir.interpreter.interpret`.
        dtype: of weights and activity.
        graph: the traced graph, to leave out populations that no answer depends on.

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
    if graph is not None:
        spikes = {name: spikes[name] for name in spikes if name in graph.by_name}
    return Activity(outputs={"output": output.numpy()}, spikes=spikes, states={})


class _Tracer(fx.Tracer):
    """Stops at modules that have a rule."""

    def __init__(self, rules: Mapping[type[nn.Module], Rule]) -> None:
        super().__init__(autowrap_functions=FUNCTIONS)
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
        self.extra_traceback = False  # torch would add lines of its own to our messages
        self.live = _live(program)
        self.sizes: set[fx.Node] = set()

    def run_node(self, n: fx.Node) -> Any:
        """Run one operation and add its node."""
        try:
            result = super().run_node(n)
        except AvsnnError:
            raise
        except Exception as error:  # whatever torch says to a forward that does not fit its inputs
            where, reason = str(n.target) if n.op == "call_module" else n.name, (str(error).splitlines() or [""])[0]
            raise TraceError(f"forward fails on the example inputs ({reason})", where=where) from error
        if n.op == "placeholder":
            self._input(n, result)
        elif n.op == "output":
            self._output(n.args[0])
        elif isinstance(result, torch.Size | int):
            self.sizes.add(n)
        elif n in self.live:
            self._operation(n, result)
        return result

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
        sources = [s for s in _sources(n) if s not in self.sizes]
        lead = max((self.lead[s] for s in sources), default=2)
        child = self.owner.get_submodule(str(n.target)) if n.op == "call_module" else None
        base = str(n.target) if child is not None else n.name
        emits = lead
        try:
            if isinstance(child, TimeBatched):
                rule, child = _module_rule(_unwrapped(child, base, lead), base, self.rules), child.module
            else:
                rule = self._rule(n, child, base)
                if isinstance(child, TIMELESS) and lead == 2:
                    remedy = "wrap it in TimeBatched"
                    raise TraceError(f"a {type(child).__name__} knows no time", where=base, remedy=remedy)
            emits = self._emits(n, child, rule, sources, lead)
            name = self._place(rule, child, self._site(n, child, base, sources, result, lead, emits))
        except TraceError as error:
            name = self._stand_in(error, n, base, sources, result, emits)
        self.names[n], self.lead[n] = name, emits
        self.lines.setdefault(name, n.meta.get("line", ""))

    def _emits(self, n: fx.Node, child: nn.Module | None, rule: Rule, sources: list[fx.Node], lead: int) -> int:
        """Leading axes of the result that are not features."""
        if isinstance(child, DirectCoding):
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
        if tuple(result.shape[:emits]) != (self.timesteps, samples)[2 - emits :]:
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
            timesteps=self.timesteps,
            arguments=tuple(a for a in n.args if not isinstance(a, fx.Node) and not _holds_nodes(a)),
            keywords=dict(n.kwargs),
        )

    def _place(self, rule: Rule, child: nn.Module | None, site: Site) -> str:
        made = rule(child, site)
        if isinstance(made, str):
            return made
        made = made if isinstance(made, tuple) else (made,)
        self.built.extend(made)
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


def _live(program: fx.Graph) -> set[fx.Node]:
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
