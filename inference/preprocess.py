"""From decoded pixels to the square input of a network, and boxes back again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2  # noqa: TID253 - this module resizes
import numpy as np
from numpy.typing import NDArray

from wafer.datasets.records import Box

__all__ = ["PADDING", "Letterboxed", "letterbox", "resize_long_side", "to_original"]

PADDING = 114
"""Grey level around an image that is not square; the one YOLOv5 was trained with."""

# A box of a network may lie in the padding or have no width; a record needs an area.
SMALLEST_SIDE = 1.0

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Letterboxed:
    """An image resized and padded to a square, with what leads back to the original.

    ``image`` is uint8, shape (size, size) or (size, size, 3). The resized image lies in it at
    ``pad_left``, ``pad_top`` with ``resized_size`` (width, height) pixels; ``original_size`` is
    the (width, height) before.
    """

    image: Pixels
    original_size: tuple[int, int]
    resized_size: tuple[int, int]
    pad_left: int
    pad_top: int

    @property
    def scale(self) -> tuple[float, float]:
        """Return resized / original for x and for y; rounding to whole pixels parts the two."""
        return (
            self.resized_size[0] / self.original_size[0],
            self.resized_size[1] / self.original_size[1],
        )


def resize_long_side(image: Pixels, size: int) -> Pixels:
    """Resize an image so that its longer side is ``size``, as ultralytics loads training images.

    The shorter side is rounded up; bilinear interpolation (``BaseDataset.load_image``).

    Args:
        image: shape (H, W) or (H, W, C), at least one pixel.
        size: pixels, at least 1.

    Returns:
        The image itself where its longer side is ``size`` already. Shape (h, w[, C]).
    """
    height, width = image.shape[:2]
    ratio = size / max(height, width)
    if ratio == 1:
        return image
    target = (min(math.ceil(width * ratio), size), min(math.ceil(height * ratio), size))
    return cv2.resize(image, target, interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False)


def letterbox(image: Pixels, size: int) -> Letterboxed:
    """Resize an image to ``size`` on its longer side and pad it to a square.

    Bit for bit what ultralytics does with a validation image (``BaseDataset.load_image``, then
    ``LetterBox(new_shape=(size, size), scaleup=False)``), so that a network sees at work what it
    saw when its thresholds were fitted.

    Args:
        image: uint8, shape (H, W) or (H, W, 3).
        size: side of the square in pixels, at least 1.

    Example:
        >>> boxed = letterbox(np.zeros((340, 680), np.uint8), 256)
        >>> boxed.image.shape, boxed.pad_left, boxed.pad_top, boxed.resized_size
        ((256, 256), 0, 64, (256, 128))
    """
    resized = resize_long_side(image, size)
    height, width = resized.shape[:2]
    left, top = _first_padding(size - width), _first_padding(size - height)
    square = np.full((size, size, *image.shape[2:]), PADDING, np.uint8)
    square[top : top + height, left : left + width] = resized
    return Letterboxed(
        image=square,
        original_size=(image.shape[1], image.shape[0]),
        resized_size=(width, height),
        pad_left=left,
        pad_top=top,
    )


def to_original(corners: Sequence[float] | NDArray[np.floating], letterboxed: Letterboxed) -> Box:
    """Return a box of a network in pixels of the original image, clipped to its frame.

    A side shorter than one pixel after clipping is widened to one pixel inside the frame.

    Args:
        corners: xmin, ymin, xmax, ymax in pixels of the letterboxed image.
        letterboxed: the image the network saw.

    Raises:
        ValueError: a corner is not a finite number.

    Example:
        >>> boxed = letterbox(np.zeros((340, 680), np.uint8), 256)
        >>> to_original((0, 64, 128, 128), boxed)
        Box(xmin=0.0, ymin=0.0, xmax=340.0, ymax=170.0)
    """
    left, top, right, bottom = (float(value) for value in corners)
    width, height = letterboxed.original_size
    scale_x, scale_y = letterboxed.scale
    x = [(value - letterboxed.pad_left) / scale_x for value in (left, right)]
    y = [(value - letterboxed.pad_top) / scale_y for value in (top, bottom)]
    xmin, xmax = _clip(x[0], x[1], float(width))
    ymin, ymax = _clip(y[0], y[1], float(height))
    return Box(xmin, ymin, xmax, ymax)


def _first_padding(missing: int) -> int:
    """Return the left or top share of the padding; an odd pixel goes to the other side."""
    return round(missing / 2 - 0.1)


def _clip(low: float, high: float, limit: float) -> tuple[float, float]:
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"box coordinates must be finite numbers, not {low}, {high}")
    low, high = min(max(0.0, low), limit), min(max(0.0, high), limit)
    if high - low >= SMALLEST_SIDE:
        return low, high
    start = min(max(0.0, (low + high - SMALLEST_SIDE) / 2), limit - SMALLEST_SIDE)
    return start, start + SMALLEST_SIDE
