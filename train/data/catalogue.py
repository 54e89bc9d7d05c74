"""A data set's name becomes what makes it, its options, and what a reader wants to know before using it."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from avsnn.errors import InputError
from avsnn.train.data import array_features, avdigits, camera, cochlea, events, features, images, pairs, rooms, sloclas
from avsnn.train.data.dataset import Data, Progress, check_choice
from avsnn.train.data.levels import LEVELS
from avsnn.train.data.sounds import CLASSES as SOUND_CLASSES
from avsnn.train.data.sources import CLASSES, SPLITS, source
from avsnn.train.models.config import build_config, parse_overrides, unknown_name


@dataclass(frozen=True, kw_only=True)
class AvdigitsConfig:
    """What can be chosen of `avdigits`.

    Args:
        level: how hard, see `avsnn.train.data.levels`.
    """

    level: str = "mid"

    def __post_init__(self) -> None:
        check_choice(self.level, LEVELS, "level", "avdigits")


@dataclass(frozen=True, kw_only=True)
class Array:
    """One array of a data set, as `avsnn data make` writes it: a target, or an input whose coding and range matter.

    Args:
        shape: sizes and the names of those that vary.
        dtype: in the file.
        meaning: half a sentence.
    """

    shape: tuple[int | str, ...]
    dtype: str
    meaning: str


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One data set.

    Args:
        name: what the commands call it.
        summary: one sentence.
        modalities: names of the inputs.
        classes: number of labels; None: as many as the user's pairs have.
        counts: how many originals, frozen pairs and pairs in all there are.
        licence: short.
        credits: one line per source.
        arrays: by name.
        split_rule: what makes the splits different.
        version: of the recipe; belongs into the record of whatever was trained on it.
        config: dataclass of its options.
        make: ``make(count, split, seed, config, progress, use_cache)``.
    """

    name: str
    summary: str
    modalities: tuple[str, ...]
    classes: int | None
    counts: dict[str, str]
    licence: str
    credits: tuple[str, ...]
    arrays: dict[str, Array]
    split_rule: str
    version: str
    config: type[Any]
    make: Callable[[int | None, str, int | None, Any, Progress | None, bool], Data]


def make(
    name: str,
    count: int | None,
    *,
    split: str = "train",
    seed: int | None = None,
    values: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    use_cache: bool = True,
) -> Data:
    """Make or read `count` samples of the data set called `name`.

    Args:
        name: a key of `CATALOGUE`.
        count: how many; None, all there are, for the user's own pairs only.
        split: `train`, `val` or `test`.
        seed: by default another one per split.
        values: options in place of their defaults.
        progress: called with (samples made, samples in all) now and then.
        use_cache: read and write the cache folder where the data set uses it.

    Raises:
        InputError: an unknown name or option, an impossible value, files that cannot be used.
    """
    entry = find(name)
    return entry.make(count, split, seed, build_config(entry.config, values or {}), progress, use_cache)


def parse(name: str, texts: Sequence[str]) -> dict[str, Any]:
    """Return the options that texts such as ``level=easy`` give, checked.

    Raises:
        InputError: an unknown data set or option (with the nearest), or an impossible value.
    """
    entry = find(name)
    values = parse_overrides(entry.config, texts)
    build_config(entry.config, values)
    return values


def find(name: str) -> Entry:
    """The entry called `name`.

    Raises:
        InputError: there is none; the message lists those that exist, and the nearest.
    """
    if name not in CATALOGUE:
        raise unknown_name(name, CATALOGUE, where="data")
    return CATALOGUE[name]


def summarise(entry: Entry) -> dict[str, Any]:
    """The short facts of a data set, ready for JSON."""
    names = ("name", "summary", "modalities", "classes", "counts", "licence", "credits")
    return {name: getattr(entry, name) for name in names}


