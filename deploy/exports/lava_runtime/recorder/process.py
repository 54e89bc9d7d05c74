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
    """Integrate u of a population on its own, in int64, and keep its largest magnitude in ``file``.

    ``u = tz(u (4095 - decay_u)) + (data << 6)`` where tz divides by 4096 toward zero; u = 0 before the steps
    (counted from 1) with ``step % reset_interval == reset_offset % reset_interval``, and in those in which it rests.

    Args:
        shape: of the population, (n,).
        decay_u, reset_interval, reset_offset, steps: of the population; interval 0 never resets, 0 steps never rest.
        file: .npy file to write, int64 (1,).
    """

    def __init__(self, *, shape, decay_u, reset_interval, reset_offset, steps, file):
        times = {"reset_interval": reset_interval, "reset_offset": reset_offset, "steps": steps}
        super().__init__(decay_u=decay_u, **times, file=file)
        self.data = InPort(shape=shape)
