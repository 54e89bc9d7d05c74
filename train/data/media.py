"""An image file or a sound file of any usual kind becomes integers of one size: grey or colour, one channel, one rate.

Whatever cannot be read as a person would read it is refused with its path; whatever is changed is counted in `Changes`.
"""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.io import wavfile

from avsnn.errors import InputError
from avsnn.train.data import features

if TYPE_CHECKING:
    from PIL import Image

Array = NDArray[np.float64]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm")
WAV_SUFFIXES = (".wav", ".wave")
OTHER_SOUND_SUFFIXES = (".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au")
SOUND_SUFFIXES = (*WAV_SUFFIXES, *OTHER_SOUND_SUFFIXES)

FITS = ("crop", "pad", "stretch")
MODES = {"grey": "L", "rgb": "RGB"}


@dataclass(eq=False)
class Changes:
    """What was done to files on the way, and to how many: ``resampled`` to 3, say, with the first as an example."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, what: str, where: str) -> None:
        """Count one file."""
        self.counts[what] += 1
        self.first.setdefault(what, where)

    def notes(self) -> tuple[str, ...]:
        """One line per kind of change."""
        return tuple(f"{count} {what} (first: {self.first[what]})" for what, count in self.counts.items())


def read_image(path: Path, *, size: int, mode: str, fit: str, background: int, changes: Changes) -> NDArray[np.uint8]:
    """Read an image file.

    Args:
        path: of any kind that Pillow knows; turned as its EXIF data says; of several frames the first.
        size: pixels per side of the result.
        mode: ``grey`` (ITU-R 601 luma) or ``rgb``.
        fit: ``crop`` the longer side, ``pad`` the shorter with `background`, or ``stretch``.
        background: grey value behind transparent pixels and around padded images.
        changes: counts what was converted.

    Returns:
        (channels, size, size).

    Raises:
        InputError: Pillow is missing, or the file is damaged, no image, too large, or of a kind without fixed range.
    """
    pillow = _pillow()
    try:
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("error")  # a decompression bomb is only a warning up to twice the limit
            with pillow.open(file) as opened:
                if getattr(opened, "n_frames", 1) > 1:
                    changes.add("images had several frames, of which the first was taken", str(path))
                opened.load()
                image = _upright(opened)
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError, Warning, pillow.DecompressionBombError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"image cannot be read ({reason})", where=str(path), remedy="repair or remove the pair"
        ) from None
    return fitted(image, str(path), size=size, mode=mode, fit=fit, background=background, changes=changes)


def fitted(
    image: Image.Image, where: str, *, size: int, mode: str, fit: str, background: int, changes: Changes
) -> NDArray[np.uint8]:
    """Bring an image to size and mode, see `read_image`; resampling is bilinear with anti-aliasing."""
    flat = _flat(image, where, background, changes)
    if flat.mode != MODES[mode]:
        changes.add(f"images of mode {flat.mode} became {mode}", where)
        flat = flat.convert(MODES[mode])
    if flat.size != (size, size):
        changes.add(f"images of another size became {size}x{size} ({fit})", where)
        flat = _resized(flat, size, fit, background)
    pixels = np.asarray(flat, np.uint8)
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))


def read_sound(path: Path) -> tuple[Array, int]:
    """Read a sound file.

    Returns:
        Samples (n, channels) with full scale 1, and samples per second.

    Raises:
        InputError: damaged, empty, not finite, or of a kind that needs the package soundfile, which is missing.
    """
    wave, rate = _read_wav(path) if path.suffix.lower() in WAV_SUFFIXES else _read_other(path)
    return as_samples(wave, str(path)), rate


def as_samples(wave: NDArray[Any], where: str) -> Array:
    """(n, channels) with full scale 1 from (n,) or (n, channels) of any type that a wav file can hold.

    Raises:
        InputError: empty, of another type, or not finite.
    """
    if wave.ndim not in (1, 2) or wave.size == 0:
        raise InputError("sound is empty", where=where, found=f"shape {wave.shape}", remedy="remove the pair")
    match wave.dtype.kind, wave.dtype.itemsize:
        case "u", 1:
            samples = (wave.astype(np.float64) - 128) / 128
        case "i", (2 | 4 | 8) as size:
            samples = wave / float(1 << (8 * size - 1))
        case "f", _:
            samples = wave.astype(np.float64)
        case _:
            raise InputError(
                "unknown type of samples", where=where, found=wave.dtype, limit="uint8, int16, int32, float"
            )
    if not np.isfinite(samples).all():
        raise InputError("sound holds NaN or infinity", where=where, remedy="repair or remove the pair")
    return samples[:, None] if samples.ndim == 1 else samples


def prepared(
    samples: Array, rate: int, where: str, *, new_rate: int, seconds: float, level: str, changes: Changes
) -> Array:
    """Bring a sound to one channel, one rate, one length.

    Channels are averaged; another rate is resampled; a longer sound loses its end, a shorter one gets silence there;
    ``level="peak"`` makes the greatest absolute value 0.9 (silence stays silence), ``"asis"`` leaves it.

    Returns:
        (seconds * new_rate,) within -1..1.

    Raises:
        InputError: ``level="asis"`` and a sample beyond full scale.
    """
    wave = samples[:, 0]
    if samples.shape[1] > 1:
        changes.add("sounds had several channels, which were averaged", where)
        wave = samples.mean(axis=1)
    if rate != new_rate:
        changes.add(f"sounds were resampled to {new_rate} Hz", where)
        wave = features.resample(wave, rate, new_rate)
    length = round(seconds * new_rate)
    if len(wave) > length:
        changes.add(f"sounds were longer than {seconds:g} s and lost their end", where)
    elif len(wave) < length:
        changes.add(f"sounds were shorter than {seconds:g} s and got silence at the end", where)
    wave = np.pad(wave[:length], (0, max(0, length - len(wave))))
    peak = float(np.abs(wave).max())
    if peak == 0:
        changes.add("sounds are silent", where)
    elif level == "peak":
        wave = wave * (0.9 / peak)
    elif peak > 1:
        raise InputError(
            "sound goes beyond full scale",
            where=where,
            found=f"{peak:g}",
            limit=1,
            remedy="lower it, or set level=peak",
        )
    return wave


def as_image(pixels: NDArray[np.uint8]) -> Image.Image:
    """Make an image of (H, W) or (H, W, 1 | 3 | 4).

    Raises:
        InputError: Pillow is missing.
    """
    flat = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels
    return _pillow().fromarray(np.ascontiguousarray(flat))


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise InputError(
            "reading images needs Pillow", where="data pairs", remedy="install it: pip install avsnn[images]"
        ) from None
    return Image


def _upright(image: Image.Image) -> Image.Image:
    from PIL import ImageOps

    return ImageOps.exif_transpose(image)


def _flat(image: Image.Image, where: str, background: int, changes: Changes) -> Image.Image:
    """Without palette and transparency, 8 bits per channel."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "TIFF", "PPM")):
        changes.add("images of 16 bits were rounded to 8", where)
        deep = np.asarray(image).astype(np.int64)
        return as_image(((deep * 255 + 32767) // 65535).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise InputError("image has no fixed range of values", where=where, found=f"mode {image.mode}", limit="8 bits")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        changes.add(f"images had transparent pixels, put on grey {background}", where)
        whole = image.convert("RGBA")
        ground = _pillow().new("RGBA", whole.size, (background, background, background, 255))
        ground.alpha_composite(whole)
        return _grey_if_it_was(ground.convert("RGB"), image)
    if image.mode in ("1", "L"):
        return image.convert("L")
    return image.convert("RGB")


def _grey_if_it_was(flat: Image.Image, original: Image.Image) -> Image.Image:
    return flat.convert("L") if original.mode in ("1", "L", "LA", "La") else flat


def _resized(image: Image.Image, size: int, fit: str, background: int) -> Image.Image:
    from PIL import ImageOps

    bilinear = _pillow().Resampling.BILINEAR
    match fit:
        case "crop":
            return ImageOps.fit(image, (size, size), bilinear)
        case "pad":
            colour = background if image.mode == "L" else (background,) * 3
            return ImageOps.pad(image, (size, size), bilinear, color=colour)
        case "stretch":
            return image.resize((size, size), bilinear)
        case _:
            raise InputError("unknown fit", where="image_fit", found=fit, limit=", ".join(FITS))


def _read_wav(path: Path) -> tuple[NDArray[Any], int]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)  # chunks with titles and the like
            warnings.filterwarnings("error", "Reached EOF prematurely", wavfile.WavFileWarning)
            rate, wave = wavfile.read(path)
    except (OSError, ValueError, EOFError, OverflowError, MemoryError, ArithmeticError, Warning) as error:
        raise _unreadable(path, error) from None
    except Exception as error:  # scipy lets struct.error and UnboundLocalError out of files that are cut short
        raise _unreadable(path, error) from error
    if not 1 <= rate <= 1_000_000:
        raise InputError("sound has an impossible rate", where=str(path), found=f"{rate} Hz")
    return wave, int(rate)


def _read_other(path: Path) -> tuple[NDArray[Any], int]:
    try:
        import soundfile
    except (ImportError, OSError):  # OSError: the package without its library
        raise InputError(
            f"reading {path.suffix} needs soundfile",
            where=str(path),
            remedy="install it: pip install avsnn[sound], or convert the file to wav",
        ) from None
    try:
        wave, rate = soundfile.read(path, dtype="float64", always_2d=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise _unreadable(path, error) from None
    return wave, int(rate)


def _unreadable(path: Path, error: Exception) -> InputError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return InputError(f"sound cannot be read ({reason})", where=str(path), remedy="repair or remove the pair")
