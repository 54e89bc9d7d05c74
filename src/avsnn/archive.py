"""One JSON object and named arrays to one zip file and back, with nothing in it that could run or surprise.

The file is an uncompressed zip: ``meta.json`` and one ``<name>.npy`` per array, dates fixed and names sorted, so
the same content has the same bytes. Reading trusts nothing: every name, count, declared size and array header is
checked against the real length of the file before any array is allocated, and pickles are never opened.
Array format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import struct
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from avsnn.errors import CheckpointError

Array = NDArray[Any]

META = "meta.json"
MAX_ENTRIES = 65_000  # above this a zip needs the zip64 directory, which no archive of ours has
MAX_META_BYTES = 64 << 20
MAX_HEADER_BYTES = 4096
NAME = re.compile(r"[A-Za-z0-9_]+(?:[./#-][A-Za-z0-9_]+)*")  # no leading slash, no "..", no drive, no space
DTYPES = frozenset(
    np.dtype(code).str for code in ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
)
_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can hold
_DAMAGE = (zipfile.BadZipFile, struct.error, ValueError, OverflowError, RuntimeError, EOFError, OSError)  # zipfile's
_CONVERT = (
    "load it in your own code with torch.load(..., weights_only=True) and write it with "
    "avsnn.train.checkpoints.save, or pass --module pkg.mod:factory"
)


def write(path: str | Path, meta: Mapping[str, Any], arrays: Mapping[str, Array]) -> Path:
    """Write ``meta`` and ``arrays`` to ``path`` and return it; an existing file is replaced at once or not at all.

    Args:
        path: the file to write; its folder must exist.
        meta: what `json` can write, without NaN or infinity.
        arrays: bool, integer or float arrays under names that match `NAME`.

    Raises:
        CheckpointError: a name or dtype that `read` would refuse, or a file that cannot be written.
    """
    path = Path(path)
    try:
        entries = {META: json.dumps(meta, sort_keys=True, allow_nan=False, indent=1).encode()}
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the description is not plain JSON ({error})", where=str(path)) from None
    for name, array in arrays.items():
        if not NAME.fullmatch(name):
            raise CheckpointError("array name is not allowed", where=str(path), found=repr(name), limit=NAME.pattern)
        entries[f"{name}.npy"] = _encode(np.asarray(array), f"{path}: {name}")
    if len(entries) > MAX_ENTRIES:
        raise CheckpointError("too many arrays", where=str(path), found=len(entries), limit=MAX_ENTRIES)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name in sorted(entries):
            info = zipfile.ZipInfo(name, date_time=_DATE)
            info.create_system = 3  # Unix, whatever the machine: same content, same bytes
            info.external_attr = 0o644 << 16
            archive.writestr(info, entries[name])
    replace_file(path, buffer.getbuffer())
    return path


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return the JSON object and the arrays of the file that `write` made.

    Raises:
        CheckpointError: anything else than such a file; the message names the file and the reason.
    """
    path = Path(path)
    size = _size_of_zip(path)
    try:
        with zipfile.ZipFile(path) as archive:
            _check_directory(path, archive.infolist(), size)
            meta = _decode_meta(path, archive)
            headers = {info.filename: _header(path, archive, info) for info in _arrays(archive)}
            arrays = {
                info.filename[: -len(".npy")]: _decode(archive, info, *headers[info.filename])
                for info in _arrays(archive)
            }
    except CheckpointError:
        raise
    except _DAMAGE as error:
        raise CheckpointError(
            f"the file is damaged or truncated ({error})", where=str(path), remedy="copy or create it again"
        ) from None
    return meta, arrays


def replace_file(path: Path, content: bytes | memoryview) -> None:
    """Write ``content`` to ``path`` by way of a sibling, so that nobody ever sees half of it.

    Raises:
        CheckpointError: the file cannot be written.
    """
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                os.fchmod(file.fileno(), 0o644)  # mkstemp makes it private
            os.replace(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)  # gone already, unless something stopped us on the way
    except OSError as error:
        raise CheckpointError(f"cannot write the file ({error.strerror})", where=str(path)) from None


