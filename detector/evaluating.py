"""Measuring a detector on a split of a workspace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from wafer.datasets.errors import DataError, Fault
from wafer.datasets.records import Sample
from wafer.datasets.seen import seen_before
from wafer.datasets.workspace import Workspace, dataset_hash, trusted
from wafer.detector.loading import Detector, choose_model, load_detector
from wafer.detector.prediction import Scored, score_samples
from wafer.evaluation.answers import UNTRUSTED_BOXES
from wafer.evaluation.records import Prediction
from wafer.evaluation.report import Evaluated, report_on
from wafer.evaluation.results import evaluate

__all__ = ["evaluate_model"]

Split = Literal["train", "val", "test", "all"]


def evaluate_model(
    workspace: Workspace,
    *,
    weights: Path | None = None,
    split: Split = "test",
    device: str = "auto",
    folder: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluated:
    """Measure a model on a split: answers on images of a known class, boxes where they are true.

    Boxes count that a person or a rule stands behind; of synthetic images those of ``truth/``.

    Args:
        workspace: the images and their labels.
        weights: a run folder or model file; None takes the workspace's own model.
        split: ``all`` is train, val and test together, and optimistic.
        device: ``auto``, ``cpu`` or ``cuda:N``.
        folder: where metrics.json, the figures and report.html go, by default
            ``runs/evaluate/<model>-<split>`` of the workspace.
        progress: called with (images done, images in all).

    Raises:
        WeightsError: no model, or one of other classes.
        DataError: no labelled image in the split, images that cannot be decoded, or faults in the
            workspace.
    """
    model = choose_model(workspace, weights=weights)
    detector = load_detector(model, device=device)
    detector.checkpoint.check_classes(workspace.classes)
    samples, excluded = _samples(workspace, split)
    if not samples:
        problem = f"no labelled image in the split {split}"
        remedy = "label some, or run `wafer split`"
        raise DataError([Fault(file=str(workspace.root), problem=problem, remedy=remedy)])
    scored = _score(detector, workspace, samples, progress)
    detections = [found for row in scored for found in row.detections]
    predictions = _predictions(detector, scored)
    result = evaluate(
        samples,
        predictions,
        classes=workspace.classes,
        detections=detections,
        sizes={row.image: row.size for row in scored},
        model=detector.checkpoint.label,
        dataset_hash=dataset_hash(workspace, samples),
        split=split,
        excluded=excluded,
        trained_on=seen_before(workspace, samples, model),
    )

    return report_on(
        workspace,
        result,
        samples=samples,
        predictions=predictions,
        detections=detections,
        folder=folder,
    )


def _samples(workspace: Workspace, split: Split) -> tuple[tuple[Sample, ...], dict[str, int]]:
    """Return the samples that say what is true of them, and how many others there are, by reason.

    Of those whose class alone is known, or vouched for, the boxes are None.
    """
    splits = ("train", "val", "test") if split == "all" else (split,)
    chosen: list[Sample] = []
    unlabelled = untrusted = 0
    for sample in workspace.true_samples():
        if sample.split not in splits:
            continue
        if trusted(sample):
            chosen.append(sample)
        elif sample.image_class is not None:
            chosen.append(replace(sample, annotations=None))
        elif sample.annotations is None:
            unlabelled += 1
        else:
            untrusted += 1
    excluded = {"excluded_unlabelled": unlabelled, UNTRUSTED_BOXES: untrusted}
    return tuple(chosen), excluded


def _score(
    detector: Detector,
    workspace: Workspace,
    samples: Sequence[Sample],
    progress: Callable[[int, int], None] | None,
) -> list[Scored]:
    rows = []
    checkpoint = detector.checkpoint
    for row in score_samples(
        detector.model,
        samples,
        workspace=workspace,
        classes=workspace.classes,
        image_size=checkpoint.image_size,
        colour=checkpoint.colour,
        white_level=checkpoint.white_level,
    ):
        rows.append(row)
        if progress is not None:
            progress(len(rows), len(samples))
    return rows


def _predictions(detector: Detector, scored: Sequence[Scored]) -> list[Prediction]:
    decide = detector.predictor.decide
    predictions = []
    for row in scored:
        name, box, confidence, decision, reason = decide(row.score, row.class_name, row.box)
        predictions.append(Prediction(row.image, box, name, confidence, decision, reason))
    return predictions
