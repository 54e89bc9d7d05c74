"""Procedural sounds in simulated rooms become `sloclas-sim`: what is heard, and from where, by four microphones."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avsnn.errors import InputError
from avsnn.train.data import array_features, cache, rooms, sounds
from avsnn.train.data.dataset import Dataset, Format, Progress, check_choice, check_count, check_seed
from avsnn.train.data.sources import SPLITS

NAME = "sloclas-sim"
VERSION = "1"
"""Raised whenever the recipe changes, so that old cache files are not read."""

MAX_COUNT = 200_000
MAX_FRAMES = 64
PEAK, FULL_SCALE = 0.9, 32767
ROOM_CHOICES = ("seen", "unseen")

_NOISE_S = 12
_SENSOR = 0.15  # part of the noise that each microphone makes itself
_SCENE, _LABEL = 0, 1


@dataclass(frozen=True, kw_only=True)
class SloclasConfig:
    """What can be chosen.

    Args:
        rooms: ``seen``, four rooms for every split, or ``unseen``, two others (to test with).
        frames: frames of 64 ms per sample.
        snr_low_db: least ratio of the sound's mean power to the noise's; drawn evenly up to `snr_high_db`.
        snr_high_db: greatest.
    """

    rooms: str = "seen"
    frames: int = 16
    snr_low_db: float = -10.0
    snr_high_db: float = 10.0

    def __post_init__(self) -> None:
        check_choice(self.rooms, ROOM_CHOICES, "rooms", NAME)
        if not 1 <= self.frames <= MAX_FRAMES:
            raise InputError(
                "number of frames out of range", where=f"{NAME}: frames", found=self.frames, limit=f"1 .. {MAX_FRAMES}"
            )
        if not -60 <= self.snr_low_db <= self.snr_high_db <= 60:  # NaN, too
            raise InputError(
                "signal-to-noise ratios must rise",
                where=f"{NAME}: snr_low_db, snr_high_db",
                found=f"{self.snr_low_db} to {self.snr_high_db}",
                limit="-60 to 60",
            )


def make(
    count: int,
    *,
    split: str = "train",
    seed: int | None = None,
    config: SloclasConfig | None = None,
    progress: Progress | None = None,
    use_cache: bool = True,
) -> Dataset:
    """Make `count` scenes of one sound from one of 72 directions; the same arguments give the same integers.

    Inputs: ``gcc`` (B, F, 306), GCC-PHAT of 6 pairs at 51 lags, -1..1 in steps of 1/128; ``mel`` (B, F, 204), log-mel
    of 4 microphones in 51 bands, 0..1 in steps of 1/256. Targets: ``label``, and ``azimuth`` in degrees, 1 .. 356.

    Args:
        count: how many, 1 .. `MAX_COUNT`; fewer scenes are the beginning of more.
        split: `train`, `val` or `test`. All sounds are drawn anew, so no two splits share one; noise neither.
        seed: 0 .. 2^32 - 1; by default 0, 1, 2 for the three splits.
        config: rooms, frames, noise.
        progress: called with (scenes made, count) now and then.
        use_cache: read and write the cache folder, see `cache.folder`.

    Raises:
        InputError: count, split or seed is not one of the above.
    """
    config = config or SloclasConfig()
    check_count(count, MAX_COUNT, NAME)
    seed = _seed(split, seed)

    def fresh() -> dict[str, NDArray[Any]]:
        return _generate(count, split, seed, config, progress)

    wanted = {
        "gcc": ((count, config.frames, len(array_features.PAIRS) * array_features.LAGS), "int16"),
        "mel": ((count, config.frames, rooms.MICROPHONES * array_features.BANDS), "int16"),
        "label": ((count,), "int64"),
        "azimuth": ((count,), "int64"),
    }
    path = cache.place(NAME, VERSION, {"count": count, "split": split, "seed": seed, **asdict(config)})
    arrays = cache.remembered(path, fresh, wanted) if use_cache else fresh()
    if progress is not None:
        progress(count, count)
    bound = round(1 / array_features.GCC_STEP)
    return Dataset(
        codes={"gcc": arrays["gcc"], "mel": arrays["mel"]},
        formats={
            "gcc": Format(coding="direct", low=-bound, high=bound, step=array_features.GCC_STEP),
            "mel": Format(
                coding="direct", low=0, high=round(1 / array_features.MEL_STEP), step=array_features.MEL_STEP
            ),
        },
        goals={"label": arrays["label"], "azimuth": arrays["azimuth"]},
        labels=sounds.CLASSES,
    )


def scene(
    place: int, *, split: str = "train", seed: int | None = None, config: SloclasConfig | None = None
) -> tuple[NDArray[np.int16], int, int]:
    """Scene number `place` behind `make`, for other features.

    Returns:
        Recording (4, frames * 1024) int16 at 16 kHz with peak 0.9 of full scale 32767, label, azimuth in degrees.

    Raises:
        InputError: an unknown split or seed.
    """
    config = config or SloclasConfig()
    seed = _seed(split, seed)
    block, row = divmod(place, len(sounds.CLASSES))
    order = np.random.default_rng([seed, SPLITS[split], block, _LABEL]).permutation(len(sounds.CLASSES))
    rng = np.random.default_rng([seed, SPLITS[split], place, _SCENE])
    label = int(order[row])
    direction = int(rng.integers(len(rooms.AZIMUTHS)))
    choice = rooms.SEEN if config.rooms == "seen" else rooms.UNSEEN
    room = choice[int(rng.integers(len(choice)))]
    length = config.frames * array_features.FRAME
    clean = rooms.played(sounds.sound(label, length, rng), rooms.responses(room)[direction])
    noise = _noise(room, SPLITS[split], seed, length, rng)
    ratio = 10 ** (rng.uniform(config.snr_low_db, config.snr_high_db) / 10)
    mixed = clean + noise * np.sqrt(np.mean(clean**2) / ratio)
    recording = np.rint(mixed * (PEAK * FULL_SCALE / np.abs(mixed).max())).astype(np.int16)
    return recording, label, rooms.AZIMUTHS[direction]


def _noise(room: int, split: int, seed: int, length: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """(4, length) of unit variance: a random part of the room's diffuse noise, and what microphones make."""
    stock = rooms.diffuse_noise(room, split, seed, _NOISE_S)
    start = int(rng.integers(0, stock.shape[1] - length + 1))
    noise = stock[:, start : start + length] + _SENSOR * rng.standard_normal((rooms.MICROPHONES, length))
    return np.asarray(noise / noise.std())


def _seed(split: str, seed: int | None) -> int:
    check_choice(split, SPLITS, "split", NAME)
    return SPLITS[split] if seed is None else check_seed(seed, NAME)


def _generate(
    count: int, split: str, seed: int, config: SloclasConfig, progress: Progress | None
) -> dict[str, NDArray[Any]]:
    gcc, mel = [], []
    label, azimuth = np.empty((2, count), np.int64)
    for k in range(count):
        recording, label[k], azimuth[k] = scene(k, split=split, seed=seed, config=config)
        both = array_features.features(recording / FULL_SCALE)
        gcc.append(both[0])
        mel.append(both[1])
        if progress is not None and k % 25 == 0:
            progress(k, count)
    return {"gcc": np.stack(gcc), "mel": np.stack(mel), "label": label, "azimuth": azimuth}
