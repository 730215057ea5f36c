"""Are the answers of a day what is usual, or has something moved: figures with limits.

Every limit is the wider of two: what chance alone does with so few images (3 standard errors, or 1
day in 370), and what matters. A reference of few images widens the limits too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from scipy.special import chdtri

from wafer.inference.tally import VALUES, Moments, Totals

__all__ = [
    "CLASS_MIX",
    "FEWEST",
    "FIGURES",
    "NOT_READ",
    "RATES",
    "Check",
    "Verdict",
    "judge",
    "mean_check",
    "mix_check",
    "not_read_check",
    "psi",
    "rate_check",
]

FEWEST = 50
"""Images below which nothing is said of a day, nor compared with."""
CLASS_MIX = "class mix"
RATES = ("review", "unknown")
NOT_READ = "not read"
FIGURES = (CLASS_MIX, *RATES, NOT_READ, *VALUES)
MUCH_PSI = 0.2
MUCH_NOT_READ = 0.5
"""Share of images that cannot be read above which it is an alarm, whatever is usual."""
MUCH_SHIFT = 0.5
"""Standard deviations by which a mean may move."""
SIGMAS = 3.0
CHANCE = 0.0027
"""That of a value beyond 3 standard deviations to either side."""
SMOOTHING = 0.5

State = Literal["steady", "alarm", "too few", "no reference"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A figure, what is usual, and between what it may lie."""

    name: str
    value: float
    usual: float
    low: float
    high: float

    @property
    def alarm(self) -> bool:
        """Return whether it lies outside."""
        return not self.low <= self.value <= self.high


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is said of some answers, and the figures it rests on; none where nothing is said."""

    state: State
    checks: tuple[Check, ...] = ()

    @property
    def alarms(self) -> tuple[str, ...]:
        """Return the names of the figures that lie outside their limits."""
        return tuple(check.name for check in self.checks if check.alarm)


def judge(
    found: Totals,
    usual: Totals | None,
    *,
    not_read: int | None = None,
    usually_not_read: int = 0,
) -> Verdict:
    """Return whether answers are as usual.

    Args:
        found: the answers of a day.
        usual: those to compare with; None where nobody knows.
        not_read: images of the day that could not be read, besides; None where nobody counted.
        usually_not_read: the same of those to compare with.

    Returns:
        ``too few`` where either has fewer than 50 answers. Images that could not be read can be an
        alarm without answers, and without those to compare with.
    """
    unread = None
    if not_read is not None:
        unread = not_read_check(found.images, not_read, usual, usually_not_read)
    checks = [] if unread is None else [unread]
    state: State
    if usual is not None and min(found.images, usual.images) >= FEWEST:
        checks += _checks(found, usual)
        state = "steady"
    else:
        checks = [check for check in checks if check.alarm]
        state = "no reference" if usual is None else "too few"
    return Verdict("alarm" if any(check.alarm for check in checks) else state, tuple(checks))


def _checks(found: Totals, usual: Totals) -> Iterator[Check]:
    yield mix_check(found.classes, usual.classes)
    for name in RATES:
        parts = found.decisions.get(name, 0), usual.decisions.get(name, 0)
        yield rate_check(name, parts[0], found.images, parts[1], usual.images)
    for name in VALUES:
        moments = found.values.get(name), usual.values.get(name)
        if moments[0] is not None and moments[1] is not None and moments[1].count >= FEWEST:
            yield mean_check(name, moments[0], moments[1])


def psi(found: Mapping[str, int], usual: Mapping[str, int]) -> float:
    """Return the population stability index of two mixes of classes.

    The sum of (a - e) ln(a / e) over the classes of either, of shares with half an image added to
    each class, so that one that is missing gives a number too.

    Args:
        found: images by class, at least one.
        usual: the same of what to compare with.

    Example:
        >>> round(psi({"a": 30, "b": 10}, {"a": 20, "b": 20}), 4)
        0.2601
    """
    classes = {*found, *usual}
    total = 0.0
    for name in classes:
        a, e = (
            (mix.get(name, 0) + SMOOTHING) / (sum(mix.values()) + SMOOTHING * len(classes))
            for mix in (found, usual)
        )
        total += (a - e) * math.log(a / e)
    return total


def mix_check(found: Mapping[str, int], usual: Mapping[str, int]) -> Check:
    """Return the PSI of a mix with its limit.

    That is 0.2, or what chance exceeds on 1 day in 370: of equal mixes PSI / (1/n + 1/m) has the
    chi-squared distribution of classes - 1 degrees (Yurdakul, "Statistical properties of
    population stability index", 2018).
    """
    freedom = max(1, len({*found, *usual}) - 1)
    spread = 1 / sum(found.values()) + 1 / sum(usual.values())
    high = max(MUCH_PSI, float(chdtri(freedom, CHANCE)) * spread)
    return Check(name=CLASS_MIX, value=psi(found, usual), usual=0.0, low=0.0, high=high)


def rate_check(name: str, part: int, images: int, usual_part: int, usual_images: int) -> Check:
    """Return a rate with the limits of a p-chart.

    The centre is p = (usual_part + 0.5) / (usual_images + 1), so that a reference without any has
    limits too; these are 3 sqrt(p (1 - p) (1/n + 1/m)) and half an image from it.
    """
    centre = (usual_part + 0.5) / (usual_images + 1)
    sigma = math.sqrt(centre * (1 - centre) * (1 / images + 1 / usual_images))
    half = SIGMAS * sigma + 0.5 / images
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return Check(name=name, value=part / images, usual=centre, low=low, high=high)


def not_read_check(
    answered: int, not_read: int, usual: Totals | None, usually_not_read: int
) -> Check | None:
    """Return the share of images that could not be read, None of fewer than 50 images.

    It is never too low. The limit is half of them, or less: that of a p-chart, where there are 50
    images to compare with.
    """
    images = answered + not_read
    usual_images = usually_not_read + (0 if usual is None else usual.images)
    if images < FEWEST:
        return None
    if usual_images < FEWEST:
        share = not_read / images
        return Check(name=NOT_READ, value=share, usual=0.0, low=0.0, high=MUCH_NOT_READ)
    check = rate_check(NOT_READ, not_read, images, usually_not_read, usual_images)
    return replace(check, low=0.0, high=min(check.high, MUCH_NOT_READ))


def mean_check(name: str, found: Moments, usual: Moments) -> Check:
    """Return a mean with limits half a standard deviation, or 3 standard errors, from the usual.

    Nearer to what the model knows than usual (``distance``) is never too near.
    """
    error = SIGMAS * math.sqrt(1 / found.count + 1 / usual.count)
    half = max(MUCH_SHIFT, error) * usual.deviation
    low = 0.0 if name == "distance" else usual.mean - half
    return Check(name=name, value=found.mean, usual=usual.mean, low=low, high=usual.mean + half)
