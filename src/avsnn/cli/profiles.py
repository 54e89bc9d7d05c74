"""Lists the hardware profiles, shows one, or checks a file of your own: limits, formats, abilities, constants, sources.

A number in brackets is the interval; "not published" is not zero; "unlimited" means that nothing is checked.
"check" lists every problem of a file with its line. Exit code 0: there is none; 2: there is one, or another error.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence

from avsnn.errors import ProfileError
from avsnn.hw_profiles.profile import Constant, Profile, examine, load_profile, profile_json, profile_names
from avsnn.hw_profiles.schema import MAC_SCOPES

_EXAMPLE = """\
examples:
  avsnn profiles list
  avsnn profiles show loihi2
  avsnn profiles show my_chip.toml --json
  avsnn profiles check my_chip.toml
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``avsnn profiles``."""
    parser.epilog = _EXAMPLE
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="names, uses and titles of the shipped profiles")
    showing = actions.add_parser("show", help="everything that one profile states")
    showing.add_argument("name", metavar="NAME", help="name of a shipped profile, or path of a .toml file")
    checking = actions.add_parser("check", help="every problem of a profile of your own, with its line")
    checking.add_argument("name", metavar="FILE", help="path of a .toml file, or name of a shipped profile")
    for sub in (listing, showing, checking):
        sub.add_argument("--json", action="store_true", help="plain JSON on standard output")


def run(args: argparse.Namespace) -> int:
    """Print the list, the profile or its problems."""
    if args.action == "list":
        profiles = [load_profile(name) for name in profile_names()]
        if args.json:
            rows = [{"name": p.id, "title": p.title, "uses": list(p.uses), "sha256": p.sha256} for p in profiles]
            print(json.dumps(rows, indent=2))
        else:
            width = max(len(p.id) for p in profiles)
            print("\n".join(f"{p.id:<{width}}  {', '.join(p.uses):<15}  {p.title}" for p in profiles))
        return 0
    if args.action == "check":
        return _check(args.name, as_json=args.json)
    profile = load_profile(args.name)
    print(json.dumps(profile_json(profile), indent=2) if args.json else "\n".join(_lines(profile)))
    return 0


def _check(name: str, *, as_json: bool) -> int:
    try:
        profile, problems = examine(name)
    except ProfileError as error:  # no TOML: there is nothing to go on with
        profile, problems = None, [error]
    if as_json:
        rows = [{key: getattr(each, key) for key in ("where", "what", "found", "limit", "remedy")} for each in problems]
        print(
            json.dumps({"file": name, "id": profile.id if profile else None, "problems": rows}, indent=2, default=str)
        )
    else:
        print("\n".join(_verdict(name, profile, problems)))
    return 2 if problems else 0


def _verdict(name: str, profile: Profile | None, problems: Sequence[ProfileError]) -> Iterator[str]:
    yield from map(str, problems)
    if profile is None:
        yield f"{len(problems)} problem{'s' * (len(problems) != 1)}"
        return
    constants = [constant for constant in profile.constants().values() if not constant.name.startswith("limits.")]
    unknown = [constant.name for constant in constants if constant.value is None]
    yield f"{profile.id}: no problem; {len(constants)} constants, {len(profile.sources)} sources"
    if unknown:
        yield f"not published, so nothing is priced with them: {', '.join(unknown)}"
    if profile.id in profile_names() and load_profile(profile.id).sha256 != profile.sha256:
        yield f"note: {profile.id} is also the id of a shipped profile; another one keeps reports apart"


def _lines(profile: Profile) -> Iterator[str]:
    voltage = "" if profile.voltage_v is None else f", {profile.voltage_v:g} V"
    yield f"{profile.id}: {profile.title}"
    yield f"vendor {profile.vendor}, node {profile.node}{voltage}, used for {', '.join(profile.uses)}"
    if not profile.only_compares:
        yield f"scope of the constants: {profile.policy.scope}" + (
            f" (inside them: {', '.join(sorted(profile.inside))})" if profile.inside else ""
        )
        if profile.operating_point is not None:
            yield f"taken at: {profile.operating_point.network}"
        yield from _limits(profile)
    if profile.formats is not None:
        yield "\nformats"
        signs = "sign mode per weight group" if profile.formats.weight_sign_modes else "plain signed weights"
        yield f"  {signs}; one threshold per {profile.formats.threshold_granularity}"
    yield from _cores(profile)
    if profile.capabilities:
        yield "\nabilities"
        for kind, ability in profile.capabilities.items():
            reason = profile.capability_reasons.get(kind)
            yield f"  {kind:<30} {ability}" + (f"  ({reason})" if reason else "")
    tables = (("energy, pJ", profile.energy_pj), ("power, mW", profile.power_mw), ("time, ns", profile.time_ns))
    for title, table in (*tables, ("literature convention, pJ (never a headline)", profile.literature)):
        yield from _constants(title, table)
    if profile.mac_pj:
        powers = {f"{key} ({MAC_SCOPES[key]})": constant for key, constant in profile.mac_pj.items()}
        yield from _constants("multiply-accumulate of an ordinary network, pJ", powers)
    if profile.memories:
        yield "\nmemory, pJ per access"
        for memory in profile.memories:
            size = "off chip" if memory.size_kib is None else f"up to {memory.size_kib:g} KiB"
            yield _constant(f"{size}, {memory.word_bits} bits", memory.access_pj)
    yield "\nsources"
    yield from (f"  {source.id:<16} {source.cite} ({source.read})" for source in profile.sources.values())


def _limits(profile: Profile) -> Iterator[str]:
    yield "\nlimits"
    for name, evidence in profile.limits.evidence.items():
        value = getattr(profile.limits, name)
        absent = "not published" if name in profile.limits.unknown else "unlimited"
        note = f"  ({evidence.note})" if evidence.note else ""
        yield f"  {name:<30} {absent if value is None else value}  {', '.join(evidence.source)}{note}"


def _cores(profile: Profile) -> Iterator[str]:
    if profile.storage is not None:
        yield "\nbits in a core's memory"
        held = {key: c for key, c in vars(profile.storage).items() if isinstance(c, Constant)}
        yield from (_constant(key, constant) for key, constant in held.items())
        yield f"  {'kernel_axons':<30} one per sending {profile.storage.kernel_axons}"
    if (mesh := profile.mesh) is not None:
        note = f"  ({mesh.note})" if mesh.note else ""
        yield f"\nmesh\n  {mesh.tiles_x} x {mesh.tiles_y} tiles of {mesh.cores_per_tile} cores  {mesh.source}{note}"


def _constants(title: str, table: Mapping[str, Constant]) -> Iterator[str]:
    if table:
        yield f"\n{title}"
        yield from (_constant(key, constant) for key, constant in table.items())


def _constant(key: str, constant: Constant) -> str:
    sources = ", ".join(constant.source)
    if constant.value is None:
        return f"  {key:<30} not published  {sources}"
    interval = "" if constant.lo == constant.hi else f" [{constant.lo:g}, {constant.hi:g}]"
    return f"  {key:<30} {constant.value:g}{interval}  {constant.evidence}, {sources}"
