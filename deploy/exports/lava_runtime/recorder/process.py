"""Lava Processes that write what they hear to .npy files, because reading a Lava Var costs 20 us per element."""

from math import prod

from lava.magma.core.process.ports.ports import InPort, RefPort
from lava.magma.core.process.process import AbstractProcess


class Tap(AbstractProcess):
    """Write every message of ``data`` to a file, cut into windows.

    Args:
        features: shape of a message before it was flattened.
        timesteps, samples, offset: the message of wall step ``k timesteps + t + offset`` goes to row [t, k].
        files: {"data": (.npy file to write, dtype)}; it becomes (timesteps, samples, *features).
    """

    def __init__(self, *, features, timesteps, samples, offset, files):
        super().__init__(features=features, timesteps=timesteps, samples=samples, offset=offset, files=files)
        self.data = InPort(shape=(prod(features),))


class Probe(Tap):
    """Write messages (``data``) and the states ``u`` and ``v`` after the same step; ``files`` names all three."""

    def __init__(self, **options):
        super().__init__(**options)
        self.u = RefPort(shape=self.data.shape)
        self.v = RefPort(shape=self.data.shape)


class Guard(AbstractProcess):
    """Keep the largest magnitude that ``data`` ever had in ``file``, an int64 array of one element."""

    def __init__(self, *, shape, file):
        super().__init__(shape=shape, file=file)
        self.data = InPort(shape=shape)
