"""Counts of right and wrong answers, and what follows from them.

Notation: image i of n has the true class y_i, the answer ŷ_i with confidence c_i, and
k_i = 1 where ŷ_i = y_i, else 0. A rate whose denominator is zero is None, never NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from wafer.datasets.classes import ClassTable
from wafer.evaluation.answers import Answers

__all__ = [
    "ClassRates",
    "Interval",
    "KillerRates",
    "class_rates",
    "clopper_pearson",
    "confusion_counts",
    "golden_set_size",
    "killer_rates",
    "lower_bound",
    "macro_f1",
    "mean_confidence",
    "rate",
    "weighted_accuracy",
    "weighted_f1",
]

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class ClassRates:
    """How one class fares.

    ``support`` counts its images, ``predicted`` the answers that name it. ``recall`` is what
    fabs call the accuracy of a class, ``precision`` its purity; each with its two-sided 95 %
    Clopper-Pearson interval. ``recall_lower`` is the one-sided 95 % lower bound of recall, the
    number that a golden set has to show.
    """

    support: int
    predicted: int
    precision: float | None
    recall: float | None
    f1: float | None
    precision_interval: Interval | None
    recall_interval: Interval | None
    recall_lower: float | None


@dataclass(frozen=True, slots=True)
class KillerRates:
    """What an automatic decision does to killer classes (set K), each rate None without images.

    ``escape`` = #(y in K, automatic, ŷ not in K) / #(y in K); ``dismissed`` the part of it
    answered "no defect"; ``overkill`` = #(y not in K, automatic, ŷ in K) / #(y not in K).
    ``escape_upper`` is the one-sided 95 % upper bound of ``escape``, ``images`` = #(y in K).
    """

    images: int
    escape: float | None
    escape_upper: float | None
    dismissed: float | None
    overkill: float | None


def rate(part: float, whole: float) -> float | None:
    """Return part / whole, or None when whole is 0."""
    return None if whole == 0 else float(part / whole)


def clopper_pearson(successes: int, trials: int, *, confidence: float = 0.95) -> Interval | None:
    """Return the exact two-sided interval of a proportion, None without trials.

    Source: Clopper and Pearson, Biometrika 26 (1934); bounds as quantiles of the beta
    distribution.

    Example:
        >>> low, high = clopper_pearson(8, 10)
        >>> round(low, 4), round(high, 4)
        (0.4439, 0.9748)
    """
    if trials == 0:
        return None
    tail = (1 - confidence) / 2
    failures = trials - successes
    low = 0.0 if successes == 0 else float(beta.ppf(tail, successes, failures + 1))
    high = 1.0 if failures == 0 else float(beta.ppf(1 - tail, successes + 1, failures))
    return low, high


def lower_bound(successes: int, trials: int, *, confidence: float = 0.95) -> float | None:
    """Return the exact one-sided lower bound of a proportion, None without trials.

    Example:
        >>> round(lower_bound(44, 44), 3)
        0.934
    """
    interval = clopper_pearson(successes, trials, confidence=2 * confidence - 1)
    return None if interval is None else interval[0]


def golden_set_size(target: float, *, errors: int = 0) -> int:
    """Return how many images of a class are needed to show a recall of at least ``target``.

    Shown means: with that many errors the one-sided 95 % lower bound still reaches the target.

    Args:
        target: between 0 and 1, both exclusive.
        errors: how many of the images are answered wrongly.

    Example:
        >>> golden_set_size(0.95), golden_set_size(0.95, errors=1)
        (59, 93)
    """
    low, high = errors, errors + 1
    while (lower_bound(high - errors, high) or 0.0) < target:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if (lower_bound(middle - errors, middle) or 0.0) < target:
            low = middle
        else:
            high = middle
    return high


def mean_confidence(confidence: NDArray[np.float64]) -> float | None:
    """Return the mean confidence Σc/n, which the paper calls the classification ratio."""
    return rate(float(confidence.sum()), len(confidence))


def weighted_accuracy(confidence: NDArray[np.float64], correct: NDArray[np.bool_]) -> float | None:
    """Return the paper's weighted accuracy Σck/Σc, None when no answer has any confidence.

    It equals the accuracy plus the covariance of c and k (divided by n) over the mean confidence,
    so a model whose confidence goes with being right always looks better in it.

    Example:
        >>> weighted_accuracy(np.array([1.0, 0.5, 0.5]), np.array([True, False, True]))
        0.75
    """
    return rate(float(confidence[correct].sum()), float(confidence.sum()))


def confusion_counts(
    truth: NDArray[np.int64], predicted: NDArray[np.int64], *, classes: int
) -> NDArray[np.int64]:
    """Return how often class j (column) was answered to class i (row), shape (classes, classes)."""
    pairs = np.bincount(truth * classes + predicted, minlength=classes * classes)
    return pairs.reshape(classes, classes).astype(np.int64)


def class_rates(counts: NDArray[np.int64]) -> tuple[ClassRates, ...]:
    """Return the rates of every class from a confusion matrix of shape (classes, classes)."""
    right = np.diagonal(counts).tolist()
    support = counts.sum(axis=1).tolist()
    predicted = counts.sum(axis=0).tolist()
    return tuple(
        ClassRates(
            support=s,
            predicted=p,
            precision=rate(r, p),
            recall=rate(r, s),
            f1=rate(2 * r, s + p),
            precision_interval=clopper_pearson(r, p),
            recall_interval=clopper_pearson(r, s),
            recall_lower=lower_bound(r, s),
        )
        for r, s, p in zip(right, support, predicted, strict=True)
    )


def macro_f1(rates: Sequence[ClassRates]) -> float | None:
    """Return the mean F1 of the classes that occur in the truth or among the answers."""
    values = [r.f1 for r in rates if r.f1 is not None]
    return rate(sum(values), len(values))


def weighted_f1(rates: Sequence[ClassRates]) -> float | None:
    """Return the mean F1 weighted by the number of images of each class."""
    return rate(sum((r.f1 or 0.0) * r.support for r in rates), sum(r.support for r in rates))


def killer_rates(answers: Answers, *, classes: ClassTable) -> KillerRates:
    """Return how often automatic answers let killer classes through, or name them wrongly."""
    killers = np.array([defect.killer for defect in classes])
    nones = np.array([defect.kind == "none" for defect in classes])
    killer, named = killers[answers.truth], killers[answers.predicted]
    images = int(killer.sum())
    escaped = int((killer & ~named & answers.automatic).sum())
    dismissed = int((killer & nones[answers.predicted] & answers.automatic).sum())
    overkill = int((~killer & named & answers.automatic).sum())
    kept = lower_bound(images - escaped, images)
    return KillerRates(
        images=images,
        escape=rate(escaped, images),
        escape_upper=None if kept is None else 1 - kept,
        dismissed=rate(dismissed, images),
        overkill=rate(overkill, len(killer) - images),
    )
