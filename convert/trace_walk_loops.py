"""The walk over a program with neurons of other libraries, or with a loop over steps: operations of step 0 alone."""

from __future__ import annotations

import operator
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn

from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.node import Shape
from avsnn.convert.problems import Problem
from avsnn.convert.trace_calls import axes_of
from avsnn.convert.trace_cells import is_cell, is_foreign, rule_of
from avsnn.convert.trace_loops import Loop
from avsnn.convert.trace_site import Rule, Site
from avsnn.convert.trace_user import LINES, mean_line
from avsnn.convert.trace_walk import ForwardError
from avsnn.convert.trace_walk_views import ViewWalker
from avsnn.convert.view_graph import RAW
from avsnn.errors import TraceError

DIVISIONS = (operator.truediv, torch.div)
MEANS = (torch.mean, "mean")
PERMUTATIONS = (torch.permute, "permute")


class LoopWalker(ViewWalker):
    """A walker that knows which operation of a loop stands for which others.

    Tensors inside the loop are those of one step, (B, *features); a stack of all steps is (T, B, *features).
    """

    loop = Loop()  # no loop
    here = 0  # steps of the window that an operation of the loop belongs to

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cells: dict[str, int] = {}  # name to the steps of its window

    def _operation(self, n: fx.Node, result: Any) -> None:
        loop = self.loop
        if n in loop.partial or n in loop.states or n in loop.starts:
            return
        self.here = loop.windows.get(n, 0)
        if self.here:
            self._check_steps(n)
        if n in loop.totals:
            self._total(n, loop.totals[n], tuple(result.shape[1:]))
        elif n in loop.stands:
            self._same(n, loop.stands[n])
        elif n in loop.spikes:
            self._same(n, loop.spikes[n])
        elif n in loop.items:
            self._same(n, loop.items[n])
            self.lead[n] = 1
        elif n in loop.stacks:
            self._same(n, loop.stacks[n])
            self.lead[n], self.steps[n] = 2, loop.windows[loop.stacks[n]]
        elif self._is_unpacked(n):
            self._same(n, n.args[0])
        elif self._is_last(n):
            (source,) = n.all_input_nodes
            if self._shorter(self.steps.get(source, self.timesteps)):
                self._refuse(n, source, "reads the last step of a window shorter than T", "average over its steps")
                return
            shape = tuple(result.shape[1:])
            self.built.append(ir.LastStep(name=n.name, inputs=(self.names[source],), shape=shape, origin=n.name))
            self.names[n], self.lead[n] = n.name, 1
        elif not self._neurons(n, result):
            super()._operation(n, result)
        if n in loop.windows:
            self.steps[n] = loop.windows[n]

    def _check_steps(self, n: fx.Node) -> None:
        """Refuse what is done in some steps of a window, and not in the others."""
        own = self.loop.windows[n]
        for source in n.all_input_nodes:
            if self.steps.get(source, own) != own:
                where = str(n.target) if n.op == "call_module" else n.name
                what = f"is done in {own} of {self.steps[source]} steps of {self.names[source]}"
                remedy = "every step of a window must do the same; parts with windows of their own meet behind them"
                error = TraceError(what, where=where, remedy=remedy)
                self.problems.append(Problem.of(error, line=n.meta.get("line", "")))
                raise ForwardError

    def _window(self, child: nn.Module | None, sources: list[fx.Node]) -> int:
        return self.here or super()._window(child, sources)

    def _rule(self, n: fx.Node, child: nn.Module | None, base: str) -> Rule:
        if n.target in DIVISIONS and not isinstance(n.args[0], fx.Node):
            raise TraceError("divides a number by an activity", where=base, remedy="divide by numbers alone")
        if any(self._is_line(s) for s in n.all_input_nodes if s in self.names):
            rank = self.env[n.args[0]].ndim if isinstance(n.args[0], fx.Node) else 0
            if n.target in MEANS and axes_of(n.args[1:], n.kwargs, rank) == {rank - 1}:
                return mean_line
            if n.target in PERMUTATIONS:
                raise TraceError("puts the axes of a line into another order", where=base, remedy="leave them")
        return super()._rule(n, child, base)

    def _is_line(self, n: fx.Node) -> bool:
        """Whether a node of the graph has a height of 1 that its tensor has not."""
        value = self.env.get(n)
        shape = self._shape(n)
        return isinstance(value, torch.Tensor) and len(shape) == 3 and value.ndim - self.lead[n] == 2

    def _is_flat(self, n: fx.Node) -> bool:
        """Whether features are looked at as a line, without their height."""
        own = next((node for node in reversed(self.built) if node.name == self.names[n]), None)
        looked_at = any(isinstance(node, RAW) for node in self.built)
        return looked_at and own is not None and not isinstance(own, ir.Input) and len(own.shape) == 2

    def _shape(self, n: fx.Node) -> Shape:
        return next((node.shape for node in reversed(self.built) if node.name == self.names[n]), ())

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
        """The site, where lines have their height."""
        site = super()._site(n, child, base, sources, result, lead, emits)
        lines = [self._is_line(s) for s in sources]
        if not any(lines) and not isinstance(child, LINES):
            return site
        lines = [line or self._is_flat(s) for line, s in zip(lines, sources, strict=True)]
        reads = tuple(
            (shape[0], 1, *shape[1:]) if line else shape for shape, line in zip(site.reads, lines, strict=True)
        )
        shape = (site.shape[0], 1, *site.shape[1:]) if len(site.shape) == 2 else site.shape
        return replace(site, reads=reads, shape=shape)

    def _same(self, n: fx.Node, other: Any) -> None:
        self.names[n], self.lead[n] = self.names[other], self.lead[other]
        if other in self.steps:
            self.steps[n] = self.steps[other]

    def _total(self, n: fx.Node, of: fx.Node, shape: Shape) -> None:
        """A sum over all steps: T times their mean."""
        steps = self.loop.windows[of]
        mean = ir.MeanTime(
            name=f"{n.name}.mean", inputs=(self.names[of],), shape=shape, origin=n.name, steps=self._shorter(steps)
        )
        total = ir.Scale(name=n.name, inputs=(mean.name,), shape=shape, origin=n.name, gain=float(steps))
        self.built += [mean, total]
        self.names[n], self.lead[n] = total.name, 1

    def _neurons(self, n: fx.Node, result: Any) -> bool:
        """The call of a neuron of another library, with all that it returns."""
        child = self.owner.get_submodule(str(n.target)) if n.op == "call_module" else None
        if child is None or not is_foreign(child):
            return False
        base, source = str(n.target), n.args[0]
        assert isinstance(source, fx.Node)
        lead, spikes = self.lead[source], result[0] if isinstance(result, tuple) else result
        try:
            wanted = 1 if is_cell(child) else 2
            if lead != wanted:
                remedy = "pass one step to a cell, all steps to a layer"
                raise TraceError("takes samples for steps, or steps for samples", where=base, remedy=remedy)
            if is_cell(child) and self.cells.setdefault(base, self.here) != self.here:
                remedy = "give each part cells of its own"
                raise TraceError("works in windows of different length", where=base, remedy=remedy)
            made = self._place(rule_of(child), child, self._site(n, child, base, [source], spikes, lead, lead))
        except TraceError as error:
            made = self._stand_in(error, n, base, [source], spikes, lead)
        self.names[n], self.lead[n] = made, lead
        if lead == 2:
            self.steps[n] = self._window(child, [source])
        self.lines.setdefault(made, n.meta.get("line", ""))
        return True

    def _is_last(self, n: fx.Node) -> bool:
        """Whether an operation takes the last step of a sequence."""
        source = n.args[0] if n.target is operator.getitem else None
        if not isinstance(source, fx.Node) or self.lead.get(source) != 2 or source in self.parts:
            return False
        return n.args[1] in (-1, self.steps.get(source, self.timesteps) - 1)

    def _is_unpacked(self, n: fx.Node) -> bool:
        """Whether an operation takes the spikes out of what a neuron layer returned."""
        source = n.args[0] if n.target is operator.getitem else None
        if not isinstance(source, fx.Node) or source.op != "call_module":
            return False
        return n.args[1:] == (0,) and is_foreign(self.owner.get_submodule(str(source.target)))
