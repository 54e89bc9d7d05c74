"""The embedded asset becomes `avdigits`: pairs of a handwritten and a spoken digit, any number, always the same.

Images: 1,797 scans of UCI optdigits, a quarter of them for the test split, a tenth of the others for validation.
Writers are not identified in the source, so the splits cannot be disjoint by writer. Speech: four CMU Flite voices,
split by voice: `rms` is heard in the test split only; validation hears the three training voices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avsnn.errors import InputError
from avsnn.train.data import cache, features, images, speech
from avsnn.train.data.dataset import Coding, Progress, check_choice, check_count, check_seed
from avsnn.train.data.levels import LEVELS, Level
from avsnn.train.data.sources import CLASSES, SPLITS, read_asset, source

ASSET_VERSION = "1"
"""Raised whenever the asset or the recipe changes, so that old cache files are not read."""

RATE = 16_000
"""Samples per second of the speech."""

MAX_COUNT = 1_000_000
"""Most pairs in one call: 1.8 GB, half an hour."""

EVAL_NAME, EVAL_COUNT, EVAL_SEED = "avdigits-eval-v1", 500, 3
EVAL_SHA256 = "a96ae76ffed0cf60df5b272a2e2c89cd16d6c53b72840c4ad74f99c55e7dcbe8"
"""`cache.digest` of the frozen evaluation set."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pairs:
    """Image and sound of the same digit.

    Args:
        image: (n, 1, 28, 28) uint8, ink is bright.
        audio: (n, 1, 32, 32) uint8 log-mel, (band, frame), band 0 lowest; see `features.quantise_log_mel`.
        label: (n,) int64, the digit.
    """

    image: NDArray[np.uint8]
    audio: NDArray[np.uint8]
    label: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: slice | int | NDArray[np.integer] | Sequence[int]) -> Pairs:
        """The pairs at `index`, in that order; a single number gives one pair."""
        where = index if isinstance(index, slice) else np.atleast_1d(np.asarray(index))
        return Pairs(image=self.image[where], audio=self.audio[where], label=self.label[where])

    def inputs(self) -> dict[str, NDArray[np.float32]]:
        """What a model's forward takes: ``image / 255`` and ``audio / 255``, float32."""
        return {"image": _unit(self.image), "audio": _unit(self.audio)}

    def targets(self) -> dict[str, NDArray[np.int64]]:
        """What a loss compares with: ``label``, the digit."""
        return {"label": self.label}

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(str(digit) for digit in range(CLASSES))

    @property
    def coding(self) -> dict[str, Coding]:
        """Both inputs are direct: the same value in every time step."""
        return {"image": "direct", "audio": "direct"}

    def input_spec(self) -> dict[str, dict[str, Any]]:
        """Shape, coding and range of each input: 0 to 1 in steps of 1/255."""
        return {
            name: {"shape": list(code.shape[1:]), "coding": "direct", "low": 0.0, "high": 1.0, "step": 1 / 255}
            for name, code in (("image", self.image), ("audio", self.audio))
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The integers by name, for a file or a digest."""
        return {"image": self.image, "audio": self.audio, "label": self.label}


def _unit(code: NDArray[np.uint8]) -> NDArray[np.float32]:
    """0..255 to 0..1, float32."""
    return np.divide(code, 255, dtype=np.float32)


def make(
    count: int,
    *,
    split: str = "train",
    seed: int | None = None,
    level: str = "mid",
    progress: Progress | None = None,
    use_cache: bool = True,
) -> Pairs:
    """Make `count` pairs; the same arguments give the same integers, on every machine and version.

    Pair k depends on seed, split, level and k alone: fewer pairs are the beginning of more. Each ten consecutive
    pairs hold every digit once, in random order.

    Args:
        count: how many, 1 .. `MAX_COUNT`.
        split: `train`, `val` or `test`.
        seed: 0 .. 2^32 - 1; by default 0, 1, 2 for the three splits.
        level: one of `LEVELS`.
        progress: called with (pairs made, count) now and then.
        use_cache: read and write the cache folder, see `cache.folder`.

    Raises:
        InputError: count, split, seed or level is not one of the above.
    """
    seed = _checked(count, split, seed, level)

    def fresh() -> dict[str, NDArray[Any]]:
        return _generate(np.arange(count), split, seed, level, progress).arrays()

    wanted = {
        "image": ((count, 1, images.SIDE, images.SIDE), "uint8"),
        "audio": ((count, 1, features.MELS, 32), "uint8"),
        "label": ((count,), "int64"),
    }
    parameters = {"count": int(count), "split": split, "seed": seed, "level": level, **asdict(LEVELS[level])}
    path = cache.place("avdigits", ASSET_VERSION, parameters)
    arrays = cache.remembered(path, fresh, wanted) if use_cache else fresh()
    if progress is not None:
        progress(count, count)
    return Pairs(image=arrays["image"], audio=arrays["audio"], label=arrays["label"])


def frozen() -> Pairs:
    """Load `avdigits-eval-v1`, 500 test pairs of level `mid` that never change, and check their digest.

    Raises:
        InputError: the installed file is damaged or missing.
    """
    arrays = read_asset("avdigits_eval_v1.npz")
    found = cache.digest(arrays)
    if found != EVAL_SHA256:
        raise InputError(
            "digest differs", where=EVAL_NAME, found=found, limit=EVAL_SHA256, remedy="install avsnn again"
        )
    return Pairs(image=arrays["image"], audio=arrays["audio"], label=arrays["label"])


def regenerate_frozen(places: Sequence[int] | range = range(EVAL_COUNT)) -> Pairs:
    """Make the pairs of the frozen set anew from the asset: all, or those at `places`."""
    return _generate(np.asarray(places, np.int64), "test", EVAL_SEED, "mid", None)


def waveforms(
    count: int, *, split: str = "train", seed: int | None = None, level: str = "mid"
) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
    """The recordings behind `make`'s audio, for other features.

    Returns:
        Waves (count, 16000) int16 at `RATE`, full scale 32767, and labels (count,).

    Raises:
        InputError: as `make`.
    """
    seed = _checked(count, split, seed, level)
    places = np.arange(count)
    label = labels_at(places, split, seed)
    waves = [recording(int(k), int(y), split, seed, level) for k, y in zip(places, label, strict=True)]
    return np.stack(waves), label


def s_cmrl_audio(wave: NDArray[np.int16]) -> NDArray[np.float32]:
    """S-CMRL's (257, 63) log-spectrogram of one recording of `waveforms`."""
    at_rate = features.resample(wave / speech.FULL_SCALE, RATE, features.SPECTROGRAM_RATE)
    return features.s_cmrl_spectrogram(at_rate)


def _checked(count: int, split: str, seed: int | None, level: str) -> int:
    """The seed to use; raises InputError for anything that `make` does not know."""
    check_choice(split, SPLITS, "split", "avdigits")
    check_choice(level, LEVELS, "level", "avdigits")
    check_count(count, MAX_COUNT, "avdigits")
    return SPLITS[split] if seed is None else check_seed(seed, "avdigits")


def _generate(places: NDArray[np.int64], split: str, seed: int, level: str, progress: Progress | None) -> Pairs:
    count, how = len(places), LEVELS[level]
    image = np.empty((count, 1, images.SIDE, images.SIDE), np.uint8)
    audio = np.empty((count, 1, features.MELS, 32), np.uint8)
    label = labels_at(places, split, seed)
    for k in range(count):
        place, digit = int(places[k]), int(label[k])
        image[k, 0] = np.rint(_image(place, digit, split, seed, how) * 255).astype(np.uint8)
        wave = recording(place, digit, split, seed, level) / speech.FULL_SCALE
        audio[k, 0] = features.quantise_log_mel(features.log_mel(wave, RATE), RATE)
        if progress is not None and k % 25 == 0:
            progress(k, count)
    return Pairs(image=image, audio=audio, label=label)


IMAGE, SOUND, LABEL, CAMERA, COCHLEA = range(5)
"""What a stream of random numbers is for, see `stream`."""


def stream(seed: int, split: str, place: int, purpose: int) -> np.random.Generator:
    """One stream per pair and purpose, so that any pair can be made alone."""
    return np.random.default_rng([seed, SPLITS[split], place, purpose])


def labels_at(places: NDArray[np.int64], split: str, seed: int) -> NDArray[np.int64]:
    """(n,) digits: each run of ten places is a permutation of 0..9."""
    order = {b: stream(seed, split, b, LABEL).permutation(CLASSES) for b in sorted({int(p) // CLASSES for p in places})}
    return np.array([order[int(p) // CLASSES][int(p) % CLASSES] for p in places], np.int64)


def picture(digit: int, split: str, rng: np.random.Generator) -> NDArray[np.float64]:
    """(28, 28) 0..1: the distorted digit of a pair before it is degraded; `rng` is its `IMAGE` stream."""
    stock = source(split)
    threshold = images.INK_THRESHOLDS[int(rng.integers(len(images.INK_THRESHOLDS)))]
    which = int(rng.choice(np.flatnonzero(stock.digit_labels == digit)))
    return images.warp(images.enlarge(stock.digits[which], threshold), rng)


def recording(place: int, digit: int, split: str, seed: int, level: str) -> NDArray[np.int16]:
    """(16000,) one second at `RATE`: the sound of a pair."""
    rng, stock = stream(seed, split, place, SOUND), source(split)
    which = int(rng.choice(np.flatnonzero(stock.word_labels == digit)))
    return speech.record(stock.words[which], rng, rate=RATE, snr_db=LEVELS[level].snr_db, others=stock.words)


def _image(place: int, digit: int, split: str, seed: int, how: Level) -> NDArray[np.float64]:
    rng = stream(seed, split, place, IMAGE)
    return images.degrade(
        picture(digit, split, rng),
        rng,
        noise=how.noise,
        occlusion=how.occlusion,
        occlusion_px=how.occlusion_px,
        contrast=how.contrast,
        background=how.background,
    )
