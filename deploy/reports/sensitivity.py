"""Turns a priced sum into the answer which constant makes its interval wide, and how wide it would be without.

Each constant in turn is taken for exact (``lo = value = hi``) and the sum is priced again; its share is what that takes
off ``hi - lo``. Counts are exact, so nothing else has a width but the policy on weights of 0, where a chip may pay for
them or not. Shares of factors of one product overlap, so they need not add up to 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from avsnn.deploy.reports.interval import Interval
from avsnn.hw_profiles.schema import Constant, Profile

ZEROS = "weights of 0"
"""The name of the policy on them: nobody knows whether the chip pays for them."""


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """The constant that most of ``hi - lo`` comes from, its share, and the interval (pJ) if it were exact."""

    constant: str
    share: float
    without: Interval
    shares: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """Plain values; shares largest first."""
        return {
            "constant": self.constant,
            "share": self.share,
            "without_pj": self.without.to_json(),
            "shares": dict(self.shares),
        }


def sensitivity(profile: Profile, dynamic: Callable[[Profile], Interval | None]) -> Sensitivity | None:
    """Price again with each constant exact; None where there is no sum, or it has no width.

    Args:
        profile: what was priced with.
        dynamic: profile to the sum of its priced terms.
    """
    whole = dynamic(profile)
    if whole is None or whole.width == 0:
        return None
    found: dict[str, Interval] = {}
    for name, other in _exact(profile):
        interval = dynamic(other)
        if interval is not None and interval.width < whole.width:
            found[name] = interval
    shares = {name: 1 - interval.width / whole.width for name, interval in found.items()}
    if not shares:
        return None
    ordered = dict(sorted(shares.items(), key=lambda item: -item[1]))
    first = next(iter(ordered))
    return Sensitivity(constant=first, share=ordered[first], without=found[first], shares=ordered)


def _exact(profile: Profile) -> Iterator[tuple[str, Profile]]:
    """The profile with one constant exact, for each that has a width; by the name of the constant."""
    for key, constant in profile.energy_pj.items():
        if constant.lo != constant.hi:
            yield constant.name, replace(profile, energy_pj={**profile.energy_pj, key: _point(constant)})
    for i, memory in enumerate(profile.memories):
        if memory.access_pj.lo != memory.access_pj.hi:
            exact = replace(memory, access_pj=_point(memory.access_pj))
            yield (
                memory.access_pj.name,
                replace(profile, memories=(*profile.memories[:i], exact, *profile.memories[i + 1 :])),
            )
    if profile.policy.zero_weight_skip == "storage":
        yield ZEROS, replace(profile, policy=replace(profile.policy, zero_weight_skip="never"))


def _point(constant: Constant) -> Constant:
    return replace(constant, lo=constant.value, hi=constant.value)
