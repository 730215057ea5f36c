"""What is accepted: never an image with a doubtful box, never one without a box."""

import itertools
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wafer.datasets.records import Annotation, Box
from wafer.labelling.propagation.calibration import calibration_error, fit_calibrator
from wafer.labelling.propagation.decisions import (
    Judged,
    assess,
    contradiction,
    decide_image,
    exactly_right,
    thresholds,
)
from wafer.labelling.propagation.places import Place, all_places, fused_places, matched

NAMES = ("scratch", "particle")


def place(x: float, probability: float, name: str = "scratch") -> Place:
    return Place(Box(x, 0, x + 10, 10), name, probability, probability, 1.0, 0.0)


def decide(*places: Place, **changes: object) -> object:
    given = {
        "image_class": "scratch",
        "probability": 0.95,
        "limits": {"scratch": 0.9, "particle": 0.8},
        "drawn": frozenset(NAMES),
        "other": None,
        **changes,
    }
    return decide_image("a.png", all_places([places]), **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("places", "changes", "reason"),
    [
        ([place(0, 0.9)], {}, ""),
        ([place(0, 0.9), place(30, 0.05)], {}, ""),
        ([place(0, 0.9), place(30, 0.2)], {}, "a doubtful box"),
        ([place(0, 0.9), place(1, 0.2, "particle")], {"image_class": None}, "a doubtful box"),
        ([place(0, 0.9), place(1, 0.7, "particle")], {"image_class": None}, "a doubtful box"),
        ([place(20 * k, 0.9) for k in range(19)], {}, ""),
        ([place(20 * k, 0.9) for k in range(20)], {}, "more boxes than are looked for"),
        ([], {}, "no box found"),
        ([], {"image_class": None}, "no box found"),
        ([place(0, 0.05)], {}, "no box found"),
        ([place(0, 0.9, "particle")], {}, "no box found"),
        ([place(0, 0.9)], {"probability": 0.85}, "below the threshold of its class"),
        ([place(0, 0.9)], {"limits": {}}, "the teachers do not know this class well enough"),
        ([place(0, 0.9)], {"other": ("particle", 0.7)}, "the class may be wrong"),
        ([place(0, 0.9)], {"drawn": frozenset(("particle",))}, "no box of this class was drawn"),
        (
            [place(0, 0.9, "particle"), place(30, 0.9)],
            {"image_class": None, "probability": 0.85},
            "below the threshold of its class",
        ),
    ],
)
def test_why_an_image_goes_to_a_person(
    places: list[Place], changes: dict[str, object], reason: str
) -> None:
    decision = decide(*places, **changes)
    assert (decision.reason, decision.accepted) == (reason, not reason)  # type: ignore[attr-defined]


PLACES = st.lists(
    st.tuples(st.floats(0, 200), st.floats(0, 1), st.sampled_from(NAMES)).map(lambda t: place(*t)),
    max_size=6,
)


@given(places=PLACES, known=st.booleans(), probability=st.floats(0, 1))
def test_no_doubtful_place_and_no_empty_image_is_ever_accepted(
    places: list[Place], known: bool, probability: float
) -> None:
    decision = decide(*places, image_class="scratch" if known else None, probability=probability)
    if decision.accepted:  # type: ignore[attr-defined]
        boxes = decision.boxes  # type: ignore[attr-defined]
        assert boxes
        assert all(p in boxes or p.probability <= 0.1 for p in places)


def test_the_chance_of_an_image_is_the_product_over_its_places() -> None:
    found = assess([place(0, 0.8), place(30, 0.6), place(60, 0.3)])
    assert [p.box.xmin for p in found.boxes] == [0, 30]
    assert [p.box.xmin for p in found.doubtful] == [60]
    assert found.chance == pytest.approx(0.8 * 0.6 * 0.7)


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([place(0, 1), place(30, 1)], True),
        ([place(30, 1), place(3, 1)], True),  # IoU 7 / 13
        ([place(0, 1), place(36, 1)], False),
        ([place(0, 1)], False),
        ([place(0, 1), place(30, 1), place(60, 1)], False),
        ([place(0, 1), place(30, 1, "particle")], False),
        ([place(0, 1), place(1, 1)], False),
    ],
)
def test_an_image_is_right_when_every_box_is(boxes: list[Place], expected: bool) -> None:
    truth = [Annotation(Box(x, 0, x + 10, 10), "scratch") for x in (0, 30)]
    assert exactly_right(boxes, truth) is expected


@given(boxes=PLACES, truth=PLACES)
def test_each_true_box_is_found_once_and_at_half_overlap(
    boxes: list[Place], truth: list[Place]
) -> None:
    found = matched([p.box for p in boxes], [p.box for p in truth])
    hits = [index for index in found if index is not None]
    assert len(hits) == len(set(hits))
    for p, index in zip(boxes, found, strict=True):
        if index is not None:
            assert p.box.iou(truth[index].box) >= 0.5


