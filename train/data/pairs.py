"""The user's own images and sounds, in a folder, a manifest or an npz file, become a data set like any other."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avsnn.errors import InputError
from avsnn.train.data import features, media, pair_lists
from avsnn.train.data.dataset import Dataset, Format, Progress, check_choice, check_count, check_seed

NAME = "pairs"
SPLITS = (*pair_lists.SPLITS, "all")
_DEFAULT_SEED = {"train": 0, "val": 1, "test": 2, "all": 0}
_MAX_SIDE, _MAX_SECONDS = 1024, 60.0
_RATES = (8_000, 192_000)  # below, 32 mel bands do not fit
_BYTE = Format(coding="direct", low=0, high=255, step=1 / 255)


@dataclass(frozen=True, kw_only=True)
class PairsConfig:
    """Where the pairs are and what they become.

    Args:
        root: folder, ``.csv``, ``.json`` or ``.npz``.
        classes: names in the order of their numbers; empty: as found, in alphabetical order.
        image_size: pixels per side.
        image_mode: ``grey`` or ``rgb``.
        image_fit: ``crop``, ``pad`` or ``stretch`` images that are not square.
        background: grey value behind transparent pixels and around padded images.
        rate: samples per second.
        seconds: length; longer sounds lose their end, shorter ones get silence there.
        level: ``peak`` brings each sound to a peak of 0.9, ``asis`` leaves it.
    """

    root: str = ""
    classes: tuple[str, ...] = ()
    image_size: int = 28
    image_mode: str = "grey"
    image_fit: str = "crop"
    background: int = 0
    rate: int = 16_000
    seconds: float = 1.0
    level: str = "peak"

    def __post_init__(self) -> None:
        check_choice(self.image_mode, media.MODES, "image_mode", NAME)
        check_choice(self.image_fit, media.FITS, "image_fit", NAME)
        check_choice(self.level, ("peak", "asis"), "level", NAME)
        if len(set(self.classes)) != len(self.classes):
            raise InputError("a class is named twice", where=f"{NAME}: classes", found=", ".join(self.classes))
        ranges: tuple[tuple[str, float, float, float], ...] = (
            ("image_size", self.image_size, 1, _MAX_SIDE),
            ("background", self.background, 0, 255),
            ("rate", self.rate, *_RATES),
            ("seconds", self.seconds, features.WINDOW_S, _MAX_SECONDS),
        )
        for name, value, low, high in ranges:
            if not low <= value <= high:  # NaN, too
                raise InputError("out of range", where=f"{NAME}: {name}", found=value, limit=f"{low:g} .. {high:g}")


def make(
    count: int | None = None,
    *,
    split: str = "train",
    seed: int | None = None,
    config: PairsConfig,
    progress: Progress | None = None,
) -> Dataset:
    """Read pairs.

    Inputs: ``image`` (B, 1 or 3, size, size) and ``audio`` (B, 1, 32, frames), log-mel as `features.log_mel`, both 0 to
    1 in steps of 1/255. `Dataset.notes` says how many files were converted, cut, padded or silent.

    Args:
        count: how many of the split's pairs, in an order that depends on `seed`; None: all.
        split: ``train``, ``val`` or ``test`` as the folder or manifest says, else by the hash of the name
            (70, 10, 20 %); or ``all``.
        seed: 0 .. 2^32 - 1; by default 0, 1, 2 for the three splits.
        config: where, and into what.
        progress: called with (pairs read, count) now and then.

    Raises:
        InputError: a path that is missing, empty or damaged, a pair without partner, a label of no class, more pairs
            wanted than there are.
    """
    check_choice(split, SPLITS, "split", NAME)
    seed = _DEFAULT_SEED[split] if seed is None else check_seed(seed, NAME)
    if not config.root:
        raise InputError("is missing", where=f"{NAME}: root", remedy="give root=FOLDER, or a .csv, .json or .npz")
    if Path(config.root).suffix.lower() == ".npz" and not Path(config.root).is_dir():
        return _from_npz(Path(config.root), count, split, seed, config, progress)
    found = pair_lists.listed(Path(config.root), config.classes)
    kept = [pair for pair in found.pairs if split in (pair.split, "all")]
    order = _order(len(kept), count, split, seed, config.root)
    changes = media.Changes()
    image, audio = [], []
    for k, index in enumerate(order):
        pair = kept[index]
        image.append(_image(pair.image, config, changes))
        samples, rate = media.read_sound(pair.audio)
        audio.append(_picture_of(samples, rate, str(pair.audio), config, changes))
        _tell(progress, k, len(order))
    label = np.array([kept[index].label for index in order], np.int64)
    _tell(progress, len(order), len(order))
    return _dataset(np.stack(image), np.stack(audio), label, found.classes, (*found.notes, *changes.notes()))


def _tell(progress: Progress | None, done: int, count: int) -> None:
    if progress is not None and (done % 25 == 0 or done == count):
        progress(done, count)


def _order(there: int, count: int | None, split: str, seed: int, root: str) -> NDArray[np.int64]:
    """Which of the split's pairs, in which order."""
    if there == 0:
        raise InputError(f"no pair in split {split}", where=root, remedy="add pairs, or take split all")
    if count is not None:
        check_count(count, there, root)
    return np.random.default_rng([seed, there]).permutation(there)[:count]


