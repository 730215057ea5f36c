"""A trained detector at work: the best box of each image, and all boxes after NMS."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch  # noqa: TID253
from numpy.typing import NDArray

from wafer.detector.deployed import DeployedModel, best_boxes
from wafer.detector.deployed import decoded as decode
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
        self._deployed: DeployedModel | None = DeployedModel(model)

    def infer(self, images: Images, /) -> TopOne:
        """Return the best box of each letterboxed image, and its features."""
        if self._deployed is None:
            raise ValueError("this engine was closed")
        with torch.inference_mode():
            boxes, scores, features = self._deployed(_on_device(self._deployed.model, images))
        return TopOne.of(boxes.cpu().numpy(), scores.cpu().numpy(), features.cpu().numpy())

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
    kept = non_max_suppression(
        decoded.clone(), MINIMUM_SCORE, NMS_IOU, multi_label=True, max_det=MAXIMUM_BOXES
    )
    return [boxes.cpu().numpy() for boxes in kept]
