"""The page of a report in a real browser: no complaint, and every chart paints its marks, on light and on dark."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from avsnn.deploy.reports.html import render_html
from avsnn.deploy.reports.svg import style
from tests.hostile import poisoned

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
TALL = 900  # pixels of each chart that are looked at
PAINTED = 30  # pixels that the marks of a chart change at least: less than one dot
HIDDEN = ".mark { visibility: hidden }"
DARK = "preferredColorScheme=0"

needs_browser = pytest.mark.skipif(
    not any(map(shutil.which, BROWSERS)), reason=f"no browser here: none of {', '.join(BROWSERS)}"
)


@needs_browser
def test_a_browser_opens_the_page_without_complaint(report: dict[str, Any], tmp_path: Path) -> None:
    """Also when every name attacks; and a page that does run a script is noticed, so silence means something."""
    page = render_html(poisoned(report), digest="")
    complaints, picture = opened(tmp_path / "evil", page)
    assert complaints == []
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20, "a blank page has one colour"
    guarded = page.replace("</body>", "<script>console.error(1)</script></body>")
    complaints, _ = opened(tmp_path / "guarded", guarded)
    assert any("Content Security Policy" in line for line in complaints)


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_chart_paints_its_marks(report: dict[str, Any], tmp_path: Path, scheme: str) -> None:
    """Each chart with its marks and without: what differs is what they paint."""
    figures = re.findall(r"<figure>.*?</figure>", render_html(report, digest=""), re.DOTALL)
    assert len(figures) >= 10
    figures.append(re.sub("<(rect|circle|path)[^>]*>", "", figures[0]))  # a chart without marks must not pass
    shown, hidden = (
        opened(tmp_path / name, stacked(figures, more), tall=TALL * len(figures), dark=scheme == "dark")[1]
        for name, more in (("shown", ""), ("hidden", HIDDEN))
    )
    changed = (shown != hidden).any(axis=2).reshape(len(figures), TALL, -1).sum(axis=(1, 2))
    assert changed[-1] == 0
    for figure, pixels in zip(figures[:-1], changed[:-1], strict=True):
        assert pixels > PAINTED, re.sub("<[^>]*>", " ", figure)[:80]
    corner = int(shown[0, 0].sum())
    assert corner > 600 if scheme == "light" else corner < 150


def stacked(figures: list[str], more: str) -> str:
    """A page of charts alone, each at a known height."""
    boxes = f"main {{ padding: 0 }} .box {{ height: {TALL}px; overflow: hidden }} {more}"
    parts = "".join(f'<div class="box">{figure}</div>' for figure in figures)
    head = f'<meta charset="utf-8"><style>{style()}{boxes}</style>'
    return f"<!DOCTYPE html><html><head>{head}</head><body><main>{parts}</main></body></html>"


def opened(folder: Path, page: str, *, tall: int = 1600, dark: bool = False) -> tuple[list[str], NDArray[np.uint8]]:
    """What the console says of a page, and its picture (rows, columns, RGB)."""
    image = pytest.importorskip("PIL.Image", reason="pictures are read with pillow")
    folder.mkdir()
    (folder / "page.html").write_text(page, encoding="utf-8")
    browser = next(filter(None, map(shutil.which, BROWSERS)))
    options = ["--headless", "--disable-gpu", "--no-sandbox", "--hide-scrollbars", f"--window-size=900,{tall}"]
    options += ["--enable-logging=stderr", f"--screenshot={folder / 'page.png'}", f"--user-data-dir={folder / 'user'}"]
    options += [f"--blink-settings={DARK}"] if dark else []
    done = subprocess.run(
        [browser, *options, (folder / "page.html").as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    with image.open(folder / "page.png") as picture:
        return said, np.asarray(picture.convert("RGB"))
