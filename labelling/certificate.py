"""How many images an audit has to see, and what it then may say.

The unit is the image, since the boxes of one image fail together. An image is right if its class is
right and every box is, at IoU 0.5. The accepted images of a class are a finite population, so the
test is hypergeometric; for large ones it is the binomial test of Clopper and Pearson (1934).
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from scipy.stats import hypergeom

__all__ = [
    "ATTEMPTS",
    "Answer",
    "Outcome",
    "Plan",
    "audit_class",
    "kept_after_failure",
    "plan_audit",
    "precision_bound",
    "replay_audits",
]

Answer = Literal["certified", "estimated", "review it whole"]
ATTEMPTS = 2
"""Draws for one class; the first spends half of the error that is allowed, the second a quarter."""
LARGE, ALLOWED_LARGE, ALLOWED = 500, 3, 1
"""Wrong images that a sample may hold: three where more than 500 were accepted."""
WORTHWHILE = 0.5
"""A sample of more than this share of a class is as much work as looking at all of it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A sample of ``size`` images of which at most ``allowed`` may be wrong."""

    size: int
    allowed: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an audit of one class ended.

    ``labelled`` are the images that keep their labels: those that were accepted, without the ones
    found wrong and the ones that a failed sample took away. A class too small for a sample keeps
    them all, uncertified. ``bound`` is the share of right images
    that is certified, at the confidence asked for, among those that were accepted when the last
    sample was drawn.
    """

    answer: Answer
    labelled: tuple[str, ...]
    seen: int
    wrong: int
    bound: float | None


@cache
def plan_audit(accepted: int, *, promise: float, confidence: float, attempt: int) -> Plan | None:
    """Return the smallest sample that can certify a class, None where it is not worth while.

    Args:
        accepted: images of the class that a model labelled.
        promise: share of them that has to be right, 0 to 1.
        confidence: 1 - the chance that a class below the promise is certified, over all attempts.
        attempt: 1 for the first sample.

    Example:
        >>> plan_audit(400, promise=0.9, confidence=0.9, attempt=1)
        Plan(size=43, allowed=1)
        >>> plan_audit(50, promise=0.9, confidence=0.9, attempt=1)
    """
    allowed = ALLOWED_LARGE if accepted > LARGE else ALLOWED
    chance = (1 - confidence) / 2**attempt
    wrong = _too_many(accepted, promise)
    for size in range(allowed + 1, math.floor(accepted * WORTHWHILE) + 1):
        if hypergeom.cdf(allowed, accepted, wrong, size) <= chance:
            return Plan(size, allowed)
    return None


def _too_many(accepted: int, promise: float) -> int:
    """Return the smallest number of wrong images that breaks the promise."""
    return math.floor((1 - promise) * accepted + 1e-9) + 1


@cache
def precision_bound(accepted: int, seen: int, wrong: int, *, chance: float) -> float:
    """Return the lower bound of the share of right images.

    The true share is below it with at most the probability ``chance``.

    Example:
        >>> precision_bound(400, 43, 1, chance=0.05)
        0.9
    """
    low, high = wrong, accepted - (seen - wrong)
    while low < high:  # the most wrong images with which so few may well be seen
        middle = (low + high + 1) // 2
        if hypergeom.cdf(wrong, accepted, middle, seen) > chance:
            low = middle
        else:
            high = middle - 1
    return 1 - low / accepted


def kept_after_failure(images: Sequence[tuple[str, float]]) -> tuple[str, ...]:
    """Return the half of the images that keep their labels when a first sample failed.

    Args:
        images: each with the probability that it is right.
    """
    ordered = sorted(images, key=lambda each: (-each[1], each[0]))
    return tuple(image for image, _ in ordered[: len(ordered) // 2])


def audit_class(
    images: Sequence[tuple[str, float]],
    right: Mapping[str, bool],
    *,
    promise: float,
    confidence: float,
    seed: int,
) -> Outcome:
    """Audit one class to its end, with answers that are known beforehand.

    Args:
        images: the accepted ones, each with the probability that it is right.
        right: the answer that a person would give for each.
        promise: see ``plan_audit``, as for ``confidence``.
        confidence: see ``plan_audit``.
        seed: of the draws.
    """
    draw = random.Random(seed)
    known: dict[str, bool] = {}
    population = list(images)
    for attempt in range(1, ATTEMPTS + 1):
        plan = plan_audit(len(population), promise=promise, confidence=confidence, attempt=attempt)
        if plan is None and attempt == 1:
            return Outcome("review it whole", tuple(i for i, _ in images), 0, 0, None)
        if plan is None:
            break
        sample = draw.sample(sorted(image for image, _ in population), plan.size)
        known.update({image: right[image] for image in sample})
        wrong = sum(not right[image] for image in sample)
        if wrong <= plan.allowed:
            chance = (1 - confidence) / 2**attempt
            bound = precision_bound(len(population), plan.size, wrong, chance=chance)
            unseen = [image for image, _ in population if image not in known]
            labelled = (*_right(known), *unseen)
            return Outcome("certified", labelled, len(known), _count_wrong(known), bound)
        half = set(kept_after_failure(population))
        population = [each for each in population if each[0] in half and each[0] not in known]
    return Outcome("review it whole", _right(known), len(known), _count_wrong(known), None)


def _right(known: Mapping[str, bool]) -> tuple[str, ...]:
    return tuple(image for image, is_right in known.items() if is_right)


def _count_wrong(known: Mapping[str, bool]) -> int:
    return sum(not is_right for is_right in known.values())


def replay_audits(
    images: Mapping[str, Sequence[tuple[str, float]]],
    right: Mapping[str, bool],
    *,
    promise: float = 0.9,
    confidence: float = 0.9,
    draws: int = 200,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Repeat the audit of every class with other draws, where the truth is known.

    Args:
        images: of each class the accepted ones with their probabilities.
        right: whether each is right.
        promise: see ``plan_audit``.
        confidence: see ``plan_audit``.
        draws: how often.
        seed: of the first draw.

    Returns:
        For each class: the share of draws that ``certified`` it; the share in which the promise was
        ``kept``, that is: not certified, or the labels left are right in at least the promised
        share; the mean number of images ``seen``.
    """
    result = {}
    for name, accepted in images.items():
        outcomes = [
            audit_class(accepted, right, promise=promise, confidence=confidence, seed=seed + number)
            for number in range(draws)
        ]
        certified = [o for o in outcomes if o.answer == "certified"]
        broken = [
            o
            for o in certified
            if sum(map(right.__getitem__, o.labelled)) < promise * len(o.labelled)
        ]
        result[name] = {
            "certified": len(certified) / draws,
            "kept": 1 - len(broken) / draws,
            "seen": sum(o.seen for o in outcomes) / draws,
        }
    return result
