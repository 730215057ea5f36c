"""Scores of how unlike an image is to all that a model was taught, and what they prove.

All of them look at one image at a time: no answer depends on the other images of its batch.
Features are what the last layer of a network is given, shape (N, features).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "RANKS",
    "Conformal",
    "OpenMax",
    "RelativeMahalanobis",
    "fit_conformal",
    "fit_openmax",
    "fit_relative_mahalanobis",
    "nearest_distance",
    "unit_length",
]

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

FEWEST = 5
"""A class with fewer right training images has no OpenMax tail."""
TAIL = 20
TAIL_SHARE = 0.1
RANKS = 3


@dataclass(frozen=True, slots=True)
class OpenMax:
    """A fitted OpenMax.

    ``means`` are mean logits of each class, shape (classes, classes); ``shape`` and ``scale`` the
    Weibull distribution of the largest distances to them, shape (classes,), NaN for a class with
    too few images, whose answers it never doubts. ``ranks`` classes are doubted, the best most.
    """

    means: Floats
    shape: Floats
    scale: Floats
    ranks: int

    def probabilities(self, logits: Floats) -> Floats:
        """Return the probability of each class, and in the last column that of none of them.

        Args:
            logits: shape (N, classes).

        Returns:
            Rows sum to 1. Shape: (N, classes + 1).
        """
        from scipy.special import softmax
        from scipy.stats import weibull_min

        distances = np.linalg.norm(logits[:, None] - self.means[None], axis=2)
        with np.errstate(invalid="ignore"):
            beyond = np.nan_to_num(weibull_min.cdf(distances, self.shape, scale=self.scale))
        rank = np.argsort(np.argsort(-logits, axis=1, kind="stable"), axis=1)
        doubt = np.clip((self.ranks - rank) / self.ranks, 0, None) * beyond
        unknown = (logits * doubt).sum(axis=1, keepdims=True)
        return np.asarray(softmax(np.hstack([logits * (1 - doubt), unknown]), axis=1))


def fit_openmax(logits: Floats, labels: Labels, *, ranks: int = RANKS) -> OpenMax:
    """Fit OpenMax to the training images that are answered rightly.

    The distance is Euclid's between logits; a Weibull distribution is fitted to a tenth of a
    class's distances, the largest, at least 5 and at most 20 of them. The weight of the best class
    is 1, as in the authors' code. Source: Bendale and Boult, "Towards open set deep networks",
    CVPR 2016. As there, negative logits take from the probability of none of the classes.

    Args:
        logits: of training images. Shape: (N, classes).
        labels: positions of the true classes. Shape: (N,).
        ranks: how many of the best classes are doubted, 1 to the number of classes.

    Raises:
        ValueError: ``ranks`` out of range.
    """
    from scipy.stats import weibull_min

    classes = logits.shape[1]
    if not 1 <= ranks <= classes:
        raise ValueError(f"ranks must lie between 1 and {classes}, not {ranks}")
    right = logits.argmax(axis=1) == labels
    means = np.zeros((classes, classes))
    shape, scale = np.full(classes, np.nan), np.full(classes, np.nan)
    for position in range(classes):
        members = logits[right & (labels == position)]
        if len(members) < FEWEST:
            continue
        means[position] = members.mean(axis=0)
        distances = np.sort(np.linalg.norm(members - means[position], axis=1))
        tail = distances[-min(TAIL, max(FEWEST, int(TAIL_SHARE * len(members)))) :]
        if tail[0] > 0 and np.ptp(tail) > 0:  # else there is no distribution to fit
            shape[position], _, scale[position] = weibull_min.fit(tail, floc=0)
    return OpenMax(means, shape, scale, ranks)


def nearest_distance(known: Floats, features: Floats) -> Floats:
    """Return the cosine distance to the nearest known image, 0 to 2, shape (N,).

    Args:
        known: features of training images, at least one.
        features: of the images in question. A vector of zeros is at distance 1 from everything.
    """
    return np.asarray(1 - (unit_length(features) @ unit_length(known).T).max(axis=1))


@dataclass(frozen=True, slots=True)
class RelativeMahalanobis:
    """Fitted Gaussians: one for each class with a common covariance, and one for all images.

    ``means`` has shape (classes, features), ``centre`` (features,); ``within`` and ``overall`` are
    inverse covariances, shape (features, features).
    """

    means: Floats
    centre: Floats
    within: Floats
    overall: Floats

    def distance(self, features: Floats) -> Floats:
        """Return how much nearer an image is to all images than to its nearest class, shape (N,).

        The larger, the less it is like any class.
        """
        to_class = np.stack([_squared(features - mean, self.within) for mean in self.means])
        return np.asarray(to_class.min(axis=0) - _squared(features - self.centre, self.overall))


def fit_relative_mahalanobis(features: Floats, labels: Labels) -> RelativeMahalanobis:
    """Fit the Gaussians, the covariance within classes shrunk by Ledoit and Wolf's rule.

    The overall one is that within classes plus that of the class means. Shrunk by itself it would
    have a lower floor where images do not vary, and what lies there, unlike all of them, would
    pass for known.

    Source: Ren et al., "A simple fix to Mahalanobis distance for improving near-OOD detection",
    2021.

    Args:
        features: of training images. Shape: (N, features), N at least 2.
        labels: their classes. Shape: (N,).
    """
    from sklearn.covariance import LedoitWolf

    present = np.unique(labels)
    means = np.stack([features[labels == label].mean(axis=0) for label in present])
    of_class = means[np.searchsorted(present, labels)]
    centre = features.mean(axis=0)
    within = LedoitWolf(assume_centered=True).fit(features - of_class)
    between = (of_class - centre).T @ (of_class - centre) / len(features)
    overall = np.linalg.pinv(within.covariance_ + between, hermitian=True)
    return RelativeMahalanobis(means, centre, np.asarray(within.precision_), overall)


@dataclass(frozen=True, slots=True)
class Conformal:
    """Scores of calibration images by the class that was answered, sorted.

    ``of_class`` holds them by class, ``pooled`` all together; ``needed`` is how many a class needs
    before it is judged by its own.
    """

    of_class: tuple[Floats, ...]
    pooled: Floats
    needed: int

    def p_values(self, scores: Floats, answered: Labels) -> Floats:
        """Return how usual each score is: p = (1 + #{calibration >= score}) / (n + 1).

        Rejecting where p <= level rejects at most a share ``level`` of known images, of each class
        that has enough of its own.

        Args:
            scores: the larger, the less known. Shape: (N,).
            answered: positions of the classes answered. Shape: (N,).
        """
        found = np.empty(len(scores))
        for position in np.unique(answered):
            own = self.of_class[position]
            known = own if len(own) >= self.needed else self.pooled
            chosen = answered == position
            above = len(known) - np.searchsorted(known, scores[chosen], side="left")
            found[chosen] = (1 + above) / (len(known) + 1)
        return found

    def thresholds(self, level: float) -> Floats:
        """Return the score of each class above which p <= level, shape (classes,).

        Infinite where no score is so unusual, for want of calibration images.
        """
        found = np.full(len(self.of_class), np.inf)
        for position, own in enumerate(self.of_class):
            known = own if len(own) >= self.needed else self.pooled
            above = int(np.floor(level * (len(known) + 1) + 1e-9))
            if above >= 1:
                found[position] = known[-above]
        return found

    @property
    def few(self) -> tuple[int, ...]:
        """Return the classes that are judged by the scores of all, for want of their own."""
        return tuple(p for p, own in enumerate(self.of_class) if len(own) < self.needed)


def fit_conformal(scores: Floats, answered: Labels, *, classes: int, level: float) -> Conformal:
    """Keep the scores of images that were not trained on, class by class.

    Source: Vovk, Gammerman and Shafer, "Algorithmic learning in a random world", 2005, sections 2.2
    and 4.5 (Mondrian). A level can be reached with 1/level - 1 images or more.

    Args:
        scores: of calibration images of known classes. Shape: (N,).
        answered: positions of the classes answered. Shape: (N,).
        classes: how many there are.
        level: share of known images that may be rejected, between 0 and 1, both exclusive.

    Raises:
        ValueError: a level out of range.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level}")
    parts = tuple(np.sort(scores[answered == position]) for position in range(classes))
    return Conformal(parts, np.sort(scores), int(np.ceil(1 / level - 1 - 1e-9)))


def unit_length(vectors: NDArray[np.floating]) -> Floats:
    """Return vectors scaled to length 1, shape (N, features); zeros stay as they are."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(length > 0, length, 1), np.float64)


def _squared(vectors: Floats, inverse: Floats) -> Floats:
    return np.asarray(((vectors @ inverse) * vectors).sum(axis=1))
