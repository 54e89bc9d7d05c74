from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from avsnn.convert.bundle import MANIFEST, Bundle, seal, sha256_of, staged, write_json
from avsnn.convert.ir.text import render
from avsnn.errors import InputError
from tests.strategies import spiking_graph


def bundle(seed: int = 0) -> Bundle:
    graph = spiking_graph(seed, depth=2)
    graphs = {stage: replace(graph, stage=stage) for stage in ("folded", "scheduled")}
    return Bundle(graphs=graphs, meta={"name": "test", "seed": seed}, record={"checks": []}, seconds={"trace": 0.25})


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_bundle_survives_its_folder(tmp_path: Path) -> None:
    made = bundle()
    again = Bundle.load(made.save(tmp_path / "b"))
    assert (again.meta, again.record, again.folder) == (made.meta, made.record, tmp_path / "b")
    assert [render(again.graph(s)) for s in again.graphs] == [render(made.graph(s)) for s in made.graphs]
    with pytest.raises(InputError, match=r"^bundle: unknown stage, found baked, limit folded, scheduled"):
        again.graph("baked")


def test_saving_what_was_loaded_gives_the_same_bytes_but_for_the_timing(tmp_path: Path) -> None:
    first = bundle().save(tmp_path / "one")
    second = Bundle.load(first).save(tmp_path / "two")
    one, two = contents(first), contents(second)
    assert one.pop("timing.json") != two.pop("timing.json")
    assert one == two


def test_every_sealed_file_is_in_the_manifest(tmp_path: Path) -> None:
    folder = bundle().save(tmp_path / "b")
    manifest = json.loads((folder / MANIFEST).read_text())
    assert set(contents(folder)) == {*manifest["files"], MANIFEST, "timing.json"}
    for name, digest in manifest["files"].items():
        assert sha256_of(folder / name) == digest


def rewrite_manifest(folder: Path, name: str, digest: str) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][name] = digest
    write_json(folder / MANIFEST, manifest)


@pytest.mark.parametrize("name", ["verification.json", "graphs/scheduled.npz", "graphs/folded.txt"])
def test_a_changed_or_missing_file_is_named(tmp_path: Path, name: str) -> None:
    folder = bundle().save(tmp_path / "b")
    path = folder / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"b: file of the bundle was changed, found {name}; convert again"):
        Bundle.load(folder)
    path.unlink()
    with pytest.raises(InputError, match=rf"b: file of the bundle is missing, found {name}"):
        Bundle.load(folder)


@pytest.mark.parametrize("name", ["../secret", "graphs/../../secret", "{absolute}"])
def test_a_name_that_leads_out_of_the_bundle_is_refused(tmp_path: Path, name: str) -> None:
    folder, secret = bundle().save(tmp_path / "b"), tmp_path / "secret"
    secret.write_text("s")
    rewrite_manifest(folder, name.format(absolute=secret), sha256_of(secret))
    with pytest.raises(InputError, match="path leads out of the bundle"):
        Bundle.load(folder)


def test_a_link_that_leads_out_of_the_bundle_is_refused(tmp_path: Path) -> None:
    folder, secret = bundle().save(tmp_path / "b"), tmp_path / "secret"
    secret.write_text("s")
    (folder / "link").symlink_to(secret)
    rewrite_manifest(folder, "link", sha256_of(secret))
    with pytest.raises(InputError, match="path leads out of the bundle, found link"):
        Bundle.load(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"files": 1, "meta": {}}'])
def test_what_is_no_bundle_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match="not a bundle"):
        Bundle.load(tmp_path)
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(InputError, match="not a bundle"):
        Bundle.load(tmp_path)


def test_a_bundle_of_another_format_is_refused(tmp_path: Path) -> None:
    folder = bundle().save(tmp_path / "b")
    manifest = json.loads((folder / MANIFEST).read_text())
    write_json(folder / MANIFEST, manifest | {"format": 99})
    with pytest.raises(InputError, match="unknown bundle format, found 99, limit 1"):
        Bundle.load(folder)


def test_an_output_that_exists_stays_unless_forced(tmp_path: Path) -> None:
    out = bundle(0).save(tmp_path / "b")
    with pytest.raises(InputError, match=r"b: output exists; choose another --out, or --force to replace it"):
        bundle(1).save(out)
    assert Bundle.load(out).meta["seed"] == 0
    bundle(1).save(out, force=True)
    assert Bundle.load(out).meta["seed"] == 1
    assert names(tmp_path) == ["b"]


