"""How good the boxes are: COCO's average precision, and what is confused with what.

Only images that somebody has looked at take part (``annotations`` is not None). The empty ones
take part too: without them a false alarm on a clean image would cost nothing.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from wafer.datasets.classes import ClassTable
from wafer.datasets.records import Annotation, Box, Sample
from wafer.evaluation.metrics import rate
from wafer.evaluation.records import Detection, Prediction

__all__ = [
    "MATCH_IOU",
    "SCORE_THRESHOLD",
    "AveragePrecision",
    "BestF1",
    "TopOneBoxes",
    "average_precision",
    "detection_confusion",
    "looked_at",
    "top_one_boxes",
]

MATCH_IOU = 0.5
SCORE_THRESHOLD = 0.25
MAX_DETECTIONS = 100
SCORES = 1000
SMOOTHED = 0.1


@dataclass(frozen=True, slots=True)
class BestF1:
    """Precision and recall of the boxes as YOLOv5 prints them, each None without a truth box.

    They hold at one ``score`` (0 to 1) for all classes, the one where the mean F1 over the classes
    with truth boxes is highest, at IoU 0.5. ``precision`` and ``recall`` are means over these
    classes, ``of_class`` has the pair of each class, None for a class without truth boxes.
    """

    score: float | None
    precision: float | None
    recall: float | None
    of_class: dict[str, tuple[float, float] | None]


@dataclass(frozen=True, slots=True)
class AveragePrecision:
    """COCO's figures for a set of images, each None where there is no truth box to find.

    ``map50`` at IoU 0.5 and ``map50_95`` over IoU .50:.05:.95 are means over the classes with
    truth boxes; ``..._local`` over classes of kind ``box`` alone, since a full-frame box is found
    by its mere shape. ``recall`` is the average recall at 100 boxes an image. ``ap50`` and
    ``ap50_95`` hold one value for each class that has boxes. ``best_f1`` is what YOLOv5 calls
    precision and recall.
    """

    map50: float | None
    map50_95: float | None
    map50_local: float | None
    map50_95_local: float | None
    recall: float | None
    ap50: dict[str, float | None]
    ap50_95: dict[str, float | None]
    best_f1: BestF1


@dataclass(frozen=True, slots=True)
class TopOneBoxes:
    """How well the one box of each answer lies, each figure None where nothing can be counted.

    ``mean_iou`` is the mean over images with truth boxes of the IoU between the box of the answer
    and the nearest truth box of any class, 0 for an answer without a box; ``mean_iou_local`` the
    same over images and truth boxes of kind ``box``. A box is right if a truth box of its own
    class lies at IoU >= 0.5: ``right`` is the share of the boxes answered, ``found`` the share of
    the images with truth boxes.
    """

    mean_iou: float | None
    mean_iou_local: float | None
    right: float | None
    found: float | None


def looked_at(samples: Iterable[Sample]) -> tuple[Sample, ...]:
    """Return the samples whose boxes, or whose lack of boxes, somebody has seen to."""
    return tuple(sample for sample in samples if sample.annotations is not None)


def average_precision(
    samples: Sequence[Sample],
    detections: Sequence[Detection],
    *,
    classes: ClassTable,
    sizes: Mapping[str, tuple[int, int]],
) -> AveragePrecision:
    """Return average precision and recall by pycocotools: 101 recall points, 100 boxes an image.

    Args:
        samples: the images with their truth boxes; those nobody has looked at are left out.
        detections: every box with its score, from a low score (0.001) on; those in images that
            nobody has looked at are left out.
        classes: says which classes have boxes.
        sizes: width and height of each image in pixels.

    Raises:
        ValueError: an image without a size, or a detection whose class has no boxes.
    """
    seen = looked_at(samples)
    numbers = {sample.image: number for number, sample in enumerate(seen, 1)}
    truth = _coco(_truth_rows(seen, numbers, classes), seen, classes=classes, sizes=sizes)
    found = _coco(_found_rows(detections, numbers, classes), seen, classes=classes, sizes=sizes)
    return _averages(_evaluated(truth, found), classes)


def detection_confusion(
    samples: Sequence[Sample], detections: Sequence[Detection], *, classes: ClassTable
) -> NDArray[np.int64]:
    """Return what each truth box was taken for, shape (k + 1, k + 1), the last one background.

    Rows are the classes of the truth boxes, columns those of the boxes found, both in the order
    of ``detector_names``. Boxes with a score of at least 0.25 are matched to truth boxes of any
    class, the pair of greatest IoU first, down to IoU 0.5, each box once (as YOLOv5 does at IoU
    0.45). A truth box left over counts as background found, a found box left over as background
    taken for a defect.
    """
    names = classes.detector_names
    counts = np.zeros((len(names) + 1, len(names) + 1), dtype=np.int64)
    boxes: dict[str, list[Detection]] = {}
    for detection in detections:
        if detection.score >= SCORE_THRESHOLD:
            boxes.setdefault(detection.image, []).append(detection)
    for sample in looked_at(samples):
        truth = _truth_boxes(sample, names)
        for row, column in _matches(truth, boxes.get(sample.image, [])):
            counts[_position(row, names), _position(column, names)] += 1
    return counts


def top_one_boxes(
    samples: Sequence[Sample], predictions: Sequence[Prediction], *, classes: ClassTable
) -> TopOneBoxes:
    """Return how well the one box of each answer lies, over the images somebody has looked at."""
    answers = {prediction.image: prediction for prediction in predictions}
    seen = [(_truth_boxes(s, classes.detector_names), answers[s.image]) for s in looked_at(samples)]
    local = [([t for t in truth if t.class_name in classes.box_names], p) for truth, p in seen]
    right = sum(_is_right(truth, prediction) for truth, prediction in seen)
    return TopOneBoxes(
        mean_iou=_mean_iou(seen),
        mean_iou_local=_mean_iou(local),
        right=rate(right, sum(prediction.box is not None for _, prediction in seen)),
        found=rate(right, sum(bool(truth) for truth, _ in seen)),
    )


def _truth_rows(
    samples: Sequence[Sample], numbers: Mapping[str, int], classes: ClassTable
) -> list[dict[str, Any]]:
    names = classes.detector_names
    return [
        _row(numbers[sample.image], annotation.box, classes.detector_index(annotation.class_name))
        for sample in samples
        for annotation in _truth_boxes(sample, names)
    ]


def _found_rows(
    detections: Sequence[Detection], numbers: Mapping[str, int], classes: ClassTable
) -> list[dict[str, Any]]:
    return [
        _row(numbers[d.image], d.box, classes.detector_index(d.class_name)) | {"score": d.score}
        for d in detections
        if d.image in numbers
    ]


def _row(image: int, box: Box, category: int) -> dict[str, Any]:
    return {
        "image_id": image,
        "category_id": category,
        "bbox": [box.xmin, box.ymin, box.width, box.height],
        "area": box.area,
        "iscrowd": 0,
    }


def _coco(
    rows: list[dict[str, Any]],
    samples: Sequence[Sample],
    *,
    classes: ClassTable,
    sizes: Mapping[str, tuple[int, int]],
) -> Any:
    missing = [sample.image for sample in samples if sample.image not in sizes]
    if missing:
        raise ValueError(f"no size for image {missing[0]!r}")
    coco = COCO()
    coco.dataset = {
        "images": [
            {"id": number, "width": sizes[sample.image][0], "height": sizes[sample.image][1]}
            for number, sample in enumerate(samples, 1)
        ],
        "categories": [{"id": i, "name": name} for i, name in enumerate(classes.detector_names)],
        # From 1: pycocotools takes a match with id 0 for no match.
        "annotations": [row | {"id": number} for number, row in enumerate(rows, 1)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def _evaluated(truth: Any, found: Any) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        run = COCOeval(truth, found, iouType="bbox")
        run.params.areaRng, run.params.areaRngLbl = [[0, 1e10]], ["all"]
        run.params.maxDets = [MAX_DETECTIONS]
        run.evaluate()
        run.accumulate()
    return run


def _averages(run: Any, classes: ClassTable) -> AveragePrecision:
    # Precision by IoU, recall point, class; recall by IoU, class; -1 where there is no truth box.
    precision, recall = run.eval["precision"][..., 0, 0], run.eval["recall"][..., 0, 0]
    names = classes.detector_names
    local = [names.index(name) for name in classes.box_names]
    return AveragePrecision(
        map50=_mean(precision[0]),
        map50_95=_mean(precision),
        map50_local=_mean(precision[0][..., local]),
        map50_95_local=_mean(precision[..., local]),
        recall=_mean(recall),
        ap50={name: _mean(precision[0, :, k]) for k, name in enumerate(names)},
        ap50_95={name: _mean(precision[:, :, k]) for k, name in enumerate(names)},
        best_f1=_best_f1(run, names),
    )


def _best_f1(run: Any, names: Sequence[str]) -> BestF1:
    """Return precision and recall at the best F1, by the formulas of YOLOv5's ``ap_per_class``."""
    images = len(run.params.imgIds)
    curves = {}
    for k, name in enumerate(names):
        found = [each for each in run.evalImgs[k * images : (k + 1) * images] if each is not None]
        truth = sum(len(each["gtIds"]) for each in found)
        if truth:
            scores = np.array([score for each in found for score in each["dtScores"]])
            hits = np.array([m > 0 for each in found for m in each["dtMatches"][0]], np.float64)
            curves[name] = _curves(scores, hits, truth)
    if not curves:
        return BestF1(None, None, None, dict.fromkeys(names))
    precision, recall = np.array(list(curves.values())).swapaxes(0, 1)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-16)
    best = int(_smoothed(f1.mean(axis=0)).argmax())
    pairs = zip(precision[:, best].tolist(), recall[:, best].tolist(), strict=True)
    return BestF1(
        score=best / (SCORES - 1),
        precision=float(precision[:, best].mean()),
        recall=float(recall[:, best].mean()),
        of_class=dict.fromkeys(names) | dict(zip(curves, pairs, strict=True)),
    )


