import dataclasses
import hashlib

import numpy as np
import pytest

from avsnn.errors import InputError
from avsnn.train.data import avdigits, cache, features, sources


def digest(pairs: avdigits.Pairs) -> str:
    return cache.digest(pairs.arrays())


def make(count: int, **options: str | int) -> avdigits.Pairs:
    return avdigits.make(count, use_cache=False, **options)  # type: ignore[arg-type]


def test_the_frozen_set_is_what_the_recipe_makes_on_this_interpreter() -> None:
    shipped, again = avdigits.frozen(), avdigits.regenerate_frozen()
    np.testing.assert_array_equal(again.label, shipped.label)
    np.testing.assert_array_equal(again.image, shipped.image)
    np.testing.assert_array_equal(again.audio, shipped.audio)
    assert digest(again) == avdigits.EVAL_SHA256


def test_any_part_of_the_frozen_set_can_be_made_alone() -> None:
    places = [499, 3, 250]
    assert digest(avdigits.regenerate_frozen(places)) == digest(avdigits.frozen()[places])


def test_one_changed_grey_value_breaks_the_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = {name: array.copy() for name, array in avdigits.frozen().arrays().items()}
    arrays["image"][17, 0, 5, 5] ^= 1
    monkeypatch.setattr(avdigits, "read_asset", lambda name: arrays)
    with pytest.raises(InputError, match="digest differs") as caught:
        avdigits.frozen()
    assert caught.value.limit == avdigits.EVAL_SHA256


def test_a_missing_or_broken_asset_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_asset_bytes", lambda name: b"PK damaged")
    with pytest.raises(InputError, match=r"avdigits_eval_v1\.npz: cannot be read"):
        avdigits.frozen()


def test_the_generated_integers_are_those_of_every_other_version() -> None:
    """Made alike under numpy 1.26 and scipy 1.15, and numpy 2.5 and scipy 1.18."""
    found = {split: digest(make(40, split=split))[:16] for split in sources.SPLITS}
    assert found == {"train": "31224559cc365211", "val": "9a608c4ba6a9802a", "test": "6cf29d30f4841e37"}
    waves, _ = avdigits.waveforms(20, split="val", level="hard", seed=7)
    assert hashlib.sha256(waves.astype("<i2").tobytes()).hexdigest()[:16] == "174a26c1024fba78"


def test_shapes_types_and_ranges() -> None:
    pairs = avdigits.frozen()
    assert len(pairs) == 500
    assert pairs.image.shape == (500, 1, 28, 28)
    assert pairs.image.dtype == np.uint8
    assert pairs.audio.shape == (500, 1, 32, 32)
    assert pairs.audio.dtype == np.uint8
    assert pairs.label.shape == (500,)
    assert pairs.label.dtype == np.int64
    inputs = pairs.inputs()
    assert list(inputs) == ["image", "audio"]
    for name, value in inputs.items():
        assert value.dtype == np.float32
        assert value.min() >= 0
        assert 0.5 < value.max() <= 1, name
        np.testing.assert_array_equal(np.rint(value * 255).astype(np.uint8), pairs.arrays()[name])
    assert pairs.audio.std() > 20  # not squeezed into a corner of the range


def test_labels_are_balanced_and_shuffled() -> None:
    pairs = avdigits.frozen()
    assert np.bincount(pairs.label).tolist() == [50] * 10
    rows = pairs.label.reshape(50, 10)
    assert (np.sort(rows, axis=1) == np.arange(10)).all()
    assert len(np.unique(rows, axis=0)) > 40


def test_fewer_pairs_are_the_beginning_of_more() -> None:
    assert digest(make(23)[:12]) == digest(make(12))


def test_seed_split_and_level_all_matter() -> None:
    base = dict[str, str | int](split="train", seed=0, level="mid")
    changes: list[dict[str, str | int]] = [{}, {"seed": 1}, {"split": "val"}, {"split": "test"}, {"level": "easy"}]
    found = [make(10, **{**base, **change}) for change in changes]
    for name in ("image", "audio"):
        assert len({pairs.arrays()[name].tobytes() for pairs in found}) == len(changes), name
    assert digest(make(10, split="test", seed=2)) == digest(make(10, split="test"))


def test_the_level_is_the_noise() -> None:
    """The same seed draws the same words and digits, so easier means closer to clean."""
    spread = [make(40, split="val", level=level).image[:, :, 0].std() for level in ("easy", "mid", "hard")]
    assert spread == sorted(spread)
    assert spread[0] < spread[2] / 2


def test_splits_share_no_image_and_test_voices_are_new() -> None:
    stock = {split: sources.source(split) for split in sources.SPLITS}
    index = [set(source.digit_index.tolist()) for source in stock.values()]
    assert sum(len(part) for part in index) == len(set.union(*index)) == 1797
    pictures = [set(map(bytes, source.digits)) for source in stock.values()]
    assert not pictures[0] & pictures[1]
    assert not (pictures[0] | pictures[1]) & pictures[2]
    assert stock["test"].voices == ("rms",)
    assert stock["train"].voices == stock["val"].voices == ("awb", "kal16", "slt")
    for source in stock.values():
        assert len(source.words) == len(source.word_labels)
        assert np.bincount(source.word_labels, minlength=10).min() > 0
        assert np.bincount(source.digit_labels, minlength=10).min() >= 13


def test_waveforms_are_what_the_audio_was_made_from() -> None:
    waves, label = avdigits.waveforms(3, split="val")
    pairs = make(3, split="val")
    assert waves.shape == (3, 16000)
    assert waves.dtype == np.int16
    np.testing.assert_array_equal(label, pairs.label)
    for wave, audio in zip(waves, pairs.audio, strict=True):
        mel = features.log_mel(wave / 32767, avdigits.RATE)
        np.testing.assert_array_equal(features.quantise_log_mel(mel, avdigits.RATE), audio[0])
    assert avdigits.s_cmrl_audio(waves[0]).shape == (257, 63)


def test_pairs_cannot_be_reassigned_and_slice() -> None:
    pairs = avdigits.frozen()
    assert len(pairs[:64]) == 64
    assert digest(pairs[5]) == digest(pairs[5:6])
    with pytest.raises(dataclasses.FrozenInstanceError):
        pairs.label = pairs.label[:1]  # type: ignore[misc]


def test_progress_ends_at_the_count() -> None:
    seen: list[tuple[int, int]] = []
    avdigits.make(30, use_cache=False, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(0, 30), (25, 30), (30, 30)]


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ({"count": 0}, "0"),
        ({"count": -3}, "-3"),
        ({"count": True}, "True"),
        ({"count": 2.5}, "2.5"),
        ({"count": 10**9}, "1000000000"),
        ({"count": 1, "split": "dev"}, "dev"),
        ({"count": 1, "level": "middle"}, "middle"),
        ({"count": 1, "seed": -1}, "-1"),
        ({"count": 1, "seed": 2**32}, str(2**32)),
        ({"count": 1, "seed": 1.0}, "1.0"),
    ],
)
def test_wrong_arguments_say_what_is_allowed(arguments: dict[str, object], found: str) -> None:
    with pytest.raises(InputError) as caught:
        avdigits.make(**arguments)  # type: ignore[arg-type]
    assert str(caught.value.found) == found
    assert caught.value.limit
