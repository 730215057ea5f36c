"""`wafer classify` with a classifier: its class for every image file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wafer.classifier.choosing import classifier_meant
from wafer.classifier.torch_backend import torch_backend
from wafer.datasets.errors import WeightsError
from wafer.datasets.workspace import Workspace
from wafer.inference.classification import OnTorch, TorchModel, classify_with
from wafer.inference.engines.choosing import AUTO
from wafer.inference.output import Progress, Summary

__all__ = ["classify_with_classifier"]


def classify_with_classifier(
    images: Sequence[str],
    *,
    weights: Path | None = None,
    workspace: Workspace | None = None,
    output: Path,
    recursive: bool = False,
    batch: int = 16,
    device: str = "auto",
    engine: str = AUTO,
    where: Sequence[str] = (),
    save_images: Path | None = None,
    crops: Path | None = None,
    explain: Path | None = None,
    reject: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Summary:
    """Write one row for each image that the arguments mean.

    Args:
        images: folders, patterns, list files or single files; ``-`` for a list on standard input.
        weights: a run folder, model file or bundle; None takes the model of the workspace.
        workspace: where that is.
        output: a ``.csv``, ``.jsonl`` or ``.parquet`` file.
        recursive: walk into sub-folders of folders.
        batch: images a step.
        device: ``auto``, ``cpu`` or ``cuda:N``; a bundle runs on a GPU only where one is named.
        engine: what runs a bundle: ``openvino``, ``onnxruntime``, ``torch``, or ``auto`` for the
            fastest that gives its golden answers. Other models run on torch.
        where: conditions ``COLUMN=VALUE`` on the rows that are written.
        save_images: a new folder for copies of the images of these rows.
        crops: a new folder for what is in the boxes, where there are any.
        explain: a new folder for copies that show what made the model decide; slow.
        reject: how images of no class are told: ``softmax``, ``openmax``, ``nn``,
            ``mahalanobis``, or ``none``; None leaves it to the bundle.
        force: replace ``output`` where it exists.
        progress: called after each row with the rows done and their number.

    Raises:
        WeightsError: no classifier, a damaged one, or an engine that cannot run it.
        WaferError: the output exists or cannot be written, a folder for pictures that is not empty,
            or a condition that is none.
        DataError: an argument that means no image, or a bundle with missing or altered files.
    """
    return classify_with(
        OnTorch(backend=torch_backend, load=_load),
        images,
        weights=weights,
        workspace=workspace,
        output=output,
        recursive=recursive,
        batch=batch,
        device=device,
        engine=engine,
        where=where,
        save_images=save_images,
        crops=crops,
        explain=explain,
        reject=reject,
        force=force,
        progress=progress,
    )


def _load(place: Workspace | None, weights: Path | None, device: str) -> TorchModel:
    from wafer.classifier.loading import load_classifier

    path = classifier_meant(place, weights=weights)
    if path is None:
        raise WeightsError("no classifier was trained here yet; run `wafer train`")
    classifier = load_classifier(path, device=device)
    return TorchModel(
        path=path, digest=classifier.checkpoint.digest, predictor=classifier.predictor
    )
