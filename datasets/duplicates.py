"""Groups of images that look the same: copies, other encodings, the same place taken twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2  # noqa: TID253
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

__all__ = ["DISTANCE", "near_duplicates", "perceptual_hash"]

SIDE = 64
BITS = 16 * 16
# Of 1,036,080 pairs of different steel images none is nearer than 26 bits; half of the copies at
# JPEG quality 50, brighter by 15 %, or with noise of 5 levels are within 7.
DISTANCE = 24
ROWS = 2048


def perceptual_hash(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return 256 bits that are alike for images that look alike.

    The signs about their median of the 16 x 16 lowest frequencies (the constant left out) of the
    cosine transform of the image at 64 x 64 pixels (pHash, Zauner 2010, section 3.2.1, with 256
    bits instead of 64).

    Args:
        image: grey. Shape (height, width).
    """
    small = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:16, :16].ravel()
    low[0] = 0.0
    bits: NDArray[np.bool_] = low > np.median(low[1:])
    bits[0] = False
    return bits


def near_duplicates(
    images: Sequence[str], *, load: Callable[[str], NDArray[np.uint8]], distance: int = DISTANCE
) -> dict[str, str]:
    """Return a group for each image that has a near-duplicate, named after its first image.

    Images belong together when a chain of pairs within ``distance`` bits joins them. 10,000 images
    take two seconds besides the loading.

    Args:
        images: their names.
        load: returns the grey pixels of an image, shape (height, width); called from threads.
        distance: greatest number of differing bits of two near-duplicates, 0 to 256.
    """
    if not images:
        return {}
    with ThreadPoolExecutor() as pool:
        hashes = list(pool.map(lambda name: perceptual_hash(load(name)), images))
    labels = _components(np.array(hashes).reshape(-1, BITS), distance)
    sizes = np.bincount(labels, minlength=1)
    first: dict[int, str] = {}
    return {
        name: first.setdefault(int(label), name)
        for name, label in zip(images, labels, strict=True)
        if sizes[label] > 1
    }


def _components(hashes: NDArray[np.bool_], distance: int) -> NDArray[np.int32]:
    """Return the number of each image's component. Shape of ``hashes``: (images, bits)."""
    signs = hashes.astype(np.float32) * 2 - 1  # the product counts equal bits minus differing ones
    rows: list[NDArray[np.int64]] = []
    columns: list[NDArray[np.int64]] = []
    for start in range(0, len(signs), ROWS):
        near = np.argwhere(signs[start : start + ROWS] @ signs.T >= BITS - 2 * distance)
        rows.append(near[:, 0] + start)
        columns.append(near[:, 1])
    row, column = np.concatenate(rows), np.concatenate(columns)
    pairs = coo_array((np.ones(len(row), bool), (row, column)), shape=(len(signs), len(signs)))
    labels: NDArray[np.int32] = connected_components(pairs, directed=False)[1]
    return labels
