"""The paper's perceptron on histograms of oriented gradients."""

from __future__ import annotations

from wafer.classifier.hog import FEATURES, hog_features
from wafer.classifier.models import Settings, Task
from wafer.classifier.perceptron import Perceptron, fit_perceptron, read_perceptron
from wafer.weights.loading import Tensors

__all__ = ["SETTINGS", "fit", "network"]

SETTINGS = Settings(epochs=20, batch=200, learning_rate=0.005, patience=10, image_size=256)


def fit(task: Task, /) -> Tensors:
    """Train; see `fit_perceptron`."""
    return fit_perceptron(task, hog_features)


def network(tensors: Tensors, /, *, classes: int, channels: int, device: str) -> Perceptron:
    """Return the network; see `read_perceptron`. It runs on the CPU."""
    return read_perceptron(tensors, features=hog_features, inputs=FEATURES, classes=classes)
