"""The directory that a conversion leaves: manifest, graphs of every stage, proofs; exports and reports join it later.

Written beside its final place and renamed when complete, so an interrupted run leaves nothing half-made. The manifest
lists the SHA-256 of every file; loading refuses a bundle that does not match it, and names that lead out of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from avsnn.convert import staging
from avsnn.convert.ir import storage, text
from avsnn.convert.ir.graph import STAGES, Graph
from avsnn.errors import InputError

FORMAT = 1
MANIFEST = "manifest.json"
UNSEALED = (MANIFEST, "timing.json")  # the manifest cannot hold its own hash, timings differ from run to run


@dataclass(frozen=True, kw_only=True, eq=False)
class Bundle:
    """A converted network.

    Attributes:
        graphs: stage to graph.
        meta: name, target, labels, versions and hashes of what went in.
        record: what was proved and measured on the way: checks, scales, delays, accuracy.
        seconds: how long each step took; in a file of its own, because it differs from run to run.
        folder: where it was loaded from or saved to; None while only in memory.
    """

    graphs: Mapping[str, Graph]
    meta: Mapping[str, Any]
    record: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    folder: Path | None = None

    def graph(self, stage: str) -> Graph:
        """The graph of one stage.

        Raises:
            InputError: unknown stage.
        """
        if stage not in self.graphs:
            raise InputError("unknown stage", where="bundle", found=stage, limit=", ".join(self.graphs))
        return self.graphs[stage]

    def write(self, folder: Path) -> None:
        """Write graphs and record into an existing folder (without manifest: see `seal`)."""
        (folder / "graphs").mkdir()
        for stage, graph in self.graphs.items():
            storage.save(graph, folder / "graphs" / stage)
            (folder / "graphs" / f"{stage}.txt").write_text(text.render(graph), encoding="utf-8")
        write_json(folder / "verification.json", self.record)
        write_json(folder / "timing.json", dict(self.seconds))

    def save(self, out: str | Path, *, force: bool = False) -> Path:
        """Write the whole bundle to ``out`` and return it; see `staged` for what can go wrong."""
        with staged(out, force=force) as folder:
            self.write(folder)
            seal(folder, self.meta)
        return Path(out)

    @staticmethod
    def load(folder: str | Path) -> Bundle:
        """Read a bundle.

        Raises:
            InputError: no bundle there, a file that is missing, changed or outside.
        """
        folder = Path(folder)
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            files, meta = dict(manifest["files"]), dict(manifest["meta"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"not a bundle ({error})", where=str(folder), remedy="avsnn-convert writes one") from None
        if manifest.get("format") != FORMAT:
            raise InputError("unknown bundle format", where=str(folder), found=manifest.get("format"), limit=FORMAT)
        _check_files(folder, files)
        absent = [name for name in ("verification.json", "graphs/scheduled.json") if name not in files]
        if absent:
            raise InputError("manifest leaves out what every bundle has", where=str(folder), found=", ".join(absent))
        graphs = {s: storage.load(folder / "graphs" / s) for s in STAGES if f"graphs/{s}.json" in files}
        record = json.loads((folder / "verification.json").read_text(encoding="utf-8"))
        return Bundle(graphs=graphs, meta=meta, record=record, folder=folder)


def seal(folder: Path, meta: Mapping[str, Any]) -> None:
    """Write the manifest over all files now in ``folder``."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    files = {name: sha256_of(folder / name) for name in names if name not in UNSEALED}
    write_json(folder / MANIFEST, {"format": FORMAT, "meta": dict(meta), "files": files})


def _check_files(folder: Path, files: Mapping[str, str]) -> None:
    root = folder.resolve()
    for name, digest in files.items():
        path = (folder / name).resolve()
        if not path.is_relative_to(root):
            raise InputError("path leads out of the bundle", where=str(folder), found=name)
        if not path.is_file():
            raise InputError("file of the bundle is missing", where=str(folder), found=name)
        if sha256_of(path) != digest:
            raise InputError("file of the bundle was changed", where=str(folder), found=name, remedy="convert again")


def staged(out: str | Path, *, force: bool = False) -> AbstractContextManager[Path]:
    """A folder beside ``out`` that becomes ``out`` if the block ends well and vanishes if it does not.

    Raises:
        InputError: ``out`` exists (and not ``force``, or is not a bundle), or it cannot be written.
    """
    return staging.staged(out, replaceable=_is_bundle if force else None)


def _is_bundle(folder: Path) -> bool:
    """Whether a conversion wrote it: other programs call their files manifest.json, too."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and {"format", "meta", "files"} <= set(manifest)


def write_json(path: Path, value: object) -> None:
    """Readable, sorted, without NaN: the same value is the same bytes."""
    path.write_text(json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")


def sha256_of(path: Path) -> str:
    """Digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
