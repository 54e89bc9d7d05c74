"""What the products do in each step on the CPU: int64 inside; the export made sure that results fit int32 messages."""

import math
from collections import deque

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

from products.process import (
    AttentionMap,
    LayerNorm,
    MappedValues,
    PairedUnitCurrent,
    ProductOfSums,
    SpaceAttention,
    StepGain,
    TimeAttention,
    UnitCurrent,
)

UNIT = 2**15  # an integer that stands for 1.0 in a vector of length 1


class Windows(PyLoihiProcessModel):
    """Send what earlier messages gave, then receive: as synapses do, so that no circle of processes waits for ever."""

    def __init__(self, proc_params):
        super().__init__(proc_params)
        *sizes, result = proc_params["sizes"]
        self._window, self._start = proc_params["window"], proc_params["start"]
        self._lines = []  # for each factor the messages that are still needed, oldest first
        for size, delay in zip(sizes, proc_params["delays"], strict=True):
            length = self._window + delay
            self._lines.append(deque([np.zeros(size, dtype=np.int64)] * length, maxlen=length))
        self._formed = np.zeros((self._window, result), dtype=np.int64)

    def run_spk(self):
        """Send once and receive once on every port, in the order in which the model names them."""
        factors = [getattr(self, name) for name, kind in type(self).__annotations__.items() if kind is PyInPort]
        wall = self.time_step - 1  # Lava counts steps from 1
        step = (wall - self._start) % self._window
        if wall >= self._start and step == 0:
            windows = (np.stack([line[s] for s in range(self._window)]) for line in self._lines)
            self._formed = self.form(*windows).reshape(self._formed.shape) * self.proc_params["gain"]
        self.out.send(self._formed[step])
        for line, port in zip(self._lines, factors, strict=True):
            line.append(port.recv().astype(np.int64))

    def by_head(self, x):
        """(window, D N) -> (window, heads, d, N)."""
        heads = self.proc_params["heads"]
        return x.reshape(len(x), heads, self.proc_params["channels"] // heads, -1)


@implements(proc=SpaceAttention, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PySpaceAttentionModel(Windows):
    """One query token after the other: what it shares with each key, then the values weighted by that."""

    q: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    k: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    v: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def form(self, q, k, v):
        """Whole windows to their product."""
        queries, keys, values = self.by_head(q), self.by_head(k), self.by_head(v)
        found = np.zeros_like(queries)
        for m in np.flatnonzero(queries.any(axis=(0, 1, 2))):  # a silent query gives 0
            shared = (queries[..., m, None] * keys).sum(axis=2, keepdims=True)  # (window, heads, 1, N)
            found[..., m] = (shared * values).sum(axis=3)
        return found


@implements(proc=TimeAttention, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyTimeAttentionModel(Windows):
    """One pair of steps after the other: what query and key share at each token, times the values."""

    q: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    k: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    v: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def form(self, q, k, v):
        """Whole windows to their product."""
        queries, keys, values = self.by_head(q), self.by_head(k), self.by_head(v)
        found = np.zeros_like(values)
        for t in range(len(found)):
            for key, value in zip(keys, values, strict=True):
                found[t] += (queries[t] * key).sum(axis=1, keepdims=True) * value
        return found


@implements(proc=AttentionMap, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyAttentionMapModel(Windows):
    """One channel after the other: each adds the pairs of tokens that both fire there."""

    q: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    k: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def form(self, q, k):
        """Whole windows to their product."""
        queries, keys = self.by_head(q), self.by_head(k)
        found = np.zeros((*queries.shape[:2], queries.shape[3], keys.shape[3]), dtype=np.int64)
        for channel in range(queries.shape[2]):
            found += queries[:, :, channel, :, None] * keys[:, :, channel, None, :]
        return found


@implements(proc=MappedValues, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyMappedValuesModel(Windows):
    """One key token after the other: its values go to every query that chose it."""

    chosen: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    v: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def form(self, chosen, v):
        """Whole windows to their product."""
        values = self.by_head(v)
        tokens = values.shape[3]
        chosen = chosen.reshape(*values.shape[:2], tokens, tokens)
        found = np.zeros_like(values)
        for n in range(tokens):
            found += chosen[:, :, None, :, n] * values[..., n, None]
        return found


@implements(proc=ProductOfSums, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyProductOfSumsModel(Windows):
    """Spikes of a channel in this step, times spikes of a neuron in the window."""

    x: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    y: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def form(self, x, y):
        """Whole windows to their product."""
        heard = x.reshape(len(x), self.proc_params["channels"], -1).sum(axis=2)  # (window, channels)
        seen = y.sum(axis=0).reshape(self.proc_params["channels"], -1)  # (channels, tokens)
        return heard[:, :, None] * seen[None]


class UnitCurrents(Windows):
    """Counts of a window to one current; the only arithmetic here that is not of integers is a root and a division."""

    def form(self, *windows):
        """Whole windows to the current of the next one, the same in every step."""
        given = self.proc_params
        total = given["bias"].astype(np.int64)
        taken = 0
        for spikes, summed in zip(windows, given["summed"], strict=True):
            vector = of_length_one(spikes.sum(axis=0).reshape(-1, summed).sum(axis=1))
            weight = given["weight"][:, taken : taken + len(vector)].astype(np.int64)
            total = total + (weight * vector).sum(axis=1)
            taken += len(vector)
        half = 2 ** given["shift"] // 2
        return np.broadcast_to((total + half) // 2 ** given["shift"], self._formed.shape)  # // rounds down, as >> does


def of_length_one(counts):
    """``rint(2^15 z / |z|)``: Python's root and division are correctly rounded, and so is the sum under the root."""
    length = math.sqrt(sum(int(count) ** 2 for count in counts))
    if length == 0:
        return np.zeros(len(counts), dtype=np.int64)
    return np.array([round(int(count) * UNIT / length) for count in counts], dtype=np.int64)  # halves to even


@implements(proc=UnitCurrent, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyUnitCurrentModel(UnitCurrents):
    """One population."""

    x: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)


@implements(proc=PairedUnitCurrent, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyPairedUnitCurrentModel(UnitCurrents):
    """Two populations."""

    x: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    y: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)


@implements(proc=LayerNorm, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyLayerNormModel(Windows):
    """One token after the other; a root and a division are all that is not of integers."""

    x: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def form(self, x):
        """Sums of one step to messages."""
        given = self.proc_params
        n = given["channels"]
        tokens = (x[0] + given["bias"]).reshape(n, -1).T
        found = np.zeros(tokens.shape, dtype=np.int64)
        for place, token in enumerate(tokens):
            total = int(token.sum())
            root = math.sqrt(n * int(np.dot(token, token)) - total**2 + given["eps"])
            apart = (n * token - total).astype(np.float64)  # below 2^53, as is what follows
            if given["variant"]:
                found[place] = np.round(apart * root / 2.0 ** given["shift"])  # halves to even
            elif root > 0:
                found[place] = np.round(apart * 2.0 ** given["shift"] / root)
        return found.T


@implements(proc=StepGain, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyStepGainModel(Windows):
    """One number for all."""

    x: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    w: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def form(self, x, w):
        """Sums of one step to messages."""
        given = self.proc_params
        gain = (int(w[0, 0]) + int(given["bias"][0]) + 2 ** given["shift"] // 2) // 2 ** given["shift"]
        return x * gain
