"""Cores on tiles to a chart of every chip as it lies, each core coloured by a share of something."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from avsnn.deploy.reports import svg
from avsnn.deploy.reports.charts import LEVELS, shades
from avsnn.deploy.reports.element import Markup, element

LARGE, SMALL = 72.0, 42.0  # of a tile: alone on the page, and where several chips stand beside each other
APART = 26.0  # between chips


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A core: its number, its tile, what the mark says, and its share from 0 to 1."""

    core: int
    chip: int
    x: int
    y: int
    name: str
    share: float


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """Tiles of a chip along x and y, and cores of each."""

    x: int
    y: int
    cores: int

    @property
    def across(self) -> int:
        """Cores of a tile that are drawn beside each other."""
        return math.ceil(math.sqrt(self.cores))


def core_map(title: str, cells: Sequence[Cell], tiles: Tiles, most: str) -> Markup:
    """Chips with all their tiles, used or not; ``most`` says what the fullest colour stands for."""
    chips = 1 + max(cell.chip for cell in cells)
    beside = max(1, min(chips, int((svg.WIDTH + APART) // (SMALL * tiles.x + APART))))
    room = (svg.WIDTH - 20 - APART * (beside - 1)) / (beside * tiles.x)
    size = min(LARGE, max(room, SMALL / 2))
    wide, high = size * tiles.x + APART, size * tiles.y + APART + 6
    marks, top = [shades(54.0, "0", most)], svg.TOP + 32.0
    corner = {chip: (10 + wide * (chip % beside), top + high * (chip // beside)) for chip in range(chips)}
    for chip, (left, above) in corner.items():
        marks.append(svg.text(left, above + 10, f"chip {chip}", "tick"))
        for k in range(tiles.x * tiles.y):
            x, y = left + size * (k % tiles.x), above + 16 + size * (k // tiles.x)
            marks.append(element("rect", {"x": x, "y": y, "width": size - 2, "height": size - 2, "class": "tile"}))
    taken: Counter[tuple[int, int, int]] = Counter()
    for cell in sorted(cells, key=lambda each: each.core):
        place = cell.chip, cell.x, cell.y
        left, above = corner[cell.chip]
        marks += _core(cell, left + size * cell.x, above + 16 + size * cell.y, taken[place], tiles, size)
        taken[place] += 1
    about = "Tiles lie as on the chip; the table below has the cores of each population."
    return svg.figure(title, top + high * -(-chips // beside), marks, about=about)


def _core(cell: Cell, left: float, above: float, slot: int, tiles: Tiles, tile: float) -> list[Markup]:
    """A square in its tile, with its number where there is room."""
    size = (tile - 4) / tiles.across
    x, y = left + 1 + size * (slot % tiles.across), above + 1 + size * (slot // tiles.across)
    level = min(LEVELS - 1, int(cell.share * LEVELS))
    shape = {"x": x, "y": y, "width": size - 1, "height": size - 1, "class": f"mark l{level}"}
    marks = [element("rect", shape, element("title", {}, cell.name))]
    if size > 7 * len(str(cell.core)):
        marks.append(svg.text(x + size / 2 - 0.5, y + size / 2 + 3.5, str(cell.core), f"small middle t{level}"))
    return marks
