"""A PyTorch module to a float graph (stage ``traced``), and the module itself run as its witness.

``torch.fx`` walks through ``forward``; every module with a rule is one node. Tensors are (B, *features) until
`DirectCoding` gives them time, (T, B, *features) after it, which the tracer follows by running the module once.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.activity import Activity
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array, Node
from avsnn.convert.ir.windows import resting_with_sources
from avsnn.convert.problems import Problem, calling_line
from avsnn.convert.trace_cells import fires, forget, is_cell, is_foreign, way
from avsnn.convert.trace_loops import Sequence, drop_zeros, find_loop
from avsnn.convert.trace_rules import MODULE_RULES
from avsnn.convert.trace_site import Never, Rule, size
from avsnn.convert.trace_views import canonical
from avsnn.convert.trace_walk import NEURONS, ForwardError, live
from avsnn.convert.trace_walk_loops import LoopWalker
from avsnn.errors import InputError, TraceError
from avsnn.train.layers import DirectCoding, TimeBatched
from avsnn.train.models import counting

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
        timesteps: T.
    """

    graph: Graph | None
    problems: tuple[Problem, ...]
    refusal: TraceError | None
    nodes: tuple[Node, ...]
    lines: Mapping[str, str]
    timesteps: int


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
        timesteps: T, of the longest window; needed only if the module does not say (no `DirectCoding` inside and no
            sequence input).
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
    double = _copied(module, torch.float64)
    tensors = {name: torch.as_tensor(np.asarray(x)).double() for name, x in example_inputs.items()}
    spec = {name: dict((input_spec or {}).get(name, {})) for name in tensors}
    sequences = {name: x.shape for name, x in tensors.items() if spec[name].get("coding") == "sequence"}
    program = _follow(double, rules, sequences)
    constants = partial(_constant, double)
    drop_zeros(program, constants)
    loop = find_loop(program, partial(_way, double), sequences, constants)
    T = _timesteps(double, program, tensors, spec, timesteps, loop.steps)
    walker = LoopWalker(program, double, spec, T, rules)
    walker.loop, walker.live = loop, loop.with_first(walker.live)
    placeholders = [node.target for node in program.nodes if node.op == "placeholder"]
    missing = [str(name) for name in placeholders if name not in tensors]
    if missing or len(placeholders) != len(tensors):
        raise InputError("example inputs must be named by forward's parameters", found=[*tensors], limit=placeholders)
    with torch.no_grad(), contextlib.suppress(ForwardError):
        walker.run(*(tensors[str(name)] for name in placeholders))
    longest = max(walker.steps.values(), default=T)
    if longest != T and not walker.problems:
        raise _contradiction(double, {"timesteps": T, "longest window": longest})
    graph, built = None, tuple(walker.built)
    if not walker.problems and not walker.refusal:
        built, outputs, mixed = canonical(built, walker.outputs, walker.lines)
        walker.problems += mixed
        if not mixed:
            graph = resting_with_sources(Graph(nodes=built, outputs=outputs, timesteps=T, stage="traced"))
    return Survey(
        graph=graph,
        problems=tuple(walker.problems),
        refusal=walker.refusal,
        nodes=built,
        lines=walker.lines,
        timesteps=T,
    )


def _copied(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy to run: in evaluation mode, no neuron remembering anything."""
    try:
        copied = copy.deepcopy(module)
    except RuntimeError as error:  # a state that training left behind
        remedy = "reset its neurons after training (functional.reset_net, utils.reset)"
        raise TraceError(f"cannot be copied ({error})", where=type(module).__name__, remedy=remedy) from error
    forget(copied)
    for child in copied.modules():
        if is_foreign(child):
            child.register_forward_hook(_as_given)
    return copied.to(dtype).eval()


def _as_given(_module: nn.Module, inputs: Any, output: Any) -> Any:
    """The spikes of a neuron in the precision of its input: snnTorch's are float32 whatever it is given."""
    if isinstance(output, tuple):
        return output[0].to(inputs[0].dtype), *output[1:]
    return output.to(inputs[0].dtype)


def _constant(module: nn.Module, name: str) -> object:
    """A tensor of a module or of one of its children, by its dotted name."""
    place, _, attribute = name.rpartition(".")
    return getattr(module.get_submodule(place), attribute, None)


def _way(module: nn.Module, n: fx.Node) -> str:
    return way(module.get_submodule(str(n.target))) if n.op == "call_module" else ""


def _follow(module: nn.Module, rules: Mapping[type[nn.Module], Rule], sequences: Mapping[str, torch.Size]) -> fx.Graph:
    try:
        return _Tracer(rules, sequences).trace(module)
    except (fx.proxy.TraceError, TypeError) as error:
        unknown = [f"{name} ({type(m).__name__})" for name, m in module.named_modules() if _without_rule(m, rules)]
        listed = f"; nor is there a rule for {', '.join(unknown)}" if unknown else ""
        reason = str(error).split(". ")[0]
        raise TraceError(
            f"forward cannot be followed ({reason}){listed}",
            where=type(module).__name__,
            remedy="decide nothing by the values of tensors, and loop over nothing but constants",
        ) from error


def _without_rule(module: nn.Module, rules: Mapping[type[nn.Module], Rule]) -> bool:
    """Whether a layer that holds no others has no rule but to be refused."""
    if any(module.children()) or isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict):
        return False
    return all(isinstance(rule, Never) for kind, rule in rules.items() if isinstance(module, kind))


