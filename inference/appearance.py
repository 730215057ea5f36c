"""How an image looks to the network, in numbers in which a change of the tool shows."""

from __future__ import annotations

import cv2  # noqa: TID253 - this module filters
import numpy as np
from numpy.typing import NDArray

from wafer.inference.preprocess import Letterboxed
from wafer.inference.records import Appearance

__all__ = ["appearance_of", "distance_to_known"]


def appearance_of(pixels: Letterboxed) -> Appearance:
    """Return how a letterboxed image looks, without its distance.

    Example:
        >>> from wafer.inference.preprocess import letterbox
        >>> appearance_of(letterbox(np.full((20, 40), 90, np.uint8), 32))
        Appearance(brightness=90.0, sharpness=0.0, distance=None)
    """
    (width, height), left, top = pixels.resized_size, pixels.pad_left, pixels.pad_top
    shown = pixels.image[top : top + height, left : left + width]
    grey = shown if shown.ndim == 2 else cv2.cvtColor(shown, cv2.COLOR_RGB2GRAY)
    edges = cv2.Laplacian(grey, cv2.CV_32F)
    return Appearance(float(grey.mean()), float(cv2.meanStdDev(edges)[1][0, 0]))


def distance_to_known(features: NDArray[np.float32], known: NDArray[np.float32]) -> float:
    """Return Euclid's distance of features to the nearest known ones.

    Args:
        features: of an image, shape (features,).
        known: at least one row, shape (N, features).

    Example:
        >>> distance_to_known(np.float32([0, 0]), np.float32([[3, 4], [6, 8]]))
        5.0
    """
    return float(np.sqrt(np.square(known - features).sum(axis=1).min()))
