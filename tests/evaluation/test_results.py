"""The whole evaluation: which images count, and the JSON object of ARCHITECTURE section 5."""

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wafer.datasets.classes import ClassTable, DefectClass
from wafer.datasets.records import Annotation, Box, Sample
from wafer.evaluation.answers import pair_answers, true_classes
from wafer.evaluation.records import Detection, Prediction
from wafer.evaluation.results import Evaluation, evaluate

CLASSES = ClassTable(
    (
        DefectClass(0, "clean", "none"),
        DefectClass(1, "scratch", killer=True),
        DefectClass(2, "dust"),
        DefectClass(3, "deviation", "whole_image"),
    )
)
BOX, FRAME = Box(10, 10, 50, 50), Box(0, 0, 100, 100)
HEADLINE = [
    *("n", "accuracy", "macro_f1", "mean_confidence", "weighted_accuracy", "ece"),
    *("map50", "map50_95", "map50_95_local", "per_class", "confusion"),
    *("model", "dataset_hash", "split"),
]


def run(
    samples: list[Sample],
    predictions: list[Prediction],
    detections: list[Detection] | None = None,
    *,
    classes: ClassTable = CLASSES,
    split: str = "test",
    excluded: dict[str, int] | None = None,
) -> Evaluation:
    return evaluate(
        samples,
        predictions,
        classes=classes,
        detections=detections,
        sizes={sample.image: (100, 100) for sample in samples},
        model="yolov5n",
        dataset_hash="0" * 64,
        split=split,
        excluded=excluded or {},
    )


def found(image: str, name: str, *, score: float = 0.9, box: Box | None = BOX) -> Prediction:
    return Prediction(image, box, name, score, "auto")


def drawn(image: str, *names: str) -> Sample:
    return Sample(image, annotations=tuple(Annotation(BOX, name) for name in names))


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        (Sample("a", "dust"), {"dust"}),
        (Sample("a", "dust", drawn("a", "scratch").annotations), {"dust"}),
        (drawn("a", "scratch", "scratch"), {"scratch"}),
        (drawn("a", "scratch", "dust"), {"scratch", "dust"}),
        (Sample("a", annotations=()), {"clean"}),
        (Sample("a"), set()),
    ],
)
def test_the_true_class_of_an_image(sample: Sample, expected: set[str]) -> None:
    assert true_classes(sample, none_class="clean") == expected


def test_an_empty_image_has_no_truth_where_the_table_has_no_such_class() -> None:
    assert true_classes(Sample("a", annotations=()), none_class=None) == frozenset()


def test_images_without_one_true_class_are_counted_not_scored() -> None:
    samples = [drawn("two", "scratch", "dust"), Sample("unknown"), Sample("good", "dust")]
    predictions = [found(s.image, "dust") for s in samples]
    result = run(samples, predictions, excluded={"excluded_untrusted_boxes": 7}).to_dict()
    assert result["n"] == 1
    assert result["accuracy"] == 1.0
    assert result["excluded"] == {
        "excluded_untrusted_boxes": 7,
        "excluded_several_classes": 1,
        "excluded_no_truth": 1,
    }


def test_images_nobody_looked_at_are_counted_where_boxes_are_scored() -> None:
    result = run(
        [Sample("a", "dust"), drawn("b", "dust")], [found("a", "dust"), found("b", "dust")], []
    )
    assert result.excluded["excluded_from_boxes_not_looked_at"] == 1
    assert result.to_dict()["map50"] == 0.0


