"""Whether one model is better than another on the same images, or may only have been lucky."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from wafer.evaluation.metrics import Interval

__all__ = ["Paired", "compare_paired", "corrected", "resampled_interval"]

DRAWS = 1000
TAILS = (2.5, 97.5)

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Paired:
    """Two models on the same images.

    ``only_first`` and ``only_second`` count the images that one of them alone has right.
    ``difference`` is the accuracy of the first less that of the second, ``interval`` its 95 %
    bootstrap interval over images. ``p_value`` is McNemar's: how likely it is that the counts
    differ so much between models that are equally good.
    """

    images: int
    only_first: int
    only_second: int
    difference: float
    interval: Interval
    p_value: float


def compare_paired(first: Bools, second: Bools, *, seed: int = 0) -> Paired:
    """Compare the right answers of two models, image by image.

    McNemar's test is the exact one, two-sided. Source: McNemar, Psychometrika 12 (1947).

    Args:
        first: whether the first model is right, shape (n,), n at least 1.
        second: the same of the second model, in the same order of images.
        seed: decides the resampling.

    Example:
        >>> right = np.array([True] * 9 + [False])
        >>> compare_paired(right, ~right).only_first
        9
    """
    images = len(first)
    gained, lost = int((first & ~second).sum()), int((~first & second).sum())
    shares = np.array([gained, lost, images - gained - lost]) / images
    drawn = np.random.default_rng(seed).multinomial(images, shares, size=DRAWS)
    low, high = np.percentile((drawn[:, 0] - drawn[:, 1]) / images, TAILS)
    untied = gained + lost
    return Paired(
        images=images,
        only_first=gained,
        only_second=lost,
        difference=(gained - lost) / images,
        interval=(float(low), float(high)),
        p_value=float(binomtest(gained, untied).pvalue) if untied else 1.0,
    )


def corrected(p_values: Sequence[float]) -> list[float]:
    """Return the p values of several comparisons, corrected for their number.

    Source: Holm, Scandinavian Journal of Statistics 6 (1979).

    Example:
        >>> corrected([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    found, least = [0.0] * len(p_values), 0.0
    for rank, position in enumerate(np.argsort(p_values, kind="stable").tolist()):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[position]))
        found[position] = least
    return found


def resampled_interval(
    figure: Callable[[Floats, Bools], float | None],
    confidence: Floats,
    correct: Bools,
    *,
    seed: int = 0,
) -> Interval | None:
    """Return the 95 % interval of a figure from 0 to 1: its spread where images are drawn anew.

    The spread is laid around the figure itself, since images that come twice make some figures,
    such as the calibration error, larger than they are.

    Args:
        figure: of confidence and right answers, both of shape (n,).
        confidence: of the answers, shape (n,).
        correct: whether they are right, shape (n,).
        seed: decides the resampling.

    Returns:
        None where the figure is None.
    """
    value = figure(confidence, correct)
    if value is None:
        return None
    random = np.random.default_rng(seed)
    chosen = random.integers(len(correct), size=(DRAWS, len(correct)))
    drawn = [found for i in chosen if (found := figure(confidence[i], correct[i])) is not None]
    low, high = value + np.percentile(drawn, TAILS) - np.mean(drawn)
    return max(0.0, float(low)), min(1.0, float(high))
