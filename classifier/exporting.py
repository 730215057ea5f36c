"""`wafer export` of a classifier: its model file becomes a bundle that answers without torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch  # noqa: TID253
from numpy.typing import NDArray

from wafer.classifier.cnn import TorchClassifier
from wafer.classifier.deployed import DeployedClassifier
from wafer.classifier.loading import load_classifier
from wafer.classifier.names import NETWORKS
from wafer.datasets.errors import WeightsError
from wafer.datasets.runs import MODEL_FILE
from wafer.datasets.workspace import Workspace
from wafer.evaluation.rejecting import Method
from wafer.inference.bundle import DESCRIPTION, GOLDEN, TOLERANCES, Bundle, Precision
from wafer.inference.exporting import GOLDEN_IMAGES, describe, golden_candidates, write_networks
from wafer.inference.golden import Golden, Tolerance
from wafer.inference.registry import add_bundle
from wafer.inference.rejecting import rejection_of
from wafer.inference.usual import usual_answers

__all__ = ["export_classifier"]


def export_classifier(
    workspace: Workspace,
    model: Path,
    *,
    precision: Precision = "f32",
    reject: Method | None = None,
) -> Bundle:
    """Make a bundle of a network in the models folder of a workspace.

    Its golden images are those of the validation images, class by class, on which it decides
    clearly. Exported again with the same tools on the same processor, the same model over the same
    images gives the same bundle.

    Args:
        workspace: whose images are the golden ones.
        model: a run folder or model file.
        precision: what engines compute in, ``f32`` or ``bf16``.
        reject: the method by which images of no class are told where a command names none; None
            for not at all.

    Raises:
        WeightsError: a damaged model, one that no graph can hold, no image to look at, ``int8``, or
            a model that keeps nothing to tell images of no class by.
    """
    path = model / MODEL_FILE if model.is_dir() else model
    classifier = load_classifier(path, device="cpu")
    checkpoint, network = classifier.checkpoint, classifier.network
    if not isinstance(network, TorchClassifier):
        raise WeightsError(
            f"{checkpoint.architecture} runs from its model file alone; bundles are made of "
            f"detectors and of {', '.join(NETWORKS)}"
        )
    if precision == "int8":
        raise WeightsError(
            "int8 is for detectors; export a classifier with --precision bf16 or f32"
        )
    rejection_of(path, reject, classes=len(checkpoint.classes))
    tolerance = TOLERANCES[precision]
    deployed = DeployedClassifier(
        network, temperature=classifier.temperature, image_size=checkpoint.image_size
    )
    images = golden_candidates(workspace, checkpoint)
    golden = _golden(deployed, images, tolerance)
    description = describe(
        checkpoint,
        model,
        precision=precision,
        golden_images=len(golden),
        boxless=True,
        reject=reject,
        tools={},
        usual=usual_answers(workspace, classifier.predictor, known=golden.features),
    )

    def fill(folder: Path) -> None:
        write_networks(folder, weights=path, network=deployed, images=images)
        (folder / GOLDEN).write_bytes(golden.to_bytes())
        (folder / DESCRIPTION).write_bytes(description.to_bytes())

    return add_bundle(workspace.models, fill)


def _golden(network: DeployedClassifier, images: NDArray[np.uint8], tolerance: Tolerance) -> Golden:
    """Return the images whose best class leads by more than twice the tolerance first."""
    with torch.inference_mode():
        boxes, scores, features = (each.numpy() for each in network(torch.from_numpy(images)))
    rivals = scores >= scores.max(axis=1, keepdims=True) - 2 * tolerance.score
    decided = rivals.sum(axis=1) == 1
    chosen = np.argsort(~decided, kind="stable")[:GOLDEN_IMAGES]
    return Golden(
        images=images[chosen],
        boxes=boxes[chosen],
        scores=scores[chosen],
        features=features[chosen],
        decided=decided[chosen],
    )
