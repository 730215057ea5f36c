"""What a person said of an image counts in later runs."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from wafer.datasets.ledger import Decision, Entry
from wafer.datasets.records import Annotation, Box, Sample
from wafer.labelling.propagation.decisions import ImageDecision
from wafer.labelling.propagation.outcome import queue_items, rejected_by_person
from wafer.labelling.propagation.places import Place
from wafer.labelling.propagation.suspicion import Suspicion
from wafer.labelling.verdicts import UNDO, WRONG


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


def said(decision: Decision, note: str | None = None, *, x: float = 0) -> tuple[Entry, ...]:
    """One revision of one box."""
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
        box=(x, 0, x + 10, 10),
        class_name="scratch",
        source="model",
        note=note,
    )
    return (entry,)


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
    assert rejected_by_person(accepted(x, name), [said(decision)]) is expected
    assert not rejected_by_person(accepted(x, name), [])


@pytest.mark.parametrize(
    ("x", "note", "expected"),
    [(0, WRONG, True), (6, WRONG, False), (0, "its class failed an audit", False)],
)
def test_boxes_that_an_audit_found_wrong_do_not_come_back(
    x: float, note: str, expected: bool
) -> None:
    found = [said("withdrawn", note)]
    assert rejected_by_person(accepted(x, "scratch"), found) is expected


def test_one_box_more_than_an_audit_found_wrong_may_be_right() -> None:
    decision = accepted(0, "scratch")
    more = replace(decision, boxes=(*decision.boxes, *accepted(50, "scratch").boxes))
    assert not rejected_by_person(more, [said("withdrawn", WRONG)])


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ([said("withdrawn", WRONG), said("accepted", x=50)], True),
        ([said("rejected"), said("accepted", x=50), said("withdrawn", x=50)], True),
        ([said("rejected"), said("confirmed")], False),
        ([said("rejected"), said("accepted", UNDO)], False),
        ([said("rejected"), said("accepted", UNDO), said("rejected", UNDO)], True),
        ([said("withdrawn", WRONG), said("confirmed"), said("withdrawn", UNDO)], True),
    ],
)
def test_what_a_person_said_counts_until_she_says_something_else(
    history: list[tuple[Entry, ...]], expected: bool
) -> None:
    assert rejected_by_person(accepted(0, "scratch"), history) is expected


def test_all_doubts_about_an_image_are_one_item_the_strongest_first() -> None:
    drawn = Annotation(Box(0, 0, 10, 10), "scratch")
    sample = Sample("a.png", "scratch", (drawn,), split="train")
    missed, swapped = (
        Place(Box(x, 0, x + 10, 10), "particle", 0.9, probability, 1.0, 0.0)
        for x, probability in ((60, 0.97), (0, 0.55))
    )
    found = [
        Suspicion("a.png", "missed", 0.97, None, missed),
        Suspicion("a.png", "swapped", 0.55, drawn, swapped),
    ]
    roles = SimpleNamespace(people=(sample,), empty=())
    result = SimpleNamespace(decisions=(), contradicted=())
    (item,) = queue_items(result, roles, found, {}, small=frozenset())  # type: ignore[arg-type]
    assert item.reason == "a defect may have been missed, and 1 more"
    assert [c.box[0] for c in item.candidates] == [60, 0]
    assert item.drawn == (0, 0, 10, 10)
    assert item.probability == pytest.approx(0.03)
