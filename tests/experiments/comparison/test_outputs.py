"""Tables 1 and 2, with made-up measurements."""

import csv
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from wafer.experiments.comparison.outputs import Comparison, terminal_table
from wafer.experiments.comparison.plan import CLASSIFIERS, SCALES, conditions
from wafer.experiments.comparison.running import Answered, Outcome
from wafer.experiments.comparison.speed import Conditions, Speed, Timing

NAMES = (*CLASSIFIERS, "yolov5n")
IMAGES = tuple(f"{i}.png" for i in range(100))


def answered(right: int, *, first: int = 0) -> Answered:
    """Right about so many images from a first one on."""
    correct = np.zeros(100, np.bool_)
    correct[first : first + right] = True
    metrics = {
        "n": 100,
        "accuracy": right / 100,
        "accuracy_interval": [right / 100 - 0.05, min(1.0, right / 100 + 0.05)],
        "weighted_accuracy": right / 100,
        "mean_confidence": 0.8,
        "macro_f1": 0.7,
        "ece": 0.1,
        "auto_rate": 0.6,
        "auto_accuracy": 0.9,
        "coverage_at_accuracy": {"0.95": 0.5, "0.98": 0.25, "0.99": 0.125},
        "killer_images": 40,
        "killer_escape": 0.025,
        "killer_escape_upper": 0.11,
    }
    return Answered(IMAGES, correct, np.full(100, 0.8), metrics)


def speed(milliseconds: float, processor: str = "A <b>") -> Speed:
    one, many = Timing(milliseconds, milliseconds + 1, 9), Timing(milliseconds / 2, 7.0, 5)
    small = Timing(0.5, 0.6, 9)
    return Speed(
        load=small,
        preprocess=small,
        model=one,
        total=Timing(milliseconds + 1, milliseconds + 2, 9),
        batches={1: one, 16: many},
        source_size=680,
        bytes=12_345_678,
        conditions=Conditions(256, processor, 2, "cpu"),
    )


def outcome(
    folder: Path,
    name: str,
    *,
    val: int | None = None,
    test: int | None = None,
    first: int = 0,
    epochs: int = 12,
    milliseconds: float | None = None,
) -> Outcome:
    run = folder / "runs" / name / f"{name}-001"
    (run / "test").mkdir(parents=True)
    Image.new("L", (8, 8)).save(run / "test" / "confusion_top1.png")
    given: dict[str, Answered] = {}
    if val is not None and test is not None:
        given = {"val": answered(val), "test": answered(test, first=first)}
    if name not in CLASSIFIERS and given:
        given["train"] = answered(100)
    told: dict[str, Any] = {"pretrained": None, "epochs": 12, "batch": 16, "image_size": 160}
    return Outcome(
        name=name,
        run=run,
        arguments=told,
        epochs=epochs,
        stopped=epochs < 12,
        answers=given,
        intervals={"ece": (0.05, 0.15), "weighted_accuracy": (0.7, 0.9)} if given else {},
        speed=None if milliseconds is None else speed(milliseconds),
    )


def comparison(folder: Path, *outcomes: Outcome, table: int = 1) -> Comparison:
    return Comparison(
        folder=folder,
        table=table,
        scale=SCALES["cpu"],
        names=NAMES,
        settings=conditions(SCALES["cpu"], None),
        notes=("no image of class a|b<script> in val",),
        synthetic=True,
        outcomes=outcomes,
    )


@pytest.fixture
def whole(tmp_path: Path) -> Comparison:
    """All nine; resnet50 is best on val, mlp on test; inception_v3 ran out of epochs."""
    val = [80, 90, 70, 20, 85, 60, 60, 50, 75]
    test = [80, 85, 70, 20, 85, 60, 60, 95, 75]
    made = [
        outcome(
            tmp_path,
            name,
            val=val[i],
            test=test[i],
            first=5 if name == "efficientnet_lite0" else 0,
            epochs=12 if name == "inception_v3" else 9,
            milliseconds=10.0 + i,
        )
        for i, name in enumerate(NAMES)
    ]
    return comparison(tmp_path, *reversed(made))


def test_a_row_has_what_was_measured_beside_what_was_published(whole: Comparison) -> None:
    rows = json.loads(json.dumps(whole.rows(), allow_nan=False))
    assert [row["model"] for row in rows] == list(NAMES)
    wanted = {
        "model": "inception_v3",
        "accuracy": 0.8,
        "weighted_accuracy": 0.8,
        "mean_confidence": 0.8,
        "macro_f1": 0.7,
        "ece": 0.1,
        "ece_interval": [0.05, 0.15],
        "epochs": 12,
        "published_weighted_accuracy": 0.9832,
        "published_mean_confidence": 0.9945,
        "remark": "from scratch, not converged",
        "image_size": 160,
        "paper_epochs": 50,
        "share_at_0.98": 0.25,
        "killer_escape": 0.025,
        "run": "runs/inception_v3/inception_v3-001",
    }
    assert {key: rows[0][key] for key in wanted} == wanted
    assert (rows[1]["remark"], rows[7]["remark"]) == ("from scratch", "")
    detector = rows[8]
    assert (detector["published_weighted_accuracy"], detector["seen_mean_confidence"]) == (
        0.976,
        pytest.approx(0.8),
    )
    # 100 of 100 right in training and 75 of 100 in validation, all as sure
    assert detector["seen_weighted_accuracy"] == pytest.approx(0.875)


