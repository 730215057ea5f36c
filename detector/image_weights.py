"""YOLOv5's image weights: images of rare and badly detected classes are drawn more often.

The formula is that of YOLOv5 v7.0 (``labels_to_class_weights``, ``labels_to_image_weights`` and
the start of each epoch in ``train.py``). One thing is different on purpose: there an image
without boxes has weight zero and is never drawn again; here images without boxes keep the share
of the draws that they have of the data, because they are what teaches a detector to stay silent.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["class_weights", "draw_epoch", "draw_partners", "image_probabilities", "instance_counts"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Streams of random numbers that must not overlap: the draw of an epoch, and what one image of it
# (its augmentation and its mosaic partners) needs.
EPOCH_STREAM = 0
IMAGE_STREAM = 1


def instance_counts(labels: Sequence[Sequence[int]], *, classes: int) -> Ints:
    """Count the boxes of each class in each image.

    Args:
        labels: the class index of every box, one sequence an image.
        classes: the number of classes.

    Returns:
        Counts. Shape: (images, classes).

    Example:
        >>> instance_counts([[0, 0, 1], []], classes=2).tolist()
        [[2, 1], [0, 0]]
    """
    counts = np.zeros((len(labels), classes), np.int64)
    for row, image in zip(counts, labels, strict=True):
        np.add.at(row, np.asarray(image, np.int64), 1)
    return counts


def class_weights(counts: Ints) -> Floats:
    """Return one over the number of boxes of each class, scaled to sum 1.

    A class without a box counts as one, as in YOLOv5's ``labels_to_class_weights``.
    """
    totals = counts.sum(axis=0)
    weights = 1 / np.where(totals == 0, 1, totals)
    return np.asarray(weights / weights.sum(), np.float64)


def image_probabilities(counts: Ints, maps: Floats | None = None) -> Floats:
    """Return the probability that a draw takes each image.

    The weight of an image is the sum over its boxes of ``class weight x (1 - AP)^2``; the images
    without boxes share their part of the data evenly.

    Args:
        counts: boxes of each class in each image. Shape: (images, classes).
        maps: AP50-95 of each class in the last validation, 0 to 1; None before the first. Where
            it leaves no image any weight (every AP is 1) it is ignored.

    Returns:
        Probabilities that sum to 1. Shape: (images,).
    """
    static = class_weights(counts)
    weights = counts @ (static if maps is None else static * (1 - maps) ** 2)
    if weights.sum() == 0:
        weights = counts @ static
    background = counts.sum(axis=1) == 0
    share = background.mean()
    probabilities = np.zeros(len(counts))
    if share < 1:
        probabilities = weights / weights.sum() * (1 - share)
    probabilities[background] = 1 / len(counts)
    return probabilities


def draw_epoch(images: int, *, seed: int, epoch: int, probabilities: Floats | None) -> Ints:
    """Return which images an epoch shows, in order; a pure function of its arguments.

    With probabilities the images are drawn with replacement and the epoch keeps its length
    (YOLOv5); without them every image comes once, shuffled.
    """
    random = np.random.default_rng((seed, epoch, EPOCH_STREAM))
    if probabilities is None:
        return random.permutation(images)
    return random.choice(images, size=images, p=probabilities)


def draw_partners(cumulative: Floats, number: int, *, random: np.random.Generator) -> list[int]:
    """Draw partners by cumulative probabilities, one an image. Shape: (images,)."""
    positions = random.random(number) * cumulative[-1]
    found = np.searchsorted(cumulative, positions, side="right")
    return [int(index) for index in np.minimum(found, len(cumulative) - 1)]
