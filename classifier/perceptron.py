"""A multi-layer perceptron on features: fitted by scikit-learn, at work without it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch  # noqa: TID253 - tensors are what model files hold
from numpy.typing import NDArray

from wafer.classifier.course import Course
from wafer.classifier.models import Images, Logits, Task
from wafer.datasets.errors import DivergedError, TrainingError, WeightsError
from wafer.weights.loading import Tensors

__all__ = ["Perceptron", "fit_perceptron", "read_perceptron"]

HIDDEN = (256,)
LAYER = re.compile(r"layer\.(\d+)\.weight")

Floats = NDArray[np.float32]
Features = Callable[[Images], Floats]


class Perceptron:
    """Features, standardised, through layers with ReLU between them."""

    def __init__(
        self,
        features: Features,
        *,
        mean: Floats,
        scale: Floats,
        layers: Sequence[tuple[Floats, Floats]],
    ) -> None:
        self._features = features
        self._mean, self._scale = mean, scale
        self._layers = layers

    def logits(self, images: Images, /) -> Logits:
        """Return one number for each class, shape (N, classes)."""
        return self.logits_of(self._features(images))

    def look(self, images: Images, /) -> tuple[Logits, Floats]:
        """Return the same, and what the last layer was given, shape (N, hidden)."""
        logits, active = self._through(self._features(images))
        return logits, active.astype(np.float32)

    def logits_of(self, features: Floats) -> Logits:
        """Return the same for features that were computed before, shape (N, features)."""
        return self._through(features)[0]

    def _through(self, features: Floats) -> tuple[Logits, Logits]:
        """Return what the last layer gives, and what it was given."""
        # in float64, where a sum over features does not depend on how many rows there are
        signal: Logits = (features.astype(np.float64) - self._mean) / self._scale
        active = signal
        for position, (weight, bias) in enumerate(self._layers):
            active = signal if position == 0 else np.maximum(signal, 0)
            signal = np.asarray(active @ weight + bias, np.float64)
        return signal, active


def fit_perceptron(task: Task, features: Features) -> Tensors:
    """Fit a perceptron by SGD with a constant learning rate and log-loss.

    The epoch with the lowest loss on validation is kept.

    Raises:
        DivergedError: the weights grow beyond all bounds.
        TrainingError: features that are no numbers.
    """
    from sklearn.neural_network import MLPClassifier
    from sklearn.preprocessing import StandardScaler

    settings = task.settings
    train, val = features(task.train.pixels), features(task.val.pixels)
    if not (np.isfinite(train).all() and np.isfinite(val).all()):
        raise TrainingError("features of some images are no numbers, so nothing can be learnt")
    scaler = StandardScaler().fit(train)
    mean, scale = scaler.mean_.astype(np.float32), scaler.scale_.astype(np.float32)
    standard = (train - mean) / scale
    mlp = MLPClassifier(
        HIDDEN,
        solver="sgd",
        learning_rate="constant",
        learning_rate_init=settings.learning_rate,
        batch_size=min(settings.batch, len(train)),
        max_iter=settings.epochs + 1,  # a call of partial_fit is one epoch
        random_state=np.random.RandomState(task.seed),  # a number would repeat the first order
    )
    course = Course(task.folder, settings.patience)
    kept: Sequence[tuple[Floats, Floats]] = ()
    for epoch in range(1, settings.epochs + 1):
        try:
            mlp.partial_fit(standard, task.train.labels, classes=np.arange(task.classes))
        except ValueError as error:
            raise DivergedError(f"the training diverged ({error}); give a smaller --lr0") from error
        layers = _layers(mlp.coefs_, mlp.intercepts_)
        network = Perceptron(features, mean=mean, scale=scale, layers=layers)
        if course.add_logits(mlp.loss_, network.logits_of(val), task.val.labels):
            kept = layers
        if task.progress is not None:
            task.progress(epoch, settings.epochs, 1, 1)
        if course.over:
            break
    return _tensors(mean, scale, kept)


def read_perceptron(
    tensors: Tensors, *, features: Features, inputs: int, classes: int
) -> Perceptron:
    """Return the perceptron of a model file.

    Args:
        tensors: as ``fit_perceptron`` returned them.
        features: of images.
        inputs: how many there are.
        classes: of the class table.

    Raises:
        WeightsError: tensors that are missing, of another shape, or no numbers.
    """
    numbers = sorted(int(found[1]) for name in tensors if (found := LAYER.fullmatch(name)))
    try:
        layers = [_layer(tensors, number) for number in numbers]
        mean, scale = _array(tensors["mean"]), _array(tensors["scale"])
    except KeyError as error:
        raise WeightsError(f"this model has no tensor {error}; train it again") from error
    sizes = [inputs, *(weight.shape[1] for weight, _ in layers)]
    shapes = [(weight.shape, bias.shape) for weight, bias in layers]
    wanted = [((a, b), (b,)) for a, b in pairwise(sizes)]
    if mean.shape != (inputs,) or scale.shape != (inputs,) or shapes != wanted or not layers:
        raise WeightsError("the tensors of this model do not fit together; train it again")
    if sizes[-1] != classes:
        raise WeightsError(f"this model answers {sizes[-1]} classes, its table has {classes}")
    return Perceptron(features, mean=mean, scale=scale, layers=layers)


def _layers(weights: Sequence[Floats], biases: Sequence[Floats]) -> list[tuple[Floats, Floats]]:
    """Copy the layers of scikit-learn, which has one output for two classes."""
    layers = [(w.copy(), b.copy()) for w, b in zip(weights, biases, strict=True)]
    last, bias = layers[-1]
    if last.shape[1] == 1:
        layers[-1] = (np.hstack([np.zeros_like(last), last]), np.append(np.zeros_like(bias), bias))
    return layers


def _tensors(mean: Floats, scale: Floats, layers: Sequence[tuple[Floats, Floats]]) -> Tensors:
    named = {"mean": mean, "scale": scale}
    for number, (weight, bias) in enumerate(layers):
        named |= {f"layer.{number}.weight": weight, f"layer.{number}.bias": bias}
    return {
        name: torch.from_numpy(np.ascontiguousarray(array, np.float32))
        for name, array in named.items()
    }


def _layer(tensors: Tensors, number: int) -> tuple[Floats, Floats]:
    return _array(tensors[f"layer.{number}.weight"]), _array(tensors[f"layer.{number}.bias"])


def _array(tensor: torch.Tensor) -> Floats:
    return np.asarray(tensor.numpy(), np.float32)