def test_each_model_is_compared_with_the_best_on_val_image_by_image(whole: Comparison) -> None:
    assert whole.best is not None
    assert whole.best.name == "resnet50"
    rows = {row["model"]: row for row in whole.rows()}
    assert rows["resnet50"]["difference_to_best"] is None
    lite0 = rows["efficientnet_lite0"]
    assert (lite0["only_this_right"], lite0["only_best_right"]) == (5, 5)
    assert (lite0["difference_to_best"], lite0["p_value"]) == (0, 1)
    assert rows["mlp"]["difference_to_best"] == pytest.approx(0.10)
    assert rows["mlp"]["p_value"] < rows["mlp"]["p_value_corrected"] < 0.05


def test_the_csv_has_two_columns_for_an_interval(whole: Comparison) -> None:
    whole.write()
    with (whole.folder / "table1.csv").open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["model"] for row in rows] == list(NAMES)
    assert (rows[0]["ece_interval_low"], rows[0]["ece_interval_high"]) == ("0.05", "0.15")
    assert rows[4]["published_weighted_accuracy"] == ""


def test_what_is_not_finished_is_empty(tmp_path: Path) -> None:
    begun = comparison(tmp_path, outcome(tmp_path, "mlp", val=50, test=50))
    begun.write()
    text = (tmp_path / "table1.md").read_text(encoding="utf-8")
    assert "1 of 9 models are finished." in text
    assert "| mlp | 160 | 12 (20) | 50.0 | 45.0 to 55.0 | - | 0.5000 | - | 0.8000 | 70.0 |" in text
    assert "| inception_v3 | - | - (50) | - | - | 0.9832 | - | 0.9945 | - | - | - | - |  |" in text
    assert begun.rows(2)[0]["model_ms"] is None


def test_table_2_has_times_and_sizes(whole: Comparison) -> None:
    second = replace(whole, table=2)
    second.write()
    text = (whole.folder / "table2.md").read_text(encoding="utf-8")
    assert (
        "| efficientnet_b3 | 765.613 s, GPU | 0.5 | 0.5 | 12.0 | 13.0 | 13.0 | 14.0 | 16 | 6.0 | "
        "7.0 | 12.3 |"
    ) in text
    row = json.loads(json.dumps(second.rows()))[2]
    assert (row["best_batch"], row["best_batch_ms"], row["bytes"]) == (16, 6.0, 12_345_678)
    assert not (whole.folder / "table1.md").exists()
    assert "* Timed on A <b>, 2 threads, inputs of 256 px." in text
    moved = replace(second.outcomes[0], speed=speed(5.0, "another"))
    replace(second, outcomes=(moved, *second.outcomes[1:])).write()
    text = (whole.folder / "table2.md").read_text(encoding="utf-8")
    assert "* Timed on another, 2 threads, inputs of 256 px: yolov5n." in text
    assert "* Timed on A <b>, 2 threads, inputs of 256 px: inception_v3, resnet50," in text


def test_the_page_has_both_tables_and_needs_nothing_else(
    whole: Comparison, page_of: Callable[[str], Any]
) -> None:
    whole.write_page()
    page = page_of(whole.page.read_text(encoding="utf-8"))
    assert [source.partition(";")[0] for source in page.sources] == ["data:image/png"]
    assert "script" not in page.tags
    for text in (
        "a|b<script>",
        "Timed on A <b>, 2 threads, inputs of 256 px.",
        "The images are synthetic",
        "Table 1: what they answer",
        "Table 2: how long they take",
        "HOG and a perceptron rise above 83 % precision",
        "resnet50 on test",
        "0.9832",
        "1421.05 s, GPU",
    ):
        assert text in page.words


def test_the_page_shows_only_the_table_that_is_there(
    tmp_path: Path, page_of: Callable[[str], Any]
) -> None:
    comparison(tmp_path, outcome(tmp_path, "mlp", milliseconds=3.0), table=2).write_page()
    words = page_of((tmp_path / "report.html").read_text(encoding="utf-8")).words
    assert "Table 2: how long" in words
    assert "Table 1: what" not in words


@pytest.mark.parametrize("table", [1, 2])
def test_the_tables_fit_into_a_terminal_of_80_columns(whole: Comparison, table: int) -> None:
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(terminal_table(replace(whole, table=table)))
    text = console.export_text()
    assert "…" not in text
    line = next(line for line in text.splitlines() if line.startswith("efficientnet_b7"))
    numbers = re.findall(r"[\d.]+", line)[1:]  # not that of its name
    expected = {
        1: ["9", "20.0", "0.966", "0.200", "0.992", "0.800", "70.0", "10.0"],
        2: ["1421.05", "0.5", "0.5", "13.0", "14.0", "16", "6.5", "12.3"],
    }
    assert numbers == expected[table]
