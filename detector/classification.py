"""`wafer classify` with a detector: the best box of every image file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from wafer.datasets.errors import WaferError, WeightsError
from wafer.datasets.workspace import Workspace, open_workspace, workspace_folder
from wafer.detector.torch_backend import torch_backend
from wafer.inference.classification import OnTorch, TorchModel, classify_with
from wafer.inference.engines.backend import TORCH
from wafer.inference.engines.choosing import AUTO
from wafer.inference.output import Progress, Summary

__all__ = ["classify_images"]

CONFIDENCE = 0.25
"""The score from which on a box is one of all boxes, as in YOLOv5's detect.py."""


def classify_images(
    images: Sequence[str],
    *,
    weights: Path | None = None,
    workspace: Path | None = None,
    output: Path,
    recursive: bool = False,
    batch: int = 16,
    device: str = "auto",
    engine: str = AUTO,
    where: Sequence[str] = (),
    all_boxes: Path | None = None,
    min_confidence: float | None = None,
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
        workspace: its folder; None takes the one at or above the current folder, if there is one.
        output: a ``.csv``, ``.jsonl`` or ``.parquet`` file.
        recursive: walk into sub-folders of folders.
        batch: images a step.
        device: ``auto``, ``cpu`` or ``cuda:N``; a bundle runs on a GPU only where one is named.
        engine: what runs a bundle: ``openvino``, ``onnxruntime``, ``torch``, or ``auto`` for the
            fastest that gives its golden answers. Other models run on torch.
        where: conditions ``COLUMN=VALUE`` on the rows that are written.
        all_boxes: a ``.json`` or ``.jsonl`` file for every box of these rows; needs torch.
        min_confidence: the score above which a box is one of them, 0 to 1; None is 0.25.
        save_images: a new folder for copies of the images of these rows, with their boxes.
        crops: a new folder for what is in the boxes.
        explain: a new folder for copies that show what made the model decide; slow.
        reject: how images of no class are told: ``softmax``, ``openmax``, ``nn``,
            ``mahalanobis``, or ``none``; None leaves it to the bundle.
        force: replace ``output`` and ``all_boxes`` where they exist.
        progress: called after each row with the rows done and their number.

    Raises:
        WeightsError: no model, a damaged one, or an engine that cannot run it.
        WaferError: the output exists or cannot be written, a folder for pictures that is not empty,
            or a condition that is none.
        DataError: an argument that means no image, or a bundle with missing or altered files.
    """
    above = _above(all_boxes, min_confidence)
    if above is not None:
        if engine not in (AUTO, TORCH):
            raise WeightsError(f"--all-boxes runs on torch; leave out --engine {engine}")
        engine = TORCH
    return classify_with(
        OnTorch(
            backend=partial(torch_backend, above=above),
            load=partial(_load, above=above),
            boxes=all_boxes,
            about="" if above is None else f", boxes above {above}",
        ),
        images,
        weights=weights,
        workspace=_workspace(workspace),
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


def _above(all_boxes: Path | None, min_confidence: float | None) -> float | None:
    """Return the score above which all boxes are wanted, None where they are not."""
    if all_boxes is None and min_confidence is not None:
        raise WaferError("--min-confidence goes with --all-boxes FILE")
    above = CONFIDENCE if min_confidence is None else min_confidence
    if not 0 <= above <= 1:
        raise WaferError(f"--min-confidence must lie between 0 and 1, not {above}")
    return None if all_boxes is None else above


def _load(
    place: Workspace | None, weights: Path | None, device: str, *, above: float | None
) -> TorchModel:
    from wafer.detector.loading import choose_model, load_detector

    path = choose_model(place, weights=weights)
    detector = load_detector(path, device=device)
    predictor = replace(detector.predictor, engine=detector.engine(above=above))
    return TorchModel(path=path, digest=detector.checkpoint.digest, predictor=predictor)


def _workspace(folder: Path | None) -> Workspace | None:
    found = workspace_folder() if folder is None else folder
    return None if found is None else open_workspace(found)
