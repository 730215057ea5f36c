"""Boxes that people drew and that may be wrong: missed, misplaced, or of another class.

By what teachers say that never saw the image, after ObjectLab (Tkachenko, Thyagarajan and Mueller,
2023): overlooked, badly located, swapped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from wafer.datasets.records import Annotation, Box
from wafer.labelling.propagation.places import MATCH_IOU, Example, Place

__all__ = ["Suspicion", "suspicions"]

Kind = Literal["missed", "misplaced", "swapped"]

LEAST = 0.5
"""A suspicion of at least this much is worth a look."""
APART = 0.3
"""A place that overlaps no drawn box more than this is another defect."""
TOUCHING = 0.1


@dataclass(frozen=True, slots=True)
class Suspicion:
    """One doubt about one image: how strong (0 to 1), the box drawn and the box suggested."""

    image: str
    kind: Kind
    strength: float
    drawn: Annotation | None
    suggested: Place


def suspicions(
    examples: Iterable[Example], places: Mapping[str, Sequence[Place]]
) -> tuple[Suspicion, ...]:
    """Return the suspicious boxes, the strongest doubt first, one for each box or place.

    Args:
        examples: images with the boxes that people drew.
        places: of each image the places of all classes with probabilities that do not rest on the
            expert's class.
    """
    found = [s for e in examples for s in _of_image(e.image, e.truth, places[e.image])]
    return tuple(sorted(found, key=lambda each: -each.strength))


def _of_image(
    image: str, truth: Sequence[Annotation], places: Sequence[Place]
) -> Iterator[Suspicion]:
    taken: list[Box] = []
    for annotation in truth:
        doubts = [_swapped(image, annotation, places), _misplaced(image, annotation, places)]
        strongest = max((d for d in doubts if d), key=lambda d: d.strength, default=None)
        if strongest is not None and strongest.strength >= LEAST:
            taken.append(strongest.suggested.box)
            yield strongest
    for place in places:
        near = [a.box for a in truth] + taken
        if place.probability >= LEAST and all(place.box.iou(box) <= APART for box in near):
            if not _inside_drawn(place, truth):
                yield Suspicion(image, "missed", place.probability, None, place)
            taken.append(place.box)


def _inside_drawn(place: Place, truth: Sequence[Annotation]) -> bool:
    """Return whether a place lies mostly in a drawn box, or the other way round.

    One box around several defects, or several in place of one, is a matter of taste.
    """
    for annotation in truth:
        iou = place.box.iou(annotation.box)
        shared = iou * (place.box.area + annotation.box.area) / (1 + iou)
        if shared >= MATCH_IOU * min(place.box.area, annotation.box.area):
            return True
    return False


def _swapped(image: str, annotation: Annotation, places: Sequence[Place]) -> Suspicion | None:
    here = [p for p in places if p.box.iou(annotation.box) >= MATCH_IOU]
    own = max((p.probability for p in here if p.class_name == annotation.class_name), default=0.0)
    others = [p for p in here if p.class_name != annotation.class_name]
    best = max(others, key=lambda place: place.probability, default=None)
    if best is None:
        return None
    return Suspicion(image, "swapped", best.probability * (1 - own), annotation, best)


def _misplaced(image: str, annotation: Annotation, places: Sequence[Place]) -> Suspicion | None:
    own = [p for p in places if p.class_name == annotation.class_name]
    if any(p.box.iou(annotation.box) >= MATCH_IOU and p.probability > TOUCHING for p in own):
        return None
    near = [p for p in own if p.box.iou(annotation.box) >= TOUCHING]
    best = max(near, key=lambda place: place.probability, default=None)
    if best is None:
        return None
    return Suspicion(image, "misplaced", best.probability, annotation, best)
