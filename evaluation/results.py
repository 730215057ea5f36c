"""One evaluation of one model on one split: everything that metrics.json and the report say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wafer.datasets.classes import ClassTable
from wafer.datasets.records import Sample
from wafer.evaluation import metrics, reliability
from wafer.evaluation.answers import Answers, pair_answers
from wafer.evaluation.detection import (
    AveragePrecision,
    TopOneBoxes,
    average_precision,
    detection_confusion,
    looked_at,
    top_one_boxes,
)
from wafer.evaluation.metrics import ClassRates, Interval, KillerRates
from wafer.evaluation.records import Detection, Prediction
from wafer.evaluation.reliability import ReliabilityBin, RiskCoverage

__all__ = ["DEFINITIONS", "SELECTIVE_ACCURACIES", "Evaluation", "evaluate"]

NOT_LOOKED_AT = "excluded_from_boxes_not_looked_at"
SELECTIVE_ACCURACIES = (0.95, 0.98, 0.99)
DIGITS = 6

# What a reader must know to compare these numbers with others.
DEFINITIONS = {
    "truth": "class of the image; without one the class of its boxes, or no defect where somebody "
    "looked and drew none; images with several classes or without truth are left out and counted",
    "confidence": "confidence of the answer as the model gives it, not recalibrated here; answers "
    "of no defect count like all others, and no image is left out because of its answer",
    "averages": "over images, not over classes; macro F1 is over the classes that occur in the "
    "truth or among the answers",
    "intervals": "Clopper-Pearson, two-sided 95 %; recall_lower one-sided 95 %",
    "ece": "15 bins of equal mass, equal confidences in one bin; ece_equal_width has 15 of equal "
    "width",
    "average_precision": "pycocotools bbox, IoU .50:.05:.95, 101 recall points, 100 boxes an "
    "image, all images whose boxes a person or a rule stands behind, empty ones included, classes "
    "without truth boxes null; "
    "local means classes of kind box",
    "box_precision": "mean over the classes with truth boxes at IoU 0.5 and the one score, "
    "box_score, where their mean F1 is highest, as YOLOv5 reports precision and recall; matched as "
    "for average precision",
    "detection_confusion": "scores of at least 0.25, IoU of at least 0.5; rows truth, columns "
    "found, the last of each background",
    "coverage_at_accuracy": "the threshold suits these images best, so it is a little optimistic",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What one model did on one split.

    ``trained_on`` counts images of another split than ``train`` that the training saw, None where
    that is not known.
    ``classes`` is the table that rows and columns follow. ``answers`` holds the images with one
    true class, ``confusion`` their counts, shape (classes, classes), rows truth, columns answers.
    ``rates`` follows the table. ``detection``, ``detection_confusion`` and ``boxes`` are None for
    a model that gives no boxes. ``excluded`` counts images left out, by reason.
    """

    model: str
    dataset_hash: str
    split: str
    trained_on: int | None
    classes: ClassTable
    answers: Answers
    confusion: NDArray[np.int64]
    rates: tuple[ClassRates, ...]
    killers: KillerRates
    bins: tuple[ReliabilityBin, ...]
    curve: RiskCoverage
    detection: AveragePrecision | None
    detection_confusion: NDArray[np.int64] | None
    boxes: TopOneBoxes | None
    excluded: dict[str, int]

    @property
    def n(self) -> int:
        """Return the number of images with one true class."""
        return len(self.answers.images)

    @property
    def optimistic(self) -> bool:
        """Return whether images that the model was trained on take part."""
        return self.split in ("all", "train") or bool(self.trained_on)

    @property
    def accuracy(self) -> float | None:
        """Return the share of right answers, whatever the decision."""
        return metrics.rate(int(self.answers.correct.sum()), self.n)

    @property
    def accuracy_interval(self) -> Interval | None:
        """Return the two-sided 95 % interval of the accuracy."""
        return metrics.clopper_pearson(int(self.answers.correct.sum()), self.n)

    @property
    def auto_rate(self) -> float | None:
        """Return the share of images decided without a person."""
        return metrics.rate(int(self.answers.automatic.sum()), self.n)

    @property
    def auto_accuracy(self) -> float | None:
        """Return the share of right answers among those decided without a person."""
        automatic = self.answers.automatic
        return metrics.rate(int((self.answers.correct & automatic).sum()), int(automatic.sum()))

    def to_dict(self) -> dict[str, Any]:
        """Return the evaluation as the JSON object of metrics.json, None for what does not apply.

        Floats are rounded to six digits.
        """
        parts = [self._headline(), self._identity(), self._further(), {"definitions": DEFINITIONS}]
        merged = {key: value for part in parts for key, value in part.items()}
        rounded: dict[str, Any] = _plain(merged)
        return rounded

    def _headline(self) -> dict[str, Any]:
        confidence, correct = self.answers.confidence, self.answers.correct
        detection = self.detection
        return {
            "n": self.n,
            "accuracy": self.accuracy,
            "macro_f1": metrics.macro_f1(self.rates),
            "mean_confidence": metrics.mean_confidence(confidence),
            "weighted_accuracy": metrics.weighted_accuracy(confidence, correct),
            "ece": reliability.calibration_error(self.bins),
            "map50": None if detection is None else detection.map50,
            "map50_95": None if detection is None else detection.map50_95,
            "map50_95_local": None if detection is None else detection.map50_95_local,
            "per_class": {name: self._class(i) for i, name in enumerate(self.classes.names)},
            "confusion": self._confusion(),
        }

    def _identity(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "dataset_hash": self.dataset_hash,
            "split": self.split,
            "optimistic": self.optimistic,
            "trained_on": self.trained_on,
            "excluded": self.excluded,
        }

    def _further(self) -> dict[str, Any]:
        confidence, correct = self.answers.confidence, self.answers.correct
        return {
            "accuracy_interval": self.accuracy_interval,
            "weighted_f1": metrics.weighted_f1(self.rates),
            "auto_rate": self.auto_rate,
            "auto_accuracy": self.auto_accuracy,
            "coverage_at_accuracy": {
                str(accuracy): reliability.coverage_at_accuracy(self.curve, accuracy=accuracy)
                for accuracy in SELECTIVE_ACCURACIES
            },
            "killer_images": self.killers.images,
            "killer_escape": self.killers.escape,
            "killer_escape_upper": self.killers.escape_upper,
            "killer_dismissed": self.killers.dismissed,
            "overkill": self.killers.overkill,
            "ece_equal_width": reliability.calibration_error(
                reliability.equal_width_bins(confidence, correct)
            ),
            "brier": reliability.brier_score(confidence, correct),
            "aurc": self.curve.area,
            "reliability": [asdict(b) for b in self.bins],
            **self._box_figures(),
        }

    def _box_figures(self) -> dict[str, Any]:
        detection, boxes, counts = self.detection, self.boxes, self.detection_confusion
        names = [*self.classes.detector_names, "background"]
        return {
            "map50_local": None if detection is None else detection.map50_local,
            "average_recall": None if detection is None else detection.recall,
            "box_precision": None if detection is None else detection.best_f1.precision,
            "box_recall": None if detection is None else detection.best_f1.recall,
            "box_score": None if detection is None else detection.best_f1.score,
            "top1_iou": None if boxes is None else boxes.mean_iou,
            "top1_iou_local": None if boxes is None else boxes.mean_iou_local,
            "top1_boxes_right": None if boxes is None else boxes.right,
            "top1_boxes_found": None if boxes is None else boxes.found,
            "detection_confusion": None if counts is None else {"classes": names, "counts": counts},
        }

    def _class(self, position: int) -> dict[str, Any]:
        rates, name = self.rates[position], self.classes.names[position]
        ap50 = {} if self.detection is None else self.detection.ap50
        ap50_95 = {} if self.detection is None else self.detection.ap50_95
        at_best_f1 = {} if self.detection is None else self.detection.best_f1.of_class
        box_precision, box_recall = at_best_f1.get(name) or (None, None)
        return {
            "support": rates.support,
            "precision": rates.precision,
            "recall": rates.recall,
            "f1": rates.f1,
            "ap50": ap50.get(name),
            "ap50_95": ap50_95.get(name),
            "predicted": rates.predicted,
            "precision_interval": rates.precision_interval,
            "recall_interval": rates.recall_interval,
            "recall_lower": rates.recall_lower,
            "box_precision": box_precision,
            "box_recall": box_recall,
        }

    def _confusion(self) -> dict[str, Any]:
        truth, size = self.answers.truth, len(self.classes)
        return {
            "classes": self.classes.names,
            "counts": self.confusion,
            "review": np.bincount(truth[self.answers.review], minlength=size),
            "unknown": np.bincount(truth[self.answers.unknown], minlength=size),
        }


