"""Lava Processes for products of activity with activity, and for norms of counts, which no stock Process forms.

A message holds one integer per neuron, flattened in (channel, token) order; that of a map in (head, query, key) order.
D channels are split into heads of ``d = D / heads`` consecutive ones. Steps are wall-clock steps, counted from 0.
"""

from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess


class Product(AbstractProcess):
    """What all products share: one in-port per factor (``FACTORS``, in order) and the out-port ``out``.

    ``window`` steps are multiplied together. For w = start, start + window, start + 2 window, ... the messages that
    factor i received in steps ``w - window - delays[i]`` to ``w - 1 - delays[i]`` (nothing before step 0) give what is
    sent in steps w to ``w + window - 1``. Before ``start``, zeros are sent.

    Args:
        sizes: neurons of each factor and, last, of the result; they follow from the arguments of the children.
        gain: integer that multiplies every result.
        delays: for each factor, the steps that its messages wait.
        window: 1, or the steps of a sample.
        start: first step of the first window.
        own: channels (D) and, where there are any, heads.
    """

    FACTORS = ()

    def __init__(self, *, sizes, gain, delays, window, start, **own):
        super().__init__(sizes=sizes, gain=gain, delays=delays, window=window, start=start, **own)
        for name, size in zip(self.FACTORS, sizes[:-1], strict=True):
            setattr(self, name, InPort(shape=(size,)))
        self.out = OutPort(shape=(sizes[-1],))


class SpaceAttention(Product):
    """``out[t, m] = gain sum_n (q[t, m] . k[t, n]) v[t, n]`` per head, over the ``keys`` tokens n of a step."""

    FACTORS = ("q", "k", "v")

    def __init__(self, *, heads, channels, tokens, keys, **common):
        sizes = (channels * tokens, channels * keys, channels * keys, channels * tokens)
        super().__init__(sizes=sizes, heads=heads, channels=channels, **common)


class TimeAttention(Product):
    """``out[t, n] = gain sum_s (q[t, n] . k[s, n]) v[s, n]`` per head, over the steps s of a window."""

    FACTORS = ("q", "k", "v")

    def __init__(self, *, heads, channels, tokens, **common):
        super().__init__(sizes=(channels * tokens,) * 4, heads=heads, channels=channels, **common)


class AttentionMap(Product):
    """``out[h, m, n] = gain (q[h, :, m] . k[h, :, n])``."""

    FACTORS = ("q", "k")

    def __init__(self, *, heads, channels, tokens, **common):
        sizes = (channels * tokens, channels * tokens, heads * tokens * tokens)
        super().__init__(sizes=sizes, heads=heads, channels=channels, **common)


class MappedValues(Product):
    """``out[h, :, m] = gain sum_n chosen[h, m, n] v[h, :, n]``."""

    FACTORS = ("chosen", "v")

    def __init__(self, *, heads, channels, tokens, **common):
        sizes = (heads * tokens * tokens, channels * tokens, channels * tokens)
        super().__init__(sizes=sizes, heads=heads, channels=channels, **common)


class ProductOfSums(Product):
    """``out[t, c, n] = gain sum_m x[t, c, m] sum_s y[s, c, n]``, over the tokens m and the steps s of a window."""

    FACTORS = ("x", "y")

    def __init__(self, *, channels, tokens, **common):
        super().__init__(sizes=(channels * tokens,) * 3, channels=channels, **common)


class UnitCurrent(Product):
    """The host's share of a network that joins vectors of length 1: a current held for a window, from spike counts.

    ``z = sum_s x[s]`` over the steps of a window, ``e = rint(2^15 z / |z|)`` (0 of nothing but zeros),
    ``out = gain ((weight e + bias + half) >> shift)``, ``half = 2^(shift - 1)``, or 0 where shift is 0.

    Args:
        lengths: neurons of each factor.
        summed: for each factor, how many neurons in a row have one count together: 1, or all tokens of a channel.
        weight: integers (n, counts of all factors, one factor after the other).
        bias: integers (n,).
        shift: bits.
    """

    FACTORS = ("x",)

    def __init__(self, *, lengths, summed, shift, weight, bias, **common):
        own = {"summed": summed, "shift": shift, "weight": weight, "bias": bias}
        super().__init__(sizes=(*lengths, len(bias)), **own, **common)


class PairedUnitCurrent(UnitCurrent):
    """The same of two populations; each vector has length 1."""

    FACTORS = ("x", "y")


class LayerNorm(Product):
    """The host's share of a layer norm: sums of synapses to deviations from their mean, over the channels of a token.

    With ``x = received + bias``, ``z = n x - sum x`` and ``r = sqrt(n sum x^2 - (sum x)^2 + eps)`` over n channels:
    ``out = gain rint(2^shift z / r)``, 0 where r is 0; where ``variant``, ``out = gain rint(2^-shift z r)``.

    Args:
        channels: n.
        size: neurons, n of every token.
        shift: bits.
        eps: integer.
        variant: 0 or 1.
        bias: integers (size,).
    """

    FACTORS = ("x",)

    def __init__(self, *, channels, size, shift, eps, variant, bias, **common):
        own = {"channels": channels, "shift": shift, "eps": eps, "variant": variant, "bias": bias}
        super().__init__(sizes=(size, size), **own, **common)


class StepGain(Product):
    """The host's share of a gain that differs from step to step: ``out = gain x ((w + bias + half) >> shift)``.

    Args:
        size: neurons; w is one number.
        shift: bits; half is ``2^(shift - 1)``, or 0 where shift is 0.
        bias: integers (1,).
    """

    FACTORS = ("x", "w")

    def __init__(self, *, size, shift, bias, **common):
        super().__init__(sizes=(size, 1, size), shift=shift, bias=bias, **common)


_ATTENDING = (SpaceAttention, TimeAttention, AttentionMap, MappedValues)
_HOSTED = (UnitCurrent, PairedUnitCurrent, LayerNorm, StepGain)
KINDS = {kind.__name__: kind for kind in (*_ATTENDING, ProductOfSums, *_HOSTED)}
