"""Tables and remarks for people: what they say, and that names are shown as they are."""

from dataclasses import replace

import pytest
from rich.console import Console

from wafer.datasets.classes import ClassTable, DefectClass
from wafer.datasets.records import Annotation, Box, Sample
from wafer.evaluation.records import Detection, Prediction
from wafer.evaluation.remarks import remarks
from wafer.evaluation.results import Evaluation, evaluate
from wafer.evaluation.tables import class_table, percent, summary_table

CLASSES = ClassTable(
    (
        DefectClass(0, "clean", "none"),
        DefectClass(1, "[bold]open[/bold]", killer=True),
        DefectClass(2, "dust"),
    )
)
OPEN = CLASSES.names[1]
BOX = Box(10, 10, 50, 50)


def evaluation(
    rows: list[tuple[str, str, float]], *, boxed: bool = True, split: str = "test"
) -> Evaluation:
    """Evaluate images given as (truth, answer, confidence); each answer is a perfect box."""
    samples, predictions, detections = [], [], []
    for i, (truth, answer, confidence) in enumerate(rows):
        boxes = () if truth == "clean" else (Annotation(BOX, truth),)
        samples.append(Sample(f"{i}", truth, boxes))
        box = None if answer == "clean" else BOX
        predictions.append(Prediction(f"{i}", box, answer, confidence, "auto"))
        if box is not None:
            detections.append(Detection(f"{i}", box, answer, confidence))
    return evaluate(
        samples,
        predictions,
        classes=CLASSES,
        detections=detections if boxed else None,
        sizes={sample.image: (100, 100) for sample in samples},
        model="yolov5n[red]",
        dataset_hash="0" * 64,
        split=split,
        excluded={"excluded_untrusted_boxes": 2},
    )


ROWS = [
    *[(OPEN, OPEN, 0.9)] * 3,
    (OPEN, "clean", 0.8),
    *[("dust", OPEN, 0.9)] * 2,
    ("clean", "clean", 1.0),
]


def printed(table: object, *, width: int = 120) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return [line.rstrip() for line in capture.get().splitlines()]


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (0.0, "0.0"), (1.0, "100.0"), (0.93418, "93.4")]
)
def test_shares_are_shown_in_per_cent(value: float | None, text: str) -> None:
    assert percent(value) == text


def test_the_table_of_classes() -> None:
    lines = printed(class_table(evaluation(ROWS), width=120))
    cells = {line.split()[0]: " ".join(line.split()[1:]) for line in lines if line}
    assert cells["class"] == "images recall 95 % precision 95 % F1 AP50 AP50-95"
    assert cells[OPEN] == "4 75.0 19.4 to 99.4 60.0 14.7 to 94.7 66.7 75.2 75.2"
    assert cells["dust"] == "2 0.0 0.0 to 84.2 - - 0.0 0.0 0.0"
    assert cells["clean"] == "1 100.0 2.5 to 100.0 50.0 1.3 to 98.7 66.7 - -"
    assert len({len(line) for line in lines if line and not line.startswith(" ─")}) <= 2


def test_where_there_is_no_room_names_are_folded_and_no_figure_is_cut() -> None:
    for width in (100, 70, 60, 30):
        lines = printed(class_table(evaluation(ROWS), width=width), width=max(width, 70))
        assert not any("…" in line for line in lines)
        assert lines[1].split()[-2:] == ["AP50", "AP50-95"]
        (row,) = [line for line in lines if line.endswith("66.7   75.2      75.2")]
        assert (" 19.4 to 99.4 " in row) == (width >= 100)
        assert row.startswith(" [bold]op") and OPEN not in row


def test_a_model_without_boxes_has_no_columns_about_boxes() -> None:
    lines = printed(class_table(evaluation(ROWS, boxed=False)))
    assert "AP50" not in "".join(lines)
    summary = "\n".join(printed(summary_table(evaluation(ROWS, boxed=False))))
    assert "mAP" not in summary
    assert "accuracy" in summary


def test_the_table_of_figures() -> None:
    lines = printed(summary_table(evaluation(ROWS, split="all")))
    text = "\n".join(lines)
    for start in (
        "images                      7   yolov5n[red] on all, optimistic: includes training images",
        "accuracy                 57.1   18.4 to 90.1",
        "mean confidence          90.0",
        "weighted accuracy        58.7",
        "decided automatically   100.0   57.1 of them right",
        "killer escape            25.0   of 4 images, at most 75.1",
    ):
        assert f"  {start}" in text


def test_nothing_evaluated_is_a_table_all_the_same() -> None:
    assert any("accuracy" in line for line in printed(summary_table(evaluation([]))))
    assert len(printed(class_table(evaluation([])))) > 3


def test_the_remarks_name_the_mistakes_and_the_limits() -> None:
    assert remarks(evaluation(ROWS, split="all")) == (
        "Optimistic: includes training images. New images will do worse than these figures.",
        "1 of 4 images of killer classes were automatically given a class that is no killer; "
        "with so many images the true escape rate may be up to 75.1 % (one-sided 95 %).",
        f"dust was taken for {OPEN} in 2 of 2 images.",
        f"{OPEN} was taken for clean in 1 of 4 images.",
        "On average the model is too sure: its mean confidence is 90.0 %, its accuracy 57.1 %.",
        "Fewer than 29 images, too few to show a recall of 90 % even without a single error: "
        f"clean (1), {OPEN} (4), dust (2).",
        "Never answered, though there are images of it: dust.",
        "Images left out: untrusted boxes 2.",
    )


def test_images_that_the_model_was_trained_on_are_counted() -> None:
    done = replace(evaluation(ROWS), trained_on=3)
    assert done.optimistic
    assert remarks(done)[0].startswith(
        "Optimistic: 3 of these images, or copies of them, are among"
    )
    assert "the model was trained on 3 of them" in "".join(printed(summary_table(done)))


def test_a_flawless_model_on_many_images_is_left_in_peace() -> None:
    rows = [(name, name, 1.0) for name in CLASSES.names] * 29
    flawless = evaluation(rows)
    assert [line for line in remarks(flawless) if "left out" not in line] == [
        "0 of 29 images of killer classes were automatically given a class that is no killer; "
        "with so many images the true escape rate may be up to 9.8 % (one-sided 95 %)."
    ]
