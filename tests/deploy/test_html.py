"""The page of a report: well-formed, drawn, harmless whatever a network calls its parts, and always the same."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console

from avsnn.deploy.reports.charts import LEVELS, MOST, Row, bars, grid, histogram, largest
from avsnn.deploy.reports.compare import LAYERS, compare_table, layers_csv, summary
from avsnn.deploy.reports.element import Markup, element, joined
from avsnn.deploy.reports.energy import BANNER
from avsnn.deploy.reports.frontier import Point, plot
from avsnn.deploy.reports.html import SECTIONS, render_html
from avsnn.deploy.reports.html_spikes import HISTOGRAM
from avsnn.deploy.reports.render import render_report
from avsnn.deploy.reports.svg import WIDTH, decades, linear, round_step
from avsnn.train.proportion import PairedDifference, Proportion
from tests.hostile import EVIL, poisoned

VOID = ("meta",)


class Page(HTMLParser):
    """Refuses tags that do not balance; keeps tags with their attributes, and the text of each element by its kind."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.figures: list[list[str]] = []
        self.captions: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), tag
        self.tags.append((tag, dict(attrs)))
        if tag == "figure":
            self.figures.append([])
        if "figure" in self.open and "mark" in (dict(attrs).get("class") or "").split():
            self.figures[-1].append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open[-1:] == ["figcaption"]:
            self.captions.append(data)


def test_a_page_is_well_formed_and_every_chart_has_drawn(report: dict[str, Any]) -> None:
    page = Page(render_html(report, digest="0" * 64))
    assert all(page.figures)
    populations, connections = len(report["populations"]), len(report["counts"]["synapses"])
    drawn = {title: len(marks) for title, marks in zip(page.captions, page.figures, strict=True)}
    for title, marks in (
        ("Accuracy on", 2 + 4),
        ("Energy per sample", 3),
        ("Firing rates of", len(report["rate_edges_percent"]) + 3),
        ("Rate over time", populations * report["counts"]["steps"]),
        ("Single spikes", populations),
        ("Spikes per sample", populations),
        ("Synaptic operations", 2 * connections),
        ("Weights", connections),
        ("Steps in which", populations),
        ("Cores ", len(report["mapping"]["cores"])),
    ):
        assert next(found for caption, found in drawn.items() if caption.startswith(title)) >= marks, title
    assert len(drawn) == len(page.figures) >= 10
    anchors = {attributes.get("id") for _, attributes in page.tags}
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert len(links) == len(SECTIONS) + 2
    assert all(link is not None and link[1:] in anchors for link in links)
    for part in (BANNER, HISTOGRAM, "0 differ", "0" * 64, "fits", report["meta"]["profile_sha256"]):
        assert part.lower() in page.text.lower(), part


def test_the_parser_of_these_tests_notices_what_is_wrong() -> None:
    for wrong in ("<p><b></p></b>", "<div>", '<p a="1" a="2"></p>'):
        with pytest.raises(AssertionError):
            Page(wrong)
    assert Page('<figure><rect class="s0"></rect></figure>').figures == [[]]


def test_a_page_loads_nothing_and_runs_nothing(report: dict[str, Any]) -> None:
    text = render_html(report, digest="")
    page = Page(text)
    assert not {"script", "img", "link", "iframe", "object", "form", "use", "image", "foreignobject"} & {
        tag for tag, _ in page.tags
    }
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "style", "xlink:href")], tag
        assert tag != "a" or (attributes["href"] or "").startswith("#")
    style = text.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert "prefers-color-scheme: dark" in style
    assert "@media print" in style
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy


def test_names_and_labels_do_nothing(report: dict[str, Any]) -> None:
    bad = poisoned(report)
    text = render_html(bad, digest=EVIL)
    page = Page(text)
    assert "<img" not in text
    assert "</script" not in text
    assert {tag for tag, _ in page.tags} == {tag for tag, _ in Page(render_html(report, digest="")).tags}
    assert page.text.count(EVIL) > 100, "they are all shown, as text"
    assert all(not name.startswith("on") for _, attributes in page.tags for name in attributes)
    out = io.StringIO()
    Console(file=out, width=200).print(compare_table({"[red]a": summary(bad), "b": summary(report)}))
    assert "[red]a" in out.getvalue()


def test_a_terminal_obeys_no_name(report: dict[str, Any]) -> None:
    """Clearing the screen, changing its title, going back over a line, turning the direction of text."""
    bad, out = poisoned(report, evil="\x1b[2J\x1b]0;x\x07\r\x9b31m\u202e"), io.StringIO()
    console = Console(file=out, width=200)
    render_report(bad, {}, console)
    console.print(compare_table({"\x1b[2Ja": summary(bad), "b": summary(report)}))
    for text in (out.getvalue(), layers_csv({"\x1b[2Ja": bad}), render_html(bad, digest="\x1b[2J")):
        assert "\ufffd[2J" in text, "they are shown, harmlessly"
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", text)


