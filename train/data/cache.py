"""A folder of generated arrays that may vanish at any time: written whole or not at all, checked when read."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

Arrays = Mapping[str, NDArray[np.generic]]

_DIGEST = "sha256"


def folder() -> Path:
    """`$AVSNN_CACHE` if set, else `avsnn` in `$XDG_CACHE_HOME` or `~/.cache`. It need not exist."""
    own = os.environ.get("AVSNN_CACHE")
    if own:
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    # the XDG specification says that a relative path is to be ignored
    return (Path(base) if base and os.path.isabs(base) else Path.home() / ".cache") / "avsnn"


def place(name: str, version: str, parameters: Mapping[str, Any]) -> Path:
    """Where the arrays belong that the recipe `name` of this version makes from `parameters` (JSON values)."""
    text = json.dumps(parameters, sort_keys=True).encode()
    return folder() / f"{name}-{version}-{hashlib.sha1(text, usedforsecurity=False).hexdigest()}.npz"


def remembered(
    path: Path, make: Callable[[], dict[str, NDArray[Any]]], wanted: Mapping[str, tuple[tuple[int, ...], str]]
) -> dict[str, NDArray[Any]]:
    """Return the arrays at `path`, or make and keep them.

    Args:
        path: see `place`.
        make: what gives the arrays.
        wanted: shape and type of each array; a file with others is made anew.
    """
    arrays = recall(path)
    if arrays is not None:
        found = {name: (array.shape, str(array.dtype)) for name, array in arrays.items()}
        if found == dict(wanted):
            return arrays
        logger.warning("%s: cache file holds other arrays (%s) and is made anew", path, found)
    fresh = make()
    store(path, fresh)
    return fresh


def digest(arrays: Arrays) -> str:
    """SHA-256 over names, types, shapes and little-endian contents, in the order of the names."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        total.update(f"{name} {array.dtype.str} {array.shape};".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def write_atomically(path: Path, arrays: Arrays, *, compress: bool = False) -> None:
    """Write an npz file beside its final place, then rename: `path` is either absent, old, or complete.

    Raises:
        OSError: the folder cannot be made or written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            (np.savez_compressed if compress else np.savez)(file, **arrays)  # type: ignore[arg-type]
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes files that only the owner can read
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    """The process's mask for new files; there is no way to read it without setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def store(path: Path, arrays: Arrays) -> None:
    """Keep `arrays` with their digest at `path`. A folder that cannot be written means no cache, with a warning."""
    try:
        write_atomically(path, {**arrays, _DIGEST: np.array(digest(arrays))})
    except OSError as error:
        logger.warning("%s: not cached (%s); set AVSNN_CACHE to a writable folder", path, error)


def recall(path: Path) -> dict[str, NDArray[Any]] | None:
    """Read what `store` wrote, or None if it is absent or damaged (then with a warning)."""
    try:
        # opened here: np.load does not close a file that it cannot make sense of
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        stated = str(arrays.pop(_DIGEST))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (
        OSError,
        ValueError,
        EOFError,
        KeyError,
        zipfile.BadZipFile,
        zlib.error,
        AttributeError,
        NotImplementedError,
    ) as error:
        logger.warning("%s: damaged cache file is made anew (%s)", path, error)
        return None
    if stated != digest(arrays):
        logger.warning("%s: damaged cache file is made anew (contents do not match their digest)", path)
        return None
    return arrays
