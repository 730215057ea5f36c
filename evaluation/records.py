"""The records that travel from a model to whoever judges it: predictions and detections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from wafer.datasets.records import Box

__all__ = ["DECISIONS", "Decision", "Detection", "Prediction"]

Decision = Literal["auto", "review", "unknown"]
DECISIONS: tuple[Decision, ...] = get_args(Decision)


@dataclass(frozen=True, slots=True)
class Prediction:
    """The one answer of a model about one image, and whether a person should look.

    ``image`` is the path below the image root, as in ``Sample``. ``box`` is in pixels of the
    original image; None where the answer has no box ("no defect", or a model that only
    classifies). ``confidence`` belongs to the answer, 0 to 1. ``decision`` is ``auto`` (use it),
    ``review`` (a person should look) or ``unknown`` (none of the classes the model knows);
    ``reason`` is a short code that says why a decision is not ``auto``.

    Raises:
        ValueError: an empty image path or class name, a confidence that is not a number from 0
            to 1, or a decision outside ``auto``, ``review``, ``unknown``.
    """

    image: str
    box: Box | None
    class_name: str
    confidence: float
    decision: Decision
    reason: str = ""

    def __post_init__(self) -> None:
        _check_answer(self.image, self.class_name)
        if not 0 <= self.confidence <= 1:  # also refuses NaN
            raise ValueError(f"confidence must lie between 0 and 1, not {self.confidence}")
        if self.decision not in DECISIONS:
            raise ValueError(
                f"decision must be one of {', '.join(DECISIONS)}, not {self.decision!r}"
            )


@dataclass(frozen=True, slots=True)
class Detection:
    """One of the boxes a detector found in an image, before any decision.

    ``box`` is in pixels of the original image, ``score`` the class score, 0 to 1.

    Raises:
        ValueError: an empty image path or class name, or a score that is not from 0 to 1.
    """

    image: str
    box: Box
    class_name: str
    score: float

    def __post_init__(self) -> None:
        _check_answer(self.image, self.class_name)
        if not 0 <= self.score <= 1:
            raise ValueError(f"score must lie between 0 and 1, not {self.score}")


def _check_answer(image: str, class_name: str) -> None:
    if not image:
        raise ValueError("an answer needs the path of its image")
    if not class_name:
        raise ValueError("an answer needs a class name")
