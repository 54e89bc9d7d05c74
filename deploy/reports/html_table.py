"""Rows to an HTML table with a caption; columns of numbers stand to the right."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from avsnn.deploy.reports.element import Markup, element

LONG = 24  # rows of a table that stands open


def table(
    caption: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers: Collection[int] = (),
    hashes: Collection[int] = (),
    total: bool = False,
    fold: str = "",
) -> Markup:
    """A table that scrolls on its own where it is wide, and is folded where it is long.

    Args:
        caption: what its rows are.
        columns: headings.
        rows: cells, as they read.
        numbers: columns that stand to the right.
        hashes: columns in letters of one width.
        total: the last row is a sum.
        fold: the line that opens it; without one, long tables alone are folded.
    """
    kinds = ["n" if k in numbers else "hash" if k in hashes else None for k in range(len(columns))]
    head = [element("th", {"class": kind, "scope": "col"}, name) for kind, name in zip(kinds, columns, strict=True)]
    body = []
    for k, row in enumerate(rows):
        cells = [element("td", {"class": kind}, cell) for kind, cell in zip(kinds, row, strict=True)]
        body.append(element("tr", {"class": "total" if total and k == len(rows) - 1 else None}, *cells))
    parts = element("caption", {}, caption), element("thead", {}, element("tr", {}, *head)), element("tbody", {}, *body)
    whole = element("div", {"class": "scroll"}, element("table", {}, *parts))
    if len(rows) > LONG and not fold:
        fold = f"{caption}: {len(rows):,} rows"
    return folded(fold, whole) if fold else whole


def folded(summary: str, *parts: Markup) -> Markup:
    """What few want to read, behind a line that opens it; on paper it is open."""
    return element("details", {}, element("summary", {}, summary), *parts)


def sentence(text: str) -> Markup:
    """A line of the terminal as a note of its own."""
    return paragraph(f"{text[:1].upper()}{text[1:]}.")


def paragraph(text: str) -> Markup:
    """A note in quiet letters."""
    return element("p", {"class": "quiet"}, text)
