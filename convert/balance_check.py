"""Does everything that meets in a population arrive together, in a scheduled graph, whether or not data makes it fire?

Running a schedule proves it for what fires. This walk adds up the costs of all connections, also of silent ones, with
no word from the scheduler but the delays and offsets that it wrote into the graph.
"""

from __future__ import annotations

from avsnn.convert.ir import fixed_nodes as fixed
from avsnn.convert.ir.graph import Graph
from avsnn.errors import VerifyError


def check_balance(scheduled: Graph, latency_steps: int) -> int:
    """Return how many connections were added up.

    Args:
        scheduled: the graph in wall-clock time.
        latency_steps: wall steps from the first input of a window to its answer, as reported.

    Raises:
        VerifyError: something arrives early or late, is reset at another step, or the answer comes at another time.
    """
    T, checked = scheduled.timesteps, 0
    known: dict[str, int] = {}  # when step 0 of sample 0 is emitted
    for node in scheduled:
        arrivals = [known[name] for name in node.inputs]
        if isinstance(node, fixed.Synapse):
            known[node.name] = arrivals[0] + 1 + node.delay
        elif isinstance(node, fixed.FixedInput | fixed.HeldCurrent):
            known[node.name] = max(arrivals, default=0)
        else:
            assert isinstance(node, fixed.Product | fixed.FixedLIF | fixed.FixedReadout)
            if isinstance(node, fixed.Product):
                cost = T if node.windowed else 1
                waits = node.delays or (0,) * len(arrivals)
                arrivals = [at + wait + cost for at, wait in zip(arrivals, waits, strict=True)]
            for name, at in zip(node.inputs, arrivals, strict=True):
                _same("arrives at another step", f"{node.name}, from {name}", node.offset, at)
            known[node.name] = node.offset
        if isinstance(node, fixed.FixedLIF) and node.reset_interval:
            _same("reset at another step", node.name, node.offset % T, node.reset_phase % node.reset_interval)
        checked += len(arrivals)
    _same("the answer comes at another step", scheduled.outputs[0], T + max(known.values()), latency_steps)
    return checked


def _same(what: str, where: str, expected: int, found: int) -> None:
    if expected != found:
        raise VerifyError(what, where=where, expected=expected, found=found)
