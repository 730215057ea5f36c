"""Whether confidence means what it says: calibration error, Brier score, risk and coverage.

``confidence`` is c of shape (n,), 0 to 1; ``correct`` is k of shape (n,). Images of equal
confidence are never told apart, so that no figure depends on the order of the images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wafer.evaluation.metrics import rate

__all__ = [
    "BINS",
    "ReliabilityBin",
    "RiskCoverage",
    "brier_score",
    "calibration_error",
    "coverage_at_accuracy",
    "equal_mass_bins",
    "equal_width_bins",
    "risk_coverage",
]

BINS = 15


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Answers of similar confidence: how many, how sure, and how many of them were right."""

    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class RiskCoverage:
    """The error rate among the most confident answers, for every number of them.

    ``coverage`` is j/n and ``risk`` the share of errors among the first j by confidence, both of
    shape (n,). Within a group of equal confidence the errors are spread evenly, and ``complete``
    marks where a group ends: only there a threshold can cut.
    """

    coverage: NDArray[np.float64]
    risk: NDArray[np.float64]
    complete: NDArray[np.bool_]

    @property
    def area(self) -> float | None:
        """Return the area under the curve (AURC), the mean of the risks."""
        return rate(float(self.risk.sum()), len(self.risk))


def equal_mass_bins(
    confidence: NDArray[np.float64], correct: NDArray[np.bool_], *, bins: int = BINS
) -> tuple[ReliabilityBin, ...]:
    """Return the non-empty bins of about n/bins answers each, from the least confident on."""
    ordered = np.sort(confidence)
    rank = np.searchsorted(ordered, confidence, side="left")
    return _bins(confidence, correct, rank * bins // max(len(confidence), 1))


def equal_width_bins(
    confidence: NDArray[np.float64], correct: NDArray[np.bool_], *, bins: int = BINS
) -> tuple[ReliabilityBin, ...]:
    """Return the non-empty ones of ``bins`` bins [b/bins, (b+1)/bins), the last one closed."""
    number = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    return _bins(confidence, correct, number)


def calibration_error(bins: tuple[ReliabilityBin, ...]) -> float | None:
    """Return the expected calibration error Σ_b (n_b/n)|acc_b - conf_b|, None without answers.

    Never below |mean confidence - accuracy|. Source: Naeini, Cooper and Hauskrecht, AAAI 2015;
    bins of equal mass after Nguyen and O'Connor, EMNLP 2015.
    """
    gaps = sum(b.count * abs(b.accuracy - b.confidence) for b in bins)
    return rate(gaps, sum(b.count for b in bins))


def brier_score(confidence: NDArray[np.float64], correct: NDArray[np.bool_]) -> float | None:
    """Return the mean of (c - k)² over the answers given, 0 best, 1 worst."""
    return rate(float(((confidence - correct) ** 2).sum()), len(confidence))


def risk_coverage(confidence: NDArray[np.float64], correct: NDArray[np.bool_]) -> RiskCoverage:
    """Return the error rate among the most confident answers, for every number of them.

    Source: Geifman and El-Yaniv, "Selective classification for deep neural networks", 2017.
    """
    n = len(confidence)
    _, group, size = np.unique(-confidence, return_inverse=True, return_counts=True)
    errors = np.bincount(group, weights=~correct, minlength=len(size)) if n else np.zeros(0)
    spread = np.repeat(errors / size, size)
    answered = np.arange(1, n + 1)
    complete = np.zeros(n, dtype=np.bool_)
    complete[np.cumsum(size) - 1] = True
    return RiskCoverage(
        coverage=answered / max(n, 1), risk=np.cumsum(spread) / answered, complete=complete
    )


def coverage_at_accuracy(curve: RiskCoverage, *, accuracy: float) -> float:
    """Return the largest share of images that one threshold can answer at that accuracy.

    The threshold is the one that suits these very images best, so on other images it will do a
    little worse; 0 where no threshold reaches the accuracy.
    """
    good = curve.complete & (1 - curve.risk >= accuracy - 1e-12)
    return float(curve.coverage[good].max(initial=0.0))


def _bins(
    confidence: NDArray[np.float64], correct: NDArray[np.bool_], number: NDArray[np.int64]
) -> tuple[ReliabilityBin, ...]:
    members = [number == b for b in np.unique(number)]
    return tuple(
        ReliabilityBin(
            count=int(member.sum()),
            confidence=float(confidence[member].mean()),
            accuracy=float(correct[member].mean()),
        )
        for member in members
    )
