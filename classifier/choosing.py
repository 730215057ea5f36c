"""Whether the model that a command means is a classifier, found out without torch."""

from __future__ import annotations

from pathlib import Path

from wafer.classifier.names import CLASSIFIERS
from wafer.datasets.runs import MODEL_FILE, newest_finished_run
from wafer.datasets.workspace import Workspace
from wafer.inference.bundle import WEIGHTS
from wafer.inference.registry import named_bundle
from wafer.weights.description import described_architecture

__all__ = ["classifier_meant"]


def classifier_meant(workspace: Workspace | None, *, weights: Path | None) -> Path | None:
    """Return the bundle or model file of the classifier that a command means, else None.

    That is ``weights`` (a run folder, a bundle or a model file) where it is given, else the
    promoted bundle of the workspace, else its newest finished run.

    Raises:
        DataError: ``models/current`` is damaged.
    """
    bundle = named_bundle(workspace, weights=weights)
    if bundle is not None:
        return bundle if described_architecture(bundle / WEIGHTS) in CLASSIFIERS else None
    if weights is None:
        run = None if workspace is None else newest_finished_run(workspace.runs)
        weights = None if run is None else run.folder
    if weights is None:
        return None
    path = weights / MODEL_FILE if weights.is_dir() else weights
    return path if described_architecture(path) in CLASSIFIERS else None
