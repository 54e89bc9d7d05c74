"""Labelled samples for fine-tuning: integers of the graph's inputs, what is right, and what the real network says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from avsnn.convert.ir.graph import Graph
from avsnn.convert.ir.interpreter import interpret
from avsnn.convert.ir.node import Array
from avsnn.errors import InputError
from avsnn.train.data.dataset import Data

AT_ONCE = 100  # samples that a teacher is asked about together
Teacher = Callable[[Mapping[str, Array]], Array]
"""Inputs by name to answers (B, K)."""


class Samples(Protocol):
    """Samples by number."""

    def __len__(self) -> int:
        """How many there are."""

    def values(self, chosen: Array) -> dict[str, Array]:
        """Inputs of some samples, as a user has them."""

    def targets(self, chosen: Array) -> dict[str, Array]:
        """What is right: ``label``, and ``azimuth`` where directions are asked for."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawn:
    """Samples of a data set; it stays as compact as it is."""

    data: Data
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.data)

    def values(self, chosen: Array) -> dict[str, Array]:
        """Inputs of some samples."""
        found = self.data[chosen].inputs()
        return {name: found[name] for name in self.names}

    def targets(self, chosen: Array) -> dict[str, Array]:
        """What is right."""
        return dict(self.data[chosen].targets())


def batch_axes(graph: Graph) -> dict[str, int]:
    """Return which axis of each input counts samples: 0 where it is held, 1 where a sequence."""
    return {node.name: 0 if getattr(node, "coding", "direct") == "direct" else 1 for node in graph if not node.inputs}


@dataclass(frozen=True, kw_only=True, eq=False)
class Given:
    """Samples in arrays: inputs (B, ...), or (T, B, ...) where a sequence."""

    inputs: Mapping[str, Array]
    goals: Mapping[str, Array]
    batch_axis: Mapping[str, int]

    @staticmethod
    def of(graph: Graph, inputs: Mapping[str, Array], goals: Mapping[str, Array]) -> Given:
        """Check that arrays fit ``graph`` in number."""
        axes = batch_axes(graph)
        given = {name: np.asarray(inputs[name]) for name in axes if name in inputs}
        counts = {x.shape[axes[name]] for name, x in given.items()} | {len(x) for x in goals.values()}
        if len(given) != len(axes) or len(counts) != 1:
            found = f"{', '.join(given)}; numbers of samples {sorted(counts)}"
            raise InputError("samples do not fit the network", where="fine-tuning", found=found)
        return Given(inputs=given, goals=dict(goals), batch_axis=axes)

    def __len__(self) -> int:
        return len(next(iter(self.goals.values())))

    def values(self, chosen: Array) -> dict[str, Array]:
        """Inputs of some samples."""
        return {name: np.take(x, chosen, axis=self.batch_axis[name]) for name, x in self.inputs.items()}

    def targets(self, chosen: Array) -> dict[str, Array]:
        """What is right."""
        return {name: x[chosen] for name, x in self.goals.items()}

    def split(self, share: float, rng: np.random.Generator) -> tuple[Given, Given]:
        """(most of the samples, a share of them that training never sees)."""
        order = rng.permutation(len(self))
        held = max(1, int(share * len(self)))
        parts = []
        for chosen in (np.sort(order[held:]), np.sort(order[:held])):
            if not len(chosen):
                raise InputError("too few samples to fine-tune", where="fine-tuning", found=len(self))
            parts.append(Given(inputs=self.values(chosen), goals=self.targets(chosen), batch_axis=self.batch_axis))
        return parts[0], parts[1]


def module_teacher(module: nn.Module) -> Teacher:
    """The network as it was trained, in single precision."""
    module = module.eval()

    def answer(inputs: Mapping[str, Array]) -> Array:
        given = {name: torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)) for name, x in inputs.items()}
        with torch.no_grad():
            found: Array = module(**given).cpu().numpy()
        return found

    return answer


def graph_teacher(folded: Graph) -> Teacher:
    """The folded graph, for networks whose code is not there: slower."""

    def answer(inputs: Mapping[str, Array]) -> Array:
        found: Array = interpret(folded, inputs).outputs[folded.outputs[0]]
        return found

    return answer


def taught(teacher: Teacher, samples: Samples) -> Array:
    """What the teacher answers on all samples, (N, K) float32."""
    found: list[Any] = []
    for begin in range(0, len(samples), AT_ONCE):
        chosen = np.arange(begin, min(begin + AT_ONCE, len(samples)))
        found.append(teacher(samples.values(chosen)).astype(np.float32))
    return np.concatenate(found)


def blended(
    values: Mapping[str, Array], first: int, batch_axis: Mapping[str, int], rng: np.random.Generator
) -> dict[str, Array]:
    """Return inputs of samples from ``first`` on, each blended with the same input of another sample of the batch.

    ``a x + (1 - a) y``, a uniform, where an input is held, else x or y as a whole; every input on its own. A teacher
    answers to these, too, and whoever learns that does what the teacher does on more than training samples (Beyer et
    al., 2022).
    """
    found = {}
    for name, x in values.items():
        x = np.moveaxis(x, batch_axis[name], 0)
        count = len(x) - first
        share = rng.random(count) if batch_axis[name] == 0 else rng.integers(0, 2, count)
        share = share.reshape(-1, *(1,) * (x.ndim - 1))
        mixed = share * x[first:] + (1 - share) * x[rng.permutation(len(x))[:count]]
        found[name] = np.moveaxis(mixed.astype(x.dtype), 0, batch_axis[name])
    return found
