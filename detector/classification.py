"""`wafer classify` with a detector: the best box of every image file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Unpack

from wafer.datasets.errors import WaferError, WeightsError
from wafer.datasets.workspace import Workspace, workspace_if_any
from wafer.detector.torch_backend import torch_backend
from wafer.inference.all_boxes import CONFIDENCE
from wafer.inference.classification import OnTorch, Options, TorchModel, classify_with
from wafer.inference.engines.backend import TORCH
from wafer.inference.engines.choosing import AUTO
from wafer.inference.output import Summary

__all__ = ["classify_images"]


def classify_images(
    images: Sequence[str],
    *,
    workspace: Path | None = None,
    all_boxes: Path | None = None,
    min_confidence: float | None = None,
    **options: Unpack[Options],
) -> Summary:
    """Write one row for each image that the arguments mean.

    Args:
        images: as for `classify_with`.
        workspace: its folder; None takes the one at or above the current folder, if there is one.
        all_boxes: a ``.json`` or ``.jsonl`` file for every box of these rows; needs torch.
        min_confidence: the score above which a box is one of them, 0 to 1; None is 0.25.
        options: as for `classify_with`.

    Raises:
        WeightsError, WaferError, DataError: as `classify_with`.
    """
    above = _above(all_boxes, min_confidence)
    if above is not None:
        if (engine := options.get("engine", AUTO)) not in (AUTO, TORCH):
            raise WeightsError(f"--all-boxes runs on torch; leave out --engine {engine}")
        options["engine"] = TORCH
    on_torch = OnTorch(
        backend=partial(torch_backend, above=above),
        load=partial(_load, above=above),
        boxes=all_boxes,
        about="" if above is None else f", boxes above {above}",
    )
    return classify_with(on_torch, images, workspace=workspace_if_any(workspace), **options)


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
