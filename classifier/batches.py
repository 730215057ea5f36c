"""Which images a step of training sees, and how they are changed for it."""

from __future__ import annotations

import cv2  # noqa: TID253 - this module turns and shifts images
import numpy as np
from numpy.typing import NDArray

from wafer.classifier.models import Images, Sampler

__all__ = ["augmented", "drawn_images", "stratified_batches"]

TURN = 15.0
"""Largest rotation in degrees, either way."""
SHIFT = 0.06
"""Largest translation as a share of the side, either way."""
BRIGHTNESS = 0.2
"""Grey levels are multiplied by 1 - BRIGHTNESS to 1 + BRIGHTNESS."""
MOST_REPEATS = 10
"""How often a balanced epoch shows the same image at most."""


def drawn_images(
    labels: NDArray[np.int64], *, sampler: Sampler, random: np.random.Generator
) -> NDArray[np.int64]:
    """Return the images of an epoch.

    ``proportional`` is every image once. ``balanced`` is as many images of each class as a class
    has on average: of a larger class some, of a smaller one all, several times, but no image more
    than ten times. How many there are does not depend on chance.

    Args:
        labels: shape (N,).
        sampler: ``proportional`` or ``balanced``.
        random: decides which images of a larger class are drawn.

    Returns:
        Positions of images, by class.
    """
    if sampler == "proportional":
        return np.arange(len(labels))
    classes = np.unique(labels)
    share = -(-len(labels) // len(classes))
    drawn = []
    for label in classes:
        members = np.flatnonzero(labels == label)
        number = min(share, MOST_REPEATS * len(members))
        rounds = [random.permutation(members) for _ in range(-(-number // len(members)))]
        drawn.append(np.concatenate(rounds)[:number])
    return np.concatenate(drawn)


def stratified_batches(
    labels: NDArray[np.int64], *, batch: int, random: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Return all images once, in batches that hold each class in proportion.

    The images of a class are spread evenly over the epoch, from a random start: a class of n
    images in an epoch of b batches is in nearly every batch where n is at least b.

    Args:
        labels: shape (N,).
        batch: the smallest batch; a remainder is shared out among the batches. At least 1.
        random: decides the order.

    Returns:
        Positions of images, each batch in random order.
    """
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        place[members] = (np.arange(len(members)) + random.random()) / len(members)
    batches = np.array_split(np.argsort(place, kind="stable"), max(1, len(labels) // batch))
    return [random.permutation(each) for each in batches]


def augmented(images: Images, *, still: bool, random: np.random.Generator) -> Images:
    """Return images turned, shifted, mirrored and made darker or brighter by chance.

    What a turn or a shift leaves empty is filled with the mirrored image.

    Args:
        images: uint8, shape (N, size, size) or (N, size, size, 3); left as they are.
        still: neither turn nor shift. So it has to be where a class is a matter of the geometry of
            the whole frame: that defect would be erased from its images, and made in all others.
        random: decides everything.
    """
    changed = np.empty_like(images)
    for position, image in enumerate(images):
        angle, right, down, gain = random.uniform(-1, 1, size=4)
        moved = image
        if not still:
            side = image.shape[0]
            turn = cv2.getRotationMatrix2D((side / 2, side / 2), angle * TURN, 1.0)
            turn[:, 2] += np.array([right, down]) * SHIFT * side
            moved = cv2.warpAffine(image, turn, (side, side), borderMode=cv2.BORDER_REFLECT_101)
        if random.random() < 0.5:
            moved = moved[:, ::-1]
        changed[position] = np.clip(moved * (1 + gain * BRIGHTNESS), 0, 255)
    return changed
