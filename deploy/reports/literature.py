"""Turns counts into the figure that papers print: accumulates and first-layer products at two prices, nothing else.

``E = e_ac n_sop + e_mac n_mac``, floating point at 45 nm, without memory, neurons, routing and static power. It is the
same for every chip, an estimate of none, and stands in a column of its own, never as the headline.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from avsnn.deploy.reports.counts import Counts
from avsnn.errors import ProfileError
from avsnn.hw_profiles.profile import load_profile
from avsnn.hw_profiles.schema import Constant, Profile

CONVENTION = "cmos45"
"""The shipped profile whose table ``literature_pj`` holds the two prices."""


@dataclass(frozen=True, kw_only=True)
class Literature:
    """``energy_pj = ac * sop_stored + mac * host_macs``, pJ over all samples."""

    name: str
    energy_pj: float


def literature(counts: Counts) -> Literature:
    """The convention's figure of a run.

    Raises:
        ProfileError: the shipped profile lacks its prices.
    """
    ac, mac = (_price(key) for key in ("ac", "mac"))
    return Literature(
        name=f"literature convention ({ac:g} pJ per accumulate, {mac:g} pJ per first-layer product; "
        "no memory, neurons, routing)",
        energy_pj=ac * counts.sop_stored + mac * counts.host_macs,
    )


@lru_cache
def _convention() -> Profile:
    return load_profile(CONVENTION)


def _price(key: str) -> float:
    constant: Constant | None = _convention().literature.get(key)
    if constant is None or constant.value is None:
        raise ProfileError("has no price of the convention", where=f"{CONVENTION}: literature_pj", found=key)
    return constant.value