def _dataset(
    image: NDArray[np.uint8],
    audio: NDArray[np.uint8],
    label: NDArray[np.int64],
    classes: tuple[str, ...],
    notes: tuple[str, ...],
) -> Dataset:
    return Dataset(
        codes={"image": image, "audio": audio},
        formats={"image": _BYTE, "audio": _BYTE},
        goals={"label": label},
        labels=classes,
        notes=notes,
    )


def _image(path: Path, config: PairsConfig, changes: media.Changes) -> NDArray[np.uint8]:
    return media.read_image(
        path,
        size=config.image_size,
        mode=config.image_mode,
        fit=config.image_fit,
        background=config.background,
        changes=changes,
    )


def _picture_of(
    samples: NDArray[np.float64], rate: int, where: str, config: PairsConfig, changes: media.Changes
) -> NDArray[np.uint8]:
    """(1, 32, frames) log-mel of a sound."""
    wave = media.prepared(
        samples,
        rate,
        where,
        new_rate=config.rate,
        seconds=config.seconds,
        level=config.level,
        changes=changes,
    )
    return features.quantise_log_mel(features.log_mel(wave, config.rate), config.rate)[None]


def _from_npz(
    path: Path, count: int | None, split: str, seed: int, config: PairsConfig, progress: Progress | None
) -> Dataset:
    """Read ``image``, ``label``, and ``audio`` (pictures) or ``wave`` and ``rate`` (sounds); ``split`` if wanted.

    ``image``: uint8 (n, H, W), (n, H, W, 1 | 3 | 4) or (n, 1 | 3, H, W). ``audio``: uint8 (n, 1, H, W), taken as it is.
    ``wave``: (n, samples) or (n, samples, channels). ``label``: whole numbers or names.
    """
    arrays = _load(path)
    label = arrays["label"]
    total = len(label)
    for name in ("image", "audio", "wave"):
        if name in arrays and len(arrays[name]) != total:
            raise InputError(
                "numbers of samples do not fit", where=f"{path}: {name}", found=len(arrays[name]), limit=total
            )
    places = [f"{path}: label[{k}]" for k in range(total)]
    numbers, classes = pair_lists.class_numbers(label.tolist(), places, config.classes)
    splits = arrays.get("split", [pair_lists.split_of(str(k)) for k in range(total)])
    kept = [k for k in range(total) if split in (str(splits[k]), "all")]
    order = [kept[k] for k in _order(len(kept), count, split, seed, str(path))]
    changes = media.Changes()
    pixels = _channels_last(arrays["image"], str(path))
    image, audio = [], []
    for done, k in enumerate(order):
        image.append(_array_image(pixels[k], f"{path}: image[{k}]", config, changes))
        if "audio" in arrays:
            audio.append(arrays["audio"][k])
        else:
            where = f"{path}: wave[{k}]"
            samples = media.as_samples(arrays["wave"][k], where)
            audio.append(_picture_of(samples, int(arrays["rate"]), where, config, changes))
        _tell(progress, done, len(order))
    _tell(progress, len(order), len(order))
    chosen = np.array([numbers[k] for k in order], np.int64)
    return _dataset(np.stack(image), np.stack(audio), chosen, classes, changes.notes())


