"""What made a model decide: where grey squares over the image take its score away.

Source: Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", 2014, section
4.2.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from wafer.inference.preprocess import PADDING, Letterboxed
from wafer.inference.records import Engine

__all__ = ["heat_map"]

SQUARES = 8
"""Squares along a side of the input; each next one is half a square further on."""
COPIES = 32
"""Occluded copies a call of the engine."""


def heat_map(
    engine: Engine, pixels: Letterboxed, *, label: int, score: float
) -> NDArray[np.float32]:
    """Return by how much the score of a class falls where a grey square hides a place.

    For a pixel it is the mean over the squares that cover it, 0 where the score would rise. About
    225 copies of a square image go through the network.

    Args:
        engine: the model.
        pixels: the image as the network sees it.
        label: position of the class in the scores of the engine.
        score: that of the whole image for the class.

    Returns:
        The part of the input that is the image, without padding. Shape: (height, width) of
        ``resized_size``.
    """
    width, height = pixels.resized_size
    side = max(1, pixels.image.shape[0] // SQUARES)
    heat = np.zeros((height, width))
    covered = np.zeros((height, width))
    places = list(product(_starts(height, side), _starts(width, side)))
    for some in (places[start : start + COPIES] for start in range(0, len(places), COPIES)):
        copies = np.repeat(pixels.image[None], len(some), axis=0)
        for copy, (top, left) in zip(copies, some, strict=True):
            image = copy[pixels.pad_top :, pixels.pad_left :][:height, :width]
            image[top : top + side, left : left + side] = PADDING
        scores = engine.infer(copies).scores[:, label]
        for (top, left), now in zip(some, scores, strict=True):
            heat[top : top + side, left : left + side] += score - now
            covered[top : top + side, left : left + side] += 1
    return np.maximum(heat / covered, 0).astype(np.float32)


def _starts(length: int, side: int) -> list[int]:
    """Return where squares begin that cover a length, the last one at its end."""
    last = max(0, length - side)
    return sorted({*range(0, last, max(1, side // 2)), last})
