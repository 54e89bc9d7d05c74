"""Lava's own process models driven in one operating-system process: the same classes, the same integers, no runtime.

Runs in the Lava interpreter, for many tiny networks: a network costs milliseconds instead of a second. Ports get
queues that cast as Lava's channels do. Processes must be given in the order in which messages flow. Lava is imported
inside the functions, so that tools which import every module can import this one.
"""

from __future__ import annotations

import collections
from typing import Any

import numpy as np

SELECTED: dict[type, Any] = {}


class Queue:
    """A channel: messages take the sender's type on the way."""

    def __init__(self, name: str, shape: tuple[int, ...], dtype: Any) -> None:
        self.name, self.shape, self.dtype = name, shape, dtype
        self.messages: collections.deque[Any] = collections.deque()

    def send(self, data: Any) -> None:
        """Append a message of the declared shape."""
        if data.shape != self.shape:
            raise AssertionError(f"{data.shape} sent where {self.shape} was declared")
        message = np.empty(self.shape, self.dtype)
        message[:] = data
        self.messages.append(message)

    def recv(self) -> Any:
        """Take the oldest message; waiting for one would be waiting for ever."""
        return self.messages.popleft()


class Reference:
    """Both channels of a RefPort: a request is answered by reading the attribute."""

    def __init__(self, name: str, shape: tuple[int, ...], models: dict[Any, Any], process: Any, variable: str) -> None:
        self.name, self.shape, self.models, self.process, self.variable = name, shape, models, process, variable

    def send(self, data: Any) -> None:
        """Ignore the request: only reading is supported."""

    def recv(self) -> Any:
        """Return a copy of the value."""
        return getattr(self.models[self.process], self.variable).copy()


def drive(processes: list[Any], steps: int) -> None:
    """Run all processes for ``steps`` steps: spiking phase in order, then post management."""
    classes = {process: model_class(process) for process in processes}
    ends: dict[Any, list[Any]] = collections.defaultdict(list)  # port to its channels
    models: dict[Any, Any] = {}
    for process in processes:
        for port in process.out_ports:
            dtype = getattr(classes[process], port.name).d_type
            for target in port.get_dst_ports():
                queue = Queue(port.name, port.shape, dtype)
                ends[port].append(queue)
                ends[target].append(queue)
        for port in process.ref_ports:
            for variable in port.get_dst_vars():
                reference = Reference(port.name, port.shape, models, variable.process, variable.name)
                ends[port] = [reference, reference]
    for process in processes:
        models[process] = build(process, classes[process], ends)
    for step in range(1, steps + 1):
        for model in models.values():
            model.time_step = step
            model.run_spk()
        for model in models.values():
            if model.post_guard():
                model.run_post_mgmt()


def build(process: Any, model: Any, ends: dict[Any, list[Any]]) -> Any:
    """Make a process model as Lava does, with our channels."""
    from lava.magma.compiler.builders.py_builder import PyProcessBuilder
    from lava.magma.compiler.utils import VarInitializer

    builder = PyProcessBuilder(model, process.id, process.proc_params)
    builder.set_variables([VarInitializer(v.name, v.shape, v.init, v.id) for v in process.vars])
    builder.set_py_ports([initializer(model, port) for port in (*process.in_ports, *process.out_ports)])
    builder.set_ref_ports([initializer(model, port) for port in process.ref_ports])
    for port in (*process.in_ports, *process.out_ports, *process.ref_ports):
        if ends[port]:
            builder.csp_ports[port.name] = ends[port]
    return builder.build()


def initializer(model: Any, port: Any) -> Any:
    """Describe a port as the compiler does."""
    from lava.magma.compiler.utils import PortInitializer

    dtype = getattr(model, port.name).d_type
    return PortInitializer(port.name, port.shape, dtype, type(port).__name__, 1, None)


def model_class(process: Any) -> Any:
    """The model that Lava itself would select; searching imports every file beside the process, so once per kind."""
    from lava.magma.compiler.compiler_graphs import ProcGroupDiGraphs
    from lava.magma.core.run_configs import Loihi2SimCfg

    kind = type(process)
    if kind not in SELECTED:
        candidates = ProcGroupDiGraphs._find_proc_models(process)
        SELECTED[kind] = Loihi2SimCfg(select_tag="fixed_pt").select(process, candidates)
    return SELECTED[kind]


def warm() -> None:
    """Select the models of the stock processes now rather than in every fork."""
    from lava.proc.io.source import RingBuffer
    from lava.proc.lif.process import LIF, LIFReset
    from lava.proc.sparse.process import DelaySparse, Sparse

    one = np.ones((1, 1), dtype=np.int64)
    stock = (LIF(shape=(1,)), LIFReset(shape=(1,)), RingBuffer(data=one), Sparse(weights=one))
    for process in (*stock, DelaySparse(weights=one, delays=1)):
        model_class(process)
