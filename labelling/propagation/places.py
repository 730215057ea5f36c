"""The places in an image where a teacher sees a defect, with how likely each is right.

Where the expert's class of an image is known, only that class is asked for: finding, classifying
and deciding whether there is anything becomes finding alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wafer.datasets.records import Annotation, Box
from wafer.labelling.propagation.calibration import Calibrator, fit_calibrator, logit
from wafer.labelling.propagation.fusion import FUSE_IOU, Cluster, fuse, pairwise_iou
from wafer.labelling.propagation.scores import VIEWS, Candidates

__all__ = [
    "MATCH_IOU",
    "Example",
    "Place",
    "Reader",
    "all_places",
    "class_scores",
    "fit_places",
    "fused_places",
    "matched",
    "overlaps",
    "places_of",
]

MATCH_IOU = 0.5
"""From this overlap with a true box of its class on a box is right."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Place:
    """A box with its class. ``raw`` is the class score, ``probability`` the calibrated one.

    ``votes`` is the share of views (and teachers) that see it, ``spread`` 1 - mean IoU among them.
    """

    box: Box
    class_name: str
    raw: float
    probability: float
    votes: float
    spread: float


@dataclass(frozen=True, slots=True)
class Reader:
    """How the candidates of teachers are read.

    ``names`` are the classes in the order of the scores, ``local`` those with boxes of their own,
    ``rare`` those with so few drawn boxes that no class score can be learnt: their boxes are looked
    for by the score of any defect, which is that of a localiser that knows no classes.
    """

    names: tuple[str, ...]
    local: tuple[str, ...]
    rare: frozenset[str]

    def any_score(self, candidates: Candidates) -> Floats:
        """Return the highest score over the classes with boxes. Shape: (n,)."""
        columns = [self.names.index(name) for name in self.local]
        if not len(candidates.scores):
            return np.zeros(0)
        scores: Floats = candidates.scores[:, columns].max(axis=1).astype(np.float64)
        return scores

    def score(self, candidates: Candidates, class_name: str) -> Floats:
        """Return the score by which boxes of a class are looked for. Shape: (n,)."""
        if class_name in self.rare:
            return self.any_score(candidates)
        column: Floats = candidates.scores[:, self.names.index(class_name)].astype(np.float64)
        return column

    def clusters(self, candidates: Candidates, class_name: str) -> tuple[Cluster, ...]:
        """Return the places of one class over the views; ``extra`` is the score of any defect."""
        scores = self.score(candidates, class_name)
        seen = scores > 0
        return fuse(
            candidates.boxes[seen],
            scores[seen],
            candidates.views[seen],
            number=len(VIEWS),
            extra=self.any_score(candidates)[seen][:, None],
        )


@dataclass(frozen=True, slots=True)
class Example:
    """An image that a person drew and what a teacher that never saw it says."""

    image: str
    candidates: Candidates
    truth: tuple[Annotation, ...]


def features(clusters: Sequence[Cluster]) -> Floats:
    """Return what the probability of each cluster of one class in one image is read from.

    Score and score of any defect (as logits), votes, spread, whether it is the highest of the
    image, and by how much it is below the highest: an image of the class has at least one box.
    Shape: (clusters, 6).
    """
    if not clusters:
        return np.zeros((0, 6))
    scores = logit([c.score for c in clusters])
    anything = logit([c.extra[0] for c in clusters])
    votes, spread = [c.votes for c in clusters], [c.spread for c in clusters]
    top = scores == scores.max()
    return np.column_stack([scores, anything, votes, spread, top, scores.max() - scores])


