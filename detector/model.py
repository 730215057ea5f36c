"""A trained detector at work: the best box of each image, and all boxes after NMS."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch  # noqa: TID253
from numpy.typing import NDArray

from wafer.detector.deployed import DeployedModel, best_boxes, pooled
from wafer.detector.deployed import decoded as decode
from wafer.detector.precision import CpuModel
from wafer.detector.ultralytics_adapter import non_max_suppression
from wafer.inference.records import TopOne

__all__ = ["TorchEngine", "all_boxes", "forward", "top_one"]

# What COCO evaluation wants: everything that could count, at most 100 boxes an image.
MINIMUM_SCORE = 0.001
NMS_IOU = 0.7
MAXIMUM_BOXES = 100
# What YOLOv5's detect.py shows.
SHOWN_IOU = 0.45
SHOWN_BOXES = 1000

UNHURRIED = 1e6  # seconds; NMS would leave out boxes where the machine is slow

Images = NDArray[np.uint8]
Floats = NDArray[np.float32]


class TorchEngine:
    """A detector on torch, in float32; an ``Engine`` of the inference room.

    With ``above`` it also gives all boxes of a higher score, as YOLOv5 shows them: the best class
    of each, at most 1,000 an image, none that overlaps a better one of its class by more than 0.45.
    """

    def __init__(self, model: CpuModel, *, above: float | None = None) -> None:
        self._deployed: DeployedModel | None = DeployedModel(model)
        self._above = above

    def infer(self, images: Images, /) -> TopOne:
        """Return the best box of each letterboxed image, its features, and all boxes if wanted."""
        if self._deployed is None:
            raise ValueError("this engine was closed")
        with torch.inference_mode():
            decoded, levels = self._deployed.look(_on_device(self._deployed.model, images))
            answers = (*best_boxes(decoded), pooled(levels))
        boxes, scores, features = (answer.cpu().numpy() for answer in answers)
        return TopOne.of(boxes, scores, features, self._found(decoded))

    def _found(self, decoded: torch.Tensor) -> Sequence[Floats] | None:
        if self._above is None:
            return None
        return _suppressed(decoded, self._above, SHOWN_IOU, multi_label=False, most=SHOWN_BOXES)

    def close(self) -> None:
        """Let go of the network."""
        self._deployed = None


def forward(model: CpuModel, images: Images) -> torch.Tensor:
    """Run a network on letterboxed images.

    Args:
        model: in evaluation mode.
        images: uint8, grey (N, H, W) or RGB (N, H, W, 3).

    Returns:
        Centre x, centre y, width, height in pixels of the letterboxed image, then the score of
        each class (0 to 1), for every anchor point. Shape: (N, 4 + classes, anchors).
    """
    with torch.inference_mode():
        return decode(model, _on_device(model, images))


def _on_device(model: torch.nn.Module, images: Images) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(images)).to(next(model.parameters()).device)


def top_one(decoded: torch.Tensor) -> TopOne:
    """Return the box with the highest class score of each image."""
    boxes, scores = best_boxes(decoded)
    return TopOne.of(boxes.cpu().numpy(), scores.cpu().numpy())


def all_boxes(decoded: torch.Tensor) -> Sequence[Floats]:
    """Return every box that survives NMS within its class, for evaluation.

    Returns:
        For each image xmin, ymin, xmax, ymax in pixels of the letterboxed image, score, class.
        Shape: (boxes, 6).
    """
    return _suppressed(decoded, MINIMUM_SCORE, NMS_IOU, multi_label=True, most=MAXIMUM_BOXES)


def _suppressed(
    decoded: torch.Tensor, above: float, iou: float, *, multi_label: bool, most: int
) -> Sequence[Floats]:
    kept = non_max_suppression(
        decoded.clone(),
        above,
        iou,
        multi_label=multi_label,
        max_det=most,
        max_time_img=UNHURRIED,
    )
    return [boxes.cpu().numpy() for boxes in kept]
