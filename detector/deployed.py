"""A detector as one graph: from uint8 pixels to the best box, the class scores and the features."""

from __future__ import annotations

import torch  # noqa: TID253

from wafer.detector.precision import CpuModel

__all__ = ["DeployedModel", "best_boxes", "decoded", "pooled"]


class DeployedModel(torch.nn.Module):
    """A network with everything around it that an engine may do inside its graph.

    Input: letterboxed images, uint8, grey (N, H, W) or RGB (N, H, W, 3). Outputs: the corners of
    the box with the highest class score in pixels of the letterboxed image, shape (N, 4); the
    highest score of each class over all boxes, 0 to 1, shape (N, classes); what the head was given,
    pooled (`pooled`), shape (N, features).
    """

    def __init__(self, model: CpuModel) -> None:
        super().__init__()
        self.model = model.eval()

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return boxes, scores and features."""
        boxes, levels = self.look(images)
        return (*best_boxes(boxes), pooled(levels))

    def look(self, images: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return all boxes, as `decoded` does, and the feature maps that the head was given."""
        levels: list[torch.Tensor] = []

        def note(_head: torch.nn.Module, inputs: tuple[list[torch.Tensor]]) -> None:
            levels.extend(inputs[0])

        handle = self.model.model[-1].register_forward_pre_hook(note)
        try:
            return decoded(self.model, images), levels
        finally:
            handle.remove()


def decoded(model: CpuModel, images: torch.Tensor) -> torch.Tensor:
    """Return all boxes of letterboxed images, as `wafer.detector.model.forward` describes them."""
    stacked = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
    output = model(stacked.float() / 255)
    boxes: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return boxes


def best_boxes(boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the corners of the box with the highest class score, and the best score by class.

    NMS never removes that box, so none is needed.

    Args:
        boxes: as `wafer.detector.model.forward` returns it, shape (N, 4 + classes, anchors).

    Returns:
        Shapes: (N, 4) and (N, classes).
    """
    per_class, anchors = boxes[:, 4:].max(dim=2)
    best = anchors.gather(1, per_class.argmax(dim=1, keepdim=True))
    # All rows, not the four of the box: OpenVINO refuses indices smaller than what they index.
    chosen = boxes.gather(2, best[:, None].expand(-1, boxes.shape[1], -1))[:, :4, 0]
    half = chosen[:, 2:] / 2
    return torch.cat([chosen[:, :2] - half, chosen[:, :2] + half], dim=1), per_class


def pooled(levels: list[torch.Tensor]) -> torch.Tensor:
    """Return one vector an image from the feature maps that the head is given.

    Of each map the mean and the maximum of every channel, since a small defect vanishes in a mean;
    each part is scaled to length 1, so that all count alike. Shape: (N, features).
    """
    parts = [part for level in levels for part in (level.mean(dim=(2, 3)), level.amax(dim=(2, 3)))]
    return torch.cat([torch.nn.functional.normalize(part, dim=1) for part in parts], dim=1)
