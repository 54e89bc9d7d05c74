"""A wheel holds what the tree holds, although the tree is four folders behind links."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("train", "convert", "deploy", "hw_profiles")


def copied(to: Path) -> Path:
    """The sources alone: building in the tree would leave build/ and egg-info behind."""
    kept = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    for name in (*PARTS, "src"):
        shutil.copytree(ROOT / name, to / name, symlinks=True, ignore=kept)
    for name in ("pyproject.toml", "README.md", "LICENSE", "THIRD_PARTY_NOTICES.md"):
        shutil.copy(ROOT / name, to / name)
    return to


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # build alone could be the folder of that name in the root
    pytest.importorskip("build.env", reason="build belongs to the development environment")
    pytest.importorskip("setuptools")
    tree, out = copied(tmp_path_factory.mktemp("tree")), tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(tree)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    (made,) = out.glob("*.whl")
    return made


def in_tree() -> set[str]:
    found = {f"avsnn/{path.name}" for path in (ROOT / "src" / "avsnn").iterdir() if path.is_file()}
    for folder in (ROOT / "src" / "avsnn" / "cli", *(ROOT / part for part in PARTS)):
        for path in folder.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                found.add(f"avsnn/{path.relative_to(folder.parent)}")
    return found


def test_the_wheel_holds_every_file_of_the_tree_and_no_other(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if not name.split("/")[0].endswith(".dist-info")}
    assert packed == in_tree()


def test_the_wheel_carries_licence_and_notices(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {Path(name).name for name in archive.namelist() if ".dist-info/" in name}
    assert {"LICENSE", "THIRD_PARTY_NOTICES.md", "entry_points.txt"} <= names


def test_what_is_in_the_wheel_imports_and_runs(wheel: Path, tmp_path: Path) -> None:
    """Unpacked somewhere else and put first on the path, it is used instead of this tree."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = """if True:
        import sys
        sys.path.insert(0, sys.argv[1])
        import avsnn.convert.pipeline
        from avsnn.cli.main import main
        from avsnn.hw_profiles.profile import load_profile
        print(avsnn.convert.pipeline.__file__)
        print(load_profile("loihi2").id)
        main(["--version"])
    """
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "site")], capture_output=True, text=True, cwd=tmp_path, timeout=120
    )
    assert run.returncode == 0, run.stderr
    place, profile, version = run.stdout.splitlines()
    assert Path(place).is_relative_to(tmp_path / "site")
    assert (profile, version.split()[0]) == ("loihi2", "avsnn")
