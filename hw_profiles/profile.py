"""Turns the name of a chip (or a TOML file of one's own) into a checked `Profile`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from avsnn.errors import ProfileError
from avsnn.hw_profiles import loader
from avsnn.hw_profiles.schema import USES, Constant, Profile

__all__ = ["Constant", "Profile", "examine", "load_profile", "profile_json", "profile_names"]

_SHIPPED = Path(__file__).resolve().parent / "data"


def profile_names(use: str | None = None) -> tuple[str, ...]:
    """Names of the shipped profiles in alphabetical order: all, or those for one use ("target" or "pricing").

    Raises:
        ProfileError: an unknown use.
    """
    if use is not None and use not in USES:
        raise ProfileError("unknown use", where="profile_names", found=use, limit=", ".join(USES))
    return tuple(name for name in _shipped() if use is None or use in load_profile(name).uses)


def load_profile(name_or_path: str | Path) -> Profile:
    """Read a shipped profile by name, or a TOML file by path (anything that ends in ``.toml`` or holds a slash).

    Raises:
        ProfileError: unknown name (the message lists the known ones), unreadable file, unknown key (with the nearest
            valid one), missing source, interval out of order, or a scope without its operating point.
    """
    return loader.read_profile(_path(name_or_path))


def examine(name_or_path: str | Path) -> tuple[Profile | None, list[ProfileError]]:
    """Return the profile, or None and everything that is wrong with it, in the order of its lines.

    Raises:
        ProfileError: unknown name, or no TOML file that can be read.
    """
    return loader.examine(_path(name_or_path))


def _path(name_or_path: str | Path) -> Path:
    name, known = str(name_or_path), _shipped()
    if name in known:
        return known[name]
    if name.endswith(".toml") or "/" in name or isinstance(name_or_path, Path):
        return Path(name_or_path)
    raise ProfileError(
        "unknown profile",
        where=repr(name),
        limit=", ".join(known),
        remedy="name one of these or give the path of a .toml file",
    )


def profile_json(profile: Profile) -> dict[str, Any]:
    """Plain values, for JSON. The path is left out: it belongs to a machine, not to a chip."""
    return {field.name: _plain(getattr(profile, field.name)) for field in fields(profile) if field.name != "path"}


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    match value:
        case Mapping():
            return {key: _plain(item) for key, item in value.items()}
        case tuple():
            return [_plain(item) for item in value]
        case frozenset():
            return sorted(value)
        case _:
            return value


def _shipped() -> dict[str, Path]:
    return {path.stem: path for path in sorted(_SHIPPED.glob("*.toml"))}
