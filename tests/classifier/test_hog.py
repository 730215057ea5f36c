"""Histograms of oriented gradients: where they point, and images that have none."""

import numpy as np
import pytest

from wafer.classifier.hog import BLOCK, BLOCKS, FEATURES, ORIENTATIONS, hog_features
from wafer.inference.preprocess import letterbox


@pytest.mark.parametrize("level", [0, 128, 255])
def test_an_image_of_one_grey_has_features_of_zero(level: int) -> None:
    features = hog_features(np.full((1, 96, 96), level, np.uint8))
    assert features.shape == (1, FEATURES)
    assert not features.any()


def test_an_image_of_one_pixel_has_features() -> None:
    boxed = letterbox(np.array([[200]], np.uint8), 64).image
    assert np.isfinite(hog_features(boxed[None])).all()


def test_stripes_are_found_in_the_orientation_they_have() -> None:
    stripes = np.tile(np.repeat(np.array([0, 200], np.uint8), 8), 8)
    upright = np.tile(stripes, (128, 1))
    flat = upright.T
    by_orientation = hog_features(np.stack([upright, flat])).reshape(
        2, BLOCKS, BLOCKS, BLOCK, BLOCK, ORIENTATIONS
    )
    assert by_orientation.sum(axis=(1, 2, 3, 4)).argmax(axis=1).tolist() == [0, ORIENTATIONS // 2]


def test_three_equal_channels_are_one() -> None:
    grey = np.random.default_rng(0).integers(256, size=(2, 64, 64)).astype(np.uint8)
    np.testing.assert_array_equal(
        hog_features(np.repeat(grey[..., None], 3, axis=-1)), hog_features(grey)
    )
