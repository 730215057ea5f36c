"""Average precision against values computed by hand and against pycocotools' own loaders."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import wafer.detector.ultralytics_adapter as adapter
from wafer.datasets.classes import ClassTable, DefectClass
from wafer.datasets.records import Annotation, Box, Sample
from wafer.evaluation.detection import (
    AveragePrecision,
    average_precision,
    detection_confusion,
    top_one_boxes,
)
from wafer.evaluation.records import Detection, Prediction

CLASSES = ClassTable(
    (
        DefectClass(0, "clean", "none"),
        DefectClass(1, "scratch"),
        DefectClass(2, "dust"),
        DefectClass(3, "deviation", "whole_image"),
    )
)
BOX = Box(10, 10, 50, 50)
FAR = Box(60, 60, 90, 90)
FRAME = Box(0, 0, 100, 100)


def looked(image: str, *boxes: tuple[Box, str]) -> Sample:
    return Sample(image, annotations=tuple(Annotation(box, name) for box, name in boxes))


def scored(samples: list[Sample], *found: tuple[str, Box, str, float]) -> AveragePrecision:
    return average_precision(
        samples,
        [Detection(*row) for row in found],
        classes=CLASSES,
        sizes={sample.image: (100, 100) for sample in samples},
    )


ONE = [looked("a", (BOX, "scratch"))]
TWO = [looked("a", (BOX, "scratch"), (FAR, "scratch"))]
WITH_EMPTY = [*ONE, looked("empty")]


@pytest.mark.parametrize(
    ("samples", "found", "ap50"),
    [
        (ONE, [("a", BOX, "scratch", 0.3)], 1.0),
        (ONE, [], 0.0),
        (ONE, [("a", FAR, "scratch", 0.9)], 0.0),
        (ONE, [("a", BOX, "dust", 0.9)], 0.0),
        (ONE, [("a", BOX, "scratch", 0.9), ("a", FAR, "scratch", 0.8)], 1.0),
        (ONE, [("a", BOX, "scratch", 0.8), ("a", FAR, "scratch", 0.9)], 0.5),
        (ONE, [("a", BOX, "scratch", 0.9), ("a", BOX, "scratch", 0.8)], 1.0),
        # one of two found: precision 1 at the recall points 0, .01, ... .50
        (TWO, [("a", BOX, "scratch", 0.9)], 51 / 101),
        # a false alarm between the two: precision 1 up to .50, then 2/3
        (
            TWO,
            [
                ("a", BOX, "scratch", 0.9),
                ("a", Box(0, 0, 5, 5), "scratch", 0.8),
                ("a", FAR, "scratch", 0.7),
            ],
            (51 + 50 * 2 / 3) / 101,
        ),
        # a false alarm on an empty image costs as much as one beside the defect
        (WITH_EMPTY, [("a", BOX, "scratch", 0.8), ("empty", BOX, "scratch", 0.9)], 0.5),
        (
            WITH_EMPTY,
            [("a", BOX, "scratch", 0.8)] + [("empty", BOX, "scratch", 0.9)] * 3,
            0.25,
        ),
        # where nobody has looked, nothing is known to be false
        (
            [*ONE, Sample("unseen")],
            [("a", BOX, "scratch", 0.8), ("unseen", BOX, "scratch", 0.9)],
            1.0,
        ),
    ],
)
def test_average_precision_at_half_overlap_by_hand(
    samples: list[Sample], found: list[tuple[str, Box, str, float]], ap50: float
) -> None:
    result = scored(samples, *found)
    assert result.ap50["scratch"] == pytest.approx(ap50)
    assert result.map50 == pytest.approx(ap50)


@pytest.mark.parametrize(
    ("height", "thresholds"), [(100, 10), (92, 9), (82, 7), (63, 3), (52, 1), (49, 0)]
)
def test_overlap_decides_how_many_of_ten_thresholds_hold(height: int, thresholds: int) -> None:
    samples = [looked("a", (FRAME, "scratch"))]
    result = scored(samples, ("a", Box(0, 0, 100, height), "scratch", 0.9))
    assert result.ap50_95["scratch"] == pytest.approx(thresholds / 10)


def test_a_class_without_truth_is_null_and_does_not_enter_the_mean() -> None:
    result = scored(ONE, ("a", BOX, "scratch", 0.9), ("a", BOX, "dust", 0.99))
    assert result.ap50 == {"scratch": pytest.approx(1.0), "dust": None, "deviation": None}
    assert result.map50 == pytest.approx(1.0)


def test_full_frame_classes_stay_out_of_the_local_mean() -> None:
    samples = [*TWO, looked("b", (FRAME, "deviation"))]
    result = scored(samples, ("a", BOX, "scratch", 0.9), ("b", FRAME, "deviation", 0.9))
    assert result.map50_95 == pytest.approx((51 / 101 + 1) / 2)
    assert result.map50_95_local == pytest.approx(51 / 101)
    assert result.map50_local == pytest.approx(51 / 101)
    assert result.recall == pytest.approx((0.5 + 1) / 2)


@pytest.mark.parametrize("samples", [[], [looked("a"), looked("b")], [Sample("a", "scratch")]])
def test_without_truth_boxes_everything_is_null(samples: list[Sample]) -> None:
    found = [(sample.image, BOX, "scratch", 0.9) for sample in samples]
    result = scored(samples, *found)
    assert (result.map50, result.map50_95, result.map50_95_local, result.recall) == (None,) * 4
    best = result.best_f1
    assert (best.score, best.precision, best.recall) == (None, None, None)
    assert set(best.of_class.values()) == {None}


def test_only_the_hundred_best_boxes_of_an_image_count() -> None:
    false = [("a", FAR, "scratch", 0.9)] * 100
    assert scored(ONE, *false, ("a", BOX, "scratch", 0.8)).map50 == 0.0


def test_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    scored(ONE, ("a", BOX, "scratch", 0.9))
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_an_image_without_size_is_named() -> None:
    with pytest.raises(ValueError, match="no size for image 'a'"):
        average_precision(ONE, [], classes=CLASSES, sizes={})


def random_boxes(random: np.random.Generator, count: int) -> list[Box]:
    corners = random.uniform(0, 70, (count, 2))
    sides = random.uniform(5, 30, (count, 2))
    return [Box(*corner, *(corner + side)) for corner, side in zip(corners, sides, strict=True)]


def test_the_figures_are_those_of_pycocotools_from_files(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    names = CLASSES.detector_names
    truth = {f"{i}": random_boxes(random, int(random.integers(0, 4))) for i in range(30)}
    samples = [
        looked(image, *((box, names[j % 3]) for j, box in enumerate(boxes)))
        for image, boxes in truth.items()
    ]
    found = [
        (image, Box(b.xmin + d, b.ymin, b.xmax + d, b.ymax), names[j % 3], float(random.random()))
        for image, boxes in truth.items()
        for j, b in enumerate([*boxes, *random_boxes(random, 2)])
        for d in (0.0, 3.0)
    ]
    document = {
        "info": {},
        "images": [{"id": int(s.image)} for s in samples],
        "categories": [{"id": i, "name": name} for i, name in enumerate(names)],
        "annotations": [
            {
                "id": 1000 * int(s.image) + j + 1,
                "image_id": int(s.image),
                "category_id": names.index(a.class_name),
                "bbox": [a.box.xmin, a.box.ymin, a.box.width, a.box.height],
                "area": a.box.area,
                "iscrowd": 0,
            }
            for s in samples
            for j, a in enumerate(s.annotations or ())
        ],
    }
    results = [
        {
            "image_id": int(image),
            "category_id": names.index(name),
            "bbox": [b.xmin, b.ymin, b.width, b.height],
            "score": score,
        }
        for image, b, name, score in found
    ]
    (tmp_path / "truth.json").write_text(json.dumps(document), encoding="utf-8")
    (tmp_path / "found.json").write_text(json.dumps(results), encoding="utf-8")
    oracle = COCO(str(tmp_path / "truth.json"))
    run = COCOeval(oracle, oracle.loadRes(str(tmp_path / "found.json")), "bbox")
    run.evaluate()
    run.accumulate()
    run.summarize()
    result = scored(samples, *found)
    assert (result.map50_95, result.map50, result.recall) == pytest.approx(
        (run.stats[0], run.stats[1], run.stats[8])
    )
    assert 0.05 < run.stats[0] < 0.95


def test_precision_and_recall_where_f1_is_best_by_hand() -> None:
    result = scored(TWO, ("a", BOX, "scratch", 0.9), ("a", FAR, "dust", 0.9)).best_f1
    assert (result.precision, result.recall) == (1.0, 0.5)  # dust has no truth box
    assert result.of_class == {"scratch": (1.0, 0.5), "dust": None, "deviation": None}
    assert result.score is not None
    assert 0 <= result.score < 0.9
    samples = [*ONE, looked("b", (BOX, "dust"))]
    result = scored(samples, ("a", BOX, "scratch", 0.9)).best_f1
    assert result.of_class == {"scratch": (1.0, 1.0), "dust": (0.0, 0.0), "deviation": None}
    assert (result.precision, result.recall) == (0.5, 0.5)


def place(image: int) -> Box:
    return Box(10 * image, 0, 10 * image + 8, 8)


@settings(max_examples=50, deadline=None)
@given(
    truth=st.lists(st.sampled_from(CLASSES.detector_names), min_size=1, max_size=9),
    found=st.lists(
        st.tuples(st.sampled_from(CLASSES.detector_names), st.booleans(), st.floats(0, 1)),
        max_size=9,
    ),
)
def test_precision_and_recall_are_those_of_yolov5(
    truth: list[str], found: list[tuple[str, bool, float]]
) -> None:
    """Each box found lies on the truth box of its number or where there is nothing."""
    names = CLASSES.detector_names
    boxes = [
        (place(i) if there else Box(0, 50, 8, 58), name, score)
        for i, (name, there, score) in enumerate(found)
    ]
    hits = [
        there and i < len(truth) and truth[i] == name for i, (name, there, _) in enumerate(found)
    ]
    theirs = adapter.ultralytics.utils.metrics.ap_per_class(
        np.array(hits, np.float64).reshape(-1, 1).repeat(10, axis=1),
        np.array([score for *_, score in found]),
        np.array([names.index(name) for name, *_ in found]),
        np.array([names.index(name) for name in truth]),
    )
    result = scored(
        [looked("a", *((place(i), name) for i, name in enumerate(truth)))],
        *(("a", *box) for box in boxes),
    ).best_f1
    scores = [score for *_, score in found]
    if len(set(scores)) == len(scores):  # ultralytics takes equal scores in any order
        precision, recall, present = theirs[2], theirs[3], theirs[6].tolist()
        assert result.precision == pytest.approx(precision.mean())
        assert result.recall == pytest.approx(recall.mean())
        assert [k for k, name in enumerate(names) if result.of_class[name]] == present
        pairs = [result.of_class[names[k]] for k in present]
        assert np.array(pairs) == pytest.approx(np.array([precision, recall]).T)


CONFUSIONS = [
    # truth boxes, found boxes, expected cells (row, column) of 4 x 4: scratch, dust, deviation, -
    ([(BOX, "scratch")], [(BOX, "scratch", 0.9)], {(0, 0): 1}),
    ([(BOX, "scratch")], [(BOX, "dust", 0.9)], {(0, 1): 1}),
    ([(BOX, "scratch")], [(FAR, "scratch", 0.9)], {(0, 3): 1, (3, 0): 1}),
    ([(BOX, "scratch")], [(BOX, "scratch", 0.24)], {(0, 3): 1}),
    ([(BOX, "scratch")], [(BOX, "scratch", 0.25)], {(0, 0): 1}),
    ([], [(BOX, "dust", 0.9)], {(3, 1): 1}),
    ([], [], {}),
    # the nearest box takes the truth, the other is a false alarm, whatever their scores
    (
        [(BOX, "scratch")],
        [(BOX, "dust", 0.3), (Box(10, 10, 50, 45), "scratch", 0.9)],
        {(0, 1): 1, (3, 0): 1},
    ),
    # at the same place the higher score
    ([(BOX, "scratch")], [(BOX, "dust", 0.3), (BOX, "scratch", 0.9)], {(0, 0): 1, (3, 1): 1}),
    # each truth box is matched once
    ([(BOX, "scratch"), (BOX, "dust")], [(BOX, "scratch", 0.9)], {(0, 0): 1, (1, 3): 1}),
    # IoU 0.5 exactly counts
    ([(Box(0, 0, 10, 10), "dust")], [(Box(0, 0, 10, 5), "dust", 0.9)], {(1, 1): 1}),
]


@pytest.mark.parametrize(("truth", "found", "cells"), CONFUSIONS)
def test_the_confusion_of_boxes_by_hand(
    truth: list[tuple[Box, str]],
    found: list[tuple[Box, str, float]],
    cells: dict[tuple[int, int], int],
) -> None:
    detections = [Detection("a", *row) for row in found]
    counts = detection_confusion([looked("a", *truth)], detections, classes=CLASSES)
    expected = np.zeros((4, 4), dtype=int)
    for cell, count in cells.items():
        expected[cell] = count
    assert counts.tolist() == expected.tolist()


def answer(image: str, box: Box | None, name: str) -> Prediction:
    return Prediction(image, box, name, 0.9, "auto")


def test_top_one_boxes_by_hand() -> None:
    samples = [
        looked("right", (BOX, "scratch"), (FAR, "dust")),
        looked("other class", (BOX, "scratch")),
        looked("missed", (BOX, "scratch")),
        looked("frame", (FRAME, "deviation")),
        looked("empty"),
        Sample("unseen", "scratch"),
    ]
    answers = [
        answer("right", Box(60, 60, 90, 84), "dust"),  # IoU 0.8 with the second box
        answer("other class", BOX, "dust"),
        answer("missed", None, "clean"),
        answer("frame", FRAME, "deviation"),
        answer("empty", BOX, "dust"),
        answer("unseen", BOX, "scratch"),
    ]
    boxes = top_one_boxes(samples, answers, classes=CLASSES)
    assert boxes.mean_iou == pytest.approx((0.8 + 1 + 0 + 1) / 4)
    assert boxes.mean_iou_local == pytest.approx((0.8 + 1 + 0) / 3)
    assert boxes.right == pytest.approx(2 / 4)  # of four boxes answered where somebody looked
    assert boxes.found == pytest.approx(2 / 4)  # of four images with a truth box


def test_top_one_boxes_of_empty_images_are_null() -> None:
    boxes = top_one_boxes([looked("a")], [answer("a", None, "clean")], classes=CLASSES)
    assert (boxes.mean_iou, boxes.mean_iou_local, boxes.right, boxes.found) == (None,) * 4
