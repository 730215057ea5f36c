"""What a classifier keeps of its training images, to tell images of no class by."""

from __future__ import annotations

import numpy as np
import torch  # noqa: TID253

from wafer.classifier.models import Images, Network, Task
from wafer.datasets.errors import TrainingError
from wafer.evaluation.rejecting import Seen, fit_known, kept_images
from wafer.evaluation.temperature import probabilities
from wafer.evaluation.unknown import unit_length
from wafer.inference.rejecting import known_arrays
from wafer.weights.loading import Tensors

__all__ = ["known_tensors", "seen_by"]

BATCH = 64


def known_tensors(network: Network, task: Task, *, temperature: float) -> Tensors:
    """Return what a model file keeps, fitted on the images of a training.

    Raises:
        TrainingError: the network gives features that are no numbers.
    """
    kept = kept_images(task.train.labels, seed=task.seed)
    train = seen_by(network, task.train.pixels[kept], temperature=temperature)
    val = seen_by(network, task.val.pixels, temperature=temperature)
    try:
        known = fit_known(train, task.train.labels[kept], val=val, classes=task.classes)
    except ValueError as error:
        raise TrainingError(f"the training gave no usable network: {error}") from error
    return {name: torch.from_numpy(array) for name, array in known_arrays(known).items()}


def seen_by(network: Network, images: Images, *, temperature: float) -> Seen:
    """Return what a network gives for images, some of them at a time."""
    logits, features = zip(
        *(network.look(images[i : i + BATCH]) for i in range(0, len(images), BATCH)), strict=True
    )
    found = probabilities(np.concatenate(logits), temperature=temperature)
    return Seen.of(found, unit_length(np.concatenate(features)))
