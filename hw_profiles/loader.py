"""Turns a profile's TOML text into a `Profile`, refusing whatever it does not know or cannot believe."""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from avsnn.errors import ProfileError
from avsnn.hw_profiles import schema
from avsnn.hw_profiles.tables import NULL, TableChecks

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SCHEMA_VERSION = 1
UNLIMITED = "unlimited"

SECTIONS = {
    "schema": True, "chip": True, "limits": True, "policy": True, "formats": False, "capabilities": False,
    "storage": False, "mesh": False, "energy_pj": False, "power_mw": False, "time_ns": False,
    "literature_pj": False, "memory": False,
    "operating_point": False, "measurement": False, "source": True,
}  # fmt: skip
"""Top level keys; True marks those that every profile has."""

CONSTANT_KEYS = {
    "value": True, "lo": False, "hi": False, "class": False, "tag": True, "source": True, "locator": False,
    "note": False,
}  # fmt: skip

KEYS_OF: Mapping[str, frozenset[str]] = {
    "energy_pj": frozenset(
        {"sop", "neuron_update", "neuron_active", "neuron_inactive", "spike_out", "axon_message", "spike_local"}
        | {"hop_x", "hop_y", "step_sync", "mac", "dynamic_and", "dynamic_acc", "dynamic_mul"}
    ),
    "power_mw": frozenset({"static_chip", "host_awake"}),
    "time_ns": frozenset({"sop", "neuron_update", "neuron_active", "neuron_inactive", "barrier"}),
    "literature_pj": frozenset({"ac", "mac"}),
}
"""Constants that a profile may hold, by table."""

TERM_OF: Mapping[str, str] = {
    "sop": "sop", "neuron_update": "update", "neuron_active": "update", "neuron_inactive": "update",
    "spike_out": "spike", "axon_message": "spike", "spike_local": "route", "hop_x": "route", "hop_y": "route",
    "step_sync": "sync", "mac": "host", "dynamic_and": "dynamic", "dynamic_acc": "dynamic", "dynamic_mul": "dynamic",
}  # fmt: skip
"""The term of the energy sum that each constant belongs to."""


def read_profile(path: Path) -> schema.Profile:
    """Parse and check one file.

    Raises:
        ProfileError: see `avsnn.hw_profiles.profile.load_profile`; the place is ``file: key``.
    """
    try:
        raw = path.read_bytes()
        table = tomllib.loads(raw.decode("utf-8"))
    except OSError as error:
        raise ProfileError("cannot read profile", where=str(path), found=error.strerror) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProfileError("not a TOML file", where=str(path), found=error) from error
    return _Reader(path.name).profile(table, str(path), hashlib.sha256(raw).hexdigest())


