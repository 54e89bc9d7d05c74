"""A user's own folder, manifest or npz: read as the user would expect, or refused with path and reason."""

import json
import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.io import wavfile

from avsnn.errors import InputError
from avsnn.train.data import avdigits, cache, media, pair_lists, pairs
from avsnn.train.data.dataset import Dataset, saved

Image = pytest.importorskip("PIL.Image", reason="Pillow is the extra `images`")
logging.getLogger("PIL").setLevel(logging.WARNING)

RATE = 16_000


def tone(hz: float = 440, *, rate: int = RATE, seconds: float = 1.0, gain: float = 0.5) -> np.ndarray[Any, Any]:
    wave = gain * np.sin(2 * np.pi * hz * np.arange(round(rate * seconds)) / rate)
    return np.rint(wave * 32767).astype(np.int16)


def write(folder: Path, name: str, *, image: Any = None, wave: Any = None, rate: int = RATE) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    grey = np.arange(28 * 28, dtype=np.uint8).reshape(28, 28)
    Image.fromarray(grey if image is None else image).save(folder / f"{name}.png")
    wavfile.write(folder / f"{name}.wav", rate, tone() if wave is None else wave)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for k, kind in enumerate(("cat", "dog", "owl")):
        for n in range(4):
            write(tmp_path / "set" / kind, f"{kind}{n}", wave=tone(200 * (k + 1) + 10 * n))
    return tmp_path / "set"


def read(root: Path, count: int | None = None, *, split: str = "all", **config: Any) -> Dataset:
    return pairs.make(count, split=split, config=pairs.PairsConfig(root=str(root), **config))


