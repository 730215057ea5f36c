"""Which images a model may label: all of an image is accepted, or a person looks at it.

A box that is doubtful never becomes background: it would teach the final model that there is
nothing. Such an image stays without a label, and in the queue.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wafer.datasets.records import Annotation
from wafer.labelling.propagation.calibration import Calibrator, fit_calibrator, logit
from wafer.labelling.propagation.fusion import MOST
from wafer.labelling.propagation.places import Place, matched, overlaps

__all__ = [
    "CERTAIN_NOT",
    "Assessment",
    "ImageDecision",
    "Judged",
    "assess",
    "contradiction",
    "counted_class",
    "decide_image",
    "exactly_right",
    "fit_images",
    "image_probability",
    "thresholds",
]

LIKELY = 0.5
"""A box of at least this probability is proposed."""
CERTAIN_NOT = 0.1
"""A place of at most this probability is no box; between the two it is doubtful."""
AIM = 0.4
"""A threshold aims so far from the promise towards 1: a class that is only just as good as
promised fails its audit more often than not."""
PRIOR = 10
"""So many images of the common precision are added to those of a class."""
FEWEST = 8
"""A threshold that fewer drawn images than this reach is not believed."""
GRID = np.round(np.arange(0, 1, 0.02), 2)
OTHER_HIGH, OWN_LOW = 0.5, 0.1
"""Scores of another class and of the expert's between which the class itself is doubtful."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Assessment:
    """The places of an image sorted out, and the probability that this is right throughout.

    ``chance`` is the product over places of p for a box and 1 - p for none.
    """

    boxes: tuple[Place, ...]
    doubtful: tuple[Place, ...]
    chance: float


@dataclass(frozen=True, slots=True)
class Judged:
    """A drawn image as the teachers would have labelled it: its class, and whether that is right.

    ``eligible`` says that it had boxes and none doubtful.
    """

    image: str
    class_name: str
    probability: float
    eligible: bool
    right: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageDecision:
    """What becomes of one image of the pool.

    ``class_name`` is the class it counts under, None where nothing is known. ``reason`` says why
    it is not accepted. ``places`` are the boxes and what else there might be, the likeliest
    first. ``other`` is the class and score that contradict the expert.
    """

    image: str
    image_class: str | None
    class_name: str | None
    accepted: bool
    reason: str
    boxes: tuple[Place, ...]
    places: tuple[Place, ...]
    probability: float
    threshold: float | None
    other: tuple[str, float] | None = None


def assess(places: Sequence[Place]) -> Assessment:
    """Sort out the places of an image, the likeliest first.

    Of two classes in one place the likelier is the box, and the other counts as doubtful.
    """
    boxes: list[Place] = []
    doubtful: list[Place] = []
    chance = 0.0
    for place in places:
        rival = any(overlaps(place, box) for box in boxes)
        if place.probability >= LIKELY and not rival:
            boxes.append(place)
            chance += math.log(max(place.probability, 1e-6))
            continue
        chance += math.log(max(1 - place.probability, 1e-6))
        if place.probability > CERTAIN_NOT:
            doubtful.append(place)
    return Assessment(tuple(boxes), tuple(doubtful), math.exp(chance))


def exactly_right(boxes: Sequence[Place], truth: Sequence[Annotation]) -> bool:
    """Return whether the boxes are the true ones: as many, each of its class and at IoU 0.5."""
    if len(boxes) != len(truth):
        return False
    for name in {a.class_name for a in truth}:
        ours = [p.box for p in boxes if p.class_name == name]
        theirs = [a.box for a in truth if a.class_name == name]
        if len(ours) != len(theirs) or None in matched(ours, theirs):
            return False
    return True


def counted_class(assessment: Assessment, image_class: str | None) -> str | None:
    """Return the class that an image counts under: the expert's, else that of its likeliest box."""
    if image_class is not None or not assessment.boxes:
        return image_class
    return assessment.boxes[0].class_name


def fit_images(judged: Sequence[tuple[Assessment, str, bool]], names: Sequence[str]) -> Calibrator:
    """Fit the probability that all of an image is right, on drawn images with a proposed box.

    Args:
        judged: assessment, class and whether it is exactly right.
        names: the classes.
    """
    with_boxes = [each for each in judged if each[0].boxes]
    features = logit([assessment.chance for assessment, *_ in with_boxes]).reshape(-1, 1)
    classes = np.array([names.index(name) for _, name, _ in with_boxes], np.int64)
    return fit_calibrator(features, classes, [r for *_, r in with_boxes], number=len(names))