def evaluate(
    samples: Sequence[Sample],
    predictions: Sequence[Prediction],
    *,
    classes: ClassTable,
    detections: Sequence[Detection] | None,
    sizes: Mapping[str, tuple[int, int]],
    model: str,
    dataset_hash: str,
    split: str,
    excluded: Mapping[str, int],
    trained_on: int | None = None,
) -> Evaluation:
    """Evaluate one answer per image and, where there are any, all boxes that were found.

    Args:
        samples: the images with their true labels.
        predictions: exactly one for each sample, in any order.
        classes: the class table of the workspace.
        detections: every box with its score; None for a model that gives no boxes, for which
            everything about boxes is None.
        sizes: width and height in pixels of each image; needed only with detections.
        model: name of the model, as the report shows it.
        dataset_hash: of the samples.
        split: ``test``, ``val``, ``train`` or ``all``; the last two are optimistic.
        excluded: images that the caller left out before, counted by reason.
        trained_on: how many of the samples the training saw, though they are of another split now;
            None where that is not known.

    Raises:
        ValueError: an image twice, samples and predictions that are not about the same images, a
            class that is not in the table, or an image without a size.
    """
    answers = pair_answers(samples, predictions, classes=classes)
    counts = metrics.confusion_counts(answers.truth, answers.predicted, classes=len(classes))
    boxed = detections is not None
    found = detections or ()
    return Evaluation(
        model=model,
        dataset_hash=dataset_hash,
        split=split,
        trained_on=trained_on,
        classes=classes,
        answers=answers,
        confusion=counts,
        rates=metrics.class_rates(counts),
        killers=metrics.killer_rates(answers, classes=classes),
        bins=reliability.equal_mass_bins(answers.confidence, answers.correct),
        curve=reliability.risk_coverage(answers.confidence, answers.correct),
        detection=average_precision(samples, found, classes=classes, sizes=sizes)
        if boxed
        else None,
        detection_confusion=detection_confusion(samples, found, classes=classes) if boxed else None,
        boxes=top_one_boxes(samples, predictions, classes=classes) if boxed else None,
        excluded=_sums(
            excluded,
            answers.excluded,
            {NOT_LOOKED_AT: len(samples) - len(looked_at(samples))} if boxed else {},
        ),
    )


def _sums(*counts: Mapping[str, int]) -> dict[str, int]:
    keys = dict.fromkeys(key for count in counts for key in count)
    return {key: sum(count.get(key, 0) for count in counts) for key in keys}


def _plain(value: Any) -> Any:
    """Return the value in the types of JSON, floats rounded."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return round(value, DIGITS) if isinstance(value, float) else value
