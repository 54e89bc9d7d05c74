"""Turns a batch into streams of samples that follow each other in wall-clock time, and records back into a batch.

``streams`` run side by side, each with ``length`` samples back to back, T steps each, then ``tail`` steps until the
deepest population has seen the last sample. Sample number ``p * length + k`` is the k-th of stream p. Step t of it
reaches a population of offset o at wall step ``k T + t + o``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from avsnn.convert.ir.node import Array

TAIL_SHARE = 8  # a stream is this many times longer than its tail, if the batch has the samples


@dataclass(frozen=True, kw_only=True)
class Streams:
    """How ``batch`` samples of ``timesteps`` steps are laid out."""

    batch: int
    timesteps: int
    tail: int
    streams: int
    length: int

    @property
    def steps(self) -> int:
        """Wall steps of every stream."""
        return self.length * self.timesteps + self.tail

    def samples(self, first: int, last: int) -> Array:
        """Sample numbers of streams [first, last): (streams, length). What is left of the last one repeats samples."""
        numbers = np.arange(first * self.length, last * self.length).reshape(-1, self.length)
        return numbers % self.batch

    def to_wall(self, x: Array) -> Array:
        """Windows (T, streams, length, *shape) to wall time (steps, streams, *shape), zeros in the tail."""
        T, streams, length, *shape = x.shape
        wall = np.zeros((self.steps, streams, *shape), dtype=x.dtype)
        wall[: length * T] = x.transpose(2, 0, 1, *range(3, x.ndim)).reshape(length * T, streams, *shape)
        return wall

    def to_windows(self, wall: Array, offset: int) -> Array:
        """Wall time (steps, streams, *shape) to a view (length, T, streams, *shape) of what is seen ``offset`` late."""
        T = self.timesteps
        cut = wall[offset : offset + self.length * T]
        return cut.reshape(self.length, T, *wall.shape[1:])

    def store(self, wall: Array, offset: int, first: int, out: Array) -> None:
        """Cut ``wall`` of the streams from ``first`` on and write it to its samples in out: (T, batch, *shape)."""
        self.per_sample(self.to_windows(wall, offset).swapaxes(1, 2), first, out.swapaxes(0, 1))

    def per_sample(self, values: Array, first: int, out: Array) -> None:
        """Write values (length, streams, ...), the streams from ``first`` on, to their samples in out: (batch, ...)."""
        for p in range(values.shape[1]):
            start = (first + p) * self.length
            stop = min(start + self.length, self.batch)
            out[start:stop] = values[: stop - start, p]


def lay_out(batch: int, timesteps: int, tail: int, *, windowed: bool, streams: int | None, longest: int) -> Streams:
    """Choose streams: at least two samples in each where there are two, so that every run exercises its resets.

    Args:
        batch: samples.
        timesteps: T.
        tail: the largest offset.
        windowed: whether samples may follow each other; otherwise every stream is one sample.
        streams: how many side by side, or None to choose.
        longest: samples that one stream may have, for memory.
    """
    if streams is None:
        wanted = max(2, min(-(-TAIL_SHARE * tail // timesteps), longest))
        length = min(batch, wanted) if windowed else 1
        streams = -(-batch // length)
    length = -(-batch // streams) if windowed else 1
    return Streams(batch=batch, timesteps=timesteps, tail=tail, streams=-(-batch // length), length=length)
