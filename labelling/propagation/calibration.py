"""From scores to probabilities, fitted on images that a person drew and the teacher never saw.

Both maps are logistic regressions with an offset for each class that is shrunk towards the common
one: with a dozen drawn images of a class there is not more to be had (Platt, 1999).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Calibrator", "calibration_error", "fit_calibrator", "logit"]

LEAST = 1e-4
OFFSET = 0.5
"""Weight of the offsets of the classes beside the features; less shrinks them more."""
BINS = 10

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Calibrator:
    """The map from features and class to a probability.

    ``weights`` and ``intercept`` are those of a logistic regression on the features, scaled by
    ``centre`` and ``scale``, and one column for each class. Without weights, where all examples
    were right or all wrong, every answer is ``constant``.
    """

    classes: int
    constant: float
    centre: Floats
    scale: Floats
    weights: Floats | None = None
    intercept: float = 0.0

    def probabilities(self, features: Floats, classes: NDArray[np.int64]) -> Floats:
        """Return a probability for each row. Shapes: (n, k), (n,) -> (n,)."""
        if self.weights is None or not len(features):
            return np.full(len(features), self.constant)
        columns = _columns((features - self.centre) / self.scale, classes, self.classes)
        answers: Floats = 1 / (1 + np.exp(-(columns @ self.weights + self.intercept)))
        return answers


def fit_calibrator(
    features: Floats, classes: NDArray[np.int64], right: Sequence[bool], *, number: int
) -> Calibrator:
    """Fit the map on examples of which it is known whether they are right.

    Args:
        features: shape (n, k); n may be 0.
        classes: the class of each example, 0 to ``number`` - 1.
        right: whether each is right.
        number: of classes.
    """
    truth = np.asarray(right, bool)
    none = np.zeros(features.shape[1])
    if not truth.any() or truth.all():
        constant = (truth.sum() + 0.5) / (len(truth) + 1) if truth.any() else 0.0
        return Calibrator(number, float(constant), none, none + 1)
    from sklearn.linear_model import LogisticRegression

    centre, spread = features.mean(axis=0), features.std(axis=0)
    scale = np.where(spread > 0, spread, 1.0)
    model = LogisticRegression(max_iter=1000)
    model.fit(_columns((features - centre) / scale, classes, number), truth)
    weights = np.asarray(model.coef_[0], np.float64)
    return Calibrator(number, 0.0, centre, scale, weights, float(model.intercept_[0]))


def _columns(features: Floats, classes: NDArray[np.int64], number: int) -> Floats:
    offsets = OFFSET * np.eye(number)[np.asarray(classes, np.int64)]
    return np.hstack([features, offsets.reshape(len(features), number)])


def logit(values: NDArray[np.floating] | Sequence[float]) -> Floats:
    """Return log(v / (1 - v)), with v held between 0.0001 and 0.9999."""
    clipped = np.clip(np.asarray(values, np.float64), LEAST, 1 - LEAST)
    odds: Floats = np.log(clipped / (1 - clipped))
    return odds


def calibration_error(probabilities: Sequence[float], right: Sequence[bool]) -> float | None:
    """Return the expected calibration error over ten bins of equal width, None without values.

    Example:
        >>> calibration_error([0.75, 0.75], [True, False])
        0.25
    """
    p, truth = np.asarray(probabilities, np.float64), np.asarray(right, np.float64)
    if not len(p):
        return None
    bins = np.minimum((p * BINS).astype(int), BINS - 1)
    gaps = [abs(p[bins == b].sum() - truth[bins == b].sum()) for b in range(BINS)]
    return float(sum(gaps) / len(p))
