"""`wafer classify`: a detector's answer for every image file."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from wafer.datasets.workspace import Workspace, open_workspace, workspace_folder
from wafer.detector.loading import choose_model, load_detector
from wafer.inference.output import Progress, Summary, check_output, classify_to_file

__all__ = ["classify_images"]

log = logging.getLogger(__name__)


def classify_images(
    images: Sequence[str],
    *,
    weights: Path | None = None,
    workspace: Path | None = None,
    output: Path,
    recursive: bool = False,
    batch: int = 16,
    device: str = "auto",
    force: bool = False,
    progress: Progress | None = None,
) -> Summary:
    """Write one row for each image that the arguments mean.

    Args:
        images: folders, patterns, list files or single files.
        weights: a run folder or model file; None takes the model of the workspace.
        workspace: its folder; None takes the one at or above the current folder, if there is one.
        output: a ``.csv`` or ``.jsonl`` file.
        recursive: walk into sub-folders of folders.
        batch: images a step.
        device: ``auto``, ``cpu`` or ``cuda:N``.
        force: replace ``output`` where it exists.
        progress: called after each row with the rows done and their number.

    Raises:
        WeightsError: no model, or a damaged one.
        WaferError: the output exists or cannot be written.
        DataError: an argument that means no image.
    """
    check_output(output, force=force)
    path = choose_model(_workspace(workspace), weights=weights)
    detector = load_detector(path, device=device)
    log.info("model %s (%s)", detector.checkpoint.label, path)
    return classify_to_file(
        images,
        detector.predictor,
        output,
        recursive=recursive,
        batch=batch,
        force=force,
        progress=progress,
    )


def _workspace(folder: Path | None) -> Workspace | None:
    found = workspace_folder() if folder is None else folder
    return None if found is None else open_workspace(found)