def witness(
    module: nn.Module, inputs: Mapping[str, Array], *, dtype: str = "float64", graph: Graph | None = None
) -> Activity:
    """Run the module itself and keep every spike: what the traced graph must equal.

    Args:
        module: as given to `trace`.
        inputs: as given to `avsnn.convert.ir.interpreter.interpret`.
        dtype: of weights and activity.
        graph: the traced graph, to leave out populations that no answer depends on, and to give lines their height 1.

    Returns:
        `Activity` with ``outputs`` {"output": (B, K)} and the spikes of each neuron module, no states.
    """
    kind: torch.dtype = getattr(torch, dtype)
    double = _copied(module, kind)
    emitted: dict[str, list[Array]] = {}

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            fired = output[0] if isinstance(output, tuple) else output
            emitted.setdefault(name, []).append(fired.numpy() > 0)

        return hook

    cells = {name for name, child in double.named_modules() if is_cell(child) and fires(child)}
    for name, child in double.named_modules():
        if isinstance(child, NEURONS) or fires(child):
            child.register_forward_hook(keep(name))
    with torch.no_grad():
        output = double(**{name: torch.as_tensor(np.asarray(x)).to(kind) for name, x in inputs.items()})
    longest = graph.timesteps if graph is not None else len(emitted[next(iter(cells))]) if cells else 1
    spikes: dict[str, Array] = {}
    for name, calls in emitted.items():
        population = graph.by_name.get(name) if graph is not None else None
        steps = getattr(population, "steps", 0) or longest
        several = len(calls) // steps if name in cells else len(calls)
        for k in range(several):
            label = name if k == 0 else f"{name}#{k + 1}"
            spikes[label] = np.stack(calls[k::several]) if name in cells else calls[k]
    if graph is not None:
        known = {name: fired for name, fired in spikes.items() if name in graph.by_name}
        spikes = {name: _in_order(fired, graph[name], graph.timesteps) for name, fired in known.items()}
    return Activity(outputs={"output": output.numpy()}, spikes=spikes, states={})


def _in_order(fired: Array, population: Node, timesteps: int) -> Array:
    """Spikes of a module in the order of the population that stands for it, and silence behind a shorter window."""
    flat = np.zeros((timesteps, fired.shape[1], size(population.shape)), dtype=bool)
    layout = population.layout if isinstance(population, ir.LIF) else None
    flat[: len(fired), :, slice(None) if layout is None else layout.ravel()] = fired.reshape(*fired.shape[:2], -1)
    return flat.reshape(*flat.shape[:2], *population.shape)


class _Tracer(fx.Tracer):
    """Stops at modules that have a rule."""

    def __init__(self, rules: Mapping[type[nn.Module], Rule], sequences: Mapping[str, torch.Size]) -> None:
        super().__init__(autowrap_functions=FUNCTIONS)
        self.known = (*rules, TimeBatched)
        self.sequences = sequences

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Sequences know how long they are, so that ``forward`` can loop over them."""
        if node.op == "placeholder" and node.target in self.sequences:
            return Sequence(node, self, self.sequences[str(node.target)])
        return super().proxy(node)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module becomes a node rather than being walked through.

        Those of ours without modules inside are single operations, so that one without a rule is named.
        """
        ours = type(m).__module__.startswith("avsnn.train.") and not any(m.children())
        return ours or isinstance(m, self.known) or is_foreign(m) or super().is_leaf_module(m, module_qualified_name)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """Remember where the user wrote it."""
        node = super().create_node(*args, **kwargs)
        node.meta["line"] = calling_line()
        return node


def _timesteps(
    module: nn.Module,
    program: fx.Graph,
    tensors: Mapping[str, torch.Tensor],
    spec: Mapping[str, Mapping[str, Any]],
    given: int | None,
    looped: int,
) -> int:
    """T: the longest of the windows that ``forward`` speaks of, or the one given if it speaks of none."""
    coding = {name: m.timesteps for name, m in module.named_modules() if isinstance(m, DirectCoding)}
    called = {str(n.target) for n in live(program) if n.op == "call_module"}
    found = {f"{name} (DirectCoding)": n for name, n in coding.items() if name in called or not called & set(coding)}
    found |= {n: int(x.shape[0]) for n, x in tensors.items() if spec[n].get("coding") == "sequence"}
    found |= {"loop in forward": looped} if looped else {}
    longest = max(*found.values(), given or 0, 0)
    if not longest:
        what, remedy = "nobody says how many steps there are", "pass timesteps=T"
        raise InputError(what, where=type(module).__name__, remedy=remedy)
    if given is not None and given != longest:
        raise _contradiction(module, found | {"timesteps": given})
    return longest


def _contradiction(module: nn.Module, found: Mapping[str, int]) -> InputError:
    remedy = "pass the longest window, or leave timesteps out"
    return InputError("several numbers of steps", where=type(module).__name__, found=dict(found), remedy=remedy)