@pytest.mark.parametrize(
    ("samples", "predictions", "message"),
    [
        ([Sample("a", "dust")], [], "not about the same images, see 'a'"),
        ([], [found("a", "dust")], "not about the same images, see 'a'"),
        ([Sample("a", "dust")] * 2, [found("a", "dust")], "twice"),
        ([Sample("a", "dust")], [found("a", "dust")] * 2, "twice"),
        ([Sample("a", "dust")], [found("a", "rust")], "class 'rust' is not in the class table"),
        ([Sample("a", "rust")], [found("a", "dust")], "class 'rust' is not in the class table"),
    ],
)
def test_one_answer_for_each_image(
    samples: list[Sample], predictions: list[Prediction], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pair_answers(samples, predictions, classes=CLASSES)


def test_the_object_by_hand() -> None:
    samples = [
        Sample("s1", "scratch", drawn("s1", "scratch").annotations),
        Sample("s2", "scratch", drawn("s2", "scratch").annotations),
        Sample("d1", "dust", drawn("d1", "dust").annotations),
        Sample("c1", "clean", ()),
    ]
    predictions = [
        found("s1", "scratch", score=1.0),
        Prediction("s2", None, "clean", 0.5, "review", "killer escape limit"),
        found("d1", "dust", score=0.5),
        found("c1", "clean", score=1.0, box=None),
    ]
    detections = [
        Detection("s1", BOX, "scratch", 1.0),
        Detection("s2", BOX, "scratch", 0.1),
        Detection("d1", BOX, "dust", 0.5),
    ]
    result = run(samples, predictions, detections).to_dict()
    assert list(result)[: len(HEADLINE)] == [*HEADLINE]
    assert {key: result[key] for key in HEADLINE[:9]} == {
        "n": 4,
        "accuracy": 0.75,
        "macro_f1": round((2 / 3 + 2 / 3 + 1) / 3, 6),
        "mean_confidence": 0.75,
        "weighted_accuracy": round(2.5 / 3, 6),
        "ece": 0.0,  # at 0.5 one of two is right, at 1.0 both
        "map50": 1.0,
        "map50_95": 1.0,
        "map50_95_local": 1.0,
    }
    assert result["confusion"] == {
        "classes": ["clean", "scratch", "dust", "deviation"],
        "counts": [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]],
        "review": [0, 1, 0, 0],
        "unknown": [0, 0, 0, 0],
    }
    scratch = result["per_class"]["scratch"]
    assert {key: scratch[key] for key in ("support", "precision", "recall", "f1", "ap50")} == {
        "support": 2,
        "precision": 1.0,
        "recall": 0.5,
        "f1": round(2 / 3, 6),
        "ap50": 1.0,
    }
    assert scratch["recall_interval"] == [0.012579, 0.987421]
    assert result["per_class"]["deviation"]["precision"] is None
    assert result["per_class"]["clean"]["ap50"] is None
    assert (result["auto_rate"], result["auto_accuracy"]) == (0.75, 1.0)
    assert result["killer_escape"] == 0.0
    assert result["coverage_at_accuracy"] == {"0.95": 0.5, "0.98": 0.5, "0.99": 0.5}
    assert result["brier"] == round((0.25 + 0.25) / 4, 6)
    top1 = ("top1_iou", "top1_iou_local", "top1_boxes_right", "top1_boxes_found")
    assert [result[key] for key in top1] == [0.666667, 0.666667, 1.0, 0.666667]
    assert (result["box_precision"], result["box_recall"], result["box_score"]) == (1.0, 1.0, 0.0)
    assert (scratch["box_precision"], scratch["box_recall"]) == (1.0, 1.0)
    assert result["detection_confusion"]["counts"][0] == [1, 0, 0, 1]


def test_a_model_without_boxes_has_null_for_all_that_is_about_boxes() -> None:
    result = run([drawn("a", "dust")], [found("a", "dust", box=None)]).to_dict()
    assert result["accuracy"] == 1.0
    keys = "map50 map50_95 map50_95_local map50_local average_recall top1_iou top1_boxes_found"
    assert [result[key] for key in keys.split()] == [None] * 7
    assert [result[key] for key in ("box_precision", "box_recall", "box_score")] == [None] * 3
    assert result["detection_confusion"] is None
    assert result["per_class"]["dust"]["ap50"] is None
    assert result["per_class"]["dust"]["box_precision"] is None


def test_a_detector_that_finds_nothing_scores_zero_not_null() -> None:
    result = run([drawn("a", "dust")], [found("a", "clean", box=None)], []).to_dict()
    assert (result["map50"], result["map50_95"], result["accuracy"]) == (0.0, 0.0, 0.0)
    assert (result["top1_iou"], result["top1_boxes_found"]) == (0.0, 0.0)
    assert result["top1_boxes_right"] is None


def test_clean_images_alone() -> None:
    samples = [Sample(f"{i}", "clean", ()) for i in range(3)]
    result = run(samples, [found(s.image, "clean", box=None) for s in samples], []).to_dict()
    assert (result["n"], result["accuracy"], result["map50"]) == (3, 1.0, None)
    assert result["macro_f1"] == 1.0


def test_nothing_to_evaluate_is_all_null() -> None:
    result = run([], [], []).to_dict()
    assert result["n"] == 0
    assert all(result[key] is None for key in HEADLINE[1:9])


@pytest.mark.parametrize(
    ("split", "optimistic"), [("test", False), ("val", False), ("all", True), ("train", True)]
)
def test_training_images_make_it_optimistic(split: str, optimistic: bool) -> None:
    assert run([], [], split=split).to_dict()["optimistic"] is optimistic


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [n for item in value.values() for n in numbers(item)]
    if isinstance(value, list):
        return [n for item in value for n in numbers(item)]
    return [value] if isinstance(value, int | float) else []


answers = st.lists(
    st.tuples(
        st.sampled_from([*CLASSES.names, None]),
        st.booleans(),
        st.sampled_from(CLASSES.names),
        st.floats(0, 1),
        st.sampled_from(["auto", "review", "unknown"]),
    ),
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(answers, st.booleans())
def test_the_object_is_valid_json_whatever_the_answers(rows: list[Any], boxed: bool) -> None:
    samples, predictions, detections = [], [], []
    for i, (truth, drawn_too, name, score, decision) in enumerate(rows):
        boxes = [Annotation(BOX, truth)] if truth not in (None, "clean") else []
        samples.append(Sample(f"{i}", truth, tuple(boxes) if drawn_too else None))
        predictions.append(Prediction(f"{i}", BOX, name, score, decision))
        if name != "clean":
            detections.append(Detection(f"{i}", BOX, name, score))
    evaluation = run(samples, predictions, detections if boxed else None)
    text = json.dumps(evaluation.to_dict(), allow_nan=False)
    assert json.loads(text) == evaluation.to_dict()
    assert not any(math.isnan(number) for number in numbers(evaluation.to_dict()))
    assert evaluation.n + evaluation.excluded["excluded_no_truth"] == len(rows)
