"""What the recorders do in each step on the CPU."""

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyRefPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

from recorder.process import Guard, Probe, Tap


class Windows(PyLoihiProcessModel):
    """Rows [step, sample] of files, from wall-clock steps."""

    def __init__(self, proc_params):
        super().__init__(proc_params)
        self._rows = {}

    def place(self):
        """Return (step, sample) of the current wall step, or None before the first and after the last window."""
        wall = self.time_step - 1 - self.proc_params["offset"]  # Lava counts steps from 1
        sample, step = divmod(wall, self.proc_params["timesteps"])
        return (step, sample) if 0 <= sample < self.proc_params["samples"] else None

    def write(self, name, values):
        """Put ``values`` where the current wall step belongs."""
        place = self.place()
        if place is None:
            return
        if name not in self._rows:
            file, dtype = self.proc_params["files"][name]
            shape = (self.proc_params["timesteps"], self.proc_params["samples"], *self.proc_params["features"])
            self._rows[name] = np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=shape)
        self._rows[name][place] = values.reshape(self.proc_params["features"])


@implements(proc=Tap, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyTapModel(Windows):
    """Receive and write."""

    data: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)

    def run_spk(self):
        """Receive once per step, as every port must."""
        self.write("data", self.data.recv())


@implements(proc=Probe, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyProbeModel(Windows):
    """Receive spikes in the spiking phase, read the states in the management phase that follows it."""

    data: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    u: PyRefPort = LavaPyType(PyRefPort.VEC_DENSE, np.int32)
    v: PyRefPort = LavaPyType(PyRefPort.VEC_DENSE, np.int32)

    def run_spk(self):
        """Receive once per step, as every port must."""
        self.write("data", self.data.recv())

    def post_guard(self):
        """Ask for the management phase in the steps that are kept."""
        return self.place() is not None

    def run_post_mgmt(self):
        """Read both states after this step's update."""
        self.write("u", self.u.read())
        self.write("v", self.v.read())


@implements(proc=Guard, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyGuardModel(PyLoihiProcessModel):
    """Integrate, compare, and write whenever the largest magnitude grows."""

    data: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params):
        super().__init__(proc_params)
        self._u, self._largest = 0, None

    def run_spk(self):
        """Receive once per step, as every port must."""
        given, received = self.proc_params, self.data.recv().astype(np.int64)
        interval = given["reset_interval"]
        into = (self.time_step - given["reset_offset"]) % interval if interval else 1  # steps since the reset
        if into == 0:
            self._u = 0
        kept = self._u * (4095 - given["decay_u"])
        self._u = np.sign(kept) * (np.abs(kept) >> 12) + (received << 6)
        if given["steps"] and into >= given["steps"]:
            self._u = 0 * received
        if self._largest is None:
            self._largest = np.lib.format.open_memmap(given["file"], mode="w+", dtype=np.int64, shape=(1,))
        self._largest[0] = max(self._largest[0], np.abs(self._u).max())
