"""The rules of ARCHITECTURE.md that a machine can check."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from avsnn.convert.ir import fixed_interpreter, fixed_nodes, interpreter, nodes
from avsnn.convert.ir.node import Node
from avsnn.convert.ir.stages import SPEC
from avsnn.convert.ir.storage import KINDS

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("train", "convert", "deploy", "hw_profiles")
BASES = {fixed_nodes.Synapse, fixed_nodes.Product, fixed_nodes.Received}  # named in tables only through their children


def python(code: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter of this environment."""
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=120)


def test_imports_go_one_way() -> None:
    pytest.importorskip("importlinter", reason="import-linter belongs to the development environment")
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    run = python(code)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "0 broken" in run.stdout


@pytest.mark.parametrize("part", PARTS)
def test_the_package_finds_each_top_level_folder_through_its_link(part: str) -> None:
    link = ROOT / "src" / "avsnn" / part
    assert link.is_symlink()
    assert not link.readlink().is_absolute()
    assert link.resolve() == ROOT / part


@pytest.mark.parametrize("part", PARTS)
def test_the_bare_folder_is_no_package_even_in_the_repository_root(part: str) -> None:
    """Imported under two names a module exists twice, and ``isinstance`` fails for no visible reason."""
    run = python(f"import {part}")
    assert run.returncode == 1
    assert f"ImportError: import avsnn.{part}, not {part}" in run.stderr


@pytest.mark.parametrize(
    "module",
    [
        "avsnn.convert.ir.storage",
        "avsnn.convert.ir.interpreter",
        "avsnn.convert.ir.fixed_interpreter",
        "avsnn.convert.bundle",
        "avsnn.convert.passes.quantise",
        "avsnn.convert.passes.schedule",
        "avsnn.deploy.exports.lava",
        "avsnn.deploy.reports.energy",
        "avsnn.hw_profiles.profile",
        "avsnn.cli.main",
    ],
)
def test_who_only_reads_bundles_does_not_wait_for_torch(module: str) -> None:
    run = python(f"import sys, {module}; print([m for m in ('torch', 'lava', 'h5py') if m in sys.modules])")
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"


def node_types(module: object) -> set[type[Node]]:
    return {
        kind
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Node) and kind is not Node and kind not in BASES
    }


def test_every_node_type_can_be_stored() -> None:
    assert set(KINDS.values()) == node_types(nodes) | node_types(fixed_nodes)
    assert all(kind.__name__ == name for name, kind in KINDS.items())


@pytest.mark.parametrize("kind", KINDS)
def test_every_node_type_has_a_stage_and_a_meaning(kind: str) -> None:
    node = KINDS[kind]
    stages = [stage for stage, allowed in SPEC.items() if node in allowed]
    assert stages
    integer = node in node_types(fixed_nodes)
    assert set(stages) <= ({"quantised", "scheduled", "mapped"} if integer else {"traced", "folded"})
    meaning = inspect.getsource(fixed_interpreter if integer else interpreter)
    names = [base.__name__ for base in node.__mro__ if issubclass(base, Node) and base is not Node]
    assert any(f"ir.{name}" in meaning for name in names)


@pytest.mark.parametrize("kind", KINDS)
def test_every_node_type_says_what_it_computes(kind: str) -> None:
    assert not (KINDS[kind].__doc__ or f"{kind}(").startswith(f"{kind}(")  # what dataclass writes where there is none


def test_no_file_imports_relatively_or_everything() -> None:
    for folder in (*PARTS, "src/avsnn/cli"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            assert "\nfrom ." not in text, path
            assert " import *" not in text, path