def describe(entry: Entry) -> dict[str, Any]:
    """Everything about a data set, ready for JSON.

    Raises:
        InputError: the frozen set in this installation is damaged.
    """
    facts = {
        **summarise(entry),
        "version": entry.version,
        "arrays": {name: {**asdict(array), "shape": list(array.shape)} for name, array in entry.arrays.items()},
        "options": _options(entry.config),
        "split_rule": entry.split_rule,
    }
    if entry.config in (AvdigitsConfig, events.EventsConfig):
        facts["splits"] = {split: _split(split) for split in SPLITS}
        facts["levels"] = {name: asdict(level) for name, level in LEVELS.items()}
    if entry is AVDIGITS:
        facts["frozen"] = {
            "name": avdigits.EVAL_NAME,
            "count": len(avdigits.frozen()),
            "sha256": avdigits.EVAL_SHA256,
            "made_with": {"split": "test", "seed": avdigits.EVAL_SEED, "level": "mid"},
        }
    return facts


def _options(config: type[Any]) -> dict[str, dict[str, Any]]:
    """Default of each option, and its meaning out of the docstring of its class."""
    text = inspect.getdoc(config) or ""
    meaning = dict(re.findall(r"^    (\w+): (.+(?:\n        .+)*)", text, flags=re.MULTILINE))
    return {
        part.name: {"default": part.default, "meaning": " ".join(meaning[part.name].split())}
        for part in dataclasses.fields(config)
    }


def _split(name: str) -> dict[str, Any]:
    stock = source(name)
    return {
        "images": len(stock.digits),
        "words": len(stock.words),
        "voices": list(stock.voices),
        "seed": SPLITS[name],
    }


def _counted(count: int | None, name: str) -> int:
    if count is None:
        raise InputError("is missing", where="count", remedy=f"{name} is generated: say how many")
    return count


_DIGIT_LICENCE = "CC BY 4.0 (images), CMU Flite licence (speech)"
_DIGIT_CREDITS = (
    "E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998, "
    "https://doi.org/10.24432/C50P49, CC BY 4.0 (test part, 1,797 images, distorted and degraded here)",
    "Speech synthesised with CMU Flite, voices awb, kal16, rms, slt; "
    "Copyright 1999-2017 Language Technologies Institute, Carnegie Mellon University",
)
_DIGIT_SPLITS = (
    "images: 75 % train and val, 25 % test, every tenth of a digit's train images is val "
    "(writers are not identified, so no split by writer); speech: by voice, val hears the training voices"
)
_DIGIT = Array(shape=("count",), dtype="int64", meaning="the digit, 0..9")
_LOUDNESS = features.log_mel_range(avdigits.RATE)

AVDIGITS = Entry(
    name="avdigits",
    summary="A handwritten and a spoken digit, both degraded so that neither alone suffices.",
    modalities=("image", "audio"),
    classes=CLASSES,
    counts={"generated": "any", "frozen": f"{avdigits.EVAL_COUNT} ({avdigits.EVAL_NAME})"},
    licence=_DIGIT_LICENCE,
    credits=_DIGIT_CREDITS,
    arrays={
        "image": Array(shape=("count", 1, images.SIDE, images.SIDE), dtype="uint8", meaning="grey value, ink bright"),
        "audio": Array(
            shape=("count", 1, features.MELS, 32),
            dtype="uint8",
            meaning=f"log-mel (band, frame), 0..255 stand for {_LOUDNESS[0]:.4f}..{_LOUDNESS[1]:.4f} "
            "(natural log of power)",
        ),
        "label": _DIGIT,
    },
    split_rule=_DIGIT_SPLITS,
    version=avdigits.ASSET_VERSION,
    config=AvdigitsConfig,
    make=lambda count, split, seed, config, progress, use_cache: avdigits.make(
        _counted(count, "avdigits"),
        split=split,
        seed=seed,
        level=config.level,
        progress=progress,
        use_cache=use_cache,
    ),
)

