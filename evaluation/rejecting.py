"""Whether an image is like anything that a model was taught: the decision ``unknown``.

A score says how unlike an image is to what is known, and a threshold for each class which scores
are too much: those that at most one in twenty validation images of the class has. Every image is
judged by itself, so no decision depends on the other images of its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from wafer.evaluation.calibration import Answer
from wafer.evaluation.unknown import (
    RANKS,
    OpenMax,
    RelativeMahalanobis,
    fit_conformal,
    fit_openmax,
    fit_relative_mahalanobis,
    unit_length,
)

__all__ = [
    "LEVEL",
    "METHODS",
    "UNKNOWN_REASON",
    "Known",
    "Method",
    "Rejection",
    "Seen",
    "fit_known",
    "kept_images",
    "rejection_by",
    "scores_by",
]

Method = Literal["softmax", "openmax", "nn", "mahalanobis"]
METHODS: tuple[Method, ...] = get_args(Method)

LEVEL = 0.05
"""Share of the images of known classes that may be rejected."""
MOST_OF_A_CLASS = 300
"""So many training images of a class are kept; more cost time and room."""
UNKNOWN_REASON = "unlike any class"

SMALLEST = 1e-30  # below it a probability in float32 loses its digits

Floats = NDArray[np.floating]
Labels = NDArray[np.int64]
Score = Callable[[float, Floats, Floats], float]
"""Of one image, from the confidence of its answer, its scores, shape (classes,), and its features:
the larger, the less known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a model gave for some images.

    ``answered`` are positions of the classes that it answered, ``confidence`` belongs to these
    answers, both of shape (N,). ``scores`` has shape (N, classes): calibrated probabilities of a
    classifier, scores of a detector. ``features`` have length 1, shape (N, features).
    """

    answered: Labels
    confidence: NDArray[np.float64]
    scores: NDArray[np.float32]
    features: NDArray[np.float32]

    @classmethod
    def of(cls, probabilities: Floats, features: Floats) -> Seen:
        """Return what a classifier gave: its answer is the most probable class."""
        single = probabilities.astype(np.float32)
        return cls(
            answered=single.argmax(axis=1),
            confidence=single.max(axis=1).astype(np.float64),
            scores=single,
            features=features.astype(np.float32),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is kept of training images, and the thresholds that follow from validation images.

    ``labels`` are positions of their true classes, shape (N,), ``features`` and ``scores`` as in
    ``Seen``; ``thresholds`` has for each method that the model offers the score of each class above
    which an answer is rejected, shape (classes,), infinite where there were too few validation
    images to reject any, and for OpenMax where the class has no tail.
    """

    labels: Labels
    features: NDArray[np.float32]
    scores: NDArray[np.float32]
    thresholds: Mapping[Method, NDArray[np.float64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """A method at work."""

    method: Method
    thresholds: NDArray[np.float64]
    score: Score

    def judge(self, answer: Answer, scores: Floats, features: Floats, *, label: int) -> Answer:
        """Return the answer, ``unknown`` where the image is unlike the images of any class.

        It never makes an answer automatic that was not, so an automatic "no defect" keeps obeying
        the limit for killer classes.

        Args:
            answer: about the image.
            scores: of the classes, shape (classes,).
            features: shape (features,).
            label: position of the answered class.
        """
        if self.score(answer.confidence, scores, features) <= self.thresholds[label]:
            return answer
        return answer._replace(decision="unknown", reason=UNKNOWN_REASON)


def kept_images(labels: Labels, *, seed: int) -> Labels:
    """Return the positions of the training images that are kept, in their order.

    Args:
        labels: positions of their classes, shape (N,).
        seed: decides which images of a large class are kept.
    """
    random = np.random.default_rng(seed)
    parts = []
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        parts.append(members[:MOST_OF_A_CLASS])
    return np.sort(np.concatenate(parts))


def fit_known(
    train: Seen,
    labels: Labels,
    *,
    val: Seen,
    classes: int,
    methods: Sequence[Method] = METHODS,
    level: float = LEVEL,
) -> Known:
    """Keep what is needed to tell unknown images, and fit the thresholds of all methods.

    Args:
        train: training images, without augmentation, as `kept_images` chooses them.
        labels: positions of their true classes, shape (N,).
        val: images that were not trained on; the class that is answered decides whose threshold
            they help to find.
        classes: how many there are.
        methods: those the model offers; OpenMax wants probabilities.
        level: share of them that may be rejected.

    Raises:
        ValueError: scores or features that are no numbers.
    """
    for seen in (train, val):
        if not (np.isfinite(seen.scores).all() and np.isfinite(seen.features).all()):
            raise ValueError("the model gives features or scores that are no numbers")
    # As they are stored, so that a score is the same when they are read again.
    features = train.features.astype(np.float16).astype(np.float32)
    known = Known(labels=labels, features=features, scores=train.scores, thresholds={})
    thresholds = {
        method: fit_conformal(
            scores_by(method, known, val), val.answered, classes=classes, level=level
        ).thresholds(level)
        for method in methods
    }
    if "openmax" in thresholds:
        # The pooled threshold is of classes with a tail; an answer of one without is not doubted.
        thresholds["openmax"][np.isnan(_openmax(known).shape)] = np.inf
    return replace(known, thresholds=thresholds)


def rejection_by(method: Method, known: Known) -> Rejection:
    """Return a method with its thresholds, ready to judge."""
    return Rejection(
        method=method, thresholds=known.thresholds[method], score=_score_by(method, known)
    )


def scores_by(method: Method, known: Known, seen: Seen) -> NDArray[np.float64]:
    """Return the score of each image, shape (N,): the larger, the less known."""
    score = _score_by(method, known)
    rows = zip(seen.confidence.tolist(), seen.scores, seen.features, strict=True)
    return np.array([score(*row) for row in rows])


def _score_by(method: Method, known: Known) -> Score:
    match method:
        case "softmax":
            return _improbable
        case "openmax":
            return partial(_doubt, _openmax(known))
        case "nn":
            return partial(_far, unit_length(known.features).astype(np.float32))
        case "mahalanobis":
            features = unit_length(known.features)
            return partial(_outlying, fit_relative_mahalanobis(features, known.labels))


def _improbable(confidence: float, _scores: Floats, _features: Floats) -> float:
    return 1 - confidence


def _doubt(fitted: OpenMax, _confidence: float, scores: Floats, _features: Floats) -> float:
    return float(fitted.probabilities(_activations(scores[None]))[0, -1])


def _far(known: Floats, _confidence: float, _scores: Floats, features: Floats) -> float:
    return 1 - float((known @ unit_length(features[None])[0].astype(np.float32)).max())


def _outlying(
    fitted: RelativeMahalanobis, _confidence: float, _scores: Floats, features: Floats
) -> float:
    return float(fitted.distance(unit_length(features[None]))[0])


def _openmax(known: Known) -> OpenMax:
    activations = _activations(known.scores)
    return fit_openmax(activations, known.labels, ranks=min(RANKS, activations.shape[1]))


def _activations(probabilities: Floats) -> NDArray[np.float64]:
    """Return logits whose softmax these are, with a mean of 0: what all engines agree on."""
    logarithms = np.log(np.maximum(probabilities.astype(np.float64), SMALLEST))
    return np.asarray(logarithms - logarithms.mean(axis=1, keepdims=True))
