"""The records that travel between rooms: boxes, annotations, samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

__all__ = ["SOURCES", "SPLITS", "Annotation", "Box", "Sample", "Source", "Split"]

Source = Literal["human", "rule", "model", "model+confirmed", "model+edited", "rejected"]
Split = Literal["train", "val", "test", "unused"]
SOURCES: tuple[Source, ...] = get_args(Source)
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True, slots=True)
class Box:
    """An axis-aligned box in pixels of the original image, origin at its top-left corner.

    (xmin, ymin) is the top-left and (xmax, ymax) the bottom-right corner, as continuous
    coordinates: a box over the whole of a 680 px image is ``Box(0, 0, 680, 680)``.

    Raises:
        ValueError: a coordinate is not finite, or the box has no area.
    """

    xmin: float
    ymin: float
    xmax: float
    ymax: float

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) for value in self.corners):
            raise ValueError(f"box coordinates must be finite numbers, not {self.corners}")
        if self.xmax <= self.xmin or self.ymax <= self.ymin:
            raise ValueError(f"a box needs xmin < xmax and ymin < ymax, not {self.corners}")

    @property
    def corners(self) -> tuple[float, float, float, float]:
        """Return (xmin, ymin, xmax, ymax)."""
        return (self.xmin, self.ymin, self.xmax, self.ymax)

    @property
    def width(self) -> float:
        """Return the width in pixels."""
        return self.xmax - self.xmin

    @property
    def height(self) -> float:
        """Return the height in pixels."""
        return self.ymax - self.ymin

    @property
    def area(self) -> float:
        """Return the area in square pixels."""
        return self.width * self.height

    def iou(self, other: Box) -> float:
        """Return the intersection over union with another box, 0 to 1.

        Example:
            >>> Box(0, 0, 2, 2).iou(Box(1, 0, 3, 2))
            0.3333333333333333
        """
        width = min(self.xmax, other.xmax) - max(self.xmin, other.xmin)
        height = min(self.ymax, other.ymax) - max(self.ymin, other.ymin)
        shared = max(0.0, width) * max(0.0, height)
        return shared / (self.area + other.area - shared)


@dataclass(frozen=True, slots=True)
class Annotation:
    """One box with its class, and where it came from.

    ``score`` is the probability a model gave it, 0 to 1; None for boxes a person drew.

    Raises:
        ValueError: an unknown source, an empty class name, or a score outside 0 to 1.
    """

    box: Box
    class_name: str
    source: Source = "human"
    score: float | None = None

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise ValueError(f"source must be one of {', '.join(SOURCES)}, not {self.source!r}")
        if not self.class_name:
            raise ValueError("an annotation needs a class name")
        if self.score is not None and not 0 <= self.score <= 1:
            raise ValueError(f"score must lie between 0 and 1, not {self.score}")


@dataclass(frozen=True, slots=True)
class Sample:
    """One image with what is known about it.

    ``image`` is the path below the image root, with forward slashes. ``annotations=None`` means
    nobody has looked; ``()`` means somebody looked and found nothing. No format may lose that
    difference.

    Raises:
        ValueError: an empty image path or an unknown split.
    """

    image: str
    image_class: str | None = None
    annotations: tuple[Annotation, ...] | None = None
    group: str | None = None
    split: Split | None = None

    def __post_init__(self) -> None:
        if not self.image:
            raise ValueError("a sample needs the path of its image")
        if self.split is not None and self.split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, not {self.split!r}")
