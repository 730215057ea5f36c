"""ResNet50 as the paper trained it: all layers, Adam, the protocol of its Inception."""

from __future__ import annotations

import timm  # noqa: TID253

from wafer.classifier.cnn import Backbone, TorchClassifier, fit_cnn, read_cnn, steps_of_ten
from wafer.classifier.models import Settings, Task
from wafer.weights.loading import Tensors

__all__ = ["SETTINGS", "build", "fit", "network"]

SETTINGS = Settings(epochs=50, batch=64, learning_rate=0.001, patience=10, image_size=256)


def fit(task: Task, /) -> Tensors:
    """Train; see `fit_cnn`."""
    return fit_cnn(task, build, steps_of_ten, name="resnet50")


def network(tensors: Tensors, /, *, classes: int, channels: int, device: str) -> TorchClassifier:
    """Return the network; see `read_cnn`."""
    return read_cnn(tensors, build, classes=classes, device=device)


def build(*, classes: int) -> Backbone:
    """Return the network with random weights."""
    body = timm.create_model("resnet50", num_classes=classes)
    return Backbone(body, head=("fc.",))
