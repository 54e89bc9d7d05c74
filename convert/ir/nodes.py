"""Float nodes: what a network means before quantisation (stages ``traced`` and ``folded``).

x is activity (time, batch, *features); a directly coded input is constant over time. All arithmetic is float64.

Parts of a network may have windows of n < T steps (``steps`` = n; 0 stands for T). Such a population works in the first
n steps of every window of T and rests in the others: no spikes, ``v = 0``. What counts or averages the steps of such a
part counts those n, so that it means what the part alone, run for n steps, means.
"""

from __future__ import annotations

from dataclasses import dataclass

from avsnn.convert.ir.node import Array, Node

Pair = tuple[int, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class Input(Node):
    """``x[t] = x`` for ``coding="direct"`` (one array (B, *shape) held for all steps), else ``x[t]`` is given.

    Values lie in [low, high] and are multiples of ``step`` once quantised; others are refused, never clipped.
    A sequence of ``steps`` steps is 0 in those after it.
    """

    coding: str = "direct"
    low: float = 0.0
    high: float = 1.0
    step: float = 1 / 255
    steps: int = 0


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
    threshold: one number, or an array that broadcasts to shape.
    layout: where the module has its neurons in another order (tokens last first), which of the neurons each of them is.
    Reset ``subtract_delayed``: ``u[t] = decay u[t-1] + gain x[t] - threshold s[t-1]``, what is subtracted does not
    decay; ``u[-1] = s[-1] = 0``. The recorded state is ``v = u[t]``, as the subtraction is still to come.
    From step ``steps`` on (if it is not 0), ``s[t] = v[t] = 0``.
    ``current_decay`` other than 0: the neuron has a synaptic current, ``i[t] = current_decay i[t-1] + x[t]``,
    ``i[-1] = 0``, which takes the place of x[t], and which no spike resets. It is recorded as the state ``u = i[t]``.
    """

    decay: float
    gain: float
    threshold: float | Array
    reset: str = "hard"
    strict: bool = False
    current_decay: float = 0.0
    layout: Array | None = None
    steps: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Attention(Node):
    """``a = scale (q k^T) v`` of the inputs (q, k, v), per head of ``D / heads`` consecutive channels.

    ``over="space"``: ``a[t, m] = scale sum_n (q[t, m] . k[t, n]) v[t, n]`` over the tokens of a step;
    ``over="time"``: ``a[t, n] = scale sum_s (q[t, n] . k[s, n]) v[s, n]`` over the window, so step 0 needs the last.
    """

    heads: int
    scale: float
    over: str
    steps: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class AttentionMap(Node):
    """``s[h, m, n] = q[h, :, m] . k[h, :, n] + bias[m, n]`` of the inputs (q, k); shape (heads, N, N), bias (N, N)."""

    heads: int
    bias: Array


@dataclass(frozen=True, kw_only=True, eq=False)
class MappedValues(Node):
    """``a[h, :, m] = scale sum_n map[h, m, n] v[h, :, n]`` of the inputs (map, v)."""

    scale: float


@dataclass(frozen=True, kw_only=True, eq=False)
class ProductOfMeans(Node):
    """``r[t, c, n] = mean_n(x[t, c, n]) mean_t(y[t, c, n])`` of the inputs (x, y): step 0 needs the last."""

    steps: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class StepGain(Node):
    """``w[t] x[t]`` of the inputs (x, w), w of shape (1,)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scale(Node):
    """``y = gain x``."""

    gain: float


@dataclass(frozen=True, kw_only=True, eq=False)
class DSLN(Node):
    """``y[c, i] = gamma[c] (x[c, i] - mean_c x[c, i]) / sqrt(var[i] + eps) + beta[c]``: dynamic mean, frozen variance.

    var: () for one variance, or the shape of the positions i behind the channels; gamma, beta: (C,).
    """

    var: Array
    gamma: Array
    beta: Array
    eps: float = 1e-5


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerNorm(Node):
    """``y = gamma (x - mean) / d + beta``, ``d = sqrt(variance + eps)`` over channels; ``variant`` multiplies by d."""

    gamma: Array
    beta: Array
    variant: bool = False
    eps: float = 1e-5


@dataclass(frozen=True, kw_only=True, eq=False)
class Unit(Node):
    """``y = x / |x|``, Euclidean length over all features; a vector of zeros stays one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Permute(Node):
    """Feature axes in another order, then read as ``shape``: ``y = x.transpose(axes).reshape(shape)``."""

    axes: tuple[int, ...]


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

    steps: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class LeakyIntegrator(Node):
    """``v[t] = decay v[t-1] + gain i[t]``, ``i[t] = current_decay i[t-1] + x[t]``: emits v, a number, at every step."""

    decay: float
    gain: float
    current_decay: float = 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class LastStep(Node):
    """``x[T-1]``: what it emits has no time any more, like a `MeanTime`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Readout(Node):
    """``y = (1 / T) sum_t sum_i x_i[t] + bias``: the network's answer, read once per window; bias: shape.

    step_weights: (T,), what each step counts in place of 1 / T, or None.
    """

    bias: Array
    step_weights: Array | None = None
