"""A trained classifier ready to answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch  # noqa: TID253

from wafer.classifier.models import Features, Images, Logits, Network, model_named
from wafer.datasets.errors import WeightsError
from wafer.evaluation.temperature import probabilities
from wafer.evaluation.unknown import unit_length
from wafer.inference.bundle import WEIGHTS, is_bundle, open_bundle
from wafer.inference.deciding import class_decision_of
from wafer.inference.records import Predictor, TopOne
from wafer.inference.rejecting import network_tensors
from wafer.weights.checkpoint import Checkpoint, read_checkpoint

__all__ = ["TEMPERATURE", "Classifier", "load_classifier", "look_at", "model_file"]

TEMPERATURE = "temperature"
"""The tensor of a model file that the logits are divided by."""
BATCH = 64


class ClassifierEngine:
    """A classifier as an ``Engine`` of the inference room; its boxes are the whole input."""

    def __init__(self, network: Network, *, temperature: float) -> None:
        self._network: Network | None = network
        self._temperature = temperature

    def infer(self, images: Images, /) -> TopOne:
        """Return the calibrated probability of each class, and features of length 1.

        In float32, as bundles answer: the thresholds of `--reject` are fitted on such numbers, and
        one of 0 for ``softmax`` would reject a confidence that is below 1 in float64 alone.
        """
        if self._network is None:
            raise ValueError("this engine was closed")
        logits, features = self._network.look(images)
        found = probabilities(logits, temperature=self._temperature).astype(np.float32)
        frame = np.array([0, 0, images.shape[2], images.shape[1]], np.float32)
        direction = unit_length(features).astype(np.float32)
        return TopOne.of(np.tile(frame, (len(images), 1)), found, direction)

    def close(self) -> None:
        """Let go of the network."""
        self._network = None


@dataclass(frozen=True, slots=True)
class Classifier:
    """A model file and the network built from it."""

    checkpoint: Checkpoint
    network: Network
    temperature: float

    @property
    def predictor(self) -> Predictor:
        """Return the classifier as the inference room wants it."""
        checkpoint = self.checkpoint
        return Predictor(
            model=checkpoint.label,
            engine=ClassifierEngine(self.network, temperature=self.temperature),
            classes=checkpoint.classes,
            decide=class_decision_of(checkpoint.classes, checkpoint.decision),
            image_size=checkpoint.image_size,
            colour=checkpoint.colour,
            white_level=checkpoint.white_level,
            boxless=True,
        )


def model_file(path: Path) -> Path:
    """Return the model file of a bundle, or the file itself.

    Raises:
        DataError: a bundle with files that are missing or altered.
    """
    return open_bundle(path).folder / WEIGHTS if is_bundle(path) else path


def load_classifier(path: Path, *, device: str = "auto") -> Classifier:
    """Read a model file, or that of a bundle, and build its network.

    Raises:
        DataError: a bundle with files that are missing or altered.
        WeightsError: the file is damaged, altered, or of another architecture.
        TrainingError: the device is not to be had.
    """
    path = model_file(path)
    checkpoint = read_checkpoint(path)
    tensors = network_tensors(checkpoint.tensors)
    temperature = tensors.pop(TEMPERATURE, None)
    model = model_named(checkpoint.architecture)
    if temperature is None or temperature.numel() != 1 or not float(temperature) > 0:
        raise WeightsError(f"{path}: no usable temperature; train the model again")
    _check_finite(tensors, path)
    try:
        network = model.network(
            tensors,
            classes=len(checkpoint.classes),
            channels=checkpoint.channels,
            device=device,
        )
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    return Classifier(checkpoint, network, float(temperature))


def look_at(network: Network, images: Images) -> tuple[Logits, Features]:
    """Return logits and features of many images, some of them at a time; see `Network.look`."""
    parts = [network.look(images[i : i + BATCH]) for i in range(0, len(images), BATCH)]
    logits, features = zip(*parts, strict=True)
    return np.concatenate(logits), np.concatenate(features)


def _check_finite(tensors: dict[str, torch.Tensor], path: Path) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise WeightsError(
                f"{path}: numbers of {name} are not finite; its training diverged, train it again"
            )