def _load(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of the file, whose names and types are right."""
    try:
        with path.open("rb") as opened, zipfile.ZipFile(opened):
            pass
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise InputError("no such file", where=str(path)) from None
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise InputError(
            f"not an .npz of plain arrays ({' '.join(str(error).split())})", where=str(path), remedy="use numpy.savez"
        ) from None
    lacking = [name for name in ("image", "label") if name not in arrays]
    if "audio" not in arrays:
        lacking += [name for name in ("wave", "rate") if name not in arrays]
    if lacking:
        found, limit = ", ".join(arrays) or "nothing", "image, label, and audio or wave and rate"
        raise InputError(f"no array {', '.join(lacking)}", where=str(path), found=found, limit=limit)
    for name, wanted in (("label", "iuU"), ("image", "u"), ("audio", "u"), ("split", "U"), ("rate", "iu")):
        if name in arrays and arrays[name].dtype.kind not in wanted:
            raise InputError("wrong type", where=f"{path}: {name}", found=arrays[name].dtype, limit=_TYPES[wanted])
    dimensions = {"label": (1,), "image": (3, 4), "audio": (4,), "wave": (2, 3), "split": (1,), "rate": (0,)}
    for name, allowed in dimensions.items():
        if name in arrays and arrays[name].ndim not in allowed:
            limit = " or ".join(f"{n} dimensions" for n in allowed)
            raise InputError("wrong shape", where=f"{path}: {name}", found=arrays[name].shape, limit=limit)
    if "rate" in arrays and not 1 <= int(arrays["rate"]) <= 1_000_000:
        raise InputError("impossible rate", where=f"{path}: rate", found=int(arrays["rate"]))
    for name in ("image", "audio"):
        if name in arrays and arrays[name].dtype != np.uint8:
            raise InputError("wrong type", where=f"{path}: {name}", found=arrays[name].dtype, limit="uint8")
    return arrays


_TYPES = {"iuU": "integers or texts", "u": "uint8", "U": "texts", "iu": "integers"}


def _channels_last(image: NDArray[np.uint8], path: str) -> NDArray[np.uint8]:
    """(n, H, W, channels)."""
    if image.ndim == 3:
        return image[..., None]
    last, first = image.shape[-1] in (1, 3, 4), image.shape[1] in (1, 3)
    if last == first:
        raise InputError(
            "cannot tell which axis holds the channels",
            where=f"{path}: image",
            found=image.shape,
            limit="(n, H, W, 1 | 3 | 4) or (n, 1 | 3, H, W)",
        )
    return image if last else image.transpose(0, 2, 3, 1)


def _array_image(
    pixels: NDArray[np.uint8], where: str, config: PairsConfig, changes: media.Changes
) -> NDArray[np.uint8]:
    side, channels = config.image_size, {"grey": 1, "rgb": 3}[config.image_mode]
    if pixels.shape == (side, side, channels):
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))
    return media.fitted(
        media.as_image(pixels),
        where,
        size=side,
        mode=config.image_mode,
        fit=config.image_fit,
        background=config.background,
        changes=changes,
    )
