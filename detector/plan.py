"""What one training uses, fixed in a file before it starts: images, boxes, first weights."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wafer.datasets.errors import TrainingError
from wafer.datasets.files import write_text
from wafer.detector.image_weights import Mode
from wafer.inference.precision import Precision

__all__ = ["PLAN", "TrainingImage", "TrainingPlan", "read_plan", "write_plan"]

PLAN = "plan.json"
"""The name of the file in a run folder."""


@dataclass(frozen=True, slots=True)
class TrainingImage:
    """One image with the class ids and corners of its boxes, in pixels of the original.

    ``whole_image`` marks an image whose label is the full frame: it is never host or tile of a
    mosaic and gets no geometric augmentation but flips.
    """

    path: Path
    classes: tuple[int, ...]
    boxes: tuple[tuple[float, float, float, float], ...]
    whole_image: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """The input of one training.

    ``channels`` is 1 (grey) or 3; ``start`` is the file of the first weights, None to train from
    scratch; ``img_weights`` how images are weighed, None not at all; ``precision`` is that of the
    training pass on a CPU, kept here so that a training that is gone on with does not change it;
    ``cache`` a folder for decoded images that do not fit into memory.
    """

    architecture: str
    names: tuple[str, ...]
    channels: int
    white_level: int
    img_weights: Mode | None
    precision: Precision
    start: Path | None
    cache: Path
    train: tuple[TrainingImage, ...]
    val: tuple[TrainingImage, ...]

    @property
    def colour(self) -> bool:
        """Return whether the input is RGB."""
        return self.channels == 3


def write_plan(plan: TrainingPlan, path: Path) -> None:
    """Write a plan as JSON, atomically."""
    write_text(path, json.dumps(asdict(plan), default=str))


def read_plan(path: Path) -> TrainingPlan:
    """Read a plan that ``write_plan`` wrote.

    Raises:
        TrainingError: the file is damaged.
    """
    try:
        return _plan(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{path}: this is no plan of a training; remove the run folder {path.parent} and start "
            "the same command again"
        ) from error


def _plan(raw: dict[str, Any]) -> TrainingPlan:
    raw["start"] = None if raw["start"] is None else Path(raw["start"])
    raw["cache"] = Path(raw["cache"])
    raw["names"] = tuple(raw["names"])
    raw["train"] = tuple(map(_image, raw["train"]))
    raw["val"] = tuple(map(_image, raw["val"]))
    return TrainingPlan(**raw)


def _image(raw: dict[str, Any]) -> TrainingImage:
    return TrainingImage(
        path=Path(raw["path"]),
        classes=tuple(raw["classes"]),
        boxes=tuple(map(tuple, raw["boxes"])),
        whole_image=raw["whole_image"],
    )
