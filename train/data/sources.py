"""The embedded asset becomes the digits and words that each split draws from."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avsnn.errors import InputError
from avsnn.train.data import speech

CLASSES = 10
"""Digits 0..9; the label is the digit."""

SPLITS = {"train": 0, "val": 1, "test": 2}
"""Split to its word in the seed, which is also its default seed."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """What one split draws from: digits (n, 8, 8) and words, each with its labels."""

    digits: NDArray[np.uint8]
    digit_labels: NDArray[np.int64]
    digit_index: NDArray[np.int64]
    words: tuple[NDArray[np.float64], ...]
    word_labels: NDArray[np.int64]
    voices: tuple[str, ...]


@lru_cache(maxsize=len(SPLITS))
def source(split: str) -> Source:
    """Digits and words that `split` draws from. No image is in two splits; test voices are in no other."""
    asset = read_asset("avdigits_flite_16k.npz")
    part = "test" if split == "test" else "train"
    index = np.flatnonzero(_split_of_images(asset) == SPLITS[split])
    ends = np.cumsum(asset[f"{part}_len"].astype(np.int64))
    words = np.split(speech.decode_mu_law(asset[f"{part}_pcm"]), ends[:-1])
    return Source(
        digits=asset["img"][index],
        digit_labels=asset["img_y"][index].astype(np.int64),
        digit_index=index,
        words=tuple(words),
        word_labels=asset[f"{part}_y"].astype(np.int64),
        voices=tuple(str(name).removeprefix("f_") for name in asset[f"{part}_names"]),
    )


def _split_of_images(asset: dict[str, NDArray[Any]]) -> NDArray[np.int64]:
    """(1797,) number of each image's split: the asset marks test; of each digit's others, every tenth is val."""
    split = np.where(asset["img_test"], SPLITS["test"], SPLITS["train"])
    for digit in range(CLASSES):
        others = np.flatnonzero((asset["img_y"] == digit) & ~asset["img_test"])
        split[others[::10]] = SPLITS["val"]
    return split


@lru_cache(maxsize=4)
def _asset_bytes(name: str) -> bytes:
    return (resources.files("avsnn.train.data") / "assets" / name).read_bytes()


def read_asset(name: str) -> dict[str, NDArray[Any]]:
    """The arrays of an installed asset.

    Raises:
        InputError: it is missing or damaged.
    """
    try:
        with np.load(BytesIO(_asset_bytes(name)), allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            "cannot be read", where=f"avsnn/train/data/assets/{name}", found=repr(error), remedy="install avsnn again"
        ) from error
