"""What a detector keeps of its training images, to tell images of no class by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch  # noqa: TID253

from wafer.datasets.classes import ClassTable
from wafer.datasets.records import Sample
from wafer.datasets.workspace import Workspace
from wafer.detector.model import Floats, TorchEngine
from wafer.detector.plan import TrainingImage, TrainingPlan
from wafer.detector.precision import CpuModel
from wafer.detector.prediction import load_letterboxed
from wafer.evaluation.answers import true_classes
from wafer.evaluation.rejecting import Method, Seen, fit_known, kept_images
from wafer.evaluation.unknown import unit_length
from wafer.inference.deciding import decision_of
from wafer.inference.preprocess import Letterboxed
from wafer.inference.records import TopOne
from wafer.inference.rejecting import known_arrays
from wafer.weights.decision_rule import DecisionRule
from wafer.weights.loading import Tensors

__all__ = ["METHODS", "known_tensors"]

METHODS: tuple[Method, ...] = ("softmax", "nn", "mahalanobis")
"""All but OpenMax, which wants the logits of classes that exclude each other."""
BATCH = 32


def known_tensors(
    model: CpuModel,
    plan: TrainingPlan,
    val: Sequence[Sample],
    *,
    workspace: Workspace,
    image_size: int,
    rule: DecisionRule,
    seed: int,
) -> Tensors:
    """Return what a model file keeps, fitted on the images of one known class.

    Nothing where there are none of them in training or in validation.

    Args:
        model: in evaluation mode.
        plan: what was trained.
        val: validation images.
        workspace: says where these are.
        image_size: side of the letterboxed input in pixels.
        rule: by which it answers.
        seed: decides which images of a large class are kept.

    Raises:
        ImageError: an image cannot be decoded.
    """
    classes = workspace.classes
    none = None if classes.none_class is None else classes.none_class.name
    pairs = [(image.path, _only_class(image, plan.names, none)) for image in plan.train]
    shown = [(path, classes.names.index(name)) for path, name in pairs if name is not None]
    judges = [
        workspace.image_path(sample.image)
        for sample in val
        if len(true_classes(sample, none_class=none)) == 1
    ]
    if not (shown and judges):
        return {}
    labels = np.array([label for _, label in shown], np.int64)
    kept = kept_images(labels, seed=seed)
    load = partial(
        load_letterboxed, image_size=image_size, colour=plan.colour, white_level=plan.white_level
    )
    look = partial(_seen, model, classes=classes, load=load, rule=rule)
    known = fit_known(
        look([shown[position][0] for position in kept]),
        labels[kept],
        val=look(judges),
        classes=len(classes),
        methods=METHODS,
    )
    return {name: torch.from_numpy(array) for name, array in known_arrays(known).items()}


def _only_class(image: TrainingImage, names: Sequence[str], none: str | None) -> str | None:
    """Return the one class of a training image, None where it has several or nobody knows."""
    shown = {names[position] for position in image.classes}
    return none if not shown else min(shown) if len(shown) == 1 else None


def _seen(
    model: CpuModel,
    images: Sequence[Path],
    *,
    classes: ClassTable,
    load: Callable[[Path], Letterboxed],
    rule: DecisionRule,
) -> Seen:
    decide = decision_of(classes, rule)
    answered, confidence = [], []
    scores: list[Floats] = []
    features: list[Floats] = []
    for found in _looked(model, images, load):
        for row, label in zip(found.scores, found.classes, strict=True):
            answer = decide(float(row.max()), classes.detector_names[label], None)
            answered.append(classes.names.index(answer.class_name))
            confidence.append(answer.confidence)
        scores.append(np.asarray(found.scores, np.float32))
        assert found.features is not None
        features.append(unit_length(found.features).astype(np.float32))
    return Seen(
        answered=np.array(answered, np.int64),
        confidence=np.array(confidence, np.float64),
        scores=np.concatenate(scores),
        features=np.concatenate(features),
    )


def _looked(
    model: CpuModel, images: Sequence[Path], load: Callable[[Path], Letterboxed]
) -> Iterator[TopOne]:
    engine = TorchEngine(model)
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(images), BATCH):
            ready = pool.map(load, images[start : start + BATCH])
            yield engine.infer(np.stack([each.image for each in ready]))