def matched(boxes: Sequence[Box], truth: Sequence[Box]) -> tuple[int | None, ...]:
    """Return the true box that each box finds, in the order given, each true box once.

    Example:
        >>> matched([Box(0, 0, 9, 9), Box(0, 0, 10, 10)], [Box(0, 0, 10, 10)])
        (0, None)
    """
    left = list(range(len(truth)))
    found: list[int | None] = []
    for box in boxes:
        best = max(left, key=lambda k: box.iou(truth[k]), default=None)
        if best is not None and box.iou(truth[best]) >= MATCH_IOU:
            left.remove(best)
            found.append(best)
        else:
            found.append(None)
    return tuple(found)


def fit_places(
    examples: Iterable[Example], reader: Reader, *, asked: Mapping[str, Collection[str]]
) -> Calibrator:
    """Fit the probability that a cluster is right, on images that a person drew.

    Args:
        examples: the images.
        reader: how candidates are read.
        asked: the classes that are looked for in each image.
    """
    rows: list[Floats] = []
    classes: list[int] = []
    right: list[bool] = []
    for example in examples:
        for name in asked[example.image]:
            clusters = reader.clusters(example.candidates, name)
            truth = [a.box for a in example.truth if a.class_name == name]
            found = matched([_box(cluster) for cluster in clusters], truth)
            rows.append(features(clusters))
            classes += [reader.names.index(name)] * len(clusters)
            right += [match is not None for match in found]
    stacked = np.concatenate([np.zeros((0, 6)), *rows])
    return fit_calibrator(stacked, np.array(classes, np.int64), right, number=len(reader.names))


def places_of(
    candidates: Candidates, class_name: str, reader: Reader, calibrator: Calibrator
) -> tuple[Place, ...]:
    """Return the places of one class that one teacher sees in an image."""
    clusters = reader.clusters(candidates, class_name)
    number = np.full(len(clusters), reader.names.index(class_name))
    probabilities = calibrator.probabilities(features(clusters), number)
    return tuple(
        Place(_box(c), class_name, min(c.score, 1.0), float(p), c.votes, c.spread)
        for c, p in zip(clusters, probabilities, strict=True)
    )


def fused_places(of_teachers: Sequence[Sequence[Place]]) -> tuple[Place, ...]:
    """Return the places of one class that several teachers see; one that misses it counts as 0."""
    if len(of_teachers) == 1:
        return tuple(sorted(of_teachers[0], key=lambda place: -place.probability))
    places = [place for places in of_teachers for place in places]
    if not places:
        return ()
    clusters = fuse(
        np.array([place.box.corners for place in places]),
        np.array([place.probability for place in places]),
        np.repeat(np.arange(len(of_teachers)), [len(p) for p in of_teachers]),
        number=len(of_teachers),
        extra=np.array([[p.raw, p.votes, p.spread] for p in places]),
    )
    return tuple(
        Place(
            _box(c),
            places[0].class_name,
            raw=c.extra[0],
            probability=c.score,
            votes=c.votes * c.extra[1],
            spread=max(c.spread, c.extra[2]),
        )
        for c in clusters
    )


def all_places(by_class: Iterable[Sequence[Place]]) -> tuple[Place, ...]:
    """Return the places of several classes, the likeliest first."""
    return tuple(sorted((p for ps in by_class for p in ps), key=lambda place: -place.probability))


def class_scores(candidates: Sequence[Candidates], reader: Reader) -> dict[str, float]:
    """Return for each class with boxes the highest score in an image, the mean over teachers."""
    scores = {name: 0.0 for name in reader.local}
    for each in candidates:
        for name in reader.local:
            column = each.scores[:, reader.names.index(name)]
            best = [column[each.views == view].max(initial=0.0) for view in range(len(VIEWS))]
            scores[name] += float(np.mean(best)) / len(candidates)
    return scores


def overlaps(place: Place, other: Place) -> bool:
    """Return whether two places are the same one, by the rule of the fusion."""
    corners = np.array([place.box.corners]), np.array([other.box.corners])
    return bool(pairwise_iou(*corners)[0, 0] >= FUSE_IOU)


def _box(cluster: Cluster) -> Box:
    return Box(*cluster.box)
