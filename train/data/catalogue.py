"""A data set's name becomes what a reader wants to know before using it: contents, shapes, splits, credits."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from avsnn.errors import InputError
from avsnn.train.data import avdigits, features
from avsnn.train.data.levels import LEVELS
from avsnn.train.data.sources import CLASSES, SPLITS, source


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One embedded data set.

    Args:
        name: what the commands call it.
        summary: one sentence.
        modalities: names of the inputs.
        classes: number of labels.
        counts: how many originals, frozen pairs and pairs in all there are.
        licence: short.
        credits: one line per source.
    """

    name: str
    summary: str
    modalities: tuple[str, ...]
    classes: int
    counts: dict[str, str]
    licence: str
    credits: tuple[str, ...]


AVDIGITS = Entry(
    name="avdigits",
    summary="A handwritten and a spoken digit, both degraded so that neither alone suffices.",
    modalities=("image", "audio"),
    classes=CLASSES,
    counts={"generated": "any", "frozen": f"{avdigits.EVAL_COUNT} ({avdigits.EVAL_NAME})"},
    licence="CC BY 4.0 (images), CMU Flite licence (speech)",
    credits=(
        "E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998, "
        "https://doi.org/10.24432/C50P49, CC BY 4.0 (test part, 1,797 images, distorted and degraded here)",
        "Speech synthesised with CMU Flite, voices awb, kal16, rms, slt; "
        "Copyright 1999-2017 Language Technologies Institute, Carnegie Mellon University",
    ),
)

CATALOGUE = {AVDIGITS.name: AVDIGITS}


def find(name: str) -> Entry:
    """The entry called `name`.

    Raises:
        InputError: there is none; the message lists those that exist.
    """
    if name not in CATALOGUE:
        raise InputError("unknown data set", where="data", found=name, limit=", ".join(CATALOGUE))
    return CATALOGUE[name]


def describe(entry: Entry) -> dict[str, Any]:
    """Everything about a data set, ready for JSON.

    Raises:
        InputError: the frozen set in this installation is damaged.
    """
    pairs = avdigits.frozen()
    low, high = features.log_mel_range(avdigits.RATE)
    return {
        **asdict(entry),
        "arrays": {
            "image": {
                "shape": ["count", *pairs.image.shape[1:]],
                "dtype": "uint8",
                "meaning": "grey value, ink bright",
            },
            "audio": {
                "shape": ["count", *pairs.audio.shape[1:]],
                "dtype": "uint8",
                "meaning": f"log-mel (band, frame), 0..255 stand for {low:.4f}..{high:.4f} (natural log of power)",
            },
            "label": {"shape": ["count"], "dtype": "int64", "meaning": "the digit, 0..9"},
        },
        "splits": {split: _split(split) for split in SPLITS},
        "split_rule": "images: 75 % train and val, 25 % test, every tenth of a digit's train images is val "
        "(writers are not identified, so no split by writer); speech: by voice, val hears the training voices",
        "levels": {name: asdict(level) for name, level in LEVELS.items()},
        "frozen": {
            "name": avdigits.EVAL_NAME,
            "count": len(pairs),
            "sha256": avdigits.EVAL_SHA256,
            "made_with": {"split": "test", "seed": avdigits.EVAL_SEED, "level": "mid"},
        },
    }


def _split(name: str) -> dict[str, Any]:
    stock = source(name)
    return {
        "images": len(stock.digits),
        "words": len(stock.words),
        "voices": list(stock.voices),
        "seed": SPLITS[name],
    }
