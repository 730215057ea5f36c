"""A perceptron on a small copy of the image: the floor that every other model has to beat."""

from __future__ import annotations

import cv2  # noqa: TID253 - this module resizes
import numpy as np
from numpy.typing import NDArray

from wafer.classifier.models import Images, Settings, Task
from wafer.classifier.perceptron import Perceptron, fit_perceptron, read_perceptron
from wafer.weights.loading import Tensors

__all__ = ["SETTINGS", "fit", "network"]

SETTINGS = Settings(epochs=20, batch=200, learning_rate=0.005, patience=10, image_size=256)
SIDE = 32


def fit(task: Task, /) -> Tensors:
    """Train; see `fit_perceptron`."""
    return fit_perceptron(task, _pixels)


def network(tensors: Tensors, /, *, classes: int, channels: int, device: str) -> Perceptron:
    """Return the network; see `read_perceptron`. It runs on the CPU."""
    inputs = SIDE * SIDE * channels
    return read_perceptron(tensors, features=_pixels, inputs=inputs, classes=classes)


def _pixels(images: Images) -> NDArray[np.float32]:
    small = [cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for image in images]
    return np.stack(small).reshape(len(images), -1).astype(np.float32) / np.float32(255)
