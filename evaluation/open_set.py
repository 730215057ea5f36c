"""How well a score tells images of unknown classes from those of known ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["OpenSet", "open_set"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenSet:
    """Figures over all thresholds of a score, 0 to 1.

    ``auroc`` is the probability that an unknown image scores higher than a known one, ties half;
    ``fpr95`` the share of unknown images that are accepted where 95 % of the known ones are;
    ``oscr`` the area under the share of known images that are accepted and answered rightly, over
    the share of unknown images that are accepted (Dhamija et al., "Reducing network agnostophobia",
    2018): it is at most the accuracy.
    """

    auroc: float
    fpr95: float
    oscr: float


def open_set(known: Floats, unknown: Floats, *, right: NDArray[np.bool_]) -> OpenSet:
    """Return the figures of a score.

    Args:
        known: scores of images of known classes, the larger, the less known. Shape: (N,).
        unknown: scores of images of unknown classes. Shape: (M,).
        right: whether the known images are answered with their class. Shape: (N,).

    Raises:
        ValueError: no known image, no unknown one, or scores that are no numbers.
    """
    if not (len(known) and len(unknown)):
        raise ValueError("images of known and of unknown classes are needed")
    if not (np.isfinite(known).all() and np.isfinite(unknown).all()):
        raise ValueError("scores must be finite numbers")
    ordered = np.sort(known)
    below = np.searchsorted(ordered, unknown, side="left")
    tied = np.searchsorted(ordered, unknown, side="right") - below
    threshold = ordered[int(np.ceil(0.95 * len(known))) - 1]
    # accepted is what scores at most the threshold, which takes every value there is
    cuts = np.unique(np.concatenate([known, unknown]))
    accepted = np.searchsorted(np.sort(unknown), cuts, side="right") / len(unknown)
    correct = np.searchsorted(np.sort(known[right]), cuts, side="right") / len(known)
    return OpenSet(
        auroc=float((below + tied / 2).mean() / len(known)),
        fpr95=float((unknown <= threshold).mean()),
        oscr=float(np.trapezoid([0, *correct], [0, *accepted])),
    )
