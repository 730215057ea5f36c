"""What a classifier keeps of its training images, to tell images of no class by."""

from __future__ import annotations

import torch  # noqa: TID253

from wafer.classifier.loading import look_at
from wafer.classifier.models import Features, Logits, Network, Task
from wafer.datasets.errors import DivergedError
from wafer.evaluation.rejecting import Seen, fit_known, kept_images
from wafer.evaluation.temperature import probabilities
from wafer.evaluation.unknown import unit_length
from wafer.inference.rejecting import known_arrays
from wafer.weights.loading import Tensors

__all__ = ["known_tensors", "seen"]


def known_tensors(network: Network, task: Task, *, val: Seen, temperature: float) -> Tensors:
    """Return what a model file keeps, fitted on the images of a training.

    Args:
        network: what was trained.
        task: the training.
        val: what the network gives for its validation images.
        temperature: what logits are divided by.

    Raises:
        DivergedError: the network gives features that are no numbers.
    """
    kept = kept_images(task.train.labels, seed=task.seed)
    train = seen(*look_at(network, task.train.pixels[kept]), temperature=temperature)
    try:
        known = fit_known(train, task.train.labels[kept], val=val, classes=task.classes)
    except ValueError as error:
        raise DivergedError(f"the training gave no usable network: {error}") from error
    return {name: torch.from_numpy(array) for name, array in known_arrays(known).items()}


def seen(logits: Logits, features: Features, *, temperature: float) -> Seen:
    """Return what a network gave for some images as it is judged by."""
    return Seen.of(probabilities(logits, temperature=temperature), unit_length(features))
