"""Two runs to the first place where they part: layer, step, sample and neuron, and what each of them computed there.

Populations are compared in the order of the first graph, which is topological: at the first difference everything
that the population reads was still equal, so the cause is in its own connections, in its neuron, or in time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from avsnn.convert.bundle import Bundle
from avsnn.convert.equivalence import RELATIVE
from avsnn.convert.ir.graph import STAGES, Graph
from avsnn.convert.ir.node import Array
from avsnn.deploy.operands import Operands, operands
from avsnn.deploy.run import BackendName, Run, run
from avsnn.errors import InputError, VerifyError

Place = tuple[int, ...]
FLOAT = ("traced", "folded")


@dataclass(frozen=True, kw_only=True, eq=False)
class Side:
    """One of the two: a stage of a bundle on a back end.

    Attributes:
        text: as the user wrote it.
        bundle: the converted network.
        stage: "traced" to "scheduled".
        backend: "cpu", "lava" or "reference"; only the last runs other stages than ``scheduled``.
    """

    text: str
    bundle: Bundle
    stage: str = "scheduled"
    backend: BackendName = "cpu"

    @staticmethod
    def parse(text: str) -> Side:
        """Read ``BUNDLE``, ``BUNDLE:STAGE`` or ``BUNDLE@BACKEND``.

        Raises:
            InputError: no bundle there, or the stage and the back end do not fit.
        """
        folder, stage, backend = text, "scheduled", ""
        if not Path(text).exists():
            head, _, tail = folder.rpartition("@")
            if head and tail in get_args(BackendName):
                folder, backend = head, tail
            head, _, tail = folder.rpartition(":")
            if head and tail in STAGES and not Path(folder).exists():
                folder, stage = head, tail
        if stage != "scheduled" and backend not in ("", "reference"):
            remedy = "leave the back end out"
            raise InputError(
                "only scheduled graphs run there", where=text, found=stage, limit="reference", remedy=remedy
            )
        chosen = backend or ("cpu" if stage == "scheduled" else "reference")
        bundle = Bundle.load(folder)
        bundle.graph(stage)
        found = next(name for name in get_args(BackendName) if name == chosen)
        return Side(text=text, bundle=bundle, stage=stage, backend=found)

    @property
    def graph(self) -> Graph:
        """The graph that runs."""
        return self.bundle.graph(self.stage)

    @property
    def floats(self) -> bool:
        """Whether it computes in float64."""
        return self.stage in FLOAT

    def run(self, inputs: Mapping[str, Array], timeout_s: float) -> Run:
        """Run and keep everything."""
        return run(self.bundle, inputs, backend=self.backend, record="all", stage=self.stage, timeout_s=timeout_s)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The first place where two runs part.

    Attributes:
        node: population, or the readout where every population agrees.
        what: "spike", "u", "v" or "answer": the first of these that differs there.
        step: None for answers.
        sample: of the batch.
        neuron: index in the population.
        values: how many spikes and states of this node differ, and of how many.
        a: what the first side computed there.
        b: what the second side computed there.
    """

    node: str
    what: str
    step: int | None
    sample: int
    neuron: Place
    values: tuple[int, int]
    a: Operands
    b: Operands

    @property
    def place(self) -> tuple[str, int | None, Place]:
        """Layer, step and neuron, which a repro must hit again."""
        return (self.node, self.step, self.neuron)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What was compared, and the first difference if there is one.

    Attributes:
        samples: compared.
        spikes: values compared.
        states: values compared; none between floats and integers, whose units differ.
        populations: compared, in order.
        silent: those of them that fired on neither side.
        only_a: populations of the first side alone.
        only_b: populations of the second side alone.
        difference: the first, or None.
    """

    samples: int
    spikes: int
    states: int
    populations: tuple[str, ...]
    silent: tuple[str, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    difference: Difference | None


def compare(a: Side, b: Side, inputs: Mapping[str, Array], *, timeout_s: float = 600.0) -> tuple[Comparison, Run, Run]:
    """Run both sides on the same inputs and compare them.

    Args:
        a: first side; its graph gives the order.
        b: second side.
        inputs: in the user's units, by name.
        timeout_s: of a run in Lava.

    Raises:
        InputError: no population in common, shapes or windows that differ, inputs that do not fit.
        VerifyError: nothing fired, so nothing was compared.
    """
    first, second = a.run(inputs, timeout_s), b.run(inputs, timeout_s)
    return _compare(a, b, inputs, first, second), first, second


def _compare(a: Side, b: Side, inputs: Mapping[str, Array], first: Run, second: Run) -> Comparison:
    common = [name for name in first.spikes if name in second.spikes]
    _comparable(a, b, first, second, common)
    mixed = a.floats != b.floats
    spikes = states = 0
    silent, found = [], None
    for name in common:
        wrong, sizes = _wrong(first, second, name, exact=not a.floats, states=not mixed)
        spikes, states = spikes + sizes[0], states + sizes[1]
        if not first.spikes[name].any() and not second.spikes[name].any():
            silent.append(name)
        if found is None and any(each.any() for each in wrong.values()):
            found = _place(a, b, inputs, first, second, name, wrong)
    if len(silent) == len(common) and found is None and not (first.raw.any() and not common):
        raise VerifyError("nothing fired, so nothing was compared", where="all populations", remedy="other inputs")
    return Comparison(
        samples=len(first.raw),
        spikes=spikes,
        states=states,
        populations=tuple(common),
        silent=tuple(silent),
        only_a=tuple(name for name in first.spikes if name not in second.spikes),
        only_b=tuple(name for name in second.spikes if name not in first.spikes),
        difference=found or _answers(a, b, inputs, first, second),
    )


def _comparable(a: Side, b: Side, first: Run, second: Run, common: list[str]) -> None:
    if not common and (first.spikes or second.spikes):  # a readout alone has none
        names = f"{', '.join(first.spikes) or 'none'} and {', '.join(second.spikes) or 'none'}"
        raise InputError("no population in common", where=f"{a.text}, {b.text}", found=names)
    for name in common:
        if first.spikes[name].shape != second.spikes[name].shape:
            found = f"{first.spikes[name].shape} and {second.spikes[name].shape}"
            raise InputError("the shapes (time, sample, ...) differ", where=name, found=found)
    if first.raw.shape != second.raw.shape:
        found = f"{first.raw.shape} and {second.raw.shape}"
        raise InputError("the shapes of the answers differ", where=f"{a.text}, {b.text}", found=found)


def _wrong(
    first: Run, second: Run, name: str, *, exact: bool, states: bool
) -> tuple[dict[str, Array], tuple[int, int]]:
    """Where (T, B, *shape) spikes and states differ, and how many values of each were compared."""
    wrong = {"spike": first.spikes[name] != second.spikes[name]}
    count = 0
    for key in ("u", "v") if states else ():
        if key not in first.states[name] or key not in second.states[name]:
            continue
        x, y = first.states[name][key], second.states[name][key]
        limit = RELATIVE * max(1.0, float(np.abs(x).max(initial=0.0)))
        wrong[key] = x != y if exact else ~(np.abs(x - y) <= limit)
        count += x.size
    return wrong, (wrong["spike"].size, count)


def _place(
    a: Side, b: Side, inputs: Mapping[str, Array], first: Run, second: Run, name: str, wrong: Mapping[str, Array]
) -> Difference:
    anywhere = np.logical_or.reduce(list(wrong.values()))
    step, sample, *rest = (int(i) for i in np.argwhere(anywhere)[0])
    neuron = tuple(rest)
    place = (step, sample, *rest)
    what = next(key for key in ("spike", "u", "v") if key in wrong and wrong[key][place])
    return Difference(
        node=name,
        what=what,
        step=step,
        sample=sample,
        neuron=neuron,
        values=(sum(int(each.sum()) for each in wrong.values()), sum(each.size for each in wrong.values())),
        a=operands(a.graph, first, inputs, name, step, sample, neuron),
        b=operands(b.graph, second, inputs, name, step, sample, neuron),
    )


def _answers(a: Side, b: Side, inputs: Mapping[str, Array], first: Run, second: Run) -> Difference | None:
    """The first answer that differs where all populations agree; floats against integers: the class that wins."""
    if a.floats != b.floats:
        wrong = (first.outputs.argmax(axis=1) != second.outputs.argmax(axis=1))[:, None]
    elif a.floats:
        limit = RELATIVE * max(1.0, float(np.abs(first.raw).max(initial=0.0)))
        wrong = ~(np.abs(first.raw - second.raw) <= limit)
    else:
        wrong = (first.raw != second.raw) | (first.scale != second.scale)
    if not wrong.any():
        return None
    sample, *rest = (int(i) for i in np.argwhere(wrong)[0])
    neuron = tuple(rest)
    sides = []
    for side, done in ((a, first), (b, second)):
        sides.append(operands(side.graph, done, inputs, side.graph.outputs[0], None, sample, neuron))
    return Difference(
        node=a.graph.outputs[0],
        what="answer",
        step=None,
        sample=sample,
        neuron=neuron,
        values=(int(wrong.sum()), wrong.size),
        a=sides[0],
        b=sides[1],
    )


def record(found: Comparison) -> dict[str, Any]:
    """As JSON."""
    made: dict[str, Any] = {
        "equal": found.difference is None,
        "samples": found.samples,
        "spikes_compared": found.spikes,
        "states_compared": found.states,
        "populations": list(found.populations),
        "silent": list(found.silent),
        "only_a": list(found.only_a),
        "only_b": list(found.only_b),
    }
    if (d := found.difference) is not None:
        made["difference"] = {
            "node": d.node,
            "what": d.what,
            "step": d.step,
            "sample": d.sample,
            "neuron": list(d.neuron),
            "values_differing": d.values[0],
            "values": d.values[1],
            "a": d.a.record(),
            "b": d.b.record(),
        }
    return made
