"""CutMix: a piece of one image in another, which cuts no defect whose box is known.

Source: Yun et al., 2019, https://arxiv.org/abs/1905.04899; that a piece may not touch a known box
is ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["Boxes", "cutmix"]

Boxes = NDArray[np.float64]
"""Corners xmin, ymin, xmax, ymax in pixels of the input, shape (boxes, 4)."""

TRIES = 10
"""Pieces that are drawn before an image stays as it is."""

Piece = tuple[int, int, int, int]
Shares = NDArray[np.float32]


def cutmix(
    images: NDArray[np.uint8],
    shares: Shares,
    boxes: Sequence[Boxes | None],
    whole_image: NDArray[np.bool_],
    *,
    probability: float,
    random: np.random.Generator,
) -> tuple[NDArray[np.uint8], Shares]:
    """Return images of which some hold a piece of another one, and what each shows.

    A piece covers the whole of every known defect of the image it is cut from, and touches no known
    defect of the one it is put into; where ten pieces drawn by chance all do, the image stays as it
    is. An image counts with the part of it that is left: all of a known defect, else its share of
    the area. Where a known defect is seen nothing is left of "no defect".

    Args:
        images: uint8, shape (N, size, size) or (N, size, size, 3); left as they are.
        shares: how much each image shows of each class, from 0 to 1, shape (N, classes).
        boxes: the known defects of each image; without a row where it is known to have none, None
            where nobody knows.
        whole_image: images whose class is a matter of the whole frame, shape (N,): they are neither
            cut nor pasted.
        probability: that an image gets a piece of another, 0 to 1.
        random: decides everything.
    """
    changed, mixed = images.copy(), shares.copy()
    for host, donor in enumerate(random.permutation(len(images))):
        wanted = random.random() < probability
        if not wanted or host == donor or whole_image[host] or whole_image[donor]:
            continue
        piece = _piece(images.shape[1], boxes[host], boxes[donor], random)
        if piece is None:
            continue
        left, top, right, bottom = piece
        changed[host, top:bottom, left:right] = images[donor, top:bottom, left:right]
        area = (right - left) * (bottom - top) / images.shape[1] ** 2
        kept = _kept(boxes[host], boxes[donor], 1 - area)
        pasted = _kept(boxes[donor], boxes[host], area)
        mixed[host] = (kept * shares[host] + pasted * shares[donor]) / (kept + pasted)
    return changed, mixed


def _piece(
    side: int, host: Boxes | None, donor: Boxes | None, random: np.random.Generator
) -> Piece | None:
    """Return left, top, right and bottom of a piece that fits, None where none was found."""
    for _ in range(TRIES):
        if donor is None or len(donor) == 0:
            piece = _anywhere(side, random)
        else:
            piece = _around(donor, side, random)
        left, top, right, bottom = piece
        empty = left >= right or top >= bottom
        whole = (left, top, right, bottom) == (0, 0, side, side)
        if not (empty or whole or _touches(piece, host)):
            return piece
    return None


def _anywhere(side: int, random: np.random.Generator) -> Piece:
    """Return a piece of the paper: its area is uniform, its middle anywhere, cut at the frame."""
    half = side * np.sqrt(random.random()) / 2
    middle = random.uniform(0, side, size=2)
    left, top = np.maximum(middle - half, 0).astype(int)
    right, bottom = np.minimum(middle + half, side).astype(int)
    return int(left), int(top), int(right), int(bottom)


def _around(boxes: Boxes, side: int, random: np.random.Generator) -> Piece:
    """Return a piece that covers all boxes and reaches some way to the edges of the frame."""
    low = np.clip(np.floor(boxes[:, :2].min(axis=0)), 0, side)
    high = np.clip(np.ceil(boxes[:, 2:].max(axis=0)), 0, side)
    reach = random.random(4) * random.random()
    left, top = np.floor(low * (1 - reach[:2])).astype(int)
    right, bottom = np.ceil(high + (side - high) * reach[2:]).astype(int)
    return int(left), int(top), int(right), int(bottom)


def _touches(piece: Piece, boxes: Boxes | None) -> bool:
    if boxes is None or len(boxes) == 0:
        return False
    left, top, right, bottom = piece
    across = (boxes[:, 0] < right) & (boxes[:, 2] > left)
    down = (boxes[:, 1] < bottom) & (boxes[:, 3] > top)
    return bool((across & down).any())


def _kept(own: Boxes | None, other: Boxes | None, area: float) -> float:
    """Return how much is left of an image of which a share of the area is seen."""
    if own is not None and len(own):
        return 1.0
    beside_a_defect = other is not None and len(other) > 0
    return 0.0 if own is not None and beside_a_defect else area
