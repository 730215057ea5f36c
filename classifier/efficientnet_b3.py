"""EfficientNet-B3 as the paper trained it: all layers, Adam, batches of 128, 20 epochs."""

from __future__ import annotations

from typing import Any

import timm  # noqa: TID253

from wafer.classifier.cnn import Backbone, TorchClassifier, fit_cnn, read_cnn, steps_of_ten
from wafer.classifier.models import Settings, Task
from wafer.weights.loading import Tensors

__all__ = ["SETTINGS", "build", "fit", "network"]

SETTINGS = Settings(epochs=20, batch=128, learning_rate=0.001, patience=10, image_size=256)


def fit(task: Task, /) -> Tensors:
    """Train; see `fit_cnn`."""
    return fit_cnn(task, build, steps_of_ten, name="efficientnet_b3")


def network(tensors: Tensors, /, *, classes: int, channels: int, device: str) -> TorchClassifier:
    """Return the network; see `read_cnn`."""
    return read_cnn(tensors, build, classes=classes, device=device)


def build(*, classes: int) -> Backbone:
    """Return the network with random weights."""
    body: Any = timm.create_model("efficientnet_b3", drop_rate=0.3, drop_path_rate=0.2)
    body.reset_classifier(classes)  # made with the network its first logits would be far too large
    return Backbone(body, head=("classifier.",))