def _encode(array: Array, where: str) -> bytes:
    array = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
    if array.dtype.str not in DTYPES:
        raise CheckpointError("dtype is not allowed", where=where, found=array.dtype, limit="bool, integers, floats")
    buffer = io.BytesIO()
    npy.write_array(buffer, array, version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def _size_of_zip(path: Path) -> int:
    """Return the length of ``path`` in bytes after telling apart what users pass by mistake."""
    where = str(path)
    if path.is_dir():
        raise CheckpointError("is a directory, not a file", where=where)
    if not path.exists():
        raise CheckpointError("no such file", where=where)
    if not path.is_file():
        raise CheckpointError("is not a regular file", where=where)
    try:
        with path.open("rb") as file:
            start = file.read(4)
            size = file.seek(0, os.SEEK_END)
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error.strerror})", where=where) from None
    if start[:1] == b"\x80":
        raise CheckpointError(
            "is a Python pickle, which can run code and is never opened", where=where, remedy=_CONVERT
        )
    if start != b"PK\x03\x04":
        raise CheckpointError("is not an avsnn file (no zip signature)", where=where, found=repr(start))
    return size


def _check_directory(path: Path, infos: list[zipfile.ZipInfo], size: int) -> None:
    """Refuse every entry list that `write` cannot have made, by what the zip directory declares alone."""
    where, names = str(path), [info.filename for info in infos]
    if any(name.endswith("data.pkl") for name in names):
        raise CheckpointError("is a torch pickle, which can run code and is never opened", where=where, remedy=_CONVERT)
    if len(names) > MAX_ENTRIES:
        raise CheckpointError("too many entries", where=where, found=len(names), limit=MAX_ENTRIES)
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise CheckpointError("an entry occurs twice", where=where, found=repr(twice))
    for info in infos:
        if info.filename != META and not (
            info.filename.endswith(".npy") and NAME.fullmatch(info.filename[: -len(".npy")])
        ):
            raise CheckpointError("entry name is not allowed", where=where, found=repr(info.orig_filename))
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 1:
            raise CheckpointError(
                f"entry {info.filename} is compressed or encrypted", where=where, limit="stored entries"
            )
    total = sum(info.file_size for info in infos)
    if total > size:
        raise CheckpointError("entries declare more bytes than the file has", where=where, found=total, limit=size)
    if META not in names:
        raise CheckpointError(f"has no {META}, so it is not an avsnn file", where=where)
    described = infos[names.index(META)].file_size
    if described > MAX_META_BYTES:
        raise CheckpointError(f"{META} is too long", where=where, found=described, limit=MAX_META_BYTES)


def _arrays(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    return [info for info in archive.infolist() if info.filename != META]


def _decode_meta(path: Path, archive: zipfile.ZipFile) -> dict[str, Any]:
    try:
        meta = json.loads(archive.read(META), parse_constant=_refuse_constant)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(f"{META} is not valid JSON ({error})", where=str(path)) from None
    if not isinstance(meta, dict):
        raise CheckpointError(f"{META} is not an object", where=str(path), found=type(meta).__name__)
    return meta


def _refuse_constant(text: str) -> float:
    raise json.JSONDecodeError(f"{text} is not a JSON number", text, 0)


def _header(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and dtype from the array header, which must account for every byte of the entry."""
    where = f"{path}: {info.filename}"
    with archive.open(info) as file:
        start = io.BytesIO(file.read(MAX_HEADER_BYTES))
    try:
        version = npy.read_magic(start)
        if version != (1, 0):
            raise ValueError(f"format version {version}")
        shape, fortran, dtype = npy.read_array_header_1_0(start, max_header_size=MAX_HEADER_BYTES)
    except (ValueError, TypeError, SyntaxError, RecursionError, EOFError) as error:
        raise CheckpointError(f"is not a plain array ({error})".splitlines()[0], where=where) from None
    if dtype.str not in DTYPES or fortran:
        raise CheckpointError(
            "dtype or memory order is not allowed", where=where, found=dtype, limit="bool, integers, floats"
        )
    declared, present = math.prod(shape) * dtype.itemsize, info.file_size - start.tell()
    if any(length < 0 for length in shape) or declared != present:
        raise CheckpointError(
            f"shape {shape} does not fit the entry", where=where, found=f"{declared} bytes", limit=f"{present} bytes"
        )
    return shape, dtype


def _decode(archive: zipfile.ZipFile, info: zipfile.ZipInfo, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    content = archive.read(info)  # compares the checksum as well
    offset = len(content) - math.prod(shape) * dtype.itemsize
    return np.frombuffer(content, dtype=dtype, offset=offset).reshape(shape).copy()  # copy: writable and aligned
