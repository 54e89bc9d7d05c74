"""A folder that appears whole or not at all.

It is written under a hidden name beside its final place and renamed when complete. Replacing swaps the two names in
one step where the file system can (Linux ``renameat2`` with ``RENAME_EXCHANGE``). The hidden folder is locked while
its process lives, so the next run can tell what a killed one left behind, even where process numbers repeat.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from avsnn.errors import InputError

AT_FDCWD = -100  # linux/fcntl.h: paths are relative to the current folder
RENAME_EXCHANGE = 2  # linux/fs.h


@contextmanager
def staged(out: str | Path, *, replaceable: Callable[[Path], bool] | None = None) -> Iterator[Path]:
    """A folder beside ``out`` that becomes ``out`` if the block ends well and vanishes if it does not.

    Args:
        out: the final place; folders above it are made, and removed again if nothing comes of it.
        replaceable: says whether a folder that is there may be replaced; None refuses all.

    Raises:
        InputError: ``out`` exists and must not be replaced, or its file system does not take the folder.
    """
    out = Path(out)
    above: list[Path] = []
    try:
        _check(out, replaceable)
        above = [folder for folder in out.parents if not folder.exists()]
        base = next(folder for folder in out.parents if folder.exists())
        if not base.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(base))
        out.parent.mkdir(parents=True, exist_ok=True)
        _sweep(out)
        with _locked(out.parent / f".{out.name}.partial-{secrets.token_hex(4)}") as work:
            yield work
            _check(out, replaceable)  # another run may have been faster
            _place(work, out)
    except OSError as error:
        place = str(out) if error.filename is None or f".{out.name}.partial-" in str(error.filename) else error.filename
        reason = error.strerror or error
        remedy = "choose another --out, or make room and repeat"
        raise InputError(f"cannot be written ({reason})", where=str(place), remedy=remedy) from error
    finally:
        for folder in above:
            with contextlib.suppress(OSError):
                folder.rmdir()  # only where it is empty


def _check(out: Path, replaceable: Callable[[Path], bool] | None) -> None:
    if not (out.exists() or out.is_symlink()):
        return
    if replaceable is None:
        raise InputError("output exists", where=str(out), remedy="choose another --out, or --force to replace it")
    if out.is_symlink() or not (out.is_dir() and (not any(out.iterdir()) or replaceable(out))):
        raise InputError("refusing to replace what is not a bundle", where=str(out), remedy="choose another --out")


@contextmanager
def _locked(work: Path) -> Iterator[Path]:
    """A new folder, locked until the block ends, then removed if it is still there."""
    handle = None
    try:
        work.mkdir()
        handle = os.open(work, os.O_RDONLY)
        with contextlib.suppress(OSError):  # a file system without locks: then nobody sweeps either
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if handle is not None:
            os.close(handle)


def _place(work: Path, out: Path) -> None:
    if not out.exists():
        work.rename(out)
    elif not _exchange(work, out):
        _replace_in_two(work, out)


def _exchange(a: Path, b: Path) -> bool:
    """Swap two names in one step; False where that is not possible."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return bool(rename(AT_FDCWD, os.fsencode(a), AT_FDCWD, os.fsencode(b), RENAME_EXCHANGE) == 0)


def _replace_in_two(work: Path, out: Path) -> None:
    """The same with a moment in which neither is there; killed in it, the next run puts the old one back."""
    with _lock(out):
        old = out.parent / f".{out.name}.old-{secrets.token_hex(4)}"
        try:
            out.rename(old)
            work.rename(out)
        except BaseException:  # an interrupt as well
            if old.exists() and not out.exists():
                old.rename(out)
            raise
        finally:
            if out.exists():
                shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _lock(folder: Path) -> Iterator[bool]:
    """Whether nobody else holds the folder; until the block ends nobody else can."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = True
    except OSError:
        free = False
    try:
        yield free
    finally:
        os.close(handle)


def _sweep(out: Path) -> None:
    """Remove what killed runs left beside ``out``, and put back a folder that one of them was replacing."""
    for kind in ("old", "partial"):
        for left in (p for p in out.parent.iterdir() if p.name.startswith(f".{out.name}.{kind}-")):
            with contextlib.suppress(OSError), _lock(left) as free:
                if free and kind == "old" and not out.exists():
                    left.rename(out)
                elif free:
                    shutil.rmtree(left, ignore_errors=True)
