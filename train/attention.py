"""Spikes of two modalities to attention currents: the products that no synapse with fixed weights can form.

Each is one node to the tracer. All take and return (T, B, D, *tokens), where ``*tokens`` is any number of axes (height
and width, or one), and split D into heads of ``d = D / heads`` consecutive channels. Queries, keys and values are
spikes, so every product is an integer count times ``scale``, exact in float32 and in any order of multiplication.
Equations: Zhou et al., Spikformer (2023); He et al., S-CMRL (2025).
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from avsnn.errors import InputError

Over = Literal["space", "time"]


def _split(x: Tensor, heads: int) -> Tensor:
    """(T, B, D, *tokens) -> (T, B, heads, d, N)."""
    tokens = x.flatten(3)
    return tokens.reshape(*x.shape[:2], heads, -1, tokens.shape[3])


class SpikeAttention(nn.Module):
    """``a = scale * (q k^T) v`` per head, among the tokens of one step or among the steps of one token.

    ``over="space"``: ``a[t, :, m] = scale * sum_n (q[t, :, m] . k[t, :, n]) v[t, :, n]``, computed as ``(v k^T) q``,
    which costs N d^2 rather than N^2 d; queries may have another number of tokens than keys and values.
    ``over="time"``: ``a[t, :, n] = scale * sum_s (q[t, :, n] . k[s, :, n]) v[s, :, n]``; s runs over the whole window,
    so the first step depends on the last one.

    Args:
        heads: parts of D that attend by themselves; divides D.
        scale: factor of the counts.
        over: what is attended to.

    Raises:
        InputError: ``over`` is neither.
    """

    def __init__(self, heads: int, scale: float, *, over: Over) -> None:
        super().__init__()
        if over not in get_args(Over):
            raise InputError("unknown axis", where="SpikeAttention", found=repr(over), limit=", ".join(get_args(Over)))
        self.heads, self.scale, self.over = heads, float(scale), over

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the currents, of the shape of ``q``."""
        queries, keys, values = (_split(x, self.heads) for x in (q, k, v))
        if self.over == "space":
            found = (values @ keys.transpose(-1, -2)) @ queries
        else:
            found = torch.zeros_like(queries)
            for key, value in zip(keys, values, strict=True):
                found = found + (queries * key).sum(3, keepdim=True) * value
        return (found * self.scale).reshape(q.shape)

    def extra_repr(self) -> str:
        """Return the settings for `repr`."""
        return f"heads={self.heads}, scale={self.scale}, over={self.over}"


class PositionedScores(nn.Module):
    """``s[t, h, m, n] = q[t, h, :, m] . k[t, h, :, n] + bias[m, n]``: scores that know where tokens are on their grid.

    ``bias[m, n] = table[row(m) - row(n) + H, column(m) - column(n) + W]`` with a table of (2 H + 1, 2 W + 1), whose
    outermost rows and columns stay unused, as in the authors' code.

    Args:
        heads: as in `SpikeAttention`.
        grid: height H and width W of the tokens, the same for queries and keys.
        seed: None for a table that starts at 0 and is learned; otherwise it is drawn once, normally distributed, and
            stays.
    """

    table: Tensor
    place: Tensor

    def __init__(self, heads: int, grid: tuple[int, int], *, seed: int | None = None) -> None:
        super().__init__()
        self.heads, self.grid = heads, grid
        size = (2 * grid[0] + 1, 2 * grid[1] + 1)
        if seed is None:
            self.table = nn.Parameter(torch.zeros(size))
        else:
            self.register_buffer("table", torch.randn(size, generator=torch.Generator().manual_seed(seed)))
        rows, columns = (x.flatten() for x in torch.meshgrid(*map(torch.arange, grid), indexing="ij"))
        place = (rows[:, None] - rows + grid[0]) * size[1] + (columns[:, None] - columns + grid[1])
        self.register_buffer("place", place, persistent=False)

    def forward(self, q: Tensor, k: Tensor) -> Tensor:
        """Return the scores of queries and keys (T, B, D, H, W): (T, B, heads, N, N)."""
        queries, keys = _split(q, self.heads), _split(k, self.heads)
        return queries.transpose(-1, -2) @ keys + self.table.flatten()[self.place]

    def extra_repr(self) -> str:
        """Return the settings for `repr`."""
        return f"heads={self.heads}, grid={self.grid}"


class MappedValues(nn.Module):
    """``a[t, :, m] = scale * sum_n map[t, h, m, n] v[t, :, n]``: values summed where a binary map says so."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = float(scale)

    def forward(self, chosen: Tensor, v: Tensor) -> Tensor:
        """Return the currents of map (T, B, heads, N, N) and values (T, B, D, *tokens), of the shape of ``v``."""
        found = _split(v, chosen.shape[2]) @ chosen.transpose(-1, -2)
        return (found * self.scale).reshape(v.shape)

    def extra_repr(self) -> str:
        """Return the settings for `repr`."""
        return f"scale={self.scale}"


class ProductOfMeans(nn.Module):
    """``r[t, c, n] = mean_n(x[t, c, n]) * mean_t(y[t, c, n])``: non-causal, as the second mean needs all steps."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the product of ``x`` and ``y``, both (T, B, D, *tokens), of their shape."""
        over_tokens = x.flatten(3).mean(3).reshape(*x.shape[:3], *(1 for _ in x.shape[3:]))
        return over_tokens * y.mean(0)


class AddScaled(nn.Module):
    """``x + gain * r``."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = float(gain)

    def forward(self, x: Tensor, r: Tensor) -> Tensor:
        """Return the sum, of the shape of ``x``."""
        return torch.add(x, r, alpha=self.gain)

    def extra_repr(self) -> str:
        """Return the gain for `repr`."""
        return f"gain={self.gain}"


class StepGain(nn.Module):
    """``w[t] x[t]``: a gain per step and sample."""

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Return the product of ``x`` (T, B, D, *tokens) and ``w`` (T, B, 1), of the shape of ``x``."""
        return x * w.reshape(*w.shape, *(1 for _ in x.shape[3:]))


class TokenMean(nn.Module):
    """(T, B, D, *tokens) -> (T, B, D)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean over tokens."""
        return x.flatten(3).mean(3)
