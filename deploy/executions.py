"""Run the scheduled graph on every back end and compare them: reference interpreter, simulator, Lava."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from avsnn.convert import equivalence as eq
from avsnn.convert.idle_mistakes import idle_on
from avsnn.convert.ir.activity import Activity
from avsnn.convert.ir.fixed_interpreter import wall_clock
from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.node import Array
from avsnn.deploy.backends.cpu import simulate


@dataclass(frozen=True, kw_only=True)
class Executions:
    """What all back ends agreed on and from which inputs (integers), how it was compared, how long each took."""

    inputs: Mapping[str, Array]
    activity: Activity
    checks: tuple[eq.Check, ...]
    seconds: Mapping[str, float]


def execute_all(
    graph: Graph,
    integers: Mapping[str, Array],
    *,
    data: str,
    lava: Path | None,
    timeout_s: float = 600.0,
    progress: Callable[[str], None] = lambda _text: None,
) -> Executions:
    """Run ``graph`` on the reference interpreter, the CPU simulator and, where given, a ``lava/`` folder.

    Args:
        graph: stage ``scheduled``.
        integers: inputs as integers.
        data: name of the samples, for messages.
        lava: the exported folder to run, or None to leave Lava out.
        timeout_s: of the Lava process.
        progress: called with the part under way.

    Raises:
        VerifyError: a spike, state or answer differs, or a planted mistake goes unnoticed.
        BackendError: Lava is missing or failed.
    """
    seconds: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Activity]) -> Activity:
        progress(name)
        start = time.perf_counter()
        done = work()
        seconds[name] = time.perf_counter() - start
        return done

    def simulator(spoiled: Graph) -> Activity:
        return simulate(spoiled, integers, record="all")

    mistakes = eq.negated_row(graph) | eq.shifted_time(graph)
    expected = timed("reference interpreter", lambda: wall_clock(graph, integers))
    found = timed("CPU simulator", lambda: simulator(graph))
    check = eq.compare("CPU simulator = reference", data, expected, found, exact=True)
    idle = idle_on(graph, integers, expected)
    checks = [eq.with_controls(check, expected, simulator, mistakes, idle)]
    if lava is not None:
        from avsnn.deploy.backends.lava import LavaWorker

        def in_worker() -> Activity:
            with LavaWorker(timeout_s=timeout_s) as worker:
                return worker.run(lava, integers).activity

        in_lava = timed("Lava", in_worker)
        check = eq.compare("Lava = reference", data, expected, in_lava, exact=True)
        checks.append(eq.with_controls(check, in_lava, simulator, mistakes, idle))
    return Executions(inputs=dict(integers), activity=expected, checks=tuple(checks), seconds=seconds)