def refusal(root: Path, **options: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        read(root, **options)
    return caught.value


def test_a_folder_per_class_is_read(root: Path) -> None:
    data = read(root)
    assert len(data) == 12
    assert data.labels == ("cat", "dog", "owl")
    assert np.bincount(data.targets()["label"]).tolist() == [4, 4, 4]
    assert data.notes == ()
    inputs, spec = data.inputs(), data.input_spec()
    for name, shape in (("image", [1, 28, 28]), ("audio", [1, 32, 32])):
        assert inputs[name].shape == (12, *shape)
        assert inputs[name].dtype == np.float32
        assert spec[name] == {"shape": shape, "coding": "direct", "low": 0.0, "high": 1.0, "step": 1 / 255}
    np.testing.assert_array_equal(data.codes["image"][0, 0].ravel(), np.arange(784) % 256)
    assert (saved(data)["image"] == data.codes["image"]).all()


def test_a_recording_becomes_what_avdigits_makes_of_it(tmp_path: Path) -> None:
    waves, _ = avdigits.waveforms(3)
    for k, wave in enumerate(waves):
        write(tmp_path / str(k), "x", wave=wave)
    data = read(tmp_path)
    found = data.codes["audio"][np.argsort(data.targets()["label"])].astype(int)
    expected = avdigits.make(3, use_cache=False).audio.astype(int)
    assert np.abs(found - expected).max() <= 1  # 16 bits have rounded the peak of 0.9


def test_the_order_follows_the_seed_and_fewer_are_the_beginning(root: Path) -> None:
    every = read(root)
    assert cache.digest(read(root).arrays()) == cache.digest(every.arrays())
    assert cache.digest(read(root, 5).arrays()) == cache.digest(every[:5].arrays())
    other = pairs.make(None, split="all", seed=9, config=pairs.PairsConfig(root=str(root)))
    assert cache.digest(other.arrays()) != cache.digest(every.arrays())
    error = refusal(root, count=13)
    assert (error.found, error.limit) == ("13", "1 .. 12")


def test_splits_by_hash_are_disjoint_complete_and_stable(root: Path) -> None:
    before = {pair.where: pair.split for pair in pair_lists.listed(root, ()).pairs}
    write(root / "cat", "aaa")
    after = {pair.where: pair.split for pair in pair_lists.listed(root, ()).pairs}
    assert {where: after[where] for where in before} == before
    shares = [pair_lists.split_of(f"class/{k}") for k in range(4000)]
    assert [round(shares.count(name) / 4000, 1) for name in ("train", "val", "test")] == [0.7, 0.1, 0.2]


def test_split_folders_are_kept(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("test", 2)):
        for n in range(count):
            write(tmp_path / split / "x", f"{split}{n}")
    assert len(read(tmp_path, split="train")) == 3
    assert len(read(tmp_path, split="test")) == 2
    assert "no pair in split val" in str(refusal(tmp_path, split="val"))


def test_another_rate_is_resampled_to_the_same_picture(tmp_path: Path) -> None:
    for name, rate in (("a", 16_000), ("b", 44_100), ("c", 8_000), ("d", 48_000)):
        write(tmp_path / name, name, wave=tone(1000, rate=rate), rate=rate)
    data = read(tmp_path)
    by_class = data.codes["audio"][np.argsort(data.targets()["label"])][:, 0].astype(int)
    assert (by_class.sum(axis=2).argmax(axis=1) == by_class[0].sum(axis=1).argmax()).all()
    loud = by_class[0] > 150
    assert np.abs(by_class[1:, loud] - by_class[0][loud]).max() <= 2
    assert data.notes[0].startswith("3 sounds were resampled to 16000 Hz")


def test_stereo_is_averaged(tmp_path: Path) -> None:
    left = tone(500)
    write(tmp_path / "x", "mono", wave=left)
    write(tmp_path / "x", "same", wave=np.stack([left, left], axis=1))
    data = read(tmp_path)
    np.testing.assert_array_equal(data.codes["audio"][0], data.codes["audio"][1])
    assert "1 sounds had several channels" in data.notes[0]


@pytest.mark.parametrize("kind", ["uint8", "int16", "int32", "float32", "float64"])
def test_every_type_of_wav_gives_the_same_picture(tmp_path: Path, kind: str) -> None:
    wave = 0.9 * np.sin(2 * np.pi * 700 * np.arange(RATE) / RATE)
    write(tmp_path / "x", "a", wave=wave.astype(np.float64))
    code = {"uint8": wave * 127 + 128, "int16": wave * 32767, "int32": wave * (2**31 - 1)}
    write(tmp_path / "x", "b", wave=(np.rint(code[kind]) if kind in code else wave).astype(kind))
    found = read(tmp_path, level="asis").codes["audio"].astype(int)
    loud = found[0] > 120
    assert np.abs(found[0] - found[1])[loud].max() <= 1


def test_a_silent_clip_is_silence_not_nan_and_is_told(tmp_path: Path) -> None:
    write(tmp_path / "x", "a", wave=np.zeros(RATE, np.int16))
    data = read(tmp_path)
    assert not data.codes["audio"].any()
    assert data.notes == (f"1 sounds are silent (first: {tmp_path / 'x' / 'a.wav'})",)


def test_longer_sounds_are_cut_and_shorter_ones_padded_and_both_told(tmp_path: Path) -> None:
    write(tmp_path / "x", "a", wave=tone(seconds=2.5))
    write(tmp_path / "x", "b", wave=tone(seconds=0.25))
    data = read(tmp_path)
    assert data.codes["audio"].shape == (2, 1, 32, 32)
    assert sorted(note.split(" (")[0] for note in data.notes) == [
        "1 sounds were longer than 1 s and lost their end",
        "1 sounds were shorter than 1 s and got silence at the end",
    ]
    assert read(tmp_path, seconds=2.0).input_spec()["audio"]["shape"] == [1, 32, 66]


def test_a_loud_float_file_is_levelled_or_refused(tmp_path: Path) -> None:
    write(tmp_path / "x", "a", wave=(3.0 * tone() / 32767).astype(np.float32))
    assert len(read(tmp_path)) == 1
    error = refusal(tmp_path, level="asis")
    assert error.where == str(tmp_path / "x" / "a.wav")
    assert error.found is not None
    assert float(str(error.found)) == pytest.approx(1.5, rel=1e-3)


def rgba(alpha: int) -> np.ndarray[Any, Any]:
    picture = np.zeros((28, 28, 4), np.uint8)
    picture[..., 0], picture[..., 3] = 200, alpha
    return picture


def test_colour_transparency_and_grey_become_what_the_options_say(tmp_path: Path) -> None:
    write(tmp_path / "a", "solid", image=rgba(255))
    write(tmp_path / "b", "clear", image=rgba(0))
    grey = read(tmp_path, background=7)
    means = grey.codes["image"][np.argsort(grey.targets()["label"])].mean(axis=(1, 2, 3))
    assert means.tolist() == [60, 7]  # ITU-R 601: 0.299 * 200
    colour = read(tmp_path, image_mode="rgb")
    assert colour.input_spec()["image"]["shape"] == [3, 28, 28]
    solid = colour.codes["image"][colour.targets()["label"] == 0][0]
    assert solid.mean(axis=(1, 2)).tolist() == [200, 0, 0]
    assert any("transparent" in note for note in colour.notes)
    write(tmp_path / "c", "grey")
    three = read(tmp_path, image_mode="rgb").codes["image"]
    assert three.shape == (3, 3, 28, 28)


def test_deep_palette_and_bilevel_images_keep_their_brightness(tmp_path: Path) -> None:
    write(tmp_path / "a", "deep", image=np.full((28, 28), 32896, np.uint16))
    write(tmp_path / "b", "palette")
    Image.new("P", (28, 28), 0).save(tmp_path / "b" / "palette.png")
    write(tmp_path / "c", "bits")
    Image.new("1", (28, 28), 1).save(tmp_path / "c" / "bits.png")
    data = read(tmp_path)
    means = data.codes["image"][np.argsort(data.targets()["label"])].mean(axis=(1, 2, 3))
    assert means.tolist() == [128, 0, 255]


def test_other_sizes_and_shapes_are_brought_to_one(tmp_path: Path) -> None:
    wide = np.zeros((40, 80), np.uint8)
    wide[:, 20:60] = 255
    write(tmp_path / "x", "a", image=wide)
    assert read(tmp_path, image_fit="crop").codes["image"].min() > 200
    padded = read(tmp_path, image_fit="pad", background=9).codes["image"][0, 0]
    assert (padded[:7] == 9).all()
    stretched = read(tmp_path, image_fit="stretch", image_size=32).codes["image"][0, 0]
    assert stretched.shape == (32, 32)
    assert 0.45 < stretched.mean() / 255 < 0.55


def test_a_photograph_lying_on_its_side_is_turned(tmp_path: Path) -> None:
    write(tmp_path / "x", "a")
    picture = np.zeros((28, 28), np.uint8)
    picture[:14] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    (tmp_path / "x" / "a.png").unlink()
    Image.fromarray(picture).save(tmp_path / "x" / "a.jpg", exif=exif, quality=95)
    found = read(tmp_path).codes["image"][0, 0]
    assert found[:, 18:].min() > 200
    assert found[:, :10].max() < 50


def test_only_the_first_frame_of_an_animation_and_that_is_told(tmp_path: Path) -> None:
    write(tmp_path / "x", "a")
    (tmp_path / "x" / "a.png").unlink()
    first, second = (Image.new("L", (28, 28), grey) for grey in (10, 200))
    first.save(tmp_path / "x" / "a.gif", save_all=True, append_images=[second])
    data = read(tmp_path)
    assert (data.codes["image"] == 10).all()
    assert any("several frames" in note for note in data.notes)


@pytest.mark.parametrize("gone", ["wav", "png"])
def test_a_missing_partner_is_named(root: Path, gone: str) -> None:
    (root / "dog" / f"dog2.{gone}").unlink()
    error = refusal(root)
    assert error.where == str(root / "dog" / ("dog2.png" if gone == "wav" else "dog2.wav"))
    assert "without partner" in error.what


def test_two_images_of_one_name_are_ambiguous(root: Path) -> None:
    Image.new("L", (28, 28)).save(root / "owl" / "owl1.bmp")
    assert "two images of one name" in str(refusal(root))


def test_empty_and_wrong_folders_are_refused(root: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert (refusal(empty).where, refusal(empty).what) == (str(empty), "folder is empty")
    (root / "yak").mkdir()
    assert refusal(root).where == str(root / "yak")
    assert "no such folder" in str(refusal(tmp_path / "absent"))
    flat = tmp_path / "flat"
    write(flat, "a")
    assert refusal(flat).found == "a.png"
    with pytest.raises(InputError, match="root: is missing"):
        pairs.make(config=pairs.PairsConfig())


def test_hidden_files_are_passed_over_and_strange_ones_counted(root: Path) -> None:
    for name in (".DS_Store", "notes.txt", "Thumbs.db"):
        (root / "cat" / name).write_text("x")
    assert read(root).notes[0].startswith("2 files are neither image nor sound")


@pytest.mark.parametrize("how", ["empty", "text", "cut", "header"])
@pytest.mark.parametrize("name", ["cat1.png", "cat1.wav"])
def test_a_corrupt_file_is_refused_with_its_path(root: Path, name: str, how: str) -> None:
    path = root / "cat" / name
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "text": b"hello " * 20, "cut": whole[: len(whole) // 2], "header": whole[:30]}[how])
    error = refusal(root)
    assert error.where == str(path)
    assert "cannot be read" in error.what


def test_sound_with_nan_or_without_samples_is_refused(root: Path) -> None:
    bad = np.zeros(RATE, np.float32)
    bad[5] = np.nan
    wavfile.write(root / "cat" / "cat0.wav", RATE, bad)
    assert "NaN" in str(refusal(root))
    wavfile.write(root / "cat" / "cat0.wav", RATE, np.zeros(0, np.int16))
    assert refusal(root).where == str(root / "cat" / "cat0.wav")


def test_a_picture_that_would_fill_memory_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert "cannot be read" in str(refusal(root))


def test_extras_are_named_when_they_are_missing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "cat" / "cat0.wav").rename(root / "cat" / "cat0.flac")
    monkeypatch.setitem(sys.modules, "soundfile", None)
    assert "avsnn[sound]" in refusal(root).remedy
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert "avsnn[images]" in refusal(root).remedy


def test_other_sound_files_go_through_soundfile(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "cat" / "cat0.wav").rename(root / "cat" / "cat0.flac")
    wave = np.stack([tone() / 32767] * 2, axis=1)
    monkeypatch.setitem(sys.modules, "soundfile", SimpleNamespace(read=lambda path, **_: (wave, 22_050)))
    data = read(root)
    assert sorted(note.split(" (")[0] for note in data.notes) == [
        "1 sounds had several channels, which were averaged",
        "1 sounds were resampled to 16000 Hz",
        "1 sounds were shorter than 1 s and got silence at the end",
    ]


# --- manifests


def manifest(root: Path, text: str, name: str = "list.csv") -> Path:
    path = root / name
    path.write_text(text, encoding="utf-8")
    return path


def test_csv_and_json_list_pairs_anywhere(root: Path) -> None:
    rows = [(f"{c}/{c}{n}.png", f"{c}/{c}{n}.wav", c, "val" if n else "train") for c in ("cat", "owl") for n in (0, 1)]
    text = "\ufeffimage,audio,label,split\n" + "".join(",".join(row) + "\n" for row in rows)
    from_csv = read(manifest(root, text))
    objects = [dict(zip(("image", "audio", "label", "split"), row, strict=True)) for row in rows]
    from_json = read(manifest(root, json.dumps(objects), "list.json"))
    named = read(manifest(root, json.dumps({"classes": ["owl", "cat"], "pairs": objects}), "named.json"))
    assert from_csv.labels == from_json.labels == ("cat", "owl")
    assert named.labels == ("owl", "cat")
    assert cache.digest(from_csv.arrays()) == cache.digest(from_json.arrays())
    assert (named.targets()["label"] == 1 - from_csv.targets()["label"]).all()
    assert len(read(root / "list.csv", split="val")) == 2


@pytest.mark.parametrize(
    ("label", "classes", "what"),
    [
        ("3", ("a", "b", "c"), "label out of range"),
        ("-1", (), "label out of range"),
        ("99999999999", (), "label out of range"),
        ("dgo", ("cat", "dog"), "unknown class"),
        ("", (), "pair has no label"),
    ],
)
def test_a_label_of_no_class_is_refused_with_its_line(
    root: Path, label: str, classes: tuple[str, ...], what: str
) -> None:
    good = "0" if label.lstrip("-").isdigit() or not classes else classes[0]
    text = f"image,audio,label\ncat/cat0.png,cat/cat0.wav,{good}\ncat/cat1.png,cat/cat1.wav,{label}\n"
    error = refusal(manifest(root, text), classes=classes)
    assert error.what == what
    assert error.where.endswith("list.csv:3")


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("a.csv", "", "no column image, audio, label"),
        ("a.csv", "image,audio,label\n", "lists no pair"),
        ("a.csv", "image,audio\nx,y\n", "no column label"),
        ("a.csv", "image,audio,label\ncat/cat9.png,cat/cat0.wav,1\n", "no such image file"),
        ("a.csv", "image,audio,label\ncat/cat0.png,cat/cat9.wav,1\n", "no such sound file"),
        ("a.csv", "image,audio,label,split\ncat/cat0.png,cat/cat0.wav,1,dev\n", "unknown split"),
        ("a.json", "{", "cannot be read"),
        ("a.json", "{}", "must be a list"),
        ("a.json", "[3]", "no object"),
        ("a.json", '[{"image": "x"}]', "has no audio"),
        ("a.txt", "x", "unknown kind of list"),
    ],
)
def test_a_wrong_manifest_is_refused(root: Path, name: str, text: str, what: str) -> None:
    error = refusal(manifest(root, text, name))
    assert what in error.what
    assert name in error.where