def judged(name: str, probability: float, right: bool, number: int) -> list[Judged]:
    return [Judged(f"{name}{k}", name, probability, True, right) for k in range(number)]


def test_a_threshold_is_where_enough_of_a_class_is_right() -> None:
    drawn = [
        *judged("scratch", 0.9, True, 20),
        *judged("scratch", 0.5, False, 10),
        *judged("particle", 0.9, True, 20),
    ]
    found = thresholds(drawn, names=(*NAMES, "crazing"), promise=0.9)
    assert found["scratch"] == 0.9
    assert found["crazing"] is None
    bad = [*drawn, *judged("crazing", 0.95, False, 10), *judged("crazing", 0.95, True, 10)]
    assert thresholds(bad, names=("crazing",), promise=0.9)["crazing"] is None


def test_an_image_less_likely_than_all_drawn_ones_is_not_accepted_unseen() -> None:
    drawn = [*judged("scratch", 0.9, True, 20), *judged("particle", 0.7, True, 20)]
    assert thresholds(drawn, names=NAMES, promise=0.9) == {"scratch": 0.7, "particle": 0.7}


def test_few_drawn_images_give_no_threshold() -> None:
    assert thresholds(judged("scratch", 0.9, True, 7), names=NAMES, promise=0.9) == {
        "scratch": None,
        "particle": None,
    }


@pytest.mark.parametrize(
    ("scores", "expert", "expected"),
    [
        ({"scratch": 0.05, "particle": 0.8}, "scratch", ("particle", 0.8)),
        ({"scratch": 0.15, "particle": 0.8}, "scratch", None),
        ({"scratch": 0.05, "particle": 0.4}, "scratch", None),
        ({"scratch": 0.05, "particle": 0.8}, None, None),
        ({"scratch": 0.05, "particle": 0.8}, "none", ("particle", 0.8)),
    ],
)
def test_a_class_that_the_teachers_contradict(
    scores: dict[str, float], expert: str | None, expected: tuple[str, float] | None
) -> None:
    assert contradiction(scores, expert) == expected


def test_teachers_that_miss_a_box_make_it_less_likely() -> None:
    (fused,) = fused_places([[place(0, 0.9)], [place(1, 0.6)], []])
    assert fused.probability == pytest.approx(0.5)
    assert fused.votes == pytest.approx(2 / 3)
    assert 0 < fused.box.xmin < 1
    assert fused_places([[], []]) == ()
    lone = [place(0, 0.2), place(30, 0.4)]
    assert fused_places([lone]) == (lone[1], lone[0])


def test_probabilities_are_those_of_the_examples() -> None:
    random_ = np.random.default_rng(0)
    features = random_.normal(size=(4000, 2))
    classes = random_.integers(0, 2, 4000)
    truth = random_.random(4000) < 1 / (1 + np.exp(-(2 * features[:, 0] + classes - 0.5)))
    half = slice(0, 2000)
    fitted = fit_calibrator(features[half], classes[half], truth[half].tolist(), number=3)
    answers = fitted.probabilities(features[2000:], classes[2000:])
    error = calibration_error(answers.tolist(), truth[2000:].tolist())
    assert error is not None
    assert error < 0.04


@pytest.mark.parametrize(
    ("right", "expected"), [([], 0.0), ([False] * 5, 0.0), ([True] * 5, 5.5 / 6)]
)
def test_a_teacher_that_finds_nothing_or_everything(right: list[bool], expected: float) -> None:
    fitted = fit_calibrator(np.zeros((len(right), 2)), np.zeros(len(right), int), right, number=1)
    assert fitted.probabilities(np.ones((3, 2)), np.zeros(3, int)) == pytest.approx([expected] * 3)


def test_thresholds_keep_the_promise_on_other_images_of_like_teachers() -> None:
    """Simulated teachers. It is an estimate, and fails now and then: hence the audit."""
    kept = []
    for seed in range(30):
        draw = random.Random(seed)

        def image(number: int, draw: random.Random = draw) -> Judged:
            probability = draw.random()
            right = draw.random() < probability
            return Judged(str(number), NAMES[number % 2], probability, True, right)

        limits = thresholds([image(k) for k in range(120)], names=NAMES, promise=0.8)
        pool = [image(k) for k in range(2000)]
        for name, limit in limits.items():
            if limit is None:
                continue
            accepted = [j for j in pool if j.class_name == name and j.probability >= limit]
            kept.append(sum(j.right for j in accepted) >= 0.8 * len(accepted))
    assert len(kept) >= 40
    assert sum(kept) / len(kept) >= 0.8


def test_order_of_judged_images_does_not_matter() -> None:
    drawn = [*judged("scratch", 0.9, True, 12), *judged("particle", 0.4, False, 4)]
    first = thresholds(drawn, names=NAMES, promise=0.9)
    assert all(
        thresholds(list(order), names=NAMES, promise=0.9) == first
        for order in itertools.islice(itertools.permutations(drawn, 16), 3)
    )
