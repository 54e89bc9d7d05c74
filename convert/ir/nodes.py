"""Float nodes: what a network means before quantisation (stages ``traced`` and ``folded``).

x is activity (time, batch, *features); a directly coded input is constant over time. All arithmetic is float64.
"""

from __future__ import annotations

from dataclasses import dataclass

from avsnn.convert.ir.node import Array, Node

Pair = tuple[int, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class Input(Node):
    """``x[t] = x`` for ``coding="direct"`` (one array (B, *shape) held for all steps), else ``x[t]`` is given.

    Values lie in [low, high] and are multiples of ``step`` once quantised; others are refused, never clipped.
    """

    coding: str = "direct"
    low: float = 0.0
    high: float = 1.0
    step: float = 1 / 255


@dataclass(frozen=True, kw_only=True, eq=False)
class Normalise(Node):
    """``y[c] = (x[c] - mean[c]) / std[c]``; mean, std: (C,)."""

    mean: Array
    std: Array


@dataclass(frozen=True, kw_only=True, eq=False)
class Conv2d(Node):
    """``y = weight * x + bias`` (cross-correlation, zero padding).

    weight: (out, in / groups, kernel_h, kernel_w); bias: (out,) or a map (out, height, width), which is what a
    constant folded in front of zero padding needs (it differs at the border).
    """

    weight: Array
    bias: Array
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Linear(Node):
    """``y = weight x + bias`` over the flattened features; weight: (out, in), bias: (out,)."""

    weight: Array
    bias: Array


@dataclass(frozen=True, kw_only=True, eq=False)
class BatchNorm(Node):
    """``y[c] = gamma[c] (x[c] - mean[c]) / sqrt(var[c] + eps) + beta[c]`` with frozen statistics; all (C,)."""

    mean: Array
    var: Array
    gamma: Array
    beta: Array
    eps: float = 1e-5


@dataclass(frozen=True, kw_only=True, eq=False)
class LIF(Node):
    """Leaky integrate and fire: ``u[t] = decay r[t-1] + gain x[t]``, ``s[t] = [u[t] >= threshold]`` and reset.

    Hard reset: ``r[t] = u[t] (1 - s[t])``; subtract: ``r[t] = u[t] - threshold s[t]``. ``strict`` fires on ``>``.
    ``r[-1] = 0``. The recorded state is ``v = r[t]`` (after reset).
    Reset ``subtract_delayed``: ``u[t] = decay u[t-1] + gain x[t] - threshold s[t-1]``, what is subtracted does not
    decay; ``u[-1] = s[-1] = 0``. The recorded state is ``v = u[t]``, as the subtraction is still to come.
    """

    decay: float
    gain: float
    threshold: float
    reset: str = "hard"
    strict: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class MaxPool2d(Node):
    """Maximum over windows; on spikes that is OR. Padding never wins."""

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Add(Node):
    """Sum of all inputs, equal shapes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Concat(Node):
    """All inputs one after another along the first feature axis."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Flatten(Node):
    """(C, H, W) -> (C H W,), C order."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MeanSpace(Node):
    """(C, H, W) -> (C,), mean over height and width."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MeanTime(Node):
    """Mean over the window; what it emits has no time any more (it is constant over the window)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Readout(Node):
    """``y = (1 / T) sum_t sum_i x_i[t] + bias``: the network's answer, read once per window; bias: shape."""

    bias: Array
