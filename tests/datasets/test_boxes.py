import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wafer.datasets.boxes import box_line, fitted_box, parse_boxes
from wafer.datasets.records import Annotation, Box

NAMES = {0: "residue", 1: "scratch"}


@pytest.mark.parametrize(
    ("corners", "box"),
    [
        ((1, 2, 3, 4), Box(1, 2, 3, 4)),
        ((-0.5, 0, 100.5, 50.5), Box(0, 0, 100, 50)),
        ((99.9, 0, 100.2, 50), Box(99.9, 0, 100, 50)),
    ],
)
def test_boxes_are_cut_back_by_half_a_pixel(corners: tuple[float, ...], box: Box) -> None:
    assert fitted_box(corners, (100, 50)) == box


@pytest.mark.parametrize(
    ("corners", "message"),
    [
        ((-0.6, 0, 5, 5), "outside its image of 100 x 50 pixels"),
        ((0, 0, 5, 50.6), "outside its image"),
        ((100.1, 0, 100.4, 5), "lies outside its image"),
        ((5, 0, 5, 5), "a box of 0 x 5 pixels"),
        ((5, 0, 2, 5), "a box of -3 x 5 pixels"),
        ((math.nan, 0, 5, 5), "not a finite number"),
        ((0, 0, math.inf, 5), "not a finite number"),
    ],
)
def test_boxes_that_do_not_fit(corners: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fitted_box(corners, (100, 50))


def test_lines_are_read_in_order_and_blank_ones_left_out() -> None:
    text = "1 0.5 0.5 0.2 0.4\r\n\n 0 .25 .5 .5 1 \n"
    boxes, faults = parse_boxes(text, file="a.txt", names=NAMES, size=(100, 50))
    assert faults == []
    assert boxes == [
        Annotation(Box(40, 15, 60, 35), "scratch"),
        Annotation(Box(0, 0, 50, 50), "residue"),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 .5 .5 .1 .1", "class index 2, where the known ones are 0 to 1"),
        ("-1 .5 .5 .1 .1", "class index -1"),
        ("1.0 .5 .5 .1 .1", "class index '1.0' is not a whole number"),
        ("scratch .5 .5 .1 .1", "class index 'scratch' is not a whole number"),
        ("1 .5 .5 .1", "4 fields instead of the 5"),
        ("1 .5 .5 .1 .1 .9", "6 fields instead of the 5"),
        ("1 .5 .5 .1 x", "'x' is not a number"),
        ("1 .5 .5 nan .1", "'nan' is not a finite number"),
        ("1 .5 inf .1 .1", "'inf' is not a finite number"),
        ("1 .5 .5 -.1 .1", "width -0.1 and height 0.1 must be greater than 0"),
        ("1 .5 .5 .1 0", "width 0.1 and height 0 must be greater than 0"),
        ("1 .99 .5 .1 .1", "outside its image of 100 x 50 pixels"),
        ("1 40 15 20 20", "not shares of the image's size"),
    ],
)
def test_bad_lines_are_named_and_the_good_ones_kept(line: str, message: str) -> None:
    text = f"1 .5 .5 .1 .1\n{line}\n"
    boxes, faults = parse_boxes(text, file="a.txt", names=NAMES, size=(100, 50))
    assert len(boxes) == 1
    [fault] = faults
    assert (fault.file, fault.line) == ("a.txt", 2)
    assert message in fault.problem


def test_an_outline_becomes_the_box_around_it_where_that_is_asked() -> None:
    text = "1 .1 .2 .3 .2 .2 .8"
    boxes, faults = parse_boxes(text, file="a", names=NAMES, size=(100, 50), polygons=True)
    assert faults == []
    assert boxes[0].box.corners == pytest.approx((10, 10, 30, 40))
    assert parse_boxes(text, file="a", names=NAMES, size=(100, 50))[0] == []


SIDES = st.integers(1, 100_000)


@given(SIDES, SIDES, st.data())
def test_a_box_is_read_as_it_was_written_at_any_size(
    width: int, height: int, data: st.DataObject
) -> None:
    xs = sorted(data.draw(st.tuples(*[st.floats(0, width)] * 2)))
    ys = sorted(data.draw(st.tuples(*[st.floats(0, height)] * 2)))
    if xs[1] - xs[0] < 0.01 or ys[1] - ys[0] < 0.01:
        return
    written = Box(xs[0], ys[0], xs[1], ys[1])
    line = box_line(Annotation(written, "scratch"), index=1, size=(width, height))
    [read], faults = parse_boxes(line, file="a", names=NAMES, size=(width, height))
    assert faults == []
    assert read.box.corners == pytest.approx(written.corners, abs=0.001)
