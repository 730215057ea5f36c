"""From the score of the best box to an answer: is there a defect at all, and should a person look.

A detector always has a best box. Its score s is turned into P(defect) by a Platt map fitted on
validation images, and P(defect) decides between the box and "no defect".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wafer.datasets.records import Box
from wafer.evaluation.records import Decision

__all__ = [
    "KILLER_LIMIT",
    "KILLER_REASON",
    "LOW_PROBABILITY",
    "LOW_PROBABILITY_REASON",
    "LOW_SCORE",
    "LOW_SCORE_REASON",
    "Answer",
    "PlattMap",
    "decide",
    "decide_class",
    "fit_platt",
    "killer_escape_limit",
]

LOW_SCORE = 0.25
LOW_SCORE_REASON = "low score"
LOW_PROBABILITY = 0.5
LOW_PROBABILITY_REASON = "low confidence"
KILLER_LIMIT = 0.01
KILLER_REASON = "killer escape limit"

# Scores come from 16-bit models too, where the last steps below 1 are 5e-4 wide.
SCORE_MARGIN = 1e-4


class Answer(NamedTuple):
    """What is said about one image; the fields are those of a ``Prediction``."""

    class_name: str
    box: Box | None
    confidence: float
    decision: Decision
    reason: str


@dataclass(frozen=True, slots=True)
class PlattMap:
    """The map from a detector's best score to the probability that there is a defect.

    P(defect) = 1 / (1 + exp(-(slope * logit(s) + intercept))), never decreasing in s.

    Raises:
        ValueError: a value that is not finite, or a slope below 0.
    """

    slope: float
    intercept: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.slope) and math.isfinite(self.intercept)):
            raise ValueError("slope and intercept must be finite numbers")
        if self.slope < 0:
            raise ValueError(f"slope must not be below 0, it is {self.slope}")

    def probability(self, score: float) -> float:
        """Return P(defect) for a score from 0 to 1.

        Example:
            >>> PlattMap(slope=1.0, intercept=0.0).probability(0.8)
            0.8
        """
        margin = min(max(score, SCORE_MARGIN), 1 - SCORE_MARGIN)
        return _logistic(self.slope * math.log(margin / (1 - margin)) + self.intercept)


def fit_platt(scores: Sequence[float], is_defect: Sequence[bool]) -> PlattMap | None:
    """Fit the map from score to P(defect) on validation images.

    A logistic regression on logit(s) with Platt's smoothed targets (N₊+1)/(N₊+2) and 1/(N₋+2),
    which keep the map finite where the scores separate perfectly. Source: Platt, "Probabilistic
    outputs for support vector machines", 1999, section 2.2.

    Args:
        scores: the best score of each image, 0 to 1.
        is_defect: whether the image shows a defect.

    Returns:
        The map; None without a defect image or without an image of no defect, where nothing can
        be fitted. Where higher scores go with fewer defects the slope is 0, and the map the
        smoothed share of defects.

    Raises:
        ValueError: a score outside 0 to 1, or sequences of different lengths.
    """
    score = np.asarray(scores, dtype=np.float64)
    defect = np.asarray(is_defect, dtype=np.bool_)
    if score.shape != defect.shape:
        raise ValueError("as many scores as images are needed")
    if not np.all((score >= 0) & (score <= 1)):
        raise ValueError("scores must lie between 0 and 1")
    if defect.all() or not defect.any():
        return None
    slope, intercept = _logistic_fit(_logit(score), _smoothed(defect))
    return PlattMap(slope=slope, intercept=intercept)


def killer_escape_limit(probabilities: Sequence[float], *, limit: float = KILLER_LIMIT) -> float:
    """Return the P(defect) from which on "no defect" must not be answered automatically.

    Below that value, which is at most 0.5, lie at most ``limit`` of the killer-class images. With
    fewer than 1/limit of them not one may lie below: then it is the lowest of their values. Without
    any nothing is known, and it is 0: a person looks at every "no defect".

    Args:
        probabilities: P(defect) of the killer-class images in validation, as low as any engine may
            give it: one that gives less than here lets the image pass.
        limit: share of them that may escape, 0 to 1.

    Example:
        >>> killer_escape_limit([0.04, 0.3, 0.9])
        0.04
        >>> killer_escape_limit([0.04, 0.3, 0.9], limit=0.4)
        0.3
    """
    if not 0 <= limit <= 1:
        raise ValueError(f"limit must lie between 0 and 1, not {limit}")
    if not probabilities:
        return 0.0
    allowed = math.floor(limit * len(probabilities) + 1e-9)
    return min([0.5, *sorted(probabilities)[allowed:]])


def decide(
    score: float,
    best_class: str,
    best_box: Box | None,
    *,
    platt: PlattMap | None,
    none_class: str | None,
    none_review_above: float | None,
) -> Answer:
    """Turn the best box of an image into the answer about the image.

    With a Platt map: below P(defect) = 0.5 the answer is "no defect" without a box and with
    confidence 1 - P(defect), otherwise the best box with its score as confidence. Without one, or
    without a class for "no defect": always the best box, for review when its score is below 0.25.

    Args:
        score: the highest class score over all boxes, 0 to 1.
        best_class: the class of that score.
        best_box: the box of that score, in pixels of the original image.
        platt: the map fitted on validation images, None where there was nothing to fit.
        none_class: the name of the class for "no defect", None where the table has none.
        none_review_above: from this P(defect) on "no defect" goes to review, as
            ``killer_escape_limit`` gives it; None where no class is a killer.
    """
    if platt is None or none_class is None:
        low = score < LOW_SCORE
        decision: Decision = "review" if low else "auto"
        return Answer(best_class, best_box, score, decision, LOW_SCORE_REASON if low else "")
    probability = platt.probability(score)
    if probability >= 0.5:
        return Answer(best_class, best_box, score, "auto", "")
    if none_review_above is not None and probability >= none_review_above:
        return Answer(none_class, None, 1 - probability, "review", KILLER_REASON)
    return Answer(none_class, None, 1 - probability, "auto", "")


def decide_class(
    probability: float,
    best_class: str,
    box: Box | None,
    *,
    none_class: str | None,
    none_review_above: float | None,
) -> Answer:
    """Turn the most probable class of a whole image into the answer about it.

    Below a probability of 0.5, where it is more likely wrong than right, it goes to review; so does
    "no defect" where it might let a killer class through.

    Args:
        probability: of the most probable class, calibrated, 0 to 1.
        best_class: that class.
        box: the full frame for a class whose label is that, else None.
        none_class: the name of the class for "no defect", None where the table has none.
        none_review_above: from this P(defect) = 1 - P("no defect") on "no defect" goes to review,
            as ``killer_escape_limit`` gives it; None where no class is a killer.
    """
    if probability < LOW_PROBABILITY:
        return Answer(best_class, box, probability, "review", LOW_PROBABILITY_REASON)
    none = best_class == none_class
    if none and none_review_above is not None and 1 - probability >= none_review_above:
        return Answer(best_class, box, probability, "review", KILLER_REASON)
    return Answer(best_class, box, probability, "auto", "")


def _logit(score: NDArray[np.float64]) -> NDArray[np.float64]:
    margin = np.clip(score, SCORE_MARGIN, 1 - SCORE_MARGIN)
    return np.log(margin / (1 - margin))


def _logistic(value: float) -> float:
    if value >= 0:
        return 1 / (1 + math.exp(-value))
    return math.exp(value) / (1 + math.exp(value))  # exp(-value) would overflow


def _smoothed(defect: NDArray[np.bool_]) -> NDArray[np.float64]:
    positive = int(defect.sum())
    negative = len(defect) - positive
    return np.where(defect, (positive + 1) / (positive + 2), 1 / (negative + 2))


def _logistic_fit(feature: NDArray[np.float64], target: NDArray[np.float64]) -> tuple[float, float]:
    """Return slope and intercept; each image counts as a defect with the weight of its target."""
    from sklearn.linear_model import LogisticRegression

    share = float(target.mean())
    constant = 0.0, math.log(share / (1 - share))
    spread = float(feature.std())
    if spread == 0:
        return constant
    centre = float(feature.mean())
    scaled = np.tile((feature - centre) / spread, 2)[:, None]
    fitted = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000).fit(
        scaled,
        np.repeat([1, 0], len(feature)),
        sample_weight=np.concatenate([target, 1 - target]),
    )
    slope = float(fitted.coef_[0, 0]) / spread
    if slope <= 0:
        return constant
    return slope, float(fitted.intercept_[0]) - slope * centre
