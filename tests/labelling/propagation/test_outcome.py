"""What a person said of an image counts in later runs."""

from dataclasses import replace

import pytest

from wafer.datasets.ledger import Decision, Entry, ImageState
from wafer.datasets.records import Box
from wafer.labelling.propagation.decisions import ImageDecision
from wafer.labelling.propagation.outcome import rejected_by_person
from wafer.labelling.propagation.places import Place
from wafer.labelling.verdicts import WRONG


def accepted(x: float, name: str) -> ImageDecision:
    place = Place(Box(x, 0, x + 10, 10), name, 0.9, 0.9, 1.0, 0.0)
    return ImageDecision(
        image="a.png",
        image_class=name,
        class_name=name,
        accepted=True,
        reason="",
        boxes=(place,),
        places=(place,),
        probability=0.9,
        threshold=0.8,
    )


def state(decision: Decision, note: str | None = None) -> ImageState:
    entry = Entry(
        number=1,
        time="2026-01-01T00:00:00.000+00:00",
        who="Ada",
        image="a.png",
        image_sha256="0" * 64,
        size=(100, 100),
        revision=2,
        part=0,
        parts=1,
        decision=decision,
        box=(0, 0, 10, 10),
        class_name="scratch",
        source="model",
        note=note,
    )
    return ImageState("a.png", 2, (entry,), None)


@pytest.mark.parametrize(
    ("x", "name", "decision", "expected"),
    [
        (0, "scratch", "rejected", True),
        (3, "scratch", "rejected", True),  # IoU 7 / 13
        (6, "scratch", "rejected", False),
        (0, "particle", "rejected", False),
        (0, "scratch", "withdrawn", False),
        (0, "scratch", "accepted", False),
    ],
)
def test_a_box_that_a_person_rejected_is_not_offered_as_a_label_again(
    x: float, name: str, decision: Decision, expected: bool
) -> None:
    assert rejected_by_person(accepted(x, name), {"a.png": state(decision)}) is expected
    assert not rejected_by_person(accepted(x, name), {})


@pytest.mark.parametrize(
    ("x", "note", "expected"),
    [(0, WRONG, True), (6, WRONG, False), (0, "its class failed an audit", False)],
)
def test_boxes_that_an_audit_found_wrong_do_not_come_back(
    x: float, note: str, expected: bool
) -> None:
    found = {"a.png": state("withdrawn", note)}
    assert rejected_by_person(accepted(x, "scratch"), found) is expected


def test_one_box_more_than_an_audit_found_wrong_may_be_right() -> None:
    decision = accepted(0, "scratch")
    more = replace(decision, boxes=(*decision.boxes, *accepted(50, "scratch").boxes))
    assert not rejected_by_person(more, {"a.png": state("withdrawn", WRONG)})
