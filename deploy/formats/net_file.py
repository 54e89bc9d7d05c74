"""Turns a ``.net`` file into its layers as checked values: the only file that knows HDF5.

A file holds ``layer/0``, ``layer/1``, ... each with ``type``, ``shape`` (C, H, W), ``weight``, ``bias``, ``neuron/*``.
Everything in it is taken for hostile: links, sizes and numbers are checked before they are believed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from avsnn.convert.ir.node import Array, Shape
from avsnn.convert.ir.nodes import Pair
from avsnn.errors import CapabilityError, InputError

MAX_BYTES = 1 << 30  # of one array, however small the file is
_TRAINING = {"theta", "tauRho", "scaleRho", "activation"}  # surrogate gradient, no meaning at inference
_NEURON_KEYS = {"type", "iDecay", "vDecay", "vThMant"} | _TRAINING
_NEUTRAL = {"refDelay": 1, "wgtExp": 0, "weight_exp": 0, "messageBits": 0, "gradedSpike": 0}  # netx ignores others
_SIZES = {"inChannels", "outChannels", "kernelSize", "inFeatures", "outFeatures"}  # said by the weight as well
_KEYS = {
    "input": {"bias", "weight", "neuron"},
    "flatten": set[str](),
    "conv": {"weight", "bias", "stride", "padding", "dilation", "groups", "delay", "neuron"} | _SIZES,
    "dense": {"weight", "bias", "delay", "neuron"} | _SIZES,
}


@dataclass(frozen=True, kw_only=True)
class NetLayer:
    """One group of the file, its keys flattened: ``weight``, ``neuron/type``, ..."""

    name: str
    where: str
    values: Mapping[str, Any]

    @property
    def type(self) -> str:
        """``conv``, ``dense``, ..."""
        return self.text("type")

    @property
    def shape(self) -> Shape:
        """(C, H, W) or (N,) as in the file."""
        return tuple(int(n) for n in self.integers("shape").ravel())

    @property
    def has_neuron(self) -> bool:
        """Whether there is a neuron group."""
        return any(key.startswith("neuron/") for key in self.values)

    def text(self, key: str) -> str:
        """One word, stored as bytes, an array of them, or text."""
        value = np.asarray(self._get(key)).ravel()
        if value.size != 1:
            raise InputError(f"{key} is not one word", where=self.where, found=value.size)
        word = value[0]
        return word.decode("ascii", "replace") if isinstance(word, bytes) else str(word)

    def integers(self, key: str) -> Array:
        """A numeric array that holds whole numbers, as int64."""
        value = np.asarray(self._get(key))
        if value.dtype.kind not in "biuf":
            raise InputError(f"{key} is not numeric", where=self.where, found=value.dtype)
        whole = np.rint(value.astype(np.float64))
        if not np.isfinite(whole).all() or (whole != value).any() or np.abs(whole).max(initial=0) >= 2**31:
            raise InputError(f"{key} does not hold whole numbers of 32 bits", where=self.where)
        return whole.astype(np.int64)

    def integer(self, key: str, low: int, high: int) -> int:
        """One whole number in [low, high]; an array must hold it throughout."""
        values = np.unique(self.integers(key))
        if values.size != 1:
            raise CapabilityError(f"{key} differs between neurons", where=self.where, found=f"{values.size} values")
        if not low <= values[0] <= high:
            raise InputError(f"{key} out of range", where=self.where, found=int(values[0]), limit=f"{low} to {high}")
        return int(values[0])

    def pair(self, key: str, default: int) -> Pair:
        """(height, width); one number stands for both."""
        values = self.integers(key).ravel() if key in self.values else np.array([default])
        if values.size not in (1, 2) or values.min() < (0 if key == "padding" else 1):
            raise InputError(f"{key} is no pair (height, width)", where=self.where, found=values.tolist())
        return int(values[0]), int(values[-1])

    def check_keys(self) -> None:
        """Refuse what netx would ignore in silence."""
        known = _KEYS.get(self.type)
        if known is None:
            reads = ", ".join(_KEYS)
            remedy = "pass layers=<number of groups before it> to leave it and what follows out"
            raise CapabilityError("unknown layer type", where=self.where, found=self.type, limit=reads, remedy=remedy)
        for key in self.values:
            top, _, rest = key.partition("/")
            if (rest and top != "neuron") or (top not in known and top not in ("type", "shape")):
                raise CapabilityError(f"a {self.type} layer with {key}", where=self.where)
            if rest in _NEUTRAL:
                self.neutral(key, _NEUTRAL[rest])
            elif rest and rest not in _NEURON_KEYS:
                raise CapabilityError(f"a neuron with {rest}", where=self.where)

    def neutral(self, key: str, value: int) -> None:
        """Check an option that has to keep its neutral value."""
        if (self.integers(key) != value).any():
            found = np.unique(self.integers(key))[:4].tolist()
            raise CapabilityError(f"{key} is not supported", where=self.where, found=found, limit=value)

    def _get(self, key: str) -> Any:
        if key not in self.values:
            raise InputError(f"{key} is missing", where=self.where, found=", ".join(sorted(self.values)))
        return self.values[key]


def load(source: str | Path | BinaryIO) -> dict[str, Any]:
    """Every dataset of the file by its path."""
    try:
        import h5py
    except ImportError as error:
        raise CapabilityError("needs h5py", where="read_net", remedy="pip install 'avsnn[net]'") from error
    where = str(source) if isinstance(source, str | Path) else "net file"
    if isinstance(source, str | Path) and not Path(source).is_file():
        raise InputError("no such file", where=where)
    content: dict[str, Any] = {}
    try:
        with h5py.File(source, "r") as file:
            for path, dataset in _datasets(h5py, file, where):
                if dataset.nbytes > MAX_BYTES:
                    raise InputError(
                        f"{path} declares too many bytes", where=where, found=dataset.nbytes, limit=MAX_BYTES
                    )
                content[path] = dataset[()]
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"cannot be read as HDF5 ({error})", where=where) from error
    return content


def _datasets(h5py: Any, group: Any, where: str, prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Datasets below a group, depth first; links that leave the file or make circles are refused."""
    for key in group:
        path = f"{prefix}{key}"
        if not isinstance(group.get(key, getlink=True), h5py.HardLink) or path.count("/") > 4:
            raise InputError(f"{path} is a link", where=where)
        item = group[key]
        if isinstance(item, h5py.Group):
            yield from _datasets(h5py, item, where, f"{path}/")
        elif item.external or item.is_virtual:
            raise InputError(f"{path} is stored in another file", where=where)
        else:
            yield path, item
