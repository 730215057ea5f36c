"""Image weights: images of rare and badly detected classes are drawn more often.

Three ways to weigh. ``yolov5`` is the formula of YOLOv5 v7.0 (``labels_to_class_weights``,
``labels_to_image_weights`` and the start of each epoch in ``train.py``); ``effective`` takes the
effective number of samples (Cui et al., arXiv:1901.05555) instead of the number of boxes;
``rfs`` is repeat-factor sampling (Gupta et al., LVIS, arXiv:1908.03195).

Two things are different from YOLOv5 on purpose. There an image without boxes has weight zero and
is never drawn again; here images without boxes keep the share of the draws that they have of the
data, because they are what teaches a detector to stay silent. And no image is drawn more often
than ``CAP`` times as often as in the data, because the few images of a class that is never found
would else fill the epoch and be learnt by heart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CAP",
    "MODES",
    "Mode",
    "class_weights",
    "draw_epoch",
    "draw_partners",
    "epoch_length",
    "image_probabilities",
    "instance_counts",
    "repeat_factors",
    "smooth_maps",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

Mode = Literal["yolov5", "rfs", "effective"]
MODES: tuple[Mode, ...] = get_args(Mode)

CAP = 10.0
"""How often one image is drawn at most, on average, that is drawn once without weights."""
NEWEST = 0.5
"""Weight of the newest validation in the running mean of the AP."""

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


def class_weights(counts: Ints, *, mode: Literal["yolov5", "effective"] = "yolov5") -> Floats:
    """Return the weight of one box of each class, scaled to sum 1.

    ``yolov5``: one over the number n of boxes of the class (``labels_to_class_weights``).
    ``effective``: one over the effective number ``(1 - b^n) / (1 - b)`` with ``b = 1 - 1/N`` for N
    boxes in all, which is milder towards frequent classes. A class without a box counts as one.
    """
    totals = np.maximum(counts.sum(axis=0), 1)
    if mode == "effective":
        repeat = 1 - 1 / totals.sum()
        weights = (1 - repeat) / (1 - repeat**totals)
    else:
        weights = 1 / totals
    return np.asarray(weights / weights.sum(), np.float64)


def repeat_factors(counts: Ints) -> Floats:
    """Return how often repeat-factor sampling repeats each image, at least 1.

    A class in the share f of the images has the factor ``max(1, sqrt(t / f))``, an image the
    largest factor of its classes. LVIS has t = 0.001 for its 1,203 classes; with the few classes
    of a fab t is the median of f, so that the rarer half is repeated.

    Args:
        counts: boxes of each class in each image. Shape: (images, classes).

    Returns:
        Factors. Shape: (images,).

    Example:
        >>> repeat_factors(np.array([[1, 0, 0]] * 8 + [[0, 1, 0]] * 8 + [[0, 0, 1]] * 2))[-1].item()
        2.0
    """
    shown = counts > 0
    frequencies = shown.mean(axis=0)
    present = frequencies > 0
    factors = np.ones(counts.shape[1])
    if present.any():
        threshold = np.median(frequencies[present])
        factors[present] = np.maximum(1, np.sqrt(threshold / frequencies[present]))
    return np.asarray(np.where(shown, factors, 1.0).max(axis=1, initial=1.0), np.float64)


def image_probabilities(
    counts: Ints, maps: Floats | None = None, *, mode: Mode = "yolov5", cap: float | None = CAP
) -> Floats:
    """Return the probability that a draw takes each image.

    In the modes ``yolov5`` and ``effective`` the weight of an image is the sum over its boxes of
    ``class weight x (1 - AP)^2``; in the mode ``rfs`` it is its repeat factor. The images without
    boxes share their part of the data evenly.

    Args:
        counts: boxes of each class in each image. Shape: (images, classes).
        maps: AP50-95 of each class, 0 to 1; None before the first validation. Where it leaves no
            image any weight (every AP is 1) it is ignored. Not used by ``rfs``.
        mode: one of ``MODES``.
        cap: no image with a box gets more than ``cap`` over the number of images; what is cut off
            goes to the others in proportion. At least 1; None is YOLOv5's, without a cap.

    Returns:
        Probabilities that sum to 1. Shape: (images,).
    """
    background = counts.sum(axis=1) == 0
    share = background.mean()
    probabilities = np.where(background, 1 / len(counts), 0.0)
    if share < 1:
        weights = _weights(counts[~background], maps, mode)
        foreground = weights / weights.sum() * (1 - share)
        if cap is not None:
            foreground = _capped(foreground, limit=cap / len(counts))
        probabilities[~background] = foreground
    return probabilities


def _weights(counts: Ints, maps: Floats | None, mode: Mode) -> Floats:
    if mode == "rfs":
        return repeat_factors(counts)
    static = class_weights(counts, mode=mode)
    weights = counts @ (static if maps is None else static * (1 - maps) ** 2)
    return np.asarray(weights if weights.sum() > 0 else counts @ static, np.float64)


def _capped(probabilities: Floats, *, limit: float) -> Floats:
    """Cut probabilities at a limit and give the rest to those below it, in proportion."""
    total = probabilities.sum()
    capped = np.zeros(len(probabilities), bool)
    result = probabilities
    while (over := (result > limit * (1 + 1e-12)) & ~capped).any():
        capped |= over
        others = probabilities[~capped].sum()
        left = total - limit * capped.sum()
        if others <= 0:  # the images below the limit have no weight at all: they share evenly
            rest = np.full(len(result), left / max((~capped).sum(), 1))
        else:
            rest = probabilities * (left / others)
        result = np.where(capped, limit, rest)
    return result


def smooth_maps(previous: Floats | None, measured: Floats) -> Floats:
    """Return the running mean of the AP of each class after one more validation.

    The AP of a rare class jumps from one validation to the next, and squared it would make the
    draw jump with it. Shape: (classes,).
    """
    if previous is None:
        return measured
    return np.asarray(NEWEST * measured + (1 - NEWEST) * previous, np.float64)


def epoch_length(counts: Ints, *, mode: Mode | None) -> int:
    """Return how many images an epoch shows: as many as there are, more with repeat factors.

    Repeat-factor sampling repeats images and leaves none out, so that its epoch is longer by the
    mean factor. YOLOv5's image weights keep the length.
    """
    shown = counts[counts.sum(axis=1) > 0]
    if mode != "rfs" or len(shown) == 0:
        return len(counts)
    return math.ceil(len(counts) * float(repeat_factors(shown).mean()) - 1e-9)


def draw_epoch(length: int, *, seed: int, epoch: int, probabilities: Floats | None) -> Ints:
    """Return which images an epoch shows, in order; a pure function of its arguments.

    Without probabilities every image comes once, shuffled, and ``length`` is their number. With
    them an image of probability p comes ``length x p`` times, rounded up or down at random
    (systematic resampling in random order). YOLOv5 draws each position by itself: the same on
    average, but by chance it leaves out even an image that should come three times (once in 20
    epochs).
    """
    random = np.random.default_rng((seed, epoch, EPOCH_STREAM))
    if probabilities is None:
        return random.permutation(length)
    order = random.permutation(len(probabilities))
    positions = (np.arange(length) + random.random()) / length
    cumulative = np.cumsum(probabilities[order])
    found = np.searchsorted(cumulative, positions * cumulative[-1], side="right")
    return random.permutation(order[np.minimum(found, len(order) - 1)])


def draw_partners(cumulative: Floats, number: int, *, random: np.random.Generator) -> list[int]:
    """Draw partners by cumulative probabilities, one an image. Shape: (images,)."""
    positions = random.random(number) * cumulative[-1]
    found = np.searchsorted(cumulative, positions, side="right")
    return [int(index) for index in np.minimum(found, len(cumulative) - 1)]
