from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from avsnn.errors import InputError
from avsnn.train.data import avdigits, cache, camera, cochlea, events, features
from avsnn.train.data.dataset import Dataset


def make(count: int, *, split: str = "train", seed: int | None = None, **config: Any) -> Dataset:
    return events.make(count, split=split, seed=seed, config=events.EventsConfig(**config), use_cache=False)


@pytest.fixture(scope="module")
def some() -> Dataset:
    return make(20)


@pytest.fixture(scope="module")
def lists() -> tuple[events.Recording, ...]:
    return events.recordings(range(20))


def test_the_integers_are_those_of_every_other_version(some: Dataset) -> None:
    """Made alike under numpy 1.26 and scipy 1.15, numpy 2.4 and scipy 1.17, numpy 2.5 and scipy 1.18."""
    assert cache.digest(some.arrays())[:16] == "ab00a5da693d2d22"


def test_shapes_codings_and_declared_ranges(some: Dataset) -> None:
    inputs, spec = some.inputs(), some.input_spec()
    assert inputs["image"].shape == (16, 20, 2, 28, 28)
    assert inputs["audio"].shape == (16, 20, 1, 28, 28)
    assert some.coding == {"image": "sequence", "audio": "sequence"}
    assert spec["image"] == {"shape": [2, 28, 28], "coding": "sequence", "low": 0.0, "high": 19.0, "step": 1.0}
    assert spec["audio"] == {"shape": [1, 28, 28], "coding": "sequence", "low": 0.0, "high": 32.0, "step": 0.125}
    for name, value in inputs.items():
        assert value.dtype == np.float32
        assert value.min() == 0
        assert spec[name]["high"] / 8 < value.max() <= spec[name]["high"], "a range that nothing comes near"
        assert (value / spec[name]["step"] % 1 == 0).all()


def test_a_slice_is_over_samples_not_time(some: Dataset) -> None:
    part = some[[3, 1]]
    assert len(part) == 2
    np.testing.assert_array_equal(part.inputs()["image"], some.inputs()["image"][:, [3, 1]])
    np.testing.assert_array_equal(part.targets()["label"], some.targets()["label"][[3, 1]])
    assert len(some[2:7]) == 5
    assert len(some[4]) == 1


def test_fewer_pairs_are_the_beginning_of_more(some: Dataset) -> None:
    assert cache.digest(make(6).arrays()) == cache.digest(some[:6].arrays())


def test_seed_split_level_and_bins_all_matter() -> None:
    changes: list[dict[str, Any]] = [{}, {"seed": 1}, {"split": "val"}, {"split": "test"}, {"level": "easy"}]
    assert len({make(4, **change).inputs()["image"].tobytes() for change in changes}) == len(changes)
    four, sixteen = make(4, timesteps=4), make(4)
    np.testing.assert_array_equal(
        four.codes["image"], sixteen.codes["image"].reshape(4, 4, *sixteen.codes["image"].shape[1:]).sum(1)
    )


def test_pair_k_is_pair_k_of_avdigits(some: Dataset) -> None:
    pairs, easy = avdigits.make(20, level="easy", use_cache=False), make(20, level="easy")
    np.testing.assert_array_equal(some.targets()["label"], pairs.label)
    # events come from where the still picture has ink: the same digit, distorted alike
    seen = gaussian_filter(easy.codes["image"].sum(axis=(0, 2)).astype(float), (0, 1, 1)).reshape(20, -1)
    ink = gaussian_filter(pairs.image[:, 0].astype(float), (0, 2, 2)).reshape(20, -1)
    likeness = np.corrcoef(seen, ink)[:20, 20:]
    assert (likeness.argmax(axis=1) == np.arange(20)).mean() > 0.5  # chance is 0.05


def test_event_lists_hold_what_the_counts_say(some: Dataset, lists: tuple[events.Recording, ...]) -> None:
    for k, pair in enumerate(lists):
        assert pair.image.dtype == pair.audio.dtype == camera.EVENT
        assert some.codes["image"][:, k].sum() == len(pair.image)
        x, y, p = (pair.image[name].astype(int) for name in "xyp")
        when = pair.image["t"].astype(int) * 16 // camera.DURATION_US
        counted = np.zeros((16, 2, 28, 28), int)
        np.add.at(counted, (when, p, y, x), 1)
        np.testing.assert_array_equal(counted, some.codes["image"][:, k])
        assert pair.label == some.targets()["label"][k]


def test_events_look_like_those_of_the_sensors(lists: tuple[events.Recording, ...]) -> None:
    """N-MNIST: about 4,000 events, half of each polarity. One real N-TIDIGITS word: 1,184 events, 104 in a channel."""
    seen = np.array([len(pair.image) for pair in lists])
    assert 2000 < seen.mean() < 9000
    brighter = np.mean([pair.image["p"].mean() for pair in lists])
    assert 0.4 < brighter < 0.6
    heard = np.array([len(pair.audio) for pair in lists])
    assert 800 < heard.mean() < 4000
    busiest = np.mean([np.bincount(pair.audio["x"], minlength=64).max() for pair in lists])
    assert 40 < busiest < 250


