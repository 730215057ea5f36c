"""The draw for calibration and the gate: what moved, and where it is too much."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wafer.datasets.classes import ClassTable, DefectClass
from wafer.datasets.errors import WeightsError
from wafer.datasets.records import Annotation, Box, Sample
from wafer.datasets.workspace import Workspace
from wafer.detector.quantising import calibration_draw, quantise_network, shift_between
from wafer.evaluation.calibration import Answer
from wafer.evaluation.records import Prediction
from wafer.inference.records import Predictor

CLASSES = ClassTable(
    (
        DefectClass(1, "common"),
        DefectClass(2, "rare", killer=True),
        DefectClass(0, "clean", "none"),
    )
)


def samples_of(split: str, counts: dict[str, int]) -> list[Sample]:
    return [
        Sample(f"{split}-{name}-{i}.png", image_class=name, split=split)  # type: ignore[arg-type]
        for name, number in counts.items()
        for i in range(number)
    ]


TRAINING = samples_of("train", {"common": 50, "rare": 2, "clean": 20})


def test_the_draw_has_every_class_and_rare_ones_with_all_they_have() -> None:
    box = Annotation(Box(1, 1, 5, 5), "rare", "human", 1.0)
    others = [
        *samples_of("val", {"rare": 9}),
        *samples_of("test", {"common": 9}),
        Sample("nobody-looked.png", split="train"),
        Sample("no-split.png", image_class="rare"),
    ]
    drawn = calibration_draw([*TRAINING, *others], classes=CLASSES, count=9)
    assert Counter(s.image_class for s in drawn) == {"clean": 4, "common": 3, "rare": 2}
    assert {s.split for s in drawn} == {"train"}
    boxed = Sample("boxed.png", annotations=(box,), split="train")
    looked = Sample("looked.png", annotations=(), split="train")
    assert set(calibration_draw([boxed, looked], classes=CLASSES)) == {boxed, looked}


def test_the_draw_is_that_of_its_seed_whatever_the_order() -> None:
    first = calibration_draw(TRAINING, classes=CLASSES, count=20, seed=3)
    assert calibration_draw(TRAINING[::-1], classes=CLASSES, count=20, seed=3) == first
    assert calibration_draw(TRAINING, classes=CLASSES, count=20, seed=4) != first
    assert len(set(calibration_draw(TRAINING, classes=CLASSES))) == len(TRAINING)


@given(
    counts=st.fixed_dictionaries({name: st.integers(1, 30) for name in CLASSES.names}),
    seed=st.integers(0, 99),
    count=st.integers(3, 40),
)
def test_no_class_has_more_than_another_that_has_images_left(
    counts: dict[str, int], seed: int, count: int
) -> None:
    drawn = Counter(
        s.image_class
        for s in calibration_draw(
            samples_of("train", counts), classes=CLASSES, count=count, seed=seed
        )
    )
    assert drawn.total() == min(count, sum(counts.values()))
    for name in CLASSES.names:
        assert drawn[name] == counts[name] or drawn[name] >= max(drawn.values()) - 1


def said(names: Sequence[str], *, review: Sequence[int] = ()) -> list[Prediction]:
    """Return answers with these classes, automatic but for some positions."""
    return [
        Prediction(f"{i}.png", None, name, 0.9, "review" if i in review else "auto")
        for i, name in enumerate(names)
    ]


def answered(images: int, name: str, wrong: int) -> list[Prediction]:
    return said(["clean"] * wrong + [name] * (images - wrong))


@pytest.mark.parametrize(
    ("wrong_f32", "wrong_int8", "passes"),
    [
        (0, 0, True),
        (0, 1, True),  # 0.5 points of 200 images, and 99.5 % the same
        (0, 2, False),
        (1, 0, True),  # recall may rise
        (2, 0, False),  # but so many answers may not differ
    ],
)
def test_the_limits_belong_to_what_passes(wrong_f32: int, wrong_int8: int, passes: bool) -> None:
    shift = shift_between(
        ["common"] * 200,
        answered(200, "common", wrong_f32),
        answered(200, "common", wrong_int8),
        classes=CLASSES,
    )
    assert shift.recall_loss == (wrong_int8 - wrong_f32) / 200
    assert shift.overall.agreement == 1 - abs(wrong_int8 - wrong_f32) / 200
    assert shift.passes == passes


def test_a_rare_class_is_not_outvoted_by_a_frequent_one() -> None:
    truth = ["common"] * 990 + ["rare"] * 10
    shift = shift_between(truth, said(truth), said([*truth[:-1], "common"]), classes=CLASSES)
    assert shift.overall.agreement == 0.999
    assert not shift.passes


def test_an_answer_is_another_one_where_nobody_looks_any_more() -> None:
    truth = ["clean"] * 100
    before, after = said(truth, review=[7]), said(truth)
    shift = shift_between(truth, before, after, classes=CLASSES)
    assert (shift.recall_loss, shift.overall.agreement, shift.passes) == (0.0, 0.99, False)


@pytest.mark.parametrize(
    ("f32", "int8", "escapes", "passes"),
    [
        (("clean", "review"), ("clean", "auto"), (0, 1), False),
        (("clean", "auto"), ("clean", "auto"), (1, 1), True),
        (("clean", "auto"), ("clean", "review"), (1, 0), True),
        (("common", "review"), ("common", "auto"), (0, 1), False),
        (("rare", "auto"), ("rare", "review"), (0, 0), True),
    ],
)
def test_no_killer_is_let_through_however_many_images_there_are(
    f32: tuple[str, str], int8: tuple[str, str], escapes: tuple[int, int], passes: bool
) -> None:
    truth = ["common"] * 989 + ["rare"] * 11
    before, after = (
        said([*truth[:-1], name], review=[999] if decision == "review" else [])
        for name, decision in (f32, int8)
    )
    shift = shift_between(truth, before, after, classes=CLASSES)
    rare = shift.classes[1]
    assert (rare.escapes_f32, rare.escapes_int8) == escapes
    assert shift.overall.agreement >= 0.999
    assert shift.passes == passes
    assert shift.table().splitlines()[2].endswith("*") == (not passes)


TABLE = """\
  class   images   recall f32  recall int8    agreement
  clean        2        100.0        100.0        100.0
  common       4         75.0         75.0         75.0
  rare         2        100.0         50.0         50.0 *
  all          8         87.5         75.0         75.0 *"""


def doctored() -> tuple[list[str], list[Prediction], list[Prediction]]:
    truth = ["clean"] * 2 + ["common"] * 4 + ["rare"] * 2
    f32 = ["clean"] * 2 + ["rare", "common", "common", "common"] + ["rare"] * 2
    int8 = ["clean"] * 2 + ["clean", "common", "common", "common"] + ["rare", "common"]
    return truth, said(f32), said(int8)


def test_the_table_marks_what_moved_too_far() -> None:
    assert shift_between(*doctored(), classes=CLASSES).table() == TABLE


def run_gate(samples: Sequence[Sample], folder: Path) -> None:
    workspace = Workspace(root=folder, images=folder, classes=CLASSES)
    predictor = Predictor(
        model="m",
        engine=None,  # type: ignore[arg-type]
        classes=CLASSES,
        decide=lambda score, name, box: Answer(name, box, score, "auto", ""),
        image_size=32,
        colour=False,
        white_level=255,
    )
    quantise_network(
        folder / "f32.xml",
        folder / "int8.xml",
        workspace=workspace,
        samples=samples,
        predictor=predictor,
        may_be_int8=lambda name: True,
    )


@pytest.mark.parametrize(
    ("validation", "missing"),
    [({"clean": 2}, "none of common, rare;"), ({}, "none of common, rare, clean;")],
)
def test_a_class_that_nothing_vouches_for_is_named(
    tmp_path: Path, validation: dict[str, int], missing: str
) -> None:
    samples = [*TRAINING, *samples_of("val", validation)]
    with pytest.raises(WeightsError, match=missing) as caught:
        run_gate(samples, tmp_path)
    assert "\n" not in str(caught.value)


def test_without_a_training_image_that_can_be_read_it_says_so(tmp_path: Path) -> None:
    samples = [*TRAINING, *samples_of("val", {"common": 1, "rare": 1, "clean": 1})]
    with pytest.raises(WeightsError, match="calibrated on training images of known class"):
        run_gate(samples, tmp_path)
    with pytest.raises(WeightsError, match="has none of common, rare, clean"):
        run_gate([replace(sample, split=None) for sample in samples], tmp_path)
