"""From the logits of a classifier to probabilities that mean what they say."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

__all__ = ["fit_temperature", "log_loss", "probabilities"]

LOWEST, HIGHEST = 0.05, 100.0
SPREAD = 10.0
"""Of the largest logit, that the temperature may reach: there all classes are about as likely."""

Floats = NDArray[np.float64]


def probabilities(logits: Floats, *, temperature: float) -> Floats:
    """Return softmax(logits / temperature), shape (N, classes); rows sum to 1."""
    return np.asarray(softmax(logits / temperature, axis=1))


def log_loss(logits: Floats, labels: NDArray[np.int64]) -> float:
    """Return the mean of -log P(true class), NaN where a logit is no number.

    Args:
        logits: shape (N, classes), N at least 1.
        labels: positions of the true classes, shape (N,).
    """
    return float(-log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean())


def fit_temperature(logits: Floats, labels: NDArray[np.int64]) -> float:
    """Return the temperature whose probabilities fit validation images best.

    It minimises the cross-entropy with smoothed targets, (n+1)/(n+K) for the true class of n images
    and 1/(n+K) for each of the other K-1: where every image is right the temperature would go to
    zero without them, and the confidence to 1. It changes no class. Source: Guo et al., "On
    calibration of modern neural networks", 2017; smoothing as Platt's.

    Args:
        logits: finite, shape (N, classes), N at least 1.
        labels: positions of the true classes, shape (N,).

    Returns:
        From 0.05 to 100, or to ten times the largest logit where that is more.
    """
    number, classes = logits.shape
    target = np.full(logits.shape, 1 / (number + classes))
    target[np.arange(number), labels] = (number + 1) / (number + classes)

    def loss(logarithm: float) -> float:
        return float(-(target * log_softmax(logits / np.exp(logarithm), axis=1)).sum())

    highest = max(HIGHEST, SPREAD * float(np.abs(logits).max()))
    found = minimize_scalar(loss, bounds=(np.log(LOWEST), np.log(highest)), method="bounded")
    return float(np.exp(found.x))
