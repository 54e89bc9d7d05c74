"""A network to the list of everything that keeps it from a target, or might: all of it at once, nothing proved.

`avsnn.convert.pipeline.convert` stops at the first thing that is wrong; here every stage is tried and every error
becomes an entry. Each population is quantised by itself: behind one that has no integers, its float spikes stand in for
them, and what no fold could move stays where it is. Only an operation without a rule ends the list, as nobody knows
what those behind it would compute on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from avsnn.convert.advice import advice
from avsnn.convert.ir import nodes as ir
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Node
from avsnn.convert.ir.stages import SPEC, check_stage
from avsnn.convert.passes.fold_dead import never_fire
from avsnn.convert.passes.integer_formats import Target
from avsnn.convert.passes.quantise import quantise
from avsnn.convert.passes.schedule import schedule
from avsnn.convert.pipeline import CALIBRATION_SAMPLES, FOLDS
from avsnn.convert.problems import Problem, failing_line
from avsnn.convert.proof_data import Inputs, first_samples
from avsnn.convert.risks import Risk, integer_risks, layer_risks, norms, silence, weight_risks
from avsnn.convert.shares import Shares, is_population
from avsnn.errors import AvsnnError
from avsnn.hw_profiles.profile import Profile

UNSUPPORTED, RISKY = "unsupported", "risky"
REACHED = ("trace", "fold", "quantise", "schedule", "target")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One finding.

    Attributes:
        severity: "unsupported" (there will be no bundle) or "risky" (there will, but look at this).
        stage: where it was found: "trace", "fold", "quantise", "schedule", "target".
        where: module path and class, or the name of the call.
        line: of the user's ``forward``, as "file.py:12: x = self.act(x)"; empty if unknown.
        reason: what is wrong.
        suggestion: what to do about it.
        neurons: share of all neurons that work with it; see `avsnn.convert.shares`.
        operations: share of all operations around it.
    """

    severity: str
    stage: str
    where: str
    line: str = ""
    reason: str
    suggestion: str = ""
    neurons: float = 0.0
    operations: float = 0.0


@dataclass
class Checked:
    """What a check has found.

    Attributes:
        name: of the network.
        target: profile.
        entries: findings, unsupported ones first.
        nodes: operations of the traced network.
        populations: of neurons.
        reached: last stage that worked: "trace" to "target", or "" if none did.
    """

    name: str
    target: str
    entries: list[Entry] = field(default_factory=list)
    nodes: int = 0
    populations: int = 0
    reached: str = ""

    @property
    def convertible(self) -> bool:
        """Whether nothing unsupported was found."""
        return not any(entry.severity == UNSUPPORTED for entry in self.entries)

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "convertible": self.convertible}


@dataclass(frozen=True, kw_only=True)
class Traced:
    """A network that was followed, as far as that went: `avsnn.convert.tracer.Survey` or a stored graph.

    Attributes:
        name: for messages.
        graph: the traced graph, if all of it has a rule.
        nodes: in topological order, a plain `Node` for what has none.
        problems: what has none.
        refusal: another reason why there is no graph.
        lines: node name to the line of ``forward`` that calls it.
        timesteps: T.
    """

    name: str
    graph: Graph | None
    nodes: tuple[Node, ...] = ()
    problems: tuple[Problem, ...] = ()
    refusal: AvsnnError | None = None
    lines: Mapping[str, str] = field(default_factory=dict)
    timesteps: int = 1


def check(
    traced: Traced,
    profile: Profile,
    calibration: Inputs,
    *,
    representative: bool = True,
    capabilities: Callable[[Graph, Profile], Iterator[Risk]] = lambda _graph, _profile: iter(()),
) -> Checked:
    """Try every stage and list what is found.

    Args:
        traced: the network.
        profile: the target.
        calibration: inputs that scales are chosen on.
        representative: whether they are real data, so that silence on them means something.
        capabilities: what the target does with a scheduled graph; raises if it refuses.
    """
    notes = _Notes(traced, Checked(name=traced.name, target=profile.id, nodes=len(traced.nodes)))
    done = notes.done
    done.populations = sum(map(is_population, traced.nodes))
    for problem in traced.problems:
        notes.problem(problem)
    if traced.refusal is not None:
        notes.error("trace", traced.refusal)
    for risk in layer_risks(traced.nodes, traced.timesteps, traced=traced.graph is not None):
        notes.risk("trace", risk)
    if traced.graph is not None:
        done.reached = "trace"
        _stages(traced.graph, profile, calibration, representative, capabilities, notes)
    done.entries.sort(key=lambda entry: entry.severity != UNSUPPORTED)
    return done


def _stages(
    graph: Graph,
    profile: Profile,
    calibration: Inputs,
    representative: bool,
    capabilities: Callable[[Graph, Profile], Iterator[Risk]],
    notes: _Notes,
) -> None:
    some: Inputs | None = None
    with notes.stage("trace"):
        some = first_samples(graph, calibration, CALIBRATION_SAMPLES)
        if representative:
            for risk in (*silence(graph, some), *norms(graph, some)):
                notes.risk("trace", risk)
    folded, formats, integers = _fold(graph, notes), Target.of(profile), None
    with notes.stage("quantise"):
        for risk in weight_risks(folded, formats):
            notes.risk("quantise", risk)
        if some is not None:
            integers, scales = quantise(folded, target=formats, calibration=some, refuse=notes.refuse("quantise"))
            for risk in integer_risks(folded, scales, formats):
                notes.risk("quantise", risk)
    if integers is None:
        return
    limit, scheduled = profile.limits.delay_steps_max, None
    with notes.stage("schedule"):
        scheduled, _ = schedule(check_stage(integers), delay_steps_max=limit, refuse=notes.refuse("schedule"))
        check_stage(scheduled)
    if scheduled is not None:
        with notes.stage("target"):
            for risk in capabilities(scheduled, profile):
                notes.risk("target", risk)


