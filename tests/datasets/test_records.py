import math

import pytest

from wafer.datasets.records import Annotation, Box, Sample


def test_box_measures() -> None:
    box = Box(1, 2, 4, 8)
    assert (box.width, box.height, box.area, box.corners) == (3, 6, 18, (1, 2, 4, 8))


@pytest.mark.parametrize(
    ("other", "iou"),
    [
        (Box(0, 0, 10, 10), 1.0),
        (Box(5, 0, 15, 10), 1 / 3),
        (Box(10, 0, 20, 10), 0.0),
        (Box(2, 2, 4, 4), 0.04),
    ],
)
def test_iou(other: Box, iou: float) -> None:
    box = Box(0, 0, 10, 10)
    assert box.iou(other) == pytest.approx(iou)
    assert other.iou(box) == pytest.approx(iou)


@pytest.mark.parametrize(
    "corners",
    [(0, 0, 0, 5), (0, 5, 5, 5), (5, 0, 1, 5), (math.nan, 0, 1, 1), (0, 0, math.inf, 1)],
)
def test_a_box_without_area_or_number_is_refused(
    corners: tuple[float, float, float, float],
) -> None:
    with pytest.raises(ValueError, match="box"):
        Box(*corners)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_name": ""}, "class name"),
        ({"class_name": "a", "source": "guess"}, "source must be one of human, rule"),
        ({"class_name": "a", "score": 1.5}, "score"),
        ({"class_name": "a", "score": math.nan}, "score"),
    ],
)
def test_an_annotation_is_checked(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Annotation(Box(0, 0, 1, 1), **arguments)  # type: ignore[arg-type]


def test_a_sample_is_checked() -> None:
    with pytest.raises(ValueError, match="path"):
        Sample("")
    with pytest.raises(ValueError, match="split must be one of train, val, test, unused"):
        Sample("a.png", split="dev")  # type: ignore[arg-type]


def test_nobody_looked_is_not_looked_and_empty() -> None:
    assert Sample("a.png") != Sample("a.png", annotations=())
