"""The classifiers by name, and what each of them offers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from wafer.classifier.images import LabelledImages
from wafer.datasets.errors import WeightsError
from wafer.weights.loading import Tensors

__all__ = [
    "STATE",
    "Features",
    "Images",
    "Logits",
    "Model",
    "Network",
    "Settings",
    "Task",
    "model_named",
]

STATE = Path("weights", "state.pt")
"""What a training goes on from after a kill, in the run folder."""

Images = NDArray[np.uint8]
Sampler = Literal["proportional", "balanced"]
Logits = NDArray[np.float64]
Features = NDArray[np.float32]

Progress = Callable[[int, int, int, int], None]
"""Called with epoch, epochs, batch, batches, all counted from 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a training of a classifier can be told.

    ``epochs`` is how often all images are seen at most (rounds of trees for xgboost), ``batch``
    images a step (0 for a model that has no steps), ``learning_rate`` the first one, ``patience``
    the epochs without a lower loss on validation after which it stops, ``image_size`` the side of
    the square input in pixels.

    The rest is for networks: ``sampler`` says how often the images of a class come
    (`drawn_images`), ``cutmix`` is the probability that an image gets a piece of another
    (`cutmix`), ``ghost_batch`` the images over which a batch norm takes its statistics (0: the
    batch).
    """

    epochs: int
    batch: int
    learning_rate: float
    patience: int
    image_size: int
    sampler: Sampler = "proportional"
    cutmix: float = 0.0
    ghost_batch: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One training with nothing left to be chosen.

    ``train`` is fitted, ``val`` says when to stop and which epoch to keep. ``classes`` is the
    number of classes of the table, ``start`` the file of first weights (None: from scratch),
    ``folder`` that of the run, where the course of the training is kept.
    """

    train: LabelledImages
    val: LabelledImages
    classes: int
    settings: Settings
    start: Path | None
    seed: int
    device: str
    folder: Path
    progress: Progress | None


class Network(Protocol):
    """A fitted classifier."""

    def logits(self, images: Images, /) -> Logits:
        """Return one number for each class, whose softmax are uncalibrated probabilities.

        Args:
            images: letterboxed, grey (N, size, size) or RGB (N, size, size, 3).

        Returns:
            Shape: (N, classes). A row does not depend on the other images.
        """
        ...

    def look(self, images: Images, /) -> tuple[Logits, Features]:
        """Return the same, and what the last layer was given, shape (N, features).

        That is what a network knows of an image besides its class; trees have no layers, and give
        what they are given themselves.
        """
        ...


class Model(Protocol):
    """What the module of a classifier offers."""

    @property
    def SETTINGS(self) -> Settings:
        """Return the settings of the paper, or those that are used where it has none."""
        ...

    def fit(self, task: Task, /) -> Tensors:
        """Train and return all that the network is made of.

        Raises:
            TrainingError: the training gives no usable numbers.
            WeightsError: first weights that do not fit.
        """
        ...

    def network(self, tensors: Tensors, /, *, classes: int, channels: int, device: str) -> Network:
        """Return the network that ``fit`` returned.

        Raises:
            WeightsError: tensors of another architecture or another number of classes.
        """
        ...


def model_named(name: str) -> Model:
    """Return the module of a classifier; only then what it needs is imported.

    Raises:
        WeightsError: there is none of this name.
    """
    match name:
        case "mlp_hog":
            from wafer.classifier import mlp_hog

            return mlp_hog
        case "mlp":
            from wafer.classifier import mlp

            return mlp
        case "xgboost":
            from wafer.classifier import xgboost_hog

            return xgboost_hog
        case "efficientnet_b3":
            from wafer.classifier import efficientnet_b3

            return efficientnet_b3
        case "efficientnet_b7":
            from wafer.classifier import efficientnet_b7

            return efficientnet_b7
        case "efficientnet_lite0":
            from wafer.classifier import efficientnet_lite0

            return efficientnet_lite0
        case "inception_v3":
            from wafer.classifier import inception_v3

            return inception_v3
        case "resnet50":
            from wafer.classifier import resnet50

            return resnet50
    raise WeightsError(f"no classifier is called {name!r}; this model is of a newer wafer")
