"""Every core is drawn once, in its own tile of its own chip, whatever it is called."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from avsnn.deploy.reports.charts import LEVELS
from avsnn.deploy.reports.core_map import Cell, Tiles, core_map
from avsnn.deploy.reports.html_cores import DONE, DRAWN, cores
from avsnn.deploy.reports.svg import WIDTH

MESH = Tiles(x=8, y=4, cores=4)
EVIL = '</title></svg><script>alert(1)</script>"\x1b[31m'


def cell(core: int, share: float = 0.0) -> Cell:
    chip, place = divmod(core, 120)
    y, x = divmod(place // 4, 8)
    return Cell(core=core, chip=chip, x=x, y=y, name=f"core {core}", share=share)


def squares(chart: str, kind: str) -> list[tuple[float, float, float]]:
    found = re.findall(rf'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="[\d.]+" class="{kind}', chart)
    return [(float(x), float(y), float(wide)) for x, y, wide in found]


@pytest.mark.parametrize("number", [1, 29, 120, 385, 2000])
def test_no_two_cores_overlap_and_each_lies_in_a_tile(number: int) -> None:
    chart = core_map("t", [cell(k) for k in range(number)], MESH, "full")
    marks, tiles = squares(chart, "mark"), squares(chart, "tile")
    assert len(marks) == number
    assert len(tiles) == 32 * -(-number // 120)
    assert len({(x, y) for x, y, _ in marks}) == number
    wide = {size for *_, size in marks}
    assert len(wide) == 1
    for x, y, size in marks:
        inside = [(a, b) for a, b, tile in tiles if a <= x and b <= y and x + size <= a + tile and y + size <= b + tile]
        assert len(inside) == 1, (x, y)
    assert max(x + size for x, _, size in marks) <= WIDTH


def test_colours_follow_shares_and_names_do_nothing() -> None:
    cells = [Cell(core=k, chip=0, x=k, y=0, name=EVIL, share=share) for k, share in enumerate((0.0, 0.55, 1.0))]
    chart = core_map(EVIL, cells, MESH, EVIL)
    assert re.findall(r'class="mark (l\d)"', chart) == ["l0", "l5", f"l{LEVELS - 1}"]
    assert "<script" not in chart
    assert "\x1b" not in chart


def counted(rows: int, **more: Any) -> dict[str, Any]:
    cells = [cell(k) for k in range(rows)]
    done = [
        {"core": c.core, "population": f"p{c.core // 3}", "chip": c.chip, "x": c.x, "y": c.y, **dict.fromkeys(DONE, 64)}
        for c in cells
    ]
    spread = {name: {"mean": 64.0, "most": 128, "core": "core 7 (p2)"} for name in DONE}
    return {"cores": done, "samples": 64, "spread": spread, "routes": None, **more}


def report_of(report: dict[str, Any], rows: int, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(report))
    found["mapping"]["cores"] = [found["mapping"]["cores"][0] | {"core": k} for k in range(rows)]
    return found | {"core_counts": {"loihi2": counted(rows, **more)}}


def test_the_section_shows_places_work_and_traffic(report: dict[str, Any]) -> None:
    mesh = {"tiles_x": 8, "tiles_y": 4, "cores_per_tile": 4}
    routes = {"hops_x": 640, "hops_y": 64, "crossings": 128, "busiest": "east from tile (1, 2) of chip 0", "load": 192}
    parts = "".join(cores(report_of(report, 125, mesh=mesh, routes=routes)))
    assert parts.count("<figure") == 3
    assert parts.count('class="tile"') == 3 * 64
    assert parts.count('class="mark ') == 3 * 125
    for said in ("core 3: p1", "core 7 (p2)", "11 links", "2 times from chip to chip", "carries 3 of them"):
        assert said in parts, said
    without = "".join(cores(report_of(report, 9)))
    assert without.count('class="tile"') == 3 * 3, "as much of the mesh as is used, where a report does not say"


def test_a_map_has_an_end(report: dict[str, Any]) -> None:
    parts = "".join(cores(report_of(report, DRAWN + 5)))
    assert parts.count('class="mark ') == 3 * DRAWN
    assert "5 are not drawn" in parts
