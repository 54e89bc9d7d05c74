"""The report (``report.json`` of a bundle) to one HTML page: no script, nothing loaded, the same bytes every time.

The page forbids itself whatever it does not hold (Content-Security-Policy), and everything that comes from a network
or its data is escaped (`avsnn.deploy.reports.element`).
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from avsnn.convert.bundle import sha256_of
from avsnn.deploy.reports.cores import in_words
from avsnn.deploy.reports.element import Markup, element, joined
from avsnn.deploy.reports.energy import BANNER
from avsnn.deploy.reports.html_cores import cores
from avsnn.deploy.reports.html_layers import layers, pipeline
from avsnn.deploy.reports.html_proof import accuracy, capability, certificate, exactness
from avsnn.deploy.reports.html_spent import energy, energy_text, main_profile
from avsnn.deploy.reports.html_spikes import activity
from avsnn.deploy.reports.html_table import paragraph, table
from avsnn.deploy.reports.interval import format_time
from avsnn.deploy.reports.render import left_out
from avsnn.deploy.reports.svg import style

SECTIONS = (
    ("accuracy", "Accuracy", accuracy),
    ("exactness", "Exactness", exactness),
    ("energy", "Energy", energy),
    ("activity", "Activity", activity),
    ("layers", "Layers", layers),
    ("pipeline", "Pipeline", pipeline),
    ("cores", "Cores", cores),
    ("overflow", "Overflow", certificate),
    ("capabilities", "Capabilities", capability),
)
"""Anchor, heading, and what fills it; a section that a report has nothing for says so itself."""


def page_of(folder: Path) -> str:
    """The page of the ``report.json`` in a folder: of the file as it lies there, so that it can be made again."""
    path = folder / "report.json"
    return render_html(json.loads(path.read_text(encoding="utf-8")), digest=sha256_of(path))


def render_html(report: Mapping[str, Any], *, digest: str) -> str:
    """The page.

    Args:
        report: as ``report.json`` holds it; older bundles lack parts, which are then left out.
        digest: SHA-256 of ``report.json``, so that a page says which report it shows.
    """
    look = style()
    allowed = base64.b64encode(hashlib.sha256(look.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{allowed}'; base-uri 'none'; form-action 'none'"
    title = f"{report['meta']['name']} for {report['meta']['target']}"
    head = element(
        "head",
        {},
        element("meta", {"charset": "utf-8"}),
        element("meta", {"http-equiv": "Content-Security-Policy", "content": policy}),
        element("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        element("title", {}, title),
        element("style", {}, look),
    )
    parts = [*SECTIONS, ("warnings", "Warnings", _warnings)]
    sections = [_section(anchor, heading, *fill(report)) for anchor, heading, fill in parts]
    sections.append(_section("provenance", "Provenance", *_provenance(report, digest)))
    anchors = [(anchor, heading) for anchor, heading, _ in parts] + [("provenance", "Provenance")]
    links = (element("a", {"href": f"#{anchor}"}, heading) for anchor, heading in anchors)
    nav = element("nav", {"aria-label": "Sections"}, *links)
    body = element("body", {}, element("main", {}, *_summary(report, title), nav, *sections))
    return f"<!DOCTYPE html>\n{element('html', {'lang': 'en'}, head, body)}\n"


def _section(anchor: str, heading: str, *parts: Markup) -> Markup:
    return joined(element("section", {"id": anchor}, element("h2", {}, heading), *parts), Markup("\n"))


def _summary(report: Mapping[str, Any], title: str) -> list[Markup]:
    """What a reader needs who reads no further."""
    meta, counts = report["meta"], report["counts"]
    neurons, weights = counts["total"]["neurons"], sum(row["weights"] for row in counts["synapses"])
    what = (
        f"A spiking neural network of {neurons:,} neurons and {weights:,} weights of {meta['weight_bits']} bits, "
        f"turned from its trained form into the integers that {meta['target']} computes with. This page says how "
        "accurate it is, whether the conversion changed anything, and what it is estimated to cost."
    )
    cards = [_accuracy_card(report), _exact_card(report), *_energy_cards(report), _fit_card(report)]
    cards += [_time_card(report), _warning_card(report)]
    return [
        element("h1", {}, title),
        element("p", {"class": "quiet"}, what),
        element("div", {"class": "cards"}, *cards),
    ]


def _card(name: str, big: str, small: str, kind: str = "") -> Markup:
    value = element("p", {"class": f"big {kind}".strip()}, big)
    return element("div", {"class": "card"}, element("h3", {}, name), value, element("p", {}, small))


def _accuracy_card(report: Mapping[str, Any]) -> Markup:
    found = report["accuracy"]
    if not found:
        return _card("Accuracy", "not measured", "There were no labelled samples.")
    others = [name for name in found["stages"] if name != found["against"]]
    name = "quantised" if "quantised" in others else (others or [found["against"]])[-1]
    last = found["stages"][name]
    low, high = (100 * edge for edge in last["interval95"])
    first = found["stages"][found["against"]]["accuracy"]
    small = f"{name}, 95 % interval {low:.1f} to {high:.1f} %, {found['samples']:,} samples of {found['data']}; "
    return _card("Accuracy", f"{100 * last['accuracy']:.1f} %", f"{small}{found['against']} {100 * first:.1f} %")


def _exact_card(report: Mapping[str, Any]) -> Markup:
    rows = [*report["proofs"], *report["executions"]]
    compared, wrong = sum(row["compared"] for row in rows), sum(row["mismatches"] for row in rows)
    noticed = sum(len(row["controls_noticed"]) for row in rows)
    ran = ", ".join(dict.fromkeys(row["name"] for row in report["executions"])) or "nothing was executed"
    small = f"of {compared:,} compared values; {noticed:,} planted mistakes were noticed. Executed: {ran}."
    return _card("Exactness", f"{wrong:,} differ", small, "doubt" if wrong or not compared else "good")


def _energy_cards(report: Mapping[str, Any]) -> list[Markup]:
    """The target's own price, or the first there is."""
    name = main_profile(report)
    if name is None:
        return [_card("Energy", "not priced", "No profile has a price for synaptic operations.")]
    row = report["energy"][name]
    value, lo, hi = energy_text(row["dynamic_pj_per_sample"])
    small = f"dynamic, per sample, on {name}: {BANNER}. {row['label'].capitalize()}."
    return [_card("Energy", f"{lo} to {hi}" if lo != hi else value, small)]