def image_probability(
    assessment: Assessment, class_name: str | None, calibrator: Calibrator, names: Sequence[str]
) -> float:
    """Return the probability that all of an image is right; 0 without a proposed box."""
    if class_name is None or not assessment.boxes:
        return 0.0
    features = logit([assessment.chance]).reshape(1, 1)
    number = np.array([names.index(class_name)])
    return float(calibrator.probabilities(features, number)[0])


def thresholds(
    judged: Sequence[Judged], *, names: Sequence[str], promise: float
) -> dict[str, float | None]:
    """Return for each class the probability from which on its images may be accepted.

    It is the lowest at which the share of right images among the drawn ones that reach it, shrunk
    towards that of all classes, is two fifths of the way from the promise to 1; None where there
    is none. It is never below the least that such a drawn image has: of less nothing is known. It
    is an estimate: what is certified is what the audit sees.
    """
    aim = promise + AIM * (1 - promise)
    eligible = [each for each in judged if each.eligible]
    return {name: _threshold(eligible, name, aim) for name in names}


def _threshold(eligible: Sequence[Judged], name: str, aim: float) -> float | None:
    if not any(each.class_name == name for each in eligible):
        return None
    for value in GRID:
        reached = [each for each in eligible if each.probability >= value]
        if len(reached) < FEWEST:
            return None
        common = sum(each.right for each in reached) / len(reached)
        own = [each.right for each in reached if each.class_name == name]
        if (sum(own) + PRIOR * common) / (len(own) + PRIOR) >= aim:
            return max(float(value), min(each.probability for each in reached))
    return None


def contradiction(scores: Mapping[str, float], image_class: str | None) -> tuple[str, float] | None:
    """Return the class that the teachers are sure of where they see nothing of the expert's."""
    others = {name: score for name, score in scores.items() if name != image_class}
    if image_class is None or not others:
        return None
    best = max(others, key=lambda name: others[name])
    if others[best] >= OTHER_HIGH and scores.get(image_class, 0.0) < OWN_LOW:
        return best, others[best]
    return None


def decide_image(
    image: str,
    places: Sequence[Place],
    *,
    image_class: str | None,
    probability: float,
    limits: Mapping[str, float | None],
    drawn: frozenset[str],
    other: tuple[str, float] | None,
) -> ImageDecision:
    """Accept an image or say why a person has to look.

    Args:
        image: its path below the image root.
        places: what the teachers see, the likeliest first.
        image_class: the expert's class, None where there is none.
        probability: that all of it is right.
        limits: the threshold of each class.
        drawn: classes of which somebody has drawn a box.
        other: the class that contradicts the expert's.
    """
    found = assess(places)
    name = counted_class(found, image_class)
    classes = {box.class_name for box in found.boxes}
    limit = _limit(classes | ({name} if name else set()), limits)
    reason = ""
    if image_class is not None and image_class not in drawn:
        reason = "no box of this class was drawn"
    elif other is not None:
        reason = "the class may be wrong"
    elif not found.boxes or (image_class is not None and image_class not in classes):
        reason = "no box found"
    elif found.doubtful:
        reason = "a doubtful box"
    elif _cut_off(places):
        reason = "more boxes than are looked for"
    elif limit is None:
        reason = "the teachers do not know this class well enough"
    elif probability < limit:
        reason = "below the threshold of its class"
    return ImageDecision(
        image=image,
        image_class=image_class,
        class_name=name,
        accepted=not reason,
        reason=reason,
        boxes=found.boxes,
        places=tuple(places),
        probability=probability,
        threshold=limit,
        other=other,
    )


def _cut_off(places: Sequence[Place]) -> bool:
    """Return whether places of a class that are no longer kept may be boxes, too."""
    possible = Counter(p.class_name for p in places if p.probability > CERTAIN_NOT)
    return any(number >= MOST for number in possible.values())


def _limit(names: set[str], limits: Mapping[str, float | None]) -> float | None:
    """Return the highest threshold of several classes; None where one has none."""
    found = [limits.get(name) for name in names]
    known = [limit for limit in found if limit is not None]
    return max(known) if known and len(known) == len(found) else None
