"""A trained detector at work: the best box of each image, and all boxes after NMS."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch  # noqa: TID253
from numpy.typing import NDArray

from wafer.detector.precision import CpuModel
from wafer.detector.ultralytics_adapter import non_max_suppression
from wafer.inference.records import TopOne

__all__ = ["TorchEngine", "all_boxes", "forward", "top_one"]

# What COCO evaluation wants: everything that could count, at most 100 boxes an image.
MINIMUM_SCORE = 0.001
NMS_IOU = 0.7
MAXIMUM_BOXES = 100

Images = NDArray[np.uint8]
Floats = NDArray[np.float32]


class TorchEngine:
    """A detector on torch, in float32; an ``Engine`` of the inference room."""

    def __init__(self, model: CpuModel) -> None:
        self.model = model.eval()

    def infer(self, images: Images, /) -> TopOne:
        """Return the best box of each letterboxed image."""
        return top_one(forward(self.model, images))


def forward(model: CpuModel, images: Images) -> torch.Tensor:
    """Run a network on letterboxed images.

    Args:
        model: in evaluation mode.
        images: uint8, grey (N, H, W) or RGB (N, H, W, 3).

    Returns:
        Centre x, centre y, width, height in pixels of the letterboxed image, then the score of
        each class (0 to 1), for every anchor point. Shape: (N, 4 + classes, anchors).
    """
    stacked = images[:, None] if images.ndim == 3 else np.moveaxis(images, 3, 1)
    batch = torch.from_numpy(np.ascontiguousarray(stacked)).to(next(model.parameters()).device)
    with torch.inference_mode():
        output = model(batch.float() / 255)
    decoded: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return decoded


def top_one(decoded: torch.Tensor) -> TopOne:
    """Return the box with the highest class score of each image.

    NMS never removes that box, so none is needed.
    """
    per_class, anchors = decoded[:, 4:].max(dim=2)
    classes = per_class.argmax(dim=1)
    rows = torch.arange(len(decoded), device=decoded.device)
    boxes = decoded[rows, :4, anchors[rows, classes]]
    half = boxes[:, 2:] / 2
    corners = torch.cat([boxes[:, :2] - half, boxes[:, :2] + half], dim=1)
    return TopOne(corners.cpu().numpy(), classes.cpu().numpy(), per_class.cpu().numpy())


def all_boxes(decoded: torch.Tensor) -> Sequence[Floats]:
    """Return every box that survives NMS within its class, for evaluation.

    Returns:
        For each image xmin, ymin, xmax, ymax in pixels of the letterboxed image, score, class.
        Shape: (boxes, 6).
    """
    kept = non_max_suppression(
        decoded.clone(), MINIMUM_SCORE, NMS_IOU, multi_label=True, max_det=MAXIMUM_BOXES
    )
    return [boxes.cpu().numpy() for boxes in kept]