def _fold(graph: Graph, notes: _Notes) -> Graph:
    """The folded graph; every node that no fold could move is an entry."""
    before = graph
    for name, fold in FOLDS:
        before = graph if name == "fold_dead" else before
        try:
            graph = fold(graph)
        except AvsnnError as error:
            notes.error("fold", error)
    for each in never_fire(before):
        reason = f"can never fire: its membrane reaches {each.membrane:.3g} at most, of {each.threshold:.3g}"
        gone = each.population not in graph.by_name
        what = "; it is left out" if gone else "; it is kept, as what reads it has no form without it"
        notes.risk("fold", Risk(node=each.population, reason=reason + what, suggestion="leave it out, or train it"))
    left = [node for node in graph if not isinstance(node, SPEC["folded"])]
    with notes.stage("fold"):
        for node in left:
            reads = ", ".join(f"{s.name} ({s.kind})" for s in graph.sources(node))
            remedy = "a normalisation folds into a convolution or linear layer right before or after it"
            notes.add(UNSUPPORTED, "fold", node.name, f"{node.kind} cannot be folded away; it reads {reads}", remedy)
    if notes.failed:  # an answer that is no read-out has no integers: every population stands for itself
        ends = tuple(node.name for node in graph if isinstance(node, ir.LIF | ir.Readout))
        return replace(graph, outputs=ends, stage="folded")
    return replace(graph, stage="folded")


class _Notes:
    """Collects entries and finds their places."""

    def __init__(self, traced: Traced, done: Checked) -> None:
        self.lines, self.done = traced.lines, done
        self.nodes = {node.name: node for node in traced.nodes}
        self.origins = {node.origin: node.name for node in traced.nodes if node.origin}
        self.shares = Shares(traced.nodes)
        self.said: set[str] = set()  # places that an earlier stage has found unsupported

    @property
    def failed(self) -> bool:
        """Whether something unsupported was found."""
        return not self.done.convertible

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A stage whose error becomes an entry; what is unsupported already is not said again of later stages."""
        self.said = {entry.where for entry in self.done.entries if entry.severity == UNSUPPORTED}
        try:
            yield
        except AvsnnError as error:
            self.error(name, error)
        if not self.failed:
            self.done.reached = name if name in REACHED else self.done.reached

    def refuse(self, stage: str) -> Callable[[AvsnnError], None]:
        """What a pass that goes on behind an error calls with each."""
        return lambda error: self.error(stage, error)

    def problem(self, problem: Problem) -> None:
        """What the tracer has no rule for."""
        found = f", found {problem.found}" if problem.found else ""
        remedy = problem.remedy or (advice(problem.found) if problem.found else "")
        self.add(UNSUPPORTED, "trace", problem.node or problem.where, problem.what + found, remedy, line=problem.line)

    def error(self, stage: str, error: AvsnnError) -> None:
        """What ended a stage."""
        found = "" if error.found is None else f", found {error.found}"
        limit = "" if error.limit is None else f", limit {error.limit}"
        self.add(UNSUPPORTED, stage, error.where, error.what + found + limit, error.remedy, line=failing_line(error))

    def risk(self, stage: str, risk: Risk) -> None:
        """What may go wrong, or surely will."""
        severity = UNSUPPORTED if risk.surely else RISKY
        self.add(severity, stage, risk.node, risk.reason, risk.suggestion)

    def add(self, severity: str, stage: str, where: str, reason: str, suggestion: str = "", *, line: str = "") -> None:
        """One entry; ``where`` is a node's name or origin, of any stage, or something else."""
        name = self._known(where)
        node = self.nodes.get(name)
        neurons, operations = self.shares.of(name)
        entry = Entry(
            severity=severity,
            stage=stage,
            where=(node.origin if node else "") or where or self.done.name,
            line=line or self.lines.get(name, ""),
            reason=reason,
            suggestion=suggestion,
            neurons=neurons,
            operations=operations,
        )
        again = severity == UNSUPPORTED and entry.where in self.said
        if not again and not any((e.where, e.reason) == (entry.where, entry.reason) for e in self.done.entries):
            self.done.entries.append(entry)

    def _known(self, where: str) -> str:
        """The traced node that a name of a later stage comes from: ``conv.window`` and ``head@p1`` from their layer."""
        if where in self.nodes:
            return where
        if where in self.origins:
            return self.origins[where]
        name = where.partition("@")[0]
        while name and name not in self.nodes:
            name = name.rpartition(".")[0]
        return name


def of_graph(graph: Graph, name: str) -> Traced:
    """A stored graph, whose source lines nobody knows."""
    return Traced(name=name, graph=graph, nodes=graph.nodes, timesteps=graph.timesteps)
