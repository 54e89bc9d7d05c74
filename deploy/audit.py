"""A published table of operations and energies to what its own numbers contradict.

Every number is taken as the interval that rounds to its printed digits, so a finding is never a matter of rounding.
Operations should be ``rate * macs * timesteps`` and energy ``e_ac * sops + e_mac * first_macs``; where the printed
number is not that, the usual mistakes are tried (`_factors`), alone and two together, and the simplest that gives
exactly what is printed is named.
"""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path

from avsnn.deploy.reports.interval import Interval, exactly
from avsnn.errors import InputError
from avsnn.hw_profiles.schema import SCOPE_HOLDS

COUNTS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
ENERGIES = {"J": 1e12, "mJ": 1e9, "uJ": 1e6, "nJ": 1e3, "pJ": 1.0}  # in pJ
COLUMNS: dict[str, tuple[Mapping[str, float], str]] = {
    "macs": (COUNTS, "multiply-accumulates of one step of the spiking layers, all inputs active"),
    "rate": ({"": 1.0, "%": 0.01}, "spikes per neuron and step"),
    "timesteps": ({"": 1.0}, "T"),
    "sops": (COUNTS, "synaptic operations of one inference, as printed"),
    "energy": (ENERGIES, "of one inference, as printed"),
    "e_ac": (ENERGIES, "the text's constant for one synaptic operation"),
    "e_mac": (ENERGIES, "the text's constant for one multiply-accumulate"),
    "first_macs": (COUNTS, "multiply-accumulates of the layer that reads the input, once"),
    "ann_energy": (ENERGIES, "of the ordinary network it is compared with, as printed"),
    "ann_macs": (COUNTS, "multiply-accumulates of that network"),
    "ratio": ({"": 1.0}, "how many times less energy it is said to need"),
}
"""Column to its units (header "energy [mJ]") and meaning; besides `TEXTS`."""
TEXTS = {
    "network": "name of the row",
    "scope": "what e_ac holds: " + ", ".join(SCOPE_HOLDS),
    "adds": "terms added to it, by semicolons: " + ", ".join(sorted(set().union(*SCOPE_HOLDS.values()))),
}
EXACT = ("timesteps", "e_ac", "e_mac")  # given, not rounded
UNITS = ((1e3, "1000 times too much: a slip of units"), (1e-3, "1000 times too little: a slip of units"))


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One contradiction.

    Attributes:
        row: the row's name.
        kind: "error": the numbers contradict each other; "note": they agree only under a convention worth knowing.
        check: which numbers were compared.
        text: what is wrong, with the numbers.
    """

    row: str
    kind: str
    check: str
    text: str


Row = Mapping[str, Interval]


def audit(path: str | Path) -> tuple[int, list[Finding]]:
    """Return how many relations between numbers were checked, and what contradicts.

    Raises:
        InputError: the file is no such table, with line and column.
    """
    checked, found = 0, []
    for name, numbers, texts in _rows(Path(path)):
        for check in (_operations, _energy, _ratio, _scope):
            result = check(name, numbers, texts)
            if result is not None:
                checked += 1
                found += result
    if not checked:
        raise InputError("no two numbers of this table say anything about each other", where=str(path),
                         remedy="give sops with macs and rate, or energy with sops and e_ac")  # fmt: skip
    return checked, found


Texts = Mapping[str, str]


def _operations(name: str, row: Row, texts: Texts) -> list[Finding] | None:
    """``sops = rate * macs * timesteps``."""
    if not {"sops", "macs", "rate"} <= row.keys():
        return None
    rate, steps = row["rate"], row.get("timesteps", exactly(1))
    expected = row["macs"] * rate * steps
    ways = _factors(row)
    return _judge(name, "operations", row["sops"], expected, [(text, expected * f) for text, f in ways], _count)


def _energy(name: str, row: Row, texts: Texts) -> list[Finding] | None:
    """``energy = e_ac * sops + e_mac * first_macs``."""
    ops = _ops(row)
    if ops is None or not {"energy", "e_ac"} <= row.keys():
        return None
    spiking = row["e_ac"] * ops
    first = row["first_macs"] * row["e_mac"] if {"first_macs", "e_mac"} <= row.keys() else exactly(0)
    expected, printed = spiking + first, row["energy"]
    ways = [(text, spiking * f + first) for text, f in _factors(row)]
    if first.value:
        ways.append(("the layer that reads the input is left out", spiking))
        ways += [(f"{text}, and the layer that reads the input is left out", spiking * f) for text, f in _factors(row)]
    if first.value and row.get("timesteps", exactly(1)).value > 1:
        repeated = spiking + first * row["timesteps"]
        if _agree(printed, repeated) and not _agree(printed, expected):
            text = f"the layer that reads the input is counted once per step; computed once it is {_pj(expected)}"
            return [Finding(row=name, kind="note", check="energy", text=text)]
    found = _judge(name, "energy", printed, expected, ways, _pj)
    if found and printed.hi < spiking.lo and not any(_agree(printed, value) for _, value in ways):
        implied = f"{printed.value / ops.value:.2g} pJ per operation, below its own {row['e_ac'].value:.2g} pJ"
        found.append(Finding(row=name, kind="error", check="constant", text=implied))
    return found


def _ratio(name: str, row: Row, texts: Texts) -> list[Finding] | None:
    """``ratio = ann_energy / energy``, of what the energy should be."""
    ann = row.get("ann_energy")
    if ann is None and {"ann_macs", "e_mac"} <= row.keys():
        ann = row["ann_macs"] * row["e_mac"]
    if ann is None or not {"ratio", "energy"} <= row.keys():
        return None
    ops, energy = _ops(row), row["energy"]
    printed = _over(ann, energy)
    if ops is not None and "e_ac" in row:
        first = row["first_macs"] * row["e_mac"] if {"first_macs", "e_mac"} <= row.keys() else exactly(0)
        right = _over(ann, row["e_ac"] * ops + first)
        if not _agree(row["ratio"], right):
            same = " (it follows from the printed energy)" if _agree(row["ratio"], printed) else ""
            text = f"{row['ratio'].value:g} times is printed{same}; its own numbers give {right.value:.3g}"
            return [Finding(row=name, kind="error", check="ratio", text=text)]
        return []
    if _agree(row["ratio"], printed):
        return []
    text = f"{row['ratio'].value:g} times is printed; the two energies give {printed.value:.3g}"
    return [Finding(row=name, kind="error", check="ratio", text=text)]


def _scope(name: str, row: Row, texts: Texts) -> list[Finding] | None:
    """Nothing may be added that a constant holds already."""
    if not texts.get("scope") or not texts.get("adds"):
        return None
    twice = [term for term in texts["adds"].split(";") if term.strip() in SCOPE_HOLDS[texts["scope"]]]
    text = f"adds {', '.join(t.strip() for t in twice)}, which a constant of scope {texts['scope']} holds already"
    return [Finding(row=name, kind="error", check="scope", text=text)] if twice else []


def _ops(row: Row) -> Interval | None:
    """Operations that the energy should be of: the printed ones, or what rate and size give."""
    if {"macs", "rate"} <= row.keys():
        return row["macs"] * row["rate"] * row.get("timesteps", exactly(1))
    return row.get("sops")


def _factors(row: Row) -> list[tuple[str, Interval]]:
    """What operations are multiplied with by mistake, and its name."""
    found = []
    if "rate" in row:
        found.append(("the rate is applied twice", row["rate"]))
        found.append(("the rate is left out", _over(exactly(1), row["rate"])))
    if row.get("timesteps", exactly(1)).value > 1:
        found.append(("time steps are counted twice", row["timesteps"]))
        found.append(("time steps are left out", _over(exactly(1), row["timesteps"])))
    if {"e_ac", "e_mac"} <= row.keys():
        found.append(("multiply-accumulates are priced, not accumulates", _over(row["e_mac"], row["e_ac"])))
    found += [(text, exactly(f)) for f, text in UNITS]
    pairs = itertools.combinations(found[: -len(UNITS)], 2)
    return found + [(f"{a} and {b}", x * y) for (a, x), (b, y) in pairs if not math.isclose((x * y).value, 1.0)]


def _judge(
    name: str,
    check: str,
    printed: Interval,
    expected: Interval,
    ways: list[tuple[str, Interval]],
    show: Callable[[Interval], str],
) -> list[Finding]:
    """Nothing if they agree; else the simplest mistakes that give what is printed."""
    if _agree(printed, expected):
        return []
    named = [text for text, value in ways if _agree(printed, value)]
    times = printed.value / expected.value if expected.value else math.inf
    why = f": {' or '.join(named[:2])}" if named else f", {times:.3g} times that, by none of the usual mistakes"
    text = f"{show(printed)} is printed, its own numbers give {show(expected)}{why}"
    return [Finding(row=name, kind="error", check=check, text=text)]


def _agree(a: Interval, b: Interval) -> bool:
    return a.lo <= b.hi * (1 + 1e-12) and b.lo <= a.hi * (1 + 1e-12)


def _over(a: Interval, b: Interval) -> Interval:
    if b.lo <= 0:
        raise InputError("divides by zero", where="audit", found=b.value)
    return Interval(value=a.value / b.value, lo=a.lo / b.hi, hi=a.hi / b.lo)


def _pj(value: Interval) -> str:
    unit = next((u for u, size in ENERGIES.items() if value.value >= size), "pJ")
    return f"{value.value / ENERGIES[unit]:.4g} {unit}"


def _count(value: Interval) -> str:
    unit = next((u for u, size in reversed(COUNTS.items()) if value.value >= size), "")
    return f"{value.value / COUNTS[unit]:.4g} {unit}".rstrip()


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Interval], dict[str, str]]]:
    """Name, numbers in base units and texts of each row."""
    try:
        lines = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot be read ({error})", where=str(path)) from None
    if len(lines) < 2:
        raise InputError("holds no rows", where=str(path), remedy="a header line, then one line per network")
    heads = [_header(text, f"{path}:1") for text in lines[0]]
    twice = {name for name, _ in heads if sum(name == other for other, _ in heads) > 1}
    if twice:
        raise InputError("column given twice", where=f"{path}:1", found=", ".join(sorted(twice)))
    for number, cells in enumerate(lines[1:], start=2):
        if not any(cell.strip() for cell in cells):
            continue
        where = f"{path}:{number}"
        if len(cells) != len(heads):
            raise InputError("wrong number of cells", where=where, found=len(cells), limit=len(heads))
        texts = {name: cell.strip() for (name, _), cell in zip(heads, cells, strict=True) if name in TEXTS}
        if texts.get("scope") and texts["scope"] not in SCOPE_HOLDS:
            raise InputError("unknown scope", where=where, found=texts["scope"], limit=", ".join(SCOPE_HOLDS))
        numbers = {
            name: _printed(name, cell.strip(), unit, f"{where}: {name}")
            for (name, unit), cell in zip(heads, cells, strict=True)
            if name in COLUMNS and cell.strip()
        }
        yield texts.get("network") or f"line {number}", numbers, texts


def _header(text: str, where: str) -> tuple[str, float]:
    """A column's name, and what its unit is in base units."""
    name, _, rest = text.strip().partition("[")
    name, unit = name.strip(), rest.rstrip("]").strip()
    if name in TEXTS and not unit:
        return name, 1.0
    if name not in COLUMNS:
        raise InputError("unknown column", where=where, found=text.strip(), limit=", ".join((*TEXTS, *COLUMNS)))
    units = COLUMNS[name][0]
    if unit not in units:
        remedy = f"write the unit behind the name, as in {name} [{next(u for u in units if u or len(units) == 1)}]"
        known = ", ".join(u or "none" for u in units)
        raise InputError("unknown unit", where=where, found=unit or "none", limit=known, remedy=remedy)
    return name, units[unit]


def _printed(name: str, text: str, unit: float, where: str) -> Interval:
    """All numbers that print as these digits: half a unit of the last digit to each side."""
    try:
        number = Decimal(text.replace(",", ""))
    except InvalidOperation:
        raise InputError("not a number", where=where, found=text) from None
    exponent = number.as_tuple().exponent
    if not number.is_finite() or number < 0 or not isinstance(exponent, int):
        raise InputError("not a number of something", where=where, found=text, limit="0 or more")
    half = Decimal(0) if name in EXACT else Decimal(5).scaleb(exponent - 1)
    low, high = max(number - half, Decimal(0)), number + half
    return Interval(value=float(number) * unit, lo=float(low) * unit, hi=float(high) * unit)