def _curves(
    scores: NDArray[np.float64], hits: NDArray[np.float64], truth: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return precision and recall of one class at ``SCORES`` scores from 0 to 1."""
    if not scores.size:
        return np.zeros(SCORES), np.zeros(SCORES)
    order = np.argsort(-scores, kind="stable")
    right, places = hits[order].cumsum(), -scores[order]
    x = -np.linspace(0, 1, SCORES)
    precision = right / np.arange(1, len(right) + 1)
    return np.interp(x, places, precision, left=1), np.interp(x, places, right / truth, left=0)


def _smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over a tenth of the curve around each point, its ends repeated."""
    width = round(len(values) * SMOOTHED * 2) // 2 + 1
    padded = np.pad(values, width // 2, mode="edge")
    return np.convolve(padded, np.ones(width) / width, mode="valid")


def _mean(values: NDArray[np.float64]) -> float | None:
    known = values[values > -1]
    return float(known.mean()) if known.size else None


def _truth_boxes(sample: Sample, names: Sequence[str]) -> list[Annotation]:
    return [a for a in sample.annotations or () if a.class_name in names]


def _matches(
    truth: Sequence[Annotation], found: Sequence[Detection]
) -> Iterable[tuple[Annotation | None, Detection | None]]:
    pairs = [
        (t.box.iou(f.box), f.score, i, j) for i, t in enumerate(truth) for j, f in enumerate(found)
    ]
    truth_left, found_left = dict(enumerate(truth)), dict(enumerate(found))
    for iou, _, i, j in sorted(pairs, key=lambda pair: (-pair[0], -pair[1])):
        if iou >= MATCH_IOU and i in truth_left and j in found_left:
            yield truth_left.pop(i), found_left.pop(j)
    yield from ((annotation, None) for annotation in truth_left.values())
    yield from ((None, detection) for detection in found_left.values())


def _position(item: Annotation | Detection | None, names: Sequence[str]) -> int:
    return len(names) if item is None else names.index(item.class_name)


def _mean_iou(seen: Sequence[tuple[list[Annotation], Prediction]]) -> float | None:
    values = [
        0.0 if p.box is None else max(p.box.iou(annotation.box) for annotation in truth)
        for truth, p in seen
        if truth
    ]
    return rate(sum(values), len(values))


def _is_right(truth: Sequence[Annotation], prediction: Prediction) -> bool:
    box = prediction.box
    return box is not None and any(
        annotation.class_name == prediction.class_name and box.iou(annotation.box) >= MATCH_IOU
        for annotation in truth
    )
