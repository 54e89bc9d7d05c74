"""The walk over operations that only look at features in another order, however a forward writes them.

Which feature each one is, is asked of torch itself: the operation is run once more, on numbers that count the features.
The same shows whether time and samples stay where they are, are merged into one axis, or come apart again.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

from avsnn.convert.trace_site import size
from avsnn.convert.trace_walk import Walker
from avsnn.convert.view_graph import View
from avsnn.errors import TraceError
from avsnn.train.layers import DirectCoding

_NAMES = (
    "chunk", "flatten", "movedim", "narrow", "permute", "reshape", "select", "split", "squeeze", "swapaxes",
    "swapdims", "transpose", "unbind", "unflatten", "unsqueeze", "moveaxis",
)  # fmt: skip
METHODS = (*_NAMES, "contiguous", "view", "t")
FUNCTIONS = (operator.getitem, getattr, torch.t, *(getattr(torch, name) for name in _NAMES))
COPIES = ("expand", "repeat", torch.Tensor.expand, torch.Tensor.repeat)
STEPS = 2  # leading axes of (T, B, *features); 1 of (B, *features) and of the two merged


class ViewWalker(Walker):
    """A walker that writes such operations down as one `View` each.

    Attributes:
        merged: operations whose tensors are (T B, *features).
        opened: operations whose tensors are (1, B, *features), about to be repeated for every step.
        parts: operations that return several tensors, with what they read and what each tensor looks at.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.merged: set[fx.Node] = set()
        self.opened: set[fx.Node] = set()
        self.parts: dict[fx.Node, tuple[fx.Node, torch.Size, Any]] = {}

    def _operation(self, n: fx.Node, result: Any) -> None:
        sources = [s for s in n.all_input_nodes if s not in self.sizes]
        if len(sources) == 1 and sources[0] in self.parts and n.target is operator.getitem:
            source, before, parts = self.parts[sources[0]]
            self._look(n, source, before, operator.getitem(parts, n.args[1]))
        elif len(sources) == 1 and self._looks(n, sources[0], result):
            counted = self._counted(n, sources[0])
            if isinstance(counted, tuple | list):
                self.parts[n] = (sources[0], self.env[sources[0]].shape, list(counted))
                self.names[n], self.lead[n] = self.names[sources[0]], self.lead[sources[0]]
            else:
                self._look(n, sources[0], self.env[sources[0]].shape, counted)
        else:
            if any(s in self.opened for s in sources):
                self._refuse(n, sources[0], "an axis of length 1 in front of the samples", "repeat it for every step")
                return
            super()._operation(n, result)
            if any(s in self.merged for s in sources):
                self.merged.add(n)
                self.steps[n] = next(self.steps[s] for s in sources if s in self.steps)

    def _looks(self, n: fx.Node, source: fx.Node, result: Any) -> bool:
        """Whether an operation computes nothing, and no rule for one operation has a node for it."""
        known = METHODS if n.op == "call_method" else FUNCTIONS
        if n.op not in ("call_method", "call_function") or not isinstance(self.env[source], Tensor):
            return False
        if source in self.opened:
            return n.target in COPIES
        if n.target not in known:
            return False
        if source in self.merged or not isinstance(result, Tensor):
            return True
        lead, before = self.lead[source], self.env[source]
        whole = tuple(result.shape) == (*before.shape[:lead], size(tuple(before.shape[lead:])))
        return not whole and n.target not in (torch.permute, "permute")

    def _counted(self, n: fx.Node, source: fx.Node) -> Any:
        """The operation on numbers that count all features of all steps and samples."""
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        numbers = torch.arange(args[0].numel()).reshape(args[0].shape)
        if n.op == "call_method":
            return getattr(numbers, str(n.target))(*args[1:], **kwargs)
        return n.target(numbers, *args[1:], **kwargs)  # type: ignore[operator]

    def _look(self, n: fx.Node, source: fx.Node, before: torch.Size, counted: Tensor) -> None:
        """Write down one view of a tensor of shape ``before``; what only merges time and samples is none."""
        lead = self.lead[source]
        features = tuple(before[lead:])
        samples, width = size(tuple(before[:lead])), size(features)
        if self._opens(n, source, before, counted):
            return
        emits = self._lead_of(n, source, samples, counted)
        rows = counted.reshape(samples, -1) if emits and counted.numel() % samples == 0 else None
        if rows is None or not bool((rows // width == torch.arange(samples)[:, None]).all()):
            self._refuse(n, source, "mixes features with time or samples", "leave the first axes where they are")
            return
        index = (rows[0] % width).reshape(counted.shape[emits:])
        self.lead[n] = emits
        if source in self.steps:
            self.steps[n] = self.steps[source]
        if tuple(index.shape) == features and bool((index.flatten() == torch.arange(width)).all()):
            self.names[n] = self.names[source]
            return
        name = self._unique(n.name)
        made = View(
            name=name, inputs=(self.names[source],), shape=tuple(index.shape), origin=name, index=index.numpy()
        )  # fmt: skip
        self.built.append(made)
        self.names[n] = name
        self.lines.setdefault(name, n.meta.get("line", ""))

    def _lead_of(self, n: fx.Node, source: fx.Node, samples: int, counted: Tensor) -> int:
        """Leading axes of the result; 0 if none fit. Also notes whether time and samples are merged in it."""
        steps = source in self.merged or self.lead[source] == STEPS
        if not steps:
            return 1 if counted.shape[0] == samples else 0
        T = self.steps[source]
        if tuple(counted.shape[:2]) == (T, samples // T):
            return STEPS
        if counted.shape[0] == samples:
            self.merged.add(n)
            return 1
        return 0

    def _opens(self, n: fx.Node, source: fx.Node, before: torch.Size, counted: Tensor) -> bool:
        """Direct coding written out: ``x.unsqueeze(0).repeat(T, 1, ...)`` is x in every step."""
        if source in self.opened:
            same = bool((counted == torch.arange(before.numel()).reshape(before)).all())
            if not same or counted.shape[0] > self.timesteps:
                what = f"repeats something else than samples for {self.timesteps} steps"
                self._refuse(n, source, what, "x.unsqueeze(0).repeat(T, 1, ...), or DirectCoding(T)")
            else:
                self.names[n], self.lead[n], self.steps[n] = self.names[source], STEPS, counted.shape[0]
            return True
        if self.lead[source] == 1 and source not in self.merged and tuple(counted.shape) == (1, *before):
            self.opened.add(n)
            self.names[n], self.lead[n] = self.names[source], 1
            return True
        return False

    def _refuse(self, n: fx.Node, source: fx.Node, what: str, remedy: str) -> None:
        error = TraceError(what, where=n.name, remedy=remedy)
        self.names[n] = self._stand_in(error, n, n.name, [source], self.env.get(n), self.lead[source])
        self.lead[n] = self.lead[source]
        if source in self.steps:
            self.steps[n] = self.steps[source]

    def _emits(self, n: fx.Node, child: Any, rule: Any, sources: list[fx.Node], lead: int) -> int:
        if isinstance(child, DirectCoding) and any(s in self.merged for s in sources):
            raise TraceError("repeats what already has time", where=str(n.target), remedy="leave DirectCoding out")
        return super()._emits(n, child, rule, sources, lead)

    def _output(self, source: object) -> None:
        super()._output(source)
        if isinstance(source, fx.Node) and (source in self.merged or source in self.opened):
            what, remedy = "forward returns an answer at every step", "end it with a mean over time, .mean(0)"
            self.refusal = TraceError(what, where=type(self.owner).__name__, found=self.names[source], remedy=remedy)
