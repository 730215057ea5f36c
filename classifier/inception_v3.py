"""InceptionV3, the paper's best: all layers trained, and a branch of three dense layers."""

from __future__ import annotations

import torch  # noqa: TID253
from torch import nn  # noqa: TID253
from torchvision.models.inception import Inception3, InceptionAux  # noqa: TID253

from wafer.classifier.cnn import Backbone, TorchClassifier, fit_cnn, read_cnn, steps_of_ten
from wafer.classifier.models import Settings, Task
from wafer.weights.loading import Tensors

__all__ = ["SETTINGS", "build", "fit", "network"]

SETTINGS = Settings(epochs=50, batch=64, learning_rate=0.001, patience=10, image_size=256)
FEATURES = 2048


class AuxiliaryHead(InceptionAux):  # type: ignore[misc]
    """The auxiliary head for inputs of any size: torchvision's takes 299 px alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits for features of shape (N, 768, height, width)."""
        x = nn.functional.adaptive_avg_pool2d(x, (5, 5))
        x = nn.functional.adaptive_avg_pool2d(self.conv1(self.conv0(x)), (1, 1))
        found: torch.Tensor = self.fc(torch.flatten(x, 1))
        return found


class Inception(Inception3):  # type: ignore[misc]
    """Returns a plain tuple in training: logits, and those of the auxiliary head."""

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Return the logits for normalised images of at least 75 px."""
        main, auxiliary = self._forward(x)
        return (main, auxiliary) if self.training else main


def fit(task: Task, /) -> Tensors:
    """Train; see `fit_cnn`."""
    return fit_cnn(task, build, steps_of_ten, name="inception_v3")


def network(tensors: Tensors, /, *, classes: int, channels: int, device: str) -> TorchClassifier:
    """Return the network; see `read_cnn`."""
    return read_cnn(tensors, build, classes=classes, device=device)


def build(*, classes: int) -> Backbone:
    """Return the network with random weights."""
    body = Inception(num_classes=classes, aux_logits=True, init_weights=True)
    body.AuxLogits = AuxiliaryHead(768, classes)
    body.fc = nn.Sequential(
        nn.Linear(FEATURES, 512),
        nn.ReLU(),
        nn.Linear(512, 256),
        nn.ReLU(),
        nn.Linear(256, classes),
    )
    half = (0.5, 0.5, 0.5)
    return Backbone(body, mean=half, std=half, head=("fc.", "AuxLogits."))
