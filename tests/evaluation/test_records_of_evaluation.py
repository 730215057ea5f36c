"""Predictions and detections refuse what cannot be."""

import math

import pytest

from wafer.datasets.records import Box
from wafer.evaluation.records import Detection, Prediction

BOX = Box(0, 0, 10, 10)


def test_a_prediction_may_have_no_box_and_no_reason() -> None:
    prediction = Prediction("a.png", None, "no_defect", 1.0, "auto")
    assert (prediction.box, prediction.reason) == (None, "")


@pytest.mark.parametrize("confidence", [-0.001, 1.001, math.nan, math.inf])
def test_a_confidence_is_a_number_from_0_to_1(confidence: float) -> None:
    with pytest.raises(ValueError, match="confidence must lie between 0 and 1"):
        Prediction("a.png", BOX, "scratch", confidence, "auto")
    with pytest.raises(ValueError, match="score must lie between 0 and 1"):
        Detection("a.png", BOX, "scratch", confidence)


@pytest.mark.parametrize(
    ("image", "class_name", "decision", "message"),
    [
        ("", "scratch", "auto", "path of its image"),
        ("a.png", "", "auto", "class name"),
        ("a.png", "scratch", "AUTO", "decision must be one of auto, review, unknown"),
    ],
)
def test_a_prediction_names_image_class_and_decision(
    image: str, class_name: str, decision: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Prediction(image, BOX, class_name, 0.5, decision)  # type: ignore[arg-type]
