"""Chips that are Loihi 2 but for what a test needs them to be: small cores, few axons, other prices of memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from avsnn.hw_profiles.profile import Profile, load_profile
from avsnn.hw_profiles.schema import Constant, Mesh


def chip(
    *, mesh: tuple[int, int, int] | None = (8, 4, 4), kernel_axons: str = "core", storage: bool = True, **limits: Any
) -> Profile:
    """A chip with these limits instead of its own; ``mesh``: tiles along x and y, cores per tile."""
    loihi2 = load_profile("loihi2")
    sizes = {name: limits.pop(name) for name in list(limits) if loihi2.storage and hasattr(loihi2.storage, name)}
    own: dict[str, Any] = {"cores_per_chip": mesh[0] * mesh[1] * mesh[2]} if mesh else {}
    unknown = tuple(name for name in loihi2.limits.unknown if name not in limits)
    assert loihi2.storage is not None
    held: dict[str, Any] = {name: _constant(getattr(loihi2.storage, name), value) for name, value in sizes.items()}
    return replace(
        loihi2,
        limits=replace(loihi2.limits, **{**own, **limits}, unknown=unknown),
        storage=replace(loihi2.storage, kernel_axons=kernel_axons, **held) if storage else None,
        mesh=Mesh(tiles_x=mesh[0], tiles_y=mesh[1], cores_per_tile=mesh[2], evidence="assumed", source="lava")
        if mesh
        else None,
    )


def _constant(old: Constant, value: float) -> Constant:
    return replace(old, value=value, lo=value, hi=value)
