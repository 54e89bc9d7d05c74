import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avsnn.train.data import avdigits, cache

ARRAYS: dict[str, Any] = {"a": np.arange(12, dtype=np.uint8).reshape(3, 4), "b": np.array([1, -2], np.int64)}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AVSNN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache.folder() == tmp_path / "cache"
    monkeypatch.delenv("AVSNN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.folder() == tmp_path / "xdg" / "avsnn"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.folder() == tmp_path / ".cache" / "avsnn"


def test_what_was_stored_is_recalled(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.npz"
    assert cache.recall(path) is None
    cache.store(path, ARRAYS)
    back = cache.recall(path)
    assert back is not None
    assert cache.digest(back) == cache.digest(ARRAYS)
    assert [p.name for p in path.parent.iterdir()] == ["x.npz"]


def test_the_digest_sees_values_types_shapes_and_names_but_not_byte_order() -> None:
    a = np.arange(4, dtype=np.int64)
    others: list[dict[str, Any]] = [{"x": a + 1}, {"x": a.astype(np.int32)}, {"x": a.reshape(2, 2)}, {"y": a}]
    assert len({cache.digest(d) for d in [{"x": a}, *others]}) == 5
    assert cache.digest({"x": a.astype(">i8")}) == cache.digest({"x": a})


@pytest.mark.parametrize("failing", ["savez", "replace"])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = tmp_path / "x.npz"
    cache.write_atomically(path, ARRAYS)
    before = path.read_bytes()

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(np if failing == "savez" else os, failing, interrupt)
    with pytest.raises(KeyboardInterrupt):
        cache.write_atomically(path, {"a": np.zeros(3)})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_writing_goes_through_a_name_in_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Path, Path]] = []
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        seen.append((Path(source), Path(target)))
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    path = tmp_path / "x.npz"
    cache.write_atomically(path, ARRAYS)
    [(source, target)] = seen
    assert target == path != source
    assert source.parent == path.parent


def test_a_written_file_has_the_users_usual_permissions(tmp_path: Path) -> None:
    plain, ours = tmp_path / "plain", tmp_path / "ours.npz"
    plain.write_bytes(b"")
    cache.write_atomically(ours, ARRAYS)
    assert ours.stat().st_mode == plain.stat().st_mode


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    match how:
        case "truncated":
            path.write_bytes(data[: len(data) // 2])
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_text("not a zip")
        case "flipped":
            data[len(data) // 2] ^= 0xFF
            path.write_bytes(data)
        case "pickle":
            np.savez(path, image=np.array([object()], object), allow_pickle=True)
        case "other contents":
            np.savez(path, **ARRAYS, sha256=np.array(cache.digest(ARRAYS)))
        case "other digest":
            with np.load(path) as file:
                arrays = {name: file[name] for name in file.files}
            arrays["label"] = arrays["label"][::-1]
            np.savez(path, **arrays)
        case _:
            raise AssertionError(how)


@pytest.mark.parametrize("how", ["truncated", "empty", "text", "flipped", "pickle", "other contents", "other digest"])
def test_a_damaged_cache_file_is_noticed_and_made_anew(
    own_cache: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = avdigits.make(11)
    [path] = own_cache.iterdir()
    good = path.read_bytes()
    damage(path, how)
    with caplog.at_level(logging.WARNING):
        again = avdigits.make(11)
    assert "made anew" in caplog.text
    assert cache.digest(again.arrays()) == cache.digest(first.arrays())
    assert path.read_bytes() == good


def test_the_cache_is_used_and_named_by_its_parameters(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = avdigits.make(11)
    for changed in ({"seed": 5}, {"split": "val"}, {"level": "easy"}):
        avdigits.make(11, **changed)
    avdigits.make(12)
    names = sorted(path.name for path in own_cache.iterdir())
    assert len(names) == 5
    assert all(name.startswith(f"avdigits-{avdigits.ASSET_VERSION}-") for name in names)

    def fail(*_: object) -> None:
        raise AssertionError("made anew although cached")

    monkeypatch.setattr(avdigits, "_generate", fail)
    assert cache.digest(avdigits.make(11).arrays()) == cache.digest(first.arrays())


def test_without_the_cache_nothing_is_written(own_cache: Path) -> None:
    avdigits.make(2, use_cache=False)
    assert not own_cache.exists()


def test_a_folder_that_cannot_be_written_only_means_no_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setenv("AVSNN_CACHE", str(file / "below"))
    with caplog.at_level(logging.WARNING):
        assert len(avdigits.make(2)) == 2
    assert "not cached" in caplog.text
    assert "AVSNN_CACHE" in caplog.text