# --- npz


def store(path: Path, **changes: Any) -> Path:
    arrays: dict[str, Any] = {
        "image": np.arange(6 * 784, dtype=np.uint8).reshape(6, 28, 28),
        "wave": np.stack([tone(300 + 50 * k) for k in range(6)]),
        "rate": np.array(RATE),
        "label": np.array([0, 1, 2, 0, 1, 2]),
    }
    arrays.update(changes)
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return path


def test_npz_of_sounds_equals_the_same_files(tmp_path: Path) -> None:
    data = read(store(tmp_path / "a.npz"))
    assert data.labels == ("0", "1", "2")
    assert data.input_spec()["audio"]["shape"] == [1, 32, 32]
    for k in range(6):
        write(tmp_path / "set" / str(k % 3), str(k), wave=tone(300 + 50 * k))
    from_files = read(tmp_path / "set")
    assert {x.tobytes() for x in data.codes["audio"]} == {x.tobytes() for x in from_files.codes["audio"]}


def test_what_data_make_writes_can_be_read_again(tmp_path: Path) -> None:
    given = avdigits.make(5, use_cache=False)
    cache.write_atomically(tmp_path / "a.npz", saved(given))
    data = read(tmp_path / "a.npz", classes=tuple("0123456789"))
    assert {x.tobytes() for x in data.codes["audio"]} == {x.tobytes() for x in given.audio}
    assert {x.tobytes() for x in data.codes["image"]} == {x.tobytes() for x in given.image}
    assert len(data.labels) == 10


