"""What the neurons do in each step on the CPU: int64 inside, int32 Vars and messages."""

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

from neurons.process import WindowLIF

TOP = 2**23 - 1  # u and v are 24-bit signed; a run whose u leaves them is refused by its guard


def decayed(x, keep):
    """``x keep / 4096`` in int64, rounded toward zero."""
    quotient = np.abs(x.astype(np.int64)) * keep // 4096
    return np.where(x < 0, -quotient, quotient)


@implements(proc=WindowLIF, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyWindowLIFModel(PyLoihiProcessModel):
    """Integrate, compare, reset now or in the next step; or rest."""

    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)
    u: np.ndarray = LavaPyType(np.ndarray, np.int32)
    v: np.ndarray = LavaPyType(np.ndarray, np.int32)
    vth: np.ndarray = LavaPyType(np.ndarray, np.int32)
    bias_mant: np.ndarray = LavaPyType(np.ndarray, np.int32)
    subtract: np.ndarray = LavaPyType(np.ndarray, np.int32)

    def __init__(self, proc_params):
        super().__init__(proc_params)
        self._owed = np.zeros(proc_params["shape"], dtype=np.int64)

    def run_spk(self):
        """One step."""
        given, arrived = self.proc_params, self.a_in.recv().astype(np.int64)
        interval = given["reset_interval"]
        into = (self.time_step - given["reset_offset"]) % interval if interval else 1  # steps since the reset
        rests = given["steps"] and into >= given["steps"]
        if into == 0 or rests:
            self.u[:], self.v[:], self._owed[:] = 0, 0, 0
        if rests:
            self.s_out.send(np.zeros(self.v.shape, dtype=bool))
            return
        u = decayed(self.u, 4095 - given["du"]) + arrived * 64
        v = decayed(self.v, 4096 - given["dv"]) + u + self.bias_mant.astype(np.int64) * 2 ** given["bias_exp"]
        v = np.minimum(np.maximum(v - self._owed, -TOP), TOP)
        spikes = v > self.vth.astype(np.int64) * 64
        lost = spikes * self.subtract.astype(np.int64)
        if given["reset"] == "subtract_delayed":
            self._owed = lost
        else:
            v = np.where(spikes, 0, v) if given["reset"] == "hard" else v - lost
        self.u[:], self.v[:] = u, v
        self.s_out.send(spikes)
