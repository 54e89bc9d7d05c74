"""Generated or read samples become what a trainer takes: named float32 inputs, integer targets, and their ranges.

Every input value is an integer times a declared step, so that it can be carried to a chip without rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from avsnn.errors import InputError

Coding = Literal["direct", "sequence"]
Index = slice | int | NDArray[np.integer] | Sequence[int]
Progress = Callable[[int, int], None]
"""Called with (samples made, samples in all)."""


class Data(Protocol):
    """What every data set offers, embedded or the user's own. B samples, T steps where the coding is a sequence."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes in the order of their numbers."""
        ...

    @property
    def coding(self) -> dict[str, Coding]:
        """Per input: ``direct``, an array (B, *shape), or ``sequence``, an array (T, B, *shape)."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: Index) -> Data: ...

    def inputs(self) -> dict[str, NDArray[np.float32]]:
        """What a model's forward takes, by name."""
        ...

    def targets(self) -> dict[str, NDArray[np.int64]]:
        """What a loss compares with, by name; ``label`` (B,) always."""
        ...

    def input_spec(self) -> dict[str, dict[str, Any]]:
        """Per input ``shape`` (without T and B), ``coding``, and ``low``, ``high``, ``step`` of its values."""
        ...

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The integers by name, inputs and targets."""
        ...


@dataclass(frozen=True, kw_only=True)
class Format:
    """How the integers of one input are to be read: ``value = code * step``.

    Args:
        coding: whether axis 0 is time.
        low: least code there can be.
        high: greatest code there can be.
        step: value of one unit; a power of two keeps the float32 values exact.
    """

    coding: Coding
    low: int
    high: int
    step: float

    def values(self, code: NDArray[np.integer]) -> NDArray[np.float32]:
        """The values of `code`: looked up, as there are few."""
        table = (np.arange(self.low, self.high + 1) * self.step).astype(np.float32)
        return table[code - self.low if self.low else code]


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Samples of any kind as integers.

    Args:
        codes: per input (B, *shape), or (T, B, *shape) for a sequence.
        formats: per input, how the codes are to be read.
        goals: per target (B,).
        labels: names of the classes.
        notes: what was changed or lost on the way here, one sentence each.
    """

    codes: Mapping[str, NDArray[Any]]
    formats: Mapping[str, Format]
    goals: Mapping[str, NDArray[np.int64]]
    labels: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, how in self.formats.items():
            code = self.codes[name]
            if code.size and not (code.min() >= how.low and code.max() <= how.high):
                raise InputError(
                    "value outside the declared range",
                    where=name,
                    found=f"{code.min() * how.step:g} to {code.max() * how.step:g}",
                    limit=f"{how.low * how.step:g} to {how.high * how.step:g}",
                )

    def __len__(self) -> int:
        return len(self.goals["label"])

    def __getitem__(self, index: Index) -> Dataset:
        """The samples at `index`, in that order; a single number gives one sample."""
        where = index if isinstance(index, slice) else np.atleast_1d(np.asarray(index))
        codes = {
            name: code[where] if self.formats[name].coding == "direct" else code[:, where]
            for name, code in self.codes.items()
        }
        return replace(self, codes=codes, goals={name: goal[where] for name, goal in self.goals.items()})

    @property
    def coding(self) -> dict[str, Coding]:
        """Per input, ``direct`` or ``sequence``."""
        return {name: how.coding for name, how in self.formats.items()}

    def inputs(self) -> dict[str, NDArray[np.float32]]:
        """``code * step``, rounded once to float32, by name."""
        return {name: self.formats[name].values(code) for name, code in self.codes.items()}

    def targets(self) -> dict[str, NDArray[np.int64]]:
        """The targets by name."""
        return dict(self.goals)

    def input_spec(self) -> dict[str, dict[str, Any]]:
        """Per input ``shape``, ``coding``, ``low``, ``high``, ``step``."""
        return {
            name: {
                "shape": list(self.codes[name].shape[1 if how.coding == "direct" else 2 :]),
                "coding": how.coding,
                "low": how.low * how.step,
                "high": how.high * how.step,
                "step": how.step,
            }
            for name, how in self.formats.items()
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The integers by name."""
        return {**self.codes, **self.goals}


def saved(data: Data) -> dict[str, NDArray[Any]]:
    """The arrays of a file that `avsnn-run` reads: inputs and targets by name.

    Inputs of 0..1 in steps of 1/255 as uint8 (readers know that), all others as their float32 values.
    """
    arrays, values = data.arrays(), data.inputs()
    spec = data.input_spec()
    bytes_ = {name for name in values if arrays[name].dtype == np.uint8 and spec[name]["step"] == 1 / 255}
    return {**{name: arrays[name] if name in bytes_ else value for name, value in values.items()}, **data.targets()}


def check_count(count: object, most: int, where: str) -> None:
    """Refuse a number of samples outside 1 .. `most`.

    Raises:
        InputError: naming the data set `where`.
    """
    if isinstance(count, bool) or not isinstance(count, int | np.integer) or not 1 <= count <= most:
        raise InputError("count must be a whole number", where=where, found=repr(count), limit=f"1 .. {most:,}")


def check_seed(seed: object, where: str) -> int:
    """Return `seed` as an int.

    Raises:
        InputError: it is no whole number of 32 bits.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**32:
        raise InputError("seed must be a whole number", where=where, found=repr(seed), limit="0 .. 2^32 - 1")
    return int(seed)


def check_choice(value: str, known: Sequence[str] | Mapping[str, Any], what: str, where: str) -> None:
    """Refuse a value that is not one of `known`.

    Raises:
        InputError: naming `what` and the values that exist.
    """
    if value not in known:
        raise InputError(f"unknown {what}", where=where, found=value, limit=", ".join(known))
