"""A loop over steps, written out in ``forward`` and unrolled by torch.fx, rolled up again to one step.

Cells carry or keep their state from call to call, so the calls of a cell count the steps. Every operation
gets the step that it belongs to and a key that says what it computes of its step's inputs. All steps must have the same
keys: then the operations of step 0 stand for all. Operations without any step (a convolution of a direct input) are the
same in all. Parts that do not meet inside loops may have windows of their own: a key then has the steps of its part.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from avsnn.errors import TraceError

ADDS = (operator.add, operator.iadd, torch.add, "add", "add_")
_CONSTANT = "_tensor_constant"  # how torch.fx names tensors that are no weights
_REMEDY = "every step must do the same, each cell with the state that it returned in the step before"


class Sequence(fx.Proxy):
    """An input whose first axis is time: its shape is known, and it can be walked through."""

    def __init__(self, node: fx.Node, tracer: fx.Tracer, shape: torch.Size) -> None:
        super().__init__(node, tracer)
        self.sizes = shape

    @property
    def shape(self) -> torch.Size:
        """As of a tensor."""
        return self.sizes

    def __len__(self) -> int:
        return int(self.sizes[0])

    def __iter__(self) -> Iterator[fx.Proxy]:
        return iter([operator.getitem(self, t) for t in range(len(self))])

    def size(self, dim: int | None = None) -> Any:
        """As of a tensor."""
        return self.sizes if dim is None else self.sizes[dim]


@dataclass
class Loop:
    """What was found.

    Attributes:
        steps: T, of the longest window; 0 if no cell is called.
        windows: an operation that belongs to a step, to how many steps have one like it.
        stands: an operation to the one of step 0 (or the first alike) that stands for it.
        spikes: what unpacks the spikes of a call, to that call.
        states: what unpacks a state; nothing but its cell may read it.
        starts: zeros that a cell is given as its first state.
        items: what picks a step of a sequence input, to the input.
        stacks: what joins all steps to a sequence, to what stands for its elements.
        totals: a sum that was made step by step, to what stands for the summands.
        partial: sums of fewer steps, which are nothing by themselves.
    """

    steps: int = 0
    windows: dict[fx.Node, int] = field(default_factory=dict)
    stands: dict[fx.Node, fx.Node] = field(default_factory=dict)
    spikes: dict[fx.Node, fx.Node] = field(default_factory=dict)
    states: dict[fx.Node, fx.Node] = field(default_factory=dict)
    starts: set[fx.Node] = field(default_factory=set)
    items: dict[fx.Node, fx.Node] = field(default_factory=dict)
    stacks: dict[fx.Node, fx.Node] = field(default_factory=dict)
    totals: dict[fx.Node, fx.Node] = field(default_factory=dict)
    partial: set[fx.Node] = field(default_factory=set)

    def with_first(self, live: set[fx.Node]) -> set[fx.Node]:
        """Operations that the answer depends on, with those of step 0 that stand for them and all that these read."""
        found, ahead = set(live), [self.stands[n] for n in live if n in self.stands]
        while ahead:
            n = ahead.pop()
            if n not in found:
                found.add(n)
                ahead += [*n.all_input_nodes, *([self.stands[n]] if n in self.stands else [])]
        return found


def find_loop(
    program: fx.Graph,
    way: Callable[[fx.Node], str],
    sequences: Collection[str],
    constants: Callable[[str], object] = lambda _name: None,
) -> Loop:
    """Roll up a program.

    Args:
        program: as torch.fx wrote it.
        way: "cell" if an operation is the call of a cell, "keeps" if that keeps its state itself, else anything.
        sequences: inputs whose first axis is time.
        constants: name of a tensor outside of ``forward``'s inputs, to the tensor.

    Raises:
        TraceError: steps that differ, states that are lost or read, connections from one step to another.
    """
    found = _Finder(program, way, sequences, constants)
    if not any(found.is_cell(n) for n in program.nodes):
        return Loop()
    for n in program.nodes:
        found.visit(n)
    return found.finish()


def drop_zeros(program: fx.Graph, constants: Callable[[str], object]) -> None:
    """Write 0 where a sum starts from a tensor of zeros that ``forward`` makes, and take the tensor out.

    Args:
        program: changed in place.
        constants: the name that torch.fx gave to a tensor made in ``forward``, to the tensor.
    """
    for n in list(program.nodes):
        if n.op != "get_attr" or not str(n.target).startswith(_CONSTANT):
            continue
        value = constants(str(n.target))
        adds = all(user.target in ADDS and not user.kwargs for user in n.users)
        if isinstance(value, Tensor) and not value.any() and adds:
            for user in list(n.users):
                user.args = tuple(0 if each is n else each for each in user.args)
                user.op, user.target = "call_function", operator.add  # a number has no method of that name
            program.erase_node(n)


class _Finder:
    """Walks the program once."""

    def __init__(
        self,
        program: fx.Graph,
        way: Callable[[fx.Node], str],
        sequences: Collection[str],
        constants: Callable[[str], object],
    ) -> None:
        self.program, self.way, self.sequences, self.constants = program, way, sequences, constants
        self.loop = Loop()
        self.last: dict[object, fx.Node] = {}  # cell that keeps its state, to its last call
        self.keys: dict[object, int] = {}  # what is computed, to a number
        self.key: dict[fx.Node, int] = {}
        self.step: dict[fx.Node, int | None] = {}
        self.when: dict[int, set[int]] = {}  # number of a key to the steps that have it
        self.first: dict[int, fx.Node] = {}
        self.sums: dict[fx.Node, tuple[fx.Node, int]] = {}  # what stands for the summands, and how many there are
        self.runs: dict[int, set[int]] = {}  # steps in which a cell was called

    def is_cell(self, n: fx.Node) -> bool:
        return self.way(n) in ("cell", "keeps")

    def visit(self, n: fx.Node) -> None:
        if n.op == "output":
            return
        if n.op in ("placeholder", "get_attr"):
            self._mark(n, (n.op, n.target), None)
        elif self.is_cell(n):
            self._cell(n)
        elif n.target is operator.getitem and self._item(n):
            pass
        elif n.target is torch.stack and isinstance(n.args[0], list | tuple):
            self._stack(n, n.args[0])
        elif n.target in ADDS and self._sum(n):
            pass
        else:
            self._plain(n)

    def _mark(self, n: fx.Node, what: object, step: int | None) -> None:
        """Give an operation its key; the first one with it stands for the others."""
        number = self.keys.setdefault(what, len(self.keys))
        self.key[n], self.step[n] = number, step
        if step is not None:
            self.when.setdefault(number, set()).add(step)
        chief = self.first.setdefault(number, n)
        if chief is not n:
            self.loop.stands[n] = chief

    def _cell(self, n: fx.Node) -> None:
        x = n.args[0]
        assert isinstance(x, fx.Node)
        source = self.last.get(n.target) if self.way(n) == "keeps" else self._source(n)
        self.last[n.target] = n
        step = 0 if source is None else (self.step[source] or 0) + 1
        if self.step[x] not in (None, step):
            raise _refusal(n, f"reads step {self.step[x]} in step {step}: a connection back in time")
        if source is not None and self.key[source.args[0]] != self.key[x]:  # type: ignore[index]  # a node, as x is
            raise _refusal(n, f"reads something else in step {step} than in the step before")
        self._mark(n, ("cell", n.target, self.key[x]), step)
        if step in self.runs.setdefault(self.key[n], set()):
            raise _refusal(n, "runs twice from the same state")
        self.runs[self.key[n]].add(step)

    def _source(self, n: fx.Node) -> fx.Node | None:
        """The call whose states a cell goes on from, each in its place; None if it starts anew."""
        states = [state for state in (*n.args[1:], *n.kwargs.values()) if state is not None]
        zeros = [s for s in states if isinstance(s, fx.Node) and s.op == "get_attr" and self._is_zero(s)]
        if len(zeros) == len(states):
            self.loop.starts.update(zeros)
            return None
        unpacked = [(self.loop.states.get(s), s.args[1:]) if isinstance(s, fx.Node) else (None, ()) for s in states]
        source = unpacked[0][0]
        if source is None or source.target != n.target or unpacked != [(source, (1 + i,)) for i in range(len(states))]:
            raise _refusal(n, "starts from a state that is not its own")
        return source

    def _is_zero(self, n: fx.Node) -> bool:
        value = self.constants(str(n.target))
        return isinstance(value, Tensor) and not value.any()

    def _item(self, n: fx.Node) -> bool:
        """Spikes or state of a call, or a step of an input."""
        source, index = n.args
        if not isinstance(source, fx.Node) or not isinstance(index, int):
            return False
        if self.is_cell(source) and index >= 0:
            (self.loop.spikes if index == 0 else self.loop.states)[n] = source
            self._mark(n, ("item", index, self.key[source]), self.step[source])
            return True
        if source.op == "placeholder" and str(source.target) in self.sequences:
            self.loop.items[n] = source
            self._mark(n, ("step", source.target), index)
            return True
        return False

    def _stack(self, n: fx.Node, elements: Any) -> None:
        dim = n.args[1] if len(n.args) > 1 else n.kwargs.get("dim", 0)
        steps = [self.step.get(each) for each in elements]
        alike = len({self.key.get(each) for each in elements}) == 1
        if steps != list(range(len(steps))) or not alike or dim != 0:
            raise _refusal(n, "stacks something else than one value of every step, in order")
        self.loop.stacks[n] = self.first[self.key[elements[0]]]
        self._mark(n, ("stack", self.key[elements[0]]), None)

    def _sum(self, n: fx.Node) -> bool:
        """A sum that grows by one summand per step; nothing else that adds."""
        if len(n.args) != 2 or n.kwargs:
            return False
        a, b = n.args
        if isinstance(b, fx.Node) and not isinstance(a, fx.Node) and a == 0 and self.step[b] == 0:
            self.sums[n] = (self.first[self.key[b]], 1)
        elif isinstance(a, fx.Node) and not isinstance(b, fx.Node) and b == 0 and self.step[a] == 0:
            self.sums[n] = (self.first[self.key[a]], 1)
        elif isinstance(a, fx.Node) and isinstance(b, fx.Node):
            of, count = self.sums.get(a, (self.first[self.key[a]], 1))
            grows = count > 1 or a in self.sums or (self.step[a] == 0 and self.step[b] == 1)
            if not (grows and self.step[b] == count and self.first[self.key[b]] is of):
                return False
            self.sums[n] = (of, count + 1)
        else:
            return False
        of, count = self.sums[n]
        self._mark(n, ("sum", self.key[of], count), None)
        return True

    def _plain(self, n: fx.Node) -> None:
        sources = n.all_input_nodes
        steps = {self.step[s] for s in sources} - {None}
        if len(steps) > 1:
            raise _refusal(n, f"mixes steps {sorted(s for s in steps if s is not None)}")
        for s in sources:
            if s in self.loop.states:
                raise _refusal(n, "reads the state of a neuron, which only its spikes may tell of")
        what = ("call", n.op, n.target, self._frozen(n.args), self._frozen(n.kwargs))
        self._mark(n, what, next(iter(steps), None))

    def _frozen(self, value: Any) -> object:
        if isinstance(value, fx.Node):
            return ("node", self.key[value])
        if isinstance(value, list | tuple):
            return tuple(self._frozen(each) for each in value)
        if isinstance(value, dict):
            return tuple((k, self._frozen(v)) for k, v in sorted(value.items()))
        return repr(value)

    def _after(self) -> None:
        """What happens in the last step of a window alone happens behind it, with what it has left: in that window."""
        for n in self.program.nodes:
            own = self.when[self.key[n]] if self.step.get(n) is not None else set()
            for source in n.all_input_nodes if n.users or n.op == "output" else ():
                if self.step[source] is None:
                    continue
                last = max(self.when[self.key[source]])
                if n.op == "output" and self.step[source] != last:
                    raise _refusal(n, "answers with another step than the last")
                if own and 0 not in own:
                    if own != {last}:
                        raise _refusal(n, f"happens in step {min(own)}, and not alike in all")
                    self.loop.windows[n] = self.loop.windows[source]

    def finish(self) -> Loop:
        """All steps of a window are there, and every sum that is read is over all of them."""
        loop = self.loop
        loop.windows = {n: len(self.when[self.key[n]]) for n, step in self.step.items() if step is not None}
        self._after()
        loop.steps = max((loop.windows[n] for n in self.program.nodes if self.is_cell(n)), default=1)
        for n in self.program.nodes:
            if self.is_cell(n) and self.runs[self.key[n]] != set(range(loop.windows[n])):
                raise _refusal(n, f"runs in {loop.windows[n]} steps that do not follow each other, or not alike in all")
            if n in loop.stacks and len(n.args[0]) != (T := loop.windows[loop.stacks[n]]):
                raise _refusal(n, f"stacks {len(n.args[0])} of {T} steps")
            if n in self.sums:
                of, count = self.sums[n]
                T = loop.windows[of]
                readers = [user for user in n.users if user not in self.sums or self.sums[user][0] is not of]
                if readers and count != T:
                    raise _refusal(n, f"sums {count} of {T} steps")
                if readers:
                    loop.totals[n] = of
                else:
                    loop.partial.add(n)
        return loop


def _refusal(n: fx.Node, what: str) -> TraceError:
    return TraceError(what, where=str(n.target) if n.op == "call_module" else n.name, remedy=_REMEDY)