def make_file(path: Path) -> None:
    path.write_text("precious")


def make_folder(path: Path) -> None:
    path.mkdir()
    (path / "thesis.txt").write_text("precious")


def make_foreign_manifest(path: Path) -> None:
    """Web applications call a file of theirs manifest.json, too."""
    path.mkdir()
    (path / MANIFEST).write_text('{"name": "app"}')


def make_link(path: Path) -> None:
    make_folder(path.with_name("target"))
    path.symlink_to(path.with_name("target"))


@pytest.mark.parametrize("make", [make_file, make_folder, make_foreign_manifest, make_link])
def test_force_replaces_nothing_but_bundles(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "out")
    before = names(tmp_path)
    with pytest.raises(InputError, match="out: refusing to replace what is not a bundle"):
        bundle().save(tmp_path / "out", force=True)
    assert names(tmp_path) == before


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    bundle().save(tmp_path / "out", force=True)
    assert Bundle.load(tmp_path / "out").meta["seed"] == 0


def fail_inside(out: Path, error: type[BaseException], *, force: bool) -> None:
    with staged(out, force=force) as folder:
        (folder / "half").write_text("half")
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("old", [False, True])
def test_an_exception_inside_leaves_nothing_half_made(tmp_path: Path, error: type[BaseException], old: bool) -> None:
    out = tmp_path / "deep" / "b"
    if old:
        bundle(7).save(out)
    with pytest.raises(error):
        fail_inside(out, error, force=old)
    assert names(tmp_path / "deep") == ["b"] if old else names(tmp_path) in ([], ["deep"])
    assert not old or Bundle.load(out).meta["seed"] == 7


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file"):
        bundle().save(tmp_path / "file" / "b")


HANGS = """
import sys, time
from pathlib import Path
from avsnn.convert.bundle import staged
with staged(Path(sys.argv[1]), force=True) as folder:
    (folder / "half").write_text("half")
    print("inside", flush=True)
    time.sleep(60)
"""


WRITES = """
import sys
from avsnn.convert.bundle import staged
with staged(sys.argv[1]) as folder:
    (folder / "x").write_text("x")
"""


def killed_inside(out: Path) -> None:
    """Start a process that stages ``out`` and kill it in the middle."""
    child = subprocess.Popen([sys.executable, "-c", HANGS, str(out)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "inside\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()


def test_a_killed_run_leaves_the_old_bundle_and_the_next_run_sweeps_up(tmp_path: Path) -> None:
    out = bundle(0).save(tmp_path / "b")
    before = contents(out)
    killed_inside(out)
    assert contents(out) == before
    assert len(names(tmp_path)) == 2  # the bundle and what the killed run left
    bundle(1).save(out, force=True)
    assert names(tmp_path) == ["b"]
    assert Bundle.load(out).meta["seed"] == 1


def write_while_another_runs(out: Path) -> None:
    with staged(out) as first:
        (first / "half").write_text("half")
        for name in ("another", out.name):
            subprocess.run([sys.executable, "-c", WRITES, str(out.with_name(name))], check=True)
        assert (first / "half").is_file()


def test_a_run_that_is_still_going_is_not_swept_away_and_the_faster_one_wins(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="b: output exists"):
        write_while_another_runs(tmp_path / "b")
    assert names(tmp_path) == ["another", "b"]
    assert names(tmp_path / "b") == ["x"]


def test_json_without_nan_and_in_one_order(tmp_path: Path) -> None:
    write_json(tmp_path / "a", {"b": 1, "a": 2})
    write_json(tmp_path / "b", {"a": 2, "b": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "c", float("nan"))


def test_what_joins_a_bundle_later_is_sealed_too(tmp_path: Path) -> None:
    made = bundle()
    with staged(tmp_path / "b") as folder:
        made.write(folder)
        (folder / "lava").mkdir()
        (folder / "lava" / "network.py").write_text("pass\n")
        seal(folder, made.meta)
    assert "lava/network.py" in json.loads((tmp_path / "b" / MANIFEST).read_text())["files"]
    (tmp_path / "b" / "lava" / "network.py").write_text("import os\n")
    with pytest.raises(InputError, match=r"was changed, found lava/network\.py"):
        Bundle.load(tmp_path / "b")
