"""Measuring a classifier on a split of a workspace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wafer.classifier.images import choose_images
from wafer.classifier.loading import load_classifier, model_file
from wafer.datasets.errors import DataError, Fault
from wafer.datasets.records import Sample, Split
from wafer.datasets.seen import seen_before
from wafer.datasets.workspace import Workspace, dataset_hash, trusted
from wafer.evaluation.answers import NO_TRUTH, SEVERAL_CLASSES, UNTRUSTED_BOXES
from wafer.evaluation.records import Prediction
from wafer.evaluation.report import Evaluated, report_on
from wafer.evaluation.results import Evaluation, evaluate
from wafer.inference.pipeline import classify
from wafer.inference.records import Predictor
from wafer.inference.sources import ImageInput

__all__ = ["Measured", "evaluate_classifier", "measure_answers"]

Progress = Callable[[int, int], None]


def evaluate_classifier(
    workspace: Workspace,
    path: Path,
    *,
    split: Literal["train", "val", "test", "all"] = "test",
    device: str = "auto",
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Evaluated:
    """Measure a classifier on the images of a split that have one known class.

    Args:
        workspace: the images and their classes.
        path: the model file.
        split: ``all`` is train, val and test together, and optimistic.
        device: ``auto``, ``cpu`` or ``cuda:N``.
        folder: where metrics.json, the figures and report.html go, by default
            ``runs/evaluate/<model>-<split>`` of the workspace.
        progress: called with (images done, images in all).

    Raises:
        WeightsError: a damaged model, or one of other classes.
        DataError: no image of a known class in the split, or images that cannot be decoded.
    """
    path = model_file(path)
    classifier = load_classifier(path, device=device)
    classifier.checkpoint.check_classes(workspace.classes)
    measured = measure_answers(
        workspace, classifier.predictor, split=split, model=path, progress=progress
    )
    return measured.report(workspace, folder=folder)


@dataclass(frozen=True, slots=True)
class Measured:
    """What a model answered to the images of a split, and how good that is."""

    evaluation: Evaluation
    samples: tuple[Sample, ...]
    predictions: tuple[Prediction, ...]

    def report(self, workspace: Workspace, *, folder: Path | None) -> Evaluated:
        """Write the report; ``folder`` as for `report_on`."""
        return report_on(
            workspace,
            self.evaluation,
            samples=self.samples,
            predictions=self.predictions,
            detections=None,
            folder=folder,
        )


def measure_answers(
    workspace: Workspace,
    predictor: Predictor,
    *,
    split: Literal["train", "val", "test", "all"],
    model: Path | None = None,
    progress: Progress | None = None,
) -> Measured:
    """Measure the one class that any model answers to an image, a detector's by its best box.

    Args:
        workspace: the images and their classes.
        predictor: a model of the classes of the workspace.
        split: ``all`` is train, val and test together.
        model: its file, where it is not known that it was trained on this split of the images.
        progress: called with (images done, images in all).

    Raises:
        DataError: no image of a known class in the split, or images that cannot be decoded.
    """
    samples, excluded = _samples(workspace, split)
    predictions = _predictions(predictor, workspace, samples, progress)
    evaluation = evaluate(
        samples,
        predictions,
        classes=workspace.classes,
        detections=None,
        sizes={},
        model=predictor.model,
        dataset_hash=dataset_hash(workspace, samples),
        split=split,
        excluded=excluded,
        trained_on=None if model is None else seen_before(workspace, samples, model),
    )
    return Measured(evaluation, samples, tuple(predictions))


def _samples(workspace: Workspace, split: str) -> tuple[tuple[Sample, ...], dict[str, int]]:
    """Return the samples of one true class, and how many others there are, by reason.

    Boxes of a model are no truth, in train neither, where a training learns from them.
    """
    splits: tuple[Split, ...] = ("train", "val", "test")
    wanted = [s for s in splits if split in (s, "all")]
    everything = [sample for sample in workspace.true_samples() if sample.split in wanted]
    told = [s for s in everything if s.image_class or s.annotations is None or trusted(s)]
    parts = [choose_images(workspace, told, s) for s in wanted]
    samples = tuple(sample for part in parts for sample in part.samples)
    if not samples:
        problem = f"no image of a known class in the split {split}"
        remedy = "give images a class in image_labels.csv, or run `wafer split`"
        raise DataError([Fault(file=str(workspace.root), problem=problem, remedy=remedy)])
    several, no_truth = sum(p.several for p in parts), sum(p.no_truth for p in parts)
    return samples, {
        SEVERAL_CLASSES: several,
        NO_TRUTH: no_truth,
        UNTRUSTED_BOXES: len(everything) - len(told),
    }


def _predictions(
    predictor: Predictor,
    workspace: Workspace,
    samples: Sequence[Sample],
    progress: Progress | None,
) -> list[Prediction]:
    inputs = [ImageInput(workspace.image_path(s.image), s.image) for s in samples]
    predictions: list[Prediction] = []
    faults: list[Fault] = []
    for done, row in enumerate(classify(inputs, predictor), 1):
        if row.prediction is None:
            remedy = "replace the file or set its split to `unused`"
            faults.append(Fault(file=row.image, problem=row.error, remedy=remedy))
        else:
            predictions.append(row.prediction)
        if progress is not None:
            progress(done, len(samples))
    if faults:
        raise DataError(faults)
    return predictions
