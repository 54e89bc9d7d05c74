import numpy as np
import pytest
from scipy.ndimage import zoom

from avsnn.train.data import images, sources


def rng() -> np.random.Generator:
    return np.random.default_rng(1)


DIGITS = sources.source("train").digits[:20]


@pytest.mark.parametrize("threshold", images.INK_THRESHOLDS)
def test_an_enlarged_digit_has_mnist_framing(threshold: float) -> None:
    for digit in DIGITS:
        image = images.enlarge(digit, threshold)
        assert image.shape == (28, 28)
        assert (image.min(), image.max()) == (0, 1)
        for axis in (0, 1):
            mass = image.sum(axis=axis)
            assert abs((mass * np.arange(28)).sum() / mass.sum() - 13.5) <= 0.5 + 1e-6


def test_one_matrix_zooms_as_scipy_does() -> None:
    spline = images._spline()
    padded = np.pad(DIGITS[0] / 16, 1)
    np.testing.assert_allclose(spline @ padded @ spline.T, zoom(padded, 2.4, order=3), atol=1e-12)


def test_a_lower_threshold_gives_wider_strokes() -> None:
    ink = [images.enlarge(DIGITS[3], threshold).sum() for threshold in images.INK_THRESHOLDS]
    assert ink[0] > ink[1] > ink[2]


def test_warping_by_nothing_changes_nothing() -> None:
    image = images.enlarge(DIGITS[0], 0.55)
    same = images.warp(image, rng(), rotation_deg=0, shear=0, scale=(1, 1), shift_px=0, elastic_px=0)
    np.testing.assert_allclose(same, image, atol=1e-12)
    assert np.abs(images.warp(image, rng()) - image).max() > 0.1


def test_enlarging_by_two_spreads_four_times_the_ink() -> None:
    image = np.zeros((28, 28))
    image[11:17, 11:17] = 1
    twice = images.warp(image, rng(), rotation_deg=0, shear=0, scale=(2, 2), shift_px=0, elastic_px=0)
    assert twice.sum() == pytest.approx(4 * image.sum(), rel=0.05)


def test_each_kind_of_degradation_does_what_it_says() -> None:
    image = np.ones((28, 28))
    off = {"noise": (0, 0), "occlusion": 0.0, "occlusion_px": (6, 6), "contrast": (1, 1), "background": 0.0}

    def with_(**change: object) -> np.ndarray:
        return images.degrade(image, rng(), **{**off, **change})  # type: ignore[arg-type]

    np.testing.assert_allclose(with_(), image)
    np.testing.assert_allclose(with_(contrast=(0.5, 0.5)), image / 2)
    hidden = with_(occlusion=1.0)
    assert hidden.min() < 0.7
    assert (hidden < 0.999).sum() >= 36
    assert with_(contrast=(0.5, 0.5), noise=(0.1, 0.1)).std() == pytest.approx(0.1, rel=0.1)
    ground = with_(contrast=(0, 0), background=0.25)
    assert 0.01 < ground.max() <= 0.25
    loud = with_(noise=(5, 5))
    assert (loud.min(), loud.max()) == (0, 1)