@pytest.mark.parametrize(
    ("changes", "where", "what"),
    [
        ({"label": None}, "", "no array label"),
        ({"rate": None}, "", "no array rate"),
        ({"label": np.array([0.0] * 6)}, ": label", "wrong type"),
        ({"label": np.array([0, 1, 2, 0, 1, -2])}, ": label[5]", "label out of range"),
        ({"image": np.zeros((6, 28, 28), np.float32)}, ": image", "wrong type"),
        ({"image": np.zeros((5, 28, 28), np.uint8)}, ": image", "numbers of samples do not fit"),
        ({"image": np.zeros((6, 3, 28, 3), np.uint8)}, ": image", "cannot tell which axis holds the channels"),
        ({"image": np.zeros(6, np.uint8)}, ": image", "wrong shape"),
        ({"rate": np.array(0)}, ": rate", "impossible rate"),
        ({"wave": np.full((6, 100), np.nan)}, ": wave[", "sound holds NaN or infinity"),
        ({"wave": np.zeros((6, 100), bool)}, ": wave[", "unknown type of samples"),
        ({"label": np.array([object()] * 6)}, "", "not an .npz of plain arrays"),
    ],
)
def test_a_wrong_npz_is_refused(tmp_path: Path, changes: dict[str, Any], where: str, what: str) -> None:
    path = store(tmp_path / "a.npz", **changes)
    error = refusal(path)
    assert what in error.what
    assert error.where.startswith(f"{path}{where}")


def test_a_file_that_is_no_npz_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_text("hello")
    assert "not an .npz" in str(refusal(tmp_path / "a.npz"))
    assert "no such file" in str(refusal(tmp_path / "b.npz"))


@pytest.mark.parametrize(
    "config",
    [
        {"image_size": 0},
        {"image_mode": "hsv"},
        {"image_fit": "tile"},
        {"background": 256},
        {"rate": 4000},
        {"seconds": float("nan")},
        {"seconds": 0.01},
        {"level": "loud"},
        {"classes": ("a", "a")},
    ],
)
def test_impossible_options_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        pairs.PairsConfig(**config)


def test_changes_count_and_name_the_first() -> None:
    changes = media.Changes()
    changes.add("things", "a")
    changes.add("things", "b")
    assert changes.notes() == ("2 things (first: a)",)
