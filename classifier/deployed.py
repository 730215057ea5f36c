"""A network as one graph: from uint8 pixels to the probability of each class and the features."""

from __future__ import annotations

import torch  # noqa: TID253

from wafer.classifier.cnn import TorchClassifier

__all__ = ["DeployedClassifier"]


class DeployedClassifier(torch.nn.Module):
    """A network with everything around it that an engine may do inside its graph.

    Input: letterboxed images, uint8, grey (N, H, W) or RGB (N, H, W, 3). Outputs: the full frame,
    shape (N, 4); the calibrated probability of each class, shape (N, classes); what the last layer
    was given, scaled to length 1, shape (N, features).
    """

    frame: torch.Tensor

    def __init__(self, network: TorchClassifier, *, temperature: float, image_size: int) -> None:
        super().__init__()
        self.network = network.eval()
        self._temperature = temperature
        side = float(image_size)
        self.register_buffer("frame", torch.tensor([[0.0, 0.0, side, side]]))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return boxes, scores and features."""
        logits, features = self.network.seen(images)
        scores = torch.softmax(logits / self._temperature, dim=1)
        boxes = torch.zeros_like(scores[:, :1]) + self.frame
        return boxes, scores, torch.nn.functional.normalize(features, dim=1)
