"""What a model answers for validation images, summed up: what drift is measured against."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from wafer.datasets.workspace import Workspace
from wafer.inference.pipeline import classify
from wafer.inference.records import Predictor
from wafer.inference.sources import ImageInput
from wafer.inference.tally import Tally, Totals

__all__ = ["usual_answers"]

MOST = 500
ITSELF = 1e-3
"""An image that is nearer to a known one is that image, and its distance says nothing."""


def usual_answers(
    workspace: Workspace, predictor: Predictor, *, known: NDArray[np.float32]
) -> Totals | None:
    """Return what a model answers for validation images, at most 500 of them, evenly chosen.

    Args:
        workspace: whose validation images.
        predictor: the model.
        known: features to which distances are measured, shape (N, features).

    Returns:
        None where there is no validation image that can be read.
    """
    images = [sample.image for sample in workspace.samples() if sample.split == "val"]
    step = -(-len(images) // MOST) or 1
    inputs = [ImageInput(workspace.image_path(image), image) for image in images[::step]]
    tally = Tally()
    for row in classify(inputs, replace(predictor, known=known)):
        if row.prediction is None or row.appearance is None:
            continue
        values = row.appearance._asdict()
        if row.appearance.distance is not None and row.appearance.distance < ITSELF:
            values["distance"] = None
        answer = row.prediction
        tally.add(answer.class_name, answer.decision, {"confidence": answer.confidence, **values})
    totals = tally.totals()
    return totals if totals.images else None
