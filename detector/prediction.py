"""Running a detector over the samples of a workspace, for calibration and evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch  # noqa: TID253

from wafer.datasets.classes import ClassTable
from wafer.datasets.errors import DataError, Fault, ImageError
from wafer.datasets.images import decode_image
from wafer.datasets.records import Box, Sample
from wafer.datasets.workspace import Workspace
from wafer.detector.model import Floats, all_boxes, forward, top_one
from wafer.detector.precision import CpuModel
from wafer.evaluation.records import Detection
from wafer.inference.preprocess import Letterboxed, letterbox, to_original

__all__ = ["Scored", "load_letterboxed", "score_samples"]

BATCH = 32


@dataclass(frozen=True, slots=True)
class Scored:
    """What a detector says about one image before any decision.

    ``box`` and ``class_name`` are those of the highest class score, ``score`` (0 to 1); ``size``
    is the width and height of the original image in pixels; ``detections`` are all boxes.
    """

    image: str
    size: tuple[int, int]
    box: Box
    class_name: str
    score: float
    detections: tuple[Detection, ...]


def score_samples(
    model: CpuModel,
    samples: Sequence[Sample],
    *,
    workspace: Workspace,
    classes: ClassTable,
    image_size: int,
    colour: bool,
    white_level: int,
) -> Iterator[Scored]:
    """Run a detector over samples, in their order.

    Args:
        model: in evaluation mode.
        samples: images of the workspace.
        workspace: says where the images are.
        classes: the table the detector was trained with.
        image_size: side of the letterboxed input in pixels.
        colour: whether the detector takes RGB.
        white_level: the value of 16-bit images that becomes 255, as in its training.

    Raises:
        DataError: images that cannot be decoded, all of them by name, after the others.
    """
    faults: list[Fault] = []

    def load(sample: Sample) -> Letterboxed | None:
        path = workspace.image_path(sample.image)
        try:
            return load_letterboxed(
                path, image_size=image_size, colour=colour, white_level=white_level
            )
        except ImageError as error:
            faults.append(error.fault())
            return None

    with ThreadPoolExecutor() as pool:
        for start in range(0, len(samples), BATCH):
            batch = samples[start : start + BATCH]
            pixels = [each for each in pool.map(load, batch) if each is not None]
            if not faults:  # else only the rest of the faults are looked for
                decoded = forward(model, np.stack([each.image for each in pixels]))
                yield from _scored(decoded, batch, pixels, classes)
    if faults:
        raise DataError(sorted(faults, key=lambda fault: fault.file))


def _scored(
    decoded: torch.Tensor,
    samples: Sequence[Sample],
    pixels: Sequence[Letterboxed],
    classes: ClassTable,
) -> Iterator[Scored]:
    best = top_one(decoded)
    kept = all_boxes(decoded)
    for row, (sample, boxed) in enumerate(zip(samples, pixels, strict=True)):
        name = classes.detector_names[best.classes[row]]
        yield Scored(
            image=sample.image,
            size=boxed.original_size,
            box=_box(best.boxes[row], name, boxed, classes),
            class_name=name,
            score=float(best.scores[row].max()),
            detections=tuple(_detection(found, sample, boxed, classes) for found in kept[row]),
        )


def load_letterboxed(path: Path, *, image_size: int, colour: bool, white_level: int) -> Letterboxed:
    """Return an image as a network sees it; how is a matter of the network, not of the workspace.

    Raises:
        ImageError: it cannot be decoded.
    """
    return letterbox(decode_image(path, colour=colour, white_level=white_level), image_size)


def _detection(found: Floats, sample: Sample, boxed: Letterboxed, classes: ClassTable) -> Detection:
    name = classes.detector_names[int(found[5])]
    box = _box(found[:4], name, boxed, classes)
    return Detection(sample.image, box, name, min(1.0, float(found[4])))


def _box(corners: Floats, name: str, boxed: Letterboxed, classes: ClassTable) -> Box:
    if classes[name].kind == "whole_image":
        width, height = boxed.original_size
        return Box(0.0, 0.0, float(width), float(height))
    return to_original(corners, boxed)
