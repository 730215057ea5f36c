"""Reading what teachers say, on simulated ones whose truth is known."""

from collections import Counter
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest

from wafer.datasets.classes import ClassTable, DefectClass
from wafer.datasets.records import Annotation, Box, Sample
from wafer.labelling.propagation.decisions import exactly_right
from wafer.labelling.propagation.roles import Roles
from wafer.labelling.propagation.rounds import RoundResult, Spoken, decide_pool
from wafer.labelling.propagation.scores import Candidates

NAMES = ("sure", "fair", "hopeless")
SKILL = {"sure": 3.0, "fair": 1.5, "hopeless": -3.0}
TABLE = ClassTable(tuple(DefectClass(k, name) for k, name in enumerate(NAMES)))
SIDE = 200


def say(noise: np.random.Generator, truth: tuple[Annotation, ...]) -> Candidates:
    """Boxes that jump about the more, the lower the score, and some of nothing."""
    rows: list[list[float]] = []
    scores: list[np.ndarray] = []
    views: list[int] = []

    def add(box: tuple[float, ...], column: int, base: float) -> None:
        for number in range(3):
            score = 1 / (1 + np.exp(-(base + noise.normal(0, 0.4))))
            if score > 0.02:
                row = np.full(len(NAMES), 0.01)
                row[column] = score
                rows.append([min(max(v, 0), SIDE) for v in box])
                scores.append(row)
                views.append(number)

    for annotation in truth:
        base = SKILL[annotation.class_name] + noise.normal(0, 1)
        shift = noise.normal(0, 0.12 * np.exp(-0.3 * base), 2) * annotation.box.width
        xmin, ymin, xmax, ymax = annotation.box.corners
        moved = (xmin + shift[0], ymin + shift[1], xmax + shift[0], ymax + shift[1])
        if moved[2] > 2 and moved[3] > 2 and moved[0] < SIDE - 2 and moved[1] < SIDE - 2:
            add(moved, NAMES.index(annotation.class_name), base)
    for _ in range(noise.poisson(0.5)):
        x, y = noise.uniform(0, SIDE - 30, 2)
        add((x, y, x + 30, y + 30), int(noise.integers(3)), noise.normal(-2.5, 0.8))
    return Candidates(
        np.array(rows, np.float32).reshape(-1, 4),
        np.array(scores, np.float32).reshape(-1, len(NAMES)),
        np.array(views, np.uint8),
    )


@cache
def simulated(*, with_class: bool) -> tuple[RoundResult, dict[str, tuple[Annotation, ...]]]:
    noise = np.random.default_rng(3)
    truth: dict[str, tuple[Annotation, ...]] = {}
    answers: dict[str, tuple[Candidates, ...]] = {}
    drawn, pool = [], []
    for kind, number in (("d", 20), ("p", 40)):
        for name in NAMES:
            for k in range(number):
                image = f"{kind}-{name}-{k}"
                x, y = noise.uniform(0, SIDE - 50, 2)
                side = noise.uniform(20, 50)
                truth[image] = (Annotation(Box(x, y, x + side, y + side), name),)
                teachers = 1 if kind == "d" else 3
                answers[image] = tuple(say(noise, truth[image]) for _ in range(teachers))
                boxes = truth[image] if kind == "d" else None
                known = name if with_class or kind == "d" else None
                (drawn if kind == "d" else pool).append(Sample(image, known, boxes, split="train"))
    roles = Roles(
        drawn=tuple(drawn),
        empty=(),
        val=(),
        pool=tuple(pool),
        fold={s.image: 0 for s in [*drawn, *pool]},
        folds=3,
        unreadable={"p-sure-0": "cut off"},
        rare=frozenset(),
        exclusive=True,
        notes=(),
    )
    workspace = SimpleNamespace(classes=TABLE)
    result = decide_pool(workspace, roles, Spoken(1, "m", answers), promise=0.9)  # type: ignore[arg-type]
    return result, truth


@pytest.mark.slow
@pytest.mark.parametrize("with_class", [True, False])
def test_good_classes_are_accepted_and_the_hopeless_one_is_not(with_class: bool) -> None:
    result, truth = simulated(with_class=with_class)
    accepted = [d for d in result.decisions if d.accepted]
    right = [exactly_right(d.boxes, truth[d.image]) for d in accepted]
    assert sum(right) >= 0.9 * len(accepted)
    counts = Counter(truth[d.image][0].class_name for d in accepted)
    assert counts["sure"] >= (25 if with_class else 15)
    assert counts["hopeless"] <= 2
    assert len(result.decisions) == 120


def test_probabilities_of_simulated_boxes_are_calibrated() -> None:
    result, _ = simulated(with_class=True)
    assert result.guided.error is not None
    assert result.guided.error < 0.08


def test_an_unreadable_image_and_no_class_without_boxes_are_accepted() -> None:
    result, _ = simulated(with_class=True)
    decisions = {d.image: d for d in result.decisions}
    assert decisions["p-sure-0"].reason == "the image cannot be read: cut off"
    assert all(d.boxes for d in result.decisions if d.accepted)
    assert all(
        p.class_name == d.image_class for d in result.decisions if d.accepted for p in d.boxes
    )
