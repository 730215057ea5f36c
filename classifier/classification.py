"""`wafer classify` with a classifier: its class for every image file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from wafer.classifier.choosing import classifier_meant
from wafer.classifier.torch_backend import torch_backend
from wafer.datasets.errors import WeightsError
from wafer.datasets.workspace import Workspace
from wafer.inference.classification import OnTorch, Options, TorchModel, classify_with
from wafer.inference.output import Summary

__all__ = ["classify_with_classifier"]


def classify_with_classifier(
    images: Sequence[str],
    *,
    workspace: Workspace | None = None,
    **options: Unpack[Options],
) -> Summary:
    """Write one row for each image that the arguments mean; all as for `classify_with`."""
    on_torch = OnTorch(backend=torch_backend, load=_load)
    return classify_with(on_torch, images, workspace=workspace, **options)


def _load(place: Workspace | None, weights: Path | None, device: str) -> TorchModel:
    from wafer.classifier.loading import load_classifier

    path = classifier_meant(place, weights=weights)
    if path is None:
        raise WeightsError("no classifier was trained here yet; run `wafer train`")
    classifier = load_classifier(path, device=device)
    return TorchModel(
        path=path, digest=classifier.checkpoint.digest, predictor=classifier.predictor
    )
