"""A Lava Process for integrate-and-fire neurons that subtract when they fire, or rest before their next window.

Stock ones set v to 0, and work in every step.
"""

from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.process.variable import Var


class WindowLIF(AbstractProcess):
    """LIFReset with other resets and an end to its window: same arguments, same integers, same ports and Vars.

    Per step, tz dividing by 4096 toward zero and clip at +-(2^23 - 1)::

        u = tz(u (4095 - du)) + (a_in << 6)
        v = clip(tz(v (4096 - dv)) + u + (bias_mant << bias_exp))
        s_out = v > (vth << 6)
        v = v - subtract where s_out

    ``reset`` "subtract" is this. "hard": v = 0 where s_out. "subtract_delayed": what is subtracted is taken from the v
    of the next step instead, before its clip, undecayed.

    Args:
        shape: (n,).
        du, dv: decays in 1 / 4096; -1 to 4095 and 0 to 4096.
        vth, bias_mant, subtract: integers or arrays (n,); ``subtract`` in units of v.
        bias_exp: shift of all biases.
        reset: "hard", "subtract" or "subtract_delayed".
        reset_interval, reset_offset: u, v and what is left to subtract are 0 before steps (counted from 1) with
            ``step % reset_interval == reset_offset % reset_interval``; interval 0 never resets.
        steps: 0, or how many steps there are from a reset until u, v and messages are 0 up to the next one.
    """

    def __init__(
        self, *, shape, du, dv, vth, bias_mant, bias_exp, subtract, reset, reset_interval, reset_offset, steps
    ):
        whole = {"du": du, "dv": dv, "bias_exp": bias_exp, "reset": reset, "steps": steps}
        super().__init__(shape=shape, **whole, reset_interval=reset_interval, reset_offset=reset_offset)
        self.a_in = InPort(shape=shape)
        self.s_out = OutPort(shape=shape)
        self.u = Var(shape=shape, init=0)
        self.v = Var(shape=shape, init=0)
        self.vth = Var(shape=shape, init=vth)
        self.bias_mant = Var(shape=shape, init=bias_mant)
        self.subtract = Var(shape=shape, init=subtract)