def test_order_range_and_refractory_time(lists: tuple[events.Recording, ...]) -> None:
    for pair in lists:
        for stream, length, deaf in (
            (pair.image, camera.DURATION_US, camera.REFRACTORY_US),
            (pair.audio, events.SOUND_US, cochlea.REFRACTORY_US),
        ):
            t = stream["t"].astype(int)
            assert t.min() >= 0
            assert t.max() < length
            assert (np.diff(t) >= 0).all()
            place = stream["y"].astype(int) * 64 + stream["x"]
            order = np.lexsort((t, place))
            same = np.diff(place[order]) == 0
            assert (np.diff(t[order])[same] >= deaf).all()


@given(st.lists(st.integers(0, 40), max_size=30), st.integers(1, 12))
def test_refractory_thinning_equals_a_plain_loop(times: list[int], deaf: int) -> None:
    t = np.sort(np.array(times, np.int64))
    group = np.zeros(len(t), np.int64)
    last, expected = -(10**9), []
    for value in t:
        expected.append(value - last >= deaf)
        last = value if expected[-1] else last
    assert camera.after_refractory(group, t, deaf).tolist() == expected
    twice = camera.after_refractory(np.repeat([0, 1], len(t)), np.tile(t, 2), deaf)
    assert twice.tolist() == expected * 2


@given(st.integers(1, 50), st.integers(1, 9), st.integers(1, 8))
def test_no_bin_can_hold_more_than_the_bound(duration: int, bins: int, deaf: int) -> None:
    dense = (np.arange(offset, duration, deaf) for offset in range(min(deaf, duration)))
    most = max(np.bincount(camera.bin_of(times, duration, bins)).max() for times in dense)
    assert most <= camera.most_per_bin(duration, bins, deaf)


def test_a_still_grey_picture_gives_no_events_and_a_moving_edge_both_polarities() -> None:
    rng = np.random.default_rng(0)
    assert len(camera.watch(np.zeros((28, 28)), rng, noise_hz=0)) == 0
    bar = np.zeros((28, 28))
    bar[:, 12:16] = 1
    seen = camera.watch(bar, rng, noise_hz=0)
    assert set(seen["p"].tolist()) == {0, 1}
    assert abs(float(np.median(seen["x"])) - 13.5) < 4


def test_a_pure_tone_excites_its_channel_and_channel_0_is_the_highest() -> None:
    t = np.arange(16000) / 16000
    found = []
    for hz in (200, 1000, 5000):
        heard = cochlea.listen(np.sin(2 * np.pi * hz * t), 16000, np.random.default_rng(1))
        found.append(int(np.median(heard["x"])))
        expected = np.log(7000 / hz) / np.log(70) * 63
        assert abs(found[-1] - expected) < 8, hz
    assert found == sorted(found, reverse=True)


def test_enlargement_equals_bilinear_interpolation() -> None:
    """Against a direct reading of the definition, pixel by pixel."""
    grid = np.random.default_rng(0).integers(0, 30, (8, 8))
    found = events.enlarge(grid.reshape(64)) * events.AUDIO_STEP
    at = np.clip((np.arange(28) + 0.5) * 8 / 28 - 0.5, 0, 7)
    low = np.minimum(at.astype(int), 6)
    part = at - low
    rows = grid[low] * (1 - part)[:, None] + grid[low + 1] * part[:, None]
    exact = rows[:, low] * (1 - part) + rows[:, low + 1] * part
    assert np.abs(found - exact).max() <= events.AUDIO_STEP / 2 + 1e-9
    np.testing.assert_array_equal(events.enlarge(np.full(64, 32)), 256)


def test_the_cache_gives_the_same_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVSNN_CACHE", str(tmp_path))
    config = events.EventsConfig(timesteps=3)
    first = events.make(2, config=config)
    monkeypatch.setattr(events, "_generate", None)
    assert cache.digest(events.make(2, config=config).arrays()) == cache.digest(first.arrays())
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("config", [{"timesteps": 0}, {"timesteps": 101}, {"level": "x"}])
def test_impossible_options_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        events.EventsConfig(**config)
    assert caught.value.limit


@pytest.mark.parametrize("arguments", [{"count": 0}, {"count": 1, "split": "x"}, {"count": 1, "seed": -1}])
def test_impossible_arguments_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        events.make(**arguments)
    assert caught.value.limit


def test_avdigits_speaks_the_same_language() -> None:
    pairs = avdigits.make(4, use_cache=False)
    assert pairs.coding == {"image": "direct", "audio": "direct"}
    np.testing.assert_array_equal(pairs.targets()["label"], pairs.label)
    assert pairs.labels == tuple("0123456789")
    spec = pairs.input_spec()
    assert spec["audio"] == {
        "shape": [1, features.MELS, 32],
        "coding": "direct",
        "low": 0.0,
        "high": 1.0,
        "step": 1 / 255,
    }
