"""What an ordinary processor takes for the same work without spikes: always at its peak and for one sample at a time.

Two loads: the network in dense order, T steps of it (`avsnn.deploy.reports.dense`), and its quantised twin, executed
once (`avsnn.deploy.reports.twin`). ``E = n_mac e_mac``; each price says which power is in it. Prices of one device lie
orders of magnitude apart, so none of them stands alone, and none is ever added to a price of spikes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from avsnn.deploy.reports.interval import Interval, format_energy, interval_of
from avsnn.errors import ProfileError
from avsnn.hw_profiles.schema import MAC_SCOPES, Profile

LOADS: Mapping[str, str] = {"dense": "dense", "twin": "twin"}
"""Key of a load: what it is called."""
SHORT: Mapping[str, str] = {"peak": "peak", "batch1": "batch 1", "batch1_total": "batch 1, all"}
"""Keys of `MAC_SCOPES` as heads of columns."""
UNTRAINED = "nobody has trained the twin, so its accuracy is not known"


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One load at one price of a device, pJ per sample; None where nobody published the price."""

    load: str
    price: str
    power: str
    energy: Interval | None
    evidence: str | None
    note: str

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        energy = None if self.energy is None else self.energy.to_json()
        return {
            "load": self.load,
            "price": self.price,
            "power": self.power,
            "pj_per_sample": energy,
            "evidence": self.evidence,
            "note": self.note,
        }


def compared(profile: Profile, macs: Mapping[str, int]) -> tuple[Compared, ...]:
    """Price loads (multiply-accumulates per sample, keys of `LOADS`) on a device.

    Raises:
        ProfileError: the profile is no comparator.
    """
    if "comparator" not in profile.uses:
        raise ProfileError("prices no products of ordinary networks", where=profile.id, found=", ".join(profile.uses))
    rows = []
    for load in macs:
        for key, power in MAC_SCOPES.items():
            constant = profile.mac_pj.get(key)
            each = None if constant is None else interval_of(constant)
            rows.append(
                Compared(
                    load=load,
                    price=key,
                    power=power,
                    energy=None if each is None else each.scaled(macs[load]),
                    evidence=None if constant is None else constant.evidence,
                    note="" if constant is None else constant.note,
                )
            )
    return tuple(rows)


def compared_json(profiles: Sequence[Profile], macs: Mapping[str, int]) -> dict[str, Any]:
    """All devices, for the report."""
    devices = {
        profile.id: {
            "title": profile.title,
            "profile_sha256": profile.sha256,
            "rows": [row.to_json() for row in compared(profile, macs)],
        }
        for profile in profiles
    }
    return {"macs_per_sample": dict(macs), "note": UNTRAINED, "devices": devices} if devices else {}


def comparators_table(report: Mapping[str, Any]) -> RenderableType | None:
    """Loads on each device at each price; None in reports of older bundles, or where nobody asked."""
    found = report.get("comparators")
    if not found:
        return None
    macs = found["macs_per_sample"]
    table = Table(title="The same without spikes, per sample", title_justify="left", box=None, pad_edge=False)
    table.add_column("device", overflow="fold")
    for load in macs:
        for key in MAC_SCOPES:
            table.add_column(f"{LOADS[load]}: {SHORT[key]}", justify="right", overflow="fold")
    for name, device in found["devices"].items():
        table.add_row(name, *(_cell(row) for row in device["rows"]))
    lines = [
        f"  dense: {macs['dense']:,} products, all steps; quantised ANN twin: {macs['twin']:,}, once; {found['note']}",
        "  peak: rated power, every unit busy; batch 1: one sample at a time, power above idle, or all of it, measured "
        "with a small network on older devices",
    ]
    return Group(table, Text("\n".join(lines)))


def _cell(row: Mapping[str, Any]) -> str:
    return "not published" if row["pj_per_sample"] is None else format_energy(row["pj_per_sample"]["value"])
