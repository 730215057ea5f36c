"""Pairing what a model answered with what is true, one answer an image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wafer.datasets.classes import ClassTable
from wafer.datasets.records import Sample
from wafer.evaluation.records import Prediction

__all__ = [
    "NO_TRUTH",
    "SEVERAL_CLASSES",
    "UNTRUSTED_BOXES",
    "Answers",
    "pair_answers",
    "true_classes",
]

NO_TRUTH = "excluded_no_truth"
SEVERAL_CLASSES = "excluded_several_classes"
UNTRUSTED_BOXES = "excluded_untrusted_boxes"


@dataclass(frozen=True, slots=True)
class Answers:
    """The images that have one true class, with the answers to them.

    All arrays are of shape (n,), in the order of ``images``. ``truth`` and ``predicted`` are
    positions in the class table, ``confidence`` lies between 0 and 1, ``automatic``, ``review``
    and ``unknown`` mark the decisions. ``excluded`` counts the images left out, by reason.
    """

    images: tuple[str, ...]
    truth: NDArray[np.int64]
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float64]
    automatic: NDArray[np.bool_]
    review: NDArray[np.bool_]
    unknown: NDArray[np.bool_]
    excluded: dict[str, int]

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Return which answers name the true class, whatever the decision, shape (n,)."""
        return np.asarray(self.truth == self.predicted)


def true_classes(sample: Sample, *, none_class: str | None) -> frozenset[str]:
    """Return the classes an image is known to show.

    That is the class of the image; where it has none, the classes of its boxes; where somebody
    looked and drew no box, the class for "no defect". Empty where nothing is known.

    Args:
        sample: the image with its labels.
        none_class: the name of the "no defect" class, None where the table has none.
    """
    if sample.image_class is not None:
        return frozenset({sample.image_class})
    if sample.annotations is None:
        return frozenset()
    if sample.annotations:
        return frozenset(annotation.class_name for annotation in sample.annotations)
    return frozenset() if none_class is None else frozenset({none_class})


def pair_answers(
    samples: Sequence[Sample], predictions: Sequence[Prediction], *, classes: ClassTable
) -> Answers:
    """Pair samples with predictions, leaving out images without exactly one true class.

    An image is never left out because of its answer: that would hide the misses.

    Raises:
        ValueError: a class that is not in the table, an image twice, or samples and predictions
            that are not about the same images.
    """
    by_image = _one_each(samples, predictions)
    none_class = None if classes.none_class is None else classes.none_class.name
    excluded = Counter({SEVERAL_CLASSES: 0, NO_TRUTH: 0})
    kept: list[tuple[str, Prediction]] = []
    for sample in samples:
        names = true_classes(sample, none_class=none_class)
        if len(names) == 1:
            kept.append((min(names), by_image[sample.image]))
        else:
            excluded[SEVERAL_CLASSES if names else NO_TRUTH] += 1
    return _answers(kept, classes, dict(excluded))


def _answers(
    kept: Sequence[tuple[str, Prediction]], classes: ClassTable, excluded: dict[str, int]
) -> Answers:
    decisions = np.array([prediction.decision for _, prediction in kept], dtype="U7")
    return Answers(
        images=tuple(prediction.image for _, prediction in kept),
        truth=_positions((name for name, _ in kept), classes),
        predicted=_positions((prediction.class_name for _, prediction in kept), classes),
        confidence=np.array([prediction.confidence for _, prediction in kept], dtype=np.float64),
        automatic=decisions == "auto",
        review=decisions == "review",
        unknown=decisions == "unknown",
        excluded=excluded,
    )


def _one_each(
    samples: Sequence[Sample], predictions: Sequence[Prediction]
) -> dict[str, Prediction]:
    by_image = {prediction.image: prediction for prediction in predictions}
    images = {sample.image for sample in samples}
    if len(by_image) < len(predictions) or len(images) < len(samples):
        raise ValueError("an image appears twice among the samples or the predictions")
    if images != by_image.keys():
        example = min(images ^ by_image.keys())
        raise ValueError(f"samples and predictions are not about the same images, see {example!r}")
    return by_image


def _positions(names: Iterable[str], classes: ClassTable) -> NDArray[np.int64]:
    positions = {name: position for position, name in enumerate(classes.names)}
    try:
        return np.array([positions[name] for name in names], dtype=np.int64)
    except KeyError as error:
        raise ValueError(f"class {error.args[0]!r} is not in the class table") from None
