"""Histograms of oriented gradients, the features of `mlp_hog` and `xgboost`."""

from __future__ import annotations

import cv2  # noqa: TID253 - this module resizes
import numpy as np
from numpy.typing import NDArray

from wafer.classifier.models import Images

__all__ = ["BLOCK", "BLOCKS", "FEATURES", "ORIENTATIONS", "hog_features"]

SIDE = 128
CELL = 16
BLOCK = 2
ORIENTATIONS = 9
BLOCKS = SIDE // CELL - BLOCK + 1
"""Blocks of cells along a side; they overlap by one cell."""
FEATURES = BLOCKS**2 * BLOCK**2 * ORIENTATIONS
"""Numbers an image, by block row and column, cell row and column in it, and orientation."""


def hog_features(images: Images) -> NDArray[np.float32]:
    """Return the features of images: a little blur against noise, 128 px, then HOG.

    Blocks of 2 x 2 cells of 16 px with 9 orientations, each block normalised (L2-Hys). An image
    without any gradient has features of zero. Source: Dalal and Triggs, CVPR 2005.

    Args:
        images: uint8, grey (N, size, size) or RGB (N, size, size, 3), which is made grey.

    Returns:
        From 0 to 1. Shape: (N, FEATURES).
    """
    from skimage.feature import hog

    features = np.empty((len(images), FEATURES), np.float32)
    for position, image in enumerate(images):
        features[position] = hog(
            _small(image), ORIENTATIONS, (CELL, CELL), (BLOCK, BLOCK), block_norm="L2-Hys"
        )
    return features


def _small(image: Images) -> Images:
    grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    calm = cv2.GaussianBlur(grey, (3, 3), 0)
    small = cv2.resize(calm, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return small.astype(np.uint8, copy=False)