EVENTS = Entry(
    name=events.NAME,
    summary="The same pairs as an event camera sees them and a silicon cochlea hears them, in T time bins.",
    modalities=("image", "audio"),
    classes=CLASSES,
    counts={"generated": "any"},
    licence=_DIGIT_LICENCE,
    credits=_DIGIT_CREDITS,
    arrays={
        "image": Array(
            shape=("T", "count", 2, images.SIDE, images.SIDE),
            dtype="float32",
            meaning=f"events (darker, brighter) per bin of {camera.DURATION_US // 1000} ms / T, whole numbers",
        ),
        "audio": Array(
            shape=("T", "count", 1, images.SIDE, images.SIDE),
            dtype="float32",
            meaning=f"events of {cochlea.CHANNELS} channels per bin of 1 s / T, as 8x8 enlarged to 28x28, steps of 1/8",
        ),
        "label": _DIGIT,
    },
    split_rule=_DIGIT_SPLITS,
    version=events.VERSION,
    config=events.EventsConfig,
    make=lambda count, split, seed, config, progress, use_cache: events.make(
        _counted(count, events.NAME), split=split, seed=seed, config=config, progress=progress, use_cache=use_cache
    ),
)

SLOCLAS = Entry(
    name=sloclas.NAME,
    summary="Ten procedural sounds from 72 directions in simulated rooms, heard by four microphones.",
    modalities=("gcc", "mel"),
    classes=len(SOUND_CLASSES),
    counts={"generated": "any"},
    licence="Apache-2.0 (generated, nothing of others in it)",
    credits=(
        "Classes, directions and features after SLoClas: X. Qian et al., O-COCOSDA 2021, https://arxiv.org/abs/2108.02539",
    ),
    arrays={
        "gcc": Array(
            shape=("count", "F", len(array_features.PAIRS) * array_features.LAGS),
            dtype="float32",
            meaning="GCC-PHAT, 6 pairs x 51 lags of a quarter of a sample, -1..1 in steps of 1/128",
        ),
        "mel": Array(
            shape=("count", "F", rooms.MICROPHONES * array_features.BANDS),
            dtype="float32",
            meaning="log-mel, 4 microphones x 51 bands, 0..1 in steps of 1/256",
        ),
        "label": Array(shape=("count",), dtype="int64", meaning=", ".join(SOUND_CLASSES)),
        "azimuth": Array(shape=("count",), dtype="int64", meaning="degrees, 1, 6 .. 356"),
    },
    split_rule="every sound and noise is drawn anew; rooms=seen: the same four rooms in all splits; "
    "rooms=unseen: two others",
    version=sloclas.VERSION,
    config=sloclas.SloclasConfig,
    make=lambda count, split, seed, config, progress, use_cache: sloclas.make(
        _counted(count, sloclas.NAME), split=split, seed=seed, config=config, progress=progress, use_cache=use_cache
    ),
)

PAIRS = Entry(
    name=pairs.NAME,
    summary="Your own images and sounds: root=FOLDER with a folder per class, or a .csv, .json or .npz.",
    modalities=("image", "audio"),
    classes=None,
    counts={"read": "as many as there are"},
    licence="yours",
    credits=(),
    arrays={
        "image": Array(
            shape=("count", "1 or 3", "image_size", "image_size"), dtype="uint8", meaning="0..255 stand for 0..1"
        ),
        "audio": Array(
            shape=("count", 1, features.MELS, "frames"),
            dtype="uint8",
            meaning="log-mel (band, frame), as avdigits has it at 16 kHz; 32 frames for one second",
        ),
        "label": Array(shape=("count",), dtype="int64", meaning="number of the class"),
    },
    split_rule="folders train, val and test, or the column split; else 70, 10 and 20 % by the hash of each name",
    version="1",
    config=pairs.PairsConfig,
    make=lambda count, split, seed, config, progress, use_cache: pairs.make(
        count, split=split, seed=seed, config=config, progress=progress
    ),
)

CATALOGUE = {entry.name: entry for entry in (AVDIGITS, EVENTS, SLOCLAS, PAIRS)}