def test_the_same_report_is_the_same_page(report: dict[str, Any]) -> None:
    again = json.loads(json.dumps(report, sort_keys=True))
    page = render_html(json.loads(json.dumps(again)), digest="1")
    assert page == render_html(again, digest="1")
    assert page != render_html(again, digest="2")


def test_a_large_network_stays_below_five_megabytes(report: dict[str, Any]) -> None:
    """S-CMRL of its paper: hundreds of populations of long names, 385 cores on four chips; and more."""
    large = json.loads(json.dumps(report))
    large["raster"]["populations"] *= 24 // len(large["raster"]["populations"])
    counts, done = large["counts"], large["core_counts"]["loihi2"]
    tables = (large["populations"], counts["populations"], counts["synapses"], large["certificate"])
    for rows in (*tables, large["dense"]["layers"]):
        first = dict(rows[0])
        rows += [first | {"name": f"blocks.{k}.attention.projection.{'long.' * 8}{k}"} for k in range(500)]
    large["energy"] |= {f"chip{k}": large["energy"]["loihi2"] for k in range(14)}
    for number, least, most in ((385, 500_000, 1_500_000), (9000, 2_500_000, 5_000_000)):
        names = [{"core": k, "population": f"p{k % 400}"} for k in range(number)]
        large["mapping"]["cores"] = [large["mapping"]["cores"][0] | core for core in names]
        done["cores"] = [done["cores"][0] | core | {"chip": k // 120} for k, core in enumerate(names)]
        page = render_html(large, digest="")
        assert least < len(page.encode()) < most
    assert "4,904 are not drawn" in page


def test_a_report_with_little_in_it_still_makes_a_page(report: dict[str, Any]) -> None:
    """What older bundles lack, what nobody asked for, what does not fit, what is silent."""
    little = report | {"accuracy": {}, "energy": {}, "mapping": {"refused": "a <b> c"}, "executions": [], "delays": []}
    little["populations"] = [row | {"rate": 0.0} for row in report["populations"]]
    for name in ("certificate", "attention", "left_out", "finetuned", "tie_windows_differing"):
        little.pop(name)
    page = Page(render_html(little, digest=""))
    for part in ("not measured", "not priced", "does not fit", "a <b> c", "is silent", "has no certificate"):
        assert part in page.text, part
    waits = report | {"first_answer": report["first_answer"] | {"windows": 2}}
    assert "Non-causal: 2 windows" in Page(render_html(waits, digest="")).text
    idle = {"population": "p", "neurons": 3, "left_out": True, "membrane": 0.5, "threshold": 1.0}
    assert (
        "p (3 neurons) left out: it can never fire" in Page(render_html(report | {"left_out": [idle]}, digest="")).text
    )
    nothing = little | {"populations": [], "proofs": []}
    assert "no neurons on the chip" in Page(render_html(nothing, digest="")).text


def test_mismatches_and_what_was_not_compared_are_not_called_good(report: dict[str, Any]) -> None:
    wrong = json.loads(json.dumps(report))
    assert '<p class="big good">0 differ</p>' in render_html(wrong, digest="")
    wrong["proofs"][0]["mismatches"] = 7
    assert '<p class="big doubt">7 differ</p>' in render_html(wrong, digest="")
    nothing = wrong | {"proofs": [], "executions": []}
    assert '<p class="big doubt">0 differ</p>' in render_html(nothing, digest="")


# Charts


def test_bars_that_are_left_out_are_summed_up_and_the_largest_stay_in_order() -> None:
    rows = [Row(label=f"r{k}", values=(float(k % 30), 1.0), texts=("", "")) for k in range(50)]
    assert largest(rows[:MOST], str) == rows[:MOST]
    *kept, rest = largest(rows, "{:.0f}".format)
    assert len(kept) == MOST - 1
    assert [row for row in rows if row in kept] == kept
    assert min(row.values[0] for row in kept) >= 15
    sums = [sum(row.values[k] for row in rows) - sum(row.values[k] for row in kept) for k in (0, 1)]
    assert (rest.label, rest.values) == (f"{51 - MOST} others together", (0.0, 0.0))
    assert rest.texts == tuple(f"{value:.0f} (not drawn)" for value in sums)


def numbers(markup: str, name: str) -> list[float]:
    return [float(found) for found in re.findall(rf'<rect [^>]*?{name}="([\d.]+)"[^>]*class="mark', markup)]


def test_bars_are_as_long_as_their_values() -> None:
    chart = bars("t", [Row(label="a", values=(v,), texts=(str(v),)) for v in (10.0, 5.0, 0.0)], ("s",), "u")
    long, half, none = numbers(chart, "width")
    assert long > 100
    assert half == pytest.approx(long / 2, abs=0.1)  # places have one digit
    assert none == 0


def test_axes_have_round_ticks_and_hold_their_values() -> None:
    assert [round_step(v) for v in (0.0, 0.11, 1.0, 3.0, 6.0, 21.0)] == [1, 0.2, 1, 5, 10, 50]
    axis = linear(23.0, "u", left=100.0)
    assert [value for value, _ in axis.ticks] == [0, 5, 10, 15, 20, 25]
    assert (axis.at(0), axis.at(25)) == (100.0, axis.right)
    assert " ".join(label for _, label in linear(0.89, "u", left=0.0, least=0.71).ticks) == "0.7 0.75 0.8 0.85 0.9"
    assert [value for value, _ in linear(0.0, "u", left=0.0).ticks] == [0, 1]
    log = decades([3.0, 40.0, 2e5], "u", left=0.0, right=300.0, show=str)
    assert [value for value, _ in log.ticks] == [1, 10, 100, 1000, 10000, 100000, 1000000]
    assert log.at(1000.0) == pytest.approx(150.0)
    assert log.at(0.0) == log.at(1.0) == 0
    fine = decades([39.0, 41.0, 110.0], "u", left=0.0, right=WIDTH, show="{:g}".format)
    assert [label for _, label in fine.ticks] == ["20", "50", "100", "200"]
    for one in (1.0, 100.0, 4.7e6, 1e-3, 999.9999999999999, 1000.0000000000001):
        alone = decades([one], "u", left=0.0, right=WIDTH, show=str)
        assert alone.low <= one <= alone.high
        assert alone.low < alone.high


def test_a_picture_of_its_own_is_xml_with_every_point_where_it_belongs() -> None:
    right, pair = (Proportion(correct=k, count=100) for k in (80, 60)), PairedDifference(only_a=1, only_b=1, count=100)
    points = [
        Point(budget=b, accuracy=accuracy, difference=pair, operations=4e6 * b, by_source={}, energy_pj=None)
        for b, accuracy in zip((1.0, 0.5), right, strict=True)
    ]
    root = ElementTree.fromstring(plot(points, title=EVIL))
    space = "{http://www.w3.org/2000/svg}"
    (far, high), (near, low) = ((float(c.get("cx", "")), float(c.get("cy", ""))) for c in root.iter(f"{space}circle"))
    assert near == pytest.approx(70 + (far - 70) / 2, abs=0.1)
    assert low > high, "more is further up"
    assert root.find(f"{space}title").text == EVIL  # type: ignore[union-attr]
    assert len(root.findall(f"{space}style")) == 1


def test_a_histogram_counts_every_value_once() -> None:
    values = [0.0, 0.0, 3.0, 9.9, 10.0]
    titles = re.findall(r": (\d+) things</title>", histogram("t", values, "u", "things"))
    assert sum(map(int, titles)) == len(values)
    assert int(titles[0]) == 2


def test_a_full_core_has_the_last_colour() -> None:
    chart = grid("t", [("0", "a", 0.0), ("1", "b", 0.55), ("2", "c", 1.0)])
    assert re.findall(r'class="mark (l\d)"', chart) == ["l0", "l5", f"l{LEVELS - 1}"]


def test_elements_escape_all_but_elements() -> None:
    inner = element("b", {}, "<")
    assert joined("&", inner) == "&amp;<b>&lt;</b>"
    assert element("p", {"title": '"><x>', "no": None}, "a\x00b\u202ec\ud800") == (
        '<p title="&quot;&gt;&lt;x&gt;">a\ufffdb\ufffdc\ufffd</p>'
    )
    assert not isinstance(inner + "<", Markup)


# Bundles side by side


def test_layers_as_csv_hold_every_count(report: dict[str, Any]) -> None:
    evil = json.loads(json.dumps(report))
    formulas = ("=cmd()", "  +1", "\t@x", "\uff1d1", "-1+1", '"=1')
    for name in formulas:
        evil["counts"]["populations"].append(evil["counts"]["populations"][0] | {"name": name})
    rows = list(csv.DictReader(io.StringIO(layers_csv({"a": report, "b": evil}))))
    mine = [row for row in rows if row["bundle"] == "a"]
    assert tuple(rows[0]) == LAYERS
    for name in ("events", "sop_stored", "sop_nonzero", "spikes", "neurons"):
        assert sum(int(row[name] or 0) for row in mine) == report["counts"]["total"][name] > 0
    shown = [row["name"] for row in rows if row["bundle"] == "b" and row["kind"] == "population"]
    assert shown[-len(formulas) :] == [*(f"'{name}" for name in formulas[:-1]), formulas[-1]]


def test_bundles_side_by_side(report: dict[str, Any]) -> None:
    other = json.loads(json.dumps(report))
    other["meta"]["weight_bits"] = 4
    other["accuracy"]["data"], other["mapping"] = "others", {}
    del other["energy"]["loihi1"]
    out = io.StringIO()
    Console(file=out, width=150).print(compare_table({"one": summary(report), "two": summary(other)}))
    lines = {line.split("  ")[0]: line.split() for line in out.getvalue().splitlines()}
    assert lines["weight bits"][-2:] == ["8", "4"]
    assert "87.5 %" in " ".join(lines["accuracy, quantised"]).replace("85.0 %", "87.5 %")
    assert lines["cores"][-2:] == ["not", "asked"]
    assert lines["energy per sample, loihi1"][-2:] == ["not", "asked"]
    assert "Accuracies are of different samples" in out.getvalue()
    assert "Counts are of different samples" not in out.getvalue()
