"""Turns a profile's TOML file into a `Profile`, or into all that it does not know or cannot believe in it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from avsnn.errors import ProfileError
from avsnn.hw_profiles import schema
from avsnn.hw_profiles.constants import CONSTANT_KEYS, UNLIMITED, ConstantChecks
from avsnn.hw_profiles.tables import NULL, AbandonedError
from avsnn.hw_profiles.toml_file import read_toml

SCHEMA_VERSION = 1

SECTIONS = {
    "schema": True, "chip": True, "limits": True, "policy": True, "formats": False, "capabilities": False,
    "storage": False, "mesh": False, "energy_pj": False, "power_mw": False, "time_ns": False,
    "literature_pj": False, "mac_pj": False, "memory": False,
    "operating_point": False, "measurement": False, "source": True,
}  # fmt: skip
"""Top level keys; True marks those that every profile of a chip has."""

OF_COMPARATORS = frozenset({"schema", "chip", "mac_pj", "source"})
"""What a profile consists of that only compares: all of these and nothing else."""
NO_POLICY = schema.Policy(neuron_update="tick", zero_weight_skip="never", scope="per_term", inside=frozenset())

TERM_OF: Mapping[str, str] = {
    "sop": "sop", "neuron_update": "update", "neuron_active": "update", "neuron_inactive": "update",
    "spike_out": "spike", "axon_message": "spike", "spike_local": "route", "hop_x": "route", "hop_y": "route",
    "off_chip": "route", "step_sync": "sync", "mac": "host", "dynamic_and": "dynamic", "dynamic_acc": "dynamic",
    "dynamic_mul": "dynamic",
}  # fmt: skip
"""The term of the energy sum that each constant belongs to."""


def read_profile(path: Path) -> schema.Profile:
    """Parse and check one file.

    Raises:
        ProfileError: the first problem (`avsnn.hw_profiles.profile.load_profile`); its place is ``file:line: key``.
    """
    profile, problems = examine(path)
    if profile is None:
        first, more = problems[0], len(problems) - 1
        if more:
            raise ProfileError(
                first.what,
                where=first.where,
                found=first.found,
                limit=first.limit,
                remedy=f"{first.remedy}; " * bool(first.remedy) + f"'avsnn profiles check' lists {more} more",
            )
        raise first
    return profile


def examine(path: Path) -> tuple[schema.Profile | None, list[ProfileError]]:
    """The profile, or None and every problem of the file in the order of its lines.

    Raises:
        ProfileError: no TOML file (`avsnn.hw_profiles.toml_file.read_toml`).
    """
    file = read_toml(path)
    reader = _Reader(str(path), file)
    profile = None
    with reader.part():
        profile = reader.profile(file.table, str(path), hashlib.sha256(file.raw).hexdigest())
    return profile, [problem for _, problem in sorted(reader.problems, key=lambda each: each[0])]


class _Reader(ConstantChecks):
    """Builds the records of one file."""

    def profile(self, table: dict[str, Any], path: str, sha256: str) -> schema.Profile:
        """Every part as far as it can be read; a profile if nothing is wrong with any of them."""
        given = table.get("chip", {})
        compares = isinstance(given, dict) and given.get("uses") == ["comparator"]
        with self.part():
            self.keys("", table, SECTIONS | ({"limits": False, "policy": False} if compares else {}))
        if table.get("schema", SCHEMA_VERSION) != SCHEMA_VERSION:
            self.fail("schema", "unknown schema version", table["schema"], SCHEMA_VERSION)
        self.sources = self.read_sources(table)
        chip = self.section(table, "chip", self.chip) or {}
        target = "target" in chip.get("uses", ())
        if chip and target != ("formats" in table):
            found = "present" if "formats" in table else "missing"
            self.problem("formats", "goes together with use 'target'", found)
        self.check_comparator(table, chip.get("uses", ()))
        abilities = self.section(table, "capabilities", lambda entry: self.capabilities(entry, complete=target))
        if target and "capabilities" not in table:
            self.problem("capabilities", "missing, and a target answers for every kind")
        limits = schema.Limits.none() if compares else self.section(table, "limits", self.limits)
        parts: dict[str, Any] = {
            "limits": limits,
            "policy": NO_POLICY if compares else self.section(table, "policy", self.policy),
            "formats": self.section(table, "formats", self.formats),
            "storage": self.section(table, "storage", self.storage),
            "mesh": self.section(table, "mesh", lambda entry: self.mesh(entry, limits)),
            "operating_point": self.section(table, "operating_point", self.operating_point),
            "energy_pj": self.constants("energy_pj", table),
            "power_mw": self.constants("power_mw", table),
            "time_ns": self.constants("time_ns", table),
            "literature": self.constants("literature_pj", table),
            "mac_pj": self.constants("mac_pj", table),
            "memories": self.section(table, "memory", self.memories) or (),
            "measurements": self.section(table, "measurement", self.measurements) or (),
        }
        if parts["policy"] is not None:
            self.check_scope(parts, "operating_point" in table, chip.get("voltage_v"))
        if self.problems:
            raise AbandonedError
        parts["capabilities"], parts["capability_reasons"] = abilities or ({}, {})
        return schema.Profile(**chip, **parts, sources=self.sources, path=path, sha256=sha256)

    def check_comparator(self, table: dict[str, Any], uses: tuple[str, ...]) -> None:
        """Prices of products go together with their use, two of them at least; who only compares has nothing else."""
        for key in sorted(set(table) & set(SECTIONS) - OF_COMPARATORS) if uses == ("comparator",) else ():
            self.problem(key, "a comparator prices products of ordinary networks and nothing else", key)
        if uses and ("comparator" in uses) != ("mac_pj" in table):
            found = "present" if "mac_pj" in table else "missing"
            self.problem("mac_pj", "goes together with use 'comparator'", found)
        prices = table.get("mac_pj", {})
        if isinstance(prices, dict) and prices and not {"peak", "batch1"} <= set(prices):
            what = "a comparator has two prices at least, peak and batch1: one alone says nothing"
            self.problem("mac_pj", what, ", ".join(sorted(prices)))

    def check_scope(self, parts: Mapping[str, Any], has_point: bool, voltage_v: float | None) -> None:
        """A constant already held by another's scope is refused; a scope tied to one point must name the point."""
        policy: schema.Policy = parts["policy"]
        point: schema.OperatingPoint | None = parts["operating_point"]
        scope, inside = policy.scope, schema.SCOPE_HOLDS[policy.scope] | policy.inside
        for key in parts["energy_pj"]:
            if TERM_OF[key] in inside:
                self.problem(f"energy_pj.{key}", f"already inside the other constants (scope {scope})", key)
        if "static" in inside and "static_chip" in parts["power_mw"]:
            self.problem("power_mw.static_chip", f"already inside the other constants (scope {scope})")
        if "memory" in inside and parts["memories"]:
            self.problem("memory", f"already inside the other constants (scope {scope})")
        if scope in ("all_dynamic", "all_in") and not has_point:
            self.problem("operating_point", f"scope {scope} needs the point that it was taken at", "nothing")
        if scope == "per_term" and has_point:
            what = "scope per_term has none: the price of one event does not depend on what runs"
            self.problem("operating_point", what, remedy="leave it out, or say what scope the constants have")
        if scope == "all_in" and point is not None and (point.rate_hz is None or point.fan_out is None):
            self.problem("operating_point", "scope all_in needs rate_hz and fan_out", point.network)
        if point is not None and None not in (point.voltage_v, voltage_v) and point.voltage_v != voltage_v:
            what = "the constants are of another voltage than the chip"
            self.problem("operating_point.voltage_v", what, point.voltage_v, voltage_v)
        update = {"neuron_update"} & set(parts["energy_pj"])
        split = {"neuron_active", "neuron_inactive"} & set(parts["energy_pj"])
        if len(split) == 1 or (update and split):
            what = "give neuron_update alone, or both neuron_active and neuron_inactive"
            self.problem("energy_pj", what, ", ".join(sorted(update | split)))

    def section(self, table: dict[str, Any], key: str, read: Callable[[Any], Any]) -> Any:
        """What ``read`` makes of a part of the file, None if it is missing or wrong."""
        found = None
        with self.part():
            found = read(table[key]) if key in table else None
        return found

    def chip(self, table: Any) -> dict[str, Any]:
        """Checked values of [chip]."""
        chip = self.record("chip", table, schema.Profile, "id title vendor kind node voltage_v uses")
        for key, value in chip.items():
            self.text(f"chip.{key}", value)
        for use in chip["uses"]:
            self.one_of("chip.uses", use, schema.USES)
        return chip | {"uses": tuple(chip["uses"])}

    def read_sources(self, table: dict[str, Any]) -> dict[str, schema.Source]:
        """Sources by id; one that is wrong is known by its id all the same, so that it is one problem."""
        found: dict[str, schema.Source] = {}
        entries = self.section(table, "source", lambda _: self.many("source", table)) or []
        for i, entry in enumerate(entries):
            with self.part():
                name = entry.get("id") if isinstance(entry, dict) else None
                if isinstance(name, str) and name not in found:
                    found[name] = schema.Source(id=name, cite="", read="")
                elif isinstance(name, str):
                    self.problem(f"source[{i}].id", "used twice", name)
                source = schema.Source(**self.record(f"source[{i}]", entry, schema.Source, "id cite read locator"))
                for key in ("id", "cite", "locator"):
                    self.text(f"source[{i}].{key}", getattr(source, key))
                self.one_of(f"source[{i}].read", source.read, ("primary", "secondary"))
                found[source.id] = source
        return found

    def limits(self, table: Any) -> schema.Limits:
        """Integers, 'unlimited' or 'null', each with its evidence."""
        names = [name for name in schema.Limits.__dataclass_fields__ if name not in ("unknown", "evidence")]
        with self.part():
            self.keys("limits", table, dict.fromkeys(names, True))
        values: dict[str, int | None] = {}
        evidence: dict[str, schema.Constant] = {}
        for name in (name for name in names if isinstance(table, dict) and name in table):
            where, entry = f"limits.{name}", table[name]
            with self.part():
                self.keys(where, entry, CONSTANT_KEYS)
                value = entry["value"]
                if value not in (NULL, UNLIMITED) and (not isinstance(value, int) or isinstance(value, bool)):
                    self.fail(where, "a limit is an integer, 'unlimited' or 'null'", value)
                values[name] = value if isinstance(value, int) else None
                evidence[name] = self.constant(where, entry | {"value": NULL if value == UNLIMITED else value})
        if len(evidence) < len(names):
            raise AbandonedError
        unknown = tuple(name for name in names if table[name]["value"] == NULL)
        return schema.Limits(**values, unknown=unknown, evidence=evidence)

    def policy(self, table: Any) -> schema.Policy:
        """Words of [policy]."""
        entry = self.record("policy", table, schema.Policy, "neuron_update zero_weight_skip scope inside")
        self.one_of("policy.neuron_update", entry["neuron_update"], ("tick", "event"))
        self.one_of("policy.zero_weight_skip", entry["zero_weight_skip"], ("never", "storage", "always"))
        self.one_of("policy.scope", entry["scope"], schema.SCOPES)
        for term in entry["inside"]:
            self.one_of("policy.inside", term, schema.TERMS)
        return schema.Policy(**(entry | {"inside": frozenset(entry["inside"])}))

    def formats(self, table: Any) -> schema.Formats:
        """[formats]."""
        result: schema.Formats = self.filled("formats", table, schema.Formats)
        self.one_of("formats.threshold_granularity", result.threshold_granularity, schema.GRANULARITIES)
        return result

    def operating_point(self, table: Any) -> schema.OperatingPoint:
        """[operating_point]."""
        result: schema.OperatingPoint = self.filled("operating_point", table, schema.OperatingPoint)
        return result

    def measurements(self, entries: Any) -> tuple[schema.Measurement, ...]:
        """Each [[measurement]]."""
        found = enumerate(self.many("measurement", {"measurement": entries}))
        return tuple(self.filled(f"measurement[{i}]", entry, schema.Measurement) for i, entry in found)

    def storage(self, table: Any) -> schema.Storage:
        """Bits of what a core's memory holds."""
        names = list(schema.Storage.__dataclass_fields__)
        self.keys("storage", table, dict.fromkeys(names, True))
        self.one_of("storage.kernel_axons", table["kernel_axons"], schema.AXON_SHARING)
        found = {name: self.constant(f"storage.{name}", table[name]) for name in names if name != "kernel_axons"}
        if found["word_bits"].value is not None and found["word_bits"].value < 1:
            self.fail("storage.word_bits", "a word has at least one bit", found["word_bits"].value)
        return schema.Storage(**found, kernel_axons=table["kernel_axons"])

    def mesh(self, table: Any, limits: schema.Limits | None) -> schema.Mesh:
        """Tiles that hold as many cores as the chip has."""
        result: schema.Mesh = self.filled("mesh", table, schema.Mesh)
        self.one_of("mesh.evidence", result.evidence, schema.EVIDENCE)
        places = result.tiles_x * result.tiles_y * result.cores_per_tile
        cores = places if limits is None else limits.cores_per_chip
        if min(result.tiles_x, result.tiles_y, result.cores_per_tile) < 1 or places != cores:
            self.fail("mesh", "does not hold the cores of a chip", places, cores)
        return result

    def capabilities(self, table: Any, *, complete: bool) -> tuple[dict[str, str], dict[str, str]]:
        """(ability, reason) by kind; what is not native says why. A target answers for every kind."""
        with self.part():
            self.keys("capabilities", table, dict.fromkeys(schema.CAPABILITY_KINDS, complete))
        abilities: dict[str, str] = {}
        reasons: dict[str, str] = {}
        for kind, entry in table.items() if isinstance(table, dict) else ():
            if kind not in schema.CAPABILITY_KINDS:
                continue
            with self.part():
                where = f"capabilities.{kind}"
                if isinstance(entry, str):
                    entry = {"ability": entry}
                self.keys(where, entry, {"ability": True, "reason": False, "source": False})
                self.one_of(where, entry["ability"], schema.ABILITIES)
                reason = entry.get("reason", "")
                if not isinstance(reason, str) or (not reason and entry["ability"] != "native"):
                    self.fail(f"{where}.reason", "what is not native says why, in words", reason or "nothing")
                self.text(f"{where}.reason", reason)
                if "source" in entry:
                    self.source(where, entry["source"])
                abilities[kind] = entry["ability"]
                reasons |= {kind: reason} if reason else {}
        return abilities, reasons

    def filled(self, where: str, table: Any, kind: Any) -> Any:
        """A record dataclass made of the table, with its source checked."""
        result = kind(**self.record(where, table, kind, " ".join(kind.__dataclass_fields__)))
        for key, value in vars(result).items():
            self.text(f"{where}.{key}", value)
        self.source(where, result.source)
        return result
