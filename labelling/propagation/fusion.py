"""Boxes of several views, or of several teachers, that mean the same place become one.

A small weighted box fusion (Solovyev et al., "Weighted boxes fusion", 2021) without its boxes that
drift: members are matched to the highest-scoring box of a place, one of each view.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["FUSE_IOU", "MOST", "Cluster", "fuse", "pairwise_iou"]

FUSE_IOU = 0.55
MOST = 20
"""Clusters of an image that are kept, the highest first."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Cluster:
    """One place in an image.

    ``box`` is the mean of the members' corners, weighted by score, in pixels of the original.
    ``score`` is the sum of the members' scores over the number of sources, so that a source that
    does not see it counts as 0; ``votes`` the share of sources that see it, ``spread`` is 1 - mean
    IoU of members and box, ``extra`` the means of what came with each member.
    """

    box: tuple[float, float, float, float]
    score: float
    votes: float
    spread: float
    extra: tuple[float, ...] = field(default=())


def pairwise_iou(boxes: NDArray[np.floating], others: NDArray[np.floating]) -> Floats:
    """Return the IoU of every box with every other. Shapes: (n, 4), (m, 4) -> (n, m)."""
    one, two = boxes.astype(np.float64)[:, None], others.astype(np.float64)[None]
    low, high = np.maximum(one[..., :2], two[..., :2]), np.minimum(one[..., 2:], two[..., 2:])
    shared = np.clip(high - low, 0, None).prod(axis=-1)
    areas = [np.clip(b[..., 2:] - b[..., :2], 0, None).prod(axis=-1) for b in (one, two)]
    union = areas[0] + areas[1] - shared
    overlap: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return overlap


def fuse(
    boxes: NDArray[np.floating],
    scores: NDArray[np.floating],
    sources: NDArray[np.integer],
    *,
    number: int,
    extra: NDArray[np.floating] | None = None,
) -> tuple[Cluster, ...]:
    """Return the clusters of boxes from several sources, the highest score first.

    Args:
        boxes: corners in pixels. Shape (n, 4).
        scores: 0 to 1. Shape (n,).
        sources: which view or teacher each is from, 0 to ``number`` - 1. Shape (n,).
        number: of sources, those that see nothing included.
        extra: what else is averaged over members. Shape (n, k).
    """
    order = np.argsort(-scores, kind="stable")
    boxes, scores, sources = boxes[order], scores[order], sources[order]
    more = np.zeros((len(order), 0)) if extra is None else extra[order]
    overlap = pairwise_iou(boxes, boxes) >= FUSE_IOU
    free = np.ones(len(order), bool)
    clusters: list[Cluster] = []
    for seed in range(len(order)):
        if not free[seed] or len(clusters) == MOST:
            continue
        near = np.flatnonzero(free & overlap[seed])
        near = near[np.argsort(near != seed, kind="stable")]
        _, first = np.unique(sources[near], return_index=True)
        members = near[first]
        free[near] = False
        clusters.append(_cluster(boxes[members], scores[members], number, more[members]))
    return tuple(sorted(clusters, key=lambda cluster: -cluster.score))


def _cluster(
    boxes: NDArray[np.floating],
    scores: NDArray[np.floating],
    number: int,
    extra: NDArray[np.floating],
) -> Cluster:
    weights = scores + 1e-9
    box = np.average(boxes, axis=0, weights=weights)
    xmin, ymin, xmax, ymax = (float(value) for value in box)
    return Cluster(
        box=(xmin, ymin, xmax, ymax),
        score=float(scores.sum() / number),
        votes=len(boxes) / number,
        spread=float(1 - pairwise_iou(box[None], boxes).mean()),
        extra=tuple(float(value) for value in np.average(extra, axis=0, weights=weights)),
    )
