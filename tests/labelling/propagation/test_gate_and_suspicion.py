"""Classes that got worse are seen, and so are boxes that people drew wrong."""

import numpy as np
import pytest

from wafer.datasets.records import Annotation, Box
from wafer.labelling.propagation.gate import compare
from wafer.labelling.propagation.places import Example, Place, Reader, class_scores
from wafer.labelling.propagation.scores import Candidates
from wafer.labelling.propagation.suspicion import suspicions

READER = Reader(("scratch", "particle"), ("scratch", "particle"), frozenset())
TRUE = Box(10, 10, 30, 30)


def candidates(*rows: tuple[Box, float, float]) -> Candidates:
    boxes = np.array([b.corners for b, *_ in rows], np.float32).reshape(-1, 4).repeat(3, axis=0)
    scores = np.array([s for _, *s in rows], np.float32).reshape(-1, 2).repeat(3, axis=0)
    return Candidates(boxes, scores, np.tile(np.arange(3, dtype=np.uint8), len(rows)))


def examples(score: float, wrong: float) -> list[Example]:
    truth = (Annotation(TRUE, "scratch"),)
    return [
        Example(str(n), candidates((TRUE, score, 0.0), (Box(60, 60, 80, 80), wrong, 0.0)), truth)
        for n in range(30)
    ]


def test_a_class_that_got_worse_is_harmed_and_one_that_did_not_is_not() -> None:
    good, bad = examples(0.9, 0.1), examples(0.1, 0.9)
    scratch, particle = compare(good, bad, READER, seed=0)
    assert (scratch.before, scratch.after) == (pytest.approx(1.0), pytest.approx(0.5))
    assert scratch.harmed
    assert scratch.gain == pytest.approx(-0.5)
    assert (particle.before, particle.harmed) == (None, False)
    assert not compare(good, good, READER, seed=0)[0].harmed
    assert not compare(bad, good, READER, seed=0)[0].harmed


def test_a_single_image_that_got_worse_is_chance() -> None:
    before, after = examples(0.9, 0.1), [*examples(0.9, 0.1)[:29], examples(0.1, 0.9)[29]]
    assert not compare(before, after, READER, seed=0)[0].harmed


def test_rare_classes_are_looked_for_by_any_score() -> None:
    seen = candidates((TRUE, 0.02, 0.6))
    (own,) = READER.clusters(seen, "scratch")
    assert own.score == pytest.approx(0.02, abs=1e-3)
    rare = Reader(READER.names, READER.local, frozenset(["scratch"]))
    (found,) = rare.clusters(seen, "scratch")
    assert found.score == pytest.approx(0.6, abs=1e-3)
    assert class_scores([seen], READER) == pytest.approx(
        {"scratch": 0.02, "particle": 0.6}, abs=1e-3
    )


def place(box: Box, name: str, probability: float) -> Place:
    return Place(box, name, probability, probability, 1.0, 0.0)


SHIFTED = Box(20, 20, 40, 40)  # IoU 1/7


@pytest.mark.parametrize(
    ("places", "kind"),
    [
        ([place(TRUE, "scratch", 0.9)], None),
        ([], None),  # found by nobody: a hard box, but nothing says that it is wrong
        ([place(TRUE, "particle", 0.9)], "swapped"),
        ([place(TRUE, "particle", 0.9), place(TRUE, "scratch", 0.9)], None),
        ([place(SHIFTED, "scratch", 0.9)], "misplaced"),
        ([place(SHIFTED, "scratch", 0.3)], None),
        ([place(TRUE, "scratch", 0.9), place(Box(60, 60, 70, 70), "scratch", 0.8)], "missed"),
        ([place(TRUE, "scratch", 0.9), place(Box(12, 12, 20, 20), "scratch", 0.8)], None),
    ],
)
def test_what_is_suspicious(places: list[Place], kind: str | None) -> None:
    example = Example("a.png", candidates(), (Annotation(TRUE, "scratch"),))
    found = suspicions([example], {"a.png": places})
    assert [each.kind for each in found] == ([] if kind is None else [kind])


def test_planted_errors_come_first() -> None:
    rows, places = [], {}
    for n in range(40):
        image = f"{n:02d}"
        name = "particle" if n in (3, 17, 29) else "scratch"
        rows.append(Example(image, candidates(), (Annotation(TRUE, name),)))
        sure = 0.6 + 0.01 * (n % 30)
        places[image] = [place(TRUE, "scratch", sure), place(TRUE, "particle", 0.05)]
    found = suspicions(rows, places)
    assert {each.image for each in found[:3]} == {"03", "17", "29"}
    assert len(found) == 3
