"""The pairs of `avdigits` become `avdigits-events`: as an event camera sees them and a silicon cochlea hears them.

Pair k is pair k of `avdigits` with the same split, seed and level: the same digit, distorted alike, in the same words
and noise. What degrades the picture differs: contrast, occlusion, and noise events instead of grey noise. Counts per
time bin follow the MNIST-DVS and N-TIDIGITS variant of S-CMRL: the camera's two polarities as channels; the cochlea's
64 channels as an 8x8 picture, enlarged to 28x28.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avsnn.errors import InputError
from avsnn.train.data import avdigits, cache, camera, cochlea, images, speech
from avsnn.train.data.dataset import Dataset, Format, Progress, check_choice, check_count, check_seed
from avsnn.train.data.levels import LEVELS
from avsnn.train.data.sources import CLASSES, SPLITS

NAME = "avdigits-events"
VERSION = "1"
"""Raised whenever the recipe changes, so that old cache files are not read."""

MAX_COUNT = 100_000
MAX_TIMESTEPS = 100

SOUND_US = 1_000_000
"""Length of a sound; a picture is seen for `camera.DURATION_US`. Each is cut into the same number of bins."""

AUDIO_STEP = 1 / 8
"""Enlarged cochlea counts are rounded to this."""

NOISE_HZ = {"easy": (0.5, 2.0), "mid": (1.0, 15.0), "harder": (1.0, 30.0), "hard": (5.0, 50.0)}
"""Per level, noise events per pixel and second."""

_GRID = 8
_WEIGHT = 14  # the enlargement's weights are whole fourteenths, see `enlarge`


@dataclass(frozen=True, kw_only=True)
class EventsConfig:
    """What can be chosen.

    Args:
        level: how hard, see `avsnn.train.data.levels`.
        timesteps: bins that a recording is cut into.
    """

    level: str = "mid"
    timesteps: int = 16

    def __post_init__(self) -> None:
        check_choice(self.level, LEVELS, "level", NAME)
        if not 1 <= self.timesteps <= MAX_TIMESTEPS:
            raise InputError(
                "number of time steps out of range",
                where=f"{NAME}: timesteps",
                found=self.timesteps,
                limit=f"1 .. {MAX_TIMESTEPS}",
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Recording:
    """One pair as events; both arrays are of type `camera.EVENT`, ordered by time.

    Args:
        image: of the camera, t below `camera.DURATION_US`.
        audio: of the cochlea, x the channel (0 highest), t below `SOUND_US`.
        label: the digit.
    """

    image: NDArray[np.void]
    audio: NDArray[np.void]
    label: int


def make(
    count: int,
    *,
    split: str = "train",
    seed: int | None = None,
    config: EventsConfig | None = None,
    progress: Progress | None = None,
    use_cache: bool = True,
) -> Dataset:
    """Make `count` pairs as counts per time bin.

    Inputs: ``image`` (T, B, 2, 28, 28), events per polarity (darker, brighter), in whole numbers; ``audio``
    (T, B, 1, 28, 28), enlarged events per channel, in steps of 1/8. The refractory times of the sensors bound both.

    Args:
        count: how many, 1 .. `MAX_COUNT`; fewer pairs are the beginning of more.
        split: `train`, `val` or `test`.
        seed: 0 .. 2^32 - 1; by default 0, 1, 2 for the three splits.
        config: level and number of bins.
        progress: called with (pairs made, count) now and then.
        use_cache: read and write the cache folder, see `cache.folder`.

    Raises:
        InputError: count, split or seed is not one of the above.
    """
    config = config or EventsConfig()
    check_count(count, MAX_COUNT, NAME)
    seed = _seed(split, seed)

    def fresh() -> dict[str, NDArray[Any]]:
        return _generate(count, split, seed, config, progress)

    bins, kind = config.timesteps, _counter(config.timesteps).name
    wanted = {
        "image": ((bins, count, 2, images.SIDE, images.SIDE), kind),
        "audio": ((bins, count, cochlea.CHANNELS), kind),
        "label": ((count,), "int64"),
    }
    asset = {"asset": avdigits.ASSET_VERSION, "count": count, "split": split, "seed": seed}
    path = cache.place(NAME, VERSION, {**asset, **asdict(config)})
    arrays = cache.remembered(path, fresh, wanted) if use_cache else fresh()
    if progress is not None:
        progress(count, count)
    return _dataset(arrays, bins)


def recordings(
    places: range, *, split: str = "train", seed: int | None = None, level: str = "mid"
) -> tuple[Recording, ...]:
    """The events behind `make`, for other binnings: pairs number `places`.

    Raises:
        InputError: an unknown split, seed or level.
    """
    seed = _seed(split, seed)
    check_choice(level, LEVELS, "level", NAME)
    label = avdigits.labels_at(np.asarray(places, np.int64), split, seed)
    return tuple(_record(k, int(digit), split, seed, level) for k, digit in zip(places, label, strict=True))


def enlarge(count: NDArray[np.integer]) -> NDArray[np.int64]:
    """Bring 64 channels to 28x28: rows of 8, bilinear (pixel centres, edges repeated), rounded to `AUDIO_STEP`.

    The weights are whole fourteenths, so the sums are exact; a half is rounded up.

    Args:
        count: (..., 64).

    Returns:
        (..., 28, 28) in units of `AUDIO_STEP`.
    """
    grid = np.asarray(count, np.int64).reshape(*count.shape[:-1], _GRID, _GRID)
    weight = _weights()
    total = weight @ grid @ weight.T
    units = round(1 / AUDIO_STEP)
    return (2 * units * total + _WEIGHT**2) // (2 * _WEIGHT**2)


def _weights() -> NDArray[np.int64]:
    """(28, 8): pixel i looks at (i + 1/2) 8/28 - 1/2 = (4 i - 5) / 14."""
    at = np.clip(4 * np.arange(images.SIDE) - 5, 0, _WEIGHT * (_GRID - 1))
    distance = np.abs(at[:, None] - _WEIGHT * np.arange(_GRID))
    return np.maximum(_WEIGHT - distance, 0)


def _seed(split: str, seed: int | None) -> int:
    check_choice(split, SPLITS, "split", NAME)
    return SPLITS[split] if seed is None else check_seed(seed, NAME)


def _dataset(arrays: Any, bins: int) -> Dataset:
    seen, heard = _most(bins)
    return Dataset(
        codes={"image": arrays["image"], "audio": enlarge(arrays["audio"])[:, :, None].astype(np.uint16)},
        formats={
            "image": Format(coding="sequence", low=0, high=seen, step=1.0),
            "audio": Format(coding="sequence", low=0, high=heard * round(1 / AUDIO_STEP), step=AUDIO_STEP),
        },
        goals={"label": arrays["label"]},
        labels=tuple(str(digit) for digit in range(CLASSES)),
    )


def _most(bins: int) -> tuple[int, int]:
    """Greatest number of events in a bin, of one pixel and of one channel."""
    return (
        camera.most_per_bin(camera.DURATION_US, bins, camera.REFRACTORY_US),
        camera.most_per_bin(SOUND_US, bins, cochlea.REFRACTORY_US),
    )


def _counter(bins: int) -> np.dtype[Any]:
    """The least type that holds any count."""
    return np.dtype(np.uint8 if max(_most(bins)) < 256 else np.uint16)


def _generate(
    count: int, split: str, seed: int, config: EventsConfig, progress: Progress | None
) -> dict[str, NDArray[Any]]:
    bins, kind = config.timesteps, _counter(config.timesteps)
    image = np.empty((bins, count, 2, images.SIDE, images.SIDE), kind)
    audio = np.empty((bins, count, cochlea.CHANNELS), kind)
    label = avdigits.labels_at(np.arange(count), split, seed)
    for k in range(count):
        pair = _record(k, int(label[k]), split, seed, config.level)
        image[:, k] = camera.histogram(pair.image, bins, images.SIDE)
        audio[:, k] = cochlea.histogram(pair.audio, bins, SOUND_US)
        if progress is not None and k % 25 == 0:
            progress(k, count)
    return {"image": image, "audio": audio, "label": label}


def _record(place: int, digit: int, split: str, seed: int, level: str) -> Recording:
    how = LEVELS[level]
    picture = avdigits.picture(digit, split, avdigits.stream(seed, split, place, avdigits.IMAGE))
    rng = avdigits.stream(seed, split, place, avdigits.CAMERA)
    scene = images.occlude(
        picture * rng.uniform(*how.contrast), rng, probability=how.occlusion, size_px=how.occlusion_px
    )
    seen = camera.watch(scene, rng, noise_hz=rng.uniform(*NOISE_HZ[level]))
    wave = avdigits.recording(place, digit, split, seed, level) / speech.FULL_SCALE
    heard = cochlea.listen(wave, avdigits.RATE, avdigits.stream(seed, split, place, avdigits.COCHLEA))
    return Recording(image=seen, audio=heard, label=digit)