def _fit_card(report: Mapping[str, Any]) -> Markup:
    mapping = report.get("mapping")
    if not mapping:
        return _card("Fit", "not asked", "Cores were not assigned for this target.")
    if "refused" in mapping:
        return _card("Fit", "does not fit", mapping["refused"], "doubt")
    big, _, small = in_words(mapping).partition("; ")
    return _card(f"Fits on {report['meta']['target']}", big, small, "good")


def _time_card(report: Mapping[str, Any]) -> Markup:
    steps, window = report["latency_steps"], report["counts"]["steps"]
    priced = report["energy"].get(report["meta"]["target"], {})
    pace, latency = priced.get("pace") or {}, priced.get("latency")  # reports of older bundles have none
    first, rate = pace.get("first_answer_s"), pace.get("answers_per_second")
    if not latency or first is None or rate is None:
        return _card("Time", f"{steps:,} steps", f"to the first answer, then one answer every {window:,} steps")
    least, most = ("at least ", "at most ") if latency["mode"] == "lower bound" else ("", "")
    answers = f"{most}{float(format(rate['value'], '.2g')):,g} answers per second"
    small = f"to the first answer ({steps:,} steps), then {answers} (one every {window:,} steps)"
    small += {"throttled": ", by the chip's own clock", "measured": ", as measured"}.get(latency["mode"], "")
    return _card("Time", f"{least}{format_time(1e9 * first['value'])}", small)


def _warning_card(report: Mapping[str, Any]) -> Markup:
    found = _notes(report)
    return _card("Warnings", str(len(found)), found[0] if found else "nothing to look at", "doubt" if found else "good")


def _notes(report: Mapping[str, Any]) -> list[str]:
    """Everything that deserves a look: of the conversion, of its populations, of the target's price."""
    notes = list(report.get("warnings", ()))
    for row in report["populations"]:
        notes += [f"{row['name']} is silent: it did not fire on the compared samples"] if not row["rate"] else []
        notes += [f"{row['name']} is saturated"] if row["v_max"] >= row["state_limit"] else []
    target: str = report["meta"]["target"]
    priced = report["energy"].get(target, {"warnings": ()})
    return notes + left_out(report) + [f"{target}: {note}" for note in priced["warnings"]]


def _warnings(report: Mapping[str, Any]) -> list[Markup]:
    """Those of the network and its target, then what prices on other profiles say of themselves."""
    found, said = _notes(report), dict[str, list[str]]()
    for name, row in report["energy"].items():
        for note in row["warnings"] if name != report["meta"]["target"] else ():
            said.setdefault(note, []).append(name)
    rows = [(", ".join(names), note) for note, names in said.items()]
    others = table("Notes on their prices", ("profiles", "note"), rows, fold="What other profiles say of their prices")
    shown = element("ul", {}, *(element("li", {}, note) for note in found)) if found else paragraph("None.")
    return [shown, *([others] if rows else [])]


def _provenance(report: Mapping[str, Any], digest: str) -> list[Markup]:
    """Where everything came from; no time and no place, so that the same inputs give the same page."""
    rows = [("SHA-256 of report.json", digest)]
    rows += [("made by", report["command"])] if "command" in report else []  # reports of older bundles do not say
    rows += [(name.replace("_", " "), _plain(value)) for name, value in sorted(report["meta"].items())]
    rows += [("counts, SHA-256", row["counts_sha256"]) for row in list(report["energy"].values())[:1]]
    hashes = [(name, row["profile_sha256"]) for name, row in report["energy"].items()]
    columns, fold = ("profile", "SHA-256"), f"{len(hashes):,} hashes of profiles"
    profiles = [table("Profiles", columns, hashes, hashes=(1,), fold=fold)] if hashes else []
    again = "avsnn-report BUNDLE --html FILE makes this page again from the bundle, without running anything."
    return [table("What this page was made of", ("what", "value"), rows, hashes=(1,)), *profiles, paragraph(again)]


def _plain(value: object) -> str:
    return ", ".join(str(item) for item in value) if isinstance(value, list) else str(value)
