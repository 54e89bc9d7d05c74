"""Checks that turn tables like {value, lo, hi, class, tag, source} into constants: every number with its evidence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from avsnn.hw_profiles import schema
from avsnn.hw_profiles.schema import EVIDENCE
from avsnn.hw_profiles.tables import NULL, AbandonedError, TableChecks

UNLIMITED = "unlimited"

CONSTANT_KEYS = {
    "value": True, "lo": False, "hi": False, "class": False, "tag": True, "source": True, "locator": False,
    "note": False,
}  # fmt: skip

KEYS_OF: Mapping[str, frozenset[str]] = {
    "energy_pj": frozenset(
        {"sop", "neuron_update", "neuron_active", "neuron_inactive", "spike_out", "axon_message", "spike_local"}
        | {"hop_x", "hop_y", "off_chip", "step_sync", "mac", "dynamic_and", "dynamic_acc", "dynamic_mul"}
    ),
    "power_mw": frozenset({"static_chip", "host_awake"}),
    "time_ns": frozenset(
        {"sop", "neuron_update", "neuron_active", "neuron_inactive", "spike_out", "barrier", "tick", "link"}
    ),
    "literature_pj": frozenset({"ac", "mac"}),
    "mac_pj": frozenset(schema.MAC_SCOPES),
}
"""Constants that a profile may hold, by table."""
UNIT_OF = {
    "energy_pj": "pj", "power_mw": "mw", "time_ns": "ns", "literature_pj": "pj", "mac_pj": "pj", "memory": "pj",
    "storage": "bits",
}  # fmt: skip
"""Unit of the numbers of a table."""


class ConstantChecks(TableChecks):
    """Reads constants on behalf of one file; remembers its sources, which every number must name."""

    sources: Mapping[str, schema.Source] = {}

    def constants(self, section: str, table: dict[str, Any]) -> dict[str, schema.Constant]:
        """Constants of a table by key, as far as they can be read."""
        found: dict[str, schema.Constant] = {}
        with self.part():
            entries = table.get(section, {})
            self.keys(section, entries, dict.fromkeys(KEYS_OF[section], False), unit=UNIT_OF[section])
            for key in (key for key in entries if key in KEYS_OF[section]):
                with self.part():
                    found[key] = self.constant(f"{section}.{key}", entries[key])
        return found

    def constant(self, where: str, entry: Any) -> schema.Constant:
        """One table {value, lo, hi, class, tag, source, ...}; the interval defaults to the value itself."""
        unit, before = UNIT_OF.get(where.partition(".")[0].partition("[")[0], ""), len(self.problems)
        if not isinstance(entry, dict):
            self.fail(where, "a table is needed", entry)
        with self.part():
            self.keys(where, entry, CONSTANT_KEYS, unit=unit)
        about: dict[str, Any] = {}
        with self.part():
            about = self.about(where, entry)
        value = lo = hi = evidence = None
        if entry.get("value") == NULL:
            if given := {"lo", "hi", "class"} & set(entry):
                what = "a number that is not published has no interval and no class"
                self.problem(
                    where, what, ", ".join(sorted(given)), remedy=f'leave them out, or give more than "{NULL}"'
                )
        else:
            with self.part():
                lo, value, hi = self.interval(where, entry, unit)
            with self.part():
                evidence = self.evidence(where, entry, is_limit=unit == "")
        if len(self.problems) > before:
            raise AbandonedError
        return schema.Constant(name=where, value=value, lo=lo, hi=hi, evidence=evidence, **about)

    def interval(self, where: str, entry: Mapping[str, Any], unit: str) -> tuple[float, float, float]:
        """``lo <= value <= hi``; prices are above zero, as nothing is free and what is unknown is not zero."""
        if "value" not in entry:
            raise AbandonedError
        value = self.number(f"{where}.value", entry["value"])
        lo, hi = (self.number(f"{where}.{key}", entry.get(key, value)) for key in ("lo", "hi"))
        if lo > hi:
            self.fail(where, "lo is above hi", lo, hi)
        if not lo <= value <= hi:
            self.fail(where, "the value is not inside its interval", value, f"{lo}..{hi}")
        if lo < 0 and unit:
            self.fail(f"{where}.{'lo' if 'lo' in entry else 'value'}", "energy, power and time are not negative", lo)
        if value == 0 and unit not in ("", "bits"):
            remedy = f'write "{NULL}" for what is not published, leave out what the chip has not'
            self.fail(f"{where}.value", "zero is no price, and what is not known is not zero", value, remedy=remedy)
        return lo, value, hi

    def evidence(self, where: str, entry: Mapping[str, Any], *, is_limit: bool) -> str | None:
        """How the number was obtained; limits need not say."""
        if "class" in entry:
            self.one_of(f"{where}.class", entry["class"], EVIDENCE)
        elif not is_limit:
            self.fail(f"{where}.class", "missing")
        if entry.get("tag") == "M" and not is_limit and entry.get("class") != EVIDENCE[-1]:
            what, remedy = "what is only remembered (tag M) is no more than assumed", "read it up, and say where"
            self.fail(f"{where}.class", what, entry.get("class"), EVIDENCE[-1], remedy=remedy)
        return entry.get("class")

    def about(self, where: str, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Where a number comes from: tag, sources, place, note; what is missing has been named by `keys`."""
        if "tag" in entry:
            self.one_of(f"{where}.tag", entry["tag"], schema.TAGS)
        sources = entry.get("source", ())
        sources = sources if isinstance(sources, list | tuple) else [sources]
        for name in sources or ([""] if "source" in entry else []):
            self.source(where, name)
        texts = {key: entry.get(key, "") for key in ("locator", "note")}
        for key, text in texts.items():
            if not isinstance(text, str):
                self.fail(f"{where}.{key}", "a text is needed", text)
            self.text(f"{where}.{key}", text)
        return {"tag": entry.get("tag", ""), "source": tuple(sources), **texts}

    def memories(self, entries: Any) -> tuple[schema.SramSize, ...]:
        """Each [[memory]], from small to large."""
        sizes: list[schema.SramSize] = []
        for i, entry in enumerate(self.many("memory", {"memory": entries})):
            where = f"memory[{i}]"
            self.keys(where, entry, {"size_kib": True, "word_bits": True} | CONSTANT_KEYS, unit=UNIT_OF["memory"])
            rest = {key: value for key, value in entry.items() if key not in ("size_kib", "word_bits")}
            size = None if entry["size_kib"] == UNLIMITED else self.number(f"{where}.size_kib", entry["size_kib"])
            word = self.number(f"{where}.word_bits", entry["word_bits"])
            if word < 1 or word != int(word):
                self.fail(f"{where}.word_bits", "a word has a whole number of bits", word)
            sizes.append(schema.SramSize(size_kib=size, word_bits=int(word), access_pj=self.constant(where, rest)))
        order = [math.inf if size.size_kib is None else size.size_kib for size in sizes]
        if order != sorted(order):
            self.fail("memory", "sizes must grow, 'unlimited' last", order)
        return tuple(sizes)

    def source(self, where: str, name: Any) -> None:
        """A source must be one that the file defines."""
        if not isinstance(name, str) or name not in self.sources:
            self.fail(f"{where}.source", "no [[source]] of this id", name, ", ".join(self.sources))