class _Reader(TableChecks):
    """Builds the records of one file; remembers its sources, which every number must name."""

    def __init__(self, file: str) -> None:
        super().__init__(file)
        self.sources: dict[str, schema.Source] = {}

    def profile(self, table: dict[str, Any], path: str, sha256: str) -> schema.Profile:
        self.keys("", table, SECTIONS)
        if table["schema"] != SCHEMA_VERSION:
            self.fail("schema", "unknown schema version", table["schema"], SCHEMA_VERSION)
        self.sources = self.read_sources(table)
        chip = self.record("chip", table["chip"], schema.Profile, "id title vendor kind node voltage_v uses")
        for use in chip["uses"]:
            self.one_of("chip.uses", use, schema.USES)
        policy = self.policy(table["policy"])
        point = self.optional(table, "operating_point", schema.OperatingPoint)
        target = "target" in chip["uses"]
        if target != ("formats" in table):
            self.fail("formats", "goes together with use 'target'", "present" if "formats" in table else "missing")
        abilities = table.get("capabilities", {})
        capabilities, reasons = self.capabilities(abilities, complete=target)
        result = schema.Profile(
            **(chip | {"uses": tuple(chip["uses"])}),
            limits=self.limits(table["limits"]),
            policy=policy,
            formats=self.formats(table["formats"]) if target else None,
            storage=self.storage(table["storage"]) if "storage" in table else None,
            mesh=self.mesh(table["mesh"], table["limits"]) if "mesh" in table else None,
            capabilities=capabilities,
            capability_reasons=reasons,
            energy_pj=self.constants("energy_pj", table),
            power_mw=self.constants("power_mw", table),
            time_ns=self.constants("time_ns", table),
            literature=self.constants("literature_pj", table),
            memories=self.memories(table.get("memory", [])),
            operating_point=point,
            measurements=tuple(
                self.filled(f"measurement[{i}]", entry, schema.Measurement)
                for i, entry in enumerate(self.many("measurement", table))
            ),
            sources=self.sources,
            path=path,
            sha256=sha256,
        )
        self.check_scope(result)
        return result

    def check_scope(self, profile: schema.Profile) -> None:
        """A constant already held by another's scope is refused; a scope tied to one point must name the point."""
        scope = profile.policy.scope
        for key, constant in profile.energy_pj.items():
            if TERM_OF[key] in profile.inside:
                self.fail(constant.name, f"already inside the other constants (scope {scope})", key)
        if "static" in profile.inside and "static_chip" in profile.power_mw:
            self.fail("power_mw.static_chip", f"already inside the other constants (scope {scope})")
        if "memory" in profile.inside and profile.memories:
            self.fail("memory", f"already inside the other constants (scope {scope})")
        point = profile.operating_point
        if scope in ("all_dynamic", "all_in") and point is None:
            self.fail("operating_point", f"scope {scope} needs the point that it was taken at", "nothing")
        if scope == "all_in" and point is not None and (point.rate_hz is None or point.fan_out is None):
            self.fail("operating_point", "scope all_in needs rate_hz and fan_out", point.network)
        update = {"neuron_update"} & set(profile.energy_pj)
        split = {"neuron_active", "neuron_inactive"} & set(profile.energy_pj)
        if len(split) == 1 or (update and split):
            self.fail("energy_pj", "give neuron_update alone, or both neuron_active and neuron_inactive", sorted(split))

    def read_sources(self, table: dict[str, Any]) -> dict[str, schema.Source]:
        found: dict[str, schema.Source] = {}
        for i, entry in enumerate(self.many("source", table)):
            source = schema.Source(**self.record(f"source[{i}]", entry, schema.Source, "id cite read locator"))
            self.one_of(f"source[{i}].read", source.read, ("primary", "secondary"))
            if source.id in found:
                self.fail(f"source[{i}].id", "used twice", source.id)
            found[source.id] = source
        return found

    def limits(self, table: Any) -> schema.Limits:
        names = [name for name in schema.Limits.__dataclass_fields__ if name not in ("unknown", "evidence")]
        self.keys("limits", table, dict.fromkeys(names, True))
        values: dict[str, int | None] = {}
        evidence: dict[str, schema.Constant] = {}
        for name in names:
            where = f"limits.{name}"
            entry = table[name]
            self.keys(where, entry, CONSTANT_KEYS)
            value = entry["value"]
            if value not in (NULL, UNLIMITED) and (not isinstance(value, int) or isinstance(value, bool)):
                self.fail(where, "a limit is an integer, 'unlimited' or 'null'", value)
            values[name] = value if isinstance(value, int) else None
            evidence[name] = self.constant(where, entry | {"value": NULL if value == UNLIMITED else value})
        unknown = tuple(name for name in names if table[name]["value"] == NULL)
        return schema.Limits(**values, unknown=unknown, evidence=evidence)

    def policy(self, table: Any) -> schema.Policy:
        entry = self.record("policy", table, schema.Policy, "neuron_update zero_weight_skip scope inside")
        self.one_of("policy.neuron_update", entry["neuron_update"], ("tick", "event"))
        self.one_of("policy.zero_weight_skip", entry["zero_weight_skip"], ("never", "storage", "always"))
        self.one_of("policy.scope", entry["scope"], schema.SCOPES)
        for term in entry["inside"]:
            self.one_of("policy.inside", term, schema.TERMS)
        return schema.Policy(**(entry | {"inside": frozenset(entry["inside"])}))

    def formats(self, table: Any) -> schema.Formats:
        result: schema.Formats = self.filled("formats", table, schema.Formats)
        self.one_of("formats.threshold_granularity", result.threshold_granularity, schema.GRANULARITIES)
        return result

    def storage(self, table: Any) -> schema.Storage:
        names = list(schema.Storage.__dataclass_fields__)
        self.keys("storage", table, dict.fromkeys(names, True))
        self.one_of("storage.kernel_axons", table["kernel_axons"], schema.AXON_SHARING)
        found = {name: self.constant(f"storage.{name}", table[name]) for name in names if name != "kernel_axons"}
        if found["word_bits"].value is not None and found["word_bits"].value < 1:
            self.fail("storage.word_bits", "a word has at least one bit", found["word_bits"].value)
        return schema.Storage(**found, kernel_axons=table["kernel_axons"])

    def mesh(self, table: Any, limits: Any) -> schema.Mesh:
        result: schema.Mesh = self.filled("mesh", table, schema.Mesh)
        self.one_of("mesh.evidence", result.evidence, schema.EVIDENCE)
        places, cores = result.tiles_x * result.tiles_y * result.cores_per_tile, limits["cores_per_chip"]["value"]
        if min(result.tiles_x, result.tiles_y, result.cores_per_tile) < 1 or places != cores:
            self.fail("mesh", "does not hold the cores of a chip", places, cores)
        return result

    def capabilities(self, table: Any, *, complete: bool) -> tuple[dict[str, str], dict[str, str]]:
        """(ability, reason) by kind; what is not native says why. A target answers for every kind."""
        self.keys("capabilities", table, dict.fromkeys(schema.CAPABILITY_KINDS, complete))
        abilities: dict[str, str] = {}
        reasons: dict[str, str] = {}
        for kind, entry in table.items():
            where = f"capabilities.{kind}"
            if isinstance(entry, str):
                entry = {"ability": entry}
            self.keys(where, entry, {"ability": True, "reason": False, "source": False})
            self.one_of(where, entry["ability"], schema.ABILITIES)
            reason = entry.get("reason", "")
            if not isinstance(reason, str) or (not reason and entry["ability"] != "native"):
                self.fail(f"{where}.reason", "what is not native says why, in words", reason or "nothing")
            if "source" in entry:
                self.source(where, entry["source"])
            abilities[kind] = entry["ability"]
            reasons |= {kind: reason} if reason else {}
        return abilities, reasons

    def constants(self, section: str, table: dict[str, Any]) -> dict[str, schema.Constant]:
        entries = table.get(section, {})
        self.keys(section, entries, dict.fromkeys(KEYS_OF[section], False))
        return {key: self.constant(f"{section}.{key}", entry) for key, entry in entries.items()}

    def constant(self, where: str, entry: Any) -> schema.Constant:
        """One table {value, lo, hi, class, tag, source, ...}; the interval defaults to the value itself."""
        self.keys(where, entry, CONSTANT_KEYS)
        self.one_of(f"{where}.tag", entry["tag"], schema.TAGS)
        sources = entry["source"] if isinstance(entry["source"], list) else [entry["source"]]
        for name in sources or [""]:
            self.source(where, name)
        about = {"tag": entry["tag"], "source": tuple(sources)}
        about |= {key: entry.get(key, "") for key in ("locator", "note")}
        if entry["value"] == NULL:
            if {"lo", "hi", "class"} & set(entry):
                self.fail(where, "a number that is not published has no interval and no class", sorted(entry))
            return schema.Constant(name=where, value=None, lo=None, hi=None, evidence=None, **about)
        value = self.number(f"{where}.value", entry["value"])
        lo = self.number(f"{where}.lo", entry.get("lo", value))
        hi = self.number(f"{where}.hi", entry.get("hi", value))
        is_limit = where.startswith("limits.")
        if not lo <= value <= hi:
            self.fail(where, "the value is not inside its interval", value, f"{lo}..{hi}")
        if lo < 0 and not is_limit:
            self.fail(f"{where}.lo", "energy, power and time are not negative", lo)
        if "class" not in entry and not is_limit:
            self.fail(f"{where}.class", "missing")
        evidence = entry.get("class")
        if evidence is not None:
            self.one_of(f"{where}.class", evidence, schema.EVIDENCE)
        return schema.Constant(name=where, value=value, lo=lo, hi=hi, evidence=evidence, **about)

    def memories(self, entries: Any) -> tuple[schema.SramSize, ...]:
        sizes: list[schema.SramSize] = []
        for i, entry in enumerate(self.many("memory", {"memory": entries})):
            where = f"memory[{i}]"
            self.keys(where, entry, {"size_kib": True, "word_bits": True} | CONSTANT_KEYS)
            rest = {key: value for key, value in entry.items() if key not in ("size_kib", "word_bits")}
            size = None if entry["size_kib"] == UNLIMITED else self.number(f"{where}.size_kib", entry["size_kib"])
            word = self.number(f"{where}.word_bits", entry["word_bits"])
            sizes.append(schema.SramSize(size_kib=size, word_bits=int(word), access_pj=self.constant(where, rest)))
        order = [math.inf if size.size_kib is None else size.size_kib for size in sizes]
        if order != sorted(order):
            self.fail("memory", "sizes must grow, 'unlimited' last", order)
        return tuple(sizes)

    def optional(self, table: dict[str, Any], key: str, kind: type) -> Any:
        return self.filled(key, table[key], kind) if key in table else None

    def filled(self, where: str, table: Any, kind: Any) -> Any:
        """A record dataclass made of the table, with its source checked."""
        result = kind(**self.record(where, table, kind, " ".join(kind.__dataclass_fields__)))
        self.source(where, result.source)
        return result

    def source(self, where: str, name: Any) -> None:
        if name not in self.sources:
            self.fail(f"{where}.source", "no [[source]] of this id", repr(name), ", ".join(self.sources))
